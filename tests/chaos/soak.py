"""A long run of matrix.toml under a steady load, with a kill every 10 s, and a pause and a partition every 60 s."""

from __future__ import annotations

import random
import shutil
import signal
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.cell import HERE, PAUSE_S, RATE
from tests.chaos.chaos import processes
from tests.chaos.proxy import Proxy
from tests.chaos.sight import Sight, Verdict
from tests.chaos.strikes import send
from tests.real import Command, Place

KILL_EVERY_S, PAUSE_EVERY_S, PARTITION_EVERY_S = 10.0, 60.0, 60.0
PAUSED_S = PARTED_S = 5.0
LOOK_S, SAMPLE_S = 0.02, 2.0
FIRST_S = 10.0  # of quiet, and before the first strike
LAST_S = 10.0  # no strike comes so shortly before the end
AFTERMATH_S = 8.0
STAGES = (
    "numbers", "middle", "split", "batch", "fit", "twice", "both-join", "both", "groups", "fits", "pairs", "ordered",
    "registry",
)  # fmt: skip
GROWTH_MAX = 0.05  # from the second third to the last, of memory and of descriptors


@dataclass(frozen=True)
class Sample:
    """What the processes of the run held at a time; of the launcher, which is never struck, also by itself."""

    at_s: float
    rss_mib: float
    descriptors: int
    launcher_mib: float
    launcher_descriptors: int


