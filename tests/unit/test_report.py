"""The report of a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zpipe.processes.report import ProcessReport, Report, StageReport, read_memory, read_report, stage_report
from zpipe.processes.runfolder import RunFolder
from zpipe.values.errors import RunError

MIB = 1024 * 1024


def make_report(*stages: StageReport, state: str = "done") -> Report:
    return Report("t", state, Path("/runs/t"), 2.0, stages)


def test_what_came_in_is_what_was_done_dropped_and_given_up() -> None:
    assert StageReport("clean", done=5, dropped=2, dead=1).taken == 8


def test_a_stage_is_made_of_its_counters() -> None:
    counters = {
        "in": 100,
        "done": 90,
        "dropped": 10,
        "dead": 0,
        "out": 180,
        "skipped": 5,
        "repeats": 3,
        "busy_s": 3.0,
        "starved_s": 0.5,
        "blocked_s": 0.5,
    }
    assert stage_report("split", 2, 1, counters, 4.0) == StageReport(
        "split", workers=2, done=90, dropped=10, dead=0, out=180, skipped=5, repeats=3, restarts=1, rate=25.0,
        busy=0.75, starved=0.125, blocked=0.125,
    )  # fmt: skip


def test_a_stage_that_was_never_heard_of_has_zeros() -> None:
    assert stage_report("split", 2, 0, {}, 0.0) == StageReport("split", workers=2)


def test_the_bottleneck_is_the_busiest_stage() -> None:
    report = make_report(
        StageReport("crops", busy=0.2), StageReport("features", busy=0.974), StageReport("fit", busy=0.5)
    )
    assert report.bottleneck == "features"
    assert report.bottleneck_line == "bottleneck: features (busy 97 %)"


def test_of_two_equally_busy_stages_the_upper_one_is_named() -> None:
    assert make_report(StageReport("a", busy=0.5), StageReport("b", busy=0.5)).bottleneck == "a"


def test_without_work_there_is_no_bottleneck() -> None:
    assert make_report(StageReport("a")).bottleneck is None
    assert make_report().bottleneck_line == "bottleneck: none, nothing ran"


def test_only_a_run_that_ended_by_itself_is_ok() -> None:
    assert [make_report(state=state).ok for state in ("done", "failed", "interrupted")] == [
        True,
        False,
        False,
    ]


def test_dead_letters_are_summed_over_stages() -> None:
    assert make_report(StageReport("a", dead=1), StageReport("b", dead=2)).dead == 3


def test_the_largest_process_is_named() -> None:
    processes = (
        ProcessReport("registry", "", 1, 30 * MIB, 20 * MIB),
        ProcessReport("a-0", "a", 1, 83 * MIB, 61 * MIB),
    )
    report = Report("t", "done", Path("/runs/t"), 2.0, processes=processes)
    assert report.largest_line == "a-0 (RSS 83 MiB, PSS 61 MiB)"


def test_the_map_of_a_report_is_plain_data() -> None:
    stage = StageReport("a", workers=1, done=4, out=4, rate=2.0, busy=1.0)
    process = ProcessReport("a-0", "a", 2, 5, 4)
    report = Report("t", "done", Path("/runs/t"), 2.0, (stage,), (process,), seed=7, kills={"a": 1})
    assert report.to_dict() == {
        "name": "t",
        "state": "done",
        "ok": True,
        "error": "",
        "detail": "",
        "folder": "/runs/t",
        "seconds": 2.0,
        "bottleneck": "a",
        "stages": [
            {
                "name": "a", "workers": 1, "in": 4, "done": 4, "dropped": 0, "dead": 0, "out": 4,
                "skipped": 0, "errors": 0, "repeats": 0, "restarts": 0, "rate": 2.0, "busy": 1.0, "starved": 0.0,
                "blocked": 0.0,
            }
        ],
        "processes": [{"name": "a-0", "stage": "a", "lives": 2, "rss_bytes": 5, "pss_bytes": 4}],
        "seed": 7,
        "kills": {"a": 1},
        "resumed": 0,
    }  # fmt: skip


def test_the_memory_of_this_process_is_told_and_that_of_none_is_zero() -> None:
    rss, pss = read_memory(os.getpid())
    assert rss >= pss > 0
    assert read_memory(2**22 + 1) == (0, 0)


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = Report("t", "failed", tmp_path, 1.5, error="no", detail="Traceback")
    RunFolder(tmp_path).write("report.json", report.to_dict())
    assert read_report(tmp_path / "report.json") == report.to_dict()


@pytest.mark.parametrize("text", ["", "[]", '{"name": "t"}', '{"name": "t", "state": 3}', "[" * 100_000, "\x00"])
def test_a_report_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(RunError, match=r"report.json (cannot be read: [^\n]+|is no report of a run)$"):
        read_report(path)
