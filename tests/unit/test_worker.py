"""One worker's machine: what its parts do for each other, and the order of its actions."""

from __future__ import annotations

from typing import Any

from zpipe.core.inlet import Inlet
from zpipe.core.limits import Limits
from zpipe.core.memory import Memory, Save
from zpipe.core.outlet import Peer
from zpipe.core.source import Position, Source
from zpipe.core.work import Job
from zpipe.core.worker import Counters, Role, Worker
from zpipe.values.paths import Mark, Run
from zpipe.values.plan import EdgePlan
from zpipe.wire.frames import Ack, Close, Data, Open, Sync

ITEM, TOMB, END, EPOCH, FIN = Mark
ABOVE, BELOW = EdgePlan(3, 0, 1, True), EdgePlan(4, 1, 2, True)
UP, ME, DOWN = 8, 1, 9  # incarnations


class Part:
    room = 10
    nbytes = 10


def run(position: int, n: int = 1, *, marks: bytes | None = None) -> Run:
    return Run(0, position, (), n, [Part() for _ in range(n)], marks=marks)


class Bench:
    """A worker between UP and DOWN, whose actions are taken out in order."""

    def __init__(self, limits: Limits | None = None, **role: Any) -> None:
        fields: dict[str, Any] = {"inputs": (3,), "outputs": (BELOW,), **role}
        self.worker = Worker(ME, Role(**fields), limits or Limits())
        self.got = 0

    @property
    def inlet(self) -> Inlet:
        assert self.worker.inlet is not None
        return self.worker.inlet

    @property
    def memory(self) -> Memory:
        assert isinstance(self.worker.intake, Memory)
        return self.worker.intake

    @property
    def source(self) -> Source:
        assert isinstance(self.worker.intake, Source)
        return self.worker.intake

    def actions(self) -> list[tuple[Any, ...]]:
        actions, self.worker.actions[:] = list(self.worker.actions), []
        return actions

    def kinds(self) -> list[str]:
        return [kind for kind, *_ in self.actions()]

    def acks(self, now_s: float = 0.0) -> list[Ack]:
        """Flush, and return the acks that go out."""
        self.worker.dispatch(now_s)
        self.worker.flush()
        return [action[1] for action in self.actions() if action[0] == "ack"]

    def open(self, gen: int = 1) -> None:
        self.worker.received(0.0, Open(UP, ME, gen, 3, {"acks": ["there"]}))

    def hear(self, each: Run, now_s: float = 0.0) -> None:
        """Let a run arrive on the first link from above, which opens for it."""
        if self.got == 0:
            self.open()
            self.inlet.links[UP].limit, self.inlet.links[UP].limit_bytes = 100, 10**6
        self.worker.received(now_s, Data(UP, ME, 1, 3, self.got + 1, each))
        self.got += each.n

    def probe(self, *, blocked: bool = False) -> None:
        self.worker.received(0.0, Sync(UP, ME, 1, 3, self.got, blocked))

    def reach(self, *, limit: int = 100) -> None:
        """Bring up the link to DOWN."""
        self.worker.roster(0.0, [Peer(DOWN, 4)], {UP})
        self.answer(limit=limit)
        self.actions()

    def answer(self, *, now_s: float = 0.0, **fields: Any) -> None:
        known: dict[str, Any] = {
            "src": DOWN, "dst": ME, "gen": 1, "edge": 4, "limit": 100, "limit_bytes": 10**6, "base": 1, "got": 0,
            "consumed": 0, "echo": 0, "state": 0, "quiet": 0, "ranges": [], "wants": [],
        }  # fmt: skip
        self.worker.received(now_s, Ack(**{**known, **fields}))

    def call(self, limit: int = 64, *, dropped: int = 0, busy_s: float = 0.0) -> Job:
        """Call what is next; every item has an output."""
        job = self.worker.take(limit)
        assert job is not None and job.parent is not None
        for each, a, b in job.stretches:
            self.worker.emit(each.like(a, [Part()] * (b - a), each.marks and each.marks[a:b]), job.parent)
        self.worker.done(job, busy_s=busy_s, dropped=dropped)
        return job


