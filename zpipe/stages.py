"""Ready-made stages: batch, unbatch, shuffle, rechunk and split.

A grouping stage reads in source order, and the k-th group has the same members, bytes and path in every run.
It is handed members and says what it makes of them, as `Made` entries with their paths; it never sees sockets.
"""

from __future__ import annotations

import itertools
import random
import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from zpipe.values import context
from zpipe.values.errors import ConfigError, StageError
from zpipe.values.paths import Mark, Path


@dataclass(slots=True)
class Member:
    """An item on its way into a group."""

    path: Path
    digest: int
    epoch: int
    value: Any


@dataclass(slots=True)
class Made:
    """What a grouping stage sends: an item or a mark, at a path."""

    path: Path
    digest: int
    epoch: int
    mark: int
    value: Any = None


class Grouping:
    """What the grouping stages share: `add` a member, `flush` the rest; `room` is what completes the open group.

    The stage can be saved when no group is open, or with what `state` returns.  One that `passes` its members on
    as they are gets and gives them encoded.
    """

    passes = False

    def __init__(self, size: int) -> None:
        if not isinstance(size, int) or size < 1:
            raise ConfigError(f"a group of size {size!r}: size must be a whole number, at least 1")
        self.size = size
        self.number = 0  # of the stage, set by whoever runs it: part of every group's name
        self.dropped = 0  # members that went into no group
        self.open: list[Member] = []

    @property
    def room(self) -> int:
        return self.size - len(self.open)

    @property
    def can_save(self) -> bool:
        return not self.open

    def add(self, member: Member) -> Iterator[Made]:
        self.open.append(member)
        if len(self.open) >= self.size:
            yield from self.flush()

    def epoch_end(self, starts: Mapping[int, int]) -> Iterator[Made]:
        """An epoch is over, and the next begins at these positions, by lane: groups go on."""
        return iter(())

    def flush(self) -> Iterator[Made]:
        members, self.open = self.open, []
        if members:
            yield from self.made(members)

    def made(self, members: list[Member]) -> Iterator[Made]:
        raise NotImplementedError

    def state(self) -> Any:
        return None

    def restore(self, state: Any) -> None:
        pass


class batch(Grouping):
    """Stack `size` items into one.

    In:  dicts, arrays (...), numbers or anything      Out: a dict of stacks, an array (size, ...) or (size,), a list
    The last batch may be shorter, unless `drop_last`; in the `order` "arrival" any may.  Holds: size.  Errors:
    ConfigError when size < 1.
    """

    def __init__(self, size: int, drop_last: bool = False, order: str = "source") -> None:
        super().__init__(size)
        self.drop_last = drop_last
        self.order = order

    def made(self, members: list[Member]) -> Iterator[Made]:
        first, further = members[0], members
        if len(members) == self.size or not self.drop_last:
            yield Made(first.path, digest(self.number, members), first.epoch, Mark.ITEM,
                       stack([m.value for m in members]))  # fmt: skip
            further = members[1:]
        for member in further:
            yield Made(member.path, member.digest, member.epoch, Mark.TOMB)


class shuffle(Grouping):
    """Permute each block of `size` items, by seed, epoch and the block's first path.

    In: anything      Out: the same items.  Holds: size.  Errors: ConfigError when size < 1.
    """

    passes = True

    def __init__(self, size: int, seed: int = 0) -> None:
        super().__init__(size)
        self.seed = seed

    def made(self, members: list[Member]) -> Iterator[Made]:
        first, name = members[0], digest(self.number, members)
        key = digest(self.seed & 0xFFFF_FFFF_FFFF_FFFF, [Member(first.path, first.epoch, 0, None)])
        order = list(range(len(members)))
        random.Random(key).shuffle(order)
        for i, k in enumerate(order):
            yield Made((*first.path, i), name, first.epoch, Mark.ITEM, members[k].value)
        yield Made((*first.path, len(members)), name, first.epoch, Mark.END)
        for member in members[1:]:
            yield Made(member.path, member.digest, member.epoch, Mark.TOMB)


