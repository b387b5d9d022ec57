"""From the registry's tables to metrics: killed lives, a killed registry, readiness; and the server's address."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

import zpipe as zp
from tests.unit.test_registry import Bench
from zpipe.processes.metrics import METRICS, STALE_S, Metrics
from zpipe.processes.scrape import MetricsServer

PAGE = (Path(__file__).parents[2] / "docs" / "seeing.md").read_text(encoding="utf-8")
PLANNED = {"crops": 2, "clean": 3, "batch": 1, "out": 1}


class Seen:
    """Metrics of the pipeline of `Bench`, at a time set by hand."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.now_s = 50.0
        self.metrics = Metrics("textures", PLANNED, clock=lambda: self.now_s)

    def look(self) -> None:
        self.metrics.see(self.bench.say({"t": "PS"}))

    def count(self, inc: int, **counters: float) -> None:
        self.bench.beat(inc, counters=counters)
        self.look()

    def __getitem__(self, key: str | tuple[str, ...]) -> float:
        name, *labels = (key,) if isinstance(key, str) else key
        return self.samples(name)[("textures", *labels)]

    def samples(self, name: str) -> dict[tuple[str, ...], float]:
        return next(found for metric, found in self.metrics.samples().items() if metric.name == f"zpipe_{name}")


@pytest.fixture
def seen() -> Seen:
    return Seen()


def test_the_counts_of_killed_lives_stay_in_the_sum(seen: Seen) -> None:
    seen.bench.join("clean", 1, slot=0)
    seen.bench.join("clean", 2, slot=1)
    seen.count(1, **{"in": 7, "done": 5, "dropped": 2, "out": 9, "repeats": 1, "busy_s": 1.5})
    seen.count(2, **{"in": 10, "done": 10, "out": 10, "busy_s": 0.25, "starved_s": 3.0, "blocked_s": 4.0})
    seen.bench.say({"t": "DIED", "inc": 1})
    seen.bench.join("clean", 3, slot=0)
    seen.count(3, **{"in": 1, "done": 1})
    assert seen["stage_items_total", "clean", "done"] == 16
    assert seen["stage_items_total", "clean", "dropped"] == 2
    assert seen["stage_items_total", "clean", "dead"] == 0
    assert seen["stage_received_items_total", "clean"] == 18
    assert seen["stage_out_items_total", "clean"] == 19
    assert seen["stage_repeats_total", "clean"] == 1
    assert seen["stage_restarts_total", "clean"] == 1
    assert seen["stage_busy_seconds_total", "clean"] == 1.75
    assert seen["stage_starved_seconds_total", "clean"] == 3.0
    assert seen["stage_blocked_seconds_total", "clean"] == 4.0
    assert seen["stage_items_total", "batch", "done"] == 0


def test_counters_stand_while_a_new_registry_waits_for_the_living(seen: Seen) -> None:
    seen.bench.join("clean", 1)
    seen.count(1, done=5, busy_s=2.0)
    seen.bench.restart()
    seen.look()
    assert (seen["stage_items_total", "clean", "done"], seen["stage_busy_seconds_total", "clean"]) == (5, 2.0)
    seen.bench.hello("clean", 1, worker="clean-1", slot=0, state="live", counters={"done": 8, "busy_s": 2.5})
    seen.look()
    assert (seen["stage_items_total", "clean", "done"], seen["stage_busy_seconds_total", "clean"]) == (8, 2.5)


def test_counters_stand_when_a_life_ends_that_a_new_registry_has_not_heard(seen: Seen) -> None:
    seen.bench.join("clean", 1, slot=0)
    seen.count(1, done=5)
    seen.bench.restart()
    seen.bench.say({"t": "DIED", "inc": 1})
    seen.bench.join("clean", 2, slot=0)
    values = []
    for done in (1, 4, 6):
        seen.count(2, done=done)
        values.append(seen["stage_items_total", "clean", "done"])
    assert values == [5, 5, 6]


