"""Stages without memory: what is settled when, and what is known already."""

from __future__ import annotations

from zpipe.core.inlet import Address, InLink
from zpipe.core.ledger import Ledger
from zpipe.core.limits import Limits
from zpipe.core.work import Job
from zpipe.values.paths import Run


class Bench:
    """A ledger and one link into it."""

    def __init__(self, *, joins: bool = False, recent: int = 1024) -> None:
        limits = Limits(recent=recent)
        self.ledger = Ledger(limits, joins=True) if joins else Ledger(limits)
        self.link = InLink(1, 1, 0, ())

    def arrive(self, position: int, n: int = 1, *, marks: bytes | None = None, digest: int = 0) -> Address:
        run = Run(0, position, (), n, [None] * n, marks=marks, digest=digest)
        address = Address(self.link, self.link.got + 1, run)
        self.link.got += n
        self.ledger.arrived(address, run)
        return address

    def take(self, limit: int = 64) -> Job:
        job = self.ledger.take(limit)
        assert job is not None
        return job

    def call(self) -> Job:
        job = self.take()
        self.ledger.done(job)
        return job

    @property
    def counts(self) -> tuple[int, int]:
        """Return what is consumed, and below which seq all is settled."""
        return (self.link.consumed, self.link.base)


def taken(job: Job) -> list[tuple[int, int, int]]:
    return [(run.position, a, b) for run, a, b in job.stretches]


def test_an_input_is_consumed_when_called_and_settled_when_its_outputs_are() -> None:
    bench = Bench()
    bench.arrive(0, 3)
    job = bench.take()
    job.records[0].pend = 1
    assert bench.counts == (0, 1)
    bench.ledger.done(job)
    assert bench.counts == (3, 1)
    job.records[0].pend = 0
    job.records[0].settled()
    assert bench.counts == (3, 4)


def test_an_input_without_outputs_is_settled_when_its_call_returns() -> None:
    bench = Bench()
    bench.arrive(0, 3)
    bench.call()
    assert bench.counts == (3, 4)
    assert not bench.ledger.records


def test_a_repeat_of_what_is_settled_is_settled_at_once() -> None:
    bench = Bench()
    bench.arrive(0, 3)
    bench.call()
    bench.arrive(0, 3)
    assert bench.counts == (6, 7)
    assert (bench.ledger.take(64), bench.ledger.repeats) == (None, 3)


def test_a_repeat_of_what_is_queued_is_called_once_and_settled_with_it() -> None:
    bench = Bench()
    bench.arrive(0, 3)
    bench.arrive(0, 3)
    assert (bench.counts, bench.ledger.queued_items, bench.ledger.repeats) == ((0, 1), 3, 3)
    job = bench.take()
    assert bench.ledger.take(64) is None
    bench.ledger.done(job)
    assert bench.counts == (6, 7)


def test_repeats_are_counted_item_by_item() -> None:
    bench = Bench()
    for _ in range(3):
        bench.arrive(0, 3)  # queued
    bench.call()
    for _ in range(2):
        bench.arrive(0, 3)  # settled
    assert bench.ledger.repeats == 12


def test_a_repeat_of_what_waits_for_its_outputs_returns_its_credit_at_once() -> None:
    bench = Bench()
    bench.arrive(0, 3)
    job = bench.take()
    job.records[0].pend = 1
    bench.ledger.done(job)
    bench.arrive(0, 3)
    assert bench.counts == (6, 1)
    job.records[0].pend = 0
    job.records[0].settled()
    assert bench.counts == (6, 7)


def test_runs_of_other_lengths_or_members_are_not_repeats() -> None:
    bench = Bench()
    bench.arrive(0, 2)
    bench.arrive(0, 1)
    bench.arrive(0, 2, digest=9)
    assert bench.ledger.repeats == 0
    assert len(bench.ledger.queue) == 3


def test_only_so_many_settled_runs_are_remembered_the_latest() -> None:
    bench = Bench(recent=2)
    for position in (0, 1, 2):
        bench.arrive(position)
        bench.call()
    assert len(bench.ledger.recent) == 2
    for position in (1, 2):
        bench.arrive(position)
    assert bench.ledger.repeats == 2
    bench.arrive(0)
    assert (bench.ledger.repeats, bench.ledger.queued_items) == (2, 1)


def test_what_waits_longest_is_called_first_one_run_at_a_time() -> None:
    bench = Bench()
    bench.arrive(5, 2)
    bench.arrive(0, 3)
    assert (bench.ledger.queued_items, bench.ledger.idle) == (5, False)
    job = bench.take(limit=64)
    assert (job.kind, taken(job), job.n, job.parent) == ("items", [(5, 0, 2)], 2, job.records[0])
    assert (bench.ledger.queued_items, bench.ledger.idle) == (3, False)
    assert taken(bench.take(limit=1)) == [(0, 0, 3)]
    assert bench.ledger.idle


def test_where_jobs_join_one_takes_items_of_several_runs_up_to_the_limit() -> None:
    bench = Bench(joins=True)
    for position in (0, 2, 4, 6):
        bench.arrive(position, 2)
    job = bench.take(limit=3)
    assert (taken(job), job.n) == ([(0, 0, 2), (2, 0, 1)], 3)
    assert taken(bench.take(limit=2)) == [(2, 1, 2), (4, 0, 1)]
    assert taken(bench.take(limit=64)) == [(4, 1, 2), (6, 0, 2)]
    assert bench.ledger.idle and bench.ledger.queued_items == 0


def test_a_run_that_several_calls_share_is_settled_by_the_last_of_them() -> None:
    bench = Bench(joins=True)
    bench.arrive(0, 5)
    first, second = bench.take(limit=3), bench.take(limit=3)
    assert first is not None and second is not None
    bench.ledger.done(second)
    assert bench.counts == (0, 1)
    bench.ledger.done(first)
    assert bench.counts == (5, 6)


def test_all_runs_of_a_commit_are_settled_by_it() -> None:
    bench = Bench(joins=True)
    bench.arrive(0, 2)
    bench.arrive(2, 2)
    bench.call()
    assert bench.counts == (4, 5)


def test_a_stage_without_memory_waits_for_nothing() -> None:
    bench = Bench()
    bench.arrive(5)
    assert bench.ledger.wants() == set()
