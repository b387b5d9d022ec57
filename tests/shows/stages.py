"""The stages of the shows; times are of the clock that all processes of a machine share."""

import mmap
import os
import time
from collections import deque
from zlib import crc32

import numpy as np

import zpipe as zp
import zpipe.sinks
from zpipe.transport.shared import root_of

MB = 1_000_000


def numbers(count, start=0):
    yield from range(start, count)


def numbered(count, start=0):
    """Items that take some room on a disk."""
    for k in range(start, count):
        yield {"i": k, "text": "x" * 100}


def uneven(x, slow_s=0.05, fast_s=0.001):
    """Work that takes the second worker fifty times as long."""
    began_s = time.monotonic()
    worker = zp.item().worker
    time.sleep(slow_s if worker.endswith("-2") else fast_s)
    return {"worker": worker, "began_s": began_s, "ended_s": time.monotonic()}


def same(x):
    return x


def double(x):
    return 2 * x


def squared(x, nap_s=0.0005):
    """A number, its square, and by which process."""
    time.sleep(nap_s)
    return [x, x * x, f"process {os.getpid()}"]


def unless_seventh(x):
    return -x if x % 7 else None


def named(x, count, step):
    """A number with an id: those of the same `count` once each, in an order of their own."""
    return {"id": x * step % count, "x": x}


def values(a, b):
    return [a["id"], a["x"], b["x"]]


class slow_sqlite(zpipe.sinks.sqlite):
    """A sink that takes half a millisecond for each item."""

    def commit(self, items):
        time.sleep(0.0005 * len(items))
        super().commit(items)


def stalled(x, stall_s=1.0):
    time.sleep(stall_s)
    return x


def add(a, b):
    return [a, b]


def route(x):
    return zp.out("odd", x) if x % 2 else zp.out("six", x) if x % 3 == 0 else x


def nap(k, nap_s=0.005):
    time.sleep(nap_s)
    return {"k": k, "ended_s": time.monotonic()}


def paced(spells):
    """Numbers, one every so many seconds for so many seconds, spell after spell."""
    k = 0
    for pace_s, spell_s in spells:
        end_s = time.monotonic() + spell_s
        while time.monotonic() < end_s:
            time.sleep(pace_s)
            yield k
            k += 1


def load(count=10, load_s=0.5):
    for k in range(count):
        began_s = time.monotonic()
        time.sleep(load_s)
        yield {"k": k, "began_s": began_s}


def transform(item, transform_s=1.0):
    time.sleep(transform_s)
    return item


def save(item, save_s=0.5):
    time.sleep(save_s)
    return {**item, "ended_s": time.monotonic()}


def random_delay(x):
    """Take up to 4 ms, another time in every process and call; 40 floats that depend on the item only."""
    time.sleep(int.from_bytes(os.urandom(1)) / 64_000)
    return {"x": x, "noise": zp.rng().normal(size=40)}


def digest(batch):
    """A batch as text that tells every bit of it."""
    return {"x": batch["x"].tolist(), "noise": batch["noise"].tobytes().hex(), "type": str(batch["noise"].dtype)}


def arrays(count, start=0):
    """Random arrays of 1 MB, as fast as they come; `made` is how many there are."""
    rng = np.random.default_rng(start)
    made = Counted("made", start)
    for _ in range(start, count):
        yield rng.integers(0, 256, MB, np.uint8)
        made.up()


class Counted:
    """A number that other processes can read, in a file of the run folder."""

    def __init__(self, name, start=0):
        self.n = start
        self._file = os.open(zp.run_folder() / f"{name}.count", os.O_RDWR | os.O_CREAT, 0o666)

    def up(self, by=1):
        self.n += by
        os.pwrite(self._file, self.n.to_bytes(8, "little"), 0)


class Counting:
    """A sink that counts, in the file `done`."""

    def __init__(self):
        self.done = Counted("done")

    def commit(self, items):
        self.done.up(len(items))


