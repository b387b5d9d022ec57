"""Show that no process grows, however many items pass and however large they are."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil

from tests.real import Command, Place
from tests.shows.flow import Shown, chain, count_of, ended, name_of, stage_place
from tests.shows.memory import POOL_MIB, pools_of

GB, MIB = 10**9, 2**20
ITEMS, LARGE_GB = 10**7, 500
LARGE = 4_800_000  # bytes of an array
FROM = 0.2  # of all items: until then caches, windows and pools fill
GROWTH_MAX = 8 * MIB  # of the line through the samples from there to the end
LOOK_S = 0.25

Samples = dict[str, list[tuple[float, int, int]]]  # by process: how much is done, RSS, PSS; without shared memory


def flat(items: int = ITEMS, large_gb: float = LARGE_GB) -> Iterator[Shown]:
    """Memory of every process stays flat over millions of small items and over hundreds of GB of large ones."""
    small = f"replay = 'seek'\nargs = {{ count = {items} }}"
    yield from _slopes(f"{items:,} small items", chain("numbers", "same", "Counting", numbers=small), items)
    count = int(large_gb * GB / LARGE)
    large = f"replay = 'seek'\nargs = {{ count = {count}, nbytes = {LARGE} }}"
    yield from _slopes(f"{large_gb:g} GB", chain("plain", "same", "Counting", plain=large), count)


def _slopes(what: str, stages: str, count: int) -> Iterator[Shown]:
    with stage_place() as place:
        began_s = time.monotonic()
        run = place.start("run", place.pipeline(stages))
        samples, pools = _sampled(run, place, count)
        done = ended(run.wait(1.0))
        seconds = time.monotonic() - began_s
        passed = count_of(done.folder, "done")
    yield Shown(f"{what} in {seconds:.0f} s", passed >= count)
    yield Shown(f"{what}: shared memory {pools / MIB:.0f} MiB (at most {POOL_MIB})", pools <= POOL_MIB * MIB)
    for name, found in sorted(samples.items()):
        late = np.array([sample for sample in found if FROM <= sample[0] < 1])
        if len(late) < 3:
            yield Shown(f"{what}: {name:10} {len(late)} samples are too few: pass more", False)
            continue
        grown = [np.polyfit(late[:, 0], late[:, column], 1)[0] * (1 - FROM) / MIB for column in (1, 2)]
        first, last = (np.median(part[:, 2]) / MIB for part in (late[: len(late) // 10 + 1], late[-len(late) // 10 :]))
        yield Shown(
            f"{what}: {name:10} PSS {first:6.1f} MiB at {FROM:.0%}, {last:6.1f} at the end; slope between them "
            f"{grown[1]:+.2f} MiB PSS, {grown[0]:+.2f} RSS (at most {GROWTH_MAX // MIB}), {len(late)} samples",
            max(grown) * MIB <= GROWTH_MAX,
        )


def _sampled(run: Command, place: Place, count: int) -> tuple[Samples, int]:
    """Wait for the end of a run; return what was seen of its processes, and the most that was in shared memory."""
    samples: Samples = defaultdict(list)
    processes: dict[str, psutil.Process] = {}
    pools = 0
    while not run.ends_within(LOOK_S):
        part = max((count_of(folder, "done") / count for folder in place.folder.glob("runs/*")), default=0.0)
        with suppress(psutil.Error):
            if part < FROM:  # some have only begun
                processes = {name_of(process.cmdline()): process for process in place.processes()}
        pools = max(pools, sum(pools_of(processes.values()).values()))
        for name, process in processes.items():
            with suppress(psutil.Error, OSError):  # it has ended
                rss, pss = _own(process)
                if part and pss:
                    samples[name].append((part, rss, pss))
    return samples, pools


def _own(process: psutil.Process) -> tuple[int, int]:
    """Return RSS and PSS of a process, without what is shared memory."""
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
    pss = {key: 1024 * int(value.split()[0]) for key, _, value in (line.partition(":") for line in rollup)}
    found = process.memory_info()
    return found.rss - _shmem(process), pss["Pss"] - pss["Pss_Shmem"]


def _shmem(process: psutil.Process) -> int:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("RssShmem:"):
            return 1024 * int(line.split()[1])
    return 0
