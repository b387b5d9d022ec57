"""What a process prints is lost, and not the process, while the disk of its log has no room."""

from __future__ import annotations

import io
import sys
from typing import Any

from zpipe.values.room import lack_of_room


class _Lossy(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if not lack_of_room(error):
                raise
            return memoryview(data).nbytes


def lose_lines() -> None:
    """Let lines that cannot be written be lost, of stdout and stderr, from now on."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.flush()
            raw: Any = _Lossy(stream.fileno(), "w", closefd=False)
            # With PYTHONUNBUFFERED there is none between: the last words of one that dies are not to die with it.
            buffer = raw if stream.write_through else io.BufferedWriter(raw)
            lossy = io.TextIOWrapper(
                buffer, stream.encoding, stream.errors, line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )  # fmt: skip
            setattr(sys, name, lossy)
