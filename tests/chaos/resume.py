"""Runs of pipeline.toml of which every process is killed at once, resumed with other numbers of workers until done.

When is a count of committed rows drawn from a seed; what is left of the run is judged as after any chaos run.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.chaos.chaos import DEADLINE_S, HERE, LAST, LOOK_S, committed
from tests.real import ROOT, Command, Place

SCALED = {"a": 4, "b": 4, "numbers": 2}  # most workers of the stages that may have several


@dataclass
class Resumed:
    """What became of a run; `faults` is empty when all went well."""

    seed: int
    seconds: float = 0.0
    kills: list[str] = field(default_factory=list)  # how many rows there were, and who was killed
    workers: list[str] = field(default_factory=list)  # of each life
    faults: list[str] = field(default_factory=list)
    folder: Path | None = None  # kept when there are faults

    def __str__(self) -> str:
        verdict = "OK" if not self.faults else f"FAIL {'; '.join(self.faults)} (kept {self.folder})"
        lives = ", then ".join(self.workers)
        return f"seed {self.seed}: killed at {', '.join(self.kills)}; workers {lives}; {self.seconds:.1f} s: {verdict}"


def play(seed: int, *, count: int = 4000, kills: int | None = None) -> Resumed:
    """Run, kill everything one to three times, or `kills` times, resume each time, and have the database read."""
    r = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix=f"zpipe-resume-{seed}-"))
    out = Resumed(seed, folder=folder)
    last = int(LAST * 2 * count / 16)
    moments = sorted(r.randint(0, last) for _ in range(kills or r.randint(1, 3)))
    began_s = time.monotonic()
    with Place(folder) as place:
        argv = ["run", str(HERE / "pipeline.toml"), "--set", f"numbers.count={count}"]
        argv += ["--set", f"numbers.replay={r.choice(('seek', 'skip'))}"]
        for rows in moments:
            run = place.start(*argv, *_workers(r, out))
            if not _reaches(run, folder, rows, out):
                return out
            _kill(run, place, r, out)
            argv = ["run", str(HERE / "pipeline.toml"), "--resume"]
        done = place.start(*argv, *_workers(r, out)).wait(DEADLINE_S)
        out.seconds = time.monotonic() - began_s
        if done.code != 0:
            out.faults.append(f"exit {done.code}: {done.err.strip().splitlines()[-1]}")
        if left := place.left():
            out.faults.append(f"left behind: {left}")
    _judge(folder, count, out)
    if not out.faults:
        shutil.rmtree(folder)
        out.folder = None
    return out


def _workers(r: random.Random, out: Resumed) -> list[str]:
    numbers = {stage: r.randint(1, most) for stage, most in SCALED.items()}
    out.workers.append("/".join(map(str, numbers.values())))
    return [word for stage, n in numbers.items() for word in ("--set", f"{stage}.workers={n}")]


def _reaches(run: Command, folder: Path, rows: int, out: Resumed) -> bool:
    """Wait until so many rows are committed, with none until there is a registry."""
    end_s = time.monotonic() + DEADLINE_S
    while committed(folder) < rows or not re.search("registry tcp://", run.printed(1)):
        if run.ends_within(LOOK_S) or time.monotonic() > end_s:
            out.faults.append(f"ended, or stood, before {rows} rows: {run.printed(1).strip().splitlines()[-1:]}")
            return False
    return True


def _kill(run: Command, place: Place, r: random.Random, out: Resumed) -> None:
    """Kill every process in any order, or only the launcher: then the others have to give way to the next life."""
    rows = committed(place.folder)
    if r.random() < 0.25:
        out.kills.append(f"{rows} (launcher)")
        run.process.kill()
    else:
        out.kills.append(f"{rows} (all)")
        victims = place.processes()
        r.shuffle(victims)
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    run.wait()


def _judge(folder: Path, count: int, out: Resumed) -> None:
    runs = list((folder / "runs").iterdir())
    if len(runs) != 1:
        out.faults.append(f"{len(runs)} run folders, not one")
    argv = [sys.executable, "-m", "tests.chaos.verify", str(runs[0] / "out.db"), str(count)]
    verdict = subprocess.run(argv, cwd=ROOT, check=False, capture_output=True, text=True, timeout=60)
    if verdict.returncode != 0:
        out.faults.append(" and ".join((verdict.stdout or verdict.stderr).strip().splitlines()))
