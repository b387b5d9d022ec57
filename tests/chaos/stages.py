"""The stages of pipeline.toml."""

import time
from collections.abc import Iterator

import zpipe as zp


def numbers(count: int, start: int = 0) -> Iterator[int]:
    """Out: 0..count-1, each partition every second one."""
    item = zp.item()
    yield from range(item.partition + item.partitions * start, count, item.partitions)


def named(n: int, pace_s: float = 0.0) -> dict[str, int]:
    """In: n      Out: the number in a dict, after a moment in which kills may fall"""
    time.sleep(pace_s)
    return {"n": n}


def children(item: dict[str, int]) -> Iterator[list[int]]:
    """In: a number n      Out: [n, 0] .. [n, n % 3], so one to three of them"""
    for k in range(item["n"] % 3 + 1):
        yield [item["n"], k]
