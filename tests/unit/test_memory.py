"""Stages with memory: source order, parked credit, and saves before acks."""

from __future__ import annotations

from typing import Any

import pytest

from zpipe.core.inlet import Address, InLink
from zpipe.core.memory import Memory, Save, Step
from zpipe.core.order import OVER
from zpipe.core.work import Job
from zpipe.values.paths import Mark, Path, Run

ITEM, TOMB, END, EPOCH, FIN = Mark


class Bench:
    """A memory and one link into it; its outputs go where a test can settle them."""

    def __init__(self, *lanes: int, hooks: tuple[int, ...] = (), depth: int = 0) -> None:
        lanes = lanes or (0,)
        self.passed: list[Run] = []
        self.waiting: list[tuple[Step, Run]] = []
        self.memory = Memory(dict.fromkeys((*lanes, *hooks), depth), lanes, hooks, self._pass_on, self._outs)
        self.link = InLink(1, 1, 0, ())

    def _pass_on(self, run: Run, step: Step) -> None:
        self.passed.append(run)

    def _outs(self) -> list[tuple[int, Run]]:
        return [(0, run) for _, run in self.waiting]

    def arrive(self, path: Path, *marks: int, n: int = 1, digest: int = 0, epoch: int = 0, nbytes: int = 0) -> Address:
        """Let `n` items arrive from `path` on, or these marks."""
        n = len(marks) or n
        lane, position, *elements = path
        run = Run(lane, position, tuple(elements), n, [None] * n, marks=bytes(marks) or None, digest=digest,
                  epoch=epoch)  # fmt: skip
        address = Address(self.link, self.link.got + 1, run)
        address.nbytes = nbytes
        self.link.got += n
        self.memory.arrived(address, run)
        return address

    def take(self, limit: int = 64) -> Job:
        job = self.memory.take(limit)
        assert job is not None
        return job

    def call(self, limit: int = 64) -> list[Path] | tuple[str, int]:
        """Call what is next: the paths of items, or (kind, epoch) of a boundary."""
        job = self.take(limit)
        self.memory.done(job)
        if job.kind != Job.ITEMS:
            return (job.kind, job.epoch)
        return [run.path(i) for run, a, b in job.stretches for i in range(a, b)]

    def output(self, position: int) -> Run:
        """Emit an output of the step that is open."""
        run = Run(9, position, (), 1, [None])
        self.memory.step.pend += 1
        self.waiting.append((self.memory.step, run))
        return run

    def deliver(self, run: Run) -> None:
        """Settle an output."""
        (found,) = [entry for entry in self.waiting if entry[1] is run]
        self.waiting.remove(found)
        found[0].pend -= 1
        if found[0].pend == 0 and found[0].closed:
            found[0].settled()

    def save(self) -> Save | None:
        save = self.memory.save()
        if save is not None:
            self.memory.written()
        return save

    @property
    def settled(self) -> tuple[int, list[list[int]]]:
        return (self.link.base, self.link.ranges)


# -- arrival --------------------------------------------------------------------------------------------


def test_items_are_called_in_source_order_however_they_arrive() -> None:
    bench = Bench(0, 1)
    for path in ((1, 1), (0, 1), (1, 0)):
        bench.arrive(path)
        assert bench.memory.take(64) is None
    assert (bench.memory.queued_items, bench.memory.idle) == (3, True)
    bench.arrive((0, 0))
    assert (bench.memory.queued_items, bench.memory.idle) == (4, False)
    assert bench.call() == [(0, 0), (1, 0), (0, 1), (1, 1)]


def test_what_comes_next_keeps_its_credit_until_it_is_called() -> None:
    bench = Bench()
    bench.arrive((0, 0), n=2)
    assert bench.link.consumed == 0
    bench.call(limit=1)
    assert bench.link.consumed == 0
    bench.call(limit=1)
    assert bench.link.consumed == 2


def test_what_does_not_come_next_is_parked_and_returns_its_credit_at_once() -> None:
    bench = Bench()
    bench.arrive((0, 3), n=2)
    assert (bench.link.consumed, bench.settled) == (2, (1, []))


