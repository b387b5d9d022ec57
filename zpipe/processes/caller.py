"""Runs a stage's code on jobs: calls it item by item and turns what it returns into runs with their paths.

Knows the forms of stages and their hooks; knows no socket, and no clock but the one it is given.  `perform`
is a generator: it stops wherever the worker should look at its links, and goes on when asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

from zpipe.core.histogram import Histogram, bucket
from zpipe.core.memory import Memory
from zpipe.core.outlet import Parent
from zpipe.core.work import Job
from zpipe.core.worker import Worker
from zpipe.processes import failpoints
from zpipe.processes.blame import Blame
from zpipe.processes.blocks import Blocks
from zpipe.processes.joiner import Joiner
from zpipe.processes.patience import Patience
from zpipe.processes.sourcecalls import SourceCalls
from zpipe.processes.stackedcalls import StackedCalls
from zpipe.processes.trouble import FAILURES, GIVEN_UP, Keeper, Spot, Steps, Trouble
from zpipe.stages import Grouping, Made, Member
from zpipe.values.context import Current, Output
from zpipe.values.errors import EncodeError, ProtocolError, StageError, ZpipeError
from zpipe.values.faults import did_you_mean
from zpipe.values.paths import Mark, Run, Spots
from zpipe.values.plan import StagePlan
from zpipe.values.stacks import stack
from zpipe.values.stage import ANY


class Codec(Protocol):
    """How items become parts of runs, and back; and states, whose arrays come back writable."""

    def encode(self, value: Any) -> Any: ...
    def encode_rows(self, array: Any) -> Sequence[Any]: ...
    def rows(self, run: Run) -> Any: ...
    def decode(self, run: Run) -> list[Any]: ...
    def parts(self, run: Run) -> Sequence[Any]: ...
    def encode_state(self, value: Any) -> Any: ...
    def decode_state(self, part: Any) -> Any: ...


class Committed:
    """An item as a sink's `commit` gets it."""

    __slots__ = ("epoch", "path", "value")

    def __init__(self, path: str, value: Any, epoch: int) -> None:
        self.path = path
        self.value = value
        self.epoch = epoch

    def __repr__(self) -> str:
        return f"Committed({self.path!r}, {self.value!r})"