# -- messages -------------------------------------------------------------------------------------------


def test_messages_for_an_earlier_process_at_this_address_are_refused() -> None:
    bench = Bench()
    for dst in (0, 2):
        bench.worker.received(0.0, Open(UP, dst, 1, 3, {}))
    assert (bench.worker.refused, bench.actions()) == (2, [])
    bench.open()
    assert (bench.worker.refused, bench.kinds()) == (2, ["dial_acks"])


def test_what_has_arrived_on_an_edge_is_queued_until_it_is_consumed() -> None:
    bench = Bench(outputs=())
    bench.hear(run(0, 3))
    bench.hear(run(3, 2))
    assert bench.inlet.queued() == {3: 5}
    bench.call(3)
    assert bench.inlet.queued() == {3: 2}
    bench.call()
    assert bench.inlet.queued() == {3: 0}


def test_a_link_from_above_opens_carries_data_is_probed_and_closes() -> None:
    bench = Bench()
    bench.hear(run(0, 2))
    bench.probe()
    (ack,) = bench.acks()
    assert (ack.dst, ack.gen, ack.got, ack.echo) == (UP, 1, 2, 2)
    bench.worker.received(0.0, Close(UP, ME, 1, 3, "done"))
    assert (bench.kinds(), bench.acks()) == (["hang_up_acks"], [])


def test_a_worker_that_holds_too_many_bytes_says_so_until_they_are_settled() -> None:
    bench = Bench(Limits(held_bytes=25, held_items=0))
    bench.reach()
    bench.hear(run(0, 2))
    bench.call()
    assert [ack.full for ack in bench.acks()] == [False]
    bench.hear(run(2))
    bench.call()
    assert [ack.full for ack in bench.acks()] == [True]
    bench.answer(base=2, got=3, consumed=3)
    bench.answer(base=4, got=3, consumed=3)
    assert [ack.full for ack in bench.acks()] == [False]


def test_a_few_items_are_not_too_many_however_large() -> None:
    bench = Bench(Limits(held_bytes=25, held_items=4))
    bench.reach()
    for positions, full in ((4, False), (1, True)):
        bench.hear(run(bench.got, positions))
        bench.call()
        assert [ack.full for ack in bench.acks()] == [full]


def test_parked_inputs_count_as_held() -> None:
    bench = Bench(Limits(held_bytes=25), memory=True, depths={0: 0}, lanes=(0,))
    bench.hear(run(1, 3))
    assert [ack.full for ack in bench.acks()] == [True]


def test_that_a_stage_below_holds_too_much_is_passed_up_and_stops_a_source() -> None:
    bench = Bench()
    bench.reach()
    bench.open()
    bench.acks()
    bench.answer(full=True)
    assert [ack.full for ack in bench.acks()] == [True]
    source = Bench(inputs=(), partitions={0: (Position(), False)})
    source.reach()
    source.answer(full=True)
    source.worker.dispatch(0.0)
    assert source.source.take(64) is None
    source.answer()
    source.worker.dispatch(0.0)
    assert source.source.take(64) is not None


def test_a_source_hears_acks_and_nothing_else() -> None:
    bench = Bench(inputs=(), partitions={0: (Position(), False)})
    for message in (Open(UP, ME, 1, 3, {}), Data(UP, ME, 1, 3, 1, run(0)), Sync(UP, ME, 1, 3, 1, False)):
        bench.worker.received(0.0, message)
    assert (bench.worker.inlet, bench.worker.refused, bench.actions()) == (None, 0, [])
    bench.reach()
    assert bench.worker.outlet.links[DOWN].state == "up"


def test_a_roster_dials_those_below_and_closes_those_above_that_it_no_longer_names() -> None:
    bench = Bench()
    bench.open()
    bench.actions()
    bench.worker.roster(0.0, [Peer(DOWN, 4)], {UP})
    assert bench.kinds() == ["dial"]
    bench.worker.roster(0.0, [], {7})
    assert bench.kinds() == ["hang_up", "hang_up_acks"]


