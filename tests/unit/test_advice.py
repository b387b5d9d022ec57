"""Which stage is the bottleneck, by tables written by hand and by those of a live run of the toy."""

from __future__ import annotations

from typing import Any

import pytest

from zpipe.core.advice import Advice, Looks, advise

# Of a live run: load, transform and save take 0.5, 1 and 0.5 s.  A line is a table, the age of the run first: per
# worker the age of its beat, done, busy_s, starved_s, blocked_s, and how long its call has taken.
ONE = (
    (0.0,),
    (1.51, (0.32, 2, 1.0, 0.0, 0.01, None), (0.02, 0, 0.0, 0.34, 0.0, 0.82), (0.27, 0, 0.0, 0.91, 0.0, None)),
    (3.01, (0.92, 2, 1.0, 0.0, 0.51, 0.42), (0.54, 1, 1.0, 0.35, 0.0, 0.8), (0.76, 1, 0.5, 1.4, 0.0, None)),
    (4.52, (0.42, 4, 2.0, 0.0, 1.51, 0.42), (0.07, 3, 3.0, 0.35, 0.0, 0.77), (0.24, 3, 1.5, 2.4, 0.0, None)),
    (6.02, (0.87, 5, 2.5, 0.0, 2.01, 0.47), (0.73, 4, 4.0, 0.35, 0.0, 0.61), (0.03, 4, 2.0, 3.35, 0.0, 0.31)),
    (7.52, (0.11, 8, 4.0, 0.0, 3.21, None), (0.06, 6, 6.0, 0.35, 0.0, 0.78), (0.43, 5, 2.5, 3.85, 0.0, 0.41)),
    (9.02, (0.66, 9, 4.5, 0.0, 3.66, None), (0.52, 7, 7.0, 0.35, 0.0, 0.82), (0.13, 7, 3.5, 4.85, 0.0, 0.21)),
)
TWO = (
    (0.03,),
    (1.53, (0.2, 1, 0.5, 0.0, 0.0, 0.44), (0.35, 0, 0.0, 0.78, 0.0, None), (0.17, 0, 0.0, 0.51, 0.0, 0.47),
     (0.03, 0, 0.0, 1.15, 0.0, None)),
    (3.03, (0.64, 4, 2.0, 0.0, 0.0, None), (0.85, 0, 0.0, 1.03, 0.0, 0.79), (0.52, 1, 1.0, 0.51, 0.0, 0.62),
     (0.52, 1, 0.5, 1.57, 0.0, 0.12)),
    (4.54, (1.05, 6, 3.0, 0.0, 0.0, 0.09), (0.43, 2, 2.0, 1.03, 0.0, 0.71), (0.31, 3, 3.0, 0.51, 0.0, 0.33),
     (0.11, 5, 2.5, 1.57, 0.0, 0.03)),
    (6.04, (0.26, 10, 5.0, 0.0, 0.01, 0.38), (0.97, 3, 3.0, 1.03, 0.0, 0.67), (0.01, 5, 5.0, 0.51, 0.0, 0.13),
     (0.46, 7, 3.5, 1.57, 0.0, 0.18)),
    (7.54, (0.68, 12, 6.0, 0.0, 0.01, 0.46), (0.43, 5, 5.0, 1.03, 0.0, 0.71), (0.4, 6, 6.0, 0.51, 0.0, 0.24),
     (0.2, 10, 5.0, 1.57, 0.0, 0.44)),
    (9.05, (0.22, 16, 8.01, 0.0, 0.01, 0.42), (0.23, 7, 7.0, 1.03, 0.0, 0.41), (0.82, 7, 7.0, 0.51, 0.0, 0.33),
     (0.57, 13, 6.5, 1.57, 0.0, 0.08)),
)  # fmt: skip
CHAIN = ("load", "transform", "save")
MOVES = "transform is the bottleneck (busy 100 %); 1 more worker would move it to load and save"


def row(worker: str, inc: int = 0, **news: Any) -> dict[str, Any]:
    counters = {"done": 0, "dropped": 0, "dead": 0, "queued": 0, "busy_s": 0.0, "starved_s": 0.0, "blocked_s": 0.0}
    given = {key: news.pop(key) for key in (*counters, "cpu_s") if key in news}
    return {
        "worker": worker, "inc": inc or hash(worker), "stage": worker.rpartition("-")[0], "state": "live",
        "beat_age_s": 0.0, "running": None, "counters": {**counters, **given}, **news,
    }  # fmt: skip


