"""The stages of the pipelines that are run for real; tests copy this file beside their pipeline files."""

import itertools
import os
import signal
import time
from pathlib import Path

import numpy as np

import zpipe as zp


def ring(path):
    """Strike a bell of the test."""
    bell = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.write(bell, b".")
    os.close(bell)


def numbers(count=10, start=0):
    yield from range(start, count)


def halves(count=10, start=0):
    """Each of two partitions its share: the even numbers, the odd ones."""
    item = zp.item()
    yield from range(2 * start + item.partition, count, item.partitions)


def once(count=10):
    yield from range(count)


def slowly(count=100000, start=0):
    for k in range(start, count):
        time.sleep(0.001)
        yield k


def as_told(start=0):
    """Some hundred a second while a file `load` is here, else fifty."""
    for k in itertools.count(start):
        time.sleep(0.002 if Path("load").exists() else 0.02)
        yield k


def as_long_as(count, start=0):
    """A hundred a second until there is a file `load`."""
    for k in range(start, count):
        if not Path("load").exists():
            time.sleep(0.01)
        yield k


def waits_at(x, bell, at=0):
    """Strike the bell, and wait for ever, at one item, until there is a file `load`."""
    if x == at and not Path("load").exists():
        ring(bell)
        signal.pause()
    return x


def needs_load(x):
    if x == 7 and not Path("load").exists():
        raise ValueError("there is no load")
    return x


def rings_at(x, bell, at=0):
    if x == at:
        ring(bell)
    return x


def rows(count=4, start=0):
    for k in range(start, count):
        yield {"x": np.full((2, 3), k, np.float32), "name": f"row {k}"}


def double(x):
    return 2 * x


def negate(x):
    return -x


def odd(x):
    return x if x % 2 else None


def route(x):
    """Odd numbers to one output, even ones that three divides to another, and the rest to none."""
    return zp.out("odd", x) if x % 2 else zp.out("six", x) if x % 3 == 0 else x


def sort_children(x):
    for k in range(x % 4):
        yield zp.out("first" if k == 0 else "later", [x, k])


def astray(x):
    return zp.out("od", x) if x == 3 else zp.out("odd", x)


def unnamed(x):
    return x if x == 3 else zp.out("odd", x)


class Tally:
    """Sends the odd on, and at the end says how many there were of each kind."""

    def __init__(self):
        self.n = [0, 0]

    def __call__(self, x):
        self.n[x % 2] += 1
        return zp.out("item", x) if x % 2 else None

    def state(self):
        return self.n

    def restore(self, state):
        self.n = list(state)

    def finish(self):
        yield zp.out("sums", self.n)


def unless_seventh(x):
    return -x if x % 7 else None


def doubles(items):
    """Numbers doubled, odd ones dropped that seven divides; never more than a block of ten."""
    assert 1 <= len(items) <= 10
    assert [zp.item(k).position for k in range(len(items))] == items
    return [None if x % 14 == 7 else 2 * x for x in items]


def sums(left, right):
    return np.array(left) + np.array(right)


def short(items):
    return items[1:]


def tagged(x, count, skip=0, slow_s=0.0):
    """A number with an id: all below `count` once, in another order; but for every `skip`-th."""
    time.sleep(slow_s)
    return {"id": x * 7 % count, "x": x} if not skip or x % skip else None


def values(a, b):
    return [a["id"], a["x"], b["x"]]


def add(a, b, scale=1):
    return [a, b, scale * (a + b)]


def stall(x, file, size):
    """Return when a file of the run folder has so many lines."""
    path = zp.run_folder() / file
    while not path.exists() or path.read_bytes().count(b"\n") < size:
        time.sleep(0.01)
    return x


def nap(x):
    time.sleep(0.005)
    return 2 * x


def nap_over(a, b):
    time.sleep(0.005)
    return a - b


def thrice(x):
    for k in range(x % 4):
        yield [x, k]


def jitter(x):
    """Take a random time, another for each worker and call."""
    time.sleep((os.getpid() * 31 + x) % 7 / 1000)
    return x


def draw(x):
    """Numbers and names that depend on the item only."""
    item = zp.item()
    return [x, int(zp.rng().integers(1000)), item.path, item.position, item.epoch, item.partition]


def scale(x, by=1):
    return [by, x * by]


def flat(x):
    """A batch as plain lists, with the type of its arrays."""
    return {key: [str(v.dtype), v.tolist()] if hasattr(v, "dtype") else v for key, v in x.items()}


def plain(x):
    return x.tolist()


