"""What a run of matrix.toml has committed so far, when, and what it should have in the end.

Shares nothing with the library or the run: the databases are read over connections of its own.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Hashable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

SINKS = ("groups", "fits", "pairs", "ordered")
SIZE = 16  # of a batch


class Sight:
    """Looks at the sinks of one run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = dict.fromkeys(SINKS, 0)
        self.times: dict[str, list[float]] = {sink: [] for sink in SINKS}  # at which more was found
        self._open: dict[str, sqlite3.Connection] = {}

    def look(self, now_s: float) -> None:
        """Take note of which sinks have committed something."""
        for sink in SINKS:
            rows = self._count(sink)
            if rows > self.rows[sink]:
                self.rows[sink] = rows
                self.times[sink].append(now_s)

    def longest(self, from_s: float, to_s: float, *, whole: bool = True) -> float:
        """Return the longest time without a commit at a sink; `whole`: to its end, though that is later."""
        gaps = [0.0]
        for times in self.times.values():
            inside = [from_s, *(t for t in times if from_s <= t < to_s)]
            if whole:
                inside += [t for t in times if t >= to_s][:1]
            gaps += [b - a for a, b in pairwise(inside)]
        return max(gaps)

    def close(self) -> None:
        """Close the databases."""
        for connection in self._open.values():
            connection.close()

    def _count(self, sink: str) -> int:
        try:
            if sink not in self._open:
                database = self.folder / f"{sink}.db"
                if not database.exists():
                    return 0
                uri = f"file:{database}?mode=ro"
                self._open[sink] = sqlite3.connect(uri, uri=True, check_same_thread=False)
            return int(self._open[sink].execute("SELECT max(rowid) FROM items").fetchone()[0] or 0)
        except sqlite3.OperationalError:
            return 0  # the sink is making its table


class Verdict:
    """What the sinks hold, compared with what they should."""

    def __init__(self, folder: Path, count: int) -> None:
        self.expected = self.committed = self.lost = self.twice = 0
        self.faults: list[str] = []
        found = {sink: items_of(folder / f"{sink}.db") for sink in SINKS}
        children = [(n, k) for n in range(count) for k in range(n % 3 + 1)]
        groups = [tuple(map(tuple, children[at : at + SIZE])) for at in range(0, len(children), SIZE)]
        fits, total = [], 0
        for number, group in enumerate(groups, 1):
            total += sum(n + k for n, k in group)
            fits.append((number, total))
        self._compare("groups", (tuple(map(tuple, group)) for group in found["groups"]), groups)
        self._compare("fits", map(tuple, found["fits"]), fits)
        self._compare("pairs", map(tuple, found["pairs"]), [(n, 2 * n) for n in range(count)])
        numbers = [item["n"] for item in found["ordered"]]
        self._compare("ordered", numbers, range(count))
        if numbers != sorted(numbers):
            self.faults.append("ordered: out of order")

    def _compare(self, sink: str, found: Iterable[Hashable], expected: Iterable[Hashable]) -> None:
        seen, wanted = Counter(found), Counter(expected)
        lost, more = wanted - seen, seen - wanted
        self.expected += wanted.total()
        self.committed += seen.total()
        self.lost += lost.total()
        self.twice += more.total()
        for what, items in (("lost", lost), ("too many", more)):
            if items:
                self.faults.append(f"{sink}: {items.total()} {what}, first {next(iter(items))}")


def items_of(database: Path) -> list[Any]:
    """Return the items of a sink in the order in which it has stored them."""
    if not database.exists():
        return []
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return [json.loads(item) for (item,) in connection.execute("SELECT item FROM items ORDER BY rowid")]
    except sqlite3.OperationalError:  # its sink has not come so far
        return []
    finally:
        connection.close()
