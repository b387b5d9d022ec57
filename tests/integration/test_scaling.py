"""Stages whose option `workers` is a range: they get workers as the load comes, and lose them as it goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_draining import workers
from tests.integration.test_runs import chain
from tests.real import Command, Place, lines, wait_until

RANGE = 'workers = "1..2"'
PLAIN = chain("as_told", "nap", "out", as_told='replay = "seek"', nap=RANGE)
JOINED = chain("as_told", "double", as_told='replay = "seek"') + (
    f'[stage.nap]\nrun = "stages:nap_over"\njoin = ["double", "as-told"]\n{RANGE}\n'
    '[stage.out]\nrun = "zpipe.sinks:jsonl"\nargs = { path = "out.jsonl" }\nordered = true\nfrom = "nap"\n'
)


class Watched:
    """A run under load, and what it says of how many workers `nap` has."""

    def __init__(self, place: Place, stages: str, *argv: str) -> None:
        self.load = place.folder / "load"
        self.load.touch()
        self.run: Command = place.start("run", place.pipeline(stages), *argv)
        self.events = Path(self.run.says("registry tcp://").rpartition("run folder ")[2]) / "events.jsonl"

    def scaled(self) -> list[dict[str, Any]]:
        return [event for event in lines(self.events) if event["kind"] == "scaled"]

    def joined(self) -> set[str]:
        return {event["worker"] for event in lines(self.events) if event["kind"] == "joined"}


@pytest.mark.parametrize(("stages", "factor"), [(PLAIN, 2), (JOINED, 1)], ids=["plain", "joined"])
def test_a_stage_gets_a_worker_under_load_and_loses_it_without(place: Place, stages: str, factor: int) -> None:
    watched = Watched(place, stages)
    wait_until(lambda: "nap-2" in watched.joined())
    first = watched.scaled()[0]
    assert (first["stage"], first["data"]) == ("nap", {"before": 1, "after": 2, "why": "busy"})
    assert first["text"] in watched.run.says("nap: 1 -> 2 workers: busy ")
    watched.load.unlink()
    wait_until(lambda: watched.scaled()[-1]["data"]["after"] == 1)
    wait_until(lambda: list(workers(place, "nap")) == ["nap-1"])
    watched.run.interrupt()
    done = watched.run.wait()
    assert done.code == 130, done.err
    found = lines(done.folder / "out.jsonl")
    assert found == [factor * k for k in range(len(found))]
    assert json.loads((done.folder / "plan.json").read_text())["stages"][-2]["workers_max"] == 2


def test_what_a_user_says_wins(place: Place) -> None:
    watched = Watched(place, PLAIN, "--set", "nap.workers=1..3")
    wait_until(lambda: "nap-2" in watched.joined())
    assert place.run("scale", "nap=1").code == 0
    watched.run.says("-> 1 worker: by hand")
    wait_until(lambda: list(workers(place, "nap")) == ["nap-1"])
    watched.run.interrupt()
    assert watched.run.wait().code == 130
    assert watched.scaled()[-1]["data"]["why"] == "by hand"


def test_where_nobody_starts_workers_the_range_only_bounds(place: Place) -> None:
    stages = chain("as_told", "nap", "out", as_told='replay = "seek"', nap='workers = "1..1"')
    registry = place.start("registry", place.pipeline(stages))
    address = registry.says("registry tcp://").split()[2].rstrip(",")
    registry.says("nap: nobody starts workers for this run, 1 may join at most")
    started = [place.start("worker", stage, "--registry", address) for stage in ("as-told", "nap", "out")]
    wait_until(lambda: len(place.ps()["workers"]) == 3)
    more = place.run("worker", "nap", "--registry", address)
    assert more.code == 1
    assert "stage 'nap' has workers = '1..1' and takes no more: raise the range" in more.out + more.err
    assert place.run("down", "--registry", address).code == 0
    assert registry.wait().code == 130
    assert [worker.wait().code for worker in started] == [0, 0, 0]


def test_an_inline_run_has_one_worker_whatever_the_range(place: Place) -> None:
    stages = chain("numbers", "nap", "out", nap=RANGE)
    done = place.run("run", place.pipeline(stages), "--inline")
    assert (done.code, lines(done.folder / "out.jsonl")) == (0, [2 * k for k in range(10)])