class Sum:
    """Adds up, and says so at the end of each epoch and of the run."""

    def __init__(self, name="sum"):
        self.name, self.total = name, 0

    def __call__(self, x):
        self.total += x
        return ["item", self.total]

    def epoch_end(self, n):
        yield ["epoch", n, self.total]

    def finish(self):
        yield [self.name, self.total]

    def state(self):
        return {"total": self.total}

    def restore(self, state):
        self.total = state["total"]


class Logged:
    """Writes down which of its hooks were called, in which order."""

    def __init__(self):
        self.says("init")

    def says(self, word):
        with open(zp.run_folder() / "hooks.txt", "a", encoding="utf-8") as file:
            file.write(f"{word}\n")

    def warmup(self):
        self.says("warmup")

    def __call__(self, x):
        self.says(f"call {x}")
        return x

    def close(self):
        self.says("close")


class Files:
    """A sink of its own making: a file for each item, named by its path."""

    def commit(self, items):
        for item in items:
            (zp.run_folder() / f"{item.path}.txt").write_text(f"{item.epoch} {item.value}")


def bell_at(x, bell, at=0):
    """Strike when the item `at` is here."""
    if x == at:
        ring(bell)
    return x


def stroke(x, bell):
    ring(bell)
    return x


def stuck(x, bell, at=3):
    """Never return from the item `at`."""
    if x == at:
        ring(bell)
        while True:
            signal.pause()
    return x


def with_child(x, bell):
    """Start a process of its own, then go on slowly."""
    if not Path("child").exists():
        Path("child").touch()
        os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "1000")
        ring(bell)
    return x


def fails(x):
    return 10 / (x - 3)


def exits(x):
    if x == 3:
        os._exit(7)
    return x


def deep(x):
    return inner(x)


def inner(x):
    raise KeyError(f"no {x}")


def a_set(x):
    return {"values": [x, {1, 2}]}


def objects(x):
    return {"values": np.array([None, x], dtype=object)}


def open_file(x):
    return [x, open(__file__, encoding="utf-8")]


def too_long(x):
    return "x" * 70_000_000


def die_once(at, marker):
    """Die, once in the run."""
    file = zp.run_folder() / marker
    if at and not file.exists():
        file.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def dying_source(count=50):
    for k in range(count):
        die_once(k == 20, "source-died")
        yield k


class Forgetful:
    """Accumulates what it cannot save, and dies once."""

    def __init__(self):
        self.total = 0

    def __call__(self, x):
        die_once(x == 5, "forgetful-died")
        self.total += x

    def finish(self):
        return self.total


class Steady:
    """Accumulates, can save, and dies once."""

    def __init__(self):
        self.total = 0

    def __call__(self, x):
        die_once(x == 500, "steady-died")
        self.total += x

    def finish(self):
        return self.total

    def state(self):
        return self.total

    def restore(self, state):
        self.total = state


class BadInit:
    def __init__(self):
        raise ValueError("no such model")

    def __call__(self, x):
        return x


class BadWarmup:
    def warmup(self):
        raise ValueError("the model does not answer")

    def __call__(self, x):
        return x


def two(x, y):
    return x + y


class BadFinish:
    def __call__(self, x):
        return None

    def finish(self):
        yield 1
        raise ValueError("no end")

    def state(self):
        return None

    def restore(self, state):
        pass


class BadEpoch(BadFinish):
    def epoch_end(self, n):
        raise ValueError("no epoch")


class SetFinish(BadFinish):
    def finish(self):
        yield {1, 2}


class SetState(BadFinish):
    def finish(self):
        return 1

    def state(self):
        return {1, 2}


class BadClose:
    def __call__(self, x):
        return x

    def close(self):
        raise ValueError("cannot close")


class BadCommit:
    def commit(self, items):
        raise ValueError("disk full")


def bad_source(count=10):
    yield from range(3)
    raise ValueError("no more")


def leaves(x):
    raise SystemExit(0)


def long_text(x):
    return "x" * 40_000_000


def nothing():
    return 1


def padded(k):
    return {"i": k, "text": "x" * 300}


def table(count=100, by=7, slow_s=0.0, start=0):
    """Rows (2,) of a number and its square, in arrays of at most `by`, the same whichever row is the first."""
    for a in range(start, count, by):
        time.sleep(slow_s)
        numbers = np.arange(a, min(a + by, count))
        yield np.stack([numbers, numbers**2], axis=1)


def sum_of_rows(rows):
    """In: int64 (n, 2)      Out: int64 (n,), the row's sum"""
    assert rows.ndim == 2 and rows.flags.c_contiguous and not rows.flags.writeable
    assert [zp.item(k).position for k in range(len(rows))] == rows[:, 0].tolist()
    return rows.sum(axis=1)


def beside(rows, sums):
    """In: int64 (n, 2), int64 (n,)      Out: int64 (n, 3)"""
    return np.concatenate([rows, sums[:, None]], axis=1)
