"""Sources that yield arrays of items, and stages whose blocks are arrays: inline, over sockets, and under kills."""

from __future__ import annotations

import json

import pytest

from tests.integration.test_runs import balanced, both
from tests.real import Place, lines

STACKED = """
[stage.table]
run = "stages:table"
args = { count = 300, by = 7 }
stacked = true
[stage.sums]
run = "stages:sum_of_rows"
from = "table"
batch_size = 16
stacked = true
workers = 2
[stage.beside]
run = "stages:beside"
join = ["table", "sums"]
batch_size = 8
stacked = true
"""
OUT = """
[stage.out]
run = "zpipe.sinks:jsonl"
from = "{}"
args = {{ path = "out.jsonl" }}
ordered = true
"""
STACKED += OUT.format("beside")


def meant(count: int) -> list[list[int]]:
    return [[n, n * n, n + n * n] for n in range(count)]


@pytest.mark.parametrize("how", ["", '\nreplay = "seek"'])
def test_rows_are_items_and_blocks_are_arrays(place: Place, how: str) -> None:
    folder = both(place, STACKED.replace("stacked = true", f"stacked = true{how}", 1))
    assert lines(folder / "out.jsonl") == meant(300)


@pytest.mark.parametrize("replay", ["skip", "seek"])
def test_stacked_stages_are_exact_under_kills(place: Place, replay: str) -> None:
    stages = STACKED.replace("count = 300", "count = 3000, slow_s = 0.004")
    done = place.run("run", place.pipeline(stages), "--chaos", "0.2", "--seed", "4", "--set", f"table.replay={replay}")
    assert done.code == 0, done.err
    assert lines(done.folder / "out.jsonl") == meant(3000)
    assert sum(json.loads((done.folder / "report.json").read_text())["kills"].values()) > 0
    balanced(done.folder)


def test_a_limit_counts_rows(place: Place) -> None:
    done = place.run("run", place.pipeline(STACKED), "--limit", "10")
    assert done.code == 0, done.err
    assert lines(done.folder / "out.jsonl") == meant(10)


def test_each_epoch_begins_with_the_first_row(place: Place) -> None:
    stages = STACKED[: STACKED.index("[stage.sums]")] + OUT.format("table")
    done = place.run("run", place.pipeline(stages), "--set", "table.epochs=2", "--set", "table.args.count=20")
    assert done.code == 0, done.err
    assert lines(done.folder / "out.jsonl") == [row[:2] for row in meant(20)] * 2


@pytest.mark.parametrize("how", [(), ("--inline",)])
def test_what_cannot_be_stacked_says_so(place: Place, how: tuple[str, ...]) -> None:
    stages = STACKED.replace("stages:table", "stages:numbers").replace(", by = 7", "")
    done = place.run("run", place.pipeline(stages), *how)
    assert done.code == 1
    said = "stage 'table' at table:0: is stacked and yielded a int: yield arrays (n, ...) of n items"
    assert said in done.err, done.err
