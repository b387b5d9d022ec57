"""Pipelines as services: `zpipe up`, what they outlive, and how they end."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_draining import workers
from tests.integration.test_ending import process_of
from tests.integration.test_runs import chain
from tests.real import Bell, Command, Done, Place, lines, wait_until

FLOWING = chain("as_told", "double", "stroke", "out", as_told='replay = "seek"', stroke='args = { bell = "bell" }')
STUCK = chain("as_told", "stuck", as_told='replay = "seek"', stuck='args = { bell = "bell" }')
MORE = """
import os
import signal
from pathlib import Path

if "ZPIPE_WORKER" in os.environ and Path("no-gpu").exists():
    raise OSError("no GPU here")

def double(x):
    return 2 * x

class Patient:
    def warmup(self):
        if not Path("enough").exists():
            os._exit(7)

    def __call__(self, x):
        return 2 * x

def breaks(x):
    os._exit(7)

class Dies:
    def __init__(self):
        os._exit(7)

    def __call__(self, x):
        return x

class Slow:
    def warmup(self):
        signal.pause()

    def __call__(self, x):
        return x
"""
SERVICE = "zpipe.processes.service"


@pytest.fixture
def bell(place: Place) -> Bell:
    (place.folder / "load").touch()
    (place.folder / "more.py").write_text(MORE)
    return Bell(place.folder / "bell")


def folder_of(done: Done) -> Path:
    """Return the run folder that `zpipe up` has named."""
    assert done.code == 0, done.err
    return Path(done.out.partition("run folder ")[2].partition("\n")[0])


def address_of(done: Done) -> str:
    return done.out.partition("registry ")[2].partition(",")[0]


def of_kind(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in lines(folder / "events.jsonl") if event["kind"] == kind]


def ended_well(folder: Path) -> None:
    """Check that all that the source has made is in the sink, once."""
    report = json.loads((folder / "report.json").read_text())
    assert (report["state"], report["error"]) == ("interrupted", "")
    made = next(stage["out"] for stage in report["stages"] if stage["name"] == "as-told")
    assert lines(folder / "out.jsonl") == [2 * k for k in range(made)]
    assert made >= 10


def test_a_service_goes_on_in_the_background_until_it_is_told_to_end(place: Place, bell: Bell) -> None:
    up = place.run("up", place.pipeline(FLOWING), "--wait", "--metrics", "127.0.0.1:0")
    folder = folder_of(up)
    assert [line.partition(" http://")[0] for line in up.err.splitlines()] == ["metrics:"]
    assert {row["state"] for row in place.ps()["workers"]} == {"live"}
    assert os.getsid(process_of(place, SERVICE).pid) == process_of(place, SERVICE).pid
    bell.wait(10)
    assert place.run("scale", "double=2").code == 0
    wait_until(lambda: list(workers(place, "double")) == ["double-1", "double-2"])
    process_of(place, "stroke").kill()
    wait_until(lambda: [event["worker"] for event in of_kind(folder, "restarted")] == ["stroke-1"])
    bell.wait(20)
    assert "stroke-1 was started again" in place.run("logs", "launcher").out
    down = place.run("down")
    assert (down.code, down.out) == (0, "the run ends when what is under way is finished\n")
    assert place.run("ps").faults == ["no run of yours is alive here: name one with --registry ADDR or ZPIPE_REGISTRY"]
    ended_well(folder)


def test_a_worker_that_keeps_dying_is_started_again_for_ever(place: Place, bell: Bell) -> None:
    up = place.run("up", place.pipeline(FLOWING.replace("stages:double", "more:Patient")))
    folder = folder_of(up)
    joined = place.start("worker", "double", "--registry", address_of(up))
    joined.says("double#0 died 6 times in a row without settling an input, the last time exited 7")
    wait_until(lambda: any("died 6 times in a row" in event["text"] for event in of_kind(folder, "warning")))
    (place.folder / "enough").touch()
    wait_until(lambda: list(workers(place, "double").values()) == ["live", "live"])
    bell.wait(10)
    assert place.run("down").code == 0
    assert joined.wait().code == 0
    ended_well(folder)
    died = of_kind(folder, "died")
    assert [(event["worker"], event["data"]["status"], event["data"]["again"]) for event in died] == [
        ("double-1", 7, True)
    ] * len(died)
    warnings = [event["text"] for event in of_kind(folder, "warning")]
    assert len(warnings) == len(died) - 4
    assert warnings[0].startswith("double-1 died 5 times in a row without settling an input, the last time exited 7")
    assert warnings[1].endswith(", and is started again in 1.6 s")


def test_an_item_that_kills_its_workers_ends_a_service(place: Place, bell: Bell) -> None:
    up = place.run("up", place.pipeline(FLOWING.replace("stages:double", "more:breaks")))
    wait_until(lambda: of_kind(folder_of(up), "ended"))
    (ended,) = of_kind(folder_of(up), "ended")
    assert ended["data"]["state"] == "failed"
    assert "its worker died 4 times while running it, the last time: exited 7" in ended["data"]["error"]


def test_workers_that_have_joined_leave_when_registry_and_launcher_are_killed(place: Place, bell: Bell) -> None:
    stages = chain("as_told", "Dies", as_told='replay = "seek"').replace("stages:Dies", "more:Dies")
    up = place.run("up", place.pipeline(stages), "--transport", "tcp")
    joined = place.start("worker", "dies", "--registry", address_of(up))
    joined.says("dies#0 exited 7")
    for process in (process_of(place, SERVICE), process_of(place, "zpipe.processes.registry")):
        process.kill()
    assert joined.wait().code == 1
    assert "no registry answers" in joined.wait().err


def killed_by_its_stage(place: Place, *argv: str) -> Done:
    """Start a service whose stage cannot, and check that nothing of it is left."""
    done = place.run("up", *argv, "--wait")
    assert (done.code, done.out) == (1, "")
    assert place.left() == []
    assert place.run("ps").code == 2
    return done


def test_a_stage_that_cannot_be_imported_in_a_worker_is_said_and_nothing_is_left(place: Place, bell: Bell) -> None:
    (place.folder / "no-gpu").touch()
    done = killed_by_its_stage(place, place.pipeline(FLOWING.replace("stages:double", "more:double")))
    assert done.faults == [f"stage 'double': importing more failed: OSError: no GPU here ({place.folder}/more.py:7)"]


def test_a_stage_that_cannot_be_built_is_said_and_nothing_is_left(place: Place) -> None:
    done = killed_by_its_stage(place, place.pipeline(chain("as_told", "BadInit", "out", as_told='replay = "seek"')))
    assert done.faults == ["stage 'badinit' raised ValueError in __init__: no such model"]
    assert "in __init__\n    raise ValueError(" in done.err


def test_a_service_that_is_not_warm_in_time_is_ended(place: Place, bell: Bell) -> None:
    stages = chain("as_told", "Slow", as_told='replay = "seek"').replace("stages:Slow", "more:Slow")
    done = killed_by_its_stage(place, place.pipeline(stages), "--timeout", "1")
    (fault,) = [fault for fault in done.faults if "warm" in fault]
    assert fault.startswith("service 't' is not warm after 1 s and was ended: ")
    assert "stage slow: 0 of 1 workers live" in fault
    assert fault.endswith("/logs, or wait longer with --timeout")


def test_a_start_that_is_interrupted_leaves_nothing(place: Place, bell: Bell) -> None:
    stages = chain("as_told", "Slow", as_told='replay = "seek"').replace("stages:Slow", "more:Slow")
    up = place.start("up", place.pipeline(stages), "--wait")
    wait_until(lambda: [row for row in place.ps()["workers"] if row["state"] == "live"])
    up.interrupt()
    assert (up.wait().code, up.wait().faults[-1]) == (130, "interrupted")
    assert place.left() == []


@pytest.mark.parametrize("port", ["nowhere", "taken"])
def test_what_the_service_itself_cannot_have_is_said_and_nothing_is_left(place: Place, port: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}" if port == "taken" else port
        done = place.run("up", place.pipeline(chain("as_told", "out", as_told='replay = "seek"')), "--metrics", address)
    said = {
        "nowhere": "'nowhere' is no address for metrics: write HOST:PORT, e.g. 127.0.0.1:9464",
        "taken": f"{address} for metrics is in use: stop what holds it, or name another port (0: any free one)",
    }
    assert (done.code, done.faults) == (2, [said[port]])
    assert place.left() == []


def test_one_name_is_one_service(place: Place, bell: Bell) -> None:
    pipeline = place.pipeline(FLOWING)
    first = place.run("up", pipeline)
    folder, address = folder_of(first), address_of(first)
    second = place.run("up", pipeline, "--runs", "elsewhere")
    assert (second.code, second.out) == (2, "")
    assert second.faults == [
        f"service 't' is up already, at {address} ({folder}): end it with zpipe down --registry {address}, "
        "or give this one another name with --name"
    ]
    assert not (place.folder / "elsewhere").exists()
    other = place.run("up", place.pipeline(chain("as_told", "out", as_told='replay = "seek"')), "--name", "other")
    assert [fault.split()[0] for fault in place.run("ps").faults[1:]] == ["t", "other"]
    assert place.run("down", "--registry", address_of(other)).code == 0
    assert place.run("ps", "--json").code == 0
    bell.wait(10)
    assert place.run("down").code == 0
    ended_well(folder)


def test_of_two_that_start_at_once_one_has_the_name(place: Place, bell: Bell) -> None:
    pipeline = place.pipeline(FLOWING)
    done = [command.wait() for command in [place.start("up", pipeline) for _ in range(3)]]
    assert sorted(one.code for one in done) == [0, 2, 2]
    assert len(list((place.folder / "runs").iterdir())) == 1
    assert place.run("down", "--now").code == 0


def test_a_service_whose_launcher_is_killed_leaves_its_name(place: Place, bell: Bell) -> None:
    pipeline = place.pipeline(FLOWING)
    folder = folder_of(place.run("up", pipeline, "--wait"))
    process_of(place, SERVICE).kill()
    assert place.left() == []
    assert place.run("ps").code == 2
    again = folder_of(place.run("up", pipeline, "--wait"))
    assert again != folder
    bell.wait(10)
    assert place.run("down").code == 0


def in_foreground(place: Place, stages: str) -> Command:
    return place.start("up", place.pipeline(stages), "--foreground")


def test_in_the_foreground_sigterm_finishes_what_is_under_way(place: Place, bell: Bell) -> None:
    service = in_foreground(place, FLOWING)
    bell.wait(10)
    service.process.send_signal(signal.SIGTERM)
    done = service.wait()
    assert done.code == 0, done.err
    ended_well(done.folder)


def test_in_the_foreground_the_second_sigterm_stops(place: Place, bell: Bell) -> None:
    service = in_foreground(place, STUCK)
    bell.wait()
    service.process.send_signal(signal.SIGTERM)
    service.says("again to stop now")
    service.process.send_signal(signal.SIGTERM)
    assert service.wait().code == 130


def test_down_says_that_the_end_has_failed(place: Place) -> None:
    up = place.run("up", place.pipeline(chain("as_told", "BadFinish", as_told='replay = "seek"')), "--wait")
    assert up.code == 0, up.err
    down = place.run("down")
    assert (down.code, down.faults) == (1, ["stage 'badfinish' raised ValueError in finish: no end"])


def test_a_service_whose_sources_end_has_ended(place: Place) -> None:
    done = place.run("up", place.pipeline(chain("numbers", "double", "out")), "--wait")
    folder = folder_of(done)
    wait_until(lambda: place.run("ps").code == 2)
    assert lines(folder / "out.jsonl") == [2 * k for k in range(10)]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--name", "A b"], "'A b' is a bad name for a service: use a-z, 0-9 and -, a letter first"),
        (["--timeout", "3"], "--timeout is how long --wait waits: add --wait, or leave it out"),
        (
            ["--wait", "--foreground"],
            "--wait returns when the service is there and --foreground when it ends: leave one out",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_nothing_starts(place: Place, argv: list[str], line: str) -> None:
    done = place.run("up", place.pipeline(chain("numbers", "out")), *argv)
    assert (done.code, done.faults) == (2, [line])
    assert not (place.folder / "runs").exists()