class Soak:
    """One long run and what was seen of it."""

    def __init__(self, place: Place, proxy: Proxy, run: Command, seed: int, seconds: float) -> None:
        self.place = place
        self.proxy = proxy
        self.run = run
        self.random = random.Random(seed)
        self.seconds = seconds
        self.samples: list[Sample] = []
        self.kills: list[float] = []
        self.pauses: list[float] = []
        self.healed: list[float] = []  # partitions, at their end

    def watch(self) -> Sight:
        """Strike and look until the run is over."""
        while not (folders := list(self.place.folder.glob("runs/*/plan.json"))) and not self.run.ends_within(LOOK_S):
            pass
        sight = Sight(folders[0].parent)
        began_s = time.monotonic()
        kill_s, pause_s = began_s + FIRST_S, began_s + PAUSE_EVERY_S / 2
        sample_s, stopped, go_on_s = began_s + FIRST_S, 0, float("inf")
        partition_s, parted, heals_s = began_s + PARTITION_EVERY_S, "", float("inf")
        while not self.run.ends_within(LOOK_S):
            now_s = time.monotonic()
            sight.look(now_s)
            strikes = now_s < began_s + self.seconds - LAST_S
            if strikes and now_s >= kill_s and self._strike(signal.SIGKILL):
                kill_s = now_s + KILL_EVERY_S
                self.kills.append(now_s)
            if strikes and now_s >= pause_s and (stopped := self._strike(signal.SIGSTOP)):
                pause_s, go_on_s = now_s + PAUSE_EVERY_S, now_s + PAUSED_S
                self.pauses.append(now_s)
            if now_s >= go_on_s:
                send(stopped, signal.SIGCONT)
                go_on_s = float("inf")
            if strikes and now_s >= partition_s:
                parted = self.random.choice(STAGES[:-1])
                self._part(parted, cut_off=True)
                partition_s, heals_s = now_s + PARTITION_EVERY_S, now_s + PARTED_S
            if now_s >= heals_s:
                self._part(parted, cut_off=False)
                self.healed.append(now_s)
                heals_s = float("inf")
            if now_s >= sample_s:
                sample_s = now_s + SAMPLE_S
                self._sample(now_s)
        sight.look(time.monotonic())
        sight.close()
        return sight

    def _strike(self, how: signal.Signals) -> int:
        """Send a signal to one process of a stage drawn; return which, 0 when there is none at the moment."""
        found = processes(self.run.process.pid, self.random.choice(STAGES))
        if not found:
            return 0
        victim = self.random.choice(sorted(found))
        send(victim, how)
        return victim

    def _part(self, stage: str, *, cut_off: bool) -> None:
        """Cut the workers of a stage off from those above and below them, or let them be heard again."""
        weather = self.proxy.over(stage)
        weather.deaf = weather.mute = cut_off

    def _sample(self, now_s: float) -> None:
        launcher = self.run.process.pid
        held = [held_by(pid) for stage in STAGES for pid in processes(launcher, stage)]
        own = held_by(launcher)
        self.samples.append(Sample(now_s, sum(h[0] for h in held), sum(h[1] for h in held), *own))

    def thirds(self, name: str) -> tuple[float, float]:
        """Return the median of a figure in the second and in the last third of the run."""
        values = [getattr(sample, name) for sample in self.samples]
        part = max(1, len(values) // 3)
        return statistics.median(values[-2 * part : -part] or values), statistics.median(values[-part:])


def run(minutes: float, *, seed: int) -> bool:
    """Soak for so long, print what came of it, and return whether all is as promised."""
    folder = Path(tempfile.mkdtemp(prefix="zpipe-soak-"))
    seconds = 60 * minutes
    count = int(RATE * seconds)
    print(f"seed {seed}, {minutes:g} minutes, {count} numbers", flush=True)
    with Place(folder) as place, Proxy(folder, seed) as proxy:
        argv = ["--set", f"numbers.count={count}", "--set", f"numbers.pace_s={2 / RATE}", "--transport", "tcp"]
        env = {"PYTHONPATH": f"{HERE / 'inside'}:{place.env['PYTHONPATH']}", "CHAOS_PROXY": str(proxy.path)}
        soak = Soak(place, proxy, place.start("run", str(HERE / "matrix.toml"), *argv, **env), seed, seconds)
        sight = soak.watch()
        done = soak.run.wait()
        left = place.left()
    faults = _report(soak, sight, Verdict(sight.folder, count))
    if done.code != 0:
        faults.append(f"exit {done.code}: {(done.err.strip().splitlines() or ['nothing said'])[-1]}")
    if left:
        faults.append(f"left behind: {left[:3]}")
    print("OK" if not faults else f"FAIL {'; '.join(faults)} (kept {folder})")
    if not faults:
        shutil.rmtree(folder)
    return not faults


def _report(soak: Soak, sight: Sight, verdict: Verdict) -> list[str]:
    """Print the figures; return what is wrong with them."""
    faults = list(verdict.faults)
    print(
        f"{len(soak.kills)} kills, {len(soak.pauses)} pauses, {len(soak.healed)} partitions; "
        f"committed {verdict.committed} = {verdict.expected}, lost {verdict.lost}, twice {verdict.twice}"
    )
    for what, struck in (("kill", soak.kills), ("pause", soak.pauses), ("partition", soak.healed)):
        gaps = [sight.longest(at, at + AFTERMATH_S) for at in struck]
        if gaps:
            print(f"on again after a {what}: {statistics.median(gaps):.2f} s (median), at worst {max(gaps):.2f} s")
        if what != "kill" and gaps and statistics.median(gaps) > PAUSE_S:
            faults.append(f"{statistics.median(gaps):.2f} s after a {what} (at most {PAUSE_S:g})")
    for name in ("rss_mib", "descriptors", "launcher_mib", "launcher_descriptors"):
        first, last = soak.thirds(name)
        print(f"{name.replace('_', ' ')}: {first:.0f} in the second third, {last:.0f} in the last")
        if last > first * (1 + GROWTH_MAX) + 1:
            faults.append(f"{name.replace('_', ' ')} grew from {first:.0f} to {last:.0f}")
    return faults


def held_by(pid: int) -> tuple[float, int]:
    """Return the resident MiB and the open descriptors of a process, nothing of one that has gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * 4096 / 2**20, len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0.0, 0
