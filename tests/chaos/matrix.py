"""The matrix of targets, faults and moments: which cells there are, and the table of what came of them."""

from __future__ import annotations

import os
import random
import statistics
from collections.abc import Sequence
from fnmatch import fnmatch

from tests.chaos.cell import HEADER, KILL_S, PAUSE_S, POINTS, TARGETS, Cell, Result, play

WIRES = ("reset", "deaf", "mute", "cut-off", "late", "slow", "cut", "flip")
STOPS = ("stop-1", "stop-5", "stop-60")
LONG = ("kills", "often", "hog", "stop-60")  # faults that take over 5 s
ENOUGH = 10  # for a median
AT_POINTS = {
    "open": "middle", "commit": "sink", "save": "trainer", "write": "trainer", "split": "split", "over": "sink",
}  # fmt: skip


def cells() -> list[Cell]:
    """Return all cells.  Everything at once is not among them: that is a run to be resumed."""
    return [
        *(Cell(target, "kill", moment) for moment in ("steady", "idle", "ramp", "away") for target in TARGETS),
        *(Cell(target, "kills") for target in ("middle", "trainer", "join", "gate")),
        *(Cell(target, "kill", "drain") for target in ("middle", "split")),
        *(Cell(target, fault) for fault in ("stop-1", "stop-5", "hog") for target in TARGETS),
        *(Cell(target, "stop-60") for target in ("middle", "trainer", "sink")),
        *(Cell(AT_POINTS[point], fault, point) for point in POINTS for fault in ("kill", "stop-5")),
        *(Cell(target, fault) for fault in WIRES for target in ("middle", "batcher", "sink")),
        *(Cell(target, "port") for target in ("middle", "batcher")),
        *(Cell(target, "descriptors") for target in ("middle", "batcher")),
        *(Cell(target, "address") for target in ("split", "join")),
        Cell("registry", "often"),
        Cell("middle", "crash-loop"),
    ]


def chosen(only: Sequence[str], some: int | None, seed: int) -> list[Cell]:
    """Return the cells that match a pattern, or `some` short ones of them, drawn by the seed."""
    found = [cell for cell in cells() if not only or any(fnmatch(str(cell), pattern) for pattern in only)]
    if some is None:
        return found
    short = [cell for cell in found if cell.fault not in LONG]
    return random.Random(seed).sample(short, min(some, len(short)))


def run(only: Sequence[str] = (), *, some: int | None = None, seed: int = 1, quick: bool = False) -> bool:
    """Play the cells and print the table; return whether all is as promised."""
    print(f"seed {seed}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}\n{HEADER}", flush=True)
    results = []
    for cell in chosen(only, some, seed):
        results.append(play(cell, seed, quick=quick))
        print(results[-1].line, flush=True)
    return _sum_up(results)


def _sum_up(results: list[Result]) -> bool:
    bad = [str(result.cell) for result in results if result.faults]
    print(
        f"{len(results) - len(bad)} of {len(results)} cells OK, lost {sum(r.lost for r in results)}, "
        f"twice {sum(r.twice for r in results)}" + (f"; with faults: {', '.join(bad)}" if bad else "")
    )
    ok = not bad
    for what, faults, bound_s in (("kills", ("kill", "kills"), KILL_S), ("pauses", STOPS, PAUSE_S)):
        took = [s for r in results if r.cell.fault in faults for s in r.recoveries_s]
        if len(took) >= ENOUGH:
            median, worst = statistics.median(took), max(took)
            after = f"{median:.2f} s (median, under {bound_s:g}), at worst {worst:.2f} s"
            print(f"{len(took)} {what}: on again after {after}")
            ok = ok and median < bound_s
    return ok
