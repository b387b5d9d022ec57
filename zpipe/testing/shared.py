"""Shared memory as the simulator plays it: slots that are really written anew, with the rules of `core.slots`.

A part that lies in a slot reads it each time that it is asked for its value: had somebody written there, it would
have another.  A view ends with its part, as a view of an array does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from zpipe.core.outlet import Out
from zpipe.core.slots import Control, Reader, Slot, Slots
from zpipe.values.paths import Run
from zpipe.wire.frames import Data

if TYPE_CHECKING:
    from zpipe.testing.simulator import Node, World

SLOTS, READERS = 6, 64
KEPT = 3  # parts that a worker that keeps some looks at again


def objects(values: Sequence[Any]) -> Any:
    """Return any values as an array (n,)."""
    import numpy as np

    return np.fromiter(values, dtype=object, count=len(values))


class Part:
    """An item as the simulator carries it: the value itself, and the bytes it pretends to have."""

    __slots__ = ("nbytes", "output", "room", "value")

    output: str

    def __init__(self, value: Any, nbytes: int) -> None:
        self.value = value
        self.nbytes = self.room = nbytes


@dataclass(frozen=True)
class Ref:
    """What travels in place of a part."""

    pool: int
    index: int
    gen: int
    output: str | None
    meant: Any  # the value that was there, to be compared: a real reference has none

    nbytes = 0


class Viewed:
    """A part in a slot."""

    __slots__ = ("_shares", "nbytes", "output", "ref", "room", "slot")

    output: str

    def __init__(self, shares: Shares, ref: Ref, nbytes: int, slot: Slot | None = None) -> None:
        self._shares = shares
        self.ref = ref
        self.nbytes = self.room = nbytes
        self.slot = slot  # where this is the owner

    @property
    def value(self) -> Any:
        return self._shares.world.pools[self.ref.pool].contents[self.ref.index]

    def __del__(self) -> None:
        self._shares.end(self)


class Pool:
    """The memory of one worker; it outlives it, as what is mapped does."""

    slots_type = Slots

    def __init__(self) -> None:
        self.control = Control([0] * SLOTS, [0] * (SLOTS * READERS), READERS)
        self.slots = self.slots_type(self.control, SLOTS, lambda size: 0)
        self.contents: list[Any] = [None] * SLOTS
        self.readers: dict[int, Reader] = {}  # by incarnation


class Shares:
    """What one worker knows of memory; in place of its codec."""

    def __init__(self, node: Node, nbytes: int) -> None:
        self.world: World = node.world
        self.inc = node.inc
        self.item_bytes = nbytes
        self.alive = True
        self.world.pools[self.inc] = self.world.pool_type()
        self._given: deque[Any] = deque(maxlen=4)  # parts that were given to the stage last
        self._kept: deque[tuple[Any, Any]] = deque(maxlen=KEPT)

    def encode(self, value: Any) -> Any:
        """Put a value into a slot, or hand on the part that it came with."""
        for part in self._given:
            if type(part) is Viewed and part.value == value:
                return Viewed(self, part.ref, part.nbytes) if self._attach(part.ref) else Part(value, self.item_bytes)
        pool = self.world.pools[self.inc]
        slot = pool.slots.take(1) if self.alive else None
        if slot is None:
            return Part(value, self.item_bytes)
        pool.contents[slot.index] = value
        return Viewed(self, Ref(self.inc, slot.index, slot.gen, None, value), self.item_bytes, slot)

    def encode_rows(self, array: Any) -> list[Any]:
        return [self.encode(row) for row in array]

    def rows(self, run: Run) -> Any:
        return objects(self.decode(run))

    def decode(self, run: Run) -> list[Any]:
        assert run.parts is not None
        for part, value in self._kept:
            assert part.value == value, f"a view of {value!r} reads {part.value!r}"
        self._given.extend(run.parts)
        self._kept.extend((part, part.value) for part in run.parts[:1] if part is not None)
        return [None if part is None else part.value for part in run.parts]

    def parts(self, run: Run) -> Sequence[Any]:
        assert run.parts is not None
        return run.parts

    def encode_state(self, value: Any) -> Part:
        return Part(value, self.item_bytes)

    def decode_state(self, part: Part) -> Any:
        return self.world.codec.decode_state(part)

    # -- on its way ---------------------------------------------------------------------------------

    def referring(self, run: Run) -> Run:
        """Return the run as it travels to who shares memory with this worker."""
        assert run.parts is not None
        out = run.slice(0, run.n)
        out.attempt = run.attempt
        out.parts = [_ref(part) if type(part) is Viewed else part for part in run.parts]
        return out

    def arrives(self, node: Node, message: Data) -> bool:
        """Attach what a message refers to; False when it comes too late, which it must not over a living link."""
        assert message.run.parts is not None
        parts: list[Any] = []
        for part in message.run.parts:
            if type(part) is Ref:
                if not self._attach(part):
                    assert not _is_awaited(node, message), f"{message.run!r} was written anew on its way"
                    return False
                view = Viewed(self, part, self.item_bytes)
                assert view.value == part.meant, f"{part.meant!r} was sent and {view.value!r} is read"
                if part.output is not None:
                    view.output = part.output
                part = view
            parts.append(part)
        message.run.parts = parts
        return True

    def _attach(self, ref: Ref) -> bool:
        pool = self.world.pools[ref.pool]
        if ref.pool == self.inc:
            return False  # not in a pipeline: nothing comes back
        if self.inc not in pool.readers:
            taken = {reader.number for reader in pool.readers.values()}
            pool.readers[self.inc] = Reader(pool.control, min(set(range(READERS)) - taken))
        return pool.readers[self.inc].attach(ref.index, ref.gen)

    def end(self, view: Viewed) -> None:
        """A view is no more."""
        if not self.alive:
            return
        pool = self.world.pools[view.ref.pool]
        if view.slot is not None:
            pool.slots.drop(view.slot)
        else:
            pool.readers[self.inc].detach(view.ref.index)

    def die(self) -> None:
        """Let the pools learn, sooner or later, that this worker is dead."""
        self.alive = False
        for pool in self.world.pools.values():
            if self.inc in pool.readers:
                late_s = self.world.random_of_memory.random()
                self.world.at(self.world.now_s + late_s, self._bury, pool)

    def _bury(self, pool: Any) -> None:
        pool.slots.forget(pool.readers.pop(self.inc).number)
        pool.slots.sweep()


def plain(run: Run) -> Run:
    """Return a copy of a run that needs nobody's memory: what is on a disk."""
    assert run.parts is not None
    out = run.slice(0, run.n)
    out.attempt, out.parts = run.attempt, [_plain(part) if type(part) is Viewed else part for part in run.parts]
    return out


def _plain(view: Viewed) -> Part:
    part = Part(view.value, view.nbytes)
    if hasattr(view, "output"):
        part.output = view.output
    return part


def _ref(view: Viewed) -> Ref:
    return replace(view.ref, output=getattr(view, "output", None))


def _is_awaited(node: Node, message: Data) -> bool:
    """Tell whether the sender lives and still waits for an ack of this very message."""
    sender = node.world.nodes.get(message.src)
    link = None if sender is None else sender.worker.outlet.links.get(node.inc)
    return link is not None and link.gen == message.gen and isinstance(link.frames.get(message.seq), Out)