def test_parked_bytes_are_those_whose_credit_has_returned_and_that_are_not_called() -> None:
    bench = Bench()
    bench.arrive((0, 1), nbytes=100)
    bench.arrive((0, 2), nbytes=50)
    assert bench.memory.parked_bytes == 150
    bench.arrive((0, 0), nbytes=7)
    assert bench.memory.parked_bytes == 150
    bench.call()
    assert bench.memory.parked_bytes == 0


def test_a_run_of_which_one_item_is_parked_returns_its_credit() -> None:
    bench = Bench(0, 1)
    bench.arrive((0, 0), n=2)  # lane 1 comes between the two
    assert bench.link.consumed == 2
    assert bench.call() == [(0, 0)]


def test_what_has_arrived_is_not_called_again_but_settled_with_the_save() -> None:
    bench = Bench()
    bench.arrive((0, 0))
    bench.arrive((0, 0))  # queued
    bench.arrive((0, 2))
    bench.arrive((0, 2))  # held
    bench.call()
    bench.arrive((0, 0))  # called
    assert (bench.memory.repeats, bench.link.consumed, bench.settled) == (3, 5, (1, []))
    assert bench.memory.take(64) is None
    bench.memory.close_step()
    bench.save()
    assert bench.settled == (3, [[5, 5]])


def test_a_run_known_in_part_is_called_for_the_rest() -> None:
    bench = Bench()
    bench.arrive((0, 1))
    bench.arrive((0, 0), n=3)
    assert bench.call() == [(0, 0), (0, 1), (0, 2)]
    assert (bench.memory.repeats, bench.link.consumed) == (1, 4)


def test_what_lies_below_the_saved_cursor_is_settled_at_once() -> None:
    bench = Bench()
    bench.arrive((0, 0), n=2)
    bench.call()
    bench.memory.close_step()
    bench.save()
    bench.arrive((0, 0), n=2)
    assert (bench.link.consumed, bench.settled, bench.memory.repeats) == (4, (5, []), 2)
    bench.arrive((0, 1), n=2)  # one of them is new
    assert bench.settled == (5, [])
    assert bench.call() == [(0, 2)]


def test_repeats_are_counted_item_by_item() -> None:
    bench = Bench()
    bench.arrive((0, 0), n=2)
    bench.arrive((0, 0), n=2)  # queued
    bench.call()
    bench.memory.close_step()
    bench.save()
    for _ in range(2):
        bench.arrive((0, 0), n=2)  # saved
    assert bench.memory.repeats == 6


def test_what_is_on_no_lane_of_the_stage_is_passed_over() -> None:
    bench = Bench()
    bench.arrive((7, 0))
    assert (bench.link.consumed, bench.memory.take(64), bench.memory.wants()) == (0, None, set())


def test_a_mark_at_a_prefix_stands_for_all_below_and_an_item_there_does_not() -> None:
    bench = Bench(depth=2)
    bench.arrive((0, 1), TOMB)
    bench.arrive((0, 0, 1), TOMB)
    bench.arrive((0, 0, 0, 0))
    bench.arrive((0, 0, 0, 1), END)
    bench.arrive((0, 0, 2), END)
    assert bench.call() == [(0, 0, 0, 0)]
    assert bench.memory.take(64) is None
    assert [run.path(0) for run in bench.passed] == [(0, 0, 0, 1), (0, 0, 1), (0, 1)]
    assert bench.memory.called_order.expects == (0, 2, 0, 0)
    bench.arrive((0, 2))
    assert bench.memory.take(64) is None


# -- the end of a lane ----------------------------------------------------------------------------------


def test_an_end_that_arrives_early_waits_for_its_position() -> None:
    bench = Bench()
    bench.arrive((0, 2), FIN)
    assert (bench.link.consumed, bench.memory.take(64)) == (1, None)
    bench.arrive((0, 0))
    assert bench.call() == [(0, 0)]
    bench.arrive((0, 1))
    assert bench.call() == [(0, 1)]
    assert bench.call() == ("finish", 0)
    assert bench.passed[-1].path(0) == (0, 2)


