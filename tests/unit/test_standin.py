"""Who does what while the code of a source runs: by hand, in threads that end before anything goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.unit.test_caller import Clock, Codec
from tests.unit.test_registry import stage
from tests.unit.test_worker import Bench
from zpipe.core.limits import Limits
from zpipe.core.source import Position
from zpipe.processes.caller import Caller
from zpipe.processes.sourcecalls import SourceCalls
from zpipe.processes.standin import IDLE_S, PERIOD_S, StandIn
from zpipe.values.context import Current
from zpipe.values.errors import StageError
from zpipe.values.paths import Mark, Run

FAST_S, SLOW_S, LONG_S = 1e-6, 0.001, 60.0
Sent = tuple[int, int, int, int | None]  # lane, position, items, the mark of the first


class Live:
    """A source worker whose code is `target`, with a look at what it sends."""

    def __init__(
        self, target: Any, limits: Limits | None = None, *, stands_at: int = 0, reach: int = 0, **more: Any
    ) -> None:
        partitions = {lane: (Position(stands_at), False) for lane in more.pop("lanes", (0,))}
        self.clock = Clock()
        self.bench = Bench(limits, inputs=(), partitions=partitions, reaches=dict.fromkeys(partitions, reach))
        self.bench.reach()
        self.current = Current("live", worker="live-1", lane_names={0: "a", 1: "b"}, run_key=0, run_folder=Path())
        made = stage(0, "live", "source", outputs=(4,), lanes=tuple(partitions), **more)
        self.caller = Caller(made, target, self.bench.worker, Codec([]), self.clock, self.current)
        self.sent: list[Sent] = []
        self.bench.worker.tap = self._note

    def _note(self, run: Run) -> None:
        self.sent.append((run.lane, run.position, run.n, run.marks and run.marks[0]))

    @property
    def source(self) -> SourceCalls:
        assert self.caller.source is not None
        return self.caller.source

    def call(self) -> bool:
        """Do the next job; tells whether there was one."""
        job = self.bench.worker.take(self.caller.limit)
        if job is not None:
            for _ in self.caller.perform(job):
                pass
            self.bench.worker.dispatch(0.0)
        return job is not None

    def stand_in(self) -> bool:
        """Do in another thread what is done while the code runs; tells whether there was anything."""
        return inside(self, self.source.hand_over)

    def stop(self) -> None:
        self.bench.source.stopping = True

    def takes(self, *seconds: float) -> Iterator[int]:
        """Make numbers, each of which takes so long."""
        for number, took_s in enumerate(seconds):
            self.clock.take(took_s)
            yield number


def apart(call: Callable[[], Any]) -> Any:
    """Call in a thread of its own, and return what that returns, None where it does not."""
    found: list[Any] = []

    def run() -> None:
        with suppress(SystemExit):
            found.append(call())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0] if found else None


def inside(live: Live, call: Callable[[], Any]) -> Any:
    """Call in another thread that takes the lock, which must be free."""

    def turn() -> Any:
        assert live.source.lock.acquire(blocking=False)
        try:
            return call()
        finally:
            live.source.lock.release()

    return apart(turn)


def may_take(live: Live) -> bool:
    """Tell whether another thread gets the lock."""

    def take() -> bool:
        taken = live.source.lock.acquire(blocking=False)
        if taken:
            live.source.lock.release()
        return taken

    return bool(apart(take))


# -- what is joined -------------------------------------------------------------------------------------


def test_items_that_are_made_fast_are_sent_together() -> None:
    live = Live(lambda: live.takes(*[FAST_S] * 6), Limits(frame_items=4))
    live.call()
    assert live.sent == [(0, 0, 4, None)]


def test_an_item_that_takes_longer_than_to_send_it_goes_out_at_once() -> None:
    live = Live(lambda: live.takes(*[SLOW_S] * 3))
    for _ in range(3):
        live.call()
    assert live.sent == [(0, 0, 1, None), (0, 1, 1, None), (0, 2, 1, None)]


def test_what_was_made_fast_goes_out_with_the_slow_item_behind_it() -> None:
    live = Live(lambda: live.takes(SLOW_S, FAST_S, FAST_S, SLOW_S, FAST_S))
    for _ in range(3):
        live.call()
    assert live.sent == [(0, 0, 1, None), (0, 1, 3, None), (0, 4, 1, None), (0, 5, 1, Mark.EPOCH)]


# -- the lock -------------------------------------------------------------------------------------------


def test_the_lock_is_free_only_while_the_code_of_the_source_runs() -> None:
    free = []

    def target() -> Iterator[int]:
        free.append(may_take(live))
        yield 1
        free.append(may_take(live))

    live = Live(target)
    assert not may_take(live)
    live.call()
    assert free == [True, True]
    assert not may_take(live)


@pytest.mark.parametrize("replay", ["skip", "seek"])
def test_it_is_free_while_an_epoch_is_begun_where_it_was_left(replay: str) -> None:
    free = []

    def target(start: int = 0) -> Iterator[int]:
        free.append(may_take(live))
        return iter(range(start, 9))

    live = Live(target, stands_at=3, replay=replay)
    live.call()
    assert (free, live.sent) == ([True], [(0, 3, 6, None), (0, 9, 1, Mark.EPOCH)])
    assert not may_take(live)


def test_it_is_taken_back_when_the_code_raises() -> None:
    def target() -> Iterator[int]:
        raise ValueError("no more")
        yield

    live = Live(target)
    with pytest.raises(StageError, match="no more"):
        live.call()
    assert not may_take(live)


# -- what is handed over --------------------------------------------------------------------------------


def test_what_was_made_leaves_while_the_next_is_waited_for_and_positions_go_on() -> None:
    seen = []

    def target() -> Iterator[int]:
        yield from live.takes(FAST_S, FAST_S)
        seen.append((live.stand_in(), live.sent[:], live.current.item().path))
        live.clock.take(LONG_S)
        yield 2
        seen.append((live.stand_in(), live.sent[:], live.current.item().path))

    live = Live(target)
    while live.call():
        pass
    two, three = [(0, 0, 2, None)], [(0, 0, 2, None), (0, 2, 1, None)]
    assert seen == [(True, two, "a:2"), (False, three, "a:3")]
    assert live.sent == [*three, (0, 3, 1, Mark.EPOCH), (0, 4, 1, Mark.FIN)]
    assert (live.bench.worker.counters.arrived, live.bench.worker.counters.done) == (3, 3)


def test_the_room_of_a_job_is_not_widened_by_what_was_handed_over() -> None:
    def target() -> Iterator[int]:
        yield from live.takes(FAST_S, FAST_S)
        live.stand_in()
        yield from live.takes(FAST_S, FAST_S, FAST_S)

    live = Live(target, Limits(source_items=4))
    live.call()
    assert live.sent == [(0, 0, 2, None), (0, 2, 2, None)]
    assert not live.call()


# -- told to stop meanwhile -----------------------------------------------------------------------------


def test_a_partition_that_is_to_stop_ends_while_its_next_item_is_waited_for() -> None:
    def target() -> Iterator[int]:
        yield from live.takes(FAST_S, FAST_S)
        live.stop()
        live.stand_in()
        ended.extend(live.sent)
        yield 2

    ended: list[Sent] = []
    live = Live(target)
    while live.call():
        pass
    assert ended == live.sent == [(0, 0, 2, None), (0, 2, 1, Mark.FIN)]
    assert live.bench.worker.counters.done == 2


@pytest.mark.parametrize("raises", [True, False])
def test_what_the_code_comes_to_after_that_is_nothing(raises: bool) -> None:
    def target() -> Iterator[int]:
        yield from live.takes(FAST_S)
        live.stop()
        live.stand_in()
        if raises:
            raise ValueError("closed")

    live = Live(target)
    while live.call():
        pass
    assert live.sent == [(0, 0, 1, None), (0, 1, 1, Mark.FIN)]


def test_a_partition_may_end_while_its_epoch_is_begun() -> None:
    def target() -> Iterator[int]:
        live.stop()
        live.stand_in()
        return live.takes(FAST_S)

    live = Live(target)
    while live.call():
        pass
    assert live.sent == [(0, 0, 1, Mark.FIN)]


def test_the_other_partitions_of_the_worker_end_too() -> None:
    def target() -> Iterator[int]:
        yield from live.takes(SLOW_S)
        live.stop()
        live.stand_in()
        yield 1

    live = Live(target, lanes=(0, 1))
    while live.call():
        pass
    assert live.sent == [(0, 0, 1, None), (1, 0, 1, None), (0, 1, 1, Mark.FIN), (1, 1, 1, Mark.FIN)]


def test_what_an_earlier_life_had_made_is_waited_for() -> None:
    def target() -> Iterator[int]:
        yield 0
        live.stop()
        ended.append(live.stand_in())
        yield 1
        yield 2

    ended: list[bool] = []
    live = Live(target, reach=2)
    while live.call():
        pass
    assert ended == [True]  # what was made was sent, but no end
    assert [sent[1:] for sent in live.sent] == [(0, 1, None), (1, 2, None), (3, 1, Mark.EPOCH), (4, 1, Mark.FIN)]


def test_an_end_waits_for_room_in_the_window() -> None:
    def target() -> Iterator[int]:
        yield from live.takes(FAST_S)
        live.stop()
        live.bench.source.bytes_max = 1
        handed.append((live.stand_in(), live.stand_in()))

    handed: list[tuple[bool, bool]] = []
    live = Live(target)
    live.call()
    assert (handed, live.sent) == ([(True, False)], [(0, 0, 1, None), (0, 1, 1, Mark.EPOCH)])


# -- when -----------------------------------------------------------------------------------------------


class Turns:
    """Counts the turns of a stand-in, and fails at the one that it is told to."""

    def __init__(self, live: Live, *, busy: bool = True, error: BaseException | None = None) -> None:
        self.n = 0
        self.busy = busy
        self.error = error
        self.ended: list[BaseException] = []
        self.standin = StandIn(live.source, self._turn, self._end)

    def _turn(self) -> bool:
        self.n += 1
        if self.error is not None:
            raise self.error
        return self.busy

    def _end(self, error: BaseException) -> NoReturn:
        self.ended.append(error)
        raise SystemExit  # which ends the thread, as the process

    def look(self) -> tuple[float, int]:
        """Look in another thread; return when to look again, and the turns so far."""
        return apart(self.standin.look), self.n


def test_one_stands_in_when_two_looks_meet_the_same_call() -> None:
    seen = []

    def target() -> Iterator[int]:
        seen.extend([turns.look(), turns.look(), turns.look()])
        yield 0
        seen.extend([turns.look(), turns.look()])
        yield 1

    live = Live(target)
    turns = Turns(live)
    seen.append(turns.look())  # the loop has the lock
    live.call()
    assert [n for _, n in seen] == [0, 0, 1, 2, 2, 3]
    assert {pause_s for pause_s, _ in seen} == {PERIOD_S}
    assert turns.look() == (PERIOD_S, 3)


def test_where_there_is_nothing_to_do_the_next_look_comes_later() -> None:
    seen = []

    def target() -> Iterator[int]:
        seen.extend([turns.look(), turns.look()])
        yield 0

    live = Live(target)
    turns = Turns(live, busy=False)
    live.call()
    assert seen == [(PERIOD_S, 0), (IDLE_S, 1)]


def test_what_goes_wrong_ends_the_process_though_the_call_does_not_return() -> None:
    seen = []

    def target() -> Iterator[int]:
        apart(turns.standin.look)
        apart(turns.standin.look)
        seen.extend(turns.ended)
        yield 0

    live = Live(target)
    error = ValueError("no such link")
    turns = Turns(live, error=error)
    live.call()
    assert seen == [error]
