"""Saves of stages with memory, in the run folder: one file for each life that has saved, replaced as a whole.

Files bear the fence of their life, its number among the lives of the stage: `NAME.3.fence` says that the third
has begun, `NAME.3.save` is what it saved last.  A life makes its fence before it reads, and looks for later ones
after it has written: either it sees them, or they see what it wrote.  So a life that was held up on the way
overwrites nothing of a later one, and acknowledges nothing that a later one has not read.  What a life reads it
first makes its own, for the same reason.

A rename is atomic against the death of any process.  Against loss of power the file is on the disk before it is
renamed, and its name before anything that it covers is acknowledged: what a registry has stored never knows more
than the saves do.

    file      magic (6 bytes), version (2), section ...      all integers big-endian
    section   length (8), bytes, crc32 of the bytes (4)
    sections  contents: [cursor, hook position, [array forms, buffers] of the state or nil, [frames of an output, ...]]
              the state's head, its buffers, and the frames of each output, in this order
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from zpipe.core.memory import Save
from zpipe.processes import failpoints
from zpipe.values.durable import sync_folder
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
    """The saves of one stage, as one of its lives sees them."""

    def __init__(self, folder: Path, stage: str, fence: int) -> None:
        self.folder = folder
        self.name = stage.replace("/", "~")
        self.path = folder / f"{self.name}.{fence}.save"
        self.stage = stage
        self.fence = fence
        self._is_first = True  # whether earlier lives may have left saves

    # -- fences -------------------------------------------------------------------------------------

    def claim(self) -> None:
        """Make this life the one that may save.  Raises SaveError when a later one has."""
        path = self.folder / f"{self.name}.{self.fence}.fence"
        try:
            path.touch()
        except OSError as error:
            raise SaveError(f"cannot write {path}: {error.strerror}: free some space and run again") from error
        self._check()
        self._remove(".fence")

    def is_ours(self) -> bool:
        """Tell whether no later life has claimed the stage."""
        return self.fence == max(self.fences(".fence"), default=0)

    def _check(self) -> None:
        if not self.is_ours():
            raise SaveError(f"a later life of stage {self.stage!r} has taken over: let this one end")

    def fences(self, kind: str) -> list[int]:
        """Return the fences of the lives that have a file of this kind."""
        prefix = self.name + "."
        found = []
        try:
            names = os.listdir(self.folder)
        except OSError as error:
            raise SaveError(f"cannot read {self.folder}: {error.strerror}: start the run anew") from error
        for name in names:
            fence = name[len(prefix) : -len(kind)]
            if name.startswith(prefix) and name.endswith(kind) and fence.isdecimal():
                found.append(int(fence))
        return found

    def _remove(self, kind: str) -> None:
        """Remove the files of this kind that earlier lives have left."""
        for fence in self.fences(kind):
            if fence < self.fence:
                (self.folder / f"{self.name}.{fence}{kind}").unlink(missing_ok=True)

    # -- saves --------------------------------------------------------------------------------------

    def write(self, save: Save) -> None:
        """Make a save the one that the next life reads, also after a loss of power; then it may be acknowledged.

        Raises SaveError when it cannot be written, and when a later life has begun without it.
        """
        temporary = self.path.with_name(self.path.name + ".new")
        try:
            with open(temporary, "wb") as file:
                file.write(_BEGINNING.pack(MAGIC, VERSION))
                for section in _sections(save):
                    _put(file, section)
                    failpoints.hit("writing")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
            sync_folder(self.folder)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)  # it takes the room that the next try needs
            self._check()  # a later life removes what this one was writing
            raise SaveError(f"cannot write {self.path}: {error.strerror}: free some space and run again") from error
        self._check()
        if self._is_first:
            self._is_first = False
            self._remove(".save")
            self._remove(".save.new")

    def read(self) -> Save | None:
        """Return the last save, None before the first.  Raises SaveError when it cannot be read.

        Its buffers belong to nobody else and may be written to.
        """
        fence = max((fence for fence in self.fences(".save") if fence <= self.fence), default=None)
        if fence is None:
            self._check()  # a later life may have removed it
            return None
        path = self.folder / f"{self.name}.{fence}.save"
        try:
            # It becomes ours: what it covers is acknowledged from now on, and a life between that one and this,
            # if it was held up, may still write a save that covers less.
            os.replace(path, self.path)
            path = self.path
            self._check()
            with open(path, "rb") as file:
                return _read(file)
        except FileNotFoundError:  # removed by a later life
            self._check()
            raise SaveError(f"{path} was removed from outside: start the run anew") from None
        except (OSError, ProtocolError, ValueError, TypeError) as error:
            raise SaveError(
                f"{path} cannot be read ({error}): it holds what stage {self.stage!r} knew; start the run anew"
            ) from error


def fence_of(folder: Path, stage: str) -> int:
    """Return the highest fence of a stage that is seen in the folder of saves, 0 without one."""
    saves = Saves(folder, stage, 0)
    return max(saves.fences(".fence") + saves.fences(".save"), default=0)


def has_saved(folder: Path, stage: str) -> bool:
    """Tell whether a life of a stage has saved anything."""
    return bool(Saves(folder, stage, 0).fences(".save"))


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
    if not isinstance(cursor, dict) or type(hook_position) is not int:
        raise ValueError("it does not begin with a cursor and a position")
    state = None
    if shape is not None:
        arrays, buffers = shape
        head = bytes(sections.take())
        state = Encoded(head, tuple(memoryview(sections.take()) for _ in range(buffers)), arrays)
    runs = []
    for count in counts:
        message = frames.decode([sections.take() for _ in range(count)])
        if not isinstance(message, Data):
            raise ValueError(f"it holds a message of type {type(message).__name__}")
        message.run.parts = parts_of(message.run)
        runs.append((message.edge, message.run))
    if sections.left:
        raise ValueError("more follows than was written")
    return Save(cursor, [hook_position, state], runs)