def test_what_a_failed_send_had_under_way_goes_out_again_on_the_next_link() -> None:
    bench = Bench(Limits(redial_s=0.5))
    bench.reach()
    bench.hear(run(0, 2))
    bench.call()
    bench.worker.dispatch(0.0)
    bench.actions()
    bench.worker.lost(1.0, bench.worker.outlet.links[DOWN])
    bench.worker.tick(1.4)
    assert bench.kinds() == ["hang_up"]
    bench.worker.tick(1.5)
    bench.answer(gen=2)
    bench.worker.dispatch(1.5)
    (dial, send) = bench.actions()
    assert dial[0] == "dial"
    assert (send[0], send[1].gen, send[2], send[3].run.position, send[3].run.n) == ("send", 2, 1, 0, 2)


# -- work -----------------------------------------------------------------------------------------------


def test_nothing_is_called_while_earlier_outputs_wait_for_credit() -> None:
    bench = Bench()
    bench.reach(limit=2)
    bench.hear(run(0, 2))
    bench.hear(run(2, 2))
    bench.call()
    assert bench.worker.take(64) is None
    bench.worker.dispatch(0.0)
    bench.call()
    bench.worker.dispatch(0.0)
    assert bench.worker.take(64) is None


def test_items_are_counted_done_or_dropped_and_marks_are_neither() -> None:
    bench = Bench()
    bench.reach()
    bench.hear(run(0, 5, marks=bytes([ITEM, TOMB, ITEM, ITEM, EPOCH])))
    bench.hear(run(5, 2))
    bench.call(dropped=1)
    assert bench.worker.counters == Counters(arrived=3, done=2, dropped=1, dead=0)
    bench.worker.dispatch(0.0)
    bench.call()
    assert bench.worker.counters == Counters(arrived=5, done=4, dropped=1, dead=0)


def test_what_calls_take_sizes_the_windows_marks_among_them() -> None:
    bench = Bench()
    bench.reach()
    bench.hear(run(0, 4, marks=bytes([ITEM, ITEM, ITEM, EPOCH])))
    bench.call(busy_s=2.0)
    assert bench.inlet.service_s == 0.5


def test_a_hook_is_no_item_and_no_measure_of_the_calls() -> None:
    bench = Bench(memory=True, depths={0: 0}, lanes=(0,))
    bench.hear(run(0, marks=bytes([FIN])))
    job = bench.worker.take(64)
    assert job is not None and job.kind == "finish"
    bench.worker.done(job, busy_s=5.0, dropped=0)
    assert (bench.inlet.service_s, bench.worker.counters) == (None, Counters())


def test_a_stage_without_outputs_emits_nothing() -> None:
    bench = Bench(outputs=())
    bench.hear(run(0, 2))
    job = bench.call()
    assert (job.records[0].pend, bench.worker.outlet.out_items) == (0, 0)
    (ack,) = bench.acks()
    assert (ack.base, ack.consumed) == (3, 2)


def test_a_sink_that_commits_takes_many_runs_and_has_a_window_for_a_commit() -> None:
    bench = Bench(Limits(commit_items=40, window_max=30), outputs=(), commits=True)
    for position in range(3):
        bench.hear(run(position))
    assert bench.call().n == 3
    assert bench.inlet.least == 30


def test_other_stages_call_one_run_at_a_time_and_their_windows_follow_the_calls() -> None:
    bench = Bench()
    bench.reach()
    for position in range(3):
        bench.hear(run(position))
    assert bench.call().n == 1
    assert bench.inlet.least == 0


def test_a_partition_that_was_complete_in_an_earlier_life_has_ended() -> None:
    partitions = {0: (Position(5, 1, 3), True), 1: (Position(2), False)}
    bench = Bench(inputs=(), partitions=partitions, epochs=2)
    assert bench.source.watermarks() == {0: (Position(5, 1, 3), True), 1: (Position(2), False)}
    job = bench.worker.take(64)
    assert job is not None and (job.source, bench.source.epochs) == (1, 2)


def test_a_source_that_stops_makes_again_what_its_earlier_lives_have_made() -> None:
    bench = Bench(inputs=(), partitions={0: (Position(2), False)}, reaches={0: 5})
    bench.source.stopping = True
    job = bench.worker.take(64)
    assert job is not None and (job.source, job.room) == (0, 3)


