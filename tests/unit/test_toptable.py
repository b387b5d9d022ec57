"""The lines of `zpipe top` in terminals of several sizes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from zpipe.cli.toptable import COLUMNS_MIN, LINES_MIN, duration, lines, short_time, too_small

LINE = "transform is the bottleneck (busy 97 %); 2 more workers would move it to load and to one whose name is long"


def stage(name: str, **more: Any) -> dict[str, Any]:
    known = {
        "name": name, "role": "transform", "workers": 2, "wanted": 2, "rate": 1234.5, "busy": 0.7, "starved": 0.1,
        "blocked": 0.2, "queued": 17, "in_flight": 1024, "calls": 9, "p50_s": 0.00085, "p95_s": 0.0012, "p99_s": 2.34,
    }  # fmt: skip
    return {**known, **more}


def edge(above: str, below: str, **more: Any) -> dict[str, Any]:
    known = {
        "from": above, "to": below, "outputs": [""], "transports": ["ipc"], "rate": 1234.5, "bytes_s": 8.2e6,
        "queued": 17, "in_flight": 1024, "p50_s": 0.0041, "p95_s": 0.012,
    }  # fmt: skip
    return {**known, **more}


def look(*names: str, **more: Any) -> dict[str, Any]:
    names = names or ("load", "transform", "save")
    known = {
        "run": "toy", "state": "running", "age_s": 72.9, "span_s": 5.0, "registry_silent_s": 0.0, "settled": 1200,
        "made": 1300, "stages": [stage(name) for name in names],
        "edges": [edge(a, b) for a, b in pairwise(names)], "advice": {"line": LINE},
    }  # fmt: skip
    return {**known, **more}


def titles(found: list[str], first: str) -> list[str]:
    """Return the titles of a table's columns, where two blanks part them."""
    (line,) = [line for line in found if line.split()[:1] == [first]]
    return [title.strip() for title in line.split("  ") if title.strip()]


def test_with_room_enough_everything_is_shown() -> None:
    assert lines(look(), 160, None) == [
        "toy  running  1 min 12 s  settled 1,200 of 1,300 made",
        "",
        "stage            time  workers   in/s  busy %  starved %  blocked %  queued  in flight     p50     p95    p99",
        "load       ███████▒▒·        2  1,234      70         10         20      17      1,024  850 us  1.2 ms  2.3 s",
        "transform  ███████▒▒·        2  1,234      70         10         20      17      1,024  850 us  1.2 ms  2.3 s",
        "save       ███████▒▒·        2  1,234      70         10         20      17      1,024  850 us  1.2 ms  2.3 s",
        "",
        "edge               over  items/s  bytes/s  queued  in flight     p50    p95",
        "load -> transform   ipc    1,234   8.2 MB      17      1,024  4.1 ms  12 ms",
        "transform -> save   ipc    1,234   8.2 MB      17      1,024  4.1 ms  12 ms",
        "",
        LINE,
    ]


@pytest.mark.parametrize("columns", [*range(COLUMNS_MIN, 130), 200])
def test_no_line_is_wider_than_the_terminal_and_no_column_is_cut(columns: int) -> None:
    found = lines(look("load", "fit/lr=0.1,width=64,depth=12", "save"), columns, None)
    assert max(map(len, found)) <= columns
    assert {"workers", "in/s", "busy %", "queued"} <= set(titles(found, "stage"))
    assert {"items/s", "queued"} <= set(titles(found, "edge"))
    assert sum("1,234" in line for line in found) == 5


@pytest.mark.parametrize(
    ("columns", "stages", "edges"),
    [
        (60, ["workers", "in/s", "busy %", "queued", "p50", "p95"], ["items/s", "bytes/s", "queued", "p50"]),
        (80, ["workers", "in/s", "busy %", "starved %", "blocked %", "queued", "p50", "p95"],
         ["over", "items/s", "bytes/s", "queued", "in flight", "p50", "p95"]),
        (90, ["workers", "in/s", "busy %", "starved %", "blocked %", "queued", "p50", "p95", "p99"],
         ["over", "items/s", "bytes/s", "queued", "in flight", "p50", "p95"]),
    ],
)  # fmt: skip
def test_columns_are_left_out_from_the_least_important(columns: int, stages: list[str], edges: list[str]) -> None:
    found = lines(look(), columns, None)
    assert titles(found, "stage") == ["stage", *stages]
    assert titles(found, "edge") == ["edge", *edges]


