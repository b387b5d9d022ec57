"""Pipeline files: variables, `--set`, and the lines of faults."""

import pytest

import zpipe as zp
from zpipe.values.tomlfile import toml_value


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "p.toml"
        path.write_text(text)
        return path

    return write


HEAD = 'schema = 1\nname = "p"\n'
SOURCE = HEAD + '[stage.crops]\nrun = "stages:crops"\n'


def args_of(path, sets=()):
    return dict(zp.Pipeline.load(path, sets).stage("crops").args)


def faults_of(path, sets=()):
    return [str(fault) for fault in zp.Pipeline.load(path, sets).faults]


def test_the_python_form_equals_its_file(write):
    path = write(
        HEAD
        + """
[defaults]
gpus = 0
[stage.crops]
run = "stages:crops"
args = { size = 128 }
epochs = 3
[stage.features]
run = "stages:features"
from = "crops"
workers = 4
[stage.batch]
run = "zpipe.stages:batch"
from = "features"
args = { size = 64 }
[stage.fit]
run = "stages:Train"
from = [{ stage = "batch" }]
grid = { lr = [0.1, 0.01] }
gpus = 1
"""
    )
    x = zp.stage("stages:crops", args={"size": 128}, epochs=3)
    x = zp.batch(64)(zp.stage("stages:features", workers=4)(x))
    twin = zp.Pipeline("p", zp.stage("stages:Train", name="fit", grid={"lr": [0.1, 0.01]}, gpus=1)(x))

    assert zp.Pipeline.load(path) == twin
    assert zp.Pipeline.load(path).folder == path.parent


def test_a_variable_takes_its_default_where_it_is_unset_or_empty(write, monkeypatch):
    monkeypatch.delenv("DATA", raising=False)
    path = write(SOURCE + 'args = { path = "${DATA:-data/}x" }\n')
    assert args_of(path) == {"path": "data/x"}
    monkeypatch.setenv("DATA", "")
    assert args_of(path) == {"path": "data/x"}
    monkeypatch.setenv("DATA", "/mnt/")
    assert args_of(path) == {"path": "/mnt/x"}


def test_a_text_of_one_variable_becomes_the_value_that_it_spells(write, monkeypatch):
    monkeypatch.delenv("N", raising=False)
    path = write(SOURCE + 'args = { n = "${N:-3}", text = "${N:-3} " }\n')
    assert args_of(path) == {"n": 3, "text": "3 "}
    monkeypatch.setenv("N", "[1, 2]")
    assert args_of(path) == {"n": [1, 2], "text": "[1, 2] "}


def test_variables_in_env_stay_text(write, monkeypatch):
    monkeypatch.setenv("N", "4")
    path = write(SOURCE + 'env = { OMP_NUM_THREADS = "${N}" }\n')

    assert zp.Pipeline.load(path).stage("crops").options.env == {"OMP_NUM_THREADS": "4"}


def test_a_variable_without_value_or_default_is_a_fault_at_its_line(write, monkeypatch):
    monkeypatch.delenv("DATA", raising=False)
    path = write(SOURCE + 'args = { path = "${DATA}" }\n')

    assert faults_of(path) == [
        f"{path}:5: stage.crops.args.path: the environment has no DATA: set it, or write ${{DATA:-default}}"
    ]


def test_a_misspelt_variable_is_a_fault(write):
    path = write(SOURCE + 'args = { path = "${1X}" }\n')

    assert faults_of(path) == [
        f"{path}:5: stage.crops.args.path: '${{1X}}' is no variable: write ${{NAME:-default}}, or $${{ for a plain ${{"
    ]


def test_two_dollars_make_a_plain_brace(write):
    assert args_of(write(SOURCE + 'args = { a = "$${HOME} costs $$5" }\n')) == {"a": "${HOME} costs $$5"}


@pytest.mark.parametrize(
    ("set_", "args"),
    [
        ("crops.count=100", {"count": 100}),
        ("crops.path=/data/x", {"path": "/data/x"}),
        ('crops.path="5"', {"path": "5"}),
        ("crops.args.workers=2", {"workers": 2}),
        ("crops.deep.er=true", {"deep": {"er": True}}),
        ("crops.args={ a = 1 }", {"a": 1}),
    ],
)
def test_set_changes_args(write, set_, args):
    assert args_of(write(SOURCE), [set_]) == args


@pytest.mark.parametrize(
    ("set_", "options"),
    [
        ("crops.partitions=8", {"partitions": 8}),
        ("crops.workers=1..4", {"workers": "1..4"}),
        ("crops.env.THREADS=8", {"env": {"THREADS": "8"}}),
        ('crops.env={ A = "1" }', {"env": {"A": "1"}}),
        ("crops.grid.lr=[0.1, 0.2]", {"grid": {"lr": [0.1, 0.2]}}),
    ],
)
def test_set_changes_options(write, set_, options):
    assert zp.Pipeline.load(write(SOURCE), [set_]).stage("crops").options.given() == options