# -- acks -----------------------------------------------------------------------------------------------


def test_an_input_is_acknowledged_when_what_was_made_of_it_is() -> None:
    bench = Bench()
    bench.reach()
    bench.hear(run(0, 3))
    bench.call()
    (before,) = bench.acks()
    assert (before.consumed, before.base) == (3, 1)
    bench.answer(got=3, base=4)
    (after,) = bench.acks()
    assert (after.consumed, after.base) == (3, 4)


def test_a_stage_says_quiet_when_it_and_all_below_have_nothing_to_do() -> None:
    bench = Bench()
    bench.reach()
    bench.hear(run(0))
    assert [ack.quiet for ack in bench.acks()] == [0]  # not called
    bench.call()
    assert [ack.quiet for ack in bench.acks()] == [0]  # not consumed below
    bench.answer(got=1, consumed=1, quiet=1, base=2)
    assert [ack.quiet for ack in bench.acks()] == [1]


def test_what_a_quiet_stage_and_those_below_wait_for_is_told_by_the_lanes_of_sources() -> None:
    bench = Bench(memory=True, depths={0: 0, 6: 0}, lanes=(0, 6), origins={0: 2})
    bench.reach()
    bench.answer(wants=[5, 2])
    bench.hear(Run(6, 0, (), 1, [Part()]))  # lane 0 comes first
    (ack,) = bench.acks()
    assert (ack.quiet, ack.wants) == (1, [2, 5])
    bench.hear(run(0))
    (busy,) = bench.acks()
    assert (busy.quiet, busy.wants) == (0, [])


def test_a_lane_of_no_known_origin_is_one_of_a_source() -> None:
    bench = Bench(memory=True, depths={0: 0, 6: 0}, lanes=(0, 6))
    bench.hear(Run(6, 0, (), 1, [Part()]))
    (ack,) = bench.acks()
    assert ack.wants == [0]


def test_a_worker_that_drains_says_so() -> None:
    bench = Bench()
    bench.open()
    assert [ack.state for ack in bench.acks()] == [0]
    bench.worker.draining = True
    bench.probe()
    assert [ack.state for ack in bench.acks()] == [1]


def test_that_a_source_above_waits_for_acks_is_passed_on_below() -> None:
    bench = Bench()
    bench.reach()
    bench.open()
    bench.actions()
    bench.probe(blocked=True)
    bench.worker.dispatch(0.0)
    assert bench.worker.pressed
    assert (bench.kinds(), bench.worker.outlet.pressed) == (["sync"], True)
    bench.probe()
    bench.worker.dispatch(0.0)
    assert not bench.worker.pressed
    assert (bench.kinds(), bench.worker.outlet.pressed) == (["sync"], False)


def test_a_source_whose_window_is_half_unsettled_presses_those_below() -> None:
    bench = Bench(Limits(source_items=4), inputs=(), partitions={0: (Position(), False)})
    bench.reach()
    for position, pressed in ((0, False), (1, True)):
        each, stretch = bench.source.made(0, [Part()], 10)
        assert each.position == position
        bench.worker.emit(each, stretch)
        bench.source.sent(stretch)
        bench.worker.dispatch(0.0)
        assert bench.worker.outlet.pressed == pressed
    assert not bench.worker.pressed  # nobody is above a source


def test_a_probe_goes_out_before_what_is_sent_after_it() -> None:
    bench = Bench()
    bench.reach()
    bench.hear(run(0))
    bench.call()
    bench.probe(blocked=True)
    bench.actions()
    bench.worker.dispatch(0.0)
    (sync, send) = bench.actions()
    assert (sync[0], sync[2], send[0], send[2]) == ("sync", 0, "send", 1)


