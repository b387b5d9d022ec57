"""One cell of the matrix: a run of matrix.toml in which a fault strikes a target at a moment, judged at its end."""

from __future__ import annotations

import json
import random
import shutil
import signal
import statistics
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.chaos import processes
from tests.chaos.proxy import Proxy
from tests.chaos.sight import Sight, Verdict
from tests.chaos.strikes import FAULTS, WIRE, Strike, send
from tests.chaos.targets import GO
from tests.real import Command, Place

HERE = Path(__file__).parent
TARGETS = {
    "source": ("numbers",), "middle": ("middle",), "split": ("split",), "batcher": ("batch",), "trainer": ("fit",),
    "ordered": ("ordered",), "join": ("both-join",), "sink": ("pairs",), "registry": ("registry",),
    "neighbours": ("middle", "split"), "stage": ("middle",), "gate": ("twice",),
}  # fmt: skip
ALL_OF_A_STAGE = ("stage",)
# Where a process strikes itself: a stage's name and its point.
POINTS = {
    "open": "middle=open@2", "commit": "pairs=committed@9", "save": "fit=saved@4", "write": "fit=writing@9",
    "split": "split=child@99", "over": "pairs=over@1",
}  # fmt: skip
UNMEASURED = ("open", "over")  # points without traffic that could go on
WORKERS = 15
RATE = 250  # numbers a second
LOOK_S = 0.004  # how often the databases are looked at: nothing tells when they change
CALM_S, AFTER_S = 1.5, 3.0  # of traffic before the fault, and after its last step
LASTS_S = {"kills": 20, "stop-1": 1, "stop-5": 5, "stop-60": 60, "hog": 10, "often": 20, "descriptors": 3}
WIRE_LASTS_S = 5
QUICK_S = {"kills": 3, "often": 10}
DEADLINE_S = 180.0
AFTERMATH_S = 6.0  # in which a fault is taken to show
KILL_S, PAUSE_S, END_S = 0.3, 2.5, 2.0  # the bounds: in the median, until it goes on or has ended
KILL_WORST_S, WORST_S = 2.0, 6.0  # and of any one cell, whatever else the cores have to do


@dataclass(frozen=True)
class Cell:
    """A fault at a target at a moment."""

    target: str
    fault: str
    moment: str = "steady"

    def __str__(self) -> str:
        return f"{self.target}/{self.fault}/{self.moment}"


@dataclass
class Result:
    """What came of a cell; `faults` is empty when all is as promised."""

    cell: Cell
    expected: int = 0
    committed: int = 0
    lost: int = 0
    twice: int = 0
    recoveries_s: list[float] = field(default_factory=list)
    calm_s: float = 0.0  # the longest gap before the fault
    peak_bytes: int = 0
    seconds: float = 0.0
    note: str = ""
    faults: list[str] = field(default_factory=list)
    folder: Path | None = None  # kept when there are faults

    @property
    def line(self) -> str:
        """Return the row of the table."""
        recovery = "-"
        if self.recoveries_s:
            recovery = f"{statistics.median(self.recoveries_s):.2f}"
            if len(self.recoveries_s) > 1:
                recovery += f" (worst {max(self.recoveries_s):.2f})"
        verdict = "OK" if not self.faults else f"FAIL {'; '.join(self.faults)} (kept {self.folder})"
        counts = f"{self.committed:>6} = {self.expected:<6} {self.lost:>4} {self.twice:>5}"
        return (
            f"{self.cell!s:30} {counts} {recovery:>20} {self.calm_s:>5.2f} {self.peak_bytes / 2**20:>5.0f} "
            f"{self.seconds:>6.1f} {verdict}{f', {self.note}' if self.note else ''}"
        )


HEADER = f"{'target/fault/moment':30} {'committed = expected':15} lost twice {'recovery s':>20}  calm   MiB      s"


