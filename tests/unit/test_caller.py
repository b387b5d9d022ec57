"""Which calls are timed, with a clock that the stage's code sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_registry import stage
from tests.unit.test_worker import Bench, Part, run
from zpipe.core.histogram import Histogram, bucket
from zpipe.core.limits import Limits
from zpipe.core.source import Position
from zpipe.processes.caller import Caller
from zpipe.values.context import Current
from zpipe.values.paths import Run


class Codec:
    """Items are seconds: the number of each in its run, or what a test says."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds = seconds

    def encode(self, value: Any) -> Part:
        return Part()

    def decode(self, run: Run) -> list[float]:
        return self.seconds

    parts = encode_state = decode_state = encode


class Clock:
    """Time passes by calls of `take` only."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def take(self, seconds: float) -> float:
        self.now_s += seconds
        return seconds


def called(
    clock: Clock, target: Any, seconds: list[float], *, role: dict[str, Any] | None = None, **plan: Any
) -> Histogram:
    """Let a stage be called with items of so many seconds, or a source make them, and return what was noted."""
    bench = Bench(**(role or {}))
    fields: dict[str, Any] = {"inputs": (3,), "outputs": (4,), **plan}
    made = stage(1, "slow", fields.pop("role_name", "transform"), **fields)
    current = Current("slow", worker="slow-1", lane_names={0: "numbers"}, run_key=0, run_folder=Path())
    caller = Caller(made, target, bench.worker, Codec(seconds), clock, current)
    if not role:
        bench.hear(run(0, len(seconds)))
    job = bench.worker.take(64)
    assert job is not None
    for _ in caller.perform(job):
        pass
    return caller.calls


@pytest.mark.parametrize("returns", [True, False])
def test_of_a_stretch_of_fast_calls_the_first_is_timed(returns: bool) -> None:
    clock = Clock()
    target: Callable[[float], Any] = clock.take if returns else lambda x: clock.take(x) and None
    assert called(clock, target, [0.001, 0.0001, 0.0001]) == {bucket(0.001): 1}


def test_every_call_that_is_long_enough_to_look_at_the_links_after_it_is_timed() -> None:
    clock = Clock()
    assert called(clock, clock.take, [0.5, 0.02, 0.001]) == {bucket(0.5): 1, bucket(0.02): 1, bucket(0.001): 1}


def test_the_call_of_a_sink_is_timed() -> None:
    clock = Clock()
    assert called(clock, clock.take, [0.5], outputs=()) == {bucket(0.5): 1}


def test_an_input_that_is_split_is_timed_with_all_that_is_made_of_it() -> None:
    clock = Clock()

    def split(seconds: float) -> Iterator[float]:
        for _ in range(3):
            yield clock.take(seconds)

    assert called(clock, split, [0.5, 0.1], form="split") == {bucket(1.5): 1, bucket(0.3): 1}


def test_a_commit_is_one_call() -> None:
    clock = Clock()

    class Sink:
        def commit(self, items: list[Any]) -> None:
            for item in items:
                clock.take(item.value)

    assert called(clock, Sink(), [0.5, 0.1], outputs=(), hooks=("commit",)) == {bucket(0.6): 1}


@pytest.mark.parametrize(("hooks", "items"), [(("commit",), 256), (("commit", "state", "restore"), 64), ((), 64)])
def test_a_commit_covers_more_items_than_a_frame_unless_checkpoints_count_them(
    hooks: tuple[str, ...], items: int
) -> None:
    bench = Bench(Limits(frame_items=64), outputs=())
    made = stage(1, "out", "sink", inputs=(3,), outputs=(), hooks=hooks)
    current = Current("out", worker="out-1", lane_names={0: "numbers"}, run_key=0, run_folder=Path())
    assert Caller(made, print, bench.worker, Codec([]), Clock(), current).limit == items


def test_of_a_source_the_first_item_of_a_job_is_timed() -> None:
    clock = Clock()
    role = {"inputs": (), "partitions": {0: (Position(), False)}}
    made = called(
        clock, lambda: map(clock.take, [0.002, 0.001, 0.0005]), [], role=role, role_name="source", inputs=(),
        form="source", lanes=(0,),
    )  # fmt: skip
    assert made == {bucket(0.002): 1}
