"""What a look tells of the time between two tables: rates by beats, percentiles of the difference, lost counts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.test_registry import Bench
from zpipe.core.histogram import bucket
from zpipe.core.look import Looker

EDGE = 1  # from clean to batch


class Seen:
    """Looks at the run of `Bench`, in which one worker of clean counts."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.looker = Looker()
        self.bench.join("clean", 1)
        self.done = 0

    def beat(self, *, done: int = 0, busy_s: float = 0.0, starved_s: float = 0.0, **news: Any) -> None:
        counters = {"done": done, "busy_s": busy_s, "starved_s": starved_s, "in_flight": 6}
        self.bench.beat(1, counters=counters, **news)

    def look(self, after_s: float = 0.0) -> dict[str, Any]:
        self.bench.now_s += after_s
        return self.looker.see(self.bench.say({"t": "PS"}))


@pytest.fixture
def seen() -> Seen:
    return Seen()


def clean(look: dict[str, Any]) -> dict[str, Any]:
    return dict(look["stages"][1])


def test_the_first_look_knows_no_rates(seen: Seen) -> None:
    seen.beat(done=100, calls={bucket(0.1): 5}, edges={EDGE: {"sent": 7, "queued": 3}})
    look = seen.look()
    stage, edge = clean(look), look["edges"][EDGE]
    assert (look["span_s"], look["advice"]) == (0.0, None)
    assert [stage[name] for name in ("rate", "busy", "starved", "blocked", "p50_s", "calls")] == [None] * 5 + [0]
    assert [edge[name] for name in ("rate", "bytes_s", "p50_s", "queued")] == [None, None, None, 3]


def test_a_stage_is_told_with_its_rate_its_shares_and_what_waits(seen: Seen) -> None:
    seen.beat()
    seen.look()
    seen.bench.now_s += 2.0
    seen.beat(done=10, busy_s=1.5, starved_s=0.5)
    stage = clean(seen.look())
    assert (stage["name"], stage["role"], stage["workers"], stage["wanted"]) == ("clean", "transform", 1, 3)
    assert (stage["rate"], stage["busy"], stage["starved"], stage["in_flight"]) == (5.0, 0.75, 0.25, 6)


def test_percentiles_are_of_what_was_counted_between_the_looks(seen: Seen) -> None:
    slow, fast = bucket(10.0), bucket(0.01)
    seen.beat(calls={slow: 1000}, edges={EDGE: {"latency": {slow: 9}}})
    seen.look()
    seen.beat(calls={slow: 1002, fast: 98}, edges={EDGE: {"latency": {slow: 9, fast: 4}}})
    look = seen.look(1.0)
    stage, edge = clean(look), look["edges"][EDGE]
    assert stage["calls"] == 100
    assert [stage[name] for name in ("p50_s", "p95_s", "p99_s")] == pytest.approx([0.01, 0.01, 10.0], rel=0.1)
    assert [edge[name] for name in ("p50_s", "p95_s")] == pytest.approx([0.01, 0.01], rel=0.1)


def test_the_rate_of_an_edge_is_from_beat_to_beat(seen: Seen) -> None:
    seen.beat(edges={EDGE: {"sent": 100, "sent_bytes": 1000}})
    seen.look(0.25)
    seen.bench.now_s += 0.75
    seen.beat(edges={EDGE: {"sent": 110, "sent_bytes": 3000, "transports": ["ipc"]}})
    edge = seen.look(0.5)["edges"][EDGE]
    assert (edge["rate"], edge["bytes_s"]) == (10.0, 2000.0)  # in 1 s: the looks are 1.25 s apart
    assert (edge["from"], edge["to"], edge["outputs"], edge["transports"]) == ("clean", "batch", [""], ["ipc"])


def test_without_a_beat_in_between_a_rate_is_not_known(seen: Seen) -> None:
    seen.beat(edges={EDGE: {"sent": 100}})
    seen.look()
    assert seen.look(1.0)["edges"][EDGE]["rate"] is None


def test_counts_that_a_killed_registry_has_lost_are_no_negative_rates(seen: Seen) -> None:
    seen.beat(calls={40: 5}, edges={EDGE: {"sent": 100, "latency": {40: 5}}})
    seen.look()
    seen.bench.restart()
    look = seen.look(1.0)
    assert (clean(look)["calls"], look["edges"][EDGE]["rate"], look["edges"][EDGE]["p50_s"]) == (0, 0.0, None)


def test_what_is_settled_and_made_is_of_all_sources(seen: Seen) -> None:
    seen.bench.join("crops", 2)
    seen.bench.join("crops", 3)
    seen.bench.beat(2, sources={0: [4, 0, 0, False, 9]})
    seen.bench.beat(3, sources={1: [3, 0, 0, False]})
    look = seen.look()
    assert (look["settled"], look["made"]) == (7, 12)


def test_a_look_says_which_stage_is_the_bottleneck(seen: Seen) -> None:
    for inc, name in ((2, "crops"), (3, "crops"), (4, "batch"), (5, "out")):
        seen.bench.join(name, inc)
    seen.bench.now_s += 10.0
    for share in (0.0, 1.0):
        seen.bench.now_s += 2.0
        for inc in (1, 2, 3, 4, 5):
            busy_s = share * (2.0 if inc == 1 else 0.5)
            counters = {"done": 1 + 10 * share, "busy_s": busy_s, "starved_s": 2.0 * share - busy_s}
            seen.bench.beat(inc, counters=counters)
        look = seen.look()
    advice = look["advice"]
    assert (advice["bottlenecks"], set(advice)) == (("clean",), {"bottlenecks", "more", "next", "line"})
    assert advice["line"].startswith("clean is the bottleneck (busy 100 %)")