class Scene:
    """What a strike sees of a run, and what it leaves to be judged."""

    def __init__(self, cell: Cell, seed: int, *, quick: bool, place: Place, proxy: Proxy) -> None:
        self.cell = cell
        self.seed = seed
        self.quick = quick
        self.place = place
        self.proxy = proxy
        self.stages = TARGETS[cell.target]
        self.folder = place.folder  # the run's, once it is there
        self.victims: list[int] = []
        self.marks: list[tuple[float, bool]] = []  # when it struck, and whether traffic has a bound to go on
        self.fails = False  # the run is to fail
        self.no_failover = False
        self.note = ""
        self.commands: list[Command] = []  # besides the run
        self.launcher = 0
        self._random = random.Random(seed)

    def struck(self, *, bound: bool = True) -> None:
        """Note that it strikes now."""
        self.marks.append((time.monotonic(), bound))

    def pids(self, *stages: str) -> list[int]:
        """Return the processes of these stages."""
        return [pid for stage in stages for pid in processes(self.launcher, stage)]

    def choose(self) -> bool:
        """Draw who is struck: one of each of the target's stages, or all."""
        self.victims = []
        for stage in self.stages:
            found = self.pids(stage)
            if found:
                self.victims += found if self.cell.target in ALL_OF_A_STAGE else [self._random.choice(sorted(found))]
        return bool(self.victims)


def play(cell: Cell, seed: int, *, quick: bool = False) -> Result:
    """Run once with the fault, and compare what the sinks hold with what they should."""
    folder = Path(tempfile.mkdtemp(prefix="zpipe-matrix-"))
    result = Result(cell, folder=folder)
    wire = cell.fault in WIRE
    lasts_s = WIRE_LASTS_S if wire else (QUICK_S if quick else {}).get(cell.fault, LASTS_S.get(cell.fault, 0))
    count = int(RATE * (CALM_S + lasts_s + AFTER_S)) // 2 * 2
    with ExitStack() as stack:
        place = stack.enter_context(Place(folder))
        proxy = stack.enter_context(Proxy(folder, seed))
        scene = Scene(cell, seed, quick=quick, place=place, proxy=proxy)
        env = {"PYTHONPATH": f"{HERE / 'inside'}:{place.env['PYTHONPATH']}"}
        if wire:
            env["CHAOS_PROXY"] = str(proxy.path)
        if cell.moment in POINTS:
            env["ZPIPE_FAILPOINTS"] = POINTS[cell.moment] + (":stop" if cell.fault.startswith("stop") else "")
        sets = [f"numbers.count={count}", f"numbers.pace_s={2 / RATE}"]
        sets += [f"numbers.idle_at={count // 4}"] if cell.moment == "idle" else []
        words = [word for change in sets for word in ("--set", change)]
        began_s = time.monotonic()
        transport = ["--transport", "tcp"] if wire else []
        run = place.start("run", str(HERE / "matrix.toml"), *words, *transport, **env)
        scene.launcher = run.process.pid
        sight = _watch(run, scene)
        result.seconds = time.monotonic() - began_s
        if not run.ends_within(0):
            result.faults.append(f"did not end within {DEADLINE_S:.0f} s")
        else:
            _judge(run, scene, sight, result, count)
            if left := place.left():
                result.faults.append(f"left behind: {left[:3]}")
        result.note = result.note or scene.note
    if not result.faults:
        shutil.rmtree(folder)
        result.folder = None
    return result


def _watch(run: Command, scene: Scene) -> Sight:
    """Look at the sinks, and let the fault strike when its moment has come, until the run is over."""
    runs, end_s = scene.place.folder / "runs", time.monotonic() + DEADLINE_S
    while not run.ends_within(LOOK_S) and not (runs.exists() and list(runs.glob("*/plan.json"))):
        if time.monotonic() > end_s:
            break
    scene.folder = next(runs.iterdir())
    sight = Sight(scene.folder)
    strike = _when_it_is_time(scene, sight)
    due_s = 0.0
    while not run.ends_within(LOOK_S) and time.monotonic() < end_s:
        now_s = time.monotonic()
        sight.look(now_s)
        if now_s >= due_s:
            due_s = now_s + next(strike, DEADLINE_S)
    sight.look(time.monotonic())
    sight.close()
    return sight


