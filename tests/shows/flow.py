"""Shows on small pipelines: skew, a toy, `zpipe top`, order, back-pressure, a killed launcher, a call that hangs."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.real import Done, Place, lines, wait_until
from zpipe.core.limits import Limits
from zpipe.processes.report import read_memory

MB = 1_000_000
MIB = 2**20
SAMPLE_S = 0.1
RUN_S = 900.0


@dataclass(frozen=True)
class Shown:
    """One line of what was seen."""

    figure: str
    ok: bool


@contextmanager
def stage_place() -> Iterator[Place]:
    """A folder with the shows' stages."""
    with TemporaryDirectory(prefix="zpipe-show-") as folder:
        shutil.copy(Path(__file__).with_name("stages.py"), folder)
        with Place(Path(folder)) as place:
            yield place


def chain(*stages: str, sink: str = "", **tables: str) -> str:
    """Write stages that read each other; `sink` is the file of the JSON lines sink behind them."""
    text, above = "", ""
    for stage in stages:
        run = "zpipe.stages:batch" if stage == "batch" else f"stages:{stage}"
        name = stage.replace("_", "-").lower()
        text += f'[stage.{name}]\nrun = "{run}"\n{tables.get(stage, "")}\n'
        text += f'from = "{above}"\n' if above else ""
        above = name
    if sink:
        text += f'[stage.lines]\nrun = "zpipe.sinks:jsonl"\nfrom = "{above}"\nargs = {{ path = "{sink}" }}\n'
    return text


def ended(done: Done) -> Done:
    if done.code != 0:
        raise RuntimeError(f"exit {done.code}: {done.err.strip()}")
    return done


def skew() -> Iterator[Shown]:
    """Two workers of 1 ms and 50 ms, 200 items: at most 10 to the slow one, under 0.6 s."""
    with stage_place() as place:
        stages = chain("numbers", "uneven", sink="out.jsonl", numbers="args = { count = 200 }", uneven="workers = 2")
        done = ended(place.run("run", place.pipeline(stages)))
        found = lines(done.folder / "out.jsonl")
    slow = Counter(item["worker"] for item in found)["uneven-2"]
    seconds = max(item["ended_s"] for item in found) - min(item["began_s"] for item in found)
    yield Shown(
        f"{len(found)} items: {slow} to the slow worker (at most 10), {seconds:.2f} s (under 0.6)",
        len(found) == 200 and slow <= 10 and seconds < 0.6,
    )


def toy() -> Iterator[Shown]:
    """MiniPipe's toy, serial 20 s: under 11.3 s, with two workers of the middle stage under 6.9 s."""
    for workers, most_s in ((1, 11.3), (2, 6.9)):
        with stage_place() as place:
            stages = chain("load", "transform", "save", sink="out.jsonl", transform=f"workers = {workers}")
            done = ended(place.run("run", place.pipeline(stages)))
            found = lines(done.folder / "out.jsonl")
        seconds = max(item["ended_s"] for item in found) - min(item["began_s"] for item in found)
        yield Shown(
            f"{len(found)} items, {workers} workers in the middle: {seconds:.2f} s (under {most_s})",
            len(found) == 10 and seconds < most_s,
        )


