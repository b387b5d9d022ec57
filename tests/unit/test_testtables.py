"""The [[test]] tables of a pipeline: kept, equal in both forms, and checked with their lines."""

from __future__ import annotations

import pytest

import zpipe as zp

HEAD = """schema = 1
name = "p"
[stage.numbers]
run = "test_testtables.py:numbers"
[stage.double]
run = "test_testtables.py:double"
from = "numbers"
"""
TEST = """[[test]]
name = "twice"
stage = "double"
input = [1, { a = [1.5] }]
output = [
  [2, 3],
  [4]
]
"""
TABLE = {"name": "twice", "stage": "double", "input": [1, {"a": [1.5]}], "output": [[2, 3], [4]]}


def numbers():
    yield 1


def double(x):
    return 2 * x


@pytest.fixture
def load(tmp_path):
    def load(text):
        path = tmp_path / "p.toml"
        path.write_text(HEAD + text)
        (tmp_path / "test_testtables.py").write_text(
            "def numbers():\n    yield 1\n\ndef double(x):\n    return 2 * x\n"
        )
        return zp.Pipeline.load(path)

    return load


def faults(pipeline):
    with pytest.raises(zp.ConfigError) as caught:
        pipeline.check()
    return [line.rpartition("/")[2] for line in caught.value.faults]


def twin(*tests):
    run = "test_testtables.py:"
    return zp.Pipeline("p", [zp.stage(run + "numbers"), zp.stage(run + "double")], tests=tests)


def test_tests_are_loaded_and_equal_their_twin_in_python(load):
    pipeline = load(TEST)

    pipeline.check()
    assert pipeline.tests == (TABLE,)
    assert pipeline == twin(TABLE)
    assert pipeline != twin()
    assert pipeline != twin({**TABLE, "output": [[2, 3], [5]]})
    assert "test" not in twin().to_dict()


def test_tuples_in_python_are_lists():
    assert twin({**TABLE, "output": ([2, 3], (4,))}) == twin(TABLE)


def test_tests_are_kept_by_save_and_sets(tmp_path):
    pipeline = twin(TABLE, {**TABLE, "name": "costs ${X}"})

    pipeline.save(tmp_path / "q.toml")

    assert zp.Pipeline.load(tmp_path / "q.toml") == pipeline
    assert pipeline.with_sets(["double.workers=2"]).tests == pipeline.tests


def test_bad_tests_are_faults_with_their_lines(load):
    pipeline = load(
        TEST
        + """[[test]]
stage = "duoble"
inputs = []
output = 3
[[test]]
name = 5
stage = "numbers"
input = [1, { a = 1979-05-27 }]
output = []
[[test]]
name = "empty"
"""
    )

    assert faults(pipeline) == [
        "p.toml:18: test 2 has the unknown key 'inputs': did you mean 'input'?",
        "p.toml:17: test 2 is of stage 'duoble', but there is no such stage: did you mean 'double'?",
        "p.toml:16: test 2 has no input: add input = [...], the list of items",
        "p.toml:19: test 2: output is 3: write a list of items",
        "p.toml:21: test 3: name is 5: write text, or leave it out",
        "p.toml:22: test 3 is of stage 'numbers', which is a source and takes no items: test a stage with `from`",
        "p.toml:23: test 3: input[1].a is a date: tests hold numbers, text, true, false, lists and tables",
        "p.toml:25: test 'empty' has no stage: add stage = 'NAME'",
        "p.toml:25: test 'empty' has no input: add input = [...], the list of items",
        "p.toml:25: test 'empty' has no output: add output = [...], the list of items",
    ]


def test_a_table_that_is_no_list_is_a_fault(load):
    assert faults(load('[test]\nstage = "double"\n'))[0].startswith("p.toml:8: test is {'stage': 'double'}: write a")


def test_a_variable_without_a_value_is_a_fault_at_its_line(load, monkeypatch):
    monkeypatch.delenv("DATA", raising=False)

    assert faults(load(TEST + '[[test]]\nstage = "double"\noutput = []\ninput = [{ a = "${DATA}" }]\n')) == [
        "p.toml:19: test.1.input.0.a: the environment has no DATA: set it, or write ${DATA:-default}"
    ]


def test_lines_of_a_list_are_no_tables(load):
    pipeline = load('args = { x = [\n["run"],\n[1, 2]\n] }\nwokers = 3\n')

    assert "p.toml:12: stage 'double': there is no option 'wokers': did you mean 'workers'?" in faults(pipeline)


@pytest.mark.parametrize(("tests", "said"), [([7], "test 1 is 7: write a table"), (7, "test is 7: write a table")])
def test_faults_of_tests_in_python_name_the_line_of_the_pipeline(tests, said):
    run = "test_testtables.py:"
    pipeline = zp.Pipeline("p", [zp.stage(run + "numbers"), zp.stage(run + "double")], tests=tests)

    assert any(line.startswith("test_testtables.py:") and said in line for line in faults(pipeline))
