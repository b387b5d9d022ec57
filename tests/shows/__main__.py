"""`python -m tests.shows [NAME...]`: what zpipe claims with seconds in it, seen; exit 1 when one is not so.

Exit 2 when one cannot be seen on this machine.

--quick shrinks the long ones, so that they show that they run, not what they claim.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.chaos.chaos import play
from tests.shows import (
    autoscale,
    away,
    calls,
    crowd,
    disk,
    flat,
    flow,
    growth,
    hostile,
    hosts,
    job,
    journal,
    languages,
    links,
    looking,
    memory,
    orderly,
    scale,
    shapes,
)
from tests.shows.flow import Shown
from tests.simulation.play import play as simulate

LONG = ("flat", "crowd", "growth")  # these are played only when they are named
SEEDS = 1000
QUICK_PARTITION_S = 2.0
QUICK_CROPS, QUICK_ARRAYS, QUICK_ORDER, QUICK_CHAOS, QUICK_ROUNDS = 12_000, 500, 1000, 3000, 2
QUICK_SQUARES, QUICK_SKEWED = 6000, 1000
QUICK_CALLS_S, QUICK_MOMENTS = 2.0, 3


def simulator() -> Iterator[Shown]:
    """The simulator plays at least 50 seeds a second on 2 cores."""
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(simulate, range(2)))  # the imports
        began_s = time.monotonic()
        verdicts = [outcome.verdict for outcome in pool.map(simulate, range(SEEDS), chunksize=20)]
        rate = SEEDS / (time.monotonic() - began_s)
    bad = [seed for seed, verdict in enumerate(verdicts) if verdict != "ok"]
    yield Shown(
        f"{SEEDS} seeds, {rate:.0f} a second (at least 50), {len(bad)} not ok {bad[:5]}", rate >= 50 and not bad
    )


def chaos(count: int = 20_000) -> Iterator[Shown]:
    """Every role is killed, at least 30 times in all, and a separate program finds every item once."""
    outcome = play(1, count=count)
    kills = outcome.kills.total() + outcome.between
    yield Shown(str(outcome), not outcome.faults and kills >= 30 and min(outcome.kills.values()) >= 3)


def shows(
    *, quick: bool, items: int = flat.ITEMS, large_gb: float = flat.LARGE_GB
) -> dict[str, Callable[[], Iterator[Shown]]]:
    """Return every show by name; `items` and `large_gb` are what passes in `flat`."""
    if not quick:
        return {
            "skew": flow.skew, "toy": flow.toy, "top": flow.top, "order": flow.order, "launcher": flow.launcher,
            "stuck": flow.stuck, "scale": scale.scale, "autoscale": autoscale.autoscale, "shapes": shapes.shapes,
            "registry": away.registry, "disk": disk.disk, "hosts": hosts.hosts,
            "hostile": hostile.hostile, "half-open": hostile.half_open,
            "tap": looking.tap, "trace": looking.trace, "simulator": simulator, "chaos": chaos,
            "pressure": flow.pressure, "parked": flow.parked, "small-shm": memory.small_shm, "views": memory.views,
            "orderly": orderly.orderly, "flat": partial(flat.flat, items, large_gb),
            "languages": languages.languages, "calls": calls.calls, "journal": journal.journal,
            "crowd": crowd.crowd, "links": links.links, "growth": growth.growth,
            "main": job.main, "kills": job.kills, "blocks": job.blocks,
        }  # fmt: skip
    return {
        **shows(quick=False, items=items, large_gb=large_gb),
        "order": partial(flow.order, QUICK_ORDER),
        "tap": partial(looking.tap, QUICK_ROUNDS),
        "hosts": partial(hosts.hosts, QUICK_PARTITION_S),
        "trace": partial(looking.trace, QUICK_ROUNDS),
        "chaos": partial(chaos, QUICK_CHAOS),
        "pressure": partial(flow.pressure, QUICK_ARRAYS),
        "languages": partial(languages.languages, QUICK_SQUARES, QUICK_SKEWED),
        "calls": partial(calls.calls, QUICK_CALLS_S),
        "journal": partial(journal.journal, QUICK_MOMENTS),
        "main": partial(job.main, QUICK_CROPS),
        "kills": partial(job.kills, QUICK_CROPS),
        "blocks": partial(job.blocks, QUICK_CROPS),
    }


def main() -> int:
    """Play the shows that were named, without a name all but the long ones."""
    names = list(shows(quick=False))
    told = f"Shows: {', '.join(names)}; without a name all but {', '.join(LONG)}."
    parser = argparse.ArgumentParser(prog="python -m tests.shows", description=told)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="shrink the long ones")
    parser.add_argument("--items", type=int, default=flat.ITEMS, help="small items of flat (%(default)s)")
    parser.add_argument("--gb", type=float, default=flat.LARGE_GB, help="GB of large items of flat (%(default)s)")
    args = parser.parse_args()
    if unknown := set(args.names) - set(names):
        parser.error(f"there is no show {', '.join(sorted(unknown))}: choose from {', '.join(names)}")
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    failed = unseen = False
    for name, show in shows(quick=args.quick, items=args.items, large_gb=args.gb).items():
        if name not in args.names and (args.names or name in LONG):
            continue
        try:
            for shown in show():
                failed = failed or not shown.ok
                print(f"{name:10} {'OK  ' if shown.ok else 'FAIL'} {shown.figure}", flush=True)
        except memory.NotHere as error:
            unseen = True
            print(f"{name:10} ???? {error}", flush=True)
        except (RuntimeError, TimeoutError) as error:
            failed = True
            print(f"{name:10} FAIL {error}", flush=True)
    return 1 if failed else 2 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
