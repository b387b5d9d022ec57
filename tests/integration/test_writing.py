"""From an empty folder to a tested pipeline: new, run, test and try, from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real import Done, Place, lines

STAGES = """
import numpy as np
import zpipe as zp

def numbers(count=3):
    yield from range(count)

def endless():
    k = 0
    while True:
        yield [k, zp.item().path]
        k += 1

def double(x):
    print("seen")
    return 2 * x if x else None

def stack(x):
    return {"a": np.full((2, 2), x), "t": np.datetime64("2020-01-02"), "n": np.float32(0.5)}

def as_bytes(x):
    return [b"x"] if x else x

class Sum:
    def __init__(self):
        self.sum = 0
    def __call__(self, x):
        self.sum += x["x"]
    def finish(self):
        yield {"sum": self.sum}
"""
PIPELINE = """schema = 1
name = "p"
[stage.numbers]
run = "stages:numbers"
[stage.endless]
run = "stages:endless"
[stage.double]
run = "stages:double"
from = "numbers"
[stage.stack]
run = "stages:stack"
from = "double"
[stage.as-bytes]
run = "stages:as_bytes"
from = "double"
[stage.sum]
run = "stages:Sum"
from = "double"
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "stages.py").write_text(STAGES)
    (tmp_path / "p.toml").write_text(PIPELINE)
    with Place(tmp_path) as place:
        yield place
        assert place.left() == []


def run(place: Place, *argv: str, text: str | bytes = "") -> Done:
    """Run `zpipe ARGV...` with `text` on stdin."""
    data = text if isinstance(text, bytes) else text.encode()
    command = [sys.executable, "-m", "zpipe", *argv]
    done = subprocess.run(
        command, check=False, capture_output=True, timeout=120, input=data, cwd=place.folder, env=place.env
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


# -- new --------------------------------------------------------------------------------------------


def test_a_new_project_is_checked_tested_and_run(home: Place) -> None:
    made = run(home, "new", "flowers")
    assert (made.code, made.out, made.err) == (0, "made flowers: cd flowers && zpipe run && zpipe test\n", "")
    home.folder = home.folder / "flowers"

    assert run(home, "check").out == "ok: 5 stages, 6 workers\n"
    tested = run(home, "test")
    assert (tested.code, tested.err) == (0, "")
    assert tested.out == "ok      test 'what lies far out is dropped' of clean\nok      test 2 of mean\n"
    done = run(home, "run")
    assert done.code == 0, done.err
    (result,) = lines(done.folder / "results.jsonl")
    assert 900 < result["items"] < 1000
    assert lines(run(home, "run", "--inline").folder / "results.jsonl") == [result]
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    assert subprocess.run(tests, check=False, cwd=home.folder, env=home.env, timeout=120).returncode == 0
    assert run(home, "try", "pipeline.toml", "points").out.count("\n") == 5


def test_a_folder_that_is_there_is_left_as_it_is(home: Place) -> None:
    (home.folder / "flowers").mkdir()
    done = run(home, "new", "flowers")
    assert (done.code, done.out) == (2, "")
    assert done.err == "zpipe: flowers is there already, and nothing in it is changed: choose another name\n"
    assert list((home.folder / "flowers").iterdir()) == []


@pytest.mark.parametrize("name", ["Flowers", "a/b", "2nd", "..", ""])
def test_a_bad_name_is_refused_with_the_rule(home: Place, name: str) -> None:
    done = run(home, "new", name)
    rule = "use a-z, 0-9 and -, a letter first"
    assert (done.code, done.faults) == (2, [f"{name!r} is a bad name for a pipeline: {rule}"])
    assert sorted(path.name for path in home.folder.iterdir()) == ["p.toml", "stages.py"]


@pytest.mark.parametrize("command", ["run", "check", "test"])
def test_without_a_pipeline_that_of_the_folder_is_meant(home: Place, command: str) -> None:
    done = run(home, command)
    said = "there is no pipeline.toml here: name a PIPELINE, a .toml file or file.py:function"
    assert (done.code, done.out, done.err) == (2, "", f"zpipe: {said}\n")


# -- test -------------------------------------------------------------------------------------------


def write(place: Place, text: str) -> None:
    (place.folder / "pipeline.toml").write_text(PIPELINE + text)


def test_each_test_is_a_line_and_one_that_fails_is_exit_1(home: Place) -> None:
    write(
        home,
        """
[[test]]
stage = "stack"
input = [1]
output = [{ a = [[1, 1], [1, 1]], n = 0.5 }]
[[test]]
name = "sums"
stage = "sum"
input = [{ x = 0.1 }, { x = 0.2 }]
output = [{ sum = 0.3 }]
[[test]]
stage = "sum"
input = [{ y = 1 }]
output = []
[[test]]
stage = "as-bytes"
input = [0, 1]
output = [0, "x"]
""",
    )
    done = run(home, "test")
    day = "datetime.date(2020, 1, 2)"
    assert (done.code, done.err) == (1, "")
    assert done.out.splitlines() == [
        "FAILED  test 1 of stack: expected [{'a': [[1, 1], [1, 1]], 'n': 0.5}], "
        f"got [{{'a': [[1, 1], [1, 1]], 't': {day}, 'n': 0.5}}]",
        "ok      test 'sums' of sum",
        "FAILED  test 3 of sum: stage 'sum' at inputs:0 raised KeyError: 'x'",
        "FAILED  test 4 of as-bytes: expected [0, 'x'], got [0, [b'x']]",
    ]


def test_a_pipeline_without_tests_and_one_with_bad_tests_are_exit_2(home: Place) -> None:
    done = run(home, "test", "p.toml")
    assert (done.code, done.faults) == (
        2,
        ["pipeline 'p' has no tests: add tables [[test]] with stage, input and output"],
    )
    write(home, '[[test]]\nstage = "duoble"\ninput = []\noutput = []\n')
    for command in ("test", "check"):
        done = run(home, command)
        said = "test 1 is of stage 'duoble', but there is no such stage: did you mean 'double'?"
        assert (done.code, done.out, done.faults) == (2, "", [f"pipeline.toml:20: {said}"])


# -- try --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"), [("1\n0\n4\n", ["2", "8"]), ('  [\n 1\n]\n"a"', ["[1, 1]", '"aa"']), ("1.5", ["3.0"])]
)
def test_each_value_on_stdin_is_an_item_and_each_output_a_line(home: Place, text: str, said: list[str]) -> None:
    done = run(home, "try", "p.toml", "double", text=text)
    assert (done.code, [line for line in done.out.splitlines() if line != "seen"], done.err) == (0, said, "")
    assert not (home.folder / "runs").exists()


