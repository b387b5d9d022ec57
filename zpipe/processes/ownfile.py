"""A file of the user's that one run writes, and no other run meanwhile."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import IO

from zpipe.values.errors import ConfigError


def open_own(path: str | os.PathLike[str], what: str, *, adds: bool = False) -> IO[str]:
    """Begin a file, or go on with the whole lines that it holds where it `adds`; it stays locked while it is open.

    Raises ConfigError when it cannot be written, or another run writes it; `what` is meant to be in it.
    """
    try:
        file = open(Path(path), "w", encoding="utf-8", opener=_as_it_is)  # noqa: SIM115
        if not _locked(file):
            file.close()
            way_out = "name another file, or end that one with zpipe down"
            raise ConfigError(f"{path} is being written by another run: {way_out}")
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.truncate(_whole(Path(path)) if adds else 0)
            file.seek(0, os.SEEK_END)
    except OSError as error:
        way_out = "name a file in a folder that you can write to"
        raise ConfigError(f"cannot write {what} to {path}: {error.strerror}: {way_out}") from error
    return file


def _whole(path: Path) -> int:
    """Return how many bytes of a file are whole lines: the last one may have been cut off."""
    return path.read_bytes().rfind(b"\n") + 1


def _as_it_is(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_TRUNC, 0o666)


def _locked(file: IO[str]) -> bool:
    """Lock a file for as long as it is open and tell whether nobody else has; where there are no locks, nobody has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
