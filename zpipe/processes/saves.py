"""Saves of stages with memory, in the run folder: written whole, then renamed over the last one.

A rename is atomic against the death of any process; against power loss it would want an fsync, which costs
more than the save.  A life claims its fence before it reads, and finds out by it that another has.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from zpipe.core.memory import Save
from zpipe.values.errors import ProtocolError, SaveError
from zpipe.wire import frames
from zpipe.wire.body import Encoded, decode_item, encode_item, parts_of
from zpipe.wire.frames import Data

VERSION = 1


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
        _write(self.fence_path, str(self.fence).encode())

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
        """Make a save the one that the next life reads."""
        hook_position, state = save.state
        outs = [[bytes(f) for f in frames.encode(Data(0, 0, 1, edge, 1, run), crc=True)] for edge, run in save.outs]
        body = encode_item([VERSION, save.cursor, hook_position, None if state is None else _plain(state), outs])
        try:
            _write(self.path, body.head + b"".join(body.buffers))
        except OSError as error:
            raise SaveError(f"cannot write {self.path}: {error.strerror}: free some space and run again") from error

    def read(self) -> Save | None:
        """Return the last save, None before the first.  Raises SaveError when it cannot be read."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            version, cursor, hook_position, state, outs = decode_item(Encoded(data, (), False))
            if version != VERSION:
                raise SaveError(f"{self.path} is a save of version {version}: this one reads {VERSION}")
            runs = []
            for message in (frames.decode(out) for out in outs):
                assert isinstance(message, Data)
                message.run.parts = parts_of(message.run)
                runs.append((message.edge, message.run))
            return Save(cursor, [hook_position, None if state is None else _part(state)], runs)
        except (ProtocolError, ValueError, TypeError) as error:
            raise SaveError(
                f"{self.path} cannot be read ({error}): it holds what stage {self.stage!r} knew; start the run anew"
            ) from error


def _plain(part: Encoded) -> list[Any]:
    return [part.head, [bytes(buffer) for buffer in part.buffers], part.arrays]


def _part(plain: list[Any]) -> Encoded:
    head, buffers, arrays = plain
    return Encoded(head, tuple(memoryview(buffer) for buffer in buffers), arrays)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "wb") as file:
        file.write(data)
    os.replace(temporary, path)