def test_gauges_fall(seen: Seen) -> None:
    seen.bench.join("clean", 1)
    seen.count(1, queued=4, in_flight=3, retained_bytes=1000, rss=5000)
    assert seen["stage_queued_items", "clean"] == 4
    assert seen["stage_in_flight_items", "clean"] == 3
    assert seen["stage_retained_bytes", "clean"] == 1000
    assert seen["worker_resident_bytes", "clean", "clean-1"] == 5000
    assert seen["stage_workers", "clean"] == 1
    seen.bench.say({"t": "DIED", "inc": 1})
    seen.look()
    assert seen["stage_queued_items", "clean"] == 0
    assert seen["stage_in_flight_items", "clean"] == 0
    assert seen["stage_retained_bytes", "clean"] == 0
    assert seen["stage_workers", "clean"] == 0
    assert seen.samples("worker_resident_bytes") == {}


def test_a_source_has_no_position_until_it_is_told(seen: Seen) -> None:
    seen.look()
    assert seen.samples("source_watermark") == {("textures", "crops[0]"): 0, ("textures", "crops[1]"): 0}
    assert seen.samples("source_position") == {}
    seen.bench.join("crops", 1, slot=0)
    seen.bench.beat(1, sources={0: [12, 0, 0, False, 40]})
    seen.look()
    assert seen["source_watermark", "crops[0]"] == 12
    assert seen.samples("source_position") == {("textures", "crops[0]"): 40}


def test_a_run_is_in_one_state(seen: Seen) -> None:
    seen.look()
    seen.bench.join("clean", 1)
    seen.bench.say({"t": "FAIL", "why": "it rains"})
    seen.look()
    assert [labels[1] for labels, value in seen.samples("run_state").items() if value] == ["failing"]
    assert len(seen.samples("run_state")) == 6
    assert seen.samples("run_info") == {("textures", "textures", "failing"): 1}


def test_a_stage_is_ready_with_all_its_planned_workers_live(seen: Seen) -> None:
    assert seen.metrics.lacking()[:2] == ["registry: has not answered yet", "stage crops: 0 of 2 workers live"]
    for inc, stage in enumerate(("crops", "crops", "clean", "clean", "batch", "out"), 1):
        seen.bench.join(stage, inc)
    seen.bench.hello("clean", 7)  # joining: it has not told yet that it is ready
    seen.look()
    assert seen.metrics.lacking() == ["stage clean: 2 of 3 workers live"]
    assert (seen["stage_workers", "clean"], seen["stage_planned_workers", "clean"]) == (2, 3)
    seen.bench.beat(7)
    seen.look()
    assert seen.metrics.lacking() == []


def test_a_silent_worker_is_not_live(seen: Seen) -> None:
    for inc, stage in enumerate(("crops", "crops", "clean", "clean", "clean", "batch", "out"), 1):
        seen.bench.join(stage, inc)
    seen.bench.now_s += 5
    for inc in range(1, 7):
        seen.bench.beat(inc)
    seen.look()
    assert seen.metrics.lacking() == ["stage out: 0 of 1 workers live"]


def test_nothing_is_ready_while_the_registry_recovers(seen: Seen) -> None:
    for inc, stage in enumerate(("crops", "crops", "clean", "clean", "clean", "batch", "out"), 1):
        seen.bench.join(stage, inc)
    seen.bench.restart()
    seen.look()
    lines = seen.metrics.lacking()
    assert lines[0] == "registry: recovering, some workers are not back yet"
    assert lines[1:] == [f"stage {name}: 0 of {number} workers live" for name, number in PLANNED.items()]


def test_a_table_grows_old(seen: Seen) -> None:
    seen.now_s += 1
    assert seen["registry_age_seconds"] == 1
    for inc, stage in enumerate(("crops", "crops", "clean", "clean", "clean", "batch", "out"), 1):
        seen.bench.join(stage, inc)
    seen.look()
    seen.now_s += STALE_S
    assert (seen["registry_age_seconds"], seen.metrics.lacking()) == (5.0, [])
    seen.now_s += 2
    assert (seen["registry_age_seconds"], seen.metrics.lacking()) == (7.0, ["registry: silent for 7 s"])
    seen.look()
    assert (seen["registry_age_seconds"], seen.metrics.lacking()) == (0, [])


