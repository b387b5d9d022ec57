"""The metrics of real runs, read over HTTP as Prometheus reads them."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.test_ending import process_of
from tests.real import ROOT, Bell, Command, Place, lines, wait_until
from zpipe.processes import launcher
from zpipe.processes.events import Event
from zpipe.values.pipeline import Pipeline

GATED = """
import os

def wait():
    bell = os.open("bell", os.O_WRONLY)
    os.write(bell, b".")
    os.close(bell)
    gate = os.open("gate", os.O_RDONLY)
    os.read(gate, 1)
    os.close(gate)

class Warm:
    def warmup(self):
        wait()

    def __call__(self, x):
        return x

def held(x):
    if x == 9:
        wait()
    return x
"""
STAGES = """
[stage.numbers]
run = "stages:numbers"
[stage.warm]
run = "gated:Warm"
from = "numbers"
[stage.held]
run = "gated:held"
from = "warm"
[stage.out]
run = "zpipe.sinks:jsonl"
args = { path = "out.jsonl" }
from = "held"
"""
LABELS = ("name", "stage", "worker", "source", "outcome", "state")

Samples = dict[tuple[str, ...], float]  # by name and label values, that of `run` left out


class Gate:
    """A named pipe before which a stage waits until the test opens it."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR)

    def open(self, times: int = 1) -> None:
        os.write(self._fd, b"." * times)


def scrape(url: str) -> Samples:
    with urlopen(url) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    found: Samples = {}
    for sample in (sample for family in families for sample in family.samples):
        assert sample.labels.pop("run") == "t"
        labels = [sample.labels[key] for key in LABELS if key in sample.labels]
        found[sample.name.removeprefix("zpipe_"), *labels] = sample.value
    return found


def readyz(url: str) -> tuple[int, list[str]]:
    try:
        with urlopen(url.replace("/metrics", "/readyz")) as page:
            return page.status, page.read().decode().splitlines()
    except HTTPError as answer:
        with answer:
            return answer.code, answer.read().decode().splitlines()


def url_of(run: Command) -> str:
    return run.says("metrics: http").removeprefix("metrics: ")


def test_metrics_and_readiness_of_a_run_whose_registry_and_worker_are_killed(place: Place) -> None:
    bell, gate = Bell(place.folder / "bell"), Gate(place.folder / "gate")
    (place.folder / "gated.py").write_text(GATED)
    run = place.start("run", place.pipeline(STAGES), "--metrics", "127.0.0.1:0")
    url = url_of(run)
    bell.wait()  # the stage warms up
    wait_until(lambda: readyz(url) == (503, ["stage warm: 0 of 1 workers live"]))
    gate.open()
    wait_until(lambda: readyz(url) == (200, ["ready"]))
    bell.wait()  # the last item is held
    wait_until(lambda: scrape(url)["stage_items_total", "warm", "done"] == 10)
    before = scrape(url)
    assert before["run_info", "t", "running"] == before["run_state", "running"] == 1
    assert before["stage_workers", "warm"] == before["stage_planned_workers", "warm"] == 1
    assert before["worker_resident_bytes", "warm", "warm-1"] > 2**20

    victim = process_of(place, "warm")
    victim.suspend()  # so that the next registry never hears what it had counted
    process_of(place, "zpipe.processes.registry").kill()
    victim.kill()
    bell.wait()  # its next life warms up
    wait_until(lambda: scrape(url)["stage_restarts_total", "warm"] == 1)
    wait_until(lambda: readyz(url) == (503, ["stage warm: 0 of 1 workers live"]))
    after = scrape(url)
    assert after["stage_items_total", "warm", "done"] == 10
    assert [key for key in before if key[0].endswith("_total") and after[key] < before[key]] == []

    gate.open(10)  # more than enough for what waits, and for what may be called once more
    done = run.wait()
    assert done.code == 0, done.err
    assert sorted(lines(done.folder / "out.jsonl")) == list(range(10))
    with pytest.raises(URLError):
        scrape(url)


