"""Slots of memory that processes share: which is free to be written anew, and whether one still holds what it held.

A slot is used again when its owner has dropped it, after every ack, and no reader has a view of it left.  Each
reader counts its views in cells that it alone writes, so nobody waits for anybody.  Who would read and who would
write anew each write first and look then: a reader its cell, then the generation; the owner the generation, then the
cells.  So never do both go ahead (Dekker's way), provided that a fence keeps the two in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

STEPS = 8  # sizes between a power of two and the next: at most an eighth is wasted
GRAIN = 4096  # bytes; slots begin at pages, so that none shares one
FIT_MAX = 4  # a free slot up to so many times as large as asked for is taken when no new one is to be had


class Control:
    """What owner and readers see of each other: `gens` by slot, `cells` by slot and in it by reader."""

    def __init__(self, gens: Any, cells: Any, readers: int) -> None:
        self.gens = gens
        self.cells = cells
        self.readers = readers

    def fence(self) -> None:
        """Let what was written be seen before anything is read; nothing is needed within one thread."""

    def is_read(self, slot: int) -> bool:
        """Tell whether a reader has a view of a slot."""
        return any(self.cells[slot * self.readers : (slot + 1) * self.readers])


@dataclass(eq=False, slots=True)
class Slot:
    """A stretch of an owner's memory; `gen` grows each time that it is free again."""

    index: int
    start: int  # where it is, in bytes
    size: int
    gen: int = 0


class Slots:
    """The owner's side.  `carve` makes room for a new slot of so many bytes, None when there is none."""

    def __init__(self, control: Control, count: int, carve: Callable[[int], int | None]) -> None:
        self.control = control
        self.count = count
        self.all: list[Slot] = []
        self.held: set[Slot] = set()  # dropped here, not by every reader
        self._free: dict[int, list[Slot]] = {}  # by size
        self._carve = carve
        self._nbytes = 0

    def take(self, nbytes: int) -> Slot | None:
        """Return a slot to be written, the one used last where there is a choice; None when there is none."""
        size = rounded(nbytes)
        free = self._free.get(size)
        if not free:
            self.sweep()
            free = self._free.get(size)
        if free:
            return free.pop()
        start = self._carve(size) if len(self.all) < self.count else None
        if start is not None:
            slot = Slot(len(self.all), start, size)
            self.all.append(slot)
            self._nbytes += size
            return slot
        fits = [found for found in self._free if size <= found <= FIT_MAX * size and self._free[found]]
        return self._free[min(fits)].pop() if fits else None

    def drop(self, slot: Slot) -> None:
        """Take a slot back that its owner needs no more; it is free when it is read no more."""
        self.held.add(slot)
        self._release(slot)

    def sweep(self) -> None:
        """Find slots that no reader holds any more."""
        for slot in list(self.held):
            self._release(slot)

    def _release(self, slot: Slot) -> None:
        """Free a slot unless it is read: who reads it may hand it on, so it keeps its generation that long."""
        if self.control.is_read(slot.index):
            return
        slot.gen += 1
        self.control.gens[slot.index] = slot.gen  # no reference leads there any more
        self.control.fence()
        if not self.control.is_read(slot.index):  # else somebody has come too late, and goes again
            self.held.discard(slot)
            self._free.setdefault(slot.size, []).append(slot)

    def forget(self, reader: int) -> None:
        """Count a reader as gone, who is proven dead."""
        for slot in self.all:
            self.control.cells[slot.index * self.control.readers + reader] = 0

    def held_by(self) -> dict[int, int]:
        """Return the bytes that each reader keeps beyond their time."""
        found: dict[int, int] = {}
        for slot in self.held:
            at = slot.index * self.control.readers
            for reader in range(self.control.readers):
                if self.control.cells[at + reader]:
                    found[reader] = found.get(reader, 0) + slot.size
        return found

    @property
    def nbytes(self) -> int:
        """Return the bytes of all slots."""
        return self._nbytes


class Reader:
    """One reader's side; `number` is its place among the cells."""

    def __init__(self, control: Control, number: int) -> None:
        self.control = control
        self.number = number

    def attach(self, index: int, gen: int) -> bool:
        """Begin a view of a slot; False when it holds something else by now."""
        at = index * self.control.readers + self.number
        self.control.cells[at] += 1
        self.control.fence()
        if self.control.gens[index] == gen:
            return True
        self.control.cells[at] -= 1
        return False

    def detach(self, index: int) -> None:
        """End a view of a slot."""
        self.control.cells[index * self.control.readers + self.number] -= 1


@lru_cache(maxsize=256)
def rounded(nbytes: int) -> int:
    """Return the size of the slot for so many bytes, of which there are few different ones."""
    step = max(GRAIN, (1 << max(0, nbytes - 1).bit_length()) // 2 // STEPS)
    return -(-nbytes // step) * step
