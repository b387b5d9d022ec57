"""The rows of a benchmark as a table, and what has become slower since another one; runs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from tests.bench.relay import ROLES

BASE = "PUSH/PULL"
SLOWER = 0.15  # a ratio that is worse by more than this is a regression; less is noise

Row = dict[str, Any]


def table(rows: Sequence[Row]) -> str:
    """Return medians over the rounds as a markdown table; ratios are taken within a round."""
    lines = [
        "| size | by | items/s | MB/s | to PUSH/PULL (min..max) | us per hop | CPU us per item: "
        "source, stage, sink | others |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for load, way, mine in _groups(rows):
        ratio = ratios(rows, load, way)
        rate = median(row["items_s"] for row in mine)
        cpu = ", ".join(_short(median(row["cpu_us"][role] for row in mine)) for role in ROLES)
        spread = f"{median(ratio):.2f} ({min(ratio):.2f}..{max(ratio):.2f})" if ratio else ""
        others = median(row["others"] for row in mine)
        lines.append(
            f"| {load} | {way} | {rate:,.0f} | {rate * mine[0]['nbytes'] / 1e6:,.0f} | {spread} "
            f"| {_short(median(row['hop_us'] for row in mine))} | {cpu} | {others:.1f} |"
        )
    return "\n".join(lines)


def ratios(rows: Sequence[Row], load: str, way: str) -> list[float]:
    """Return how a way did beside plain sockets, once per round that has both."""
    base = {row["round"]: row["items_s"] for row in rows if (row["load"], row["way"]) == (load, BASE)}
    mine = [row for row in rows if (row["load"], row["way"]) == (load, way)]
    return [row["items_s"] / base[row["round"]] for row in mine if row["round"] in base]


def regressions(rows: Sequence[Row], before: Sequence[Row]) -> list[str]:
    """Name what is slower than before beside plain sockets, a line each."""
    lines = []
    for load, way, _ in _groups(rows):
        new, old = ratios(rows, load, way), ratios(before, load, way)
        if way != BASE and new and old and median(new) < (1 - SLOWER) * median(old):
            lines.append(
                f"{way} at {load}: {median(new):.2f} of {BASE}, was {median(old):.2f} "
                f"({100 * (median(new) / median(old) - 1):+.0f} %)"
            )
    return lines


def _groups(rows: Sequence[Row]) -> Iterator[tuple[str, str, list[Row]]]:
    for load, way in dict.fromkeys((row["load"], row["way"]) for row in rows):
        yield load, way, [row for row in rows if (row["load"], row["way"]) == (load, way)]


def _short(us: float) -> str:
    return f"{us:.2f}" if us < 100 else f"{us:.0f}"
