"""A show of workers that come and go while items flow."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator

from tests.real import lines, wait_until
from tests.shows.flow import Shown, chain, ended, stage_place

COUNT = 10_000
SPAN_S = 0.5  # over which a rate is taken
FOLLOWS_S = 1.0
STEPS = ((1500, 4), (6000, 2))  # after so many items, so many workers


def scale(*argv: str) -> Iterator[Shown]:
    """1 -> 4 -> 2 workers of one stage while 10,000 items of 5 ms flow: the rate follows within a second."""
    told: list[tuple[float, int]] = []
    with stage_place() as place:
        stages = chain("numbers", "nap", sink="out.jsonl", numbers=f'args = {{ count = {COUNT} }}\nreplay = "seek"')
        run = place.start("run", place.pipeline(stages), *argv)
        out = place.folder / "runs"
        for items, workers in STEPS:
            wait_until(lambda items=items: sum(len(lines(file)) for file in out.glob("*/out.jsonl")) >= items)
            ended(place.run("scale", f"nap={workers}"))
            told.append((time.monotonic(), workers))
        done = ended(run.wait())
        found = lines(done.folder / "out.jsonl")
    ends = sorted(item["ended_s"] for item in found)
    exact = sorted(item["k"] for item in found) == list(range(COUNT))
    yield Shown(f"{len(found)} items, {'each once' if exact else 'NOT each once'}", exact)
    one = rate(ends, told[0][0] - SPAN_S)
    for at_s, workers in told:
        goal = workers * one
        took_s = next((k / 20 for k in range(200) if abs(rate(ends, at_s + k / 20) - goal) < 0.2 * goal), None)
        late = took_s is None or took_s > FOLLOWS_S
        yield Shown(f"{workers} workers: {goal:.0f} a second within 20 % after {took_s} s (at most 1)", not late)


def rate(ends: list[float], from_s: float) -> float:
    """Return the items per second that ended in the `SPAN_S` from `from_s` on."""
    return (bisect_left(ends, from_s + SPAN_S) - bisect_left(ends, from_s)) / SPAN_S
