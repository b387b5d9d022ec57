"""The ratios of a benchmark as a picture; needs matplotlib, an extra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.bench.figures import ALONE
from tests.bench.report import Row, interval, judged, ratios


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write a PNG: a line per figure and way, its median with its 95 % interval, and a stroke for each goal."""
    from matplotlib.figure import Figure as Canvas

    found = [
        (figure, way, values)
        for figure, way in judged(rows)
        if figure.beside != ALONE and (values := ratios(rows, figure, way))
    ]
    canvas = Canvas(figsize=(9, 1.2 + 0.3 * len(found)), layout="constrained")
    axes = canvas.subplots()
    for y, (figure, way, values) in enumerate(found):
        middle, (low, high) = median(values), interval(values)
        color = "tab:blue" if way.startswith("zpipe") else "tab:gray"
        axes.errorbar(middle, y, xerr=[[middle - low], [high - middle]], fmt="o", color=color, capsize=3)
        goal = figure.goal(way)
        for bound in goal.bounds if goal else ():
            axes.plot([bound], [y], marker="|", markersize=14, color="tab:red")
    names = [f"{figure.title}{'' if figure.more_is_better else ' (less is better)'}, {way}" for figure, way, _ in found]
    axes.set_yticks(range(len(found)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("ratio to plain sockets (W4: scaling; W8: of ideal); red: goal")
    canvas.savefig(path, dpi=150)
