"""Saves of stages with memory, in the run folder: written whole, then renamed over the last one.

A rename is atomic against the death of any process; against power loss it would want an fsync, which costs
more than the save.  A life claims its fence before it reads, and finds out by it that another has.

    file      magic (6 bytes), version (2), section ...      all integers big-endian
    section   length (8), bytes, crc32 of the bytes (4)
    sections  contents: [cursor, hook position, [array forms, buffers] of the state or nil, [frames of an output, ...]]
              the state's head, its buffers, and the frames of each output, in this order
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from zpipe.core.memory import Save
from zpipe.values.errors import ProtocolError, SaveError
from zpipe.wire import frames
from zpipe.wire.body import Buffer, Encoded, pack_plain, parts_of, unpack_plain
from zpipe.wire.frames import Data

MAGIC = b"zpsave"
VERSION = 2
PIECE = 2**18  # bytes that are summed up and written at a time, while they are in the processor's cache

_BEGINNING = struct.Struct(">6sH")
_LENGTH, _CRC = struct.Struct(">Q"), struct.Struct(">I")
_NESTING_MAX = 8  # of the contents


class Saves:
    """The saves of one stage."""

    def __init__(self, folder: Path, stage: str, fence: int) -> None:
        name = stage.replace("/", "~")
        self.path = folder / f"{name}.save"
        self.fence_path = folder / f"{name}.fence"
        self.stage = stage
        self.fence = fence

    def claim(self) -> None:
        """Make this life the one that may save.  Raises SaveError when a later one has."""
        if self._claimed() > self.fence:
            raise SaveError(f"stage {self.stage!r}: a later life holds {self.fence_path}: let this one end")
        temporary = self.fence_path.with_name(self.fence_path.name + ".new")
        temporary.write_bytes(str(self.fence).encode())
        os.replace(temporary, self.fence_path)

    def is_ours(self) -> bool:
        """Tell whether no later life has claimed the stage."""
        return self._claimed() == self.fence

    def _claimed(self) -> int:
        try:
            return int(self.fence_path.read_bytes() or b"0")
        except FileNotFoundError:
            return 0
        except ValueError:
            raise SaveError(f"{self.fence_path} is no fence: the run folder was changed from outside") from None

    def write(self, save: Save) -> None:
        """Make a save the one that the next life reads.  Raises SaveError when it cannot be written."""
        temporary = self.path.with_name(self.path.name + ".new")
        try:
            with open(temporary, "wb") as file:
                file.write(_BEGINNING.pack(MAGIC, VERSION))
                for section in _sections(save):
                    _put(file, section)
            os.replace(temporary, self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise SaveError(f"cannot write {self.path}: {error.strerror}: free some space and run again") from error

    def read(self) -> Save | None:
        """Return the last save, None before the first.  Raises SaveError when it cannot be read.

        Its buffers belong to nobody else and may be written to.
        """
        try:
            with open(self.path, "rb") as file:
                return _read(file)
        except FileNotFoundError:
            return None
        except (OSError, ProtocolError, ValueError, TypeError) as error:
            raise SaveError(
                f"{self.path} cannot be read ({error}): it holds what stage {self.stage!r} knew; start the run anew"
            ) from error


def _sections(save: Save) -> Iterable[Buffer]:
    hook_position, state = save.state
    outs = [frames.encode(Data(0, 0, 1, edge, 1, run), crc=False) for edge, run in save.outs]
    shape = None if state is None else [state.arrays, len(state.buffers)]
    yield pack_plain([save.cursor, hook_position, shape, [len(out) for out in outs]])
    if state is not None:
        yield state.head
        yield from state.buffers
    for out in outs:
        yield from out


def _put(file: BinaryIO, data: Buffer) -> None:
    """Write a section.  What is large goes to the file as it stands, without a copy."""
    view, crc = memoryview(data), 0
    file.write(_LENGTH.pack(len(view)))
    for at in range(0, len(view), PIECE):
        piece = view[at : at + PIECE]
        crc = crc32(piece, crc)
        file.write(piece)
    file.write(_CRC.pack(crc))


class _Sections:
    """The sections of a file, one after the other.  Raises ValueError where they are not what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.left = os.fstat(file.fileno()).st_size - _BEGINNING.size
        if self.left < 0:
            raise ValueError("it is cut off")
        magic, version = _BEGINNING.unpack(file.read(_BEGINNING.size))
        if magic != MAGIC:
            raise ValueError("it is no save")
        if version != VERSION:
            raise ValueError(f"it is of version {version}, not {VERSION}")

    def take(self) -> bytearray:
        self.left -= _LENGTH.size + _CRC.size
        length = _LENGTH.unpack(self.file.read(_LENGTH.size))[0] if self.left >= 0 else 0
        self.left -= length
        if self.left < 0:  # before any memory is taken for it
            raise ValueError("it is cut off, or was altered")
        data = bytearray(length)
        if self.file.readinto(data) != length:  # type: ignore[attr-defined]
            raise ValueError("it is cut off")
        if crc32(data) != _CRC.unpack(self.file.read(_CRC.size))[0]:
            raise ValueError("it was altered")
        return data


def _read(file: BinaryIO) -> Save:
    sections = _Sections(file)
    contents = sections.take()
    cursor, hook_position, shape, counts = unpack_plain(
        contents, bytes_max=len(contents), nesting_max=_NESTING_MAX, elements_max=len(contents)
    )
    state = None
    if shape is not None:
        arrays, buffers = shape
        head = bytes(sections.take())
        state = Encoded(head, tuple(memoryview(sections.take()) for _ in range(buffers)), arrays)
    runs = []
    for count in counts:
        message = frames.decode([sections.take() for _ in range(count)])
        assert isinstance(message, Data)
        message.run.parts = parts_of(message.run)
        runs.append((message.edge, message.run))
    if sections.left:
        raise ValueError("more follows than was written")
    return Save(cursor, [hook_position, state], runs)
