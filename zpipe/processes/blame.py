"""What a worker notes before it acts, for its supervisor to read after a death: a small mapped file.

Before each call, which items: a run is noted once, as text on both sides of the number that counts its items
up, and then only that number changes; of a call for several items all are named.  Where a call may take only so
long, when it began.  Before a source sends, how far each of its partitions reaches.
"""

from __future__ import annotations

import errno
import mmap
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zpipe.values.context import Current
from zpipe.values.paths import Again, Run, Spots
from zpipe.values.room import lack_of_room

SIZE = 16384  # and behind it a pair of numbers for each partition: its lane and its reach
_PAIR = struct.Struct("=QQ")
# Offsets: the number (8 bytes), what runs, whether this life has settled an input, when the call began (8 bytes).
_RUNNING, _SETTLED, _SINCE, _TEXT = 8, 9, 16, 24
_NOTHING, _ONE, _SEVERAL = 0, 1, 2  # what runs

Stretch = tuple[str, int]  # the path of an item, and how many from it on


class Blame:
    """The items at hand; nothing without a file.  `timed`: and since when they have been."""

    def __init__(
        self, path: Path | None, current: Current, lanes: Sequence[int] = (), *, timed: bool = False
    ) -> None:  # fmt: skip
        self.current = current
        self.reach_at = {lane: SIZE + k * _PAIR.size for k, lane in enumerate(lanes)}
        self.run_at_hand: Run | None = None
        self.base = 0
        view = memoryview(bytearray(_TEXT))
        self.map: mmap.mmap | None = None
        if path is not None:
            self.map = _mapped(path, SIZE + _PAIR.size * len(lanes))
        if self.map is not None:
            view = memoryview(self.map)
        self.number: memoryview = view[:8].cast("Q")
        self.running: memoryview = view[_RUNNING : _RUNNING + 1]
        self.settled: memoryview = view[_SETTLED : _SETTLED + 1]  # set to 1 once an input is settled
        self.since: Any = view[_SINCE : _SINCE + 8].cast("d")
        self.timed = timed
        if timed:
            self.note = self._note_with_time  # type: ignore[method-assign]

    def note(self, run: Run, index: int) -> None:
        """Write down which item is about to be called."""
        if run is not self.run_at_hand:
            self._note_run(run, index)
        self.number[0] = self.base + index

    def _note_with_time(self, run: Run, index: int) -> None:
        self.since[0] = time.monotonic()
        Blame.note(self, run, index)

    def note_all(self, spots: Sequence[tuple[Run, int]]) -> None:
        """Write down which items are about to be called together, (run, index) each; of very many, the first."""
        if len(spots) == 1:
            return self.note(*spots[0])
        self.clear()
        if self.timed:
            self.since[0] = time.monotonic()
        lines: list[bytes] = []
        names, room = self.current.lane_names, SIZE - _TEXT - 1
        for run, a, n in stretches_of(spots) if self.map is not None else ():
            counts_up = not isinstance(names.get(run.lane), Again)
            for k, count in [(a, n)] if counts_up else [(k, 1) for k in range(a, a + n)]:
                line = f"{run.text(names, k)} {count}\n".encode()
                room -= len(line)
                if room < 0:
                    return self._note_lines(lines)
                lines.append(line)
        return self._note_lines(lines)

    def note_reach(self, lane: int, position: int) -> None:
        """Write down that a partition has made nothing at or above this position."""
        if self.map is not None:
            _PAIR.pack_into(self.map, self.reach_at[lane], lane, position)

    def sync(self) -> None:
        """Have the notes on the disk."""
        if self.map is not None:
            self.map.flush()

    def _note_lines(self, lines: Sequence[bytes]) -> None:
        if self.map is not None:
            text = b"".join(lines) + b"\0"
            self.map[_TEXT : _TEXT + len(text)] = text
        self.running[0] = _SEVERAL

    def _note_run(self, run: Run, index: int) -> None:
        self.running[0] = _NOTHING
        self.run_at_hand = run
        if isinstance(self.current.lane_names.get(run.lane), Again):  # whose texts do not count up
            self.run_at_hand = None
            self._note_lines([f"{run.text(self.current.lane_names, index)} 1\n".encode()])
            return
        *_, self.base = run.path(0)
        if self.map is not None:
            name, _, numbers = run.text(self.current.lane_names).partition(":")
            path, _, digest = numbers.partition("#")
            head = f"{name}:{path[: len(path) - len(str(self.base))]}"
            text = f"{head}\0{'#' + digest if digest else ''}\0".encode()[: SIZE - _TEXT]
            self.map[_TEXT : _TEXT + len(text)] = text
        self.running[0] = _ONE

    def pause(self) -> int:
        """The call has returned, or hands something over meanwhile; returns what `resume` takes."""
        what = int(self.running[0])
        self.running[0] = _NOTHING
        return what

    def resume(self, what: int) -> None:
        """The job goes on where it paused."""
        if self.timed:
            self.since[0] = time.monotonic()
        self.running[0] = what

    def clear(self) -> None:
        """Nothing is being called."""
        self.run_at_hand = None
        self.running[0] = _NOTHING


