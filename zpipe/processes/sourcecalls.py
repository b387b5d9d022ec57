"""Calls the code of a source: begins its epochs where they were left, and gives positions to what it makes.

That code may take as long as it likes, so whoever stands in for its thread may do meanwhile what the machine has to do.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from zpipe.core.histogram import bucket
from zpipe.core.source import Source
from zpipe.core.work import Job
from zpipe.values.context import Output
from zpipe.values.errors import StageError, ZpipeError
from zpipe.values.paths import Mark, Run, nbytes_of

if TYPE_CHECKING:
    from zpipe.processes.caller import Caller


SEND_S = 100e-6  # about what it costs to send a frame: items that take longer to make gain nothing by being joined


class SourceCalls:
    """The partitions of one source worker; `perform` is a form of the caller.

    Whoever holds `lock` has the machine, its links, and all that is here: the thread that made this, but for the time
    that it is inside of the source's code.
    """

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.iterators: dict[int, Iterator[Any]] = {}  # by partition, of the epoch that is under way
        self.number = 0  # of the partition at hand
        self.parts: list[Any] = []  # of it, made and without positions yet
        self.here = Run(0, 0, (), 1, None)  # what is being made
        self.lock = threading.RLock()
        self.lock.acquire()

    def perform(self, job: Job) -> Iterator[None]:
        source = self.caller.worker.intake
        assert isinstance(source, Source)
        number = self.number = job.source
        partition = source.partitions[number]
        if source.is_over(number):
            self._made(source, *source.marked(number, Mark.FIN))
            return
        iterator = self.iterators.get(number)
        if iterator is None:
            iterator = self.iterators[number] = self._begin(source, number)
            if partition.ended:  # told to stop meanwhile
                return
        self.here = Run(number, partition.at.position, (), 1, None, epoch=partition.at.epoch)
        self.caller.current.run, self.caller.current.index = self.here, 0
        if self.make(source, job, iterator) and not partition.ended:
            del self.iterators[number]
            self._made(source, *source.marked(number, Mark.EPOCH))
        return
        yield

    def make(self, source: Source, job: Job, iterator: Iterator[Any]) -> bool:
        """Call the source's code for what the job has room for, and send it; tells whether the epoch is over."""
        partition, here = source.partitions[self.number], self.here
        position = here.position
        parts, nbytes, room = self.parts, 0, 0
        acquire, release = self.lock.acquire, self.lock.release
        encode, switches = self.caller.codec.encode, self.caller.switches  # one call less for most
        clock, frame_s = self.caller.clock, self.caller.limits.frame_s
        began = since = clock()
        over = False
        frame_bytes, bytes_left = self.caller.limits.frame_bytes, max(1, source.bytes_max - source.unsettled_bytes)
        count = 0
        while count < job.room:
            here.position = position + count
            try:
                release()
                try:
                    item = next(iterator)
                finally:
                    acquire()
            except StopIteration:
                over = True
                break
            except Exception as error:
                if partition.ended:
                    break
                raise self.caller.failed(error, here, 0) from error
            if partition.ended:  # told to stop meanwhile: what comes now is no part of it
                break
            if not count:
                self.caller.calls[bucket(clock() - began)] += 1
            try:
                part = self.caller.encode(item) if switches or type(item) is Output else encode(item)
            except ZpipeError as error:
                raise self.caller.failed(error, here, 0) from error
            if part.room >= frame_bytes and parts:
                self._positions(source)
            if not parts:  # also where they were handed over meanwhile
                nbytes = room = 0
            parts.append(part)
            nbytes += part.nbytes
            room += part.room
            count += 1
            now = clock()
            is_full = room >= frame_bytes or nbytes >= bytes_left
            if is_full or now - since > SEND_S or now - began >= frame_s:
                break
            since = now
        self.caller.busy_s += clock() - began
        if parts:
            self._positions(source)
        return over

    @property
    def at(self) -> tuple[Run, int]:
        """Return what tells one call of the source's code from every other; in any thread."""
        here = self.here
        return here, here.position

    def hand_over(self) -> bool:
        """Do what need not wait for the code that is running; tells whether there was anything.

        What was made gets its positions, and partitions that have nothing more to make come to their ends.
        """
        source = self.caller.worker.intake
        assert isinstance(source, Source)
        made = bool(self.parts)
        if made:
            self._positions(source)
        for number, partition in source.partitions.items():
            if not partition.ended and source.room(partition) > 0 and source.is_over(number):
                self._made(source, *source.marked(number, Mark.FIN))
                made = True
        return made

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Let go of the lock while the source's code runs."""
        self.lock.release()
        try:
            yield
        finally:
            self.lock.acquire()

    def _begin(self, source: Source, number: int) -> Iterator[Any]:
        """Begin an epoch of a partition where it was left: by its `start`, or by leaving out what was made."""
        partition = source.partitions[number]
        skip = partition.at.position - partition.at.epoch_start
        here = Run(number, partition.at.epoch_start, (), 1, None, epoch=partition.at.epoch)
        self.caller.current.run, self.caller.current.index = here, 0
        share = self.caller.stage.share(number)
        left = None if share is None else max(0, share - skip)  # of this epoch, whichever life makes them
        with self.inside():
            if self.caller.stage.replay == "seek":
                here.position = partition.at.position
                return self.begun(self.caller.target(start=skip), here.epoch, 0, left)
            return self.begun(self.caller.target(), here.epoch, skip, left)

    def begun(self, made: Iterable[Any], epoch: int, skip: int, left: int | None) -> Iterator[Any]:
        """Return what an epoch makes, without the first `skip` items and at most `left` more."""
        iterator, here = iter(made), self.caller.current.run
        assert here is not None
        start = here.position
        for k in range(skip):
            here.position = start + k
            if next(iterator, iterator) is iterator:
                raise self.ended_early(k, epoch, skip)
        return islice(iterator, left)

    def ended_early(self, made: int, epoch: int, skip: int) -> StageError:
        return StageError(
            f"source {self.caller.stage.name!r} ended after {made} items of epoch {epoch} where it made {skip} before: "
            "a source that is replayed must make the same items again, or say replay = 'no'"
        )

    def _positions(self, source: Source) -> None:
        self.send(source, list(self.parts))
        self.parts.clear()

    def send(self, source: Source, parts: Sequence[Any]) -> None:
        """Give positions to what was just made, and send it on its way; `parts` stays as it is."""
        self._made(source, *source.made(self.number, parts, nbytes_of(parts)))
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