def table(age_s: float, *rows: dict[str, Any], memory: str = "", worked: bool = True) -> dict[str, Any]:
    """A table of the chain; a stage named `memory` has one."""
    roles = dict(zip(CHAIN, ("source", "transform", "sink"), strict=True))
    done = {name: sum(r["counters"].get("done", 0) for r in rows if r["stage"] == name) for name in CHAIN}
    stages = [
        {
            "name": name, "role": roles[name], "reads": list(CHAIN[max(0, k - 1) : k]),
            "scales": name not in ("load", memory), "gate": False, "counters": {"done": done[name] or int(worked)},
        }
        for k, name in enumerate(CHAIN)
    ]  # fmt: skip
    return {"age_s": age_s, "stages": stages, "workers": list(rows)}


def recorded(line: tuple[Any, ...]) -> dict[str, Any]:
    """A table of the toy."""
    age_s, *workers = line
    names = ["load-1", *(f"transform-{n + 1}" for n in range(len(workers) - 2)), "save-1"][: len(workers)]
    rows = []
    for name, (beat_age_s, done, busy_s, starved_s, blocked_s, call_s) in zip(names, workers, strict=True):
        running = None if call_s is None else {"path": "load:3", "age_s": call_s}
        rows.append(
            row(name, beat_age_s=beat_age_s, done=done, busy_s=busy_s, starved_s=starved_s, blocked_s=blocked_s,
                running=running)
        )  # fmt: skip
    return table(age_s, *rows, worked=False)


def of_two_seconds(*, memory: str = "", **spent: Any) -> Advice:
    """What is said when workers did this within two seconds: per worker shares of busy and blocked time, and more."""
    before, after = [], []
    for stage, workers in spent.items():
        for n, (busy, blocked, *more) in enumerate(workers, 1):
            news: dict[str, Any] = more[0] if more else {}
            before.append(row(f"{stage}-{n}"))
            times = {"busy_s": 2 * busy, "blocked_s": 2 * blocked, "starved_s": 2 * (1 - busy - blocked)}
            after.append(row(f"{stage}-{n}", **{"done": 100, **times, **news}))
    return advise(table(5.0, *before, memory=memory), table(7.0, *after, memory=memory))


def test_of_the_toy_transform_is_the_bottleneck_and_wants_one_more_worker() -> None:
    looks = Looks()
    said = [looks.see(recorded(line)) for line in ONE]
    assert said[:2] == [None, None]  # nothing has been saved yet
    assert [advice.line for advice in said[3:] if advice] == [MOVES] * 4
    last = said[-1]
    assert last is not None
    assert (last.bottlenecks, last.more, last.next) == (("transform",), 1, ("load", "save"))
    assert last.stage("transform").rate == pytest.approx(1.0, abs=0.2)
    load = last.stage("load")
    assert (load.busy, load.blocked) == (pytest.approx(0.5, abs=0.05), pytest.approx(0.5, abs=0.05))


def test_of_the_toy_with_two_workers_in_the_middle_it_is_load_and_save() -> None:
    looks = Looks()
    said = [looks.see(recorded(line)) for line in TWO]
    assert [advice.bottlenecks for advice in said[3:] if advice] == [("load", "save")] * 4
    assert said[-1] is not None
    assert said[-1].line == (
        "load and save are the bottleneck (busy 100 % and 100 %): load is a source, whose workers are set before the "
        "run, and more workers of save alone change nothing"
    )


def test_a_call_under_way_is_busy_although_its_time_is_not_counted_yet() -> None:
    before = table(5.0, row("load-1"), row("transform-1"), row("save-1"))
    now = table(
        9.0, row("load-1", blocked_s=4.0), row("transform-1", running={"path": "load:1", "age_s": 4.0}),
        row("save-1", starved_s=4.0),
    )  # fmt: skip
    advice = advise(before, now)
    assert (advice.stage("transform").busy, advice.stage("transform").rate) == (1.0, 0.0)
    assert advice.line == "transform is the bottleneck (busy 100 %): more workers make the run faster"


def test_the_cores_that_a_stage_uses_are_those_of_all_its_workers() -> None:
    half = {"busy_s": 1.0, "starved_s": 1.0, "cpu_s": 1.0}
    before = table(5.0, *(row(name, cpu_s=0.0) for name in ("transform-1", "transform-2")), row("save-1"))
    now = table(7.0, *(row(name, **half) for name in ("transform-1", "transform-2")), row("save-1", starved_s=2.0))
    advice = advise(before, now)
    assert advice.stage("transform").cpu == pytest.approx(1.0)
    assert advice.stage("save").cpu == pytest.approx(1.0)  # it does not tell, so it may need a core


def test_shares_are_of_the_time_between_the_beats_of_each_worker() -> None:
    before = table(5.0, row("load-1", beat_age_s=0.9), row("transform-1"), row("save-1"))
    now = table(
        7.0, row("load-1", beat_age_s=0.1, busy_s=1.4, blocked_s=1.4, done=28), row("transform-1"), row("save-1")
    )
    load = advise(before, now).stage("load")
    assert (load.busy, load.blocked, load.rate) == (pytest.approx(0.5), pytest.approx(0.5), pytest.approx(10.0))


