"""The registry's machine with keys: who is admitted, who is told of whose key, and what a revoked one may not do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.test_registry import CLEAN, WISH, Bench, refused

HOME, AWAY, THIRD = "the registry's", "gpu-2's", "gpu-3's"  # public keys; what they look like is the transport's
ADMITTED = {HOME: "registry", AWAY: "gpu-2"}


@pytest.fixture
def bench() -> Bench:
    """A source at home, and a worker of the stage below it at home and away."""
    made = Bench()
    admit(made, ADMITTED)
    for stage, inc, key in (("crops", 1, HOME), ("clean", 2, HOME), ("clean", 3, AWAY)):
        made.key = key
        made.join(stage, inc)
    made.key = HOME
    return made


def admit(bench: Bench, admitted: dict[str, str]) -> None:
    bench.pushed.clear()
    bench.take(bench.registry.admit(bench.now_s, admitted))


def roster(bench: Bench, inc: int) -> dict[str, Any]:
    return dict(bench.beat(inc, ver=0)["roster"])


def test_workers_are_told_whom_to_admit_before_they_bind(bench: Bench) -> None:
    assert bench.hello("clean", 4)["keys"] == sorted(ADMITTED)


def test_a_roster_names_the_key_that_a_peers_connection_has_proven(bench: Bench) -> None:
    assert {peer["inc"]: peer["key"] for peer in roster(bench, 1)["peers"]} == {2: HOME, 3: AWAY}
    assert roster(bench, 1)["keys"] == sorted(ADMITTED)


def test_what_a_request_says_of_its_key_is_not_believed(bench: Bench) -> None:
    bench.key = AWAY
    bench.hello("clean", 4, key=HOME)
    bench.beat(4)
    bench.key = HOME
    assert {peer["inc"]: peer["key"] for peer in roster(bench, 1)["peers"]}[4] == AWAY


def test_who_is_not_admitted_hears_so_whatever_it_asks(bench: Bench) -> None:
    bench.key = THIRD
    for message in ({"t": "PS"}, {"t": "DOWN"}, {"t": "HELLO"}, {"t": "BEAT", "inc": 3}, {"t": "?"}):
        refused(bench.say(message, b"cli"), 403, "this key was revoked")
    assert not bench.ended


def test_the_workers_of_a_revoked_key_leave_the_rosters_at_once(bench: Bench) -> None:
    admit(bench, {HOME: "registry"})
    told = bench.told()[1]["roster"]
    assert [peer["inc"] for peer in told["peers"]] == [2]
    assert told["keys"] == [HOME]
    assert "keys" in bench.told()[2]["roster"]
    assert 3 not in bench.told()


def test_a_worker_of_a_revoked_key_stays_out(bench: Bench) -> None:
    admit(bench, {HOME: "registry"})
    bench.key = AWAY
    refused(bench.say({"t": "BEAT", "inc": 3, "ver": 0}), 403, "this key was revoked")
    bench.key = HOME
    refused(bench.beat(3), 410, "the key of 'gpu-2' was revoked")


def test_its_place_is_free_for_another_hosts_worker(bench: Bench) -> None:
    admit(bench, {HOME: "registry", THIRD: "gpu-3"})
    bench.key = THIRD
    bench.join("clean", 5)
    bench.key = HOME
    assert {row["worker"] for row in bench.table()["workers"] if row["stage"] == "clean"} >= {"clean-1"}
    assert len([row for row in bench.table()["workers"] if row["stage"] == "clean"]) == 2


def test_a_key_that_is_added_is_told_to_all(bench: Bench) -> None:
    admit(bench, {**ADMITTED, THIRD: "gpu-3"})
    for inc in (1, 2, 3):
        assert bench.told()[inc]["roster"]["keys"] == sorted([HOME, AWAY, THIRD])


def test_a_registry_that_was_restarted_waits_for_workers_of_any_admitted_key(bench: Bench) -> None:
    bench.restart()
    admit(bench, ADMITTED)
    admit(bench, {HOME: "registry"})
    assert bench.registry.members.living.keys() == {1, 2, 3}


def test_who_looks_on_is_told_whom_to_admit_and_its_key_goes_to_the_workers(bench: Bench) -> None:
    bench.key = AWAY
    answer = bench.say({"t": "TAP", "stage": "clean", "endpoints": ["tcp://10.0.0.2:5"], "key": HOME}, b"cli")
    assert answer["keys"] == sorted(ADMITTED)
    wish = {**WISH, "endpoints": ["tcp://10.0.0.2:5"], "key": AWAY}
    assert {inc: told["taps"] for inc, told in bench.told().items()} == {2: [wish], 3: [wish]}


def test_without_keys_nothing_is_said_of_them() -> None:
    bench = Bench()
    assert "keys" not in bench.hello("clean", 2)
    bench.join("crops", 1)
    bench.beat(2)
    assert "keys" not in roster(bench, 1)
    assert [set(peer) for peer in roster(bench, 1)["peers"]] == [{"inc", "stage_number", "worker", "inbox", "acks"}]
    assert bench.registry.members.living[2].stage.number == CLEAN
