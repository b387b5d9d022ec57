"""How runs end before their time: by Ctrl-C, by a kill of the launcher, of the registry, of workers."""

from __future__ import annotations

import json
import signal
from contextlib import suppress

import psutil

from tests.integration.test_runs import balanced, chain
from tests.real import Bell, Command, Place, lines

COUNT = 100_000  # more than any of these runs lasts for


def flowing(place: Place, *argv: str, count: int = COUNT, strokes: int = 20) -> Command:
    """Start a run and wait until some items are through."""
    bell = Bell(place.folder / "bell")
    stages = chain(
        "slowly", "double", "stroke", "out",
        slowly=f'args = {{ count = {count} }}\nreplay = "seek"', double="workers = 2",
        stroke='args = { bell = "bell" }',
    )  # fmt: skip
    run = place.start("run", place.pipeline(stages), *argv)
    bell.wait(strokes)
    return run


def process_of(place: Place, what: str) -> psutil.Process:
    """Return the process whose command line names a registry, or the stage of a worker."""
    found = []
    for process in place.processes():
        with suppress(psutil.Error):  # it has just ended
            if what in process.cmdline():
                found.append(process)
    assert len(found) == 1, found
    return found[0]


def test_nothing_is_left_when_the_launcher_is_killed(place: Place) -> None:
    run = flowing(place)
    assert len(place.processes()) == 8  # the launcher, the fork server, the registry and five workers
    run.process.send_signal(signal.SIGKILL)
    run.wait()
    assert place.left() == []


def test_nothing_is_left_when_the_launcher_is_killed_during_a_call_that_never_returns(place: Place) -> None:
    bell = Bell(place.folder / "bell")
    stages = chain("numbers", "stuck", "out", stuck='args = { bell = "bell" }')
    run = place.start("run", place.pipeline(stages))
    bell.wait()
    run.process.send_signal(signal.SIGKILL)
    run.wait()
    assert place.left() == []


def test_a_registry_that_is_killed_at_its_start_is_started_again(place: Place) -> None:
    done = place.run("run", place.pipeline(chain("numbers", "double", "out")), ZPIPE_FAILPOINTS="registry=bound@1")
    assert done.code == 0, done.err
    assert (done.folder / ".failpoint-registry-bound-1").exists()


def test_ctrl_c_finishes_what_is_under_way(place: Place) -> None:
    run = flowing(place)
    run.interrupt()
    done = run.wait()
    assert done.code == 130, done.err
    found = lines(done.folder / "out.jsonl")
    assert found == [2 * k for k in range(len(found))]
    assert 20 <= len(found) < COUNT
    report = json.loads((done.folder / "report.json").read_text())
    assert report["state"] == "interrupted"
    # All that the source had made has come through every stage.
    assert {stage["in"] for stage in report["stages"]} == {len(found)}


def test_ctrl_c_finishes_what_is_under_way_though_source_and_shuffle_die_meanwhile(place: Place) -> None:
    bell = Bell(place.folder / "bell")
    stages = chain(
        "slowly", "double", "shuffle", "batch", "stroke", "plain", "out",
        slowly='replay = "seek"', shuffle="args = { size = 40 }", batch="args = { size = 16 }",
        stroke='args = { bell = "bell" }',
    )  # fmt: skip
    run = place.start("run", place.pipeline(stages))
    bell.wait(4)
    held_up, *victims = (process_of(place, what) for what in ("double", "slowly", "shuffle"))
    held_up.suspend()
    run.interrupt()
    run.says("again to stop now")
    for victim in victims:
        victim.kill()
    held_up.resume()
    done = run.wait()
    assert done.code == 130, done.err
    found = [x for batch in lines(done.folder / "out.jsonl") for x in batch]
    assert sorted(found) == [2 * k for k in range(len(found))]
    report = json.loads((done.folder / "report.json").read_text())
    assert report["stages"][0]["restarts"] == report["stages"][2]["restarts"] == 1


def test_the_second_ctrl_c_ends_the_run_at_once(place: Place) -> None:
    bell = Bell(place.folder / "bell")
    stages = chain("numbers", "stuck", "out", stuck='args = { bell = "bell" }')
    run = place.start("run", place.pipeline(stages))
    bell.wait()
    run.interrupt()
    run.says("again to stop now")
    run.interrupt()
    assert run.wait().code == 130


def test_a_killed_registry_and_killed_workers_cost_nothing(place: Place) -> None:
    bell = Bell(place.folder / "bell")
    stages = chain(
        "slowly", "double", "stroke", "out",
        slowly='args = { count = 1500 }\nreplay = "seek"', stroke='args = { bell = "bell" }',
    )  # fmt: skip
    run = place.start("run", place.pipeline(stages))
    for what in ("double", "zpipe.processes.registry", "slowly", "stroke", "out"):
        bell.wait(100)
        process_of(place, what).kill()
    done = run.wait()
    assert done.code == 0, done.err
    assert lines(done.folder / "out.jsonl") == [2 * k for k in range(1500)]
    balanced(done.folder)


def test_chaos_changes_nothing_but_the_time(place: Place) -> None:
    run = flowing(place, "--chaos", "0.6", "--seed", "4", count=1500)
    done = run.wait()
    assert done.code == 0, done.err
    assert lines(done.folder / "out.jsonl") == [2 * k for k in range(1500)]
    assert sum(json.loads((done.folder / "report.json").read_text())["kills"].values()) > 0


def test_what_a_stage_has_started_ends_with_its_worker(place: Place) -> None:
    bell = Bell(place.folder / "bell")
    stages = chain("slowly", "with_child", "out", with_child='args = { bell = "bell" }')
    run = place.start("run", place.pipeline(stages))
    bell.wait()
    run.interrupt()
    assert run.wait().code == 130
