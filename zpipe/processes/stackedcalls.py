"""Calls the code of a source that yields arrays (n, ...) of items, and gives positions to their rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from zpipe.core.histogram import bucket
from zpipe.core.source import Source
from zpipe.core.work import Job
from zpipe.processes.joiner import cuts
from zpipe.processes.sourcecalls import SourceCalls
from zpipe.values.errors import ZpipeError
from zpipe.values.stacks import rows_of

if TYPE_CHECKING:
    from zpipe.processes.caller import Caller


class StackedCalls(SourceCalls):
    """The partitions of one source worker; of an array the rows that find no room wait here."""

    def __init__(self, caller: Caller) -> None:
        super().__init__(caller)
        self.rests: dict[int, Any] = {}  # by partition

    def make(self, source: Source, job: Job, iterator: Iterator[Any]) -> bool:
        caller, number, began = self.caller, self.number, self.caller.clock()
        partition, here = source.partitions[number], self.here
        rows = self.rests.pop(number, None)
        if rows is None:
            try:
                with self.inside():
                    rows = next(iterator)
            except StopIteration:
                return True
            except Exception as error:
                if partition.ended:
                    return False
                raise caller.failed(error, here, 0) from error
            caller.calls[bucket(caller.clock() - began)] += 1
            if partition.ended:  # told to stop meanwhile
                return False
        bytes_left = max(1, source.bytes_max - source.unsettled_bytes)
        n = min(len(rows), job.room, max(1, bytes_left * len(rows) // max(1, rows.nbytes)))
        if n < len(rows):
            self.rests[number] = rows[n:]
        try:
            parts = [*map(caller.encode, rows[:n])] if caller.switches else caller.codec.encode_rows(rows[:n])
        except ZpipeError as error:
            raise caller.failed(error, here, 0) from error
        for a, b in cuts(caller.limits, parts):
            self.send(source, parts[a:b])
        caller.busy_s += caller.clock() - began
        return False

    def begun(self, made: Iterable[Any], epoch: int, skip: int, left: int | None) -> Iterator[Any]:
        skipped = 0
        for block in made if left != 0 else ():
            rows = rows_of(block)
            skipped, rows = min(skip, skipped + len(rows)), rows[skip - skipped :]
            if left is not None:
                rows = rows[:left]
                left -= len(rows)
            if len(rows):
                yield rows
            if left == 0:
                return
        if skipped < skip:
            raise self.ended_early(skipped, epoch, skip)
