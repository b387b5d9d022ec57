"""The stages of matrix.toml."""

import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import zpipe as zp
from zpipe.processes import failpoints

# Files in the run folder by which the matrix tells stages what to do.
GO, POISON = "go", "poison"
PIXELS = 20_000  # of the image that comes with each number: enough to be shared

_kept: deque[dict[str, Any]] = deque(maxlen=8)


def numbers(count: int, pace_s: float, idle_at: int = -1, start: int = 0) -> Iterator[dict[str, Any]]:
    """Out: 0..count-1 with an image, each partition every second one; at `idle_at` nothing comes until the file `go`
    is there
    """
    item = zp.item()
    for n in range(item.partition + item.partitions * start, count, item.partitions):
        while n // item.partitions == idle_at and not _is_told(GO):
            time.sleep(0.01)
        time.sleep(pace_s)
        yield {"n": n, "image": np.full(PIXELS, n % 251, np.uint8)}


def named(item: dict[str, Any]) -> dict[str, int]:
    """In: n and its image      Out: the number in a dict; once the file `poison` is there, no call is survived

    It looks at the last images again: what it has a view of never changes.
    """
    if _is_told(POISON):
        os.kill(os.getpid(), signal.SIGSEGV)
    _kept.append(item)
    for seen in _kept:
        assert (seen["image"] == seen["n"] % 251).all(), f"the image of {seen['n']} has changed"
    return {"n": item["n"]}


def children(item: dict[str, int]) -> Iterator[list[int]]:
    """In: a number n      Out: [n, 0] .. [n, n % 3], so one to three of them"""
    for k in range(item["n"] % 3 + 1):
        yield [item["n"], k]
        failpoints.hit("child")


def twice(item: dict[str, int]) -> int:
    """In: a number n      Out: 2 n"""
    return 2 * item["n"]


def both(item: dict[str, int], double: int) -> list[int]:
    """In: n and 2 n      Out: [n, 2 n]"""
    return [item["n"], double]


class Fit:
    """In: a batch of [n, k]      Out: how many batches there were, and the sum of all n + k so far"""

    def __init__(self) -> None:
        self.batches = self.total = 0

    def __call__(self, batch: list[list[int]]) -> list[int]:
        self.batches += 1
        self.total += sum(n + k for n, k in batch)
        return [self.batches, self.total]

    def state(self) -> list[int]:
        return [self.batches, self.total]

    def restore(self, state: list[int]) -> None:
        self.batches, self.total = state


def _is_told(what: str) -> bool:
    return (Path(zp.run_folder()) / what).exists()