def test_a_long_name_is_cut_before_a_number_is() -> None:
    found = lines(look("fit/lr=0.1,width=64,depth=12", "save"), COLUMNS_MIN, None)
    assert found[3].startswith("fit/lr=0.1") and "~ " in found[3]
    assert found[3].split()[1:4] == ["2", "1,234", "70"]


def test_advice_takes_two_lines_at_most() -> None:
    found = lines(look(advice={"line": LINE + " and more" * 20}), COLUMNS_MIN, None)
    assert found[-2].startswith("transform is the bottleneck") and found[-1].endswith(" ...")
    assert found[-3] == ""


@pytest.mark.parametrize("rows", range(LINES_MIN, 60))
def test_no_more_lines_than_the_terminal_has_are_shown(rows: int) -> None:
    names = [f"stage-{k}" for k in range(20)]
    found = lines(look(*names), 80, rows)
    assert len(found) <= rows
    assert found[0].startswith("toy  running") and found[-1] in LINE
    shown, edges = sum(line.startswith("stage-") for line in found), sum(" -> " in line for line in found)
    left = "" if shown - edges == 20 else f"and {20 - shown + edges} more stages"
    assert not left or left in found
    assert not edges or edges == 19 or f"and {19 - edges} more edges" in found


def test_where_not_all_has_room_edges_go_before_stages() -> None:
    found = lines(look(*(f"stage-{k}" for k in range(8))), 80, 18)
    rows = [line.split()[0] for line in found[:-2] if line.startswith(("stage-", "and "))]
    assert rows == [*(f"stage-{k}" for k in range(8)), "stage-0", "and"]
    assert "and 6 more edges" in found


def test_what_is_not_known_is_a_dash() -> None:
    unknown = dict.fromkeys(("rate", "busy", "starved", "blocked", "p50_s", "p95_s", "p99_s"))
    found = lines(look(stages=[stage("load", **unknown)], edges=[]), 160, None)
    assert found[3].split() == ["load", "-", "2", "-", "-", "-", "-", "17", "1,024", "-", "-", "-"]


def test_workers_that_are_missing_are_told() -> None:
    found = lines(look(stages=[stage("load", workers=1, wanted=3)], edges=[]), 160, None)
    assert "  1 of 3  " in found[3]


def test_a_silent_registry_is_told_with_the_last_table() -> None:
    found = lines(look(registry_silent_s=7.4), 100, 30)
    assert found[0].endswith("registry silent for 7 s")
    assert any(line.startswith("transform ") for line in found)


def test_an_edge_from_a_named_output_bears_its_name() -> None:
    edges = [edge("route", "spam", outputs=["bad"]), edge("route", "rest", outputs=["", "odd"])]
    found = lines(look(edges=edges), 160, None)
    assert [line.split("  ")[0] for line in found if " -> " in line] == ["route.bad -> spam", "route.odd -> rest"]


def test_where_there_are_no_blocks_bars_are_plain() -> None:
    found = lines(look(), 160, None, ascii_only=True)
    assert "#######==." in found[3]
    assert all(line.isascii() for line in found)


@pytest.mark.parametrize(
    ("columns", "rows", "line"),
    [
        (30, 40, "the terminal is 30 columns wide: zpipe top needs 60; make it wider, or zpipe top --json"),
        (80, 5, "the terminal is 5 lines high: zpipe top needs 8; make it higher, or zpipe top --json"),
        (60, 8, None),
    ],
)
def test_a_terminal_too_small_for_any_table_is_one_line(columns: int, rows: int, line: str | None) -> None:
    assert too_small(columns, rows) == line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"), (0.0, "0.0 us"), (7e-6, "7.0 us"), (0.000854, "850 us"), (0.000996, "1.0 ms"), (0.00123, "1.2 ms"),
        (0.4812, "480 ms"), (0.996, "1.0 s"), (9.96, "10 s"), (1234.0, "1,200 s"),
    ],
)  # fmt: skip
def test_times_have_two_digits_that_count(seconds: float | None, text: str) -> None:
    assert short_time(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0 s"), (59.9, "59 s"), (61.0, "1 min 1 s"), (3600.0 * 25 + 60, "25 h 1 min")]
)
def test_ages_are_told_in_the_units_that_matter(seconds: float, text: str) -> None:
    assert duration(seconds) == text
