"""Paths name items, runs are items whose paths follow each other, marks are what travels in place of an item.

A path is `(lane, position, *elements)`: a lane number stands for a partition of a source and the arms taken
at fan-outs since, `position` counts what the source made, and each split since has appended the index of the
child.  A replay makes the same paths again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate
from typing import Any, overload

Path = tuple[int, ...]


class Mark(IntEnum):
    """What stands at a path: an item, or a word about the item that is not there."""

    ITEM = 0
    TOMB = 1  # the item was dropped; nothing below its path comes any more
    END = 2  # the split above had as many children as this element says
    EPOCH = 3  # the source has finished an epoch
    FIN = 4  # the source has finished


@dataclass(frozen=True)
class Again:
    """The name of a lane on which items travel once more: to users they have the paths and epochs that they had.

    `paths` are those texts by position, `arms` the names of the fan-outs since, `>left`.
    """

    source: str
    arms: str
    paths: Sequence[str]
    epochs: Sequence[int]

    def __str__(self) -> str:
        return self.source + self.arms

    def format(self, path: Path, digest: int) -> str:
        """Write the path as text."""
        if path[1] >= len(self.paths):
            return format_path(str(self), path, digest)  # of a mark, which nobody had before
        head, _, group = self.paths[path[1]].partition("#")
        name, _, numbers = head.rpartition(":")
        group = f"{digest:x}" if digest else group
        text = f"{name}{self.arms}:{'.'.join((numbers, *map(str, path[2:])))}"
        return f"{text}#{group}" if group else text


LaneNames = Mapping[int, str | Again]


class Run:
    """`n` items of one lane whose paths differ by 0..n-1 in their last number.

    `parts` holds what each item carries (encoded, or decoded under the simulator), None where a mark stands; it may
    know its own `nbytes`.
    `marks` is one `Mark` byte per item, or None when all are items.  `digest` names the members of a group,
    0 without one; everything derived from the group inherits it.
    """

    __slots__ = ("lane", "position", "elements", "digest", "n", "epoch", "attempt", "marks", "parts",
                 "body", "arrays", "buffers", "values")  # fmt: skip

    def __init__(
        self,
        lane: int,
        position: int,
        elements: tuple[int, ...],
        n: int,
        parts: Sequence[Any] | None,
        *,
        epoch: int = 0,
        digest: int = 0,
        attempt: int = 0,
        marks: bytes | None = None,
    ) -> None:
        self.lane = lane
        self.position = position
        self.elements = elements
        self.n = n
        self.parts = parts
        self.epoch = epoch
        self.digest = digest
        self.attempt = attempt
        self.marks = marks
        self.body: Any = None  # as received and not yet decoded: memoryview of the msgpack body,
        self.arrays = False  # whether it holds array forms,
        self.buffers: tuple[Any, ...] = ()  # and its raw buffers
        self.values: list[Any] | None = None  # the decoded items, once they have been asked for

    def path(self, i: int) -> Path:
        """Return the path of the `i`-th item."""
        e = self.elements
        if not e:
            return (self.lane, self.position + i)
        return (self.lane, self.position, *e[:-1], e[-1] + i)

    def mark(self, i: int) -> int:
        """Return the `Mark` of the `i`-th item."""
        return self.marks[i] if self.marks is not None else 0

    def slice(self, a: int, b: int) -> Run:
        """Return the items a..b-1 as a run of their own; `parts` must be at hand."""
        assert self.parts is not None and 0 <= a < b <= self.n
        _, position, *elements = self.path(a)
        marks = self.marks[a:b] if self.marks is not None else None
        return Run(
            self.lane, position, tuple(elements), b - a, self.parts[a:b], epoch=self.epoch,
            digest=self.digest, attempt=self.attempt, marks=marks if marks and any(marks) else None,
        )  # fmt: skip

    def like(self, a: int, parts: Sequence[Any], marks: bytes | None = None) -> Run:
        """Return a run at the same paths as the items from `a` on, with other parts and marks."""
        _, position, *elements = self.path(a)
        return Run(
            self.lane, position, tuple(elements), len(parts), parts, epoch=self.epoch,
            digest=self.digest, marks=marks,
        )  # fmt: skip

    def epoch_of(self, lane_names: LaneNames, i: int = 0) -> int:
        """Return the epoch of the `i`-th item as its user knows it."""
        name, position = lane_names.get(self.lane), self.path(i)[1]
        again = isinstance(name, Again) and position < len(name.epochs)
        return name.epochs[position] if again else self.epoch  # type: ignore[union-attr]

    def on(self, lane: int) -> Run:
        """Return the same items on another lane: the arm of a fan-out."""
        return Run(
            lane, self.position, self.elements, self.n, self.parts, epoch=self.epoch, digest=self.digest,
            attempt=self.attempt, marks=self.marks,
        )  # fmt: skip

    def text(self, lane_names: LaneNames, i: int = 0) -> str:
        """Write the path of the `i`-th item, with its digest, as text."""
        return format_path(lane_names.get(self.lane, str(self.lane)), self.path(i), self.digest)

    @property
    def key(self) -> tuple[object, ...]:
        """Identify the run: equal keys are the same items."""
        return (self.lane, self.position, self.elements, self.n, self.digest)

    @property
    def nbytes(self) -> int:
        """Return the bytes that the items hold."""
        if self.parts is None:
            return len(self.body or b"") + sum(len(b) for b in self.buffers)
        return nbytes_of(self.parts)

    def __repr__(self) -> str:
        marks = f" marks={list(self.marks)}" if self.marks else ""
        return f"Run({self.path(0)} n={self.n}{marks})"


def nbytes_of(parts: Sequence[Any]) -> int:
    """Return the bytes that the parts of a run hold."""
    nbytes: int | None = getattr(parts, "nbytes", None)
    return sum([getattr(part, "nbytes", 0) for part in parts]) if nbytes is None else nbytes


class Spots(Sequence[tuple[Run, int]]):
    """The items of a call for several: (run, index) of each, kept as stretches (run, first, how many)."""

    __slots__ = ("_ends", "stretches")

    def __init__(self, stretches: Iterable[tuple[Run, int, int]]) -> None:
        self.stretches = [
            part for run, a, b in stretches for part in ([(run, a, b - a)] if run.marks is None else _items(run, a, b))
        ]
        self._ends = list(accumulate(n for _, _, n in self.stretches))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, k: int) -> tuple[Run, int]: ...
    @overload
    def __getitem__(self, k: slice) -> list[tuple[Run, int]]: ...
    def __getitem__(self, k: int | slice) -> Any:
        if isinstance(k, slice):
            return [self[i] for i in range(*k.indices(len(self)))]
        if not -len(self) <= k < len(self):
            raise IndexError(k)
        k %= len(self)
        at = bisect_right(self._ends, k)
        run, first, n = self.stretches[at]
        return run, first + k - (self._ends[at] - n)

    def __iter__(self) -> Iterator[tuple[Run, int]]:
        return ((run, first + k) for run, first, n in self.stretches for k in range(n))


def _items(run: Run, a: int, b: int) -> list[tuple[Run, int, int]]:
    return [(run, k, 1) for k in range(a, b) if not run.mark(k)]


def format_path(name: str | Again, path: Path, digest: int = 0) -> str:
    """Write a path as text, `crops:12.3`, with the digest of a group behind `#`; `name` is the lane's.

    The text is unique within a run and the same in every replay: sinks commit by it.
    """
    if isinstance(name, Again):
        return name.format(path, digest)
    numbers = ".".join(str(x) for x in path[1:])
    return f"{name}:{numbers}#{digest:x}" if digest else f"{name}:{numbers}"
