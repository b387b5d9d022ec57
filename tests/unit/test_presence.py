"""Who is declared dead: those that lost their connection, not those that are busy."""

from __future__ import annotations

import pytest

from tests.unit.test_registry import Bench, back, peers, refused

LOOK_S = 0.1


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.join("crops", 1)
    bench.join("clean", 2)
    bench.tick(LOOK_S)
    return bench


def names(bench: Bench) -> list[str]:
    return [row["worker"] for row in bench.table()["workers"]]


def look(bench: Bench, seconds: float, *, connected: bool) -> None:
    """Let time pass in which crops-1 beats and clean-1 is silent."""
    for _ in range(round(seconds / LOOK_S)):
        bench.beat(1)
        bench.tick(LOOK_S)
        for push in bench.pushed:
            bench.registry.tried(bench.now_s, push.peer, there=connected or push.peer != (2).to_bytes(8, "big"))


def test_a_silent_worker_that_has_lost_its_connection_is_dead_within_two_seconds_and_fenced(bench: Bench) -> None:
    look(bench, 2.0, connected=False)
    assert names(bench) == ["crops-1"]
    assert bench.table()["declared_dead"] == [2]
    assert peers(bench.beat(1)) == []
    refused(bench.beat(2), 410, "clean-1", "out of reach")
    refused(bench.hello("clean", 2), 410)


def test_a_silent_worker_whose_connection_lives_is_marked_and_never_dead(bench: Bench) -> None:
    look(bench, 3600.0, connected=True)
    assert [row["state"] for row in bench.table()["workers"]] == ["live", "suspect"]
    assert bench.beat(2)["t"] == "STATE"
    assert [row["state"] for row in bench.table()["workers"]] == ["live", "live"]


def test_when_a_connection_has_gone_all_are_asked(bench: Bench) -> None:
    bench.beat(2)
    bench.registry.presence.doubt(bench.now_s)
    bench.tick(LOOK_S)
    assert set(bench.told()) == {1, 2}
    bench.tick(1.0)
    assert bench.told() == {}


def test_a_busy_worker_whose_connection_is_renewed_stays(bench: Bench) -> None:
    look(bench, 1.5, connected=True)
    look(bench, LOOK_S, connected=False)
    look(bench, 10.0, connected=True)
    assert names(bench) == ["crops-1", "clean-1"]


def test_a_worker_that_beats_stays_whatever_could_not_be_sent_to_it(bench: Bench) -> None:
    for _ in range(40):
        bench.beat(2)
        look(bench, LOOK_S, connected=False)
    assert names(bench) == ["crops-1", "clean-1"]


def test_a_registry_that_was_held_up_lets_workers_come_back_first(bench: Bench) -> None:
    look(bench, 1.0, connected=True)
    bench.tick(60.0)
    look(bench, 4.5, connected=False)
    assert names(bench) == ["crops-1", "clean-1"]
    assert bench.beat(2)["t"] == "STATE"


def test_a_registry_that_was_restarted_gives_up_who_does_not_come_back(bench: Bench) -> None:
    bench.restart()
    bench.tick()
    back(bench, "crops", 1, "crops-1")
    look(bench, 4.5, connected=False)
    assert names(bench) == ["crops-1", "clean-1"]
    look(bench, 1.0, connected=False)
    assert names(bench) == ["crops-1"]
