"""Resuming: what the next life of a run begins with, which run is meant, and what stands in its way."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from zpipe.core.outcomes import Store, Stored
from zpipe.core.resume import begin_again, reaches_of, why_not
from zpipe.processes.prepare import checked, prepare
from zpipe.processes.report import Report, StageReport
from zpipe.processes.resume import AlreadyDone, earlier, find, resume, told
from zpipe.processes.runfolder import RunFolder
from zpipe.processes.saves import Saves
from zpipe.processes.values import Values
from zpipe.values.errors import ConfigError
from zpipe.values.pipeline import Pipeline
from zpipe.values.plan import Plan

STAGES = """
def numbers(count=10, start=0):
    yield from range(start, count)
def double(x):
    return 2 * x
class Count:
    def __call__(self, x): pass
    def finish(self): pass
"""
PLAIN = """schema = 1
name = "t"
[stage.numbers]
run = "stages.py:numbers"
partitions = 2
replay = "seek"
[stage.double]
run = "stages.py:double"
from = "numbers"
"""
GROUPED = (
    PLAIN
    + """[stage.batch]
run = "zpipe.stages:batch"
from = "double"
args = { size = 4 }
"""
)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "stages.py").write_text(STAGES)
    return tmp_path


def pipeline(here: Path, text: str = PLAIN, sets: tuple[str, ...] = ()) -> Pipeline:
    (here / "t.toml").write_text(text)
    return Pipeline.load(here / "t.toml", sets)


def plan(here: Path, text: str = PLAIN) -> Plan:
    return checked(pipeline(here, text))[1]


def begun(here: Path, text: str = PLAIN, sets: tuple[str, ...] = (), **stored: object) -> RunFolder:
    """Make the folder of a run of which these values were stored, each named kind_key."""
    _, folder = prepare(pipeline(here, text, sets), runs=here / "runs", sets=(), seed=None, transport="auto")
    values = Values(folder.path / "run.db")
    values.keep(Store(*name.split("_", 1), value) for name, value in stored.items())
    values.close()
    return folder


def resumed(here: Path, which: str | Path | bool = True, text: str = PLAIN, sets: tuple[str, ...] = ()) -> RunFolder:
    _, folder = resume(pipeline(here, text, sets), which, runs=here / "runs")
    folder.release()
    return folder


def test_how_a_run_ended_and_its_workers_are_forgotten_and_what_they_counted_is_kept(here: Path) -> None:
    worker = {"stage": 1, "slot": 0, "fence": 3, "counters": {"done": 5, "out": 4}}
    stored = Stored({"state": "failed", "started_s": 7.0}, workers={9: worker}, sums={1: {"done": 2}}, wanted={1: 4})
    assert begin_again(plan(here), stored, {0: 12}, {}) == [
        Store("run", "state", None),
        Store("run", "started_s", None),
        Store("worker", "9", None),
        Store("sums", "1", {"done": 7, "out": 4}),
        Store("wanted", "1", None),
        Store("reach", "0", 12),
    ]


def test_fences_of_the_run_folder_that_were_not_stored_are_counted_on(here: Path) -> None:
    stored = Stored(fences={(2, 0): 3})
    assert begin_again(plan(here, GROUPED), stored, {}, {2: 5}) == [Store("fence", "2:0", 5)]
    assert begin_again(plan(here, GROUPED), stored, {}, {2: 2}) == []


def test_a_source_that_was_told_to_stop_goes_on_at_the_position_of_its_end(here: Path) -> None:
    stored = Stored({"stopping": True}, watermarks={0: (8, 0, 0), 1: (12, 1, 11)}, complete={0, 1})
    assert begin_again(plan(here), stored, {}, {}) == [
        Store("run", "stopping", None),
        Store("complete", "0", None),
        Store("watermark", "0", [7, 0, 0]),
    ]
    assert why_not(plan(here), stored, {}, ()) is None


def test_where_the_end_was_seen_below_a_run_finishes_or_is_refused(here: Path) -> None:
    grouped = plan(here, GROUPED)
    stored = Stored({"stopping": True}, watermarks={0: (8, 0, 0)}, complete={0})
    assert why_not(grouped, stored, {}, ()) is None
    assert begin_again(grouped, stored, {}, {}) == []
    stored.complete.add(1)
    assert why_not(grouped, stored, {}, ()) == (
        "it was interrupted and has finished what was under way: batch has been told that nothing more comes"
    )


def test_what_is_lost_with_its_worker_stands_in_the_way_once_there_was_something(here: Path) -> None:
    counted = plan(here, GROUPED + '[stage.count]\nrun = "stages.py:Count"\nfrom = "batch"\n')
    assert why_not(counted, Stored(), {}, [2]) is None
    assert "stage 'count' had accumulated is lost" in str(why_not(counted, Stored(), {}, [3]))
    once = plan(here, PLAIN.replace("seek", "no"))
    assert why_not(once, Stored(), {}, ()) is None
    assert why_not(once, Stored(complete={0}), {0: 4}, ()) is None
    assert "source 'numbers' cannot make again" in str(why_not(once, Stored(), {0: 4}, ()))


def test_a_source_has_got_as_far_as_a_stage_has_saved(here: Path) -> None:
    over = 2**64 - 1
    cursors = [{"next": [[0, [7]], [1, [over]]]}, {"next": [[0, [7, 2]], [1, [4, 0]]]}]
    assert reaches_of(plan(here, GROUPED), cursors) == {0: 8, 1: 4}


def test_the_last_run_of_the_pipeline_is_resumed_with_what_it_was_begun_with(here: Path) -> None:
    begun(here)
    last = begun(here, sets=("numbers.count=7",), run_state="failed", watermark_0=[3, 0, 0])
    (last.path / "report.json").write_text("{}")
    (last.path / "registry.address").write_text("tcp://127.0.0.1:1")
    new, folder = resume(pipeline(here, sets=("double.workers=3",)), True, runs=here / "runs")
    assert (folder.path, new.stage("numbers").args, new.stage("double").workers) == (last.path, {"count": 7}, 3)
    assert Plan.from_dict(json.loads((last.path / "plan.json").read_text())) == new
    values = Values(last.path / "run.db")
    assert values.rows() == [("watermark", "0", [3, 0, 0])]
    values.close()
    assert not (last.path / "report.json").exists()
    assert not (last.path / "registry.address").exists()
    event = told(folder, new)
    assert event is not None
    assert (event.text, event.data["times"]) == ("t: goes on where it was left", 1)
    folder.release()
    assert earlier(resumed(here))[0] == 2


def test_what_was_counted_before_is_known_and_changed_code_is_named(here: Path) -> None:
    begun(here, sums_1={"done": 5, "dropped": 1})
    folder = find(here / "runs", "t")
    old = json.loads((folder.path / "plan.json").read_text())
    folder.write("plan.json", {**old, "code": {"stages.py": "other"}})
    folder = resumed(here)
    assert earlier(folder) == (1, {"double": 6})
    event = told(folder, plan(here))
    assert event is not None
    assert event.text == "t: goes on where it was left; changed since it began: stages.py"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("partitions = 2", "partitions = 3"), "stage 'numbers' had partitions = 2 and has 3"),
        (("replay", "args = { count = 3 }\nreplay"), "stage 'numbers' had args = {} and has {'count': 3}"),
        (("stage.double", "stage.twice"), "stages double are missing; stages twice are new"),
        (("double]", "double]\nordered = true"), "its edges had no more and have other options"),
    ],
)
def test_a_pipeline_in_which_positions_mean_something_else_is_refused(
    here: Path, change: tuple[str, str], line: str
) -> None:
    folder = begun(here)
    before = (folder.path / "plan.json").read_bytes()
    with pytest.raises(ConfigError, match=re.escape(f"run {folder.path} cannot go on with this pipeline: {line}")):
        resumed(here, text=PLAIN.replace(*change))
    assert (folder.path / "plan.json").read_bytes() == before


def test_a_run_that_is_done_is_reported(here: Path) -> None:
    folder = begun(here, run_state="done")
    (here / "zpipe-sockets").mkdir()
    folder.write("sockets", str(here / "zpipe-sockets"))
    with pytest.raises(AlreadyDone, match="t is done, there is nothing to resume") as done:
        resumed(here)
    assert done.value.report == Report("t", "done", folder.path, 0.0)
    assert not (here / "zpipe-sockets").exists()
    report = Report("t", "done", folder.path, 7.5, (StageReport("double", done=3),), resumed=2)
    folder.write("report.json", report.to_dict())
    with pytest.raises(AlreadyDone) as done:
        resumed(here)
    assert done.value.report == report


def test_when_the_last_run_is_done_the_others_are_listed(here: Path) -> None:
    undone, done = begun(here, run_state="failed"), begun(here, run_state="done")
    with pytest.raises(ConfigError, match=f"{done.path}, is done, and these are not: {undone.path}: name the one"):
        resumed(here)
    assert resumed(here, undone.path).path == undone.path
    with pytest.raises(ConfigError, match="there is no run of pipeline 'other'"):
        find(here / "runs", "other")


def test_a_folder_that_somebody_has_or_that_was_moved_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zpipe.processes.resume.ORPHANS_S", 0.0)
    folder = begun(here)
    folder.hold()
    with pytest.raises(ConfigError, match=f"run {folder.path} is still under way: end pid "):
        resumed(here)
    folder.release()
    moved = here / "moved"
    shutil.move(folder.path, moved)
    with pytest.raises(ConfigError, match=f"{moved} was made as {folder.path}: move it back"):
        resumed(here, moved)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("meta.json", "{", "cannot read .*meta.json: .*: it is no file of a run folder"),
        ("meta.json", "3", "cannot read .*meta.json: .*: it is no file of a run folder"),
        ("meta.json", '{"sets": []}', "meta.json does not say folder, limit, transport, until: start the run anew"),
        ("plan.json", "{}", "plan.json is no plan of this version: start the run anew"),
    ],
)
def test_a_folder_that_is_not_what_was_written_is_one_line(here: Path, name: str, content: str, line: str) -> None:
    folder = begun(here)
    folder.write(name, content)
    with pytest.raises(ConfigError, match=line):
        resumed(here, folder.path)


def test_a_stage_that_saved_is_counted_from_its_files(here: Path) -> None:
    folder = begun(here, GROUPED, **{"fence_2:0": 1})
    Saves(folder.saves, "batch", 4).claim()
    resumed(here, text=GROUPED)
    values = Values(folder.path / "run.db")
    assert values.rows() == [("fence", "2:0", 4)]
    values.close()