def test_an_end_behind_items_of_its_run_comes_after_them() -> None:
    bench = Bench()
    bench.arrive((0, 0), ITEM, ITEM, FIN)
    assert bench.link.consumed == 0
    assert [bench.call(), bench.call()] == [[(0, 0), (0, 1)], ("finish", 0)]
    assert bench.link.consumed == 3


def test_an_end_is_settled_by_a_save_that_knows_it() -> None:
    bench = Bench()
    bench.arrive((0, 3), FIN)
    bench.arrive((0, 0), n=2)
    bench.call()
    bench.memory.close_step()
    bench.save()
    assert bench.settled == (1, [[2, 3]])
    bench.arrive((0, 2))
    bench.arrive((0, 3), FIN)  # known already
    bench.arrive((0, 9))  # made by a life that went further
    bench.call()
    assert bench.call() == ("finish", 0)
    bench.arrive((0, 7), FIN)
    bench.memory.close_step()
    bench.save()
    assert (bench.settled, bench.memory.saved) == ((8, []), {0: (OVER,)})
    bench.arrive((0, 4), FIN)
    assert bench.settled == (9, [])


# -- calls ----------------------------------------------------------------------------------------------


def test_a_job_holds_as_many_items_as_it_may() -> None:
    bench = Bench()
    bench.arrive((0, 0), n=5)
    job = bench.take(limit=3)
    assert (job.n, [(a, b) for _, a, b in job.stretches], job.parent) == (3, [(0, 3)], bench.memory.step)
    assert bench.call(limit=3) == [(0, 3), (0, 4)]


def test_items_that_follow_are_called_as_one_stretch_and_cut_where_a_job_is_full() -> None:
    bench = Bench()
    address = bench.arrive((0, 0), n=5)
    job = bench.take(3)
    assert [(a, b) for _, a, b in job.stretches] == [(0, 3)]
    assert (address.left, address.returned, bench.memory.queued_items) == (2, False, 2)
    assert bench.call() == [(0, 3), (0, 4)]
    assert (address.left, address.returned, bench.memory.queued_items) == (0, True, 0)


def test_items_of_a_lane_that_takes_turns_are_called_one_by_one() -> None:
    bench = Bench(0, 1)
    bench.arrive((0, 0), n=2)
    bench.arrive((1, 0), n=2)
    assert bench.call() == [(0, 0), (1, 0), (0, 1), (1, 1)]


def test_a_run_that_overlaps_what_is_held_is_called_once() -> None:
    bench = Bench()
    bench.arrive((0, 3), n=2)
    bench.arrive((0, 0), n=4)
    assert bench.call() == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)]
    assert (bench.memory.repeats, bench.memory.queued_items) == (1, 0)


def test_tombstones_at_a_prefix_end_the_subtrees_of_all_of_them() -> None:
    bench = Bench(depth=1)
    bench.arrive((0, 0), TOMB, TOMB, TOMB)
    bench.arrive((0, 3, 0))
    assert bench.call() == [(0, 3, 0)]
    assert [(run.path(0), run.marks) for run in bench.passed] == [((0, 0), b"\1\1\1")]


def test_items_at_a_prefix_are_not_taken_for_what_is_below_it() -> None:
    bench = Bench(depth=1)
    bench.arrive((0, 0), n=2)
    assert bench.memory.take(64) is None


def test_items_of_one_run_that_were_held_are_called_as_one_stretch() -> None:
    bench = Bench()
    bench.arrive((0, 1), n=3)
    bench.arrive((0, 0))
    job = bench.take()
    assert [(run.position, a, b) for run, a, b in job.stretches] == [(0, 0, 1), (1, 0, 3)]


def test_a_job_of_several_runs_holds_no_more_than_it_may() -> None:
    bench = Bench()
    for position in (0, 2, 4):
        bench.arrive((0, position), n=2)
    assert [bench.call(limit=3), bench.call(limit=3)] == [[(0, 0), (0, 1), (0, 2)], [(0, 3), (0, 4), (0, 5)]]


def test_a_job_that_takes_all_there_is_leaves_nothing() -> None:
    bench = Bench()
    bench.arrive((0, 0), n=3)
    assert bench.call(limit=3) == [(0, 0), (0, 1), (0, 2)]
    assert (bench.memory.idle, bench.memory.queued_items, bench.memory.take(3)) == (True, 0, None)


