"""The benchmark of tests/bench: its workloads, and what its report makes of rows; nothing is timed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.bench import __main__ as program
from tests.bench import report
from tests.bench.figures import FIGURES, GOALS
from tests.bench.halves import RELEASE, SINKS, STRUCK, ExactSink, Task, items
from tests.bench.pipelines import pipeline
from tests.bench.ways import BASE, INSIDE, WAYS
from tests.bench.workloads import LOADS, PACED, STREAM, WORK, burn
from tests.real import ROOT

FIGURE = {figure.title: figure for figure in FIGURES}


def row(load, way, base=BASE, *, number=0, kill=False, **numbers):
    return {
        "round": number, "load": load, "way": way, "base": base, "kill": kill, "numbers": numbers, "others": 0.0,
    }  # fmt: skip


def task_of(load, folder, *, count=8, kill=False):
    return Task(load, count, 3, str(folder), kill)


@pytest.mark.parametrize("kill", [False, True])
@pytest.mark.parametrize("load", LOADS)
def test_the_pipeline_of_every_workload_passes_the_check(load, kill, tmp_path):
    pipeline(task_of(load, tmp_path, kill=kill)).check()


def test_a_pipeline_of_blocks_passes_the_check(tmp_path):
    made = pipeline(task_of("W1", tmp_path), blocks=True)
    made.check()
    assert [stage.options.batch_size for stage in made.stages] == [None, 4096, 4096]


@pytest.mark.parametrize("load", [name for name, load in LOADS.items() if load.kind == STREAM])
def test_the_check_of_a_stream_is_what_its_sink_adds_up(load, tmp_path):
    task = task_of(load, tmp_path)
    sink = SINKS[STREAM](task.to_dict())
    for item in items(task):
        sink(item)
    left = task.left("sink-0")
    assert sink.over
    assert (left["count"], left["check"], left["items"]) == (task.of.total, task.of.check(3), 8)


def test_fillers_come_first_and_do_not_count(tmp_path):
    task = replace(task_of("W6", tmp_path), count=2)
    sink = SINKS[PACED](task.to_dict())
    seen = 0
    for item in items(task):
        sink(item)
        seen += 1
    assert seen == LOADS["W6"].warm + 2
    assert (task.left("sink-0")["count"], task.left("sink-0")["check"]) == (2, task.of.check(3))


def test_one_item_in_a_hundred_is_heavy_and_the_seed_places_it():
    load = LOADS["W8"]
    costs = [[int(item[0]) for item in load.work(seed)] for seed in (1, 1, 2)]
    assert costs[0] == costs[1] != costs[2]
    assert [sorted(set(each)) for each in costs] == [[1, 100]] * 3
    assert [each.count(100) for each in costs] == [6] * 3


def test_the_check_of_work_is_what_its_results_add_up_to():
    load = LOADS["W4x1"].of(3)
    assert load.check(0) == sum(load.probe(burn(item)) for item in load.work(0))


def test_where_one_is_killed_every_life_makes_the_same_items(tmp_path):
    task = task_of("W1", tmp_path, kill=True)
    task.touch(STRUCK)
    lives = [[item.tobytes() for item in items(task)] for _ in range(2)]
    assert lives[0] == lives[1]
    assert len(lives[0]) == 8


def test_what_is_restored_goes_on_counting(tmp_path):
    task = task_of("W1", tmp_path, kill=True)
    task.touch(STRUCK)
    made = list(items(task))
    first, second = ExactSink(task.to_dict()), ExactSink(task.to_dict())
    for item in made[:5]:
        first(item)
    second.restore(first.state())
    for item in made[5:]:
        second(item)
    second.finish()
    assert task.left("sink-0") == {"count": 8, "check": task.of.check_of_first(8)}


def test_the_last_of_those_that_keep_it_going_finds_the_sink_released(tmp_path):
    task = task_of("W7", tmp_path)
    task.touch(RELEASE)
    sink = SINKS[task.of.kind](task.to_dict())
    for item in items(task):
        sink(item)
    assert sink.over


def test_joining_can_be_switched_off_from_outside():
    env = {**os.environ, "PYTHONPATH": f"{INSIDE}:{ROOT}", "BENCH_FRAME_ITEMS": "1"}
    code = "from zpipe.core.limits import Limits; print(Limits().frame_items, Limits().frame_bytes)"
    argv = [sys.executable, "-c", code, "zpipe.processes.worker"]
    assert subprocess.run(argv, env=env, capture_output=True, text=True).stdout.split() == ["1", "524288"]


def test_ratios_are_taken_within_a_round():
    rows = [row("W3", way, number=k, items_s=value)
            for k, pair in enumerate([(10, 20), (1000, 3000)])
            for way, value in zip((BASE, "zpipe"), pair, strict=True)]  # fmt: skip
    assert report.ratios(rows, FIGURE["W3 items/s"], "zpipe") == [2, 3]
    assert report.ratios(rows, FIGURE["W3 items/s"], BASE) == []


def test_a_round_without_the_base_and_one_with_a_kill_have_no_ratio():
    rows = [row("W3", BASE, items_s=1), row("W3", "zpipe", items_s=2), row("W3", "zpipe", number=1, items_s=9),
            row("W3", "zpipe", kill=True, killed="source 0")]  # fmt: skip
    assert report.ratios(rows, FIGURE["W3 items/s"], "zpipe") == [2]


def test_over_tcp_it_is_put_beside_tcp():
    rows = [row("W2", BASE, gb_s=1), row("W2", "PUSH/PULL-tcp", "PUSH/PULL-tcp", gb_s=4),
            row("W2", "zpipe-tcp", "PUSH/PULL-tcp", gb_s=3)]  # fmt: skip
    assert report.ratios(rows, FIGURE["W2 GB/s"], "zpipe-tcp") == [0.75]


def test_two_workers_are_put_beside_one_and_beside_half_of_the_loop():
    rows = [row("W4x1", "zpipe", seconds=8.0), row("W4x2", "zpipe", seconds=5.0), row("W4x2", "serial", seconds=8.0)]
    assert report.ratios(rows, FIGURE["W4x2 s, scaling"], "zpipe") == [0.8]
    assert report.ratios(rows, FIGURE["W4x2 s, of ideal"], "zpipe") == [1.25]


def test_the_interval_holds_the_median_and_is_the_same_each_time():
    values = [1.0, 1.1, 1.2, 1.3, 9.0]
    low, high = report.interval(values)
    assert 1.0 <= low < 1.2 < high <= 9.0
    assert report.interval(values) == (low, high)
    assert report.interval([2.0]) == (2.0, 2.0)


@pytest.mark.parametrize(
    ("title", "way", "values", "said"),
    [
        ("W2 GB/s", "zpipe", [8, 8, 9], ">= 9: met"),
        ("W2 GB/s", "zpipe", [8, 8, 8.9], ">= 9: missed"),
        ("W6 p50 us", "zpipe", [1.06], "<= 1.05: missed"),
        ("W7 s to the first item", "zpipe", [0.5], "<= 0.6: met, <= 0.25: missed"),
        ("W8 s, of ideal", "zpipe", [1.0, 1.0, 1.2], "<= 1.05: met, worst <= 1.1: missed"),
        ("W2 GB/s", "mp.Queue", [1], ""),
        ("W2 GB/s", "zpipe", [], ""),
    ],
)
def test_a_goal_is_met_or_missed(title, way, values, said):
    assert report.verdict(FIGURE[title], way, values) == said


def test_every_goal_is_of_a_figure_and_a_way():
    assert {title for title, _ in GOALS} <= FIGURE.keys()
    assert {way for _, way in GOALS} <= WAYS.keys()


def test_what_is_worse_by_more_than_the_noise_is_named():
    before = [row("W3", BASE, items_s=1), row("W3", "zpipe", items_s=4), row("W6", BASE, p50_us=1.0, p99_us=1.0),
              row("W6", "zpipe", p50_us=1.0, p99_us=1.0)]  # fmt: skip
    now = [row("W3", BASE, items_s=1), row("W3", "zpipe", items_s=3), row("W6", BASE, p50_us=1.0, p99_us=1.0),
           row("W6", "zpipe", p50_us=1.1, p99_us=2.0)]  # fmt: skip
    assert report.regressions(now, before) == [
        "zpipe at W3 items/s: 3.00, was 4.00 (-25 %)",
        "zpipe at W6 p99 us: 2.00, was 1.00 (+100 %)",
    ]
    assert report.regressions(before, now) == []


def test_the_table_has_a_line_for_each_figure_and_way():
    rows = [row("W3", BASE, items_s=1000.0), row("W3", "zpipe", items_s=6000.0)]
    assert report.table(rows).splitlines()[2:] == [
        "| W3 items/s | PUSH/PULL | 1,000 |  |  | 0.0 | 1 |",
        "| W3 items/s | zpipe | 6,000 | 6.00 (6.00..6.00) | >= 5: met | 0.0 | 1 |",
    ]


def test_a_round_has_each_load_by_all_its_ways_and_the_kill_in_every_fifth():
    loads, ways = program.selected(["W2", "W6"]), [WAYS["zpipe"], WAYS["zpipe-tcp"]]
    plans = [
        [(load.name, way.name, kill) for load, way, kill in program.plan(number, loads, ways, kill=True)]
        for number in (0, 1)
    ]
    plain = [("W2", "zpipe", False), ("W2", "zpipe-tcp", False), ("W6", "zpipe", False)]
    assert plans[1] == plain
    assert plans[0] == [*plain[:2], ("W2", "zpipe", True), plain[2]]


def test_a_load_is_chosen_with_its_variants():
    assert [load.name for load in program.selected(["W1", "W4x2"])] == ["W1", "W1-bytes", "W4x2"]
    assert [load.name for load in LOADS.values() if load.kind == WORK] == ["W4x1", "W4x2", "W8"]
