"""Calls a stage's code for several items at once: for a block of them, or to make a group of what has come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from zpipe.core.histogram import bucket
from zpipe.core.outlet import Parent
from zpipe.core.work import Job
from zpipe.processes.blame import stretches_of
from zpipe.processes.joiner import send
from zpipe.processes.trouble import GIVEN_UP, Spot
from zpipe.stages import Member
from zpipe.values.errors import StageError
from zpipe.values.paths import Mark, Run, Spots
from zpipe.values.stacks import stacked

if TYPE_CHECKING:
    from zpipe.processes.caller import Caller


class Blocks:
    """The calls of one stage; `perform` is a form of the caller."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.perform = self._call if caller.grouping is None else self._gather

    def _call(self, job: Job) -> Iterator[None]:
        """Call once for all items of the job; each output goes where its own input stood."""
        spots = Spots(job.stretches)
        results = (yield from self.caller.trouble.together(spots, self._called)) if spots else ()
        at = 0  # in them
        for record, (run, a, b) in zip(job.records, job.stretches, strict=True):
            n = b - a if run.marks is None else run.marks[a:b].count(0)
            if self.caller.stage.outputs:
                self._send(run, a, b, results[at : at + n], record)
            at += n
            run.values = None if b == run.n else run.values

    def _send(self, run: Run, a: int, b: int, results: Sequence[Any], record: Parent) -> None:
        """Send what was made of items a..b-1 of a run."""
        if hasattr(results, "nbytes") and len(results) == b - a:  # the rows of an array: none is missing
            send(self.caller.worker, run, a, results, b"", record)
            return
        rest = iter(results)
        parts = [None if run.mark(k) else next(rest) for k in range(a, b)]
        kinds = bytes(
            run.mark(k) or (Mark.TOMB if part is None or part is GIVEN_UP else 0)
            for k, part in zip(range(a, b), parts, strict=True)
        )
        self.caller.dropped += sum(part is None and not run.mark(a + i) for i, part in enumerate(parts))
        parts = [None if kind else part for kind, part in zip(kinds, parts, strict=True)]
        send(self.caller.worker, run, a, parts, kinds, record)

    def _called(self, spots: Sequence[Spot]) -> Sequence[Any]:
        """Return what the stage makes of these items, one output for each, encoded, None where it drops one."""
        caller, since = self.caller, self.caller.clock()
        current = caller.current
        (current.run, current.index), current.block = spots[0], spots
        try:
            made = caller.call(self._block(spots))
        finally:
            current.block = None
            took = caller.clock() - since
            caller.busy_s += took
        caller.calls[bucket(took)] += 1
        if not caller.stage.outputs:
            return [None] * len(spots)
        is_array = hasattr(made, "__array_interface__") and made.ndim > 0
        if not (is_array or isinstance(made, list | tuple)):
            what = f"returned a {type(made).__name__}: return a list with an output for each item, None to drop it"
            raise StageError(what)
        if len(made) != len(spots):
            raise StageError(f"returned {len(made)} outputs: return one for each item, None to drop it")
        if is_array and not caller.switches:
            return caller.codec.encode_rows(made)
        return [None if result is None else caller.encode(result) for result in made]

    def _block(self, spots: Sequence[Spot]) -> Any:
        """Return the items of a call: a list of them, or, where they are to be stacked, an array (n, ...)."""
        values = self.caller.values
        stage = self.caller.stage
        if not stage.stacked or stage.spread:  # of a join each arm is stacked by itself
            return [values(run)[k] for run, k in spots]
        return stacked([values(run)[first : first + n] for run, first, n in stretches_of(spots)])

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
                part = self.caller.encoded(made.value, run, k)
                group = Run(lane, position, tuple(elements), 1, [part], epoch=made.epoch, digest=made.digest)
                self.caller.worker.emit(group, *job.records)
        self.caller.busy_s += self.caller.clock() - since
        return
        yield
