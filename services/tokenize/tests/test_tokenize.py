"""The tokenizer as a stage and at gates: Node beside Python, under kills, with what is no text.  Needs its modules."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gates import Worker, gate_at, kill_gate, wait_for_lines
from tests.real import ROOT, Command, Done, Place, lines

HERE = Path(__file__).parents[1]
STAGES = """
def texts(count, start=0):
    for k in range(start, count):
        yield {"id": k, "text": f"Item No. {k}, isn't it?"} if k % 2 else f"Item No. {k}, isn't it?"


def held(count):
    yield from texts(count // 2)
    open("go").close()
    yield from texts(count, count // 2)


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


CMD = f'cmd = ["node", "{HERE / "tokenize.js"}"]'
GATE = "listen = { call = 0 }"


def pipeline(place: Place, source: str, count: int, *more: str) -> str:
    return place.pipeline(f"""
[stage.texts]
run = "texts:{source}"
args = {{ count = {count} }}
[stage.tokenize]
from = "texts"
{chr(10).join(more)}
[stage.out]
run = "zpipe.sinks:jsonl"
from = "tokenize"
args = {{ path = "out.jsonl" }}
ordered = true
""")


def work_at_gate(place: Place, workers: int = 1) -> list[Command]:
    argv = ("node", str(HERE / "tokenize.js"), gate_at(place, "tokenize"))
    return [Command(argv, place.folder, place.env) for _ in range(workers)]


def split(found: list[Any]) -> list[list[str]]:
    return [x["words"] if isinstance(x, dict) else x for x in found]


def words(k: int) -> list[str]:
    return ["item", "no", str(k), "isn't", "it"]


@pytest.mark.parametrize("argv", [(), ("--chaos", "0.5", "--seed", "2")])
def test_every_text_is_split_once(place: Place, argv: tuple[str, ...]) -> None:
    count = 3000
    done = place.run("run", pipeline(place, "texts", count, CMD, 'args = { locale = "en" }', "workers = 2"), *argv)
    assert done.code == 0, done.err
    found = lines(done.folder / "out.jsonl")
    assert split(found) == [words(k) for k in range(count)]
    assert [x["id"] for x in found if isinstance(x, dict)] == list(range(1, count, 2))


class TestWorker(Worker):
    argv = ("node", str(HERE / "tokenize.js"))
    item = "Item No. 1"


def test_workers_at_a_gate_split_every_text_once_and_end_with_it(place: Place) -> None:
    run = place.start("run", pipeline(place, "texts", 1000, GATE))
    workers = work_at_gate(place, 2)
    done = run.wait()
    assert done.code == 0, done.err
    assert split(lines(done.folder / "out.jsonl")) == [words(k) for k in range(1000)]
    assert [worker.wait().code for worker in workers] == [0, 0]


def test_a_gate_that_is_killed_loses_and_doubles_nothing(place: Place) -> None:
    os.mkfifo(place.folder / "go")
    run = place.start("run", pipeline(place, "held", 3000, GATE))
    (worker,) = work_at_gate(place)
    wait_for_lines(place, "out.jsonl", 10)
    kill_gate(place, "tokenize")
    (place.folder / "go").write_text("")
    done = run.wait()
    assert done.code == 0, done.err
    assert split(lines(done.folder / "out.jsonl")) == [words(k) for k in range(3000)]
    assert worker.wait().code == 0


@pytest.mark.parametrize("at", [CMD, f"{CMD}\n{GATE}"], ids=["cmd", "gate"])
def test_what_is_no_text_is_a_dead_letter_with_the_reason(place: Place, at: str) -> None:
    done = place.run("run", pipeline(place, "odd", 0, at, 'on_error = "dead-letter"'))
    assert done.code == 3, done.err
    assert lines(done.folder / "out.jsonl") == [["fine"], {"text": "fine", "words": ["fine"]}]
    said = place.run("dead", "ls", "--run", str(done.folder)).out
    assert "no text but number" in said and "no text but undefined" in said, said


def test_its_own_tests_pass() -> None:
    done = subprocess.run(["npm", "test"], cwd=HERE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_modules_are_those_that_the_package_names() -> None:
    package = json.loads((HERE / "package.json").read_text())
    for name, version in package["dependencies"].items():
        there = json.loads((HERE / "node_modules" / name / "package.json").read_text())
        assert there["version"] == version
    assert "services/tokenize/tokenize.js" in (HERE / "README.md").read_text()
    assert (ROOT / "services/tokenize/tokenize.js").is_file()


SERVICE = """
[stage.texts]
listen = { call = 0 }
[stage.tokenize]
cmd = ["node", "TOKENIZE"]
from = "texts"
listen = { call = 0 }
[stage.out]
run = "zpipe.sinks:jsonl"
from = "tokenize"
args = { path = "out.jsonl" }
"""


def test_the_client_calls_and_puts(place: Place) -> None:
    run = place.start("run", place.pipeline(SERVICE.replace("TOKENIZE", str(HERE / "tokenize.js"))))

    def client(stage: str, *argv: str) -> Done:
        return Command(("node", str(HERE / "client.js"), gate_at(place, stage), *argv), place.folder, place.env).wait()

    called = client("tokenize", "call", '"Some text"', '{"text": "More of it", "n": 7}')
    assert [json.loads(line) for line in called.out.splitlines()] == [
        ["some", "text"],
        {"text": "More of it", "n": 7, "words": ["more", "of", "it"]},
    ]
    failed = client("tokenize", "call", "7")
    assert (failed.code, failed.err.startswith("client: ")) == (1, True)
    (place.folder / "texts.jsonl").write_text("".join(f'"text {k}"\n' for k in range(600)))
    assert client("texts", "put", "texts.jsonl", "mine").out == "600 put\n"
    assert "has its items from other stages" in client("tokenize", "put", "texts.jsonl").err
    assert client("texts", "put", "texts.jsonl", "mine", "--end").out == "600 put\n"
    done = run.wait()
    assert done.code == 0, done.err
    assert sorted(lines(done.folder / "out.jsonl")) == sorted(["text", str(k)] for k in range(600))
