"""The workloads: who passes what to whom, how much of it, and what a sink has read when all of it came.

Knows neither processes nor how items travel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

PAYLOADS = 4  # distinct ones, sent in turn; nobody writes to them
PAGE = 4096
STEPS = 20_000  # of `burn` for a unit of cost: about a millisecond of Python
HEAVY, HEAVY_SHARE = 100, 0.01  # what one item in a hundred of W8 costs
FLAG = 8  # the byte of a small item that says whether it counts; the eight before it have room for a time

# What is measured: a rate in the steady state, the time that work takes, the way of single items, the first item.
STREAM, WORK, PACED, FIRST = "stream", "work", "paced", "first"


@dataclass(frozen=True)
class Load:
    """`count` measured uint8 arrays of `shape`, or as much in bytes, through `stages` of `workers` each to every sink.

    A stream has `warm` more before and after them; other kinds begin when so many fillers have come through.  `hwm`
    bounds the queues of whoever has no bounds of its own.  `cost` is what a stage does for an item, 0 for nothing.
    """

    name: str
    shape: tuple[int, ...]
    count: int
    warm: int
    hwm: int
    kind: str = STREAM
    stages: int = 1
    workers: int = 1
    sinks: int = 1
    cost: int = 0
    is_skewed: bool = False
    is_array: bool = True

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape))

    @property
    def total(self) -> int:
        """Return how many items a sink counts."""
        return self.count + 2 * self.warm if self.kind == STREAM else self.count

    @property
    def probe(self) -> Callable[[Any], int]:
        """Return what reads a byte of every page of an item: proof that it arrived."""
        return _pages if self.nbytes > PAGE else _ends if self.is_array else _ends_of_bytes

    def of(self, count: int) -> Load:
        """Return this load with so many items to be measured."""
        return replace(self, count=count)

    def payloads(self) -> list[Any]:
        """Return the items of a stream, sent in turn."""
        rng = np.random.default_rng(1234)
        arrays = [rng.integers(0, 256, self.shape, dtype=np.uint8) for _ in range(PAYLOADS)]
        return arrays if self.is_array else [array.tobytes() for array in arrays]

    def filler(self) -> Any:
        """Return an item that costs nothing and does not count."""
        return np.zeros(self.shape, np.uint8)

    def work(self, seed: int) -> Iterator[Any]:
        """Make the items that cost something: the first byte is how much, and `seed` places the heavy ones."""
        costs = self._costs(seed)
        made = {cost: self.filler() for cost in set(costs)}
        for cost, item in made.items():
            item[0], item[FLAG] = cost, 1
        for cost in costs:
            yield made[cost]

    def _costs(self, seed: int) -> list[int]:
        costs = np.full(self.count, self.cost)
        if self.is_skewed:
            heavy = np.random.default_rng(seed).choice(self.count, round(HEAVY_SHARE * self.count), replace=False)
            costs[heavy] = HEAVY
        return [int(cost) for cost in costs]

    def check(self, seed: int) -> int:
        """Return what the probes of all items that a sink counts add up to."""
        if self.kind == PACED:
            return sum(number(k) for k in range(self.count))
        if self.kind == WORK:
            probes: dict[int, int] = {}
            for item in self.work(seed):
                if item[0] not in probes:
                    probes[item[0]] = self.probe(burn(item))
            return sum(probes[cost] for cost in self._costs(seed))
        return self.check_of_first(self.total)

    def check_of_first(self, count: int) -> int:
        """Return what the probes of so many payloads, sent in turn, add up to."""
        probes = [self.probe(item) for item in self.payloads()]
        return sum(probes) * (count // PAYLOADS) + sum(probes[: count % PAYLOADS])


def number(k: int) -> int:
    """Return what the k-th item of a paced load carries to tell it by."""
    return k % 251


def burn(item: Any) -> Any:
    """Work as long as the item costs; what comes out depends on every step."""
    cost = x = int(item[0])
    for _ in range(cost * STEPS):
        x = (69069 * x + 1) & 0xFFFFFFFF
    out = item.copy()
    out[0], out[-1] = x & 255, x >> 8 & 255
    return out


def _ends(item: Any) -> int:
    return int(item.item(0) + item.item(-1))


def _ends_of_bytes(item: bytes) -> int:
    return item[0] + item[-1]


def _pages(item: Any) -> int:
    return int(item.reshape(-1)[::PAGE].sum(dtype=np.uint64))


LOADS = {
    load.name: load
    for load in (
        Load("W1", (64,), 200_000, 20_000, 1000),
        Load("W1-bytes", (64,), 200_000, 20_000, 1000, is_array=False),
        Load("W2", (32, 224, 224, 3), 240, 40, 8),
        Load("W3", (150_000,), 5000, 1000, 64),
        Load("W4x1", (64,), 300, 4, 1000, WORK, cost=2),
        Load("W4x2", (64,), 300, 4, 1000, WORK, workers=2, cost=2),
        Load("W5", (1_000_000,), 800, 100, 16, stages=0, sinks=3),
        Load("W6", (1000,), 400, 50, 1000, PACED, stages=3),
        Load("W7", (1000,), 1, 0, 1000, FIRST, stages=3),
        Load("W8", (64,), 600, 4, 1000, WORK, workers=2, cost=1, is_skewed=True),
        Load("G64", (64,), 20_000, 2000, 1000),
        Load("G4k", (4096,), 12_000, 1200, 1000),
        Load("G150k", (150_000,), 2000, 200, 64),
        Load("G5M", (5_000_000,), 120, 16, 8),
    )
}
OUTSIDE = tuple(name for name in LOADS if name.startswith("G"))  # those for programs outside
EIGHT = tuple(name for name in LOADS if name not in OUTSIDE)
