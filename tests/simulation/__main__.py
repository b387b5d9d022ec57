"""`python -m tests.simulation [--seeds N] [--jobs J] [--bugs]`: play many seeds, or catch every planted bug.

A seed plays the same whatever the others are and in however many processes.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.bugs import BUGS
from tests.simulation.play import Outcome, play

SEEDS_PER_BUG = 1000


def catch(name: str) -> Outcome | None:
    """Return the outcome that gives a planted bug away, None when no seed does."""
    bug = next(bug for bug in BUGS if bug.name == name)
    for seed in range(SEEDS_PER_BUG):
        outcome = play(seed, world_type=bug.world)
        if outcome.verdict != "ok":
            return outcome
    return None


def _collect_rarely() -> None:
    """Let the collector, which finds little, take less than a tenth of the time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def main() -> int:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=cores, help=f"processes, all cores unless said: {cores} here")
    parser.add_argument("--bugs", action="store_true", help="catch every planted bug instead")
    options = parser.parse_args()
    with ProcessPoolExecutor(options.jobs, initializer=_collect_rarely) as pool:
        if options.bugs:
            missed = 0
            for bug, outcome in zip(BUGS, pool.map(catch, [bug.name for bug in BUGS]), strict=True):
                missed += outcome is None
                said = f"seed {outcome.seed}, {outcome.verdict}: {outcome.detail}" if outcome else "NOT CAUGHT"
                print(f"{bug.name:28} {bug.rule}\n{'':28} {said}", flush=True)
            print(f"{len(BUGS) - missed} of {len(BUGS)} planted bugs caught within {SEEDS_PER_BUG} seeds each")
            return int(missed > 0)
        began = time.monotonic()
        verdicts: Counter[str] = Counter()
        deaths = resumptions = committed = 0
        for outcome in pool.map(play, range(options.first, options.first + options.seeds), chunksize=20):
            verdicts[outcome.verdict] += 1
            deaths += outcome.deaths
            resumptions += outcome.resumptions
            committed += outcome.committed
            if outcome.verdict != "ok":
                print(f"seed {outcome.seed} ({outcome.scenario}): {outcome.verdict}: {outcome.detail}", flush=True)
        rate = options.seeds / (time.monotonic() - began)
        counts = f"{deaths} deaths, {resumptions} resumptions, {committed} committed"
        print(f"{options.seeds} seeds: {dict(verdicts)}, {counts}, {rate:.0f} seeds/s in {options.jobs} processes")
        return int(verdicts["ok"] != options.seeds)


if __name__ == "__main__":
    raise SystemExit(main())
