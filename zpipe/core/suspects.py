"""Items that were running when a worker died: how often, and how.

One that ran alone is counted against; of several that ran together each is to run alone from then on.  Knows the
paths of items; refuses to know processes and what becomes of an item that has had its deaths.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from zpipe.core.requests import NAME_MAX, Refused
from zpipe.values.plan import StagePlan

SUSPECTS_MAX = 1000  # of a stage; beyond that the oldest are forgotten
TOGETHER_MAX = 4096  # items of one call
HOW_MAX = 4096  # characters; how the last worker died, and its last lines behind that

_PATH = re.compile(r"(.*[:.])([0-9]+)(#[0-9a-f]+)?")


class Suspects:
    """The suspects of a run; `stores` gathers what must be kept."""

    def __init__(self, stores: dict[tuple[str, str], Any], stored: Mapping[int, Mapping[str, tuple[int, str]]]) -> None:
        self._of = {stage: dict(rows) for stage, rows in stored.items()}
        self._stores = stores

    def blame(self, stage: StagePlan, items: list[tuple[str, int]], how: str) -> tuple[str, int] | None:
        """Take in what a dead worker was running; return the item that died alone, with its deaths."""
        rows = self._of.setdefault(stage.number, {})
        paths = [path for first, n in items for path in _paths(first, n)]
        alone = paths[0] if len(paths) == 1 else None
        for path in paths:
            deaths, before = rows.pop(path, (0, ""))
            rows[path] = (deaths + 1, how[:HOW_MAX]) if path == alone else (deaths, before)
        while len(rows) > SUSPECTS_MAX:
            del rows[next(iter(rows))]
        if paths:
            self._store(stage)
        return (alone, rows[alone][0]) if alone is not None else None

    def resolve(self, stage: StagePlan, paths: Iterable[str]) -> bool:
        """Forget items that were called and did no harm, or were given up; return whether there were any."""
        rows = self._of.get(stage.number, {})
        found = [path for path in paths if rows.pop(path, None) is not None]
        if found:
            self._store(stage)
        return bool(found)

    def of(self, stage: StagePlan) -> list[list[Any]]:
        """Return what a stage's workers are to know: path, deaths, and how the last worker died, of each."""
        return [[path, deaths, how] for path, (deaths, how) in self._of.get(stage.number, {}).items()]

    def _store(self, stage: StagePlan) -> None:
        self._stores["suspects", str(stage.number)] = self.of(stage) or None


def fate(deaths: int, how: str) -> tuple[str, str]:
    """Return in words what becomes of an item that so many workers died of, and what the last of them said."""
    last, _, said = how.partition("\n")
    times = f"{deaths} times" if deaths > 1 else "once"
    return f"its worker died {times} while running it, the last time: {last}", said


def read_blame(message: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Read what a dead worker was running: [path of the first, how many] of each stretch.  Raises Refused."""
    found = message.get("blame") or []
    if isinstance(found, list | tuple) and len(found) <= TOGETHER_MAX:
        items = [(row[0], row[1]) for row in found if isinstance(row, list | tuple) and len(row) == 2]
        good = all(isinstance(path, str) and type(n) is int and 0 < n <= TOGETHER_MAX for path, n in items)
        if good and len(items) == len(found) and sum(n for _, n in items) <= TOGETHER_MAX:
            return [(path[:NAME_MAX], n) for path, n in items]
    raise Refused(400, f"blame is no list of [path, count] of at most {TOGETHER_MAX} items")


def _paths(first: str, n: int) -> list[str]:
    """Return the paths of `n` items that follow each other."""
    found = _PATH.fullmatch(first)
    if n == 1 or found is None:
        return [first]
    head, number, tail = found[1], int(found[2]), found[3] or ""
    return [f"{head}{number + k}{tail}" for k in range(n)]
