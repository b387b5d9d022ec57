"""The command line from outside: what it prints, and how it exits."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import zpipe
from zpipe.processes.runfolder import LiveRun, announce

STAGES = """
def numbers(count=3):
    yield from range(count)

def double(x):
    return 2 * x

def show(x):
    print(x)
"""
PIPELINE = """
schema = 1
name = "demo"
[stage.numbers]
run = "stages:numbers"
[stage.double]
run = "stages:double"
from = "numbers"
workers = 2
[stage.show]
run = "stages:show"
from = "double"
"""
PYTHON = """
import zpipe as zp
from stages import double, numbers, show

def pipeline():
    x = zp.stage(numbers)
    x = zp.stage(double, workers=2)(x)
    return zp.Pipeline("demo", zp.stage(show)(x))

def broken():
    return 1 / 0

def nothing():
    return 7
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "stages.py").write_text(STAGES)
    (tmp_path / "p.toml").write_text(PIPELINE)
    (tmp_path / "p.py").write_text(PYTHON)
    monkeypatch.setenv("PYTHONPATH", str(Path(zpipe.__file__).parents[1]))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("ZPIPE_REGISTRY", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*argv: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "zpipe", *argv]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout, done.stderr


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("target", ["p.toml", "p.py", "p.py:pipeline"])
def test_a_good_pipeline_is_ok_in_every_form(target: str) -> None:
    assert run("check", target) == (0, "ok: 3 stages, 4 workers\n", "")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("target", ["p.toml", "p.py"])
def test_set_changes_a_value(target: str) -> None:
    assert run("check", target, "--set", "double.workers=8")[1] == "ok: 3 stages, 10 workers\n"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("target", ["p.toml", "p.py"])
def test_the_graph_of_a_pipeline_is_drawn(target: str) -> None:
    code, out, err = run("graph", target, "--set", "double.workers=8")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "demo",
        "",
        "● numbers  source     1 worker   stages:numbers",
        "│",
        "● double   transform  8 workers  stages:double",
        "│",
        "● show     sink       1 worker   stages:show",
        "",
        "3 stages, 10 workers",
    ]


@pytest.mark.usefixtures("folder")
def test_a_graph_is_drawn_where_there_are_no_box_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    code, out, err = run("graph", "p.toml")
    assert (code, err) == (0, "")
    assert out.splitlines()[2:4] == ["* numbers  source     1 worker   stages:numbers", "|"]


@pytest.mark.usefixtures("folder")
def test_a_graph_is_printed_for_mermaid() -> None:
    code, out, _ = run("graph", "p.toml", "--mermaid")
    assert code == 0
    assert out.splitlines()[0] == "flowchart LR"
    assert '    s_double["double<br/>2 workers"]' in out.splitlines()


@pytest.mark.usefixtures("folder")
def test_a_graph_with_faults_is_not_drawn() -> None:
    code, out, err = run("graph", "p.toml", "--set", "double.workers=0", "--set", "show.from=doubel")
    assert (code, out, len(err.splitlines())) == (2, "", 2)
    assert "did you mean 'double'?" in err


