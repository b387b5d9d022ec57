"""The schema for editors: it takes what the check takes, and says of each value what its rule says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from zpipe.values.options import FIELDS, default_of
from zpipe.values.schema import schema
from zpipe.values.stage import BUILT_INS

ROOT = Path(__file__).parents[2]
TOML = re.compile(r"```toml\n(schema = 1\n.*?)```", re.DOTALL)
FILES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for top in ("compose", "services", "tests")
    for path in sorted((ROOT / top).rglob("*.toml"))
}
PAGES = {
    f"{path.name}-{n}": text
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for n, text in enumerate(TOML.findall(path.read_text(encoding="utf-8")))
}
VALUES = (
    *("1..8", "3..3", "0..4", "1..", "..2", "1-8", " 1..8", "1..8..9"),
    *(0, 1, -1, 2.5, True, False, "", "x", "seek", "no", [], {}, [0, 1], [0, 0], ["cuda:0", 1], [2.5], [[1]]),
    *({"A": "b"}, {"A": 1}, {"lr": [0.1, "x", True]}, {"lr": []}, {"lr": 1}, {"lr": ["a/b"]}, {"lr": [[1]]}),
)
CANNOT_SAY = ([0, "0"], {"lr": [1, 1]}, "8..1")  # names something twice, as text; is a range turned round

SOURCE = '[stage.a]\nrun = "m:f"\n'
READER = f'{SOURCE}[stage.b]\nrun = "m:f"\nfrom = "a"\n'


def errors(text, top='schema = 1\nname = "p"\n'):
    """Return where the schema refuses a pipeline file."""
    found = Draft202012Validator(schema()).iter_errors(tomllib.loads(top + text))
    return sorted(".".join(map(str, error.absolute_path)) for error in found)


def takes(option, value):
    whole = schema()
    return Draft202012Validator(whole["$defs"]["stage"]["properties"][option]).is_valid(value)


def test_it_is_a_schema():
    Draft202012Validator.check_schema(schema())


def test_there_are_files_and_pages():
    assert {"compose/textures/pipeline.toml", "tests/chaos/pipeline.toml"} <= FILES.keys()
    assert len(PAGES) >= 2


@pytest.mark.parametrize("text", [*FILES.values(), *PAGES.values()], ids=[*FILES, *PAGES])
def test_the_pipeline_files_of_the_repository_are_good(text):
    assert errors(text, top="") == []


@pytest.mark.parametrize("option", FIELDS)
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_the_shape_of_an_option_says_what_its_rule_says(option, value):
    assert takes(option, value) == (FIELDS[option].metadata["rule"](value) is None)


@pytest.mark.parametrize("value", CANNOT_SAY, ids=repr)
def test_what_a_shape_cannot_say_it_takes(value):
    refused = [name for name, field in FIELDS.items() if field.metadata["rule"](value) and not takes(name, value)]

    assert len(refused) == len(FIELDS) - 1


@pytest.mark.parametrize("option", FIELDS)
def test_an_option_may_be_a_variable(option):
    assert takes(option, "${NAME:-default}") or option == "env"


@pytest.mark.parametrize(
    "text",
    [
        f'{SOURCE}workers = "${{N:-3}}"',
        f'{SOURCE}args = {{ path = "${{DATA:-data/}}", when = 2026-01-01 }}',
        f'{SOURCE}grid = {{ lr = ["${{LR:-0.1}}", 0.01] }}',
        f'{SOURCE}grid = {{ lr = "${{LRS:-[0.1, 0.01]}}" }}',
        f'{SOURCE}env = {{ HOME = "${{HOME}}/x" }}',
        f'{SOURCE}[stage.b]\nuse = "text.toml:clean"\nfrom = "a"\nworkers = 2',
        f'{SOURCE}[stage.b]\nuse = "parts/text.toml"\nfrom = "a"\nargs.clean.size = 3\nworkers.clean = 2',
        '[stage.b]\nuse = "${PART:-text.toml}"',
        f"{SOURCE}ordered = false",
        f"{READER}epochs = 1",
        f'{READER}[stage.c]\nrun = "file.py:f"\nfrom = ["a", {{ stage = "b" }}]',
        f'[defaults]\nworkers = 2\nepochs = 2\nordered = true\nenv = {{ A = "1" }}\n{READER}',
        f'{SOURCE}[stage.b]\nrun = "zpipe.stages:batch"\nfrom = "a"\nargs = {{ size = 3, drop_last = true }}',
        f'{SOURCE}[stage.b]\nrun = "zpipe.stages:batch"\nfrom = "a"\ngrid = {{ size = [3, 4] }}',
    ],
)
def test_a_good_file_is_taken(text):
    assert errors(text) == []


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("", [""]),
        ("stage = {}", ["stage"]),
        (f"colour = 3\n{SOURCE}", [""]),
        (f"[defaults]\nwokers = 2\n{SOURCE}", ["defaults"]),
        (f"[defaults]\nworkers = 0\n{SOURCE}", ["defaults.workers"]),
        ('[stage.A_b]\nrun = "m:f"', ["stage"]),
        ("[stage.a]\nworkers = 2", ["stage.a"]),
        ('[stage.a]\nrun = "f"', ["stage.a.run"]),
        (f"{SOURCE}wokers = 2", ["stage.a"]),
        (f"{SOURCE}restart = 2", ["stage.a"]),
        (f"{SOURCE}workers = 0", ["stage.a.workers"]),
        (f'{SOURCE}use = "text.toml:clean"', ["stage.a"]),
        ('[stage.a]\nuse = "text"', ["stage.a.use"]),
        ('[stage.a]\nuse = "text.toml"\nrun = "m:f"', ["stage.a"]),
        ('[stage.a]\nuse = "text.toml"\nworkers = 2\nargs.clean = 3', ["stage.a.args.clean", "stage.a.workers"]),
        (f'{SOURCE}workers = "2"', ["stage.a.workers"]),
        (f'{SOURCE}replay = "yes"', ["stage.a.replay"]),
        (f"{SOURCE}env = {{ A = 1 }}", ["stage.a.env.A"]),
        (f"{SOURCE}args = 3", ["stage.a.args"]),
        (f"{SOURCE}ordered = true", ["stage.a.ordered"]),
        (f"{SOURCE}checkpoint = 3", ["stage.a.checkpoint"]),
        (f"{READER}epochs = 2", ["stage.b.epochs"]),
        (f'{READER}replay = "seek"', ["stage.b.replay"]),
        (f'{SOURCE}[stage.b]\nrun = "m:f"\nfrom = []', ["stage.b.from"]),
        (f'{SOURCE}[stage.b]\nrun = "m:f"\nfrom = [3]', ["stage.b.from.0"]),
        (f'{SOURCE}[stage.b]\nrun = "m:f"\nfrom = {{ stage = "a", keep = 1 }}', ["stage.b.from.keep"]),
        (
            f'{SOURCE}[stage.b]\nrun = "zpipe.stages:batch"\nfrom = "a"\nargs = {{ size = 0, siez = 3 }}',
            ["stage.b.args", "stage.b.args.size"],
        ),
    ],
)
def test_a_bad_file_is_refused_where_it_is_bad(text, at):
    assert errors(text) == at


@pytest.mark.parametrize(("top", "at"), [('name = "p"\n', [""]), ('schema = 2\nname = "p"\n', ["schema"])])
def test_another_schema_is_refused(top, at):
    assert errors(SOURCE, top=top) == at


@pytest.mark.parametrize("run", BUILT_INS)
def test_the_args_of_a_built_in_are_known(run):
    args = BUILT_INS[run]
    text = f'{SOURCE}[stage.b]\nrun = "{run}"\nfrom = "a"\n'

    assert errors(f"{text}args = {{ {', '.join(f'{name} = []' for name in args)} }}") == sorted(
        f"stage.b.args.{name}" for name in args
    )


@pytest.mark.parametrize("option", FIELDS)
def test_the_page_says_of_an_option_what_editors_show(option):
    page = (ROOT / "docs" / "stages.md").read_text(encoding="utf-8")
    field = FIELDS[option]
    of = {"source": "sources", "reader": "readers", "": "all"}[field.metadata["of"]]
    row = next(line for line in page.splitlines() if re.match(rf"\| [^|]*`{option}`", line))

    assert row.endswith(f" | {of} | {field.metadata['says']} |")
    assert takes(option, default_of(field)) or default_of(field) is None