def test_a_blocked_source_widens_its_window_when_all_below_is_quiet_and_waits_for_it() -> None:
    bench = Bench(Limits(source_items=2), inputs=(), partitions={0: (Position(), False)})
    bench.reach()
    each, stretch = bench.source.made(0, [Part(), Part()], 20)
    bench.worker.emit(each, stretch)
    bench.source.sent(stretch)
    bench.worker.dispatch(0.0)
    bench.answer(got=2, consumed=2, wants=[0])
    bench.worker.flush()
    assert bench.source.partitions[0].window == 2  # what is below may still settle something
    bench.answer(got=2, consumed=2, quiet=1)
    bench.worker.flush()
    assert bench.source.partitions[0].window == 2  # nobody waits
    bench.answer(got=2, consumed=2, quiet=1, wants=[0])
    bench.worker.flush()
    assert bench.source.partitions[0].window == 4


def test_acks_may_wait_while_nobody_above_is_short_of_them() -> None:
    bench = Bench()
    assert not bench.worker.may_wait
    bench.hear(run(0))
    assert bench.worker.may_wait
    bench.probe(blocked=True)
    assert not bench.worker.may_wait
    bench.probe()
    bench.acks()
    assert not bench.worker.may_wait  # nothing is left to say


def hungry(bench: Bench, now_s: float) -> float | None:
    """Flush with news for the sender, whose credit is used up; return since when credit is all that is missing."""
    bench.inlet.links[UP].limit = bench.inlet.links[UP].got
    bench.probe()
    bench.acks(now_s)
    return bench.inlet.hungry_s


def test_a_stage_is_hungry_when_nothing_is_queued_called_or_waiting_for_credit() -> None:
    bench = Bench()
    bench.reach(limit=1)
    bench.hear(run(0))
    assert hungry(bench, 1.0) is None  # it is queued
    job = bench.worker.take(64)
    assert job is not None and job.parent is not None
    assert hungry(bench, 2.0) is None  # it is called
    bench.worker.emit(run(0, 2), job.parent)
    bench.worker.done(job, busy_s=0.0, dropped=0)
    assert hungry(bench, 3.0) is None  # its second output has no credit
    bench.answer(limit=2)
    assert hungry(bench, 4.0) == 4.0


def test_the_round_trip_begins_when_the_last_event_was() -> None:
    bench = Bench(Limits(flight_s=0.0, flight_max_s=1.0))
    bench.reach()
    bench.hear(run(0))
    bench.call()
    bench.inlet.links[UP].limit = 1
    bench.worker.dispatch(3.0)
    bench.answer(now_s=4.0, got=1)
    bench.worker.flush()
    bench.hear(run(1), now_s=4.5)
    assert bench.inlet.flight_s == 0.125


# -- saves ----------------------------------------------------------------------------------------------


def remembering(**role: Any) -> Bench:
    return Bench(memory=True, depths={0: 0}, lanes=(0,), **role)


def test_a_save_stands_before_the_acks_that_it_covers() -> None:
    bench = remembering(outputs=())
    bench.hear(run(0, 2))
    bench.call()
    assert [ack.base for ack in bench.acks()] == [1]
    bench.memory.close_step("state")
    bench.worker.flush()
    save, ack = bench.actions()
    assert (save[0], save[1].state, save[1].cursor["next"]) == ("save", "state", [[0, [2]]])
    assert (ack[0], ack[1].base) == ("ack", 3)
    bench.probe()
    bench.worker.flush()
    assert bench.kinds() == ["ack"]  # nothing new to save


def test_a_save_holds_what_is_unsettled_and_the_next_life_sends_it_again() -> None:
    bench = remembering()
    bench.reach()
    bench.hear(run(0, 2))
    bench.call()
    bench.worker.dispatch(0.0)
    bench.memory.close_step("model", keeps_outs=True)
    bench.actions()
    bench.worker.flush()
    save: Save = bench.actions()[0][1]
    assert [(edge, out.position, out.n) for edge, out in save.outs] == [(4, 0, 2)]
    again = remembering()
    again.worker.restore(save)
    again.reach()
    again.worker.dispatch(0.0)
    ((kind, link, seq, out),) = again.actions()
    assert (kind, link.peer.inc, seq, out.run.position, out.run.n) == ("send", DOWN, 1, 0, 2)
    again.hear(run(0, 2))
    assert again.worker.take(64) is None
    assert [ack.base for ack in again.acks()] == [3]


