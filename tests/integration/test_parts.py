"""A pipeline of two files, run for real: the same as the one that is written out by hand."""

from __future__ import annotations

import pytest

import zpipe as zp
from tests.integration.test_runs import OUT, both
from tests.real import Place, lines

# Beside it stands another module of the same name, the one that all tests share.
CODE = """import helper


def word(x, sign):
    return helper.word(x, sign)


def length(text):
    return [text, len(text)]
"""
PART = """schema = 1
name = "text"
[defaults]
workers = 2
[stage.word]
run = "stages:word"
from = "input"
args = { sign = "a" }
[stage.length]
run = "stages.py:length"
from = "word"
[[test]]
name = "as long as it is"
stage = "length"
input = ["aaa"]
output = [["aaa", 3]]
"""
STAGES = f"""
[stage.numbers]
run = "stages:numbers"
args = {{ count = 4 }}
[stage.text]
use = "parts/text.toml"
from = "numbers"
args.word.sign = "b"
[stage.out]
run = "zpipe.sinks:jsonl"
args = {OUT}
ordered = true
from = "text"
"""
BY_HAND = f"""
[stage.numbers]
run = "stages:numbers"
args = {{ count = 4 }}
[stage.text-word]
run = "parts/stages:word"
from = "numbers"
workers = 2
args = {{ sign = "b" }}
[stage.text-length]
run = "parts/stages.py:length"
from = "text-word"
workers = 2
[stage.out]
run = "zpipe.sinks:jsonl"
args = {OUT}
ordered = true
from = "text-length"
[[test]]
name = "as long as it is"
stage = "text-length"
input = ["aaa"]
output = [["aaa", 3]]
"""


@pytest.fixture
def parts(place: Place) -> Place:
    folder = place.folder / "parts"
    folder.mkdir()
    (folder / "text.toml").write_text(PART)
    (folder / "stages.py").write_text(CODE)
    (folder / "helper.py").write_text("def word(x, sign):\n    return sign * x\n")
    return place


def test_two_files_run_as_one_and_as_the_one_written_out_by_hand(parts: Place) -> None:
    folder = both(parts, STAGES)
    assert lines(folder / "out.jsonl") == [["", 0], ["b", 1], ["bb", 2], ["bbb", 3]]
    two = zp.Pipeline.load(parts.folder / parts.pipeline(STAGES))
    assert two == zp.Pipeline.load(parts.folder / parts.pipeline(BY_HAND))
    assert lines(both(parts, BY_HAND) / "out.jsonl") == lines(folder / "out.jsonl")


def test_commands_know_the_stages_of_a_part_by_their_full_names(parts: Place) -> None:
    pipeline = parts.pipeline(STAGES)
    assert parts.run("check", pipeline).out == "ok: 4 stages, 6 workers\n"
    assert "text-length  transform" in parts.run("graph", pipeline).out
    assert parts.run("try", pipeline, "numbers", "-n", "1", "--set", "text-word.sign=c").out == "0\n"
    assert parts.run("test", pipeline).out == "ok      test 'as long as it is' of text-length\n"
