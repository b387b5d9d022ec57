"""Show of a full disk: the sink of a run fills it, the run stands with its memory flat, gets room, and ends exact."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from tests.real import Place, lines, rows
from tests.shows.flow import MIB, Shown, chain, ended, stage_place
from tests.smalldisk import SmallDisk, mounted
from zpipe.processes.report import read_memory

COUNT = 20_000
STANDS_S = 10.0
GROWTH_MAX = 8 * MIB  # of all processes together while the run stands


def disk(count: int = COUNT) -> Iterator[Shown]:
    """Each ready-made sink on a disk of 1 MiB that is made larger after 10 s."""
    for sink in ("jsonl", "sqlite", "npz", "parquet"):
        if sink == "parquet" and find_spec("pyarrow") is None:
            continue
        with stage_place() as place, mounted(place.folder / "d", "1m") as small:
            yield _fills(place, small, sink, count)


def _fills(place: Place, small: SmallDisk, sink: str, count: int) -> Shown:
    stages = chain("numbered", numbered=f"args = {{ count = {count} }}\nreplay = 'seek'")
    out = small.path / "out"
    stages += f'[stage.out]\nrun = "zpipe.sinks:{sink}"\nfrom = "numbered"\nargs = {{ path = "{out}" }}\n'
    run = place.start("run", place.pipeline(stages))
    run.says("out-1 waits: cannot write ")
    time.sleep(1.0)  # the source goes on until it may make no more
    before, began_s, growth = _memory(place), time.monotonic(), 0
    while time.monotonic() < began_s + STANDS_S:
        growth = max(growth, _memory(place) - before)
        time.sleep(0.2)
    stands = not run.ends_within(0)
    written = len(set(_read(sink, out)))
    small.grow("64m")
    done = ended(run.wait())
    found = _read(sink, out)
    exact = sorted(found) == list(range(count))
    return Shown(
        f"{sink}: full after {written} of {count} items, stood {STANDS_S:.0f} s, memory +{growth / MIB:.1f} MiB "
        f"(at most {GROWTH_MAX // MIB}); {len(found)} items in the end, {len(found) - len(set(found))} twice",
        stands and growth <= GROWTH_MAX and exact and written < count and "out-1 goes on" in done.err,
    )


def _memory(place: Place) -> int:
    total = 0
    for process in place.processes():
        with suppress(Exception):  # it has ended
            total += read_memory(process.pid)[1] or 0
    return total


def _read(sink: str, out: Path) -> list[int]:
    """Return the numbers that a reader finds."""
    if sink == "jsonl":
        return [item["i"] for item in lines(out)]
    if sink == "sqlite":
        return [item["i"] for _, item in rows(out)]
    if sink == "npz":
        import numpy as np

        found = []
        for file in sorted(out.glob("*.npz")):
            with np.load(file) as arrays:
                found += [int(arrays[name]) for name in arrays.files if name.endswith("/i")]
        return found
    import pyarrow.parquet as pq

    return [int(i) for i in pq.read_table(out)["i"].to_pylist()]