def test_bad_sets_are_faults_that_name_themselves(write):
    assert faults_of(write(SOURCE), ["crop.count=1", "crops", "crops.count", "crops.run.x=1"]) == [
        "--set crop.count=1: there is no stage 'crop': did you mean 'crops'?",
        "--set crops: is not of the form stage.key=value",
        "--set crops.count: is not of the form stage.key=value",
        "--set crops.run.x=1: 'run' holds 'stages:crops' and has nothing inside to set",
    ]


def test_a_fault_of_a_set_value_names_the_set(write):
    pipeline = zp.Pipeline.load(write(SOURCE), ["crops.epochs=0"])

    with pytest.raises(zp.ConfigError, match=r"--set crops.epochs=0: stage 'crops': epochs must be a whole number"):
        pipeline.check()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("0.5", 0.5),
        ("true", True),
        ("abc", "abc"),
        ("2024-01-01", "2024-01-01"),
        ("1\ny = 2", "1\ny = 2"),
    ],
)
def test_a_value_is_toml_or_else_text(text, value):
    assert toml_value(text) == value


def test_a_file_that_is_not_there_is_named_with_its_neighbour(tmp_path):
    (tmp_path / "pipeline.toml").write_text("")

    with pytest.raises(
        zp.ConfigError, match=r"cannot be read: no such file or directory: did you mean 'pipeline.toml'\?"
    ):
        zp.Pipeline.load(tmp_path / "pipelin.toml")


def test_a_file_that_is_no_toml_is_named_with_the_line(write):
    path = write('schema = 1\nname = "p\n')

    with pytest.raises(zp.ConfigError, match=rf"{path}:2: is not TOML: "):
        zp.Pipeline.load(path)


@pytest.mark.parametrize(
    "text", [f"x = {'[' * 5000}", f"x = {'[' * 80}{']' * 80}", f"x = {'{a=' * 3000}", f"a{'.a' * 3000} = 1"]
)
def test_a_file_that_nests_too_deep_is_one_line(write, text):
    path = write(text)

    with pytest.raises(zp.ConfigError, match=rf"^{path}: is not TOML: it nests deeper than 64$"):
        zp.Pipeline.load(path)


def test_a_number_of_thousands_of_digits_is_one_line(write):
    with pytest.raises(zp.ConfigError, match=r"^\S+: is not TOML: exceeds the limit"):
        zp.Pipeline.load(write(f"x = {'9' * 5000}"))


def test_a_name_that_no_file_can_have_is_one_line():
    with pytest.raises(zp.ConfigError, match=r"'\\x00.toml' is no name of a file"):
        zp.Pipeline.load("\0.toml")


@pytest.mark.parametrize("text", ["[" * 5000, "9" * 5000])
def test_a_value_that_toml_cannot_take_is_text(text):
    assert toml_value(text) == text


def test_misshapen_tables_are_faults_with_their_lines(write):
    path = write(
        """shema = 1
name = "p"
[defaults]
a = 1
worker = 2
workers = "x"
image = 3
[stage]
b = 3
[stage.a]
run = 5
args = []
from = []
[stage.c]
from = [{ stage = "a", keep = "last" }, 7, { stage = "a", kep = "all" }]
"""
    )

    assert faults_of(path) == [
        f"{path}: schema is missing: this version reads schema = 1",
        f"{path}:1: unknown key 'shema': did you mean 'schema'?",
        f"{path}:4: 'a' is a stage, but defaults hold options for all stages: write [stage.a]",
        f"{path}:5: there is no option 'worker': did you mean 'workers'?",
        f"{path}:6: the default workers must be a whole number, at least 1, or a range like \"1..8\", not 'x'",
        f"{path}:7: option 'image' is not supported by this version: leave it out",
        f"{path}:9: stage 'b' is 3: write a table [stage.b]",
        f"{path}:11: stage 'a': run is 5: write 'module:name' or 'file.py:name'",
        f"{path}:12: stage 'a': args is []: write a table, like {{ size = 64 }}",
        f"{path}:13: stage 'a': from is empty: name a stage, or leave it out for a source",
        f"{path}:14: stage 'c' has no run: add run = 'module:name' or 'file.py:name'",
        f"{path}:15: stage 'c': keep is 'last': write 'all' or 'latest'",
        f"{path}:15: stage 'c': from holds 7: name a stage or a list of stages",
        f"{path}:15: stage 'c': there is no edge option 'kep': did you mean 'keep'?",
    ]


def test_another_schema_is_a_fault_at_its_line(write):
    path = write('schema = 2\nname = "p"\n')

    assert faults_of(path) == [f"{path}:1: schema is 2: this version reads schema = 1"]


def test_a_join_of_nothing_that_can_be_read_is_a_fault(write):
    pipeline = zp.Pipeline.load(write(SOURCE + '[stage.b]\nrun = "stages:b"\njoin = [1, 2]\n'))

    with pytest.raises(zp.ConfigError, match="stage 'b': join holds 1: name a stage or a list of stages"):
        pipeline.check()