def test_who_came_between_the_tables_counts_from_its_first_moment() -> None:
    before = table(5.0, row("load-1"), row("transform-1"), row("transform-2", state="joining", counters={}))
    later = {"busy_s": 0.5, "starved_s": 0.5, "done": 5}
    now = table(9.0, row("load-1"), row("transform-1", busy_s=4.0, done=40), row("transform-2", **later))
    now["workers"].append(row("transform-3", **later))
    transform = advise(before, now).stage("transform")
    assert (transform.workers, transform.rate) == (3, pytest.approx(20.0))
    assert transform.busy == pytest.approx(5.0 / 6.0)


def test_a_registry_that_was_started_again_and_knows_no_counts_yet_says_nothing() -> None:
    away = table(5.0, *(row(f"{name}-1", state="away", counters={}) for name in CHAIN))
    now = table(6.0, *(row(f"{name}-1", busy_s=600.0, done=6000) for name in CHAIN))
    for before, after in ((away, now), (now, away)):
        advice = advise(before, after)
        assert [look.busy for look in advice.stages] == [0.0] * 3
        assert advice.line == "no stage is the bottleneck: none is busy for 20 % of its time"


def test_a_source_may_be_the_bottleneck() -> None:
    advice = of_two_seconds(load=[(1.0, 0.0)], transform=[(0.4, 0.0)], save=[(0.3, 0.0)])
    assert (advice.bottlenecks, advice.more) == (("load",), 0)
    line = "load is the bottleneck (busy 100 %): it is a source, whose workers are set before the run"
    assert advice.line == line


def test_a_stage_that_is_blocked_is_none() -> None:
    advice = of_two_seconds(load=[(0.1, 0.9)], transform=[(0.1, 0.9), (0.1, 0.9)], save=[(0.95, 0.0)])
    assert advice.bottlenecks == ("save",)


def test_a_stage_with_memory_cannot_be_scaled() -> None:
    advice = of_two_seconds(load=[(0.1, 0.9)], transform=[(0.5, 0.5)], save=[(1.0, 0.0)], memory="save")
    assert advice.line == "save is the bottleneck (busy 100 %): it has a memory, and so one worker"


def test_a_source_that_fills_the_queue_of_a_slower_stage_is_none() -> None:
    piles_up = {"done": 10, "queued": 80}
    advice = of_two_seconds(load=[(1.0, 0.0)], transform=[(1.0, 0.0, piles_up)], save=[(0.02, 0.0)])
    assert (advice.bottlenecks, advice.next) == (("transform",), ("load",))
    assert advice.stage("transform").queued == 80
    assert advice.more == 6  # load makes 90 and could make no more, one worker takes 10


@pytest.mark.parametrize(
    ("transform", "more"),
    [([(1.0, 0.0)], 4), ([(1.0, 0.0)] * 2, 7), ([(0.3, 0.0)] * 2, 1)],
)
def test_as_many_workers_are_wanted_as_the_next_stage_could_serve(
    transform: list[tuple[float, float]], more: int
) -> None:
    advice = of_two_seconds(load=[(0.2, 0.8)], transform=transform, save=[(0.2, 0.0)])
    assert (advice.bottlenecks, advice.more, advice.next) == (("transform",), more, ("load", "save"))


def test_stages_that_limit_alike_are_all_named() -> None:
    advice = of_two_seconds(load=[(0.3, 0.7)], transform=[(0.98, 0.0)], save=[(0.9, 0.0)])
    assert advice.line == (
        "transform and save are the bottleneck (busy 98 % and 90 %); 2 more workers each would move it to load"
    )


def test_one_that_leaves_is_no_worker_that_stays() -> None:
    advice = of_two_seconds(
        load=[(0.5, 0.5)], transform=[(1.0, 0.0), (1.0, 0.0, {"state": "drain"})], save=[(0.5, 0.0)]
    )
    assert advice.stage("transform").workers == 1


def test_the_window_forgets_what_is_old_and_another_run() -> None:
    looks = Looks(window_s=4.0)
    for k in range(20):
        rows = [row("load-1", busy_s=float(min(k, 10)), starved_s=float(max(0, k - 10)), done=k), row("transform-1")]
        advice = looks.see(table(10.0 + k, *rows, row("save-1")))
    assert advice is not None and advice.seconds == 4.0
    assert (advice.stage("load").busy, advice.stage("load").starved) == (0.0, 1.0)
    assert looks.see(table(1.0, row("load-1"))) is None
