"""What stored values may be, checked before a registry goes on from them: a damaged file is found at the start.

Kinds that are not known here are let through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from zpipe.core.progress import STATES
from zpipe.values.plan import Plan

COUNT_MAX = 2**64 - 1
NUMBER_MAX = 2**70  # of sums over lives


def check_rows(rows: Iterable[tuple[Any, Any, Any]], plan: Plan) -> None:
    """Raise ValueError for the first (kind, key, value) that no registry of this plan has stored."""
    checks = _checks(plan)
    for kind, key, value in rows:
        if type(kind) is not str or type(key) is not str:
            raise ValueError(f"a value of kind {kind!r:.20} has the key {key!r:.20}: both are texts")
        if kind in checks and not checks[kind](key, value):
            raise ValueError(f"{kind} {key!r:.40} is {value!r:.60}")


def _checks(plan: Plan) -> dict[str, Callable[[str, Any], bool]]:
    stages = {str(stage.number) for stage in plan.stages}
    lanes = {str(lane) for stage in plan.stages if stage.role == "source" for lane in stage.lanes}

    def is_place(key: str) -> bool:
        stage, _, slot = key.partition(":")
        return stage in stages and _is_number(slot)

    return {
        "run": _is_of_run,
        "watermark": lambda key, value: key in lanes and _is_watermark(value),
        "complete": lambda key, value: key in lanes,
        "reach": lambda key, value: key in lanes and _is_count(value),
        "worker": lambda key, value: _is_number(key) and _is_worker(value, stages),
        "fence": lambda key, value: is_place(key) and _is_count(value),
        "drain": lambda key, value: is_place(key),
        "wanted": lambda key, value: key in stages and _is_count(value),
        "pinned": lambda key, value: key in stages,
        "suspects": lambda key, value: key in stages and _are_suspects(value),
        "sums": lambda key, value: key in stages and _is_counters(value),
    }


def _is_of_run(key: str, value: Any) -> bool:
    if key == "state":
        return value in STATES
    if key == "error":
        names = ("worker", "error", "detail")
        return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in names)
    return key != "started_s" or _is_finite(value)


def _are_suspects(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, list) and len(row) == 3 and type(row[0]) is type(row[2]) is str and _is_count(row[1])
        for row in value
    )


def _is_watermark(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_count, value))


def _is_worker(value: Any, stages: set[str]) -> bool:
    return (
        isinstance(value, dict)
        and str(value.get("stage")) in stages
        and all(_is_count(value.get(name)) for name in ("stage", "slot", "fence", "pid"))
        and isinstance(value.get("host"), str)
        and (value.get("supervisor", 0) is None or isinstance(value["supervisor"], str))
    )


def _is_counters(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_finite, value.values()))


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= NUMBER_MAX


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= COUNT_MAX


def _is_number(key: str) -> bool:
    return key.isascii() and key.isdigit() and len(key) <= len(str(COUNT_MAX))
