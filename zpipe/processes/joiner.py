"""Makes runs of encoded outputs: which of them travel in one frame, and under which paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from zpipe.core.limits import Limits
from zpipe.core.outlet import Parent
from zpipe.core.worker import Worker
from zpipe.values.paths import Path, Run


def cuts(limits: Limits, parts: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """Return stretches [a, b) of parts that fit a frame each."""
    ends, room = [0], 0
    if hasattr(parts, "nbytes"):  # all of them items, and all alike
        ends = list(range(0, len(parts), max(1, limits.frame_bytes * len(parts) // parts.nbytes)))
    else:
        for k, part in enumerate(parts):
            takes = 0 if part is None else part.room
            if ends[-1] < k and (takes >= limits.frame_bytes or room >= limits.frame_bytes):
                ends.append(k)
                room = 0
            room += takes
    return pairwise([*ends, len(parts)])


def send(worker: Worker, run: Run, a: int, parts: Sequence[Any], kinds: bytes, parent: Parent) -> None:
    """Send parts that stand at the items of a run from `a` on, within the bounds of a frame."""
    for start, end in cuts(worker.limits, parts):
        marks = kinds[start:end]
        worker.emit(run.like(a + start, parts[start:end], marks if any(marks) else None), parent)


class Joiner:
    """Joins outputs whose paths follow each other into runs, within the bounds of a frame."""

    def __init__(self, worker: Worker, parent: Parent) -> None:
        self.worker = worker
        self.limits = worker.limits
        self.marked = self.worker.outlet.marked
        self.parent = parent
        self.count = 0  # for whoever counts what it adds
        self.first: Path = ()
        self.last: Path = ()
        self.name: tuple[int, int] = (0, 0)  # digest, epoch
        self.parts: list[Any] = []
        self.kinds = bytearray()
        self.room = 0  # that they take up

    @property
    def full(self) -> bool:
        return len(self.parts) >= self.limits.frame_items or self.room >= self.limits.frame_bytes

    def add(self, path: Path, digest: int, epoch: int, mark: int, part: Any) -> None:
        """Append an output; what does not follow the last one begins a run of its own."""
        if mark and not self.marked:
            return
        room = 0 if part is None else part.room
        fits = room < self.limits.frame_bytes and not self.full
        if self.parts and not (fits and self.name == (digest, epoch) and self._follows(path)):
            self.flush()
        if not self.parts:
            self.first, self.name = path, (digest, epoch)
        self.last = path
        self.parts.append(part)
        self.kinds.append(mark)
        self.room += room

    def _follows(self, path: Path) -> bool:
        last = self.last
        return path[:-1] == last[:-1] and path[-1] == last[-1] + 1

    def flush(self) -> None:
        """Send what has been joined."""
        if self.parts:
            lane, position, *elements = self.first
            kinds = bytes(self.kinds)
            run = Run(
                lane, position, tuple(elements), len(self.parts), self.parts, epoch=self.name[1],
                digest=self.name[0], marks=kinds if any(kinds) else None,
            )  # fmt: skip
            self.worker.emit(run, self.parent)
            self.parts, self.kinds, self.room = [], bytearray(), 0
