"""`zpipe tap` on real runs."""

from __future__ import annotations

import json
import signal
from functools import partial

import pytest

from tests.integration.test_ending import flowing, process_of
from tests.integration.test_runs import chain
from tests.real import Bell, Command, Place, lines, wait_until


def test_items_of_each_stage_are_shown_and_the_run_goes_on(place: Place) -> None:
    run = flowing(place)
    for stage, factor in (("slowly", 1), ("double", 2), ("stroke", 2), ("out", 2)):
        done = place.run("tap", stage, "-n", "3", "--json")
        assert done.code == 0, done.err
        found = [json.loads(line) for line in done.out.splitlines()]
        assert len(found) == 3
        for sample in found:
            name, _, position = sample["path"].partition(":")
            assert (name, sample["item"]) == ("slowly", factor * int(position))
            assert sample["worker"].startswith(f"{stage}-")
    text = place.run("tap", "double", "-n", "1", "--inputs").out.split()
    assert text[0] == f"slowly:{text[2]}"
    run.interrupt()
    done = run.wait()
    assert done.code == 130, done.err
    found = lines(done.folder / "out.jsonl")
    assert found == [2 * k for k in range(len(found))]


def goes_on(tap: Command, seen: int) -> bool:
    return tap.printed(0).count("\n") > seen


def test_a_tap_outlives_the_registry_and_says_when_the_run_ends(place: Place) -> None:
    run = flowing(place)
    taps = [place.start("tap", "double", *more) for more in ((), ("-n", "100000"))]
    for tap in taps:
        wait_until(partial(tap.printed, 0))
    process_of(place, "zpipe.processes.registry").kill()
    wait_until(lambda: place.run("ps").code == 0)
    for tap in taps:
        wait_until(partial(goes_on, tap, tap.printed(0).count("\n") + 40))
    run.interrupt()
    run.wait()
    forever, counted = (tap.wait() for tap in taps)
    seen = forever.out.count("\n")
    assert (forever.code, forever.err) == (0, f"the run has ended: {seen} items of 'double' seen\n")
    seen = counted.out.count("\n")
    assert (counted.code, counted.faults) == (1, [f"the run has ended: {seen} of 100000 items of 'double' seen"])


def test_a_tap_that_was_killed_harms_nobody(place: Place) -> None:
    run = flowing(place)
    tap = place.start("tap", "slowly")
    wait_until(lambda: tap.printed(0))
    tap.process.send_signal(signal.SIGKILL)
    tap.wait()
    assert place.run("tap", "slowly", "-n", "1").code == 0
    run.interrupt()
    assert run.wait().code == 130


def test_a_tap_shows_one_output_of_a_stage_with_arrays(place: Place) -> None:
    (place.folder / "rows.py").write_text(
        "import numpy as np, zpipe as zp\n"
        "from stages import ring\n"
        "def route(x):\n"
        "    return zp.out('odd' if x % 2 else 'even', {'x': np.full((100, 100), x, np.int32)})\n"
        "def take(x, bell):\n"
        "    ring(bell)\n"
    )
    bell = Bell(place.folder / "bell")
    run = place.start(
        "run",
        place.pipeline(
            chain("slowly", "route", slowly='replay = "seek"').replace("stages:route", "rows:route")
            + "".join(
                f'[stage.{name}]\nrun = "rows:take"\nfrom = "route.{name}"\nargs = {{ bell = "bell" }}\n'
                for name in ("odd", "even")
            )
        ),
    )
    bell.wait(4)
    text = place.run("tap", "route", "--output", "odd", "-n", "2").out.splitlines()
    for line in text:
        path, worker, item = line.split("  ")
        k = int(path.partition(":")[2])
        assert (worker, k % 2) == ("route-1 to odd", 1)
        assert item == f"{{'x': int32 (100, 100) {k}..{k} [{k} {k} {k} {k} ...]}}"
    (sample,) = [json.loads(line) for line in place.run("tap", "even", "--json", "-n", "1").out.splitlines()]
    assert (sample["item"]["x"]["shape"], sample["item"]["x"]["dtype"]) == ([100, 100], "int32")
    wrong = place.run("tap", "route", "--output", "od")
    assert wrong.faults == ["stage 'route' has no named output 'od' that is read: did you mean 'odd'?"]
    run.interrupt()
    assert run.wait().code == 130


def test_what_cannot_be_tapped_is_one_line(place: Place) -> None:
    assert place.run("tap", "double").faults == [
        "no run of yours is alive here: name one with --registry ADDR or ZPIPE_REGISTRY"
    ]
    run = flowing(place)
    for argv, code, fault in (
        (("duoble",), 1, "stage 'duoble' is unknown: did you mean 'double'?"),
        (("slowly", "--inputs"), 1, "'slowly' is a source and is given nothing: look at what it makes"),
        (("double", "--inputs", "--output", "x"), 2,
         "--output is of what a stage makes, and --inputs shows what it is given: leave one out"),
    ):  # fmt: skip
        done = place.run("tap", *argv)
        assert (done.code, done.faults) == (code, [fault])
    run.interrupt()
    run.wait()


@pytest.mark.parametrize("n", ["0", "x"])
def test_a_count_is_a_number_from_one(place: Place, n: str) -> None:
    assert place.run("tap", "double", "-n", n).code == 2
