"""How items are written for people, and that it stays short."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from zpipe.processes.shown import as_json, as_text

ROW = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "name": "row 3"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (2.5, "2.5"),
        (None, "None"),
        (True, "True"),
        ("a\n\x1b[2J", r"'a\n\x1b[2J'"),
        (b"\x00a", r"b'\x00a'"),
        ("z" * 100, f"'{'z' * 80}'... 100 long"),
        ([1, "b"], "[1, 'b']"),
        (list(range(1000)), "[0, 1, 2, 3, 4, 5, ... 994 more]"),
        (ROW, "{'x': float32 (2, 3) 0..5 [0 1 2 3 ...], 'name': 'row 3'}"),
        (np.float32(1) / 3, "0.333333"),
        (np.array(7), "7"),
        (np.zeros((0, 3), np.int16), "int16 (0, 3) []"),
        (np.array([1.5, np.nan]), "float64 (2,) NaN..NaN [1.5 NaN]"),
        (np.array([1j]), "complex128 (1,) [1j]"),
        (np.array(["2026-01-02"], "M8[D]"), "datetime64[D] (1,) 2026-01-02..2026-01-02 [2026-01-02]"),
        (np.full((600, 1000), 2, np.uint8), "uint8 (600, 1000) about 2..2 [2 2 2 2 ...]"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        ({(1, 2): []}, "{[... 2 more]: []}"),
    ],
)
def test_an_item_is_one_line(value: Any, text: str) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (ROW, {"x": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], "name": "row 3"}),
        ([1, (2.5, None)], [1, [2.5, None]]),
        (float("inf"), "Infinity"),
        (np.array([np.nan, 1]), ["NaN", 1.0]),
        (b"\x00\xff", {"hex": "00ff", "length": 2}),
        ("z" * 10_001, {"text": "z" * 10_000, "length": 10_001}),
        (
            np.arange(3000, dtype=np.int32),
            {"dtype": "int32", "shape": [3000], "min": 0, "max": 2999, "first": [0, 1, 2, 3, 4, 5, 6, 7]},
        ),
        (list(range(5000)), {"first": list(range(1999)), "length": 5000}),
        (np.array(["2026-01-02"], "M8[D]"), ["2026-01-02"]),
        ({1: {"a": np.int8(4)}}, {"1": {"a": 4}}),
    ],
)
def test_an_item_is_json(value: Any, found: Any) -> None:
    assert as_json(value) == found
    json.dumps(found, allow_nan=False)


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 1


@pytest.mark.parametrize(
    "value",
    [
        [["word" * 1000] * 1000] * 1000,
        {f"{k}" * 1000: "v" * 100_000 for k in range(3000)},
        [np.ones(900)] * 1000,
        nested(900),
        "z" * 10**7,
        np.ones(10**7),
    ],
)
def test_what_is_shown_is_bounded(value: Any) -> None:
    assert len(as_text(value)) < 6000
    assert len(json.dumps(as_json(value))) < 2**20


def test_an_empty_array_of_many_rows_is_not_taken_apart() -> None:
    rows = np.zeros((2**40, 0), np.float32)
    shown = {"dtype": "float32", "shape": [2**40, 0], "min": None, "max": None, "first": []}
    assert as_json(rows) == shown
    assert as_json(np.zeros((2, 0), np.float32)) == [[], []]


def test_moments_without_a_unit_are_shown() -> None:
    moments = np.array([3, 7], "i8").view("M8")
    assert as_text(moments) == "datetime64 (2,) 3 of no unit..7 of no unit [None None]"
