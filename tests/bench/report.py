"""The rows of a benchmark as a table, what of it meets its goal, and what has become worse; runs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import numpy as np

from tests.bench.figures import ALONE, FIGURES, SCALING, SERIAL, TO_BASE, Figure

RESAMPLES = 2000
ONE = "W4x1"  # the same work for one worker as W4x2 for two

Row = dict[str, Any]


def table(rows: Sequence[Row]) -> str:
    """Return medians over the rounds as a markdown table; ratios are taken within a round."""
    lines = [
        "| | by | measured | ratio, median (95 %) | goal | others | rounds |",
        "|---|---|---|---|---|---|---|",
    ]
    for figure, way in judged(rows):
        mine = [row for row in _measured(rows) if (row["load"], row["way"]) == (figure.load, way)]
        found = ratios(rows, figure, way)
        absolute = _short(median(row["numbers"][figure.number] for row in mine))
        others = median(row["others"] for row in mine)
        lines.append(
            f"| {figure.title} | {way} | {absolute} | {_spread(figure, found)} | {verdict(figure, way, found)} "
            f"| {others:.1f} | {len(mine)} |"
        )
    return "\n".join(lines)


def judged(rows: Sequence[Row]) -> Iterator[tuple[Figure, str]]:
    """Return the figures that were measured, and by which ways."""
    for figure in FIGURES:
        for way in dict.fromkeys(row["way"] for row in _measured(rows) if _has(row, figure)):
            if (figure.beside, way) != (SCALING, SERIAL):  # there is no loop of two workers
                yield figure, way


def ratios(rows: Sequence[Row], figure: Figure, way: str) -> list[float]:
    """Return how a way did beside what the figure is put beside, once per round that has both."""
    mine = _by_round(rows, figure.load, figure.number, way)
    if figure.beside == ALONE:
        return list(mine.values())
    if figure.beside == TO_BASE:
        base = next((row["base"] for row in rows if (row["load"], row["way"]) == (figure.load, way)), way)
        beside = {} if base == way else _by_round(rows, figure.load, figure.number, base)
        return [value / beside[k] for k, value in mine.items() if k in beside]
    if way == SERIAL:
        return []
    if figure.beside == SCALING:
        single = _by_round(rows, ONE, figure.number, way)
        return [single[k] / value / 2 for k, value in mine.items() if k in single]
    serial = _by_round(rows, figure.load, figure.number, SERIAL)
    return [value / (serial[k] / 2) for k, value in mine.items() if k in serial]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return between what the median lies, with 95 % confidence: a bootstrap, the same each time."""
    drawn = np.random.default_rng(0).choice(np.asarray(values, float), (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return float(low), float(high)


def verdict(figure: Figure, way: str, values: Sequence[float]) -> str:
    """Say of each bound of a goal whether it is met: the interval of the median touches it.  "" where there is none."""
    goal = figure.goal(way)
    if goal is None or not values:
        return ""
    sign = ">=" if figure.more_is_better else "<="
    best = interval(values)[figure.more_is_better]
    judged = [(f"{sign} {bound:g}", best, bound) for bound in goal.bounds]
    if goal.worst is not None:
        judged.append((f"worst {sign} {goal.worst:g}", _worst(figure, values), goal.worst))
    return ", ".join(
        f"{text}: {'met' if (value >= bound if figure.more_is_better else value <= bound) else 'missed'}"
        for text, value, bound in judged
    )


def regressions(rows: Sequence[Row], before: Sequence[Row]) -> list[str]:
    """Name what is worse than before, a line each; numbers that stand alone are the machine's as much as ours."""
    lines = []
    for figure, way in judged(rows):
        new, old = ratios(rows, figure, way), ratios(before, figure, way)
        if figure.beside == ALONE or not (new and old):
            continue
        change = median(new) / median(old) - 1
        if (-change if figure.more_is_better else change) > figure.noise:
            lines.append(f"{way} at {figure.title}: {median(new):.2f}, was {median(old):.2f} ({100 * change:+.0f} %)")
    return lines


def _measured(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not row["kill"]]


def _has(row: Row, figure: Figure) -> bool:
    return row["load"] == figure.load and figure.number in row["numbers"]


def _by_round(rows: Sequence[Row], load: str, number: str, way: str) -> dict[int, float]:
    mine = [row for row in _measured(rows) if (row["load"], row["way"]) == (load, way)]
    return {row["round"]: row["numbers"][number] for row in mine}


def _spread(figure: Figure, values: Sequence[float]) -> str:
    if not values or figure.beside == ALONE:
        return ""
    low, high = interval(values)
    worst = f", worst {_worst(figure, values):.2f}" if figure.load == "W8" else ""
    return f"{_short(median(values))} ({_short(low)}..{_short(high)}){worst}"


def _worst(figure: Figure, values: Sequence[float]) -> float:
    return min(values) if figure.more_is_better else max(values)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value < 0.1 else f"{value:.2f}"
