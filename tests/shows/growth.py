"""Show of what an item costs, from a thousand of them to a million, through more stages and more workers."""

from __future__ import annotations

import resource
from collections.abc import Iterator

from tests.shows.flow import Shown, ended, stage_place

ITEMS = 1000, 10_000, 100_000, 1_000_000
STAGES = 1, 2, 4, 8
WORKERS = 1, 2, 4, 8, 16, 32, 64
MANY = 200_000  # items where it is not their number that changes
FLAT_MAX = 2.0  # times the CPU of an item among a million may take of what one among a hundred thousand does


def growth() -> Iterator[Shown]:
    """The CPU of an item does not grow with their number; what more stages and workers add."""
    none = {key: _cpu_s(0, *key) for key in {(1, 1), *((n, 1) for n in STAGES), *((1, n) for n in WORKERS)}}

    def row(items: int, stages: int, workers: int) -> tuple[str, float]:
        cpu_us = 1e6 * (_cpu_s(items, stages, workers) - none[stages, workers]) / items
        start = f"{none[stages, workers]:5.1f} s of CPU to start and end"
        what = f"{items:9,} items, {stages} stage(s), {workers:2} worker(s) of the first"
        return f"{what}: {cpu_us:7.1f} us of CPU an item; {start}", cpu_us

    cost = {}
    for items in ITEMS:
        figure, cost[items] = row(items, 1, 1)
        yield Shown(figure, True)
    ratio = cost[ITEMS[-1]] / cost[ITEMS[-2]]
    yield Shown(
        f"an item among {ITEMS[-1]:,} takes {ratio:.2f} times the CPU of one among {ITEMS[-2]:,} "
        f"(at most {FLAT_MAX:g})",
        ratio <= FLAT_MAX,
    )
    for stages in STAGES[1:]:
        yield Shown(row(MANY, stages, 1)[0], True)
    for workers in WORKERS[1:]:
        yield Shown(row(MANY, 1, workers)[0], True)


def _cpu_s(items: int, stages: int, workers: int) -> float:
    """Return the CPU seconds of all processes of a run, its stages between a source and a sink."""
    text, above = f'[stage.numbers]\nrun = "stages:numbers"\nreplay = "seek"\nargs = {{ count = {items} }}\n', "numbers"
    for k in range(stages):
        text += f'[stage.same-{k}]\nrun = "stages:same"\nfrom = "{above}"\nworkers = {workers if k == 0 else 1}\n'
        above = f"same-{k}"
    text += f'[stage.out]\nrun = "stages:out"\nfrom = "{above}"\n'
    with stage_place() as place:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ended(place.start("run", place.pipeline(text)).wait(600.0))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