class Slow:
    """A sink that takes `pace_s` for each item, and once, after `stall_after` items, `stall_s` more."""

    def __init__(self, name, pace_s, stall_after=-1, stall_s=0.0):
        self.pace_s, self.stall_after, self.stall_s = pace_s, stall_after, stall_s
        self.done = Counted(name)

    def commit(self, items):
        for item in items:
            assert item.value.shape == (MB,)
            time.sleep(self.pace_s)
            self.done.up()
            if self.done.n == self.stall_after:
                time.sleep(self.stall_s)


def stuck(x, seconds):
    time.sleep(seconds if x == 3 else 0)
    return x


def inflate(x, stuck_at=3):
    """A number as a random array of 1 MB; one call does not return."""
    while x == stuck_at:
        time.sleep(1)
    return zp.rng().integers(0, 256, MB, np.uint8)


def whispered(k, nap_s=0.002):
    """A text that is easily found where it passes unencrypted."""
    time.sleep(nap_s)
    return {"k": k, "text": "open sesame " * 20}


def out(x):
    """Take it."""


def images(count, nbytes, start=0):
    """Arrays that differ from each other in every word, made where they are read, each with its CRC."""
    noise = np.random.default_rng(0).integers(0, 2**63, nbytes // 8, np.uint64)
    for n in range(start, count):
        image = zp.empty(len(noise), np.uint64)
        np.bitwise_xor(noise, np.uint64(n * 0x9E3779B97F4A7C15 % 2**64), out=image)
        yield {"n": n, "crc": crc32(image), "image": image}


def checked(item):
    if crc32(item["image"]) != item["crc"]:
        raise ValueError(f"image {item['n']} is not what it was")
    return item


def inverted(item):
    """Check an image, and make its inverse."""
    image = zp.empty(checked(item)["image"].shape, np.uint64)
    np.invert(item["image"], out=image)
    return {"n": item["n"], "crc": crc32(image), "image": image}


class told:
    """Check images and tell their numbers; `shared` counts those in shared memory."""

    def __init__(self):
        self.shared = Counted("shared")

    def __call__(self, item):
        self.shared.up(is_shared(checked(item)["image"]))
        return item["n"]


class holds:
    """Keep views of the last `keep` images; look at `looks` of them in each call, by sums taken when each came.

    `looked` counts the looks, `kept` the views.
    """

    def __init__(self, keep, looks):
        self.keep, self.looks = keep, looks
        self.kept = deque()
        self.looked, self.views = Counted("looked"), Counted("kept")

    def __call__(self, item):
        self.kept.append((item["n"], checked(item)["image"], int(item["image"].sum())))
        if len(self.kept) > self.keep:
            self.kept.popleft()
        for _ in range(min(self.looks, len(self.kept))):
            n, image, was = self.kept[0]
            if int(image.sum()) != was:
                raise ValueError(f"the view of image {n} has changed")
            self.kept.rotate(-1)
        self.looked.up(min(self.looks, len(self.kept)))
        self.views.up(len(self.kept) - self.views.n)
        return item["n"]


def is_shared(array):
    """Tell whether an array is in memory that the processes of a run share."""
    base = root_of(array).base
    return isinstance(base, mmap.mmap) or isinstance(getattr(base, "obj", None), mmap.mmap)


class seen:
    """A sink that counts, in the file `seen`, how often it has committed each number; a byte each."""

    def __init__(self, count):
        with open(zp.run_folder() / "seen", "ab") as file:
            file.truncate(count)
        self.times = np.memmap(file.name, np.uint8, "r+")

    def commit(self, items):
        np.add.at(self.times, [item.value for item in items], 1)


def plain(count, nbytes, start=0):
    """Arrays that are made as fast as memory is filled."""
    for n in range(start, count):
        array = zp.empty(nbytes, np.uint8)
        array.fill(n % 251)
        yield array