class rechunk(Grouping):
    """Cut batches anew into batches of `size` rows.

    In: dicts of arrays (n, ...), or arrays (n, ...)      Out: the same with n = size
    A chunk is a child of the item that holds its first row.  The last one may be shorter.  Holds: size rows.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.chunk: Path | None = None
        self.epoch = 0
        self.rows: list[Any] = []
        self.count = 0
        self.members: list[Member] = []

    @property
    def room(self) -> int:
        return 1

    @property
    def can_save(self) -> bool:
        return True

    def add(self, member: Member) -> Iterator[Made]:
        rows, start, begun = length(member.value), 0, 0
        while start < rows:
            if self.chunk is None:
                self.chunk, self.epoch = (*member.path, begun), member.epoch
                begun += 1
            n = min(rows - start, self.size - self.count)
            self.rows.append(part(member.value, start, start + n))
            self.members.append(Member((*member.path, start, n), member.digest, member.epoch, None))
            self.count += n
            start += n
            if self.count == self.size:
                yield from self.flush()
        yield Made((*member.path, begun), member.digest, member.epoch, Mark.END)

    def flush(self) -> Iterator[Made]:
        chunk = self.chunk
        if chunk is not None:
            yield Made(chunk, digest(self.number, self.members), self.epoch, Mark.ITEM, glue(self.rows))
            self.chunk, self.rows, self.count, self.members = None, [], 0, []

    def state(self) -> Any:
        if self.chunk is None:
            return None
        members = [[list(m.path), m.digest] for m in self.members]
        return [list(self.chunk), self.epoch, glue(self.rows), self.count, members]

    def restore(self, state: Any) -> None:
        if state is not None:
            chunk, self.epoch, rows, self.count, members = state
            self.chunk, self.rows = tuple(chunk), [rows]
            self.members = [Member(tuple(path), mark, self.epoch, None) for path, mark in members]


def unbatch(item: Any) -> Iterator[Any]:
    """Send the rows of a batch one by one: what `batch` stacked comes apart again."""
    for i in range(length(item)):
        yield row(item, i)


class split:
    """Send each item to one of the outputs that `weights` names, as often as they weigh."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.names = sorted(weights)  # tables that are equal send alike, however they are written
        self.bounds = list(itertools.accumulate(weights[name] for name in self.names))

    def __call__(self, item: Any) -> context.Output:
        drawn = context.rng().random() * self.bounds[-1]
        return context.out(self.names[min(bisect_right(self.bounds, drawn), len(self.names) - 1)], item)


def digest(number: int, members: Sequence[Member]) -> int:
    """Name a group: BLAKE2b-64 over the stage's number and its members' paths and digests, 64-bit big-endian."""
    numbers = [number]
    for member in members:
        numbers += (len(member.path), *member.path, member.digest)
    return int.from_bytes(blake2b(struct.pack(f">{len(numbers)}Q", *numbers), digest_size=8).digest(), "big")


def stack(values: list[Any]) -> Any:
    """Put items side by side: dicts by key, arrays and numbers along a new first axis, anything else in a list."""
    first = values[0]
    if isinstance(first, dict):
        if any(not isinstance(v, dict) or v.keys() != first.keys() for v in values):
            raise StageError("a batch needs items with the same keys: map them to one form first")
        return {key: stack([v[key] for v in values]) for key in first}
    kinds = {_kind(v) for v in values}
    if kinds == {"other"}:
        return values
    if kinds not in ({"array"}, {"bool"}, {"int"}, {"float"}, {"int", "float"}):
        raise StageError(f"a batch of {' and '.join(sorted(kinds))} values: map them to one type first")
    import numpy as np

    try:
        return (
            np.stack(values)
            if kinds == {"array"}
            else np.asarray(values, _DTYPES.get(kinds.pop()) if len(kinds) == 1 else float)
        )
    except (ValueError, OverflowError) as error:
        raise StageError(f"a batch needs arrays of one shape and numbers of 64 bits: {error}") from None


_DTYPES = {"bool": "bool", "int": "int64", "float": "float64"}


def _kind(value: Any) -> str:
    if hasattr(value, "dtype"):
        return "array"
    names = {bool: "bool", int: "int", float: "float"}
    return names.get(type(value), "other")


def length(item: Any) -> int:
    """Return the number of rows of a batch."""
    if isinstance(item, dict):
        lengths = {length(v) for v in item.values()}
        if len(lengths) != 1:
            raise StageError(f"a batch whose values have {sorted(lengths)} rows cannot be taken apart")
        return lengths.pop()
    if isinstance(item, list) or getattr(item, "ndim", 0) > 0:
        return len(item)
    raise StageError(f"a {type(item).__name__} is no batch: it has no rows")


def row(item: Any, i: int) -> Any:
    """Return one row of a batch; numbers come back as Python numbers."""
    if isinstance(item, dict):
        return {key: row(v, i) for key, v in item.items()}
    value = item[i]
    # Numbers become Python's; other scalars (complex, datetime64) would not travel as what Python makes of them.
    return value.item() if getattr(value, "shape", None) == () and value.dtype.kind in "biuf" else value


def part(item: Any, a: int, b: int) -> Any:
    """Return rows a..b-1 of a batch, as a batch."""
    return {key: part(v, a, b) for key, v in item.items()} if isinstance(item, dict) else item[a:b]


def glue(parts: list[Any]) -> Any:
    """Put batches one behind the other."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, dict):
        if any(not isinstance(p, dict) or p.keys() != first.keys() for p in parts):
            raise StageError("a chunk needs batches with the same keys: map them to one form first")
        return {key: glue([p[key] for p in parts]) for key in first}
    if isinstance(first, list):
        return [x for p in parts for x in p]
    import numpy as np

    return np.concatenate(parts)
