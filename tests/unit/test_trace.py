"""What is joined in a trace, what is left of one that breaks off, and how large it may get."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import zpipe as zp
from zpipe.core.limits import Limits
from zpipe.core.work import Job
from zpipe.core.worker import Worker
from zpipe.processes.caller import Caller
from zpipe.processes.codec import WireCodec
from zpipe.processes.events import happened
from zpipe.processes.roles import role_of
from zpipe.processes.runfolder import RunFolder
from zpipe.processes.trace import ENTRIES, Recorder, recorder
from zpipe.processes.tracefile import TraceFile
from zpipe.values.context import Current
from zpipe.values.paths import Run
from zpipe.values.plan import Plan, plan


def numbers() -> Iterator[int]:
    yield from range(3)


def double(x: int) -> int:
    return 2 * x


def make_plan() -> Plan:
    return plan(zp.Pipeline("p", zp.stage(double)(zp.stage(numbers))))


class Bench:
    """A recorder of `double-1` with time by hand."""

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        self.folder.trace.mkdir(exist_ok=True)
        its_plan = make_plan()
        stage = its_plan.stages[1]
        self.now_s = 1.0
        self.current = Current("double", worker="double-1", lane_names=its_plan.lane_names, run_key=0, run_folder=path)
        worker = Worker(1, role_of(its_plan, stage, 0, {}, {}), Limits())
        self.caller = Caller(stage, double, worker, WireCodec(), lambda: self.now_s, self.current)
        self.recorder = Recorder(self.folder, self.caller)

    def called(self, *items: tuple[int, float], step: int = 1) -> None:
        """Perform a job of items that take so many seconds each; it is left after every `step` of them."""
        run = Run(0, items[0][0], (), len(items), [None] * len(items))
        job = Job(Job.ITEMS)
        job.add(run, 0, len(items))

        def activity() -> Iterator[None]:
            for k, (_, took_s) in enumerate(items):
                self.current.run, self.current.index = run, k
                self.now_s += took_s
                self.caller.busy_s += took_s
                if (k + 1) % step == 0 and k + 1 < len(items):
                    yield

        for _ in self.recorder.steps(activity(), job):
            pass

    def entries(self) -> list[Any]:
        """Return what stands in the file: name, begin and duration in ms, items, runs."""
        self.recorder.close()
        found = [json.loads(line) for line in self.folder.trace_file("double-1").read_text().split("\n") if line]
        assert found[0] == {"worker": "double-1", "stage": "double"}
        return [(e[1], e[2] / 1000, e[3] / 1000, e[4], e[5]) for e in found[1:]]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_run_without_a_trace_has_no_recorder(tmp_path: Path, bench: Bench) -> None:
    assert recorder(RunFolder(tmp_path / "other"), bench.caller) is None
    assert recorder(bench.folder, bench.caller) is not None


def test_long_calls_are_entries_of_their_own(bench: Bench) -> None:
    bench.called((4, 0.5), (5, 0.25))
    bench.now_s += 0.25
    bench.called((6, 0.125))
    assert bench.entries() == [
        ("numbers:4", 1000, 500, 1, 1), ("numbers:5", 1500, 250, 1, 1), ("numbers:6", 2000, 125, 1, 1),
    ]  # fmt: skip


def test_items_that_are_called_in_one_go_are_one_entry(bench: Bench) -> None:
    bench.called((4, 0.5), (5, 0.5), (6, 0.5), step=2)
    assert bench.entries() == [("numbers:4", 1000, 1000, 2, 1), ("numbers:6", 2000, 500, 1, 1)]


def test_short_entries_that_follow_each_other_are_joined(bench: Bench) -> None:
    for position in (0, 2, 4):
        bench.called((position, 0.00025), (position + 1, 0.00025), step=2)
        bench.now_s += 0.0005
    bench.called((6, 0.002))  # not short
    bench.called((7, 0.0005))
    bench.now_s += 0.002  # not close
    bench.called((8, 0.0005))
    assert bench.entries() == [
        ("numbers:0", 1000, 2.5, 6, 3), ("numbers:6", 1003, 2, 1, 1), ("numbers:7", 1005, 0.5, 1, 1),
        ("numbers:8", 1007.5, 0.5, 1, 1),
    ]  # fmt: skip


def test_a_joined_entry_is_bounded_and_knows_what_was_busy(bench: Bench) -> None:
    for position in range(200):
        bench.called((position, 0.0004))
        bench.now_s += 0.0001
    entries = bench.entries()
    assert sum(items for *_, items, _ in entries) == 200
    assert max(duration for _, _, duration, _, _ in entries) <= 50
    assert 2 <= len(entries) <= 3
    busy_us = [json.loads(line)[6] for line in bench.folder.trace_file("double-1").read_text().splitlines()[2:]]
    assert sum(busy_us) == pytest.approx(80_000, abs=3)


def test_what_is_short_doubles_with_every_so_many_entries(bench: Bench) -> None:
    for k in range(ENTRIES + 50):
        bench.called((k, 0.0015))
    assert bench.entries()[-1][3:] == (50, 50)  # joined: from then on 1.5 ms are short


def test_a_save_stands_between_calls(bench: Bench) -> None:
    bench.called((0, 0.0005))
    bench.now_s += 0.0005
    bench.recorder.span("save", "save", bench.now_s - 0.0005)
    bench.called((1, 0.0005))
    assert [name for name, *_ in bench.entries()] == ["numbers:0", "save", "numbers:1"]


def test_what_was_flushed_survives_and_what_a_kill_cut_off_is_left_out(bench: Bench) -> None:
    path = bench.folder.trace_file("double-1")
    bench.called((0, 0.5))
    bench.called((1, 0.5))
    assert path.read_text().count("numbers:") == 1  # the last may yet be joined
    bench.now_s += 0.2
    bench.recorder.tick(bench.now_s)
    assert path.read_text().count("numbers:") == 2
    with open(path, "a") as file:
        file.write('["call", "numbers:2", 10')
    again = Bench(bench.folder.path)
    again.called((2, 0.5))
    again.recorder.close()
    with TraceFile(bench.folder.path / "t.json") as trace:
        trace._folder = bench.folder
        assert trace.end() == []
    spans = [event["name"] for event in json.loads(trace.path.read_text()) if event["ph"] == "X"]
    assert spans == ["numbers:0", "numbers:1", "numbers:2"]


def test_a_recorder_that_cannot_write_says_so_once_and_leaves_a_word(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    path = bench.folder.trace_file("other-1")
    path.symlink_to("/dev/full")
    bench.current.worker = "other-1"
    full = Recorder(bench.folder, bench.caller)
    for _ in range(3):
        bench.now_s += 1.0
        full.span("save", "save", bench.now_s)
        full.tick(bench.now_s + 0.2)
    full.close()
    assert capfd.readouterr().err == (
        f"zpipe: cannot write {path}: No space left on device: goes on without the trace\n"
    )
    activity = iter(())
    assert full.steps(activity, Job(Job.ITEMS)) is activity
    with TraceFile(bench.folder.path / "t.json") as trace:
        trace._folder = bench.folder
        path.unlink()
        log = bench.folder.log("other-1")
        assert trace.end() == [f"the trace lacks calls of other-1: {log} says why"]


def test_a_trace_that_cannot_be_written_any_more_says_so_and_where_its_parts_are(bench: Bench) -> None:
    bench.called((0, 0.5))
    bench.recorder.close()
    with TraceFile(bench.folder.path / "t.json") as trace:
        trace._folder = bench.folder
        trace._file = open("/dev/full", "w")  # noqa: SIM115
        trace.event(happened("stopping", "stops"))
        why = f"No space left on device: its parts are in {bench.folder.trace}"
        assert trace.end() == [f"cannot write the trace to {trace.path}: {why}"]
        assert bench.folder.trace.exists()


@pytest.mark.parametrize(
    "line",
    ["7", "[]", '["call", "p:3", 10, 20, 1, 1]', '["call", 3, 10, 20, 1, 1, 15]', '["call", "p:3", 1, "2", 1, 1, 5]',
     '{"worker": "double-1"}', '{"worker": 1, "stage": "double"}', "[" * 100_000, '"abcdefg"'],
)  # fmt: skip
def test_lines_that_are_none_are_left_out(bench: Bench, line: str) -> None:
    bench.called((0, 0.5))
    bench.recorder.close()
    (path,) = bench.folder.trace.iterdir()
    with open(path, "a") as file:
        file.write(f"{line}\n")
    with TraceFile(bench.folder.path / "t.json") as trace:
        trace._folder = bench.folder
        assert trace.end() == []
    calls = [event for event in json.loads(trace.path.read_text()) if event["ph"] == "X" and event["cat"] == "call"]
    assert [call["args"]["path"] for call in calls] == ["numbers:0"]