def test_marks_go_on_without_a_call_joined_where_they_follow() -> None:
    bench = Bench()
    bench.arrive((0, 0), TOMB, TOMB)
    bench.arrive((0, 2), TOMB)
    bench.arrive((0, 3), TOMB, digest=5)
    bench.arrive((0, 4), TOMB, digest=5, epoch=1)
    bench.arrive((0, 5))
    bench.arrive((0, 6), TOMB)
    assert bench.call() == [(0, 5)]
    assert [(run.path(0), run.n, run.marks, run.digest, run.epoch) for run in bench.passed] == [
        ((0, 0), 3, b"\1\1\1", 0, 0), ((0, 3), 1, b"\1", 5, 0), ((0, 4), 1, b"\1", 5, 1), ((0, 6), 1, b"\1", 0, 0),
    ]  # fmt: skip
    assert bench.memory.passed == 6
    assert bench.link.consumed == 7


def test_marks_of_different_parents_are_not_joined() -> None:
    bench = Bench(depth=1)
    for position in (0, 1):
        bench.arrive((0, position, 0), END)
    assert bench.memory.take(64) is None
    assert [run.path(0) for run in bench.passed] == [(0, 0, 0), (0, 1, 0)]


def test_at_the_end_of_an_epoch_its_hook_is_called_before_anything_further() -> None:
    bench = Bench()
    bench.arrive((0, 0), ITEM, EPOCH, ITEM, FIN)
    assert bench.call() == [(0, 0)]
    assert not bench.memory.idle
    assert not bench.memory.may_close
    bench.memory.close_step()
    assert bench.save() is None
    first, again = bench.take(), bench.take()
    assert (first.kind, first.epoch, again.kind, again.parent) == ("epoch", 0, "epoch", bench.memory.step)
    bench.memory.done(first)
    assert (bench.memory.may_close, bench.memory.over) == (True, False)
    assert bench.call() == [(0, 2)]
    assert bench.call() == ("finish", 1)
    assert (bench.memory.over, bench.memory.idle) == (True, True)


def test_a_boundary_without_items_before_it_is_next_at_once() -> None:
    bench = Bench()
    bench.arrive((0, 0), TOMB, EPOCH)
    job = bench.take()
    assert (job.kind, job.epoch, bench.memory.idle) == ("epoch", 0, False)
    bench.memory.done(job)
    assert bench.memory.idle
    assert [run.marks for run in bench.passed] == [b"\1\3"]


def test_an_item_that_was_called_ends_no_boundary() -> None:
    bench = Bench()
    bench.memory.boundary = ("epoch", 0)
    bench.memory.done(Job(Job.ITEMS))
    assert bench.memory.boundary == ("epoch", 0)
    assert not bench.memory.over


def test_a_stage_that_holds_something_back_wants_the_lane_it_waits_for() -> None:
    bench = Bench(0, 1)
    assert bench.memory.wants() == set()
    bench.arrive((1, 0))
    assert bench.memory.wants() == {0}
    bench.arrive((0, 0))
    bench.call()
    assert bench.memory.wants() == {0}
    bench.memory.close_step()
    bench.save()
    assert bench.memory.wants() == set()


def test_whether_the_cursor_has_moved_since_the_last_step_is_known() -> None:
    bench = Bench()
    bench.arrive((0, 1))
    assert bench.memory.take(64) is None
    assert not bench.memory.moved
    bench.arrive((0, 0), TOMB)
    bench.call()
    assert bench.memory.moved
    assert bench.memory.take(64) is None
    assert bench.memory.moved
    bench.memory.close_step()
    assert not bench.memory.moved


# -- saves ----------------------------------------------------------------------------------------------


