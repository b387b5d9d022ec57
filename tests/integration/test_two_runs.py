"""Two runs of one name at once: each has its own folder and address, and what they cannot share is said."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.integration.test_runs import chain
from tests.real import Command, Place, lines, wait_until

FLOWING = chain("slowly", "double", "out", slowly='replay = "seek"')


def starts(run: Command) -> tuple[str, Path]:
    """Wait for the first line of a run; return its address and its folder."""
    found = re.search(r"registry (\S+), run folder (.*)", run.says("registry tcp://"))
    assert found
    return found[1], Path(found[2])


def down(place: Place, run: Command, address: str) -> list[int]:
    """End a run and return what its sink has."""
    assert place.run("down", "--registry", address).code == 0
    done = run.wait()
    assert done.code == 130, done.err
    return lines(done.folder / "out.jsonl")


def test_runs_of_one_name_started_at_once_do_not_touch_each_other(place: Place) -> None:
    pipeline = place.pipeline(chain("numbers", "double", "out", numbers="args = { count = 50 }"))
    more: tuple[tuple[str, ...], ...] = ((), (), ("--runs", "elsewhere"))
    ended = [run.wait() for run in [place.start("run", pipeline, *argv) for argv in more]]
    assert [done.code for done in ended] == [0, 0, 0]
    assert len({done.folder for done in ended}) == 3
    assert [done.folder.parent.name for done in ended] == ["runs", "runs", "elsewhere"]
    for done in ended:
        assert lines(done.folder / "out.jsonl") == [2 * k for k in range(50)]


def test_verbs_list_live_runs_of_one_name_so_that_they_can_be_told_apart(place: Place) -> None:
    pipeline = place.pipeline(FLOWING)
    first = place.start("run", pipeline)
    first_address, first_folder = starts(first)
    second = place.start("run", pipeline, "--runs", "elsewhere")
    second_address, second_folder = starts(second)
    for argv in (["ps"], ["down"], ["scale", "double=2"], ["logs"]):
        done = place.run(*argv)
        assert (done.code, done.out) == (2, "")
        assert done.faults[0] == "2 runs of yours are alive: choose one with --registry ADDR"
        listed = [
            re.fullmatch(r"  t  started [\d-]{10} [\d:]{8}  --registry (\S+)  \((.*)\)", x) for x in done.faults[1:]
        ]
        assert [found.groups() for found in listed if found] == [
            (first_address, str(first_folder)), (second_address, str(second_folder)),
        ]  # fmt: skip
    found = down(place, first, first_address)
    assert found == [2 * k for k in range(len(found))]
    assert json.loads(place.run("ps", "--json").out)["name"] == "t"
    out = second_folder / "out.jsonl"
    wait_until(lambda: out.exists() and lines(out))
    found = down(place, second, second_address)
    assert found == [2 * k for k in range(len(found))]


def test_a_second_registry_at_one_address_is_told_who_has_it(place: Place) -> None:
    pipeline = place.pipeline(FLOWING)
    first = place.start("run", pipeline)
    address, folder = starts(first)
    second = place.run("registry", pipeline, "--bind", address)
    said = (
        f"{address} is in use by run 't' ({folder}): end it with zpipe down --registry {address}, or bind another port"
    )
    assert (second.code, second.faults) == (1, [f"the registry did not start: {said} (0: any free one)"])
    down(place, first, address)


@pytest.mark.parametrize("option", ["--events", "--trace"])
def test_a_second_run_is_kept_from_a_file_that_the_first_writes(place: Place, option: str) -> None:
    pipeline = place.pipeline(FLOWING)
    first = place.start("run", pipeline, option, "e.jsonl")
    address, _ = starts(first)
    second = place.run("run", pipeline, option, "e.jsonl")
    said = "e.jsonl is being written by another run: name another file, or end that one with zpipe down"
    assert (second.code, second.faults) == (2, [said])
    assert len(list((place.folder / "runs").iterdir())) == 1
    down(place, first, address)
    assert address in (place.folder / "e.jsonl").read_text()  # the first line of the first run is still there
