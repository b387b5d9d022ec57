"""Runs made short: `--limit` and `--until`, inline and for real, and with kills."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.integration.test_runs import balanced, chain
from tests.real import Bell, Place, lines, rows, wait_until

TOLD = """
import zpipe as zp

def tells(count=1000, start=0):
    for k in range(start, count):
        with open(zp.run_folder() / "asked.txt", "a") as file:
            file.write(f"{k}\\n")
        yield k
"""


def to_table(stages: str) -> str:
    """Let the last stage write a table instead, which has the path of each item."""
    return stages.replace("sinks:jsonl", "sinks:sqlite").replace("out.jsonl", "out.db").replace("ordered = true", "")


def parts(place: Place, *, replay: str, limit: int) -> dict[str, list[int]]:
    """Return what each of three partitions makes in each of two epochs, inline and for real."""
    stages = chain("numbers", "out", numbers=f'partitions = 3\nepochs = 2\nreplay = "{replay}"')
    pipeline = place.pipeline(to_table(stages))
    made = []
    for argv in (["--inline"], []):
        done = place.run("run", pipeline, "--limit", str(limit), *argv)
        assert done.code == 0, done.err
        made.append(rows(done.folder / "out.db"))
    assert made[0] == made[1]
    found: dict[str, list[int]] = {}
    for path, item in made[1]:
        found.setdefault(path.partition(":")[0], []).append(item)
    return found


@pytest.mark.parametrize("replay", ["skip", "seek"])
def test_a_limit_is_shared_by_the_partitions_and_holds_for_each_epoch(place: Place, replay: str) -> None:
    assert parts(place, replay=replay, limit=8) == {
        "numbers[0]": [0, 1, 2, 0, 1, 2],
        "numbers[1]": [0, 1, 2, 0, 1, 2],
        "numbers[2]": [0, 1, 0, 1],
    }


def test_partitions_may_be_left_with_nothing(place: Place) -> None:
    assert parts(place, replay="skip", limit=1) == {"numbers[0]": [0, 0]}


def test_a_limit_above_what_a_source_has_changes_nothing(place: Place) -> None:
    done = place.run("run", place.pipeline(chain("numbers", "out")), "--limit", "11", "--inline")
    assert lines(done.folder / "out.jsonl") == list(range(10))


def test_nothing_is_asked_of_a_source_beyond_its_limit(place: Place) -> None:
    (place.folder / "told.py").write_text(TOLD)
    pipeline = place.pipeline(chain("tells", "out").replace("stages:tells", "told:tells"))
    for argv in (["--inline"], []):
        done = place.run("run", pipeline, "--limit", "3", *argv)
        assert lines(done.folder / "out.jsonl") == [0, 1, 2]
        assert (done.folder / "asked.txt").read_text() == "0\n1\n2\n"


def test_every_source_has_the_limit_of_its_own(place: Place) -> None:
    stages = chain("numbers", "out").replace('from = "numbers"', 'from = ["numbers", "once"]')
    done = place.run("run", place.pipeline(stages + '[stage.once]\nrun = "stages:once"\n'), "--limit", "2")
    assert sorted(lines(done.folder / "out.jsonl")) == [0, 0, 1, 1]


def report_of(folder: Path) -> list[tuple[str, int, int]]:
    report = json.loads((folder / "report.json").read_text())
    return [(stage["name"], stage["in"], stage["out"]) for stage in report["stages"]]


@pytest.mark.parametrize(
    ("until", "report"),
    [
        ("numbers", [("numbers", 10)]),
        ("double", [("numbers", 10), ("double", 10)]),
        ("batch", [("numbers", 10), ("double", 10), ("batch", 10)]),
        ("thrice", [("numbers", 10), ("thrice", 10)]),
        ("sum", [("numbers", 10), ("double", 10), ("batch", 10), ("unbatch", 3), ("sum", 10)]),
    ],
)
def test_a_run_may_end_with_any_stage(place: Place, until: str, report: list[tuple[str, int]]) -> None:
    stages = chain("numbers", "double", "batch", "unbatch", "Sum", "out", batch="args = { size = 4 }")
    stages += '[stage.thrice]\nrun = "stages:thrice"\nfrom = "numbers"\n'
    for argv in (["--inline"], []):
        done = place.run("run", place.pipeline(stages), "--until", until, *argv)
        assert done.code == 0, done.err
        found = report_of(done.folder)
        assert [(name, taken) for name, taken, _ in found] == report
        assert found[-1][2] == 0  # nobody reads it
        assert not (done.folder / "out.jsonl").exists()
        balanced(done.folder)


def test_what_is_set_below_the_cut_is_no_fault(place: Place) -> None:
    pipeline = place.pipeline(chain("numbers", "double", "out"))
    done = place.run("run", pipeline, "--until", "double", "--set", "out.path=x.jsonl", "--limit", "4")
    assert done.code == 0, done.err
    assert [taken for _, taken, _ in report_of(done.folder)] == [4, 4]
    meta = json.loads((done.folder / "meta.json").read_text())
    assert (meta["limit"], meta["until"]) == (4, "double")


def limited(place: Place, replay: str) -> str:
    """Return a pipeline whose source never ends, in two partitions and two epochs."""
    stages = chain(
        "slowly", "double", "stroke", "out",
        slowly=f'args = {{ count = 1000000000 }}\nreplay = "{replay}"\npartitions = 2\nepochs = 2',
        double="workers = 2", stroke='args = { bell = "bell" }',
    )  # fmt: skip
    return place.pipeline(to_table(stages))


def all_of(limit: int) -> list[tuple[str, int]]:
    """Return what must arrive: each partition's share, in the second epoch behind the mark of the first's end."""
    made = []
    for k in range(2):
        share = limit // 2 + (k < limit % 2)
        for epoch in range(2):
            made += [(f"slowly[{k}]:{epoch * (share + 1) + n}", 2 * n) for n in range(share)]
    return sorted(made)


def kinds(folder: Path) -> list[str]:
    """Return the kinds of the events of a run."""
    return [event["kind"] for event in lines(folder / "events.jsonl")]


def cmdline(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):  # it has just ended
        return process.cmdline()
    return []


@pytest.mark.parametrize("replay", ["skip", "seek"])
def test_a_source_that_dies_again_and_again_makes_its_limit_and_no_more(place: Place, replay: str) -> None:
    bell = Bell(place.folder / "bell")
    run = place.start("run", limited(place, replay), "--limit", "1501")
    killed: set[int] = set()

    def kills() -> bool:
        found = [p for p in place.processes() if p.pid not in killed and "slowly" in cmdline(p)]
        for process in found:
            killed.add(process.pid)
            process.kill()
        return bool(found)

    for strokes in (40, 1500, 700, 400):  # in both epochs, and after beats that have told how far it is
        bell.wait(strokes)
        wait_until(kills)
    done = run.wait()
    assert done.code == 0, done.err
    assert rows(done.folder / "out.db") == all_of(1501)
    assert [kind for kind in kinds(done.folder) if kind in ("died", "restarted")] == ["died", "restarted"] * 4


def test_with_chaos_exactly_the_limit_arrives(place: Place) -> None:
    bell = Bell(place.folder / "bell")
    run = place.start("run", limited(place, "seek"), "--limit", "601", "--chaos", "0.6", "--seed", "4")
    bell.wait(20)
    done = run.wait()
    assert done.code == 0, done.err
    assert rows(done.folder / "out.db") == all_of(601)
    report = json.loads((done.folder / "report.json").read_text())
    assert sum(report["kills"].values()) > 0
    found = kinds(done.folder)
    assert found.count("killed") > 0
    assert (found[:2], found[-1]) == (["started", "chaos"], "ended")