@pytest.mark.usefixtures("folder")
def test_the_schema_is_printed_as_json() -> None:
    code, out, err = run("schema")
    assert (code, err) == (0, "")
    assert json.loads(out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_fault_is_listed_at_once(folder: Path) -> None:
    (folder / "p.toml").write_text(PIPELINE.replace("stages:double", "stages:duoble").replace("workers", "wokers"))
    code, out, err = run("check", "p.toml")
    assert (code, out) == (2, "")
    assert "did you mean 'double'?" in err
    assert "did you mean 'workers'?" in err
    assert all(line.startswith("zpipe: ") for line in err.splitlines())


@pytest.mark.usefixtures("folder")
def test_a_run_with_a_fault_starts_nothing(folder: Path) -> None:
    code, out, err = run("run", "p.toml", "--set", "double.workers=0")
    assert (code, out) == (2, "")
    assert "double" in err
    assert not (folder / "runs").exists()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["check", "q.toml"], "q.toml"),
        (["check", "p.json"], "'p.json' is no pipeline: name a .toml file, or file.py:function"),
        (["check", "p.py:pipelin"], "did you mean 'pipeline'?"),
        (["check", "p.py:nothing"], "p.py:nothing() returned a int: it must return a zp.Pipeline"),
        (["rnu", "p.toml"], "No such command 'rnu'"),
        (["run", "p.toml", "--chaos", "0"], "0.0 is not in the range x>0"),
        (
            ["run", "p.toml", "--inline", "--chaos", "1"],
            "--chaos kills worker processes and --inline has none",
        ),
        (["run", "p.toml", "--limit", "0"], "0 is not in the range x>=1"),
        (["run", "p.toml", "--until", "duoble"], "pipeline 'demo' has no stage 'duoble': did you mean 'double'?"),
        (["run", "p.toml", "--events", "no/e"], "cannot write events to no/e: No such file or directory: name a file"),
        (["logs"], "no run of yours is alive here: name one with --run FOLDER"),
        (["logs", "--run", "no"], "no is no run folder: it has no plan.json that can be read"),
        (["logs", "--registry", "tcp://127.0.0.1:1"], "no run of yours has its registry at tcp://127.0.0.1:1 here"),
        (["graph"], "there is no pipeline.toml here: name a PIPELINE, a .toml file or file.py:function"),
        (["graph", "p.toml", "--live"], "leave PIPELINE and --set out"),
        (["graph", "--live"], "no run of yours is alive here"),
        (["graph", "--live", "--registry", "tcp://127.0.0.1:1"], "has the registry tcp://127.0.0.1:1"),
        (["drain", "double-1"], "no run of yours is alive here: name one with --registry ADDR or ZPIPE_REGISTRY"),
        (["down"], "no run of yours is alive here: name one with --registry ADDR or ZPIPE_REGISTRY"),
        (["ps"], "no run of yours is alive here: name one with --registry ADDR or ZPIPE_REGISTRY"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(argv: list[str], line: str) -> None:
    code, out, err = run(*argv)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("zpipe: ")
    assert line in err


@pytest.mark.usefixtures("folder")
def test_a_pipeline_function_that_raises_shows_the_users_own_lines_only() -> None:
    code, _, err = run("check", "p.py:broken")
    assert code == 1
    assert "return 1 / 0" in err
    assert "zpipe/cli" not in err
    assert err.splitlines()[-1] == "zpipe: p.py:broken() raised ZeroDivisionError: division by zero"


@pytest.mark.usefixtures("folder")
def test_a_registry_that_is_not_there_is_one_line() -> None:
    address = free_address()
    code, out, err = run("worker", "double", "--registry", address)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert f"no registry answers at {address} within 5 s" in err


@pytest.mark.usefixtures("folder")
def test_an_address_that_is_none_is_one_line() -> None:
    code, _, err = run("ps", "--registry", "localhost")
    assert code == 1
    assert err == "zpipe: 'localhost' is no registry's address: write tcp://HOST:PORT, e.g. tcp://127.0.0.1:5570\n"


@pytest.mark.usefixtures("folder")
def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        code, out, err = run("registry", "p.toml", "--bind", address)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert f"the registry did not start: {address} is in use" in err


@pytest.mark.usefixtures("folder")
def test_several_live_runs_are_listed() -> None:
    announce(LiveRun("a", "tcp://127.0.0.1:1111", os.getpid(), "/runs/a"))
    announce(LiveRun("b", "tcp://127.0.0.1:2222", os.getpid(), "/runs/b"))
    code, _, err = run("ps")
    assert code == 2
    assert "--registry tcp://127.0.0.1:1111" in err
    assert "--registry tcp://127.0.0.1:2222" in err


@pytest.mark.usefixtures("folder")
def test_ps_and_graph_find_the_only_live_run() -> None:
    command = [sys.executable, "-m", "zpipe", "registry", "p.toml"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as registry:
        assert registry.stderr
        start = registry.stderr.readline()
        code, out, _ = run("ps", "--json")
        graph = run("graph", "--live")
        named = run("graph", "--live", "--mermaid", "--registry", start.split()[2].strip(","))
        registry.terminate()
        registry.stderr.readline()
        registry.terminate()
        registry.communicate(timeout=60)
    table = json.loads(out)
    assert (code, table["name"], table["state"], table["workers"]) == (0, "demo", "running", [])
    assert start.startswith("demo: registry tcp://127.0.0.1:")
    assert registry.returncode == 130
    assert (graph[0], graph[2]) == (0, "")
    lines = graph[1].splitlines()
    assert lines[0] == "demo: running"
    assert lines[4] == "● double   transform  0 workers  0 in/s  stages:double"
    assert lines[-1] == "3 stages, 0 workers"
    assert '    s_double["double<br/>0 workers<br/>0 in/s"]' in named[1].splitlines()
