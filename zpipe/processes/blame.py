"""What a worker notes before it acts, for its supervisor to read after a death: a small mapped file.

Before each call, which item: the run is noted once, as text on both sides of the number that counts its items
up, and then only that number changes.  Before a source sends, how far each of its partitions reaches.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from pathlib import Path

from zpipe.values.context import Current
from zpipe.values.paths import Run

SIZE = 1024  # and behind it a pair of numbers for each partition: its lane and its reach
_PAIR = struct.Struct("=QQ")
_SETTLED = 9  # offset of whether this life has settled an input, behind the number (8 bytes) and what runs (1)
_TEXT = 16


class Blame:
    """The path of the item at hand; nothing without a file."""

    def __init__(self, path: Path | None, current: Current, lanes: Sequence[int] = ()) -> None:
        self.current = current
        self.reach_at = {lane: SIZE + k * _PAIR.size for k, lane in enumerate(lanes)}
        self.run_at_hand: Run | None = None
        self.base = 0
        self.number: memoryview = memoryview(bytearray(8)).cast("Q")
        self.running: memoryview = memoryview(bytearray(1))
        self.settled: memoryview = memoryview(bytearray(1))  # set to 1 once an input is settled
        self.map: mmap.mmap | None = None
        if path is not None:
            with open(path, "w+b") as file:
                file.truncate(SIZE + _PAIR.size * len(lanes))
                self.map = mmap.mmap(file.fileno(), 0)
            view = memoryview(self.map)
            self.number, self.running = view[:8].cast("Q"), view[8:9]
            self.settled = view[_SETTLED : _SETTLED + 1]

    def note(self, run: Run, index: int) -> None:
        """Write down which item is about to be called."""
        if run is not self.run_at_hand:
            self._note_run(run)
        self.number[0] = self.base + index

    def note_reach(self, lane: int, position: int) -> None:
        """Write down that a partition has made nothing at or above this position."""
        if self.map is not None:
            _PAIR.pack_into(self.map, self.reach_at[lane], lane, position)

    def _note_run(self, run: Run) -> None:
        self.running[0] = 0
        self.run_at_hand = run
        *_, self.base = run.path(0)
        if self.map is not None:
            name, _, numbers = run.text(self.current.lane_names).partition(":")
            path, _, digest = numbers.partition("#")
            head = f"{name}:{path[: len(path) - len(str(self.base))]}"
            text = f"{head}\0{'#' + digest if digest else ''}\0".encode()[: SIZE - _TEXT]
            self.map[_TEXT : _TEXT + len(text)] = text
        self.running[0] = 1

    def clear(self) -> None:
        """Nothing is being called."""
        self.run_at_hand = None
        self.running[0] = 0


def has_settled(path: Path | None) -> bool:
    """Tell whether a dead worker had settled an input in its life."""
    noted = path.read_bytes() if path is not None and path.exists() else b""
    return len(noted) >= SIZE and bool(noted[_SETTLED])


def read_reaches(path: Path | None) -> dict[int, int]:
    """Return how far the partitions of a dead source had got, by lane."""
    noted = path.read_bytes() if path is not None and path.exists() else b""
    whole = noted[SIZE : len(noted) - (len(noted) - SIZE) % _PAIR.size] if len(noted) > SIZE else b""
    return {lane: reach for lane, reach in _PAIR.iter_unpack(whole) if reach}


def read_blame(path: Path | None) -> str:
    """Return the path of the item that a dead worker was running, "" when it ran none."""
    if path is None or not path.exists():
        return ""
    noted = path.read_bytes()
    if len(noted) < SIZE or not noted[8]:
        return ""
    head, tail, _ = noted[_TEXT:].split(b"\0", 2)
    number = int.from_bytes(noted[:8], "little")  # as `cast` writes it on every machine that zpipe runs on
    return f"{head.decode('utf-8', 'replace')}{number}{tail.decode('utf-8', 'replace')}"
