"""What a registry may begin with: rows that it has stored itself, and no others."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.test_registry import Bench, make_plan
from zpipe.core.storedcheck import check_rows

LIFE = {"stage": 1, "slot": 0, "fence": 1, "pid": 4, "host": "h", "supervisor": None}


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("run", "state", "asleep"),
        ("run", "started_s", {}),
        ("run", "error", {"worker": ""}),
        ("watermark", "0", [5, 0]),
        ("watermark", "7", [5, 0, 0]),
        ("complete", "7", True),
        ("reach", "0", -1),
        ("worker", "one", LIFE),
        ("worker", "1", {**LIFE, "stage": 9}),
        ("worker", "1", {**LIFE, "host": 5}),
        ("worker", "1", 5),
        ("fence", "1", 2),
        ("fence", "1:0", "2"),
        ("drain", "9:0", True),
        ("wanted", "1", "many"),
        ("pinned", "clean", True),
        ("sums", "1", {"done": []}),
        ("sums", "1", {"done": float("nan")}),
        ("sums", "1", 3),
        ("fence", None, 1),
        (b"fence", "1:0", 1),
    ],
)
def test_what_no_registry_has_stored_is_refused(kind: Any, key: Any, value: Any) -> None:
    with pytest.raises(ValueError):
        check_rows([(kind, key, value)], make_plan())


def test_what_a_registry_stores_is_what_it_may_begin_with() -> None:
    bench = Bench()
    bench.starts_workers = True
    bench.restart()
    hello = {"t": "HELLO", "inc": 5, "proto": [1, 0], "stage": "crops", "slot": 0, "pid": 1, "host": "h"}
    sources = {0: [3, 0, 0, True, 4]}
    for message in (
        hello,
        {"t": "BEAT", "inc": 5, "ver": 0, "state": "live", "counters": {"done": 3, "busy_s": 0.5}, "sources": sources},
        {**hello, "inc": 6, "stage": "clean"},
        {"t": "SCALE", "stage": "clean", "workers": 2},
        {"t": "DIED", "inc": 5, "reach": {0: 9}},
        {"t": "STOP"},
        {"t": "FAIL", "why": "so"},
    ):
        bench.take(bench.registry.step(bench.now_s, b"a", {"rid": 1, **message}))
    rows = [(*key, value) for key, value in bench.rows.items()]
    assert {kind for kind, _, _ in rows} >= {"run", "watermark", "complete", "reach", "worker", "fence", "sums"}
    check_rows(rows, make_plan())


def test_kinds_of_others_are_let_through() -> None:
    check_rows([("letters", "7", {"any": "thing"})], make_plan())