def test_marks_that_a_stage_with_memory_passes_on_take_credit_but_no_time() -> None:
    bench = remembering()
    bench.reach()
    bench.hear(run(0, 3, marks=bytes([TOMB] * 3)))
    assert bench.worker.take(64) is None
    bench.worker.dispatch(0.0)
    assert [kind for kind in bench.kinds() if kind == "send"] == ["send"]
    bench.worker.flush()
    assert bench.inlet.service_s == 0.0
    bench.inlet.service_s = 1.0
    bench.worker.flush()
    assert bench.inlet.service_s == 1.0  # they are counted once


def test_marks_end_at_a_stage_with_memory_that_has_no_outputs() -> None:
    bench = remembering(outputs=())
    bench.hear(run(0, 2, marks=bytes([TOMB, TOMB])))
    assert bench.worker.take(64) is None
    assert not bench.worker.outlet.backlog


# -- leaving --------------------------------------------------------------------------------------------


def test_a_worker_may_leave_when_all_that_came_is_settled_and_acknowledged() -> None:
    bench = Bench()
    worker = bench.worker
    bench.reach()
    bench.hear(run(0))
    worker.draining = True
    assert not worker.is_drained  # it has something to call
    bench.call()
    bench.acks()
    assert not worker.is_drained  # what it made is not settled
    bench.answer(base=2, got=1, consumed=1)
    assert not worker.is_drained  # nobody above knows
    assert [ack.base for ack in bench.acks()] == [2]
    assert worker.is_drained
    worker.draining = False
    assert not worker.is_drained


def test_a_worker_that_is_to_leave_says_so_at_once() -> None:
    bench = Bench()
    bench.open()
    assert [ack.state for ack in bench.acks()] == [0]
    assert bench.acks() == []
    bench.worker.draining = True
    assert [ack.state for ack in bench.acks()] == [1]


# -- blocks ---------------------------------------------------------------------------------------------


def test_a_block_waits_to_fill_and_is_called_when_it_is_due() -> None:
    bench = Bench(block=3, wait_s=0.5)
    bench.reach()
    bench.hear(run(0, 2), now_s=10.0)
    assert bench.worker.take(3) is None
    assert (bench.worker.due_s, bench.worker.is_idle, bench.worker.intake.idle) == (10.5, True, False)
    bench.worker.dispatch(10.4)
    assert bench.worker.take(3) is None
    bench.worker.dispatch(10.5)
    job = bench.worker.take(3)
    assert job is not None and (job.n, bench.worker.due_s) == (2, None)


def test_a_block_that_is_full_waits_for_nothing_and_holds_no_more() -> None:
    bench = Bench(block=3, wait_s=0.5)
    bench.reach()
    bench.hear(run(0, 2), now_s=10.0)
    assert bench.worker.take(3) is None
    bench.hear(run(2, 2), now_s=10.1)
    job = bench.worker.take(3)
    assert job is not None and [(r.position, a, b) for r, a, b in job.stretches] == [(0, 0, 2), (2, 0, 1)]
    bench.worker.done(job, busy_s=0.0, dropped=0)
    assert bench.worker.take(3) is None  # what is left over waits anew
    assert bench.worker.due_s == 10.6


def test_a_block_does_not_wait_for_what_has_no_credit_to_come() -> None:
    for limit, limit_bytes in ((2, 10**6), (100, 29)):  # items, or bytes: each is 10
        bench = Bench(block=3, wait_s=0.5)
        bench.reach()
        bench.hear(run(0, 2), now_s=10.0)
        bench.inlet.links[UP].limit, bench.inlet.links[UP].limit_bytes = limit, limit_bytes
        job = bench.worker.take(3)
        assert job is not None and job.n == 2


def test_a_worker_that_is_to_leave_waits_for_no_block() -> None:
    bench = Bench(block=3, wait_s=0.5)
    bench.reach()
    bench.hear(run(0), now_s=10.0)
    bench.worker.draining = True
    job = bench.worker.take(3)
    assert job is not None and job.n == 1
