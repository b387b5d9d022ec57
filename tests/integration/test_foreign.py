"""Stages that are programs in any language: what they make, how they fail and die, and nonsense that they say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_runs import balanced, both
from tests.real import Done, Place, lines

HERE = Path(__file__).parent


def pipeline(how: str, *more: str, count: int = 60, **args: Any) -> str:
    cmd = json.dumps([sys.executable, str(HERE / "foreign.py"), how])
    given = ", ".join(f"{key} = {json.dumps(value)}" for key, value in args.items())
    return f"""
[stage.numbers]
run = "stages:numbers"
args = {{ count = {count} }}
[stage.work]
cmd = {cmd}
from = "numbers"
args = {{ {given} }}
{chr(10).join(more)}
[stage.out]
run = "zpipe.sinks:jsonl"
from = "work"
args = {{ path = "out.jsonl" }}
ordered = true
"""


def run(place: Place, text: str, *argv: str) -> Done:
    return place.run("run", place.pipeline(text), *argv)


def log_of(done: Done, stage: str = "work") -> str:
    return "".join(path.read_text() for path in sorted((done.folder / "logs").glob(f"{stage}-*.log")))


@pytest.mark.parametrize("more", [(), ("workers = 3",), ("batch_size = 8",), ("batch_size = 8", "workers = 2")])
def test_a_program_does_what_a_function_would(place: Place, more: tuple[str, ...]) -> None:
    folder = both(place, pipeline("doubles", *more, times=3))
    assert lines(folder / "out.jsonl") == [3 * x for x in range(60)]


def test_what_a_program_drops_is_dropped(place: Place) -> None:
    done = run(place, pipeline("drops"))
    assert done.code == 0, done.err
    assert lines(done.folder / "out.jsonl") == [2 * x for x in range(0, 60, 2)]
    balanced(done.folder)


def test_a_program_sends_to_named_outputs(place: Place) -> None:
    text = pipeline("routes").replace('from = "work"', 'from = ["work.odd", "work.even"]')
    done = run(place, text)
    assert done.code == 0, done.err
    assert lines(done.folder / "out.jsonl") == list(range(60))


def test_a_program_that_joins_is_given_a_list(place: Place) -> None:
    text = pipeline("sums").replace('from = "numbers"', 'join = ["numbers", "numbers-too"]')
    text += '[stage.numbers-too]\nrun = "stages:double"\nfrom = "numbers"\n'
    done = run(place, text)
    assert done.code == 0, done.err
    assert lines(done.folder / "out.jsonl") == [3 * x for x in range(60)]


def test_programs_are_exact_under_kills(place: Place) -> None:
    text = pipeline("doubles", "workers = 2", count=2000).replace("stages:numbers", "stages:slowly")
    done = run(place, text, "--chaos", "0.3", "--seed", "3")
    assert done.code == 0, done.err
    assert lines(done.folder / "out.jsonl") == [2 * x for x in range(2000)]
    assert sum(json.loads((done.folder / "report.json").read_text())["kills"].values()) > 0
    balanced(done.folder)


@pytest.mark.parametrize("of", ["SIGSEGV", "SIGKILL"])
def test_an_item_of_which_a_program_dies_is_blamed_alone(place: Place, of: str) -> None:
    text = pipeline("dies", 'on_error = "dead-letter"', "retries = 1", "workers = 2", at=17, of=of)
    done = run(place, text)
    assert done.code == 3, done.err
    assert lines(done.folder / "out.jsonl") == [2 * x for x in range(60) if x != 17]
    shown = place.run("dead", "ls", "--run", str(done.folder))
    assert "numbers:17" in shown.out and of in shown.out, shown.out


def test_what_a_program_says_last_is_told(place: Place) -> None:
    done = run(place, pipeline("exits", "retries = 0", at=17))
    assert done.code == 1
    assert "numbers:17" in done.err and "I have had enough" in done.err, done.err


def test_an_item_that_a_program_cannot_do_has_its_reason(place: Place) -> None:
    done = run(place, pipeline("fails", at=17))
    assert done.code == 1
    assert "stage 'work' at numbers:17: I do not like it" in done.err, done.err
    done = run(place, pipeline("fails", 'on_error = "skip"', at=17))
    assert done.code == 0
    assert lines(done.folder / "out.jsonl") == [2 * x for x in range(60) if x != 17]


def test_a_program_that_takes_too_long_is_killed_with_its_worker(place: Place) -> None:
    done = run(place, pipeline("hangs", 'on_error = "dead-letter"', "retries = 0", "timeout = 0.5", at=17))
    assert done.code == 3, done.err
    assert lines(done.folder / "out.jsonl") == [2 * x for x in range(60) if x != 17]
    assert place.left() == []


def test_what_makes_no_sense_is_refused_with_a_line_and_nothing_is_lost(place: Place) -> None:
    done = run(place, pipeline("wild"))
    assert done.code == 0, done.err
    assert lines(done.folder / "out.jsonl") == [2 * x for x in range(60)]
    log = log_of(done)
    errors = json.loads(next(line for line in log.splitlines() if line.startswith("errors: "))[8:])
    assert "not msgpack" in errors[0] and "not msgpack" in errors[1]
    assert errors[2:] == [
        "a message is a map",
        "zpipe is 2: this is version 1 of the protocol",
        "take is -1: it is how many items are wanted",
        "done is a list of [token, item]",
    ]
    assert "refused what it says: zpipe is 2" in log
    assert "refused what it says: of 1 items that are not at hand, token 'nonsense'" in log


def test_a_program_that_ends_at_once_ends_the_run_with_its_last_words(place: Place) -> None:
    done = run(place, pipeline("ends"))
    assert done.code == 1
    assert "no licence found" in done.err, done.err


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ('cmd = ["nopey", "worker"]', "stage 'work': there is no program 'nopey': install it, or name its path"),
        ('cmd = ["./nopey"]', "stage 'work': there is no program './nopey'"),
        ("cmd = []", "stage 'work': cmd must be a program and its arguments, like"),
        ('cmd = "node worker.js"', "stage 'work': cmd must be a program and its arguments, like"),
        ('cmd = ["python3"]\nrun = "stages:double"', "stage 'work' has run and cmd: leave one of them out"),
    ],
)
def test_a_program_that_cannot_be_started_is_a_fault(place: Place, key: str, said: str) -> None:
    text = pipeline("doubles")
    text = text.replace(next(line for line in text.splitlines() if line.startswith("cmd")), key)
    done = run(place, text)
    assert done.code == 2
    assert said in done.err, done.err
