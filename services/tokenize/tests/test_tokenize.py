"""The tokenizer as a stage: Node beside Python, under kills, and with what is no text.  Needs Node and its modules."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real import ROOT, Place, lines

HERE = Path(__file__).parents[1]
STAGES = """
def texts(count, start=0):
    for k in range(start, count):
        yield {"id": k, "text": f"Item No. {k}, isn't it?"} if k % 2 else f"Item No. {k}, isn't it?"


def odd(count):
    yield from ("fine", 7, {"id": 1}, {"text": "fine"})
"""

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (HERE / "node_modules").is_dir(),
    reason="needs Node, and its modules: cd services/tokenize && npm install --no-package-lock",
)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Place(tmp_path) as made:
        (tmp_path / "texts.py").write_text(STAGES)
        yield made


def pipeline(place: Place, source: str, count: int, *more: str) -> str:
    return place.pipeline(f"""
[stage.texts]
run = "texts:{source}"
args = {{ count = {count} }}
[stage.tokenize]
cmd = ["node", "{HERE / "tokenize.js"}"]
from = "texts"
args = {{ locale = "en" }}
{chr(10).join(more)}
[stage.out]
run = "zpipe.sinks:jsonl"
from = "tokenize"
args = {{ path = "out.jsonl" }}
ordered = true
""")


def words(k: int) -> list[str]:
    return ["item", "no", str(k), "isn't", "it"]


@pytest.mark.parametrize("argv", [(), ("--chaos", "0.5", "--seed", "2")])
def test_every_text_is_split_once(place: Place, argv: tuple[str, ...]) -> None:
    count = 3000
    done = place.run("run", pipeline(place, "texts", count, "workers = 2"), *argv)
    assert done.code == 0, done.err
    found = lines(done.folder / "out.jsonl")
    assert [x["words"] if isinstance(x, dict) else x for x in found] == [words(k) for k in range(count)]
    assert [x["id"] for x in found if isinstance(x, dict)] == list(range(1, count, 2))


def test_what_is_no_text_is_a_dead_letter_with_the_reason(place: Place) -> None:
    done = place.run("run", pipeline(place, "odd", 0, 'on_error = "dead-letter"'))
    assert done.code == 3, done.err
    assert lines(done.folder / "out.jsonl") == [["fine"], {"text": "fine", "words": ["fine"]}]
    said = place.run("dead", "ls", "--run", str(done.folder)).out
    assert "no text but number" in said and "no text but undefined" in said, said


def test_the_modules_are_those_that_the_package_names() -> None:
    package = json.loads((HERE / "package.json").read_text())
    for name, version in package["dependencies"].items():
        there = json.loads((HERE / "node_modules" / name / "package.json").read_text())
        assert there["version"] == version
    assert "services/tokenize/tokenize.js" in (HERE / "README.md").read_text()
    assert (ROOT / "services/tokenize/tokenize.js").is_file()