class Caller:
    """The code of one stage in one worker: `target` is the function, the instance, or the source's maker."""

    def __init__(
        self, stage: StagePlan, target: Any, worker: Worker, codec: Codec, clock: Callable[[], float],
        current: Current, blame: Blame | None = None, letters: Keeper | None = None,
        patience: Patience | None = None,
    ) -> None:  # fmt: skip
        self.stage = stage
        self.target = target
        self.worker = worker
        self.codec = codec
        self.clock = clock
        self.current = current
        self.blame = blame or Blame(None, current)
        self.patience = patience or Patience()
        self.limits = worker.limits
        self.call = _spread(target, stage) if stage.spread else target
        self.grouping = target if isinstance(target, Grouping) else None
        if self.grouping is not None:
            self.grouping.number = stage.number
        self.saves_state = "state" in stage.hooks and self.grouping is None
        self.decode: Callable[[Run], Any] = codec.rows if stage.stacked else codec.decode
        if self.grouping is not None and self.grouping.passes:
            self.decode = codec.parts
        self.switches = worker.outlet.switches
        self.hook_position = 0  # of the hook lane
        self.since = 0  # items called since the last checkpoint
        self.source: SourceCalls | None = None
        self._perform: Callable[[Job], Iterator[None]]
        if stage.role == "source":
            self.source = (StackedCalls if stage.stacked else SourceCalls)(self)
            self._perform = self.source.perform
        elif stage.block:
            self._perform = Blocks(self).perform
        elif self.grouping is not None:
            self._perform = self._group
        elif "commit" in stage.hooks:
            self._perform = self._commit
        elif stage.form == "split":
            self._perform = self._split
        else:
            self._perform = self._map
        self.trouble = Trouble(self, letters)
        self.due_s = 0.0  # until when a job waits before it goes on
        self.dropped = 0
        self.busy_s = 0.0  # seconds inside the stage's code
        self.calls = Histogram()  # how long calls took: the first of each stretch, or more

    # -- jobs ---------------------------------------------------------------------------------------

    @property
    def limit(self) -> int:
        """Return how many items the next job may hold."""
        if self.stage.block:
            return self.stage.block
        if self.stage.stacked:
            return self.limits.stacked_items
        if self.grouping is not None:
            return self.grouping.room
        if self.saves_state:
            return max(
                1,
                min(self.limits.frame_items, (self.stage.checkpoint or self.limits.frame_items) - self.since),
            )
        return self.limits.commit_items if "commit" in self.stage.hooks else self.limits.frame_items

    def perform(self, job: Job) -> Iterator[None]:
        """Run the job; yields when the worker should look at its links."""
        self.dropped = 0
        self.trouble.begin()
        began, busy = self.clock(), self.busy_s
        perform = self._perform
        if job.kind in (Job.EPOCH, Job.FINISH):
            perform = self._epoch_end if job.kind == Job.EPOCH else self._finish
        try:
            for _ in perform(job):
                running = self.blame.pause()
                yield
                self.blame.resume(running)
        finally:
            self.blame.clear()
        self.trouble.passed()
        busy = self.busy_s - busy or self.clock() - began
        dropped, dead, repeated = self.dropped + self.trouble.dropped, self.trouble.dead, self.trouble.repeated
        self.worker.done(job, busy_s=busy, dropped=dropped, dead=dead, repeated=repeated)
        self.since += job.n
        if isinstance(self.worker.intake, Memory):
            self._close_step(self.worker.intake)

    def wait(self, seconds: float) -> Iterator[None]:
        """Let the worker look after its links for that long, in the middle of a job."""
        self.due_s = self.clock() + seconds
        yield
        while self.clock() < self.due_s:
            yield

    def _close_step(self, memory: Memory) -> None:
        if self.grouping is not None:
            if self.grouping.can_save:
                state = self.grouping.state()
                part = None if state is None else self._encode_state(state)
                memory.close_step([self.hook_position, part])
        elif not self.saves_state:
            memory.close_step([self.hook_position, None])
        elif memory.over or (self.stage.checkpoint and self.since >= self.stage.checkpoint):
            self.checkpoint(memory)

    def idle(self) -> None:
        """Nothing is to be called: close a step for what has been passed on meanwhile.

        A stage that saves its state does so when a source above waits for the acks that it holds back.
        """
        memory = self.worker.intake
        if not isinstance(memory, Memory) or not memory.moved:
            return
        if not self.saves_state:
            self._close_step(memory)
        elif self.worker.pressed:
            self.checkpoint(memory)

    def checkpoint(self, memory: Memory) -> None:
        """Close a step with the state of the stage; its outputs so far go into the save."""
        if memory.may_close:
            state = self._encode_state(self._call(lambda: self.target.state(), "state"))
            memory.close_step([self.hook_position, state], keeps_outs=True)
            self.since = 0

    def restore(self, state: Any) -> None:
        """Put the stage where a save stands."""
        self.hook_position, part = state
        if part is not None:
            value = self.codec.decode_state(part)
            self._call(lambda: self.target.restore(value), "restore")

    def values(self, run: Run) -> list[Any]:
        """Return the items of a run as the stage's code gets them; those that a group only passes on, encoded."""
        if run.values is None:
            try:
                run.values = self.decode(run)
            except ProtocolError as error:
                why = f"what came cannot be decoded: {error}: mend whoever sends it"
                raise self.failed(StageError(why), run, 0, run.n) from error
        return run.values

    # -- forms --------------------------------------------------------------------------------------

    def _map(self, job: Job) -> Iterator[None]:
        target, current, clock = self.call, self.current, self.clock
        note, sink = self.blame.note, not self.stage.outputs
        encode, switches = self.codec.encode, self.switches
        frame_bytes, frame_s = self.limits.frame_bytes, self.limits.frame_s
        trouble, doubts = self.trouble, self.trouble.doubts
        parent = job.parent
        assert parent is not None
        for run, a, b in job.stretches:
            values, marks = self.values(run), run.marks
            start, kinds, room = a, bytearray(), 0
            parts: list[Any] = []
            current.run = run
            began = since = clock()
            fresh = True  # the next call is the first since then
            for k in range(a, b):
                if marks is not None and marks[k]:
                    parts.append(None)
                    kinds.append(marks[k])
                    continue
                current.index = k
                try:
                    if doubts:
                        trouble.check(run, k)
                    note(run, k)
                    result = target(values[k])
                    part: Any = None
                    if not (sink or result is None):  # one call less for most
                        part = self.encode(result) if switches or type(result) is Output else encode(result)
                except FAILURES as error:
                    self.busy_s += clock() - since
                    if parts:  # they need not wait for what comes of it
                        self.worker.emit(run.like(start, parts, bytes(kinds) if any(kinds) else None), parent)
                        start, parts, kinds, room = k, [], bytearray(), 0
                    result = part = yield from trouble.handle(error, partial(self._again, values[k]), run, k)
                    began = since = clock()
                    fresh, current.run = True, run
                else:
                    if fresh:
                        fresh = False
                        self.calls[bucket(clock() - since)] += 1
                if sink:
                    continue
                if result is None or result is GIVEN_UP:
                    self.dropped += result is None
                    parts.append(None)
                    kinds.append(Mark.TOMB)
                    continue
                if part.room >= frame_bytes and parts:
                    self.worker.emit(run.like(start, parts, bytes(kinds) if any(kinds) else None), parent)
                    start, parts, kinds, room = k, [], bytearray(), 0
                parts.append(part)
                kinds.append(0)
                room += part.room
                now = clock()
                if k + 1 < b and (room >= frame_bytes or now - began >= frame_s):
                    self.worker.emit(run.like(start, parts, bytes(kinds) if any(kinds) else None), parent)
                    start, parts, kinds, room = k + 1, [], bytearray(), 0
                    self.busy_s += now - since
                    yield
                    began = since = clock()
                    fresh = True
                    current.run = run
            self.busy_s += clock() - since
            if parts:
                self.worker.emit(run.like(start, parts, bytes(kinds) if any(kinds) else None), parent)
            run.values = None if b == run.n else run.values

    def _again(self, value: Any) -> Steps:
        """Call for an item once more, and return its output, encoded."""
        since = self.clock()
        result = self.call(value)
        self.busy_s += self.clock() - since
        return None if result is None or not self.stage.outputs else self.encode(result)
        yield

    def _split(self, job: Job) -> Iterator[None]:
        assert job.parent is not None
        for run, a, b in job.stretches:
            values = self.values(run)
            for k in range(a, b):
                if run.mark(k):
                    self.worker.emit(run.like(k, [None], bytes([run.mark(k)])), job.parent)
                    continue
                busy, made = self.busy_s, None
                joiner = Joiner(self.worker, job.parent)
                children = partial(self._children, joiner, values[k], run, k)
                try:
                    self.current.run, self.current.index = run, k
                    if self.trouble.doubts:
                        self.trouble.check(run, k)
                    self.blame.note(run, k)
                    yield from children()
                except FAILURES as error:
                    made = yield from self.trouble.handle(error, children, run, k)
                if made is not GIVEN_UP:
                    joiner.add((*run.path(k), joiner.count), run.digest, run.epoch, Mark.END, None)
                joiner.flush()
                if made is GIVEN_UP:  # whatever has been made of it: nothing more comes
                    self.worker.emit(run.like(k, [None], bytes([Mark.TOMB])), job.parent)
                self.calls[bucket(self.busy_s - busy)] += 1
                yield

    def _children(self, joiner: Joiner, value: Any, run: Run, k: int) -> Steps:
        """Send what an item is split into, but not again what was sent before the call failed."""
        path, since = run.path(k), self.clock()
        sent, i = joiner.count, 0
        try:
            for child in self.call(value):
                if child is None:
                    continue
                i += 1
                if i <= sent:
                    continue
                joiner.add((*path, i - 1), run.digest, run.epoch, 0, self.encode(child))
                joiner.count = i
                if joiner.full:
                    joiner.flush()
                    self.busy_s += self.clock() - since
                    yield
                    since = self.clock()
                    self.current.run, self.current.index = run, k
        finally:
            self.busy_s += self.clock() - since

    def _group(self, job: Job) -> Iterator[None]:
        assert job.parent is not None and self.grouping is not None
        since, dropped = self.clock(), self.grouping.dropped
        joiner = Joiner(self.worker, job.parent)
        for run, a, b in job.stretches:
            values = self.values(run)
            self.current.run = run
            for k in range(a, b):
                self.current.index = k
                member = Member(run.path(k), run.digest, run.epoch, values[k])
                self._send(joiner, self.guarded(self.grouping.add(member), run, k))
        joiner.flush()
        self.dropped = self.grouping.dropped - dropped
        took = self.clock() - since
        self.busy_s += took
        self.calls[bucket(took / job.n)] += 1
        return
        yield

    def _send(self, joiner: Joiner, made: Iterable[Made]) -> None:
        for entry in made:
            part = entry.value
            if not entry.mark and not (self.grouping is not None and self.grouping.passes):
                part = self._encode_made(part, "a group")
            joiner.add(entry.path, entry.digest, entry.epoch, entry.mark, part)

    def _commit(self, job: Job) -> Iterator[None]:
        spots = Spots(job.stretches)
        if spots:
            yield from self.trouble.together(spots, self._committed)

    def _committed(self, spots: Sequence[Spot]) -> Sequence[Any]:
        """Let the sink commit items, and return nothing for each."""
        names = self.current.lane_names
        items = [Committed(run.text(names, k), self.values(run)[k], run.epoch_of(names, k)) for run, k in spots]
        self.current.run, self.current.index = spots[0]
        since = self.clock()
        self.target.commit(items)
        failpoints.hit("committed")
        took = self.clock() - since
        self.busy_s += took
        self.calls[bucket(took)] += 1
        return [None] * len(spots)

    # -- boundaries ---------------------------------------------------------------------------------

    def _epoch_end(self, job: Job) -> Iterator[None]:
        assert job.parent is not None
        if self.grouping is not None:
            assert isinstance(self.worker.intake, Memory)
            starts = {lane: at[0] for lane, at in self.worker.intake.called_order.next.items()}
            self._send_rest(job.parent, self.grouping.epoch_end(starts), "epoch_end")
            return
        hook = getattr(self.target, "epoch_end", None)
        yield from self._hook(job.parent, hook and (lambda: hook(job.epoch)), "epoch_end", job.epoch, Mark.EPOCH)

    def _finish(self, job: Job) -> Iterator[None]:
        assert job.parent is not None
        if self.grouping is not None:
            self._send_rest(job.parent, self.grouping.flush(), "finish")
            return
        hook = getattr(self.target, "finish", None)
        yield from self._hook(job.parent, hook, "finish", job.epoch, Mark.FIN)

    def _send_rest(self, parent: Parent, made: Iterable[Made], name: str) -> None:
        """Send what a grouping stage makes of what was open."""
        assert self.grouping is not None
        dropped, joiner = self.grouping.dropped, Joiner(self.worker, parent)
        self._send(joiner, self._guarded_hook(made, name))
        joiner.flush()
        self.dropped = self.grouping.dropped - dropped

    def _hook(
        self, parent: Parent, hook: Callable[[], Any] | None, name: str, epoch: int, mark: Mark
    ) -> Iterator[None]:
        """Call a hook; what it makes are positions of the stage's own lane."""
        lane = self.stage.hook_lane
        made = self._call(hook, name) if hook is not None else None
        if lane is None:
            if made is not None and hasattr(made, "__next__"):
                for _ in self._guarded_hook(made, name):
                    pass
            return
        items: Iterable[Any] = [] if made is None else made if hasattr(made, "__next__") else [made]
        joiner = Joiner(self.worker, parent)
        for item in self._guarded_hook(items, name):
            joiner.add((lane, self.hook_position), 0, epoch, 0, self._encode_made(item, name))
            self.hook_position += 1
            if joiner.full:
                joiner.flush()
                yield
        joiner.add((lane, self.hook_position), 0, epoch, mark, None)
        self.hook_position += 1
        joiner.flush()

    # -- failures -----------------------------------------------------------------------------------

    def _call(self, hook: Callable[[], Any], name: str) -> Any:
        try:
            return hook()
        except Exception as error:
            raise self._hook_failed(error, name) from error

    def _guarded_hook(self, made: Iterable[Any], name: str) -> Iterator[Any]:
        try:
            yield from made
        except Exception as error:
            raise self._hook_failed(error, name) from error

    def _encode_made(self, value: Any, name: str) -> Any:
        try:
            return self.encode(value)
        except ZpipeError as error:
            raise self._hook_failed(error, name) from error

    def _encode_state(self, value: Any) -> Any:
        try:
            # A copy: the stage goes on writing to its arrays before the save is written.
            return self.codec.encode_state(thaw(value))
        except ZpipeError as error:
            raise self._hook_failed(error, "state") from error

    def _hook_failed(self, error: Exception, name: str) -> StageError:
        what = "failed" if isinstance(error, ZpipeError) else f"raised {type(error).__name__}"
        kind = EncodeError if isinstance(error, EncodeError) else StageError
        return kind(f"stage {self.stage.name!r} {what} in {name}: {one_line(error)}")

    def guarded(self, iterator: Iterator[Any], run: Run, k: int) -> Iterator[Any]:
        try:
            yield from iterator
        except Exception as error:
            raise self.failed(error, run, k) from error

    def encoded(self, value: Any, run: Run, k: int) -> Any:
        """Encode an output of an item whose failure ends the run."""
        try:
            return self.encode(value)
        except ZpipeError as error:
            raise self.failed(error, run, k) from error

    def encode(self, value: Any) -> Any:
        encode = self.codec.encode
        return self._addressed(encode, value) if self.switches or type(value) is Output else encode(value)

    def _addressed(self, encode: Callable[[Any], Any], value: Any) -> Any:
        """Encode what goes to a named output, or to none at a stage that has some."""
        name, value = (value.name, value.value) if type(value) is Output else ("", value)
        outputs = self.worker.outlet.outputs
        if name and ANY in outputs:
            name, value = ANY, {ANY: name, "value": value}
        if name not in outputs:
            raise StageError(_unread(self.stage.stage, name, outputs))
        part = encode(value)
        part.output = name
        return part

    def failed(self, error: BaseException, run: Run, k: int, block: int = 1) -> StageError:
        where = f"stage {self.stage.name!r} at {run.text(self.current.lane_names, k)}"
        where += f" and {block - 1} more items" if block > 1 else ""
        what = "" if isinstance(error, ZpipeError) else f" raised {type(error).__name__}"
        kind = EncodeError if isinstance(error, EncodeError) else StageError
        return kind(f"{where}{what}: {one_line(error)}")


def _spread(target: Callable[..., Any], stage: StagePlan) -> Callable[[list[Any]], Any]:
    """Return what calls `target` with the items of a join one by one, or with all those of each arm."""
    if not stage.block:
        return lambda items: target(*items)
    together = stack if stage.stacked else list
    return lambda items: target(*map(together, zip(*items, strict=True)))


def _unread(stage: str, name: str, outputs: set[str]) -> str:
    names = sorted(outputs - {""})
    if not name:
        there = ", ".join(f"zp.out({known!r}, ...)" for known in names)
        return f"the item goes to no output, but only named ones of {stage!r} are read: return {there}"
    hint = did_you_mean(name, names) or f": let a stage read '{stage}.{name}'"
    return f"the item goes to output {name!r}, which no stage reads{hint}"


def one_line(error: BaseException) -> str:
    """Return the text of an error in one line."""
    return " ".join(str(error).split())


def thaw(value: Any) -> Any:
    """Return a state that shares no array with `value`, and whose arrays may be written to."""
    if isinstance(value, dict):
        return {key: thaw(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        copies = [thaw(x) for x in value]
        return copies if isinstance(value, list) else tuple(copies)
    return value.copy() if hasattr(value, "__array_interface__") else value
