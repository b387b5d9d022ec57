"""Workers that come and go in the middle of a run, by `zpipe worker`, `zpipe drain` and `zpipe down`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.test_ending import flowing
from tests.integration.test_runs import chain
from tests.real import Bell, Place, lines, wait_until


def workers(place: Place, stage: str) -> dict[str, str]:
    return {row["worker"]: row["state"] for row in place.ps()["workers"] if row["stage"] == stage}


@pytest.mark.parametrize("chaos", [(), ("--chaos", "0.5", "--seed", "2")])
def test_workers_join_and_leave_and_nothing_is_lost(place: Place, chaos: tuple[str, ...]) -> None:
    run = flowing(place, *chaos)
    started = run.says("registry tcp://")
    events = Path(started.rpartition("run folder ")[2]) / "events.jsonl"
    more = place.start("worker", "double", "--registry", started.split()[2].rstrip(","), "-n", "2")
    names = [f"double-{n}" for n in (1, 2, 3, 4)]
    wait_until(lambda: {event["worker"] for event in lines(events) if event["kind"] == "joined"}.issuperset(names))
    for name in names[1:]:  # one of those that were there from the start, and those that came
        wait_until(lambda name=name: place.run("drain", name).code == 0)
    assert more.wait().code == 0
    wait_until(lambda: list(workers(place, "double")) == names[:1])
    run.interrupt()
    done = run.wait()
    assert done.code == 130, done.err
    found = lines(done.folder / "out.jsonl")
    assert found == [2 * k for k in range(len(found))]
    for stage in json.loads((done.folder / "report.json").read_text())["stages"]:
        assert stage["in"] == stage["done"] + stage["dropped"] + stage["dead"], stage
    left = [event for event in lines(events) if event["kind"] == "left" and event["worker"] == names[1]]
    assert [event["data"]["status"] for event in left] == [0]


@pytest.mark.parametrize("chaos", [(), ("--chaos", "0.5", "--seed", "3")])
def test_a_stage_is_scaled_up_and_down_and_nothing_is_lost(place: Place, chaos: tuple[str, ...]) -> None:
    run = flowing(place, *chaos)
    events = Path(run.says("registry tcp://").rpartition("run folder ")[2]) / "events.jsonl"
    assert place.run("scale", "double=4").out == "double gets 4 workers\n"
    names = {f"double-{n}" for n in (1, 2, 3, 4)}
    wait_until(lambda: names <= {event["worker"] for event in lines(events) if event["kind"] == "joined"})
    assert place.run("scale", "double=1").out == "double gets 1 worker\n"
    wait_until(lambda: list(workers(place, "double")) == ["double-1"])
    assert place.run("scale", "double=2").code == 0
    wait_until(lambda: len(workers(place, "double")) == 2)
    run.interrupt()
    done = run.wait()
    assert done.code == 130, done.err
    found = lines(done.folder / "out.jsonl")
    assert found == [2 * k for k in range(len(found))]


@pytest.mark.parametrize("text", ["double", "=2", "double=two", "double=-1", "double="])
def test_a_number_that_is_none_is_refused(place: Place, text: str) -> None:
    done = place.run("scale", text)
    assert (done.code, done.faults) == (2, [f"{text!r} is not of the form STAGE=N, like clean=4"])


def test_who_cannot_leave_is_told_why(place: Place) -> None:
    run = flowing(place)
    for worker, said in (
        ("slowly-1", "slowly-1 is of a source and owns its partitions: zpipe down ends the run instead"),
        ("out-1", "stage 'out' has a memory and one worker: the run cannot go on without it"),
        ("duoble-1", "worker 'duoble-1' is unknown: did you mean 'double-1'?"),
    ):
        done = place.run("drain", worker)
        assert (done.code, done.faults) == (1, [said])
    run.interrupt()
    assert run.wait().code == 130


def test_down_ends_a_run_as_ctrl_c_does(place: Place) -> None:
    run = flowing(place)
    assert place.run("down").out == "the run ends when what is under way is finished\n"
    done = run.wait()
    assert done.code == 130
    found = lines(done.folder / "out.jsonl")
    assert found == [2 * k for k in range(len(found))] and len(found) >= 20
    assert json.loads((done.folder / "report.json").read_text())["state"] == "interrupted"


def test_down_waits_for_the_end_of_a_run(place: Place) -> None:
    flowing(place)
    assert place.run("down").code == 0
    assert place.run("ps").code == 2
    (folder,) = (place.folder / "runs").iterdir()
    assert lines(folder / "events.jsonl")[-1]["kind"] == "ended"


def test_down_waits_for_a_run_that_is_not_found_here(place: Place) -> None:
    run = flowing(place)
    address = run.says("registry tcp://").split()[2].rstrip(",")
    assert place.run("down", "--registry", address, XDG_RUNTIME_DIR=str(place.folder)).code == 0
    assert run.wait().code == 130


def test_down_now_stops_what_cannot_be_finished(place: Place) -> None:
    bell = Bell(place.folder / "bell")
    stages = chain("slowly", "stuck", slowly='replay = "seek"', stuck='args = { bell = "bell" }')
    run = place.start("run", place.pipeline(stages))
    bell.wait()
    waiting = place.start("down")
    wait_until(lambda: waiting.printed(0))
    assert not waiting.ends_within(0)
    now = place.run("down", "--now")
    assert (now.code, now.out) == (0, "the run stops\n")
    assert [(done.code, done.faults[-1]) for done in (run.wait(), waiting.wait())] == [
        (1, "stopped by zpipe down --now")
    ] * 2


def test_down_ends_a_registry_with_its_workers(place: Place) -> None:
    registry = place.start("registry", place.pipeline(chain("slowly", "double", "out", slowly='replay = "seek"')))
    address = registry.says("registry tcp://").split()[2].rstrip(",")
    started = [place.start("worker", stage, "--registry", address) for stage in ("slowly", "double", "out")]
    wait_until(lambda: len(place.ps()["workers"]) == 3)
    assert place.run("down", "--registry", address).code == 0
    assert registry.wait().code == 130
    assert [worker.wait().code for worker in started] == [0, 0, 0]