def top(count: int = 20) -> Iterator[Shown]:
    """`zpipe top` beside the toy names the bottleneck: transform, one more worker; with two of them load and save."""
    for workers, wanted in ((1, (("transform",), 1)), (2, (("load", "save"), 0))):
        with stage_place() as place:
            load = f"args = {{ count = {count} }}"
            stages = chain("load", "transform", "save", load=load, transform=f"workers = {workers}")
            run = place.start("run", place.pipeline(stages))
            wait_until(lambda place=place: place.ps()["workers"])
            done = ended(place.run("top", "--json"))
            ended(run.wait())
        *looks, ending = [json.loads(line) for line in done.out.splitlines()]
        told = [look["advice"] for look in looks if look["advice"] and look["made"] < count]
        told = told[len(told) // 2 :]  # before that the run fills up
        said = Counter((tuple(advice["bottlenecks"]), advice["more"]) for advice in told)
        agree = said[wanted]
        yield Shown(
            f"{workers} workers in the middle: {agree} of {len(told)} looks say: {told[-1]['line'] if told else None}",
            len(told) >= 3 and 2 * agree > len(told) and ending["state"] == "done",
        )


def order(count: int = 5000) -> Iterator[Shown]:
    """Batches behind four workers with random delays are byte-equal to the inline run's, under kills too."""
    stages = chain(
        "numbers", "random_delay", "batch", "digest",
        numbers=f"args = {{ count = {count} }}\nreplay = 'seek'", random_delay="workers = 4",
        batch="args = { size = 16 }",
    )  # fmt: skip
    stages += '[stage.lines]\nrun = "zpipe.sinks:jsonl"\nfrom = "digest"\nargs = { path = "o" }\nordered = true\n'
    with stage_place() as place:
        pipeline = place.pipeline(stages)
        inline = ended(place.run("run", pipeline, "--inline"))
        wanted = (inline.folder / "o").read_bytes()
        for what, more in (("undisturbed", ()), ("killed every 0.4 s", ("--chaos", "0.4", "--seed", "7"))):
            done = ended(place.run("run", pipeline, *more))
            found = (done.folder / "o").read_bytes()
            kills = sum(json.loads((done.folder / "report.json").read_text())["kills"].values())
            batches = found.count(b"\n")
            same = "the same" if found == wanted else "OTHER"
            yield Shown(
                f"{what}: {batches} batches, {kills} kills, {same} bytes as inline",
                found == wanted and batches == -(-count // 16) and (kills > 0) == bool(more),
            )


@dataclass
class Watch:
    """What was seen of a run's memory and of its counts while it went on."""

    first: dict[int, int] = field(default_factory=dict)  # PSS by pid, when it was first seen
    names: dict[int, str] = field(default_factory=dict)
    growth: Counter[int] = field(default_factory=Counter)
    ahead: int = 0  # most positions made and not committed by the slowest sink

    def look(self, place: Place, folder: Path, sinks: tuple[str, ...]) -> None:
        """Sample every process and the counts."""
        done = min(count_of(folder, sink) for sink in sinks)  # before what was made, so that it can only look worse
        self.ahead = max(self.ahead, count_of(folder, "made") - done)
        for process in place.processes():
            with suppress(Exception):  # it has ended
                pss = read_memory(process.pid)[1]
                if pss and process.pid not in self.first:
                    self.first[process.pid], self.names[process.pid] = pss, name_of(process.cmdline())
                if pss:
                    self.growth[process.pid] = max(self.growth[process.pid], pss - self.first[process.pid])

    @property
    def most(self) -> tuple[str, int]:
        """Return who has grown most, and by how many bytes."""
        pid, growth = self.growth.most_common(1)[0]
        return self.names[pid], growth


def pressure(count: int = 5000) -> Iterator[Shown]:
    """A source ten times faster than its sinks, one of which stalls for 10 s: memory stays bounded."""
    bound = Limits.source_bytes // MB + 1
    stages = f"""
[stage.arrays]
run = "stages:arrays"
replay = "seek"
args = {{ count = {count} }}
[stage.even]
run = "stages:Slow"
from = "arrays"
args = {{ name = "even", pace_s = 0.008 }}
[stage.stalled]
run = "stages:Slow"
from = "arrays"
args = {{ name = "stalled", pace_s = 0.008, stall_after = {count // 2}, stall_s = 10.0 }}
"""
    for transport in ("ipc", "tcp"):
        watch = Watch()
        with stage_place() as place:
            began_s = time.monotonic()
            run = place.start("run", place.pipeline(stages), "--transport", transport)
            runs = place.folder / "runs"
            wait_until(lambda runs=runs: runs.exists() and list(runs.glob("*/made.count")))
            folder = next(runs.iterdir())
            while not run.ends_within(SAMPLE_S) and time.monotonic() - began_s < RUN_S:
                watch.look(place, folder, ("even", "stalled"))
            done = ended(run.wait(1.0))
            counts = [count_of(done.folder, name) for name in ("made", "even", "stalled")]
            seconds = time.monotonic() - began_s
        name, growth = watch.most
        yield Shown(
            f"{transport}: {count * MB / 1e9:.1f} GB to each of two sinks in {seconds:.0f} s, one stalled for 10 s: "
            f"most growth {growth / 1e6:.0f} MB PSS ({name}, under 200), "
            f"{watch.ahead} positions ahead of the last commit (at most {bound})",
            counts == [count] * 3 and growth < 200e6 and watch.ahead <= bound,
        )


def parked(seconds: float = 15.0) -> Iterator[Shown]:
    """A call does not return, and all behind it is parked for an order: large items made of small ones stay few."""
    stages = chain(
        "numbers", "inflate", "out", numbers="args = { count = 100000 }\nreplay = 'seek'", inflate="workers = 2",
        out="ordered = true",
    )  # fmt: skip
    watch = Watch()
    with stage_place() as place:
        run = place.start("run", place.pipeline(stages))
        wait_until(lambda: sum(w["state"] == "live" for w in place.ps()["workers"]) == 4)
        folder = next((place.folder / "runs").iterdir())
        end_s = time.monotonic() + seconds
        while not run.ends_within(SAMPLE_S) and time.monotonic() < end_s:
            watch.look(place, folder, ("made",))
        position = place.ps()["sources"][0]["position"]
        run.interrupt()
        run.says("again to stop now")
        run.interrupt()
        done = run.wait()
    name, growth = watch.most
    yield Shown(
        f"{position} items of 1 MB made in {seconds:.0f} s beside a call that does not return: "
        f"most growth {growth / 1e6:.0f} MB PSS ({name}, under 300), exit {done.code}",
        growth < 300e6 and position > 50 and done.code == 130,
    )


def launcher() -> Iterator[Shown]:
    """SIGKILL of the launcher leaves no process, socket file or shared memory 2 s later."""
    with stage_place() as place:
        stages = chain(
            "numbers", "random_delay", "out", numbers="args = { count = 1000000 }", random_delay="workers = 3"
        )
        run = place.start("run", place.pipeline(stages))
        wait_until(lambda: sum(w["state"] == "live" for w in place.ps()["workers"]) == 5)
        processes = len(place.processes())
        run.process.send_signal(signal.SIGKILL)
        began_s = time.monotonic()
        run.ends_within(1.0)
        left = place.left(deadline_s=10.0)
        seconds = time.monotonic() - began_s
    yield Shown(f"{processes} processes and their files are gone after {seconds:.2f} s (2)", not left and seconds < 2.0)


def stuck() -> Iterator[Shown]:
    """A call that does not return is named after 30 s, once; the second Ctrl-C ends the run."""
    with stage_place() as place:
        stages = chain("numbers", "stuck", "out", numbers="args = { count = 9 }", stuck="args = { seconds = 1000 }")
        began_s = time.monotonic()
        run = place.start("run", place.pipeline(stages))
        wanted = "stuck-1 has been running numbers:3 for"
        while wanted not in run.printed(1) and time.monotonic() - began_s < 60:
            run.ends_within(0.1)
        warned_s = time.monotonic() - began_s
        run.ends_within(2.0)  # a second warning would come now
        warnings = run.printed(1).count(wanted)
        run.interrupt()
        run.says("again to stop now")
        interrupted_s = time.monotonic()
        run.interrupt()
        done = run.wait()
        ended_s = time.monotonic() - interrupted_s
    yield Shown(
        f"warned {warnings} time after {warned_s:.1f} s, "
        f"ended {ended_s:.1f} s after the second Ctrl-C, exit {done.code}",
        warnings == 1 and 30 <= warned_s < 40 and done.code == 130,
    )


def count_of(folder: Path, name: str) -> int:
    with suppress(FileNotFoundError):
        return int.from_bytes((folder / f"{name}.count").read_bytes(), "little")
    return 0


def name_of(argv: list[str]) -> str:
    """Return the stage of a worker by its command line, or what else it is."""
    words = [word for word in argv[1:] if not word.startswith("-")]
    if "zpipe.processes.worker" in words:
        return words[words.index("zpipe.processes.worker") + 1]
    own = [word.removeprefix("zpipe.processes.") for word in words if word.startswith("zpipe.processes.")]
    return own[0] if own else "launcher"
