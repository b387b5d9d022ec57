"""What the registry makes of items that were running when a worker died."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.test_registry import CLEAN, Bench, make_plan


def bench(**options: Any) -> Bench:
    plan = make_plan()
    stages = [replace(stage, **options) if stage.number == CLEAN else stage for stage in plan.stages]
    bench = Bench(replace(plan, stages=tuple(stages)))
    bench.join("crops", 1)
    return bench


def die(bench: Bench, inc: int, *blame: list[Any], how: str = "killed by SIGSEGV\nlast words") -> None:
    bench.join("clean", inc)
    bench.say({"t": "DIED", "inc": inc, "blame": list(blame), "how": how})


def suspects(bench: Bench, inc: int = 99) -> list[Any]:
    if inc not in bench.registry.members.living:
        bench.join("clean", inc)
    return list(bench.beat(inc)["suspects"])


def test_the_stage_is_told_of_what_a_worker_died_of() -> None:
    table = bench(on_error="dead-letter")
    table.join("clean", 99)
    die(table, 5, ["crops:7", 1])
    assert table.told()[99]["suspects"] == [["crops:7", 1, "killed by SIGSEGV\nlast words"]]
    die(table, 6, ["crops:7", 1], how="exited 9")
    assert table.hello("clean", 100)["suspects"] == [["crops:7", 2, "exited 9"]]
    assert table.beat(1)["suspects"] == []  # it is none of the source's business


def test_of_items_that_ran_together_none_is_counted_against() -> None:
    table = bench(on_error="dead-letter")
    die(table, 5, ["crops:7.8", 3], ["crops:4#ab", 1])
    assert suspects(table) == [["crops:7.8", 0, ""], ["crops:7.9", 0, ""], ["crops:7.10", 0, ""], ["crops:4#ab", 0, ""]]
    die(table, 6, ["crops:7.9", 1])
    assert ["crops:7.9", 1, "killed by SIGSEGV\nlast words"] in suspects(table)


def test_one_that_did_no_harm_is_forgotten() -> None:
    table = bench(on_error="dead-letter")
    die(table, 5, ["crops:7", 1])
    die(table, 6, ["crops:8", 1])
    table.join("clean", 99)
    table.beat(99, resolved=["crops:7", "crops:1000"])
    assert [row[0] for row in suspects(table)] == ["crops:8"]


def test_a_restarted_registry_knows_them_still() -> None:
    table = bench(on_error="dead-letter")
    die(table, 5, ["crops:7", 1])
    table.restart()
    die(table, 6, ["crops:7", 1])
    assert [row[:2] for row in suspects(table)] == [["crops:7", 2]]


@pytest.mark.parametrize(("retries", "deaths"), [(None, 4), (0, 1), (2, 3)])
def test_a_stage_that_is_to_stop_ends_the_run_after_its_retries(retries: int | None, deaths: int) -> None:
    table = bench(retries=retries)
    for k in range(deaths):
        assert table.table()["state"] == "running"
        die(table, 5 + k, ["crops:7", 1])
    found = table.table()
    times = f"{deaths} times" if deaths > 1 else "once"
    assert found["state"] == "failing"
    assert found["error"] == (
        f"stage 'clean' at crops:7: its worker died {times} while running it, the last time: killed by SIGSEGV: "
        'mend its code, or set on_error = "dead-letter" to go on without such items'
    )
    assert found["detail"] == "last words"


def test_a_death_that_the_registry_has_seen_itself_still_counts() -> None:
    table = bench(on_error="dead-letter")
    table.join("clean", 5)
    table.tick(after_s=5.0)
    table.beat(1)
    table.tick(after_s=6.0)  # 5 is silent for too long
    table.say({"t": "DIED", "inc": 5, "blame": [["crops:7", 1]], "how": "took too long"})
    assert suspects(table) == [["crops:7", 1, "took too long"]]


@pytest.mark.parametrize(
    "blame", [7, "crops:7", [["crops:7"]], [["crops:7", 0]], [[7, 1]], [["a:1", 4000], ["b:1", 97]]]
)
def test_a_blame_that_is_none_is_refused(blame: Any) -> None:
    table = bench()
    table.join("clean", 5)
    assert table.say({"t": "DIED", "inc": 5, "blame": blame})["code"] == 400
    assert 5 in table.registry.members.living


def test_no_more_are_remembered_than_a_bound() -> None:
    table = bench(on_error="dead-letter")
    die(table, 5, ["crops:0", 4096])
    found = suspects(table)
    assert (len(found), found[-1][0]) == (1000, "crops:4095")
