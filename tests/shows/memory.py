"""Shows of shared memory: where `/dev/shm` is small, and where a stage keeps views, some or all."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from tests.real import Command, Place, lines, wait_until
from tests.shows.flow import Shown, chain, count_of, ended, name_of, stage_place

GB, MIB = 1e9, 2**20
IMAGE = 4_800_000  # bytes
SHM_MIB = 64  # of /dev/shm
SMALL_GB, VIEWS_GB, HOARD_GB = 5.0, 4.0, 2.5
VIEW = 600_000  # bytes of an image that is kept
VIEWS = 64
KILL_S = 1.0
KILLS_MIN = 5
LOOK_S = 0.5
RUN_S = 900.0
POOL_MIB = 256  # at most: 64 MiB that are not settled, what readers have not given back yet, and 64 views
FULL, HOLDS = "has no more room in shared memory", "is kept: "

# A process that would write to as much of /dev/shm as all this takes.
PROOF = """
from multiprocessing.shared_memory import SharedMemory
memory = SharedMemory(create=True, size=2**27)
memory.buf[:] = bytes(2**27)
"""


class NotHere(Exception):
    """What takes to see this is not to be had on this machine."""


def small_shm(total_gb: float = SMALL_GB) -> Iterator[Shown]:
    """A `/dev/shm` of 64 MiB holds nothing up: large arrays are elsewhere.  A pool that is full is copied around."""
    count = int(total_gb * GB / IMAGE)
    with stage_place() as place:
        may = in_small_shm(place, "true").wait()
        if may.code != 0:
            raise NotHere(f"a /dev/shm of {SHM_MIB} MiB takes root: {may.err.strip()}")
        proof = in_small_shm(place, sys.executable, "-c", PROOF).wait()
    died = -proof.code == signal.SIGBUS
    yield Shown(
        f"/dev/shm has {SHM_MIB} MiB: who writes 128 MiB of multiprocessing's shared memory "
        f"{'dies of SIGBUS' if died else f'ends with {proof.code}'}",
        died,
    )
    images = f"replay = 'seek'\nargs = {{ count = {count}, nbytes = {IMAGE} }}"
    stages = chain("images", "inverted", "told", sink="out.jsonl", images=images, inverted="workers = 2")
    yield _small(stages, count, "two workers between", 0)
    held = 2**30 // IMAGE + 40  # more than a pool has
    stages = chain("images", "checked", "told", sink="out.jsonl", images=images, checked="workers = 2")
    stages += f'[stage.holds]\nrun = "stages:holds"\nfrom = "checked"\nargs = {{ keep = {held}, looks = 4 }}\n'
    yield _small(stages, count, f"and a stage that keeps {held} of them, more than a pool has", 1)


def _small(stages: str, count: int, what: str, warnings: int) -> Shown:
    with stage_place() as place:
        run = in_small_shm(place, sys.executable, "-m", "zpipe", "run", place.pipeline(stages))
        most = 0

        def look() -> None:
            nonlocal most
            with suppress(OSError):
                shm = os.statvfs(f"/proc/{run.process.pid}/root/dev/shm")
                most = max(most, (shm.f_blocks - shm.f_bfree) * shm.f_frsize)

        began_s = time.monotonic()
        pools = watched(run, place, look)
        done = ended(run.wait())
        seconds = time.monotonic() - began_s
        exact = sorted(lines(done.folder / "out.jsonl")) == list(range(count))
        shared = count_of(done.folder, "shared")
        events = lines(done.folder / "events.jsonl")
    deaths = Counter(event["data"]["status"] for event in events if event["kind"] == "died")
    said = [line.removeprefix("zpipe: ").partition(": /")[0] for line in done.err.splitlines() if FULL in line]
    torn = deaths.pop(-signal.SIGBUS, 0)
    return Shown(
        f"{count * IMAGE / GB:.1f} GB in {count} arrays, {what}: each {'once' if exact else 'NOT once'}, each right, "
        f"{shared} in shared memory in the end, in {seconds:.0f} s; {most / MIB:.0f} MiB of /dev/shm used, pools up to "
        f"{pools / MIB:.0f} MiB, {torn} deaths by SIGBUS, {deaths.total()} others, "
        f"{len(said)} of {warnings} warnings{f': {said[0]}' if said else ''}",
        exact and not torn and len(said) == warnings and most == 0 and shared > count // 4,
    )


def views(total_gb: float = VIEWS_GB) -> Iterator[Shown]:
    """Views that a stage keeps never change, whoever is killed above it; one that keeps all is named, once."""
    yield _kept(int(total_gb * GB / VIEW))
    yield _hoarded(int(HOARD_GB * GB / IMAGE))


def _kept(count: int) -> Shown:
    images = f"replay = 'seek'\nargs = {{ count = {count}, nbytes = {VIEW} }}"
    holds = f"args = {{ keep = {VIEWS}, looks = {VIEWS} }}"
    stages = chain("images", "inverted", "holds", sink="out.jsonl", images=images, inverted="workers = 2", holds=holds)
    with stage_place() as place:
        run = place.start("run", place.pipeline(stages))
        wait_until(lambda: sum(w["state"] == "live" for w in place.ps()["workers"]) == 5)
        killer = Killer(place, ("images-1", "inverted-1", "inverted-2"))
        pools = watched(run, place, killer.look)
        done = ended(run.wait())
        exact = sorted(lines(done.folder / "out.jsonl")) == list(range(count))
        looked = count_of(done.folder, "looked")
    said = done.err.count(FULL)
    return Shown(
        f"{count * VIEW / GB:.1f} GB in {count} arrays, each {'once' if exact else 'NOT once'}, {killer.kills} kills "
        f"above (at least {KILLS_MIN}): a stage that keeps its last {VIEWS} views looked at them {looked:,} times "
        f"({looked * VIEW / GB:,.0f} GB), and none had changed; pools up to {pools / MIB:.0f} MiB "
        f"(at most {POOL_MIB}), {said} warnings",
        exact and killer.kills >= KILLS_MIN and looked > 0.9 * VIEWS * count and pools <= POOL_MIB * MIB and not said,
    )


def _hoarded(count: int) -> Shown:
    images = f"replay = 'seek'\nargs = {{ count = {count}, nbytes = {IMAGE} }}"
    holds = f"args = {{ keep = {count}, looks = 16 }}"
    with stage_place() as place:
        stages = chain("images", "holds", sink="out.jsonl", images=images, holds=holds)
        run = place.start("run", place.pipeline(stages))
        pools = watched(run, place)
        done = ended(run.wait())
        exact = sorted(lines(done.folder / "out.jsonl")) == list(range(count))
        kept = count_of(done.folder, "kept")
        log = (done.folder / "logs" / "images-1.log").read_text()
    said = done.err.count(FULL)
    holders = [line.partition(HOLDS)[2].partition(";")[0] for line in log.splitlines() if HOLDS in line]
    return Shown(
        f"a stage that keeps all {kept} views of {count * IMAGE / GB:.1f} GB: none had changed, "
        f"pools up to {pools / MIB:.0f} MiB (at most 1024), {said} line says so, and one of the log who keeps it: "
        f"{', '.join(holders)}",
        exact and kept == count and pools <= 2**30 + MIB and said == len(holders) == 1
        and holders[0].startswith("holds-1 "),
    )  # fmt: skip


class Killer:
    """Kills one of these workers every second."""

    def __init__(self, place: Place, names: tuple[str, ...]) -> None:
        self.kills = 0
        self._place, self._names = place, names
        self._random = random.Random(1)
        self._next_s = time.monotonic() + KILL_S

    def look(self) -> None:
        """Kill one, when it is time."""
        if time.monotonic() < self._next_s:
            return
        there = [process for process in self._place.processes() if _slot(process) in self._names]
        if there:
            self._next_s = time.monotonic() + KILL_S
            with suppress(psutil.NoSuchProcess):
                self._random.choice(there).kill()
                self.kills += 1


def _slot(process: psutil.Process) -> str:
    """Return `inverted-2` for the second worker of that stage."""
    with suppress(psutil.Error):
        argv = process.cmdline()
        if "--slot" in argv:
            return f"{name_of(argv)}-{int(argv[argv.index('--slot') + 1]) + 1}"
    return ""


def in_small_shm(place: Place, *argv: str) -> Command:
    """Start a command that sees a /dev/shm of its own."""
    mount = f'mount -t tmpfs -o size={SHM_MIB}m tmpfs /dev/shm || exit 1; exec "$@"'
    return Command(("unshare", "--mount", "sh", "-c", mount, "sh", *argv), place.folder, place.env)


def watched(run: Command, place: Place, look: Callable[[], None] = lambda: None) -> int:
    """Wait for the end of a run, looking at it again and again; return the most bytes that any pool had."""
    most, end_s = 0, time.monotonic() + RUN_S
    while not run.ends_within(LOOK_S):
        if time.monotonic() > end_s:
            raise TimeoutError(f"no end within {RUN_S:.0f} s: {run.printed(1)}")
        most = max(most, *pools_of(place.processes()).values(), 0)
        look()
    return most


def pools_of(processes: Iterable[psutil.Process]) -> dict[int, int]:
    """Return the bytes of each pool that these processes know, by inode, those that only readers keep too."""
    found = {}
    for process in processes:
        with suppress(OSError):
            for file in Path(f"/proc/{process.pid}/fd").iterdir():
                with suppress(OSError):
                    if os.readlink(file).startswith("/memfd:zpipe"):
                        stat = file.stat()
                        found[stat.st_ino] = 512 * stat.st_blocks
    return found
