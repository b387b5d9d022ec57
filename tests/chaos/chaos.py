"""One run of pipeline.toml in which every role is killed, at counts of committed rows drawn from a seed.

The database is read over a connection of its own to decide when; five deaths of the sink fall between its
commit and the acks for it, by failpoints.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.real import ROOT, Command, Place

HERE = Path(__file__).parent
ROLES = ("numbers", "a", "b", "batch", "sink", "registry")
LOOK_S = 0.004  # how often the database is looked at: nothing tells when it changes
DEADLINE_S = 300.0
LAST = 0.85  # no kill waits for more than this share of the rows


@dataclass(frozen=True)
class Kill:
    """Kill a process of `role` once `rows` batches are committed."""

    rows: int
    role: str


@dataclass
class Outcome:
    """What became of a run; `faults` is empty when all went well."""

    seed: int
    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter)
    between: int = 0  # deaths between commit and ack, by failpoints
    faults: list[str] = field(default_factory=list)
    folder: Path | None = None  # kept when there are faults

    def __str__(self) -> str:
        kills = " ".join(f"{role} {self.kills[role]}" for role in ROLES)
        verdict = "OK" if not self.faults else f"FAIL {'; '.join(self.faults)} (kept {self.folder})"
        total = self.kills.total() + self.between
        return (
            f"seed {self.seed}: {total} kills ({kills}, between commit and ack {self.between}) "
            f"in {self.seconds:.1f} s: {verdict}"
        )


def draw(seed: int, count: int, each: int, more: int) -> list[Kill]:
    """Return `each` kills of every role and one more of each of `more` roles, by rows."""
    r = random.Random(seed)
    roles = [*ROLES * each, *r.sample(ROLES, more)]
    r.shuffle(roles)
    last = int(LAST * 2 * count / 16)
    return [Kill(n, role) for n, role in zip(sorted(r.randint(1, last) for _ in roles), roles, strict=True)]


def failpoints(seed: int, between: int) -> str:
    """Return where the sink dies by itself: with one of its first commits, in `between` of its lives."""
    counts = random.Random(seed).sample(range(1, 4 * between), between)
    return ",".join(f"sink=committed@{n}" for n in counts)


def play(seed: int, *, count: int = 20_000, each: int = 4, more: int = 4, between: int = 5) -> Outcome:
    """Run once, killing, and have a separate program read the database."""
    folder = Path(tempfile.mkdtemp(prefix=f"zpipe-chaos-{seed}-"))
    out = Outcome(seed, folder=folder)
    # Both ways to go back to a position, and both to share out two partitions.
    sets = (f"numbers.count={count}", f"numbers.replay={('seek', 'skip')[seed % 2]}",
            f"numbers.workers={(2, 1)[seed // 2 % 2]}")  # fmt: skip
    with Place(folder) as place:
        argv = [str(HERE / "pipeline.toml"), *(word for change in sets for word in ("--set", change))]
        began_s = time.monotonic()
        run = place.start("run", *argv, ZPIPE_FAILPOINTS=failpoints(seed, between))
        missed = _kill(run, folder, deque(draw(seed, count, each, more)), out)
        out.seconds = time.monotonic() - began_s
        if not run.ends_within(0):
            out.faults.append(f"did not end within {DEADLINE_S:.0f} s")
            return out
        if run.process.returncode != 0:
            out.faults.append(f"exit {run.process.returncode}: {run.printed(1).strip().splitlines()[-1]}")
        if missed:
            out.faults.append(f"ended before {len(missed)} of the kills, from {missed[0]} on")
        if left := place.left():
            out.faults.append(f"left behind: {left}")
        _judge(folder, count, between, out)
    if not out.faults:
        shutil.rmtree(folder)
        out.folder = None
    return out


def _kill(run: Command, folder: Path, kills: deque[Kill], out: Outcome) -> list[Kill]:
    """Kill as planned until the run is over; return what was left of the plan."""
    dead: set[int] = set()
    end_s = time.monotonic() + DEADLINE_S
    while not run.ends_within(LOOK_S) and time.monotonic() < end_s:
        if kills and committed(folder) >= kills[0].rows:
            victims = {pid for pid in processes(run.process.pid, kills[0].role) if pid not in dead}
            if victims:  # else the last one has not come back yet
                victim = random.Random(f"{out.seed} {len(kills)}").choice(sorted(victims))
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    dead.add(victim)
                    out.kills[kills.popleft().role] += 1
    return list(kills)


def committed(folder: Path) -> int:
    """Return how many rows the sink has committed so far."""
    database = next((folder / "runs").glob("*/out.db"), None) if (folder / "runs").exists() else None
    if database is None:
        return 0
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT max(rowid) FROM items").fetchone()[0] or 0)
    except sqlite3.OperationalError:
        return 0  # the sink is making its table


def _judge(folder: Path, count: int, between: int, out: Outcome) -> None:
    run_folder = next((folder / "runs").iterdir())
    out.between = len(list(run_folder.glob(".failpoint-*")))
    if out.between != between:
        out.faults.append(f"{out.between} deaths between commit and ack, not {between}")
    argv = [sys.executable, "-m", "tests.chaos.verify", str(run_folder / "out.db"), str(count)]
    verdict = subprocess.run(argv, cwd=ROOT, check=False, capture_output=True, text=True, timeout=60)
    if verdict.returncode != 0:
        out.faults.append(" and ".join((verdict.stdout or verdict.stderr).strip().splitlines()))


def processes(launcher: int, role: str) -> list[int]:
    """Return the pids of the launcher's children in a role."""
    word = "zpipe.processes.registry" if role == "registry" else role
    found = []
    with suppress(psutil.Error):
        for child in psutil.Process(launcher).children():
            with suppress(psutil.Error):
                if word in child.cmdline():
                    found.append(child.pid)
    return found
