"""The limit of a source: the share of each partition, and that a new life ends where the first would have."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import zpipe as zp
from zpipe.core.limits import Limits
from zpipe.core.source import Position, Source
from zpipe.core.worker import Worker
from zpipe.processes.caller import Caller
from zpipe.processes.codec import WireCodec
from zpipe.processes.roles import role_of
from zpipe.values.context import Current
from zpipe.values.plan import Plan, plan


def endless(start: int = 0) -> Iterator[int]:
    n = start
    while True:
        yield n
        n += 1


def short() -> Iterator[int]:
    yield from range(3)


class Recording(WireCodec):
    """Notes what the source has made; what it skips is not encoded."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def encode(self, value: Any) -> Any:
        self.made.append(value)
        return super().encode(value)


def plan_of(source: Any, limit: int | None, **options: Any) -> Plan:
    return plan(zp.Pipeline("p", zp.stage(source, name="source", **options)), limit)


def life(its_plan: Plan, target: Any, at: Position) -> tuple[list[Any], int]:
    """Play a life that begins at a watermark to its end; return what it made and the position it came to."""
    stage = its_plan.stages[0]
    worker = Worker(1, role_of(its_plan, stage, 0, {0: (at, False)}, {}), Limits())
    codec = Recording()
    current = Current("source", worker="source-1", lane_names=its_plan.lane_names, run_key=0, run_folder=Path())
    caller = Caller(stage, target, worker, codec, time.monotonic, current)
    while (job := worker.take(caller.limit)) is not None:
        for _ in caller.perform(job):
            pass
    assert isinstance(worker.intake, Source)
    return codec.made, worker.intake.partitions[0].at.position


FIVE = [0, 1, 2, 3, 4]
LIVES = {
    "at the beginning": (Position(), FIVE + FIVE),
    "within an epoch": (Position(3, 0, 0), [3, 4, *FIVE]),
    "at the limit, before the mark of the epoch": (Position(5, 0, 0), FIVE),
    "at an epoch": (Position(6, 1, 6), FIVE),
    "within the second epoch": (Position(8, 1, 6), [2, 3, 4]),
    "at the limit of the last epoch": (Position(11, 1, 6), []),
}


@pytest.mark.parametrize("replay", ["skip", "seek"])
@pytest.mark.parametrize(("at", "made"), LIVES.values(), ids=LIVES)
def test_every_life_ends_where_the_limit_is(replay: str, at: Position, made: list[int]) -> None:
    its_plan = plan_of(endless, 5, epochs=2, replay=replay)
    assert life(its_plan, endless, at) == (made, life(its_plan, endless, Position())[1])


def test_a_source_that_ends_before_the_limit_ends_there() -> None:
    assert life(plan_of(short, 5), short, Position())[0] == [0, 1, 2]


@pytest.mark.parametrize(
    ("limit", "shares"), [(None, [None] * 3), (8, [3, 3, 2]), (9, [3, 3, 3]), (2, [1, 1, 0]), (1, [1, 0, 0])]
)
def test_partitions_share_a_limit(limit: int | None, shares: list[int | None]) -> None:
    [stage] = plan_of(endless, limit, partitions=3).stages
    assert [stage.share(lane) for lane in stage.lanes] == shares


def test_the_shares_of_a_second_source_begin_anew() -> None:
    a, b = (zp.stage(endless, name=name, partitions=2) for name in "ab")
    stages = plan(zp.Pipeline("p", a, b), 3).stages
    assert [[stage.share(lane) for lane in stage.lanes] for stage in stages] == [[2, 1], [2, 1]]


def test_only_sources_have_a_limit_and_the_plan_carries_it() -> None:
    made = plan(zp.Pipeline("p", [zp.stage(short), zp.batch(2)]), 3)
    assert [stage.limit for stage in made.stages] == [3, None]
    assert Plan.from_dict(made.to_dict()) == made
    assert replace(made.stages[0], limit=None) == plan(zp.Pipeline("p", [zp.stage(short), zp.batch(2)])).stages[0]
