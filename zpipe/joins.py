"""What puts items of several arms together, for a stage that joins; in source order, the same in every run.

The result stands at the path that its item has on the arm with the lowest lanes, the first arm in source order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zpipe.stages import Grouping, Made, Member
from zpipe.values.errors import StageError
from zpipe.values.paths import Mark, Path


class Joining(Grouping):
    """What joins share: `arms` are the lanes of each; `places` tell of a lane which arm it is, in source order, and
    which lane of that.  It is saved with what waits, after as many items as that is worth.
    """

    PATIENCE = 16  # items after which the stage is saved with what is open

    def __init__(self, arms: Sequence[Sequence[int]], unmatched: str) -> None:
        super().__init__(1)
        order = sorted(range(len(arms)), key=lambda arm: min(arms[arm]))
        self.ranks = [order.index(arm) for arm in range(len(arms))]
        self.places = {lane: (rank, k) for rank, arm in enumerate(order) for k, lane in enumerate(arms[arm])}
        self.unmatched = unmatched
        self.since = 0  # items since the last save

    @property
    def room(self) -> int:
        return self.PATIENCE

    def joined(self, group: Sequence[Member]) -> Made:
        """Return the item of a group, whose members stand in source order."""
        first = group[0]
        return Made(first.path, first.digest, first.epoch, Mark.ITEM, [group[rank].value for rank in self.ranks])


class join(Joining):
    """Put items of several arms together that were one item where the arms parted.

    In: anything, on the lanes of `arms`, which correspond by their order; `hooks` are those of hooks
    Out: [item of the first arm, of the second, ...].  An item whose partner an arm dropped is dropped too, or with
    `unmatched` "stop" a StageError.
    Holds: what one position of each lane makes; of hooks all that they make.
    """

    def __init__(self, arms: Sequence[Sequence[int]], hooks: Sequence[int], unmatched: str = "drop") -> None:
        super().__init__(arms, unmatched)
        self.hooks = {self.places[lane][1] for lane in hooks}
        self.waiting: dict[tuple[int, Path, int], list[Member]] = {}
        self.restored: set[tuple[int, Path, int]] = set()  # counted as done by an earlier life

    @property
    def can_save(self) -> bool:
        return not self.waiting or self.since >= self.PATIENCE

    def add(self, member: Member) -> Iterator[Made]:
        self.since += 1
        arm, k = self.places[member.path[0]]
        yield from self._give_up([key for key in self.waiting if key[0] == k and self._is_past(key, member, arm)])
        key = (k, member.path[1:], member.digest)
        if arm == 0:
            self.waiting[key] = [member]
            return
        group = self.waiting.get(key, [])
        if len(group) != arm:
            self._drop(member, 1)
            return
        group.append(member)
        if len(group) == len(self.ranks):
            del self.waiting[key]
            yield self.joined(group)

    def flush(self) -> Iterator[Made]:
        yield from self._give_up(list(self.waiting))

    def _is_past(self, key: tuple[int, Path, int], member: Member, arm: int) -> bool:
        """Tell whether source order has passed what `key` waits for: its arm, or all arms as they take turns."""
        k, path, _ = key
        if arm == 0:
            return k not in self.hooks and path[0] < member.path[1]
        return len(self.waiting[key]) == arm and path < member.path[1:]

    def _give_up(self, keys: Sequence[tuple[int, Path, int]]) -> Iterator[Made]:
        for key in keys:
            group = self.waiting.pop(key)
            self._drop(group[0], 0 if key in self.restored else len(group))
            yield Made(group[0].path, group[0].digest, group[0].epoch, Mark.TOMB)

    def _drop(self, member: Member, n: int) -> None:
        if self.unmatched == "stop":
            at = ".".join(map(str, member.path[1:]))
            raise StageError(f"the item at {at} of one arm found no partner: another arm dropped it")
        self.dropped += n

    def state(self) -> Any:
        self.since = 0
        return [[[list(m.path), m.digest, m.epoch, m.value] for m in group] for group in self.waiting.values()] or None

    def restore(self, state: Any) -> None:
        for rows in state or []:
            group = [Member(tuple(path), digest, epoch, value) for path, digest, epoch, value in rows]
            key = (self.places[group[0].path[0]][1], group[0].path[1:], group[0].digest)
            self.waiting[key] = group
            self.restored.add(key)


class Waiting:
    """An item that waits for partners, until it has `met` them; `at` is its position within its epoch."""

    __slots__ = ("at", "key", "member", "met", "rank", "restored")

    def __init__(self, member: Member, at: int, key: Any, rank: int, *, restored: bool = False) -> None:
        self.member = member
        self.at = at
        self.key = key
        self.rank = rank
        self.restored = restored  # counted as done by an earlier life
        self.met = False


class join_on(Joining):
    """Put items of independent sources together that have the same position in their epoch, or value of a field.

    In: anything, or with `on` "field:NAME" dicts with that key, a number or a text; `names` are those of the arms
    Out: [item of the first arm, of the second, ...].  Each item meets at most one of each other arm, the first that
    fits.  What finds none within so many positions of source order, or by the end of the epoch, is dropped, or with
    `unmatched` "stop" a StageError.
    Holds: what `within` positions of each lane make.  Errors: StageError for an item without the field.
    """

    def __init__(
        self, arms: Sequence[Sequence[int]], names: Sequence[str], on: str, within: int = 0, unmatched: str = "drop"
    ) -> None:
        super().__init__(arms, unmatched)
        self.names = {lane: name for name, lanes in zip(names, arms, strict=True) for lane in lanes}
        self.field = on.partition(":")[2]  # "" for the position
        self.within = within
        self.starts: dict[int, int] = {}  # lane -> the position at which its epoch began
        self.order: deque[Waiting] = deque()  # as they came, also what has met its partners
        self.fitting: dict[Any, list[deque[Waiting]]] = {}  # by key and arm
        self.count = 0  # of those that wait

    @property
    def can_save(self) -> bool:
        return not self.count or self.since >= max(self.PATIENCE, self.count // 2)

    def add(self, member: Member) -> Iterator[Made]:
        self.since += 1
        lane, position = member.path[:2]
        rank, k = self.places[lane]
        at = position - self.starts.get(lane, 0)
        yield from self._give_up(at - self.within)
        key = self._value(member) if self.field else (k, at)
        arms = self._wait(Waiting(member, at, key, rank))
        if all(arms):
            group = [waiting.popleft() for waiting in arms]
            yield self.joined([waiting.member for waiting in group])
            for waiting in group:
                self._forget(waiting)

    def epoch_end(self, starts: Mapping[int, int]) -> Iterator[Made]:
        yield from self.flush()
        self.starts = dict(starts)

    def flush(self) -> Iterator[Made]:
        yield from self._give_up(None)

    def _wait(self, waiting: Waiting) -> list[deque[Waiting]]:
        """Let an item wait, and return what waits of each arm with its key."""
        self.order.append(waiting)
        self.count += 1
        arms = self.fitting.setdefault(waiting.key, [deque() for _ in self.ranks])
        arms[waiting.rank].append(waiting)
        return arms

    def _forget(self, waiting: Waiting) -> None:
        waiting.met = True
        waiting.member = Member((), 0, 0, None)  # it may stand in `order` for long: its value is let go
        self.count -= 1
        if not any(self.fitting.get(waiting.key, ())):
            self.fitting.pop(waiting.key, None)

    def _give_up(self, before: int | None) -> Iterator[Made]:
        """Give up what has waited since a position below `before`, or all."""
        while self.order and (self.order[0].met or before is None or self.order[0].at < before):
            waiting = self.order.popleft()
            if waiting.met:
                continue
            member = waiting.member
            if self.unmatched == "stop":
                raise StageError(f"the item of {self.names[member.path[0]]!r} {self._says(waiting)} found no partner")
            self.dropped += not waiting.restored
            self.fitting[waiting.key][waiting.rank].popleft()
            self._forget(waiting)
            if waiting.rank == 0:
                yield Made(member.path, member.digest, member.epoch, Mark.TOMB)

    def _says(self, waiting: Waiting) -> str:
        return f"with {self.field} = {waiting.key!r}" if self.field else f"at position {waiting.at}"

    def _value(self, member: Member) -> Any:
        name, item = self.names[member.path[0]], member.value
        if not isinstance(item, dict):
            raise StageError(f"an item of {name!r} is a {type(item).__name__} without field {self.field!r}")
        if self.field not in item:
            raise StageError(f"an item of {name!r} has no field {self.field!r}: it has {', '.join(map(str, item))}")
        value = item[self.field]
        value = value.item() if getattr(value, "shape", None) == () else value
        if not isinstance(value, int | float | str | bytes):
            kind = type(value).__name__
            raise StageError(f"field {self.field!r} of an item of {name!r} is a {kind}: joins go by numbers and texts")
        return value

    def state(self) -> Any:
        self.since = 0
        waiting = [w for w in self.order if not w.met]
        members = [[list(w.member.path), w.member.digest, w.member.epoch, w.member.value, w.at] for w in waiting]
        return [list(map(list, self.starts.items())), members] if self.starts or members else None

    def restore(self, state: Any) -> None:
        starts, members = state or ([], [])
        self.starts = dict(starts)
        for path, digest, epoch, value, at in members:
            member = Member(tuple(path), digest, epoch, value)
            rank, k = self.places[path[0]]
            key = self._value(member) if self.field else (k, at)
            self._wait(Waiting(member, at, key, rank, restored=True))
