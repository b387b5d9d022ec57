"""When a stage gets more workers by itself and when fewer, on simulated loads: a source, the stage `work`, a sink."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.test_registry import stage
from zpipe.core.scaling import Decision, Scaling

STEP_S = 0.05
LOOK_S = 0.25  # between two tables
START_S = 0.6  # of a worker
BEAT_S = 1.0
CALL_S = 0.005
ZERO = dict.fromkeys(("done", "dropped", "dead", "queued", "busy_s", "starved_s", "blocked_s", "cpu_s"), 0.0)

Rate = Callable[[float], float]


class Worker:
    """One life: what it has counted, and what the registry has heard of that."""

    def __init__(self, name: str, inc: int, live_s: float, rng: random.Random) -> None:
        self.name, self.inc, self.live_s = name, inc, live_s
        self.leaves = False
        self.counters, self.told = dict(ZERO), {}
        self.told_s = live_s
        self._rng = rng

    def spend(self, now_s: float, busy: float, blocked: float, done: float, cpu: float) -> None:
        for key, amount in (("busy_s", busy), ("blocked_s", blocked), ("starved_s", 1 - busy - blocked),
                            ("done", done), ("cpu_s", busy * cpu)):  # fmt: skip
            self.counters[key] += amount * STEP_S
        if not self.told or now_s - self.told_s >= BEAT_S * self._rng.uniform(0.8, 1.2):
            self.told = {key: int(n) if key == "done" else n for key, n in self.counters.items()}
            self.told_s = now_s

    def row(self, now_s: float) -> dict[str, Any]:
        live = now_s >= self.live_s
        return {
            "worker": self.name, "inc": self.inc, "stage": self.name.rpartition("-")[0], "running": None,
            "state": "drain" if self.leaves else "live" if live else "joining",
            "beat_age_s": max(0.0, now_s - self.told_s), "counters": self.told if live else {},
        }  # fmt: skip


class Run:
    """A run with a stage that scales itself; `offered` is what the source could make per second at a time."""

    def __init__(
        self, offered: Rate, *, least: int = 1, most: int = 4, cores: int = 2, cpu: float = 0.0,
        served: Callable[[int], float] = lambda n: n / CALL_S, sink: Rate = lambda t: 1e9,
    ) -> None:  # fmt: skip
        self.scaling = Scaling([stage(1, "work", "transform", workers=least, workers_max=most)], cores)
        self.offered, self.served, self.sink, self.cpu = offered, served, sink, cpu
        self.now_s = 0.0
        self.wanted: int | None = None
        self.pinned = False
        self.decisions: list[tuple[float, Decision]] = []
        self.more: dict[str, Any] = {}
        self._rng = random.Random(3)
        self._incs = 0
        self.workers = [self._worker("source-1"), self._worker("sink-1")]
        self.workers += [self._worker(f"work-{k + 1}") for k in range(least)]

    def _worker(self, name: str) -> Worker:
        self._incs += 1
        return Worker(name, self._incs, self.now_s + START_S, self._rng)

    def of_work(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.name.startswith("work") and not worker.leaves]

    def scale(self, wanted: int) -> None:
        self.wanted = wanted
        have = self.of_work()
        for worker in have[wanted:]:
            worker.leaves = True
        for k in range(len(have), wanted):
            self.workers.append(self._worker(f"work-{k + 1}"))

    def until(self, end_s: float) -> list[str]:
        """Go on until then and return what was decided meanwhile."""
        before = len(self.decisions)
        while self.now_s < end_s:
            for _ in range(round(LOOK_S / STEP_S)):
                self._step()
            for decision in self.scaling.look(self.table()):
                self.decisions.append((self.now_s, decision))
                if decision.after != decision.before:
                    self.scale(decision.after)
        return [f"{d.before} -> {d.after} {d.why}" for _, d in self.decisions[before:]]

    def _step(self) -> None:
        self.now_s += STEP_S
        self.workers = [worker for worker in self.workers if not worker.leaves or worker.told_s > self.now_s - 0.5]
        live = [worker for worker in self.of_work() if self.now_s > worker.live_s]
        source, sink = self.workers[:2]
        if self.now_s <= source.live_s:
            return
        offered, served, taken = self.offered(self.now_s), self.served(len(live)), self.sink(self.now_s)
        rate = min(offered, served, taken) if live else 0.0
        source.spend(self.now_s, rate / offered, 1 - rate / offered, rate, 0.0)
        sink.spend(self.now_s, rate / taken, 0.0, rate, 0.0)
        for worker in live:
            busy = rate / served
            blocked = 1 - busy if rate == taken else 0.0
            worker.spend(self.now_s, busy, blocked, rate / len(live), self.cpu)

    def table(self) -> dict[str, Any]:
        names = (("source", "source", []), ("work", "transform", ["source"]), ("sink", "sink", ["work"]))
        rows = [worker.row(self.now_s) for worker in self.workers]
        return {
            "state": "running", "stopping": False, "recovering": False, "age_s": self.now_s,
            "sources": [{"complete": False}], "workers": rows, **self.more,
            "stages": [
                {
                    "name": name, "role": role, "reads": reads, "scales": role != "source", "gate": False,
                    "counters": {"done": 1},
                    "wanted": self.wanted if name == "work" else None, "pinned": self.pinned and name == "work",
                }
                for name, role, reads in names
            ],
        }  # fmt: skip


def test_a_stage_grows_to_what_the_source_offers_and_no_further() -> None:
    run = Run(lambda t: 2.9 / CALL_S)
    assert run.until(30.0) == ["1 -> 2 busy", "2 -> 3 busy"]
    assert run.until(600.0) == []
    first, second = run.decisions
    assert first[1].line == "work: 1 -> 2 workers: busy 100 %, source blocked 66 %"
    assert second[0] - first[0] > 2 * START_S  # the first has started, and was seen as long again
    assert second[0] < 15.0


def test_it_shrinks_when_the_load_goes() -> None:
    run = Run(lambda t: 2.9 / CALL_S if t < 20.0 else 20.0)
    assert run.until(20.0) == ["1 -> 2 busy", "2 -> 3 busy"]
    assert run.until(100.0) == ["3 -> 1 starved"]
    assert run.decisions[-1][1].line.startswith("work: 3 -> 1 worker: busy ")


def test_it_grows_with_a_rising_load() -> None:
    run = Run(lambda t: (0.5 + t / 20.0) / CALL_S, most=8)
    run.until(140.0)
    grown = [(d.before, d.after) for _, d in run.decisions]
    assert all(before < after for before, after in grown)
    assert 7 <= grown[-1][1] <= 8  # 7.5 workers' worth


def test_many_workers_that_are_missing_come_fast() -> None:
    assert Run(lambda t: 9.6 / CALL_S, most=8).until(30.0) == ["1 -> 2 busy", "2 -> 4 busy", "4 -> 8 busy"]


@pytest.mark.parametrize(("least", "most"), [(1, 2), (2, 2), (2, 3)])
def test_it_stays_between_its_bounds(least: int, most: int) -> None:
    run = Run(lambda t: 50 / CALL_S if t < 40.0 else 1.0, least=least, most=most)
    counts = set()
    while run.now_s < 120.0:
        run.until(run.now_s + LOOK_S)
        counts.add(len(run.of_work()))
    assert counts == set(range(least, most + 1))
    assert len(run.of_work()) == least


def test_calls_that_are_cpu_time_get_no_more_workers_than_there_are_cores() -> None:
    run = Run(lambda t: 50 / CALL_S, most=8, cores=2, cpu=0.97)
    assert run.until(30.0) == ["1 -> 2 busy", "2 -> 2 cores"]
    assert run.decisions[-1][1].line == "work: no more than 2 workers: 1.9 of 2 cores are in use"
    assert run.until(100.0) == []


def test_calls_that_wait_get_more_workers_than_there_are_cores() -> None:
    assert Run(lambda t: 50 / CALL_S, most=8, cores=1, cpu=0.02).until(30.0)[-1] == "4 -> 8 busy"


def test_workers_that_do_not_tell_their_cpu_time_are_taken_to_need_it() -> None:
    run = Run(lambda t: 50 / CALL_S, most=8, cores=2)
    table = run.table

    def silent() -> dict[str, Any]:
        told = table()
        for row in told["workers"]:
            row["counters"] = {key: n for key, n in row["counters"].items() if key != "cpu_s"}
        return told

    run.table = silent  # type: ignore[method-assign]
    assert "1 -> 1 cores" in run.until(30.0)


def test_more_workers_that_bring_nothing_go_again_and_it_says_so() -> None:
    run = Run(lambda t: 50 / CALL_S, served=lambda n: 200.0 if n else 0.0)
    assert run.until(60.0) == ["1 -> 2 busy", "2 -> 1 no gain"]
    assert run.decisions[-1][1].line == "work: 2 -> 1 worker: 2 made it no faster, 200/s after 200/s"
    assert run.until(200.0) == []
    assert run.until(400.0)[:1] == ["1 -> 2 busy"]  # the world may have changed


def test_a_stage_that_waits_for_the_next_one_does_not_grow() -> None:
    assert Run(lambda t: 50 / CALL_S, sink=lambda t: 0.5 / CALL_S).until(60.0) == []


def test_a_load_that_comes_and_goes_meets_more_patience_each_time() -> None:
    run = Run(lambda t: 1.9 / CALL_S if t % 20.0 < 10.0 else 20.0, most=2)
    run.until(400.0)
    assert len([1 for t, _ in run.decisions if t < 100.0]) > 2
    assert len([1 for t, _ in run.decisions if t > 200.0]) == 0


def test_a_load_between_two_counts_does_not_make_it_flap() -> None:
    for worth in (1.1, 1.4, 1.7, 1.95, 2.0, 2.2, 2.6, 3.0):
        run = Run(lambda t, worth=worth: worth / CALL_S)
        run.until(300.0)
        assert len(run.decisions) <= 3, worth
        assert worth * 0.9 <= len(run.of_work()) <= worth / 0.7 + 1, worth


def test_what_a_user_says_wins() -> None:
    run = Run(lambda t: 2.9 / CALL_S)
    run.until(5.0)
    run.scale(1)
    run.pinned = True
    before = len(run.decisions)
    run.until(200.0)
    assert len(run.decisions) == before


@pytest.mark.parametrize(
    "more",
    [{"stopping": True}, {"recovering": True}, {"state": "complete"}, {"sources": [{"complete": True}]}],
)
def test_nothing_is_decided_at_the_end_or_while_the_registry_recovers(more: dict[str, Any]) -> None:
    run = Run(lambda t: 2.9 / CALL_S)
    run.more = more
    assert run.until(30.0) == []
    run.more = {}
    assert run.until(60.0) == ["1 -> 2 busy", "2 -> 3 busy"]


def test_nothing_is_decided_while_a_worker_is_missing() -> None:
    run = Run(lambda t: 2.9 / CALL_S, least=2)
    run.until(2.0)
    run.workers.pop()
    assert run.until(30.0) == []


def test_a_stage_without_a_range_is_left_alone() -> None:
    run = Run(lambda t: 2.9 / CALL_S)
    run.scaling = Scaling([stage(1, "work", "transform")], 2)
    assert run.until(30.0) == []
