"""The relay that every peer runs: its loads, its three halves, and how each process measures itself.

Knows nothing of how items travel.  Steady state only: the first and the last items of a load are not
measured, so that start-up, filling and draining are left out, and every process is busy while any measures.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import zpipe as zp

ROLES = ("source", "stage", "sink")
HOPS = 2
PAYLOADS = 4  # distinct ones, sent in turn; nobody writes to them
PAGE = 4096


@dataclass(frozen=True)
class Load:
    """`count` measured items, and `warm` more before and after them; `hwm` bounds the queues of peers."""

    name: str
    nbytes: int
    is_array: bool
    count: int
    warm: int
    hwm: int

    @property
    def total(self) -> int:
        return self.count + 2 * self.warm

    def payloads(self) -> list[Any]:
        """Return the items that are sent in turn: bytes, or uint8 arrays of shape (nbytes,)."""
        rng = np.random.default_rng(1234)
        arrays = [rng.integers(0, 256, self.nbytes, dtype=np.uint8) for _ in range(PAYLOADS)]
        return arrays if self.is_array else [array.tobytes() for array in arrays]

    def check(self) -> int:
        """Return what the probes of the items up to the last measured one add up to."""
        probes = [probe(item) for item in self.payloads()]
        return sum(probes[i % PAYLOADS] for i in range(self.warm + self.count))


LOADS = {
    load.name: load
    for load in (
        Load("64 B", 64, False, 200_000, 20_000, 1000),
        Load("4 KB", 4096, False, 60_000, 10_000, 1000),
        Load("150 KB", 150_000, True, 5000, 1000, 64),
        Load("5 MB", 5_000_000, True, 240, 40, 8),
    )
}


def probe(item: Any) -> int:
    """Read a byte of every page of an item: proof that it arrived."""
    if isinstance(item, bytes):
        return item[0] + item[-1]
    return int(item[::PAGE].sum(dtype=np.uint64))


class Meter:
    """Counts the items of one process; leaves the time, and the CPU of all its threads, in `ROLE.json`."""

    def __init__(self, load: Load, role: str, folder: Path) -> None:
        self.load = load
        self.path = folder / f"{role}.json"
        self.left = load.warm
        self.first: tuple[int, int] | None = None  # wall and CPU, ns
        self.check = 0

    def see(self) -> None:
        """Count one item."""
        self.left -= 1
        if not self.left:
            self._mark()

    def _mark(self) -> None:
        now = time.monotonic_ns(), time.process_time_ns()
        if self.first is None:
            self.first, self.left = now, self.load.count
            return
        wall, cpu = (b - a for a, b in zip(self.first, now, strict=True))
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps({"wall_ns": wall, "cpu_ns": cpu, "check": self.check}))
        os.replace(draft, self.path)


def items(load: Load, folder: Path) -> Iterator[Any]:
    """Make the items of a load."""
    meter, payloads = Meter(load, "source", folder), load.payloads()
    for i in range(load.total):
        meter.see()
        yield payloads[i % PAYLOADS]


def source(load: str) -> Iterator[Any]:
    """Make the items of a load, as a stage.
    Out: bytes, or uint8 (nbytes,)
    """
    yield from items(LOADS[load], zp.run_folder())


class Identity:
    """Hand each item on as it is.
    In, out: anything      Holds: nothing.
    """

    def __init__(self, load: str, folder: Path | None = None) -> None:
        self.see = Meter(LOADS[load], "stage", folder or zp.run_folder()).see

    def __call__(self, item: Any) -> Any:
        self.see()
        return item


class Sink:
    """Read each item.
    In: bytes, or uint8 (nbytes,)      Holds: nothing.
    """

    def __init__(self, load: str, folder: Path | None = None) -> None:
        self.meter = Meter(LOADS[load], "sink", folder or zp.run_folder())

    def __call__(self, item: Any) -> None:
        self.meter.check += probe(item)
        self.meter.see()
