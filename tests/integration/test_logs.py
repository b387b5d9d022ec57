"""`zpipe logs` and `--events` from outside, on real runs."""

from __future__ import annotations

import json

import pytest

from tests.integration.test_runs import chain
from tests.real import Bell, Command, Place, wait_until

SAYS = """
import zpipe as zp
from stages import ring

def says(x, bell):
    print(f"{zp.item().worker} got {x}")
    ring(bell)
    return x

def hums(x):
    print("hm")
    return x
"""


@pytest.fixture
def run(place: Place) -> Command:
    """A run that goes on until it is interrupted, all of whose workers have said something."""
    bell = Bell(place.folder / "bell")
    (place.folder / "talk.py").write_text(SAYS)
    stages = chain(
        "slowly", "says", "hums", slowly='args = { count = 1000000 }\nreplay = "seek"',
        says='args = { bell = "bell" }\nworkers = 2',
    )  # fmt: skip
    command = place.start(
        "run", place.pipeline(stages.replace("stages:says", "talk:says").replace("stages:hums", "talk:hums"))
    )
    bell.wait(10)
    for name in ("says-1", "says-2", "hums-1"):
        wait_until(lambda log=f"logs/{name}.log": [p for p in place.folder.glob(f"runs/*/{log}") if p.stat().st_size])
    return command


def test_logs_are_followed_to_the_end_of_the_run(place: Place, run: Command) -> None:
    every, one = place.start("logs", "-f"), place.start("logs", "says-1", "-f")
    for command, words in ((every, "says-2   | says-2 got "), (every, "hums-1   | hm"), (one, "says-1 got ")):
        wait_until(lambda c=command, w=words: w in c.printed(0) or c.process.poll() is not None)
    run.interrupt()
    folder = run.wait().folder
    logs = {name: (folder / "logs" / f"{name}.log").read_text() for name in ("says-1", "says-2", "hums-1")}
    assert (one.wait().code, one.wait().out) == (0, logs["says-1"])
    followed = every.wait().out.splitlines()
    for name, text in logs.items():
        assert [line[11:] for line in followed if line.startswith(f"{name} ")] == text.splitlines()


def test_logs_are_found_live_and_afterwards(place: Place, run: Command) -> None:
    address = run.says("registry tcp://").partition("registry ")[2].partition(",")[0]
    live = place.run("logs", "says", "-n", "1", "--registry", address)
    unknown = place.run("logs", "syas")
    run.interrupt()
    folder = run.wait().folder
    after = place.run("logs", "says", "-n", "1", "--run", str(folder))
    follows = place.run("logs", "says", "-n", "1", "-f", "--run", str(folder.relative_to(place.folder)))
    assert {line[:15] for line in live.out.splitlines()} == {"says-1 | says-1", "says-2 | says-2"}
    assert (unknown.code, unknown.faults) == (2, ["run 't' has no stage or worker 'syas': did you mean 'says'?"])
    last = [(folder / "logs" / f"says-{n}.log").read_text().splitlines()[-1] for n in (1, 2)]
    assert after.out.splitlines() == [f"says-1 | {last[0]}", f"says-2 | {last[1]}"]
    assert follows.out == after.out


def test_a_copy_of_the_events_goes_where_it_is_wanted(place: Place) -> None:
    pipeline = place.pipeline(chain("numbers", "out"))
    done = place.run("run", pipeline, "--events", "e.jsonl")
    inline = place.run("run", pipeline, "--events", "i.jsonl", "--inline")
    text = (place.folder / "e.jsonl").read_text()
    assert text == (done.folder / "events.jsonl").read_text()
    assert [json.loads(text.splitlines()[n])["kind"] for n in (0, -1)] == ["started", "ended"]
    assert (place.folder / "i.jsonl").read_text() == (inline.folder / "events.jsonl").read_text()
    events = [json.loads(line) for line in (place.folder / "i.jsonl").read_text().splitlines()]
    assert [(event["kind"], event["data"].get("state")) for event in events] == [("started", None), ("ended", "done")]


def test_an_inline_run_that_fails_has_an_end(place: Place) -> None:
    done = place.run("run", place.pipeline(chain("numbers", "plain")), "--events", "e.jsonl", "--inline")
    last = json.loads((place.folder / "e.jsonl").read_text().splitlines()[-1])
    assert done.code == 1
    assert (last["kind"], last["data"]["state"]) == ("ended", "failed")
    assert last["data"]["error"] == done.faults[-1]


def test_a_registry_writes_events_too(place: Place) -> None:
    registry = place.start("registry", place.pipeline(chain("numbers", "out")), "--events", "e.jsonl")
    registry.says("registry tcp://")
    registry.interrupt()
    registry.says("again to stop now")
    registry.interrupt()
    registry.wait()
    kinds = [json.loads(line)["kind"] for line in (place.folder / "e.jsonl").read_text().splitlines()]
    assert kinds == ["started", "stopping", "ended"]


def test_events_that_cannot_be_written_start_nothing(place: Place) -> None:
    done = place.run("run", place.pipeline(chain("numbers", "out")), "--events", "no/e.jsonl")
    assert done.code == 2
    assert [fault.partition(":")[0] for fault in done.faults] == ["cannot write events to no/e.jsonl"]
    assert not (place.folder / "runs").exists()


def test_a_full_disk_is_one_warning(place: Place) -> None:
    done = place.run("run", place.pipeline(chain("numbers", "out")), "--events", "/dev/full")
    assert done.code == 0
    assert done.faults == ["cannot write events to /dev/full: No space left on device: the run goes on without it"]
