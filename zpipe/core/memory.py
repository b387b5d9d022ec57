"""Stages with memory: inputs in source order, a save before every ack.

What arrives is put into order by the cursor `arrived`; what is called moves the cursor `called`.  Outputs
belong to the step that was open when they were made; a step closes where the stage can be saved, and is
covered when its outputs are settled, or are in the save themselves.  Only what a save covers is settled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

from zpipe.core.inlet import Address
from zpipe.core.order import Order, covers
from zpipe.core.work import Job
from zpipe.values.paths import Mark, Path, Run


@dataclass
class Save:
    """What is written, as one, before anything it covers is acknowledged."""

    cursor: dict[str, Any]
    state: Any
    outs: list[tuple[int, Run]]  # (edge, run) made before the cursor and not yet settled


class Step:
    """The outputs between two places where the stage can be saved."""

    __slots__ = ("closed", "cursor", "keeps_outs", "last", "memory", "outs", "pend", "state")

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.pend = 0
        self.closed = False
        self.cursor: dict[str, Any] = {}
        self.state: Any = None
        self.keeps_outs = False
        self.last = False
        self.outs: list[tuple[int, Run]] = []

    def settled(self) -> None:
        self.memory.cover()


class Held:
    """Items that have arrived, or tombstones, one behind the other: a run, `n` in it from `i` on, and their frame."""

    __slots__ = ("address", "i", "mark", "n", "run")

    def __init__(self, address: Address, run: Run, i: int, n: int = 1) -> None:
        self.address = address
        self.run = run
        self.i = i
        self.n = n
        self.mark = run.mark(i)

    def follows(self, other: Held) -> bool:
        """Tell whether these may stand behind `other` in one run."""
        mine, its = self.run, other.run
        if mine.digest != its.digest or mine.epoch != its.epoch:
            return False
        path, last = mine.path(self.i), its.path(other.i)
        return path[:-1] == last[:-1] and path[-1] == last[-1] + other.n


class Memory:
    """The intake of a stage with memory: one worker, source order.

    `pass_on(run, step)` sends marks further down; `outs()` lists what is unsettled, for a save.
    """

    def __init__(
        self,
        depths: Mapping[int, int],
        lanes: Sequence[int],
        hooks: Sequence[int],
        pass_on: Callable[[Run, Step], None],
        outs: Callable[[], list[tuple[int, Run]]],
    ) -> None:
        self.arrived_order = Order(depths, lanes, hooks)
        self.called_order = Order(depths, lanes, hooks)
        self.saved: dict[int, Path] = dict(self.called_order.next)
        self.pass_on = pass_on
        self.outs = outs
        self.held: dict[Path, Held] = {}
        self.queue: deque[Held] = deque()  # in order, not yet called
        self.addresses: dict[int, list[tuple[Path, int, Address]]] = {lane: [] for lane in self.called_order.next}
        self.steps: deque[Step] = deque()
        self.step = Step(self)
        self.covered: Step | None = None  # the last step that may be saved
        self.boundary: tuple[str, int] | None = None
        self.over = False
        self.passed = 0  # marks passed on that nobody has counted as work
        self.moved = False  # whether the cursor has moved since the last step was closed
        self.repeats = 0
        self.parked_bytes = 0  # of frames whose credit has returned and that are not called yet
        self.saves = 0
        self._count = 0
        self._queued = 0  # items and marks in the queue

    # -- arrival ------------------------------------------------------------------------------------

    def arrived(self, address: Address, run: Run) -> None:
        order = self.arrived_order
        lane = run.lane
        if lane not in self.saved:
            return
        last = run.path(run.n - 1)[1:]
        if covers(self.saved[lane], last):
            self.repeats += run.n
            address.consume()
            address.settle()
            return
        self._count += 1
        heappush(self.addresses[lane], (last, self._count, address))
        if not self.held and self._is_next(run):
            self._enqueue(Held(address, run, 0, run.n), run.path(0))
            return
        for i in range(run.n):
            path = run.path(i)
            if order.covers(path) or path in self.held:
                self.repeats += 1
                address.left -= 1
            else:
                self.held[path] = Held(address, run, i)
        self._sequence()
        # What fills no gap is parked: its credit returns at once, or the item it waits for might never come.
        if address.left == 0 or any(run.path(i) in self.held for i in range(run.n)):
            self.parked_bytes += address.nbytes if address.left else 0
            address.consume()

    def _is_next(self, run: Run) -> bool:
        """Tell whether all of a run, items only or tombstones only, is what comes next."""
        expected, path, marks = self.arrived_order.expects, run.path(0), run.marks
        if expected is None or expected[: len(path)] != path:
            return False
        if marks is None:
            if len(path) < len(expected):
                return False
        elif marks.count(Mark.TOMB) < run.n:
            return False
        return self.arrived_order.stride(path, run.n) == run.n

    def _sequence(self) -> None:
        """Move what is next in source order from `held` to the queue."""
        order = self.arrived_order
        while (expected := order.expects) is not None:
            held = self.held.pop(expected, None)
            at = expected
            if held is None:
                # A word about a whole subtree stands at a prefix of the path that is expected.
                for k in range(len(expected) - 1, 1, -1):
                    candidate = self.held.get(expected[:k])
                    if candidate is not None and candidate.mark != Mark.ITEM:
                        held, at = self.held.pop(expected[:k]), expected[:k]
                        self._discard_below(at)
                        break
            if held is None:
                return
            self._enqueue(held, at)

    def _discard_below(self, at: Path) -> None:
        """Forget what has come from an item that was given up before it was done."""
        for path in [path for path in self.held if path[: len(at)] == at]:
            self.held.pop(path).address.left -= 1

    def _enqueue(self, held: Held, at: Path) -> None:
        self.queue.append(held)
        self._queued += held.n
        self.arrived_order.advance(at, held.mark, held.n)

    # -- calls --------------------------------------------------------------------------------------

    def take(self, limit: int) -> Job | None:
        """Return up to `limit` items that are next, or the boundary that is; pass marks on meanwhile."""
        if self.boundary is not None:
            kind, epoch = self.boundary
            job = Job(kind, self.step)
            job.epoch = epoch
            return job
        job = Job(Job.ITEMS, self.step)
        marks: list[Held] = []
        self.moved = self.moved or bool(self.queue)
        while self.queue and job.n < limit:
            held = self._next(limit - job.n)
            self._queued -= held.n
            if held.mark == Mark.ITEM:
                job.add(held.run, held.i, held.i + held.n)
            else:
                if marks and not held.follows(marks[-1]):
                    self._pass_on(marks)
                    marks = []
                marks.append(held)
                self.passed += held.n
            held.address.left -= held.n
            if held.address.left == 0:
                self.parked_bytes -= held.address.nbytes if held.address.returned else 0
                held.address.consume()
            boundary = self.called_order.advance(held.run.path(held.i), held.mark, held.n)
            if boundary is not None:
                over = boundary == "over"
                epoch = self.called_order.epoch - (not over)
                self.boundary = (Job.FINISH if over else Job.EPOCH, epoch)
                break
        if marks:
            self._pass_on(marks)
        if job.n:
            return job
        return self.take(limit) if self.boundary is not None else None

    def _next(self, room: int) -> Held:
        """Take from the queue what is first in it, of items at most `room`."""
        first = self.queue[0]
        if first.mark != Mark.ITEM or first.n <= room:
            return self.queue.popleft()
        held = Held(first.address, first.run, first.i, room)
        first.i += room
        first.n -= room
        return held

    def _pass_on(self, marks: list[Held]) -> None:
        """Send marks that follow each other further down, as one run."""
        first = marks[0]
        kinds = b"".join(bytes((held.mark,)) * held.n for held in marks)
        self.pass_on(first.run.like(first.i, [None] * len(kinds), kinds), self.step)

    def done(self, job: Job) -> None:
        if job.kind in (Job.EPOCH, Job.FINISH):
            self.boundary = None
            self.over = self.over or job.kind == Job.FINISH

    # -- steps and saves ----------------------------------------------------------------------------

    def close_step(self, state: Any = None, *, keeps_outs: bool = False) -> None:
        """The stage can be saved here: `state` is what it would begin with, its outputs so far in the save or not."""
        if not self.may_close:
            return
        step = self.step
        step.closed = True
        step.cursor = self.called_order.snapshot()
        step.state = state
        step.last = self.over
        step.keeps_outs = keeps_outs and not step.last
        if step.keeps_outs:
            step.outs = self.outs()
        self.steps.append(step)
        self.step = Step(self)
        self.moved = False
        self.cover()

    @property
    def may_close(self) -> bool:
        """Tell whether the stage can be saved: not while the cursor is past a mark whose hook was not called."""
        return self.boundary is None

    def cover(self) -> None:
        """Find the last step up to which everything is settled, or kept in the save."""
        while self.steps and self._is_covered(self.steps[0]):
            self.covered = self.steps.popleft()

    def _is_covered(self, step: Step) -> bool:
        if step.keeps_outs:
            return True
        # The last save is the end of this stage: even what earlier saves kept must be settled by then.
        return step.pend == 0 and not (step.last and self.outs())

    def save(self) -> Save | None:
        """Return what is to be written now, None when there is nothing new; then call `written`."""
        if self.over:
            self.cover()
        step, self.covered = self.covered, None
        if step is None:
            return None
        self.saves += 1
        self.saved = {lane: tuple(at) for lane, at in step.cursor["next"]}
        return Save(step.cursor, step.state, step.outs)

    def written(self) -> None:
        """The save is durable: settle what it covers."""
        for lane, addresses in self.addresses.items():
            cursor = self.saved[lane]
            while addresses and covers(cursor, addresses[0][0]):
                heappop(addresses)[2].settle()

    def restore(self, save: Save) -> None:
        """Begin where a save stands."""
        self.arrived_order.restore(save.cursor)
        self.called_order.restore(save.cursor)
        self.saved = dict(self.called_order.next)
        self.over = self.called_order.turn is None

    # -- what others ask ----------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        return not self.queue and self.boundary is None

    def wants(self) -> set[int]:
        """Return the lane whose next position this stage waits for, when it holds anything back."""
        turn = self.arrived_order.turn
        if turn is None or not any(self.addresses.values()):
            return set()
        return {turn}

    @property
    def queued_items(self) -> int:
        return self._queued + len(self.held)
