"""A disk that is soon full, for tests as root: a file system in memory that can grow."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A disk at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def grow(self, size: str) -> None:
        """Give it this much room, `8m`."""
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], check=True)

    def fill(self) -> None:
        """Take up all the room that is left."""
        with open(self.path / "filler", "ab", buffering=0) as file:
            for size in (2**16, 2**10, 1):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError:
                    pass

    def free(self) -> None:
        """Give back what `fill` took."""
        (self.path / "filler").unlink()


@contextmanager
def mounted(path: Path, size: str) -> Iterator[SmallDisk]:
    """Mount one at an empty folder.  Raises RuntimeError where that is not allowed."""
    path.mkdir(parents=True, exist_ok=True)
    argv = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a small disk takes root: {done.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[SmallDisk]:
    """Do what `mounted` does; a test that may not is skipped."""
    with ExitStack() as stack:
        try:
            disk = stack.enter_context(mounted(path, size))
        except RuntimeError as error:
            pytest.skip(str(error))
        yield disk