def stretches_of(spots: Sequence[tuple[Run, int]]) -> list[tuple[Run, int, int]]:
    """Return spots that follow each other in a run as (run, first, how many)."""
    if isinstance(spots, Spots):
        return spots.stretches
    found: list[tuple[Run, int, int]] = []
    for run, k in spots:
        if found and found[-1][0] is run and found[-1][1] + found[-1][2] == k:
            found[-1] = (run, found[-1][1], found[-1][2] + 1)
        else:
            found.append((run, k, 1))
    return found


def _mapped(path: Path, size: int) -> mmap.mmap | None:
    """Map a new file; where the disk has no room for it there is none, and a death tells less."""
    try:
        with open(path, "w+b") as file:
            file.write(bytes(size))  # not a hole: to write to a page of one without room would be the end
            file.flush()
            return mmap.mmap(file.fileno(), 0)
    except OSError as error:
        if not lack_of_room(error) and error.errno != errno.EFBIG:
            raise
        return None


class Noted:
    """What a worker had noted when it died, or has now."""

    def __init__(self, path: Path | None) -> None:
        data = path.read_bytes() if path is not None and path.exists() else b""
        self._data = data if len(data) >= SIZE else bytes(SIZE)

    @property
    def has_settled(self) -> bool:
        """Tell whether it had settled an input in its life."""
        return bool(self._data[_SETTLED])

    @property
    def reaches(self) -> dict[int, int]:
        """Return how far the partitions of a source had got, by lane."""
        pairs = self._data[SIZE : len(self._data) - (len(self._data) - SIZE) % _PAIR.size]
        return {lane: reach for lane, reach in _PAIR.iter_unpack(pairs) if reach}

    @property
    def items(self) -> tuple[Stretch, ...]:
        """Return the items that it was running, none when unknown."""
        kind, text = self._data[_RUNNING], self._data[_TEXT:SIZE]
        if kind == _ONE:
            head, _, rest = text.partition(b"\0")
            tail = rest.partition(b"\0")[0]
            number = int.from_bytes(self._data[:8], "little")  # as `cast` writes it on every machine zpipe runs on
            return ((f"{head.decode('utf-8', 'replace')}{number}{tail.decode('utf-8', 'replace')}", 1),)
        if kind == _SEVERAL:
            lines = text.partition(b"\0")[0].decode("utf-8", "replace").splitlines()
            pairs = [line.rpartition(" ") for line in lines]
            return tuple((path, int(n)) for path, _, n in pairs if n.isdecimal())
        return ()


def describe(items: Sequence[Stretch]) -> str:
    """Name the items of a call in a line, "" for none."""
    count = sum(n for _, n in items)
    more = f" and {count - 1} more item{'s' if count > 2 else ''}" if count > 1 else ""
    return items[0][0] + more if items else ""


def running_since_s(path: Path) -> float | None:
    """Return since when a timed worker has been in its call, in seconds of the system's monotonic clock."""
    try:
        with open(path, "rb") as file:
            head = file.read(_TEXT)
    except OSError:
        return None  # it has not begun yet
    if len(head) < _TEXT or not head[_RUNNING]:
        return None
    (since_s,) = struct.unpack_from("=d", head, _SINCE)
    return float(since_s)
