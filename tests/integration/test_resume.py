"""Runs that end before they are done, and go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.real import Bell, Command, Done, Place, lines, rows

SINK = """
[stage.out]
run = "zpipe.sinks:jsonl"
from = "{above}"
ordered = true
args = {{ path = "out.jsonl" }}
"""
TABLE = """
[stage.out]
run = "zpipe.sinks:sqlite"
from = "a"
args = { path = "out.db" }
"""


def chain(source: str, stage: str, more: str = "") -> str:
    args = f"\n[stage.numbers]\nrun = 'stages:{source}'\nargs = {{ count = 400 }}\nreplay = 'seek'\n"
    return f"{args}[stage.a]\nrun = 'stages:{stage}'\nfrom = 'numbers'\n{more}\n"


def at_bell(place: Place, more: str = "at = 150") -> str:
    return f"args = {{ bell = '{place.folder / 'bell'}', {more} }}"


def kill(place: Place, command: Command) -> None:
    """Kill every process at once."""
    for process in place.processes():
        process.kill()
    command.wait()


def go_on(place: Place, *more: str) -> Done:
    (place.folder / "load").touch()
    return place.run("run", "t.toml", "--resume", *more)


def only_run(place: Place) -> Path:
    (folder,) = (place.folder / "runs").iterdir()
    return folder


def test_all_is_killed_and_the_run_goes_on_with_other_workers(place: Place) -> None:
    bell = Bell(place.folder / "bell")
    place.pipeline(chain("numbers", "waits_at", at_bell(place)) + SINK.format(above="a"))
    run = place.start("run", "t.toml")
    bell.wait()
    kill(place, run)
    done = go_on(place, "--set", "a.workers=3")
    assert done.code == 0, done.err
    assert "t: goes on where it was left\n" in done.err
    assert "resumed once: counts are of all its lives, time and rates of the last" in done.out
    folder = only_run(place)
    assert lines(folder / "out.jsonl") == list(range(400))
    assert [stage["workers"] for stage in json.loads((folder / "report.json").read_text())["stages"]] == [1, 3, 1]
    kinds = [line["kind"] for line in lines(folder / "events.jsonl")]
    assert (kinds.count("started"), kinds.count("resumed"), kinds.count("ended")) == (2, 1, 1)
    again = place.run("run", "--resume", "t.toml")
    assert (again.code, again.out) == (0, f"t is done, there is nothing to resume: {folder}\n")


def test_the_launcher_is_killed_and_the_run_goes_on_at_once(place: Place) -> None:
    bell = Bell(place.folder / "bell")
    place.pipeline(chain("numbers", "waits_at", at_bell(place)) + SINK.format(above="a"))
    run = place.start("run", "t.toml")
    bell.wait()
    alive = place.run("run", "t.toml", "--resume")
    assert alive.code == 2
    assert f"run {only_run(place)} is alive (pid {run.process.pid}, " in alive.err
    run.process.kill()
    done = go_on(place)
    assert done.code == 0, done.err
    assert lines(only_run(place) / "out.jsonl") == list(range(400))


def test_a_run_that_failed_goes_on_after_a_fix(place: Place) -> None:
    place.pipeline(chain("numbers", "needs_load") + SINK.format(above="a"))
    failed = place.run("run", "t.toml")
    assert failed.code == 1
    stages = place.folder / "stages.py"
    stages.write_text(stages.read_text() + "\n# mended\n")
    done = go_on(place)
    assert done.code == 0, done.err
    assert "goes on where it was left; changed since it began: stages" in done.err
    assert lines(only_run(place) / "out.jsonl") == list(range(400))


def test_an_interrupted_run_goes_on_where_its_sources_stopped(place: Place) -> None:
    bell = Bell(place.folder / "bell")
    place.pipeline(chain("as_long_as", "rings_at", at_bell(place, "at = 5")) + TABLE)
    run = place.start("run", "t.toml")
    bell.wait()
    run.interrupt()
    assert run.wait().code == 130
    committed = len(rows(only_run(place) / "out.db"))
    assert 5 < committed < 400
    done = go_on(place)
    assert done.code == 0, done.err
    assert sorted(item for _, item in rows(only_run(place) / "out.db")) == list(range(400))


def test_an_interrupted_run_whose_stages_have_seen_the_end_says_why_it_cannot_go_on(place: Place) -> None:
    bell = Bell(place.folder / "bell")
    place.pipeline(chain("as_long_as", "rings_at", at_bell(place, "at = 5")) + SINK.format(above="a"))
    run = place.start("run", "t.toml")
    bell.wait()
    run.interrupt()
    assert run.wait().code == 130
    refused = go_on(place)
    assert refused.code == 2
    assert refused.faults == [
        f"run {only_run(place)} cannot be resumed: it was interrupted and has finished what was under way: "
        "out has been told that nothing more comes; start it anew"
    ]


@pytest.mark.parametrize("way", ["python", "service"])
def test_other_ways_to_resume(place: Place, way: str) -> None:
    bell = Bell(place.folder / "bell")
    place.pipeline(chain("numbers", "waits_at", at_bell(place)) + SINK.format(above="a"))
    run = place.start("run", "t.toml")
    bell.wait()
    kill(place, run)
    (place.folder / "load").touch()
    if way == "service":
        done = place.run("up", "t.toml", "--resume", "--foreground")
    else:
        run_it = "print(zp.Pipeline.load('t.toml').run(resume=True).resumed)"
        program = f"import zpipe as zp\n\nif __name__ == '__main__':\n    {run_it}\n"
        (place.folder / "go.py").write_text(program)
        done = place.start_python("go.py").wait()
        assert done.out == "1\n"
    assert done.code == 0, done.err
    assert lines(only_run(place) / "out.jsonl") == list(range(400))
