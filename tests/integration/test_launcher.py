"""The launcher with a real registry and workers that only talk to it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import zpipe
from zpipe.processes import commands
from zpipe.processes.access import Access
from zpipe.processes.chaos import Chaos
from zpipe.processes.events import Event, EventLog
from zpipe.processes.launcher import Launcher, Progress
from zpipe.processes.prepare import prepare
from zpipe.processes.report import Report
from zpipe.processes.runfolder import RunFolder, live_runs
from zpipe.processes.supervisor import Program
from zpipe.values.errors import RunError
from zpipe.values.pipeline import Pipeline
from zpipe.values.plan import Plan, StagePlan

FAKE = str(Path(__file__).with_name("fake_worker.py"))


@pytest.fixture(autouse=True)
def runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "xdg"))
    (tmp_path / "xdg").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(Path(zpipe.__file__).parents[1]))
    return tmp_path / "xdg"


def fake(stage: StagePlan, slot: int, address: str, folder: RunFolder, access: Access) -> Program:
    real = commands.worker(stage, slot, address, folder, access)
    return Program(real.name, (sys.executable, FAKE, *real.argv[3:]), real.env, real.log, real.blame)


def make_plan(
    tmp_path: Path, source: str, sink: str, *, replay: str = "skip", workers: int = 1
) -> tuple[Plan, RunFolder]:
    (tmp_path / "stages.py").write_text("def make():\n    yield 1\n\ndef take(x): ...\n")
    stages = {
        source: {"run": "stages:make", "replay": replay},
        sink: {"run": "stages:take", "from": source, "workers": workers},
    }
    pipeline = Pipeline.from_dict({"schema": 1, "name": "t", "stage": stages}, folder=tmp_path)
    return prepare(pipeline, runs=tmp_path / "runs", sets=(), seed=None, transport="auto")


def launch(plan: Plan, folder: RunFolder, **more: Any) -> Report:
    return Launcher(plan, folder, worker=fake, **more).run()


def test_a_run_ends_by_itself_and_reports(tmp_path: Path, runtime_dir: Path) -> None:
    seen: list[Mapping[str, Any]] = []
    plan, folder = make_plan(tmp_path, "make", "take", workers=2)
    report = launch(plan, folder, progress=seen.append)
    assert report.ok
    assert [(s.name, s.workers, s.taken, s.out, s.busy) for s in report.stages] == [
        ("make", 1, 5, 5, 0.75),
        ("take", 2, 10, 10, 0.75),
    ]
    assert [p.name for p in report.processes] == ["registry", "make-1", "take-1", "take-2"]
    assert json.loads((folder.path / "report.json").read_text()) == report.to_dict()
    assert seen
    assert live_runs() == []
    assert [p for p in runtime_dir.iterdir() if p.name.startswith("zpipe-") and p.suffix != ".json"] == [
        runtime_dir / f"zpipe-{os.getuid()}"
    ]


def test_a_worker_that_dies_comes_back(tmp_path: Path) -> None:
    events: list[Event] = []
    report = launch(*make_plan(tmp_path, "make", "crashes-once"), on_event=events.append)
    assert report.ok
    assert [(s.name, s.restarts) for s in report.stages] == [("make", 0), ("crashes-once", 1)]
    mine = [(e.kind, e.text) for e in events if e.worker == "crashes-once-1" and e.kind != "joined"]
    assert mine == [
        ("died", "crashes-once-1 killed by SIGKILL while running numbers:3"),
        ("restarted", "crashes-once-1 was started again"),
        ("left", "crashes-once-1 left"),
    ]
    assert [{**e.data, "pid": 0} for e in events if e.kind == "died"] == [
        {"pid": 0, "status": -9, "running": "numbers:3", "again": True}
    ]


def test_a_worker_that_leaves_unasked_comes_back(tmp_path: Path) -> None:
    events: list[Event] = []
    report = launch(*make_plan(tmp_path, "make", "leaves-once"), on_event=events.append)
    assert (report.ok, report.stages[1].restarts) == (True, 1)
    mine = [(e.kind, e.text) for e in events if e.worker == "leaves-once-1" and e.kind != "joined"]
    assert [kind for kind, _ in mine] == ["died", "restarted", "left"]
    assert mine[0][1].startswith("leaves-once-1 exited 0")


def test_an_item_that_always_kills_its_worker_fails_the_run(tmp_path: Path) -> None:
    events: list[Event] = []
    report = launch(*make_plan(tmp_path, "make", "crashes"), on_event=events.append)
    assert [e.data["running"] for e in events if e.kind == "died"] == ["numbers:3"] * 4
    assert (events[-1].kind, events[-1].data["state"], events[-1].data["error"]) == ("ended", "failed", report.error)
    assert (report.state, report.error) == (
        "failed",
        "stage 'crashes' at numbers:3: its worker died 4 times while running it, the last time: killed by SIGKILL: "
        'mend its code, or set on_error = "dead-letter" to go on without such items',
    )


def test_a_worker_that_always_dies_fails_the_run(tmp_path: Path) -> None:
    events: list[Event] = []
    report = launch(*make_plan(tmp_path, "make", "crashes-idle"), on_event=events.append)
    assert [e.data["again"] for e in events if e.kind == "died"] == [True, True, True, True, False]
    assert [e.data["life"] for e in events if e.kind == "restarted"] == [2, 3, 4, 5]
    assert (events[-1].kind, events[-1].data["state"], events[-1].data["error"]) == ("ended", "failed", report.error)
    assert (report.state, report.error.partition(": its output")[0]) == (
        "failed",
        "stage 'crashes-idle': worker crashes-idle-1 died 5 times in a row without settling an input, the last time "
        "killed by SIGKILL",
    )


def test_a_stage_that_raises_fails_the_run_with_its_words(tmp_path: Path) -> None:
    report = launch(*make_plan(tmp_path, "make", "raises"))
    assert (report.state, report.error, report.detail) == (
        "failed",
        "stage 'raises' raised ValueError: 7",
        "Traceback ...",
    )


def test_a_worker_that_fails_without_a_word_fails_the_run_with_its_last_line(tmp_path: Path) -> None:
    events: list[Event] = []
    report = launch(*make_plan(tmp_path, "make", "silent"), on_event=events.append)
    assert [(e.text, e.data["status"]) for e in events if e.kind == "left" and e.worker == "silent-1"] == [
        ("silent-1 left: exited 1", 1)
    ]
    assert (report.state, report.error) == ("failed", "silent-1 failed: no reason in particular")


def test_a_source_that_cannot_repeat_itself_is_not_restarted(tmp_path: Path) -> None:
    report = launch(*make_plan(tmp_path, "crashes-once", "take", replay="no"))
    assert (report.state, report.error) == (
        "failed",
        "stage 'crashes-once': worker crashes-once-1 was lost (killed by SIGKILL while running numbers:3) "
        'and with replay = "no" it cannot make its items again: make it repeatable and use "skip"',
    )


def both_live(table: Mapping[str, Any]) -> bool:
    return [row["state"] for row in table["workers"]] == ["live", "live"]


def interrupt_when(ready: Callable[[Mapping[str, Any]], bool], times: int) -> Progress:
    sent = 0

    def progress(table: Mapping[str, Any]) -> None:
        nonlocal sent
        if ready(table) and sent < times:
            sent += 1
            os.kill(os.getpid(), signal.SIGINT)

    return progress


def test_the_first_ctrl_c_drains(tmp_path: Path) -> None:
    report = launch(*make_plan(tmp_path, "endless", "take"), progress=interrupt_when(both_live, 1))
    assert (report.state, report.error, report.stages[1].taken) == ("interrupted", "", 5)


def test_the_events_of_a_run_are_in_its_folder_from_its_start_to_its_end(tmp_path: Path) -> None:
    plan, folder = make_plan(tmp_path, "endless", "take")
    events: list[Event] = []
    report = launch(plan, folder, progress=interrupt_when(both_live, 1), on_event=events.append)
    found = [(event.kind, event.stage, event.worker) for event in events]
    assert [found[0], found[3]] == [("started", "", ""), ("stopping", "", "")]
    assert sorted(found[1:3]) == [("joined", "endless", "endless-1"), ("joined", "take", "take-1")]
    assert sorted(found[4:6]) == [("left", "endless", "endless-1"), ("left", "take", "take-1")]
    assert found[6:] == [("ended", "", "")]
    assert events[0].data == {"name": "t", "address": events[0].data["address"], "folder": str(folder.path)}
    assert events[-1].data == {"state": "interrupted", "error": "", "seconds": round(report.seconds, 3)}
    assert (folder.path / "events.jsonl").read_text() == "".join(event.line() for event in events)


def test_a_run_that_cannot_start_has_an_end(tmp_path: Path) -> None:
    events: list[Event] = []
    plan, folder = make_plan(tmp_path, "make", "take")
    launcher = Launcher(plan, folder, worker=fake, bind="tcp://127.0.0.1:nowhere", on_event=events.append)
    with pytest.raises(RunError, match="the registry did not start"):
        launcher.run()
    assert [(event.kind, event.data["state"]) for event in events] == [("ended", "failed")]


def test_a_file_of_events_that_is_full_is_one_warning_and_the_run_goes_on(tmp_path: Path) -> None:
    events: list[Event] = []
    plan, folder = make_plan(tmp_path, "make", "take")
    with EventLog("/dev/full") as log:
        report = launch(plan, folder, on_event=events.append, log=log)
    assert report.ok
    assert [event.text for event in events if event.kind == "warning"] == [
        "cannot write events to /dev/full: No space left on device: the run goes on without it"
    ]
    assert (folder.path / "events.jsonl").read_text() == "".join(event.line() for event in events)


def test_the_second_ctrl_c_stops(tmp_path: Path) -> None:
    report = launch(*make_plan(tmp_path, "endless", "take"), progress=interrupt_when(both_live, 2))
    assert report.state == "interrupted"


def test_a_killed_registry_comes_back_at_the_same_address(tmp_path: Path) -> None:
    plan, folder = make_plan(tmp_path, "endless", "take")
    events: list[Event] = []
    killed: list[int] = []

    def progress(table: Mapping[str, Any]) -> None:
        registry = launcher.pids()["registry"]
        if not killed and both_live(table):
            killed.append(registry)
            os.kill(registry, signal.SIGKILL)
        elif killed and registry not in killed:
            interrupt(table)

    interrupt = interrupt_when(both_live, 1)
    launcher = Launcher(plan, folder, worker=fake, on_event=events.append, progress=progress)
    report = launcher.run()
    mine = [(e.kind, e.stage, e.text) for e in events if e.worker == "registry"]
    assert mine == [("died", "", "registry killed by SIGKILL"), ("restarted", "", "registry was started again")]
    assert sum(e.kind == "joined" for e in events) == 2  # a new registry does not make them new
    assert (report.state, report.stages[1].taken) == ("interrupted", 5)


def test_a_worker_that_cannot_reach_another_is_one_warning(tmp_path: Path) -> None:
    plan, folder = make_plan(tmp_path, "endless", "cut-off")
    events: list[Event] = []
    seen: list[int] = []

    def progress(table: Mapping[str, Any]) -> None:
        seen.extend(row["pid"] for row in table["workers"] if row["counters"].get("unreached"))
        interrupt(table)

    interrupt = interrupt_when(lambda table: len(seen) >= 2, 1)
    launch(plan, folder, on_event=events.append, progress=progress)
    warnings = [event.text for event in events if event.kind == "warning"]
    assert warnings == [
        f"cut-off-1 cannot reach a worker beside it: {folder.path}/logs/cut-off-1.log says which, and why"
    ]


def test_chaos_kills_and_counts_and_the_run_still_ends(tmp_path: Path) -> None:
    def progress(table: Mapping[str, Any]) -> None:
        if chaos.kills.total() >= 8:
            interrupt(table)

    chaos, interrupt = Chaos(0.1, seed=3), interrupt_when(lambda table: True, 1)
    events: list[Event] = []
    report = launch(
        *make_plan(tmp_path, "endless", "take"), chaos=chaos, progress=progress,
        on_event=events.append,
    )  # fmt: skip
    assert report.state == "interrupted"
    assert next(event.text for event in events if event.kind == "warning") == chaos.warning != ""
    assert report.seed == 3
    assert sum(report.kills.values()) >= 8
