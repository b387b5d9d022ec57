"""Workers whose code is not the one that the run began with: refused from outside, told of the run's own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.integration.test_ending import flowing
from tests.real import Command, Place, lines


def edit(place: Place, more: str = "\n# edited\n") -> None:
    stages = place.folder / "stages.py"
    stages.write_text(stages.read_text() + more)


def address_of(run: Command) -> str:
    return run.says("registry tcp://").split()[2].rstrip(",")


def ends_well(run: Command) -> Path:
    run.interrupt()
    done = run.wait()
    assert done.code == 130, done.err
    found = lines(done.folder / "out.jsonl")
    assert found == [2 * k for k in range(len(found))]
    return done.folder


def test_a_worker_with_other_code_is_refused_and_the_run_goes_on(place: Place) -> None:
    run = flowing(place)
    edit(place)
    refused = place.run("worker", "double", "--registry", address_of(run))
    assert refused.code == 1
    said = refused.err.strip().splitlines()[-1]
    assert said.startswith("zpipe: stage 'double': ") and "stages.py (sha256 " in said
    assert " is not the code that the run began with: use the same version of it, or join with --any-code" in said
    assert "double-3" not in [row["worker"] for row in place.ps()["workers"]]
    more = place.start("worker", "double", "--registry", address_of(run), "--any-code")
    run.says("double-3 runs other code than the run began with: its output says which")
    ends_well(run)
    assert more.wait().code == 0


def test_a_worker_of_the_run_that_finds_other_code_says_so_and_goes_on(place: Place) -> None:
    run = flowing(place)
    edit(place)
    (pid,) = [row["pid"] for row in place.ps()["workers"] if row["worker"] == "double-1"]
    os.kill(pid, signal.SIGKILL)
    run.says("double-1 runs other code than the run began with: ")
    folder = ends_well(run)
    assert "stages.py (sha256 " in (folder / "logs" / "double-1.log").read_text()


@pytest.mark.parametrize("flag", [(), ("--any-code",)])
def test_a_worker_that_cannot_be_built_stays_out_and_the_run_goes_on(place: Place, flag: tuple[str, ...]) -> None:
    run = flowing(place)
    edit(place, "\nraise OSError('this is another machine')\n")
    refused = place.run("worker", "double", "--registry", address_of(run), *flag)
    assert refused.code == 1
    assert "this is another machine" in refused.err
    edit(place, "")
    ends_well(run)
