"""Sources: positions, watermarks, and how far a source may run ahead of its acks.

Only sources stop for lack of acks.  A partition's watermark is its lowest unsettled position; it is complete
when it has ended and the watermark stands at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from zpipe.core.limits import Limits
from zpipe.core.work import Job
from zpipe.values.paths import Mark, Run


@dataclass(frozen=True)
class Position:
    """Where a source stands: a position, the epoch it is in, and the position at which that epoch began."""

    position: int = 0
    epoch: int = 0
    epoch_start: int = 0


class Stretch:
    """Positions sent together; settled when everything derived from them is."""

    __slots__ = ("closed", "first", "n", "nbytes", "partition", "pend", "source")

    def __init__(self, source: Source, partition: Partition, first: int, n: int, nbytes: int) -> None:
        self.source = source
        self.partition = partition
        self.first = first
        self.n = n
        self.nbytes = nbytes
        self.pend = 0
        self.closed = False

    def settled(self) -> None:
        self.source.settle(self.partition)


@dataclass
class Partition:
    """One partition of a source: `at` is what comes next, `starts` the epochs that reach above the watermark."""

    number: int
    at: Position
    starts: deque[Position]
    watermark: int
    reach: int = 0  # every life has stayed below this position, as far as is known
    ended: bool = False
    stretches: deque[Stretch] = field(default_factory=deque)
    unsettled_bytes: int = 0
    window: int = 0
    cap: int | None = None  # most unsettled positions while a stage below holds too much
    floor: int = 0  # below which the cap does not fall: what groups below were found to need

    @property
    def complete(self) -> bool:
        return self.ended and not self.stretches

    @property
    def unsettled(self) -> int:
        return self.at.position - self.watermark

    def mark_of(self) -> Position:
        """Return the watermark together with the epoch that contains it."""
        start = self.starts[0]
        for candidate in self.starts:
            if candidate.position <= self.watermark:
                start = candidate
        return Position(self.watermark, start.epoch, start.position)


class Source:
    """The intake of a source stage: it makes positions instead of receiving runs."""

    def __init__(
        self, partitions: dict[int, Position], epochs: int, limits: Limits, reaches: Mapping[int, int] | None = None,
        *, stacked: bool = False,
    ) -> None:  # fmt: skip
        reaches, window = reaches or {}, limits.stacked_items if stacked else limits.source_items
        self.epochs = epochs
        self.partitions = {
            number: Partition(
                number, at, deque([Position(at.epoch_start, at.epoch, at.epoch_start)]), at.position,
                reach=reaches.get(number, 0), window=window,
            )
            for number, at in partitions.items()
        }  # fmt: skip
        self.bytes_max = limits.source_bytes
        self.stopping = False
        self.held_back = False
        self._turn = -1

    def take(self, limit: int) -> Job | None:
        """Return the next partition that may go on, in turn."""
        numbers = sorted(self.partitions)
        for number in [n for n in numbers if n > self._turn] + [n for n in numbers if n <= self._turn]:
            partition = self.partitions[number]
            room = self.room(partition)
            if not partition.ended and room > 0:
                self._turn = number
                job = Job(Job.SOURCE, None)
                job.source = number
                job.room = min(room, limit)
                if self.stopping:
                    job.room = min(job.room, max(0, partition.reach - partition.at.position))
                job.epoch = partition.at.epoch
                return job
        return None

    def is_over(self, number: int) -> bool:
        """Tell whether a partition has nothing more to make but its end.

        One that is told to stop first makes again what earlier lives have made: some of it has arrived below,
        and what is grouped there must find its members.
        """
        partition = self.partitions[number]
        stops = self.stopping and partition.at.position >= partition.reach
        return stops or partition.at.epoch >= self.epochs

    def room(self, partition: Partition) -> int:
        """Return how many positions may be added before acks must come."""
        if self.unsettled_bytes >= self.bytes_max and self.unsettled_bytes > 0:
            return 0
        window = partition.window if partition.cap is None else min(partition.window, partition.cap)
        return window - partition.unsettled

    def hold_back(self, full: bool) -> None:
        """While a stage below holds more than it should, make nothing new but what `widen` finds to be needed."""
        for partition in self.partitions.values() if full or self.held_back else ():
            if full:
                cap = partition.unsettled if partition.cap is None else min(partition.cap, partition.unsettled)
                partition.cap = max(partition.floor, cap)
            else:
                partition.cap, partition.floor = None, 0
        self.held_back = full

    @property
    def unsettled_bytes(self) -> int:
        return sum(p.unsettled_bytes for p in self.partitions.values())

    def made(self, number: int, parts: Sequence[object], nbytes: int) -> tuple[Run, Stretch]:
        """Give the next positions of a partition to items just made; `parts` stays as it is."""
        return self._next(number, parts, nbytes, None)

    def marked(self, number: int, mark: Mark) -> tuple[Run, Stretch]:
        """Give the next position of a partition to the end of its epoch, or to its own end."""
        made = self._next(number, [None], 0, bytes([mark]))
        partition = self.partitions[number]
        at = partition.at
        if mark == Mark.FIN:
            partition.ended = True
        else:
            partition.at = Position(at.position, at.epoch + 1, at.position)
            partition.starts.append(partition.at)
        return made

    def _next(self, number: int, parts: Sequence[object], nbytes: int, marks: bytes | None) -> tuple[Run, Stretch]:
        partition = self.partitions[number]
        at, n = partition.at, len(parts)
        run = Run(number, at.position, (), n, parts, epoch=at.epoch, marks=marks)
        stretch = Stretch(self, partition, at.position, n, nbytes)
        partition.stretches.append(stretch)
        partition.unsettled_bytes += nbytes
        partition.at = Position(at.position + n, at.epoch, at.epoch_start)
        return run, stretch

    def sent(self, stretch: Stretch) -> None:
        """The outputs of a stretch are in the outlet."""
        stretch.closed = True
        if stretch.pend == 0:
            self.settle(stretch.partition)

    def settle(self, partition: Partition) -> None:
        """Move the watermark over what is settled."""
        while partition.stretches and self._is_settled(partition.stretches[0]):
            stretch = partition.stretches.popleft()
            partition.watermark = stretch.first + stretch.n
            partition.unsettled_bytes -= stretch.nbytes
        while len(partition.starts) > 1 and partition.starts[1].position <= partition.watermark:
            partition.starts.popleft()

    def _is_settled(self, stretch: Stretch) -> bool:
        return stretch.closed and stretch.pend == 0

    def done(self, job: Job) -> None:
        pass

    @property
    def pressed(self) -> bool:
        """Tell whether acks are becoming urgent: half of a window is unsettled, or the end waits for them."""
        return any(p.ended or 2 * p.unsettled >= p.window for p in self.partitions.values() if p.unsettled) or (
            2 * self.unsettled_bytes >= self.bytes_max or (self.held_back and self.unsettled_bytes > 0)
        )

    def widen(self, wanted: set[int]) -> bool:
        """Everything below is quiet and waits for `wanted`: let those partitions run further ahead."""
        blocked = [p for p in self.partitions.values() if p.number in wanted and not p.ended and self.room(p) <= 0]
        for partition in blocked:
            if partition.cap is not None and partition.cap <= partition.unsettled:
                partition.cap = partition.floor = 2 * max(1, partition.unsettled)
            elif partition.window <= partition.unsettled:
                partition.window *= 2
            else:
                self.bytes_max *= 2
        return bool(blocked)

    def watermarks(self) -> dict[int, tuple[Position, bool]]:
        """Return (watermark, complete) per partition."""
        return {n: (p.mark_of(), p.complete) for n, p in self.partitions.items()}

    @property
    def idle(self) -> bool:
        return self.take_nothing

    @property
    def take_nothing(self) -> bool:
        return all(p.ended or self.room(p) <= 0 for p in self.partitions.values())
