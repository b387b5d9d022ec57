"""What is new in a table of the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zpipe.processes.runfolder import RunFolder
from zpipe.processes.watch import Watch


@pytest.fixture
def watch() -> Watch:
    """A watch of a run that has started clean-1 itself."""
    return Watch({"clean-1"}, RunFolder(Path("/runs/t")))


def row(worker: str, inc: int, state: str = "live", **more: Any) -> dict[str, Any]:
    stage = worker.rpartition("-")[0]
    return {
        "worker": worker, "inc": inc, "stage": stage, "state": state, "pid": 100 + inc, "host": "h", "running": None,
        "counters": {}, **more,
    }  # fmt: skip


def table(*rows: dict[str, Any], wanted: int | None = None, pinned: bool = True) -> dict[str, Any]:
    stage = {"name": "clean", "wanted": wanted, "pinned": pinned, "workers": 2}
    return {"stages": [stage], "workers": rows}


def seen(watch: Watch, *rows: dict[str, Any]) -> list[tuple[str, str]]:
    return [(event.kind, event.worker) for event in watch.see(table(*rows))]


def test_a_worker_joins_when_it_is_live_and_once(watch: Watch) -> None:
    assert seen(watch, row("clean-1", 1, "joining")) == []
    assert seen(watch, row("clean-1", 1)) == [("joined", "clean-1")]
    for state in ("live", "suspect", "away", "live"):
        assert seen(watch, row("clean-1", 1, state)) == []


def test_a_worker_that_was_told_to_drain_before_it_was_seen_has_joined(watch: Watch) -> None:
    assert seen(watch, row("clean-1", 1, "drain")) == [("joined", "clean-1"), ("draining", "clean-1")]


def test_that_a_worker_is_to_leave_is_told_once_each_time(watch: Watch) -> None:
    seen(watch, row("clean-1", 1))
    assert seen(watch, row("clean-1", 1, "drain")) == [("draining", "clean-1")]
    for state in ("drain", "suspect", "drain", "live"):
        assert seen(watch, row("clean-1", 1, state)) == []
    assert seen(watch, row("clean-1", 1, "drain")) == [("draining", "clean-1")]


def test_that_a_stage_is_scaled_is_told_once_each_time(watch: Watch) -> None:
    texts = [event.text for n in (None, 4, 4, 1, 4) for event in watch.see(table(wanted=n))]
    assert texts == [
        "clean: 2 -> 4 workers: by hand",
        "clean: 4 -> 1 worker: by hand",
        "clean: 1 -> 4 workers: by hand",
    ]


def test_what_a_stage_finds_by_itself_is_not_by_hand(watch: Watch) -> None:
    told = [event.text for event in watch.see(table(wanted=3, pinned=False))]
    assert told + [event.text for event in watch.see(table(wanted=1))] == ["clean: 3 -> 1 worker: by hand"]


def test_a_next_life_joins_too(watch: Watch) -> None:
    seen(watch, row("clean-1", 1))
    assert seen(watch, row("clean-1", 2)) == [("joined", "clean-1")]


def test_of_workers_started_elsewhere_it_is_told_that_they_left(watch: Watch) -> None:
    seen(watch, row("clean-1", 1), row("fit/lr=0.1-2", 2))
    assert seen(watch) == [("left", "fit/lr=0.1-2")]
    assert seen(watch) == []


def test_one_that_never_joined_does_not_leave(watch: Watch) -> None:
    seen(watch, row("clean-2", 2, "joining"))
    assert seen(watch) == []


def test_an_event_tells_what_the_table_does(watch: Watch) -> None:
    [joined] = watch.see(table(row("fit/lr=0.1-2", 2)))
    [left] = watch.see(table())
    assert (joined.stage, joined.text, joined.data) == ("fit/lr=0.1", "fit/lr=0.1-2 joined", {"pid": 102, "host": "h"})
    assert (left.stage, left.text, left.data) == ("fit/lr=0.1", "fit/lr=0.1-2 left", {"status": None})


def test_a_long_call_is_one_warning(watch: Watch) -> None:
    def calls(path: str, age_s: float) -> list[str]:
        running = {"path": path, "age_s": age_s}
        return [e.text for e in watch.see(table(row("clean-1", 1, running=running))) if e.kind == "warning"]

    assert calls("crops:3", 30.0) == []
    assert calls("crops:3", 31.0) == ["clean-1 has been running crops:3 for 31 s"]
    assert calls("crops:3", 32.0) == []
    assert calls("crops:4", 33.0) == ["clean-1 has been running crops:4 for 33 s"]


def test_a_worker_out_of_reach_is_one_warning_that_says_where_to_look(watch: Watch) -> None:
    rows = [row(worker, inc, counters={"unreached": 1}) for inc, worker in enumerate(("clean-1", "clean-2"))]
    texts = [event.text for _ in range(2) for event in watch.see(table(*rows)) if event.kind == "warning"]
    assert texts == [
        "clean-1 cannot reach a worker beside it: /runs/t/logs/clean-1.log says which, and why",
        "clean-2 cannot reach a worker beside it: its output says which, and why",
    ]


def test_a_worker_without_room_in_shared_memory_is_one_warning(watch: Watch) -> None:
    rows = [row("clean-1", 1, counters={"unshared": n}) for n in (0, 1, 9)]
    texts = [event.text for one in rows for event in watch.see(table(one)) if event.kind == "warning"]
    assert texts == [
        "clean-1 has no more room in shared memory, and copies arrays: /runs/t/logs/clean-1.log says who keeps it"
    ]


def test_who_waits_for_room_is_told_once_and_that_it_goes_on(watch: Watch) -> None:
    full = row("clean-1", 1, waits="cannot write x: No space left on device")
    seen(watch, row("clean-1", 1), row("clean-2", 2))
    texts = [
        [event.text for event in watch.see({**table(*rows), "waits": registry})]
        for rows, registry in (
            ((full, row("clean-2", 2, waits="")), ""),
            ((full, row("clean-2", 2)), "cannot write run.db"),
            ((full, row("clean-2", 2)), "cannot write run.db"),
            ((row("clean-1", 1, waits=""), row("clean-2", 2)), ""),
            ((full,), ""),
        )
    ]
    assert texts[:4] == [
        ["clean-1 waits: cannot write x: No space left on device"],
        ["registry waits: cannot write run.db"],
        [],
        ["clean-1 goes on", "registry goes on"],
    ]
    assert texts[4][0] == "clean-1 waits: cannot write x: No space left on device"