def test_every_metric_has_samples(seen: Seen) -> None:
    seen.bench.join("crops", 1)
    seen.bench.beat(1, sources={0: [12, 0, 0, False, 40]}, counters={"rss": 1})
    seen.look()
    assert [metric.name for metric, found in seen.metrics.samples().items() if not found] == []
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_the_page_lists_the_metrics() -> None:
    rows = re.findall(r"^\| `(zpipe_\w+)` \|(.*?)\| (.*) \|$", PAGE, re.MULTILINE)
    found = [(name, tuple(re.findall(r"`(\w+)`", labels)), meaning) for name, labels, meaning in rows]
    assert found == [(metric.name, metric.labels, metric.help) for metric in METRICS]


def test_the_page_names_metrics_that_there_are() -> None:
    assert set(re.findall(r"zpipe_\w+", PAGE)) == {metric.name for metric in METRICS}
    assert f"more than {STALE_S:g} s" in PAGE


@pytest.mark.parametrize("address", ["", "x", "localhost", "http://127.0.0.1:1", "::1:1", "[]:1", "h:65536", "h:-1"])
def test_what_is_no_address_is_one_line(address: str) -> None:
    with pytest.raises(zp.ConfigError) as caught:
        MetricsServer(address)
    line = f"{address!r} is no address for metrics: write HOST:PORT, e.g. 127.0.0.1:9464"
    assert str(caught.value) == line


@pytest.mark.parametrize("address", ["0", ":0", "127.0.0.1:0", "localhost:0"])
def test_without_a_host_the_server_is_on_the_loopback(seen: Seen, address: str) -> None:
    with MetricsServer(address) as server:
        url = server.serve(seen.metrics)
        assert re.fullmatch(r"http://(127\.0\.0\.1|\[::1\]):[1-9]\d*/metrics", url)
        with urlopen(url) as page:
            assert b"zpipe_registry_age_seconds" in page.read()


def test_other_paths_are_not_found(seen: Seen) -> None:
    with MetricsServer("0") as server:
        url = server.serve(seen.metrics)
        with pytest.raises(HTTPError) as caught:
            urlopen(url.replace("/metrics", "/"))
        with caught.value as answer:
            assert (answer.code, answer.read()) == (404, b"there are /metrics and /readyz\n")


def test_a_client_that_says_nothing_holds_up_nobody(seen: Seen) -> None:
    with MetricsServer("0") as server:
        url = server.serve(seen.metrics)
        host, _, port = url.removeprefix("http://").removesuffix("/metrics").rpartition(":")
        with socket.create_connection((host, int(port))) as client:
            with urlopen(url) as page:
                assert page.status == 200
            client.setblocking(False)
            with pytest.raises(BlockingIOError):  # it is still served
                client.recv(1)
            server.__exit__()


def test_the_address_is_free_again_afterwards(seen: Seen) -> None:
    with MetricsServer("0") as server:
        address = server.serve(seen.metrics).removeprefix("http://").removesuffix("/metrics")
        with pytest.raises(zp.ConfigError) as caught, MetricsServer(address):
            pass
    line = f"{address} for metrics is in use: stop what holds it, or name another port (0: any free one)"
    assert str(caught.value) == line
    with MetricsServer(address):
        pass


def pipeline() -> zp.Pipeline:
    return zp.Pipeline("t", zp.stage("stages:numbers"))


def test_python_may_ask_for_metrics_too() -> None:
    with pytest.raises(zp.ConfigError, match="'x' is no address for metrics"):
        pipeline().run(metrics="x")
    with pytest.raises(zp.ConfigError, match="an inline run has no registry to tell metrics"):
        pipeline().run(inline=True, metrics="0")
