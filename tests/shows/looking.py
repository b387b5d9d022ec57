"""Shows on what it costs to look on at a run: a tap, and a trace."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.real import Command, Place, wait_until
from tests.shows.flow import Shown, count_of, stage_place

WINDOW_S = 1.0
ENDLESS = "args = { count = 1000000000 }"
LOADS = {"numbers": "small items", "arrays": "arrays of 1 MB"}


@contextmanager
def flowing(place: Place, source: str, *argv: str) -> Iterator[Path]:
    """Have a source, a stage and a sink at work as fast as they can; gives the run folder."""
    stages = "".join(
        (
            f'[stage.{source}]\nrun = "stages:{source}"\nreplay = "seek"\n{ENDLESS}\n',
            f'[stage.double]\nrun = "stages:double"\nfrom = "{source}"\n',
            '[stage.counting]\nrun = "stages:Counting"\nfrom = "double"\n',
        )
    )
    before = set(place.folder.glob("runs/*"))
    run = place.start("run", place.pipeline(stages), *argv)
    try:
        wait_until(lambda: [f for f in set(place.folder.glob("runs/*")) - before if count_of(f, "done") > 100])
        (folder,) = set(place.folder.glob("runs/*")) - before
        yield folder
    finally:
        run.interrupt()
        run.wait()


class Pace:
    """Of one window: items a second at the sink, and CPU seconds an item of the stage in the middle.

    The latter is what says something while others use the machine too.
    """

    def __init__(self, place: Place, folder: Path, seconds: float = WINDOW_S) -> None:
        (worker,) = [p.pid for p in place.processes() if {"zpipe.processes.worker", "double"} <= set(p.cmdline())]
        first, cpu_s, began_s = count_of(folder, "done"), cpu_of(worker), time.monotonic()
        time.sleep(seconds)
        items = count_of(folder, "done") - first
        self.rate = items / (time.monotonic() - began_s)
        self.cpu_s = (cpu_of(worker) - cpu_s) / items


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of all threads of a process."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def verdicts(what: str, off: list[Pace], on: list[Pace], cost_max: float) -> Iterator[Shown]:
    """Compare windows that are beside each other; noise is twice the standard error of the median."""
    rate = statistics.median(pace.rate for pace in off)
    cpu_us = 1e6 * statistics.median(pace.cpu_s for pace in off)
    ratios = {
        f"{rate:,.0f} items a second": [b.rate / a.rate for a, b in zip(off, on, strict=True)],
        f"{cpu_us:,.2f} us of CPU an item": [a.cpu_s / b.cpu_s for a, b in zip(off, on, strict=True)],
    }
    for figure, found in ratios.items():
        ratio, noise = statistics.median(found), 2 * 1.25 * statistics.stdev(found) / len(found) ** 0.5
        yield Shown(
            f"{what}: {figure} without, {ratio:.3f} times as good with it, noise {noise:.3f} "
            f"(at least {1 - cost_max:g} beyond noise)",
            ratio >= 1 - cost_max - noise,
        )


def has_seen(looker: Command) -> bool:
    return looker.printed(0).count("\n") >= 2


def tap(rounds: int = 20) -> Iterator[Shown]:
    """A tap that is on costs less than 2 % of the throughput: windows with and without, in turn, in one run."""
    for source, what in LOADS.items():
        off: list[Pace] = []
        on: list[Pace] = []
        with stage_place() as place, flowing(place, source) as folder:
            for _ in range(rounds):
                off.append(Pace(place, folder))
                looker = place.start("tap", "double")
                wait_until(partial(has_seen, looker))
                on.append(Pace(place, folder))
                looker.interrupt()
                looker.wait()
        yield from verdicts(f"a tap on {what}", off, on, 0.02)


def trace(rounds: int = 10) -> Iterator[Shown]:
    """A trace costs less than 5 % of the throughput of the smallest items: runs with and without, in turn."""
    for source, what in LOADS.items():
        off: list[Pace] = []
        on: list[Pace] = []
        with stage_place() as place:
            for _ in range(rounds):
                for found, more in ((off, ()), (on, ("--trace", "t.json"))):
                    with flowing(place, source, *more) as folder:
                        found.append(Pace(place, folder, 3 * WINDOW_S))
            size = (place.folder / "t.json").stat().st_size
        yield from verdicts(f"a trace of {what}, {size / 1e3:,.0f} kB in 4 s", off, on, 0.05)
