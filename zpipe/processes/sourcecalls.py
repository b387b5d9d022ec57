"""Calls the code of a source: begins its epochs where they were left, and gives positions to what it makes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from zpipe.core.histogram import bucket
from zpipe.core.source import Source
from zpipe.core.work import Job
from zpipe.values.errors import StageError
from zpipe.values.paths import Mark, Run

if TYPE_CHECKING:
    from zpipe.processes.caller import Caller


class SourceCalls:
    """The partitions of one source worker; `perform` is a form of the caller."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.iterators: dict[int, Iterator[Any]] = {}  # by partition, of the epoch that is under way

    def perform(self, job: Job) -> Iterator[None]:
        source = self.caller.worker.intake
        assert isinstance(source, Source)
        partition = source.partitions[job.source]
        if source.is_over(job.source):
            self._made(source, *source.marked(job.source, Mark.FIN))
            return
        iterator = self.iterators.get(job.source)
        if iterator is None:
            iterator = self.iterators[job.source] = self._begin(source, job.source)
        parts: list[Any] = []
        nbytes = room = 0
        clock, frame_s = self.caller.clock, self.caller.limits.frame_s
        began = clock()
        ended = False
        position = partition.at.position
        here = Run(job.source, position, (), 1, None, epoch=partition.at.epoch)
        self.caller.current.run, self.caller.current.index = here, 0
        frame_bytes, bytes_left = self.caller.limits.frame_bytes, max(1, source.bytes_max - source.unsettled_bytes)
        count = 0
        while count < job.room:
            here.position = position + count
            try:
                item = next(iterator)
            except StopIteration:
                ended = True
                break
            except Exception as error:
                raise self.caller.failed(error, here, 0) from error
            if not count:
                self.caller.calls[bucket(clock() - began)] += 1
            part = self.caller.encoded(item, here, 0)
            if part.room >= frame_bytes and parts:
                self._positions(source, job.source, parts, nbytes)
                parts, nbytes = [], 0
            parts.append(part)
            nbytes += part.nbytes
            room += part.room
            count += 1
            if room >= frame_bytes or nbytes >= bytes_left or clock() - began >= frame_s:
                break
        self.caller.busy_s += clock() - began
        if parts:
            self._positions(source, job.source, parts, nbytes)
        if ended:
            del self.iterators[job.source]
            self._made(source, *source.marked(job.source, Mark.EPOCH))
        return
        yield

    def _begin(self, source: Source, number: int) -> Iterator[Any]:
        """Begin an epoch of a partition where it was left: by its `start`, or by leaving out what was made."""
        partition = source.partitions[number]
        skip = partition.at.position - partition.at.epoch_start
        here = Run(number, partition.at.epoch_start, (), 1, None, epoch=partition.at.epoch)
        self.caller.current.run, self.caller.current.index = here, 0
        share = self.caller.stage.share(number)
        left = None if share is None else max(0, share - skip)  # of this epoch, whichever life makes them
        if self.caller.stage.replay == "seek":
            here.position = partition.at.position
            return islice(self.caller.target(start=skip), left)
        iterator: Iterator[Any] = iter(self.caller.target())
        for k in range(skip):
            here.position = partition.at.epoch_start + k
            if next(iterator, iterator) is iterator:
                raise StageError(
                    f"source {self.caller.stage.name!r} ended after {k} items of epoch {here.epoch} where it made "
                    f"{skip} before: a source that is replayed must make the same items again, or say replay = 'no'"
                )
        return islice(iterator, left)

    def _positions(self, source: Source, number: int, parts: list[Any], nbytes: int) -> None:
        """Give positions to items just made, and send them on their way."""
        self._made(source, *source.made(number, parts, nbytes))
        self.caller.worker.counters.arrived += len(parts)
        self.caller.worker.counters.done += len(parts)

    def _made(self, source: Source, run: Run, stretch: Any) -> None:
        if run.mark(0) != Mark.FIN:
            self.caller.blame.note_reach(
                run.lane, run.position + run.n
            )  # before it leaves: this life may end in between
        elif source.stopping:
            self.caller.blame.sync()  # what is below ends here: a later life has to as well, also after a loss of power
        if run.marks is None or self.caller.worker.outlet.marked:
            self.caller.worker.emit(run, stretch)
        source.sent(stretch)
