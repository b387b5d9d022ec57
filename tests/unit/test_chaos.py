"""The choice of victims."""

from __future__ import annotations

from zpipe.processes.chaos import REGISTRY, Chaos

WORKERS = ["b-1", "a-1", "a-2"]


def test_the_same_seed_chooses_the_same_victims_whatever_the_order_of_workers() -> None:
    first, second = Chaos(1.0, seed=5), Chaos(1.0, seed=5)
    assert [first.victim(WORKERS) for _ in range(50)] == [second.victim(WORKERS[::-1]) for _ in range(50)]


def test_everybody_is_killed_sooner_or_later() -> None:
    chaos = Chaos(1.0, seed=5)
    assert {chaos.victim(WORKERS) for _ in range(200)} == {"a-1", "a-2", "b-1", REGISTRY}


def test_without_workers_only_the_registry_is_killed() -> None:
    chaos = Chaos(1.0, seed=5)
    assert {chaos.victim([]) for _ in range(200)} == {None, REGISTRY}


def test_kills_that_come_faster_than_workers_start_are_warned_of() -> None:
    assert Chaos(0.1, seed=1).warning == (
        "one kill in 0.1 s, where a worker takes 0.25 s or more to start: the run may not get on at all; "
        "0.5 or more is hard enough on most pipelines"
    )
    assert Chaos(0.3, seed=1).warning == ""


def test_a_kill_is_due_once_in_each_interval() -> None:
    chaos = Chaos(0.5, seed=1)
    assert [chaos.due(now_s) for now_s in (10.0, 10.4, 10.5, 10.6, 11.0)] == [False, False, True, False, True]


def test_a_pause_is_followed_by_no_volley() -> None:
    chaos = Chaos(0.5, seed=1)
    assert [chaos.due(now_s) for now_s in (10.0, 60.0, 60.1, 60.7)] == [False, True, False, True]
