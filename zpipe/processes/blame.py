"""What a worker notes before each call, for its supervisor to read after a death: a small mapped file."""

from __future__ import annotations

import mmap
from pathlib import Path

from zpipe.values.context import Current
from zpipe.values.paths import Run

SIZE = 512


class Blame:
    """The path of the item at hand as text, NUL-terminated; nothing without a file."""

    def __init__(self, path: Path | None, current: Current) -> None:
        self.current = current
        self.map: mmap.mmap | None = None
        if path is not None:
            with open(path, "w+b") as file:
                file.truncate(SIZE)
                self.map = mmap.mmap(file.fileno(), SIZE)

    def note(self, run: Run, index: int) -> None:
        """Write down which item is about to be called."""
        if self.map is not None:
            text = run.text(self.current.lane_names, index).encode()[: SIZE - 1] + b"\0"
            self.map[: len(text)] = text

    def clear(self) -> None:
        """Nothing is being called."""
        if self.map is not None:
            self.map[0] = 0
