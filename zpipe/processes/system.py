"""What is asked of the operating system beyond Python's library: of Linux, and nothing where there is no such thing."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

KEPT_BYTES = 64 * 1024 * 1024  # free memory that stays with the process; the largest block taken from it is half

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_PDEATHSIG, _SUBREAPER = 1, 36  # <linux/prctl.h>
_ARG_START = 45  # of /proc/self/stat, counted from behind the name


def die_with(parent: int) -> bool:
    """Let this process be killed when its parent ends; returns whether that is still `parent`, 0 for any."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, 9)
    return not parent or os.getppid() == parent


def spawn(argv: Sequence[str], folder: str | os.PathLike[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a program that is killed when the thread that starts it, or its process, ends.  Raises OSError."""
    parent = os.getpid()
    return subprocess.Popen(
        argv, cwd=folder, env=env, stdin=subprocess.DEVNULL, preexec_fn=lambda: die_with(parent)
    )  # fmt: skip


def adopt_orphans(*, wanted: bool) -> bool:
    """Become the parent of descendants whose own has ended, or not any more; returns whether that is so now."""
    return sys.platform == "linux" and ctypes.CDLL(None).prctl(_SUBREAPER, int(wanted), 0, 0, 0) == 0 and wanted


def keep_memory() -> None:
    """Let freed memory stay with the process: pages given back would be faulted in anew for the next item.

    Touching fresh pages costs ten times what copying into known ones does; glibc alone can be told.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES // 2)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


def set_command_line(words: Sequence[str]) -> None:
    """Let `ps` show these words, in the room that the words of the start have taken."""
    try:
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
            start, end = map(int, file.read().rpartition(")")[2].split()[_ARG_START : _ARG_START + 2])
    except OSError:
        return
    room = end - start - 1
    ctypes.memmove(start, "\0".join(words).encode()[:room].ljust(room, b"\0"), room)