def _when_it_is_time(scene: Scene, sight: Sight) -> Strike:
    """Wait for the moment, then strike; what strikes itself is only waited for."""
    moment, fault = scene.cell.moment, FAULTS[scene.cell.fault]
    calm = int(RATE * CALM_S * random.Random(scene.seed).uniform(0.7, 1.0))
    while moment not in ("ramp", *POINTS) and joined(scene.folder) < WORKERS:
        yield 0.1
    if moment == "ramp":
        pass  # as soon as there is somebody
    elif moment in POINTS:
        while not (marker := next(scene.folder.glob(".failpoint-*"), None)):
            yield 0.0
        scene.struck(bound=moment not in UNMEASURED and joined(scene.folder) >= WORKERS)
        if scene.cell.fault.startswith("stop"):
            yield float(scene.cell.fault.partition("-")[2])
            with suppress(ValueError):
                send(int(marker.read_text()), signal.SIGCONT)
        return
    else:
        while sight.rows["pairs"] < calm:
            yield 0.0
    if moment == "idle":
        while time.monotonic() - max(times[-1] for times in sight.times.values()) < 1.0:
            yield 0.0
    if moment == "drain":
        scene.commands = [scene.place.start("drain", f"{stage}-1") for stage in scene.stages]
        while not any(command.ends_within(0) for command in scene.commands):
            yield 0.0
    if moment == "away":
        for pid in scene.pids("registry"):
            send(pid, signal.SIGKILL)
    yield from fault(scene)
    if moment == "idle":
        (scene.folder / GO).touch()
        scene.marks = [(time.monotonic(), True)]


def _judge(run: Command, scene: Scene, sight: Sight, result: Result, count: int) -> None:
    done = run.wait()
    scene_s = [at for at, _ in scene.marks]
    if not scene.marks and not scene.fails:
        result.faults.append("the fault did not strike")
    if scene.fails:
        _judge_failure(scene, done.code, done.err, result)
        return
    if done.code != 0:
        result.faults.append(f"exit {done.code}: {(done.err.strip().splitlines() or ['nothing said'])[-1]}")
    for at, (began_s, bound) in enumerate(scene.marks):
        until_s = min([began_s + AFTERMATH_S, *scene_s[at + 1 : at + 2]])
        if bound and result.cell.moment != "ramp":
            result.recoveries_s.append(sight.longest(began_s, until_s))
    if scene.marks:
        calm = [times[0] for times in sight.times.values() if times]
        result.calm_s = sight.longest(max(calm), scene_s[0], whole=False) if calm and max(calm) < scene_s[0] else 0.0
    verdict = Verdict(scene.folder, count)
    result.expected, result.committed = verdict.expected, verdict.committed
    result.lost, result.twice = verdict.lost, verdict.twice
    result.faults += verdict.faults
    if (scene.folder / "report.json").exists():  # else it has not even started
        _read_report(scene, result)
    is_kill = result.cell.fault in ("kill", "kills") and result.cell.moment != "away"
    limit_s = KILL_WORST_S if is_kill else WORST_S
    if result.recoveries_s and max(result.recoveries_s) > limit_s:
        result.faults.append(f"{max(result.recoveries_s):.2f} s until it went on (at most {limit_s:g})")


def _read_report(scene: Scene, result: Result) -> None:
    report = json.loads((scene.folder / "report.json").read_text())
    result.peak_bytes = max(process["rss_bytes"] for process in report["processes"])
    restarts = sum(stage["restarts"] for stage in report["stages"])
    if scene.no_failover and restarts:
        result.faults.append(f"{restarts} restarts of processes that were busy")


def joined(folder: Path) -> int:
    """Return how many workers have joined so far."""
    events = folder / "events.jsonl"
    return events.read_text().count('"kind": "joined"') if events.exists() else 0


def _judge_failure(scene: Scene, code: int, said: str, result: Result) -> None:
    """The command ends by itself, soon after the last death, and names stage, signal and item."""
    ended_s = time.time()
    events = [json.loads(line) for line in (scene.folder / "events.jsonl").read_text().splitlines()]
    deaths = [event["t"] for event in events if event["kind"] == "died"]
    took_s = ended_s - deaths[-1] if deaths else 0.0
    result.recoveries_s.append(took_s)
    last = (said.strip().splitlines() or [""])[-1]
    if code == 0 or not deaths:
        result.faults.append(f"exit {code} after {len(deaths)} deaths")
    if took_s > END_S:
        result.faults.append(f"ended {took_s:.1f} s after the last death (at most {END_S:g})")
    if not all(word in said for word in ("middle", "SIGSEGV", "numbers")):
        result.faults.append(f"said only {last!r}")
    result.note = last.removeprefix("zpipe: ")[:160]