def test_the_counters_agree_with_the_report(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place.runtime))
    stages: dict[str, Any] = {
        "numbers": {"run": "stages:numbers", "args": {"count": 100}},
        "odd": {"run": "stages:odd", "from": "numbers", "workers": 2},
        "thrice": {"run": "stages:thrice", "from": "odd"},
    }
    pipeline = Pipeline.from_dict({"schema": 1, "name": "t", "stage": stages}, folder=place.folder)
    urls: list[str] = []
    found: list[Samples] = []

    def hear(event: Event) -> None:
        if event.kind == "metrics":
            urls.append(event.data["url"])

    def progress(table: Mapping[str, Any]) -> None:
        found.append(scrape(urls[0]))

    report = launcher.run(pipeline, runs=place.folder / "runs", metrics="0", progress=progress, on_event=hear)
    last = found[-1]
    assert last["run_state", "done"] == 1
    assert {
        name: [
            *(last["stage_items_total", name, outcome] for outcome in ("done", "dropped", "dead")),
            *(last[f"stage_{what}_total", name] for what in ("received_items", "out_items", "repeats", "restarts")),
        ]
        for name in stages
    } == {s.name: [s.done, s.dropped, s.dead, s.taken, s.out, s.repeats, s.restarts] for s in report.stages}
    assert last["stage_items_total", "odd", "dropped"] == 50
    for stage in report.stages:
        spent_s = {what: last[f"stage_{what}_seconds_total", stage.name] for what in ("busy", "starved", "blocked")}
        assert spent_s["busy"] / sum(spent_s.values()) == pytest.approx(stage.busy)
    assert last["source_watermark", "numbers"] == 102  # the ends of the epoch and of the source take one each


def test_a_registry_alone_names_all_stages_that_lack_workers(place: Place) -> None:
    (place.folder / "gated.py").write_text(GATED)
    registry = place.start("registry", place.pipeline(STAGES), "--metrics", "0")
    url = url_of(registry)
    lacking = [f"stage {name}: 0 of 1 workers live" for name in ("numbers", "warm", "held", "out")]
    wait_until(lambda: readyz(url) == (503, lacking))
    assert scrape(url)["stage_planned_workers", "numbers"] == 1
    registry.interrupt()
    registry.says("again to stop now")
    registry.interrupt()
    assert registry.wait().code == 130


def test_a_port_in_use_is_one_line_and_nothing_starts(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        done = place.run("run", place.pipeline(STAGES), "--metrics", address)
    line = f"{address} for metrics is in use: stop what holds it, or name another port (0: any free one)"
    assert (done.code, done.err) == (2, f"zpipe: {line}\n")
    assert not (place.folder / "runs").exists()


def test_an_address_that_is_none_is_one_line(place: Place) -> None:
    done = place.run("registry", place.pipeline(STAGES), "--metrics", "localhost")
    line = "'localhost' is no address for metrics: write HOST:PORT, e.g. 127.0.0.1:9464"
    assert (done.code, done.err) == (2, f"zpipe: {line}\n")


def test_an_inline_run_has_no_metrics(place: Place) -> None:
    done = place.run("run", place.pipeline(STAGES), "--inline", "--metrics", "0")
    line = "--metrics tells what a registry knows and --inline has none: leave one out"
    assert (done.code, done.err) == (2, f"zpipe: {line}\n")


def test_without_the_package_one_line_names_it(place: Place) -> None:
    (place.folder / "prometheus_client.py").write_text("raise ModuleNotFoundError(__name__)\n")
    path = f"{place.folder}{os.pathsep}{ROOT}"
    done = place.run("run", place.pipeline(STAGES), "--metrics", "0", PYTHONPATH=path)
    line = "metrics need the package prometheus-client: pip install prometheus-client"
    assert (done.code, done.err) == (2, f"zpipe: {line}\n")