def test_arrays_are_lists_and_times_are_text(home: Place) -> None:
    done = run(home, "try", "p.toml", "stack", text="3")
    assert json.loads(done.out) == {"a": [[3, 3], [3, 3]], "t": "2020-01-02", "n": 0.5}


def test_the_first_items_of_a_source_are_printed(home: Place) -> None:
    assert run(home, "try", "p.toml", "endless").out.splitlines() == [f'[{k}, "endless:{k}"]' for k in range(5)]
    assert run(home, "try", "p.toml", "endless", "-n", "1").out == '[0, "endless:0"]\n'
    assert run(home, "try", "p.toml", "numbers", "--set", "numbers.count=2").out == "0\n1\n"


@pytest.mark.parametrize(
    ("stage", "text", "said"),
    [
        ("duoble", "1", "pipeline 'p' has no stage 'duoble': did you mean 'double'?"),
        ("double", "1\n{2", "stdin:2: is not JSON: expecting property name enclosed in double quotes at column 2: "),
        ("double", "1\n\n[3, nope]\n", "stdin:3: is not JSON: expecting value at column 5: give each item as a JSON"),
        ("double", "1\n" + "[" * 100_000, "stdin:2: a value nests too deeply to be read"),
        ("double", " \n", "stdin holds no item: give each item as a JSON value, like"),
        ("double", b"\xff", "stdin is not text in UTF-8: give each item as a JSON value"),
    ],
)
def test_wrong_usage_of_try_is_one_line_and_exit_2(home: Place, stage: str, text: str | bytes, said: str) -> None:
    done = run(home, "try", "p.toml", stage, text=text)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert done.faults[0].startswith(said)


def test_a_number_of_items_is_for_sources(home: Place) -> None:
    done = run(home, "try", "p.toml", "double", "-n", "3", text="1")
    assert (done.code, done.faults) == (2, ["-n is for sources, and 'double' reads 'numbers': leave it out"])


def test_what_json_cannot_show_is_said_after_what_it_can(home: Place) -> None:
    done = run(home, "try", "p.toml", "as-bytes", text="0 1")
    said = "output 2 of stage 'as-bytes' cannot be shown: it holds bytes, which JSON has not"
    assert (done.code, done.out, done.err) == (1, "0\n", f"zpipe: {said}\n")


def test_a_stage_that_raises_shows_the_users_own_lines(home: Place) -> None:
    done = run(home, "try", "p.toml", "sum", text='{"x": 1} {"y": 1}')
    assert (done.code, done.out) == (1, "")
    assert 'self.sum += x["x"]' in done.err
    assert "zpipe/" not in done.err
    assert done.err.splitlines()[-1] == "zpipe: stage 'sum' at inputs:1 raised KeyError: 'x'"
