"""Disks without room: a run stands, says so, survives deaths meanwhile, and goes on to the exact end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.real import Place, lines, wait_for_ends
from tests.smalldisk import SmallDisk, small_disk

COUNT = 6000
STAGES = f"""
[stage.numbers]
run = "stages:numbers"
args = {{ count = {COUNT} }}
replay = "seek"
[stage.padded]
run = "stages:padded"
from = "numbers"
[stage.batch]
run = "zpipe.stages:batch"
from = "padded"
args = {{ size = 20 }}
[stage.unbatch]
run = "zpipe.stages:unbatch"
from = "batch"
[stage.out]
run = "zpipe.sinks:jsonl"
from = "unbatch"
args = {{ path = "out.jsonl" }}
ordered = true
"""


@pytest.fixture
def disk(place: Place) -> Iterator[SmallDisk]:
    """A disk that is full before the run on it has ended."""
    with small_disk(place.folder / "d", "1m") as disk:
        yield disk


def kill(place: Place, words: str) -> None:
    """Kill the process with these words in its command line, and wait for its end."""
    (found,) = [found for found in place.processes() if words in " ".join(found.cmdline())]
    found.kill()
    wait_for_ends([found], 10.0)


def test_a_run_on_a_full_disk_stands_through_deaths_and_ends_exact(place: Place, disk: SmallDisk) -> None:
    run = place.start("run", place.pipeline(STAGES), "--runs", "d/runs")
    run.says("waits: cannot write ")
    disk.fill()
    for words in ("processes.worker batch ", "processes.worker out ", "processes.registry "):
        kill(place, words)
    assert not run.ends_within(1.0)

    disk.grow("16m")
    done = run.wait()
    assert done.code == 0, done.err
    assert "goes on" in done.err
    assert [item["i"] for item in lines(done.folder / "out.jsonl")] == list(range(COUNT))


def test_a_run_that_waits_for_room_can_be_interrupted(place: Place, disk: SmallDisk) -> None:
    run = place.start("run", place.pipeline(STAGES), "--runs", "d/runs")
    run.says("waits: cannot write ")
    run.interrupt()
    run.says("interrupted")
    run.interrupt()
    assert run.wait().code == 130
