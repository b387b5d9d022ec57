"""Stages whose items fail, for tests/integration/test_failing.py; a file `fixed` beside them mends all."""

import ctypes
import os
import signal
import sys
from pathlib import Path

import zpipe as zp


def numbers(count=100, start=0):
    yield from range(start, count)


def same(x):
    return x


def breaks(x, at=(), how="raise", until=0):
    """Fail for the numbers `at` in the way `how`, from the attempt `until` on no more if that is given."""
    if x in at and not Path("fixed").exists() and (not until or zp.item().attempt < until):
        _break(how, x)
    return x


def breaks_in_blocks(xs, at=(), how="raise"):
    if set(xs) & set(at):
        _break(how, xs)
    return [10 * x for x in xs]


def parts(x, at=(), how="raise"):
    yield [x, 0]
    if x in at and not Path("fixed").exists():
        _break(how, x)
    yield [x, 1]


def both(x, y, at=(), how="raise"):
    breaks(x, at, how)
    return [x, y]


class Scores:
    """Two outputs, and all that a stage may know of its item."""

    def __init__(self, k=1, at=()):
        self.k = k
        self.at = at

    def __call__(self, pair):
        breaks(pair[0], self.at if pair[1] else ())
        item = zp.item()
        known = [item.position, item.epoch, int(zp.rng().integers(99))]
        return zp.out("odd" if pair[0] % 2 else "even", [*pair, self.k, *known])


class Table:
    """A sink that refuses some items."""

    def __init__(self, at=()):
        self.at = set(at)
        self.file = open(zp.run_folder() / "table.txt", "a")  # noqa: SIM115

    def commit(self, items):
        if bad := [item.value for item in items if item.value in self.at]:
            raise ValueError(f"not {bad}")
        self.file.write("".join(f"{item.path} {item.value}\n" for item in items))
        self.file.flush()


def _break(how, what):
    print("about to break")
    if how == "raise":
        raise ValueError(f"cannot take {what}")
    if how == "segfault":
        ctypes.string_at(0)
    if how == "exit":
        os._exit(7)
    if how == "sys.exit":
        sys.exit(7)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while how == "hang":
        pass
