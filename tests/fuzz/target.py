"""What can be fuzzed: a function of bytes, the bytes to begin with, and the errors that may come out of it.

A target stands in a module of this folder that `tests.fuzz.targets` imports, below two lines:

    @target(seeds=..., errors=(SaveError,))
    def letters(data: bytes) -> None: ...
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from zpipe.values.errors import ZpipeError

CUT = b"\xc1ZP\xc1"  # between the parts of an input of several: 0xc1 is in no msgpack
ROOM = 64 * 1024  # bytes that reading may take besides twice the input


@dataclass(frozen=True)
class Target:
    """One reader; `is_bounded`: it takes at most `ROOM` and twice its input of memory."""

    name: str
    about: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    errors: tuple[type[ZpipeError], ...]
    is_bounded: bool

    def play(self, data: bytes) -> None:
        """Read an input; whatever comes out is a finding."""
        try:
            self.run(data)
        except self.errors as error:
            assert str(error), f"{type(error).__name__} says nothing"


TARGETS: dict[str, Target] = {}


def target(
    *, seeds: Callable[[], Iterable[bytes]], errors: tuple[type[ZpipeError], ...] = (), is_bounded: bool = False
) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Make a function of bytes a target of its name."""

    def register(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        about = (run.__doc__ or "").partition("\n")[0]
        TARGETS[run.__name__] = Target(run.__name__, about, run, seeds, errors, is_bounded)
        return run

    return register


@cache
def folder() -> Path:
    """Return a folder in memory for what is read from files, one for each process."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    made = tempfile.TemporaryDirectory(prefix="fuzz-", dir=base)
    _kept.append(made)
    return Path(made.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []  # removed with the process


class Draw:
    """Choices that the bytes of an input make, so that a fuzzer can steer them; 0 when they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        """Return the next byte."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def number(self) -> int:
        """Return a number: mostly small, and now and then at an edge or huge."""
        kind = self.byte()
        if kind < 200:
            return kind % 8
        if kind < 230:
            return EDGES[kind % len(EDGES)]
        return int.from_bytes(self.bytes(8), "big")

    def bytes(self, count: int) -> bytes:
        """Return the next bytes, as many as are left."""
        self._at += count
        return self._data[self._at - count : self._at]

    def one(self, values: Sequence[Any]) -> Any:
        """Return one of some values."""
        return values[self.byte() % len(values)]

    def value(self, depth: int = 2) -> Any:
        """Return any plain value."""
        kind = self.byte() % 11
        if kind > 7 and depth:
            inner = [self.value(depth - 1) for _ in range(self.byte() % 4)]
            return inner if kind < 10 else {(f"{k}" if k % 2 else k): x for k, x in enumerate(inner)}
        plain = (
            None, True, False, self.number(), -(self.number() >> 1), "", self.bytes(3).decode("latin-1"), self.bytes(3),
        )  # fmt: skip
        return self.one((1.5, float("nan"), float("inf"), 1e300)) if kind > 7 else plain[kind]


EDGES = (2**16, 2**31, 2**32 - 1, 2**32, 2**53, 2**53 + 1, 2**63, 2**64 - 1, 255, 256, 1000, 4096)