def test_a_save_waits_until_the_outputs_before_it_are_settled() -> None:
    bench = Bench()
    bench.arrive((0, 0))
    bench.arrive((0, 1))
    bench.call()
    first, second = bench.output(0), bench.output(1)
    bench.memory.close_step("state")
    assert bench.save() is None
    bench.deliver(second)
    assert bench.save() is None
    bench.deliver(first)
    assert bench.settled == (1, [])
    save = bench.save()
    assert save is not None
    assert (save.state, save.outs, save.cursor["next"]) == ("state", [], [[0, [2]]])
    assert (bench.settled, bench.memory.saves) == ((3, []), 1)
    assert bench.save() is None


def test_steps_are_saved_in_their_order_the_last_one_covered() -> None:
    bench = Bench()
    outputs = []
    for position in (0, 1, 2):
        bench.arrive((0, position))
        bench.call()
        outputs.append(bench.output(position))
        bench.memory.close_step(position)
    bench.deliver(outputs[1])
    assert bench.save() is None
    bench.deliver(outputs[0])
    save = bench.save()
    assert save is not None
    assert (save.state, bench.settled) == (1, (3, []))
    bench.deliver(outputs[2])
    save = bench.save()
    assert save is not None
    assert (save.state, bench.settled, bench.memory.saves) == (2, (4, []), 2)


def test_a_checkpoint_holds_the_outputs_that_are_not_settled() -> None:
    bench = Bench()
    bench.arrive((0, 0), n=2)
    bench.call()
    first, second = bench.output(0), bench.output(1)
    bench.deliver(first)
    bench.memory.close_step("model", keeps_outs=True)
    save = bench.save()
    assert save is not None
    assert (save.outs, bench.settled) == ([(0, second)], (3, []))
    bench.output(2)
    assert save.outs == [(0, second)]


@pytest.mark.parametrize("keeps", [False, True])
def test_the_last_save_leaves_no_output_unsettled(keeps: bool) -> None:
    bench = Bench()
    bench.arrive((0, 0))
    bench.call()
    early = bench.output(0)
    bench.memory.close_step(keeps_outs=keeps)
    assert (bench.save() is not None) == keeps
    bench.arrive((0, 1), FIN)
    assert bench.call() == ("finish", 0)
    bench.memory.close_step(keeps_outs=keeps)
    assert bench.save() is None
    bench.deliver(early)
    save = bench.save()
    assert save is not None
    assert (save.outs, save.cursor["turn"], bench.settled) == ([], None, (3, []))


def test_a_new_life_begins_where_the_save_stands() -> None:
    bench = Bench(0, 1)
    bench.arrive((0, 0))
    bench.arrive((1, 0))
    bench.call()
    bench.memory.close_step()
    save = bench.save()
    assert save is not None
    again = Bench(0, 1)
    again.memory.restore(save)
    assert not again.memory.over
    again.arrive((1, 0))
    assert again.settled == (2, [])
    again.arrive((0, 1))
    assert again.call() == [(0, 1)]


def test_the_last_save_waits_for_what_an_earlier_life_had_saved_unsettled() -> None:
    bench = Bench()
    bench.arrive((0, 0))
    bench.call()
    output = bench.output(0)
    bench.memory.close_step(keeps_outs=True)
    save = bench.save()
    assert save is not None
    again = Bench()
    again.memory.restore(save)
    again.waiting = [(Step(again.memory), output)]  # sent again, and nothing above waits for it
    again.arrive((0, 1), FIN)
    assert again.call() == ("finish", 0)
    again.memory.close_step(keeps_outs=True)
    assert again.save() is None
    again.waiting.clear()
    last = again.save()
    assert last is not None
    assert last.cursor["turn"] is None


def test_a_new_life_of_a_stage_that_was_over_is_over() -> None:
    bench = Bench()
    bench.arrive((0, 0), FIN)
    bench.call()
    bench.memory.close_step()
    save: Any = bench.save()
    again = Bench()
    again.memory.restore(save)
    assert again.memory.over
    assert again.memory.wants() == set()


def test_a_frame_is_settled_by_the_save_that_covers_its_last_item() -> None:
    bench = Bench()
    bench.arrive((0, 0), n=3)
    bench.call(limit=2)
    bench.memory.close_step()
    bench.save()
    assert bench.settled == (1, [])
    bench.call()
    bench.memory.close_step()
    bench.save()
    assert bench.settled == (4, [])
