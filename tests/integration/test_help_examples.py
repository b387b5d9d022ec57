"""The examples of `--help` are run as they stand, in the folder that `zpipe new` makes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.real import Command, Done, Place, wait_until
from zpipe.cli.main import cli

HERE = Path(__file__).parent
ADDRESS = "tcp://127.0.0.1:5570"  # of the examples; tests take a free one instead
OUTSIDE = ("push", "pull", "call")
RUNS_ON = ("logs", "registry", "worker")  # until they are told to end


def verbs() -> Iterator[tuple[str, click.Command]]:
    yield "", cli
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        yield name, command
        for verb, part in getattr(command, "commands", {}).items():
            yield f"{name} {verb}", part


def examples_of(command: click.Command) -> list[str]:
    """Return the command lines at the end of a command's help."""
    return [" ".join(line.split()) for line in (command.epilog or "").split("Example: ")[1:]]


EXAMPLES = [(verb, line) for verb, command in verbs() for line in examples_of(command)]


@pytest.fixture
def flowers(tmp_path: Path) -> Iterator[Place]:
    """A folder beside a new project, with `zpipe` on the PATH."""
    program = tmp_path / "bin" / "zpipe"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m zpipe "$@"\n')
    program.chmod(0o755)
    (tmp_path / "beside").mkdir()
    with Place(tmp_path) as place:
        place.env["PATH"] = f"{program.parent}{os.pathsep}{place.env['PATH']}"
        place.env["HOME"] = str(tmp_path)
        assert place.run("new", "flowers").code == 0
        place.folder = tmp_path / "flowers"
        (place.folder / "item.json").write_text('{"x": 1.0}\n')
        (place.folder / "items.json").write_text("1 2 3\n")
        worker = place.folder / "worker"
        worker.write_text(f"#!/bin/sh\nexec {sys.executable} {HERE / 'foreign.py'} doubles\n")
        worker.chmod(0o755)
        stages = place.folder / "stages.py"
        stages.write_text(stages.read_text().replace("    return point if", "    print(point)\n    return point if"))
        yield place
        assert place.left() == []


def live(place: Place) -> tuple[Command, str]:
    """Start a long run of the project; return it with its address when all its workers are there."""
    run = place.start("run", "--set", "points.count=1000000000")
    address = run.says("registry tcp://").split()[2].rstrip(",")
    stages = (place.folder / "pipeline.toml").read_text()
    workers = 7 if "listen" in stages else 6  # a gate is one, whoever works there
    wait_until(lambda: [row["state"] for row in place.ps()["workers"]] == ["live"] * workers)
    return run, address


def open_gates(place: Place) -> None:
    """Let the project be reached from outside: its stage `clean`, and a source and a sink beside it."""
    file = place.folder / "pipeline.toml"
    whole = file.read_text().replace("workers = 2\n", "workers = 2\nlisten = { call = 0 }\n")
    file.write_text(
        whole + '[stage.tweets]\nlisten = { call = 0 }\n[stage.labels]\nfrom = "tweets"\nlisten = { call = 0 }\n'
    )
    (place.folder / "tweets.jsonl").write_text('{"label": "good"}\n' * 10)


def end(command: Command, verb: str = "run") -> Done:
    """Press Ctrl-C; who then waits for workers that nobody starts here, or for those outside, needs it twice."""
    command.interrupt()
    if verb in ("registry", "push"):
        command.says("again to stop now")
        command.interrupt()
    return command.wait()


def give_up_one(place: Place) -> None:
    """Run the project so that one point is a dead letter, and mend its code."""
    stages = place.folder / "stages.py"
    whole = stages.read_text()
    stages.write_text(whole.replace("    print(point)\n", "    1 / (zp.item().position != 17)\n"))
    assert place.run("run", "--until", "clean", "--set", "clean.on_error=dead-letter").code == 3
    stages.write_text(whole)


def has_begun(place: Place, verb: str, command: Command) -> bool:
    """Tell whether a command does what it is for: a worker says nothing, but is seen."""
    if verb == "worker":
        return len([row for row in place.ps()["workers"] if row["state"] == "live"]) > 6
    return bool(command.printed(0) + command.printed(1))


@pytest.mark.parametrize("verb", [verb for verb, _ in verbs()])
def test_the_help_of_each_command_ends_with_an_example(verb: str, tmp_path: Path) -> None:
    with Place(tmp_path) as place:
        done = place.run(*verb.split(), "--help")
    assert (done.code, done.err) == (0, "")
    last = done.out.strip().splitlines()[-1].strip()
    assert last.startswith(f"Example: zpipe {verb or 'new'} ")


@pytest.mark.parametrize(("verb", "line"), EXAMPLES, ids=[line for _, line in EXAMPLES])
def test_an_example_runs(flowers: Place, verb: str, line: str) -> None:
    needs_run = any(parameter.name == "address" for parameter in dict(verbs())[verb].params)
    if verb.startswith("dead"):
        give_up_one(flowers)
    if verb == "keys revoke":
        assert flowers.run("keys", "add", line.split()[-1]).code == 0
    if verb in OUTSIDE:
        open_gates(flowers)
    run, address = live(flowers) if needs_run else (None, "tcp://127.0.0.1:0")
    if verb == "pull":
        assert flowers.run("push", "tweets", "tweets.jsonl").code == 0
    folder = flowers.folder.with_name("beside") if "zpipe new" in line else flowers.folder
    shell = ("sh", "-c", f"{'exec ' * (verb in RUNS_ON)}{line.replace(ADDRESS, address)}")
    command = Command(shell, folder, flowers.env)
    if verb in RUNS_ON:
        wait_until(lambda: command.ends_within(0.05) or has_begun(flowers, verb, command))
        assert not command.ends_within(0), command.wait()
        assert end(command, verb).code == 130
    else:
        done = command.wait()
        assert done.code == 0, done.err
        assert verb != "pull" or done.out == '"good"\n' * 10
        if verb == "up":
            assert [row["state"] for row in flowers.ps()["workers"]] == ["live"] * 6
            assert flowers.run("down").code == 0
    if run is not None:
        assert (run.wait() if verb == "down" else end(run, verb)).code == 130
