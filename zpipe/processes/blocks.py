"""Calls a stage's code for several items at once: for a block of them, or to make a group of what has come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from zpipe.core.histogram import bucket
from zpipe.core.work import Job
from zpipe.processes.joiner import send
from zpipe.stages import Member
from zpipe.values.errors import StageError
from zpipe.values.paths import Mark, Run

if TYPE_CHECKING:
    from zpipe.processes.caller import Caller


class Blocks:
    """The calls of one stage; `perform` is a form of the caller."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.perform = self._call if caller.grouping is None else self._gather

    def _call(self, job: Job) -> Iterator[None]:
        """Call once for all items of the job; each output goes where its own input stood."""
        spots = [(run, k) for run, a, b in job.stretches for k in range(a, b) if not run.mark(k)]
        results = iter(self._called(spots) if spots else ())
        for record, (run, a, b) in zip(job.records, job.stretches, strict=True):
            if self.caller.stage.outputs:
                parts = [None if run.mark(k) else self._part(next(results), run, k) for k in range(a, b)]
                kinds = bytes(run.mark(k) or (Mark.TOMB if parts[k - a] is None else 0) for k in range(a, b))
                send(self.caller.worker, run, a, parts, kinds, record)
            run.values = None if b == run.n else run.values
        return
        yield

    def _called(self, spots: list[tuple[Run, int]]) -> Sequence[Any]:
        """Return what the stage makes of these items, one output for each."""
        run, k = spots[0]
        current, since = self.caller.current, self.caller.clock()
        current.run, current.index, current.block = run, k, spots
        self.caller.blame.note(run, k)
        try:
            made = self.caller.call([self.caller.values(run)[k] for run, k in spots])
        except Exception as error:
            raise self.caller.failed(error, run, k, len(spots)) from error
        finally:
            current.block = None
        took = self.caller.clock() - since
        self.caller.busy_s += took
        self.caller.calls[bucket(took)] += 1
        if self.caller.stage.outputs and not (isinstance(made, list | tuple) or hasattr(made, "__array_interface__")):
            what = f"returned a {type(made).__name__}: return a list with an output for each item, None to drop it"
        elif self.caller.stage.outputs and len(made) != len(spots):
            what = f"returned {len(made)} outputs: return one for each item, None to drop it"
        else:
            return made if self.caller.stage.outputs else ()
        raise self.caller.failed(StageError(what), run, k, len(spots))

    def _part(self, result: Any, run: Run, k: int) -> Any:
        if result is None:
            self.caller.dropped += 1
            return None
        return self.caller.encoded(self.caller.codec.encode, result, run, k)

    def _gather(self, job: Job) -> Iterator[None]:
        """Make one group of what has come, in the order in which it has."""
        assert self.caller.grouping is not None
        since = self.caller.clock()
        members = [
            Member(run.path(k), run.digest, run.epoch, self.caller.values(run)[k])
            for run, a, b in job.stretches
            for k in range(a, b)
        ]
        run, k, _ = job.stretches[0]
        self.caller.current.run, self.caller.current.index = run, k
        for made in self.caller.guarded(self.caller.grouping.made(members), run, k):
            if made.mark == Mark.ITEM:  # marks are for stages with memory, and there is none below
                lane, position, *elements = made.path
                part = self.caller.encoded(self.caller.codec.encode, made.value, run, k)
                group = Run(lane, position, tuple(elements), 1, [part], epoch=made.epoch, digest=made.digest)
                self.caller.worker.emit(group, *job.records)
        self.caller.busy_s += self.caller.clock() - since
        return
        yield
