"""`zpipe top` beside a real run: what it tells, its terminal, and how it ends."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.integration.test_ending import process_of
from tests.real import DEADLINE_S, Command, Place, wait_until

STAGES = """
[stage.slowly]
run = "stages:slowly"
replay = "seek"
[stage.double]
run = "stages:double"
from = "slowly"
workers = 2
[stage.lines]
run = "zpipe.sinks:jsonl"
args = { path = "lines.jsonl" }
from = "double"
"""


@pytest.fixture
def run(place: Place) -> Iterator[Command]:
    """A run that goes on, all of whose workers live."""
    command = place.start("run", place.pipeline(STAGES))
    wait_until(lambda: sum(worker["state"] == "live" for worker in place.ps()["workers"]) == 4)
    yield command
    stop(command)


def stop(run: Command) -> None:
    if not run.ends_within(0.0):
        run.interrupt()
        run.wait()


def looks(top: Command) -> list[dict[str, Any]]:
    """Return the objects that were printed so far."""
    return [json.loads(line) for line in top.printed(0).splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.usefixtures("run")
def test_one_look_tells_of_stages_and_edges_as_json_and_as_a_table(place: Place) -> None:
    found: list[dict[str, Any]] = []

    def knows_rates() -> bool:
        done = place.run("top", "--once", "--json")
        assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
        found.append(json.loads(done.out))
        return all(row["rate"] for row in found[-1]["edges"])

    wait_until(knows_rates)
    look = found[-1]
    assert (look["run"], look["state"], look["registry_silent_s"]) == ("t", "running", 0.0)
    assert look["span_s"] >= 3.0
    assert look["made"] >= look["settled"] > 0
    stages = {stage["name"]: stage for stage in look["stages"]}
    assert list(stages) == ["slowly", "double", "lines"]
    assert (stages["double"]["workers"], stages["double"]["wanted"]) == (2, 2)
    for stage in stages.values():
        assert stage["busy"] + stage["starved"] + stage["blocked"] == pytest.approx(1.0)
        assert stage["rate"] > 0 and stage["calls"] > 0
        assert 0 < stage["p50_s"] <= stage["p95_s"] <= stage["p99_s"]
    assert stages["slowly"]["p50_s"] > 0.0009  # it sleeps for 1 ms
    for edge, (above, below) in zip(look["edges"], (("slowly", "double"), ("double", "lines")), strict=True):
        assert (edge["from"], edge["to"], edge["transports"]) == (above, below, ["ipc", "shm"])
        assert edge["bytes_s"] > 0 and 0 < edge["p50_s"] <= edge["p95_s"]
    done = place.run("top", "--once")
    assert (done.code, done.err) == (0, "")
    assert "\x1b" not in done.out
    lines = done.out.splitlines()
    assert lines[0].startswith("t  running  ")
    assert [line.split()[0] for line in lines[2:6]] == ["stage", "slowly", "double", "lines"]
    assert [line.split("  ")[0] for line in lines[7:10]] == ["edge", "slowly -> double", "double -> lines"]


def test_looks_follow_each_other_until_the_end_which_is_told(place: Place, run: Command) -> None:
    top, table = place.start("top", "--json", "--every", "0.2"), place.start("top", "--every", "0.2")
    wait_until(lambda: len(looks(top)) >= 2 and "edge " in table.printed(0))
    stop(run)
    assert (top.wait().code, table.wait().code) == (0, 0)
    *_, ending = looks(top)
    assert (ending["run"], ending["state"], ending["error"]) == ("t", "interrupted", "")
    assert table.printed(0).splitlines()[-1].startswith("t: interrupted in ")
    assert "\x1b" not in table.printed(0)


def test_a_run_whose_launcher_was_killed_has_ended_without_a_report(place: Place, run: Command) -> None:
    top = place.start("top", "--json", "--every", "0.2")
    wait_until(lambda: looks(top))
    run.process.kill()
    run.ends_within(DEADLINE_S)
    assert top.wait().code == 0
    ending = looks(top)[-1]
    assert (ending["state"], ending["error"].startswith("its launcher is gone")) == (None, True)


@pytest.mark.usefixtures("run")
def test_while_the_registry_is_silent_the_last_table_stays(place: Place) -> None:
    top = place.start("top", "--json", "--every", "0.2")
    wait_until(lambda: looks(top))
    registry = process_of(place, "zpipe.processes.registry")
    registry.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: looks(top)[-1]["registry_silent_s"] > 1.0)
    finally:
        registry.send_signal(signal.SIGCONT)
    silent = looks(top)[-1]
    assert [stage["name"] for stage in silent["stages"]] == ["slowly", "double", "lines"]
    seen = len(looks(top))
    wait_until(lambda: any(not look["registry_silent_s"] for look in looks(top)[seen:]))
    top.interrupt()
    assert (top.wait().code, top.printed(1)) == (0, "")


def test_without_a_registry_it_is_one_line(place: Place) -> None:
    done = place.run("top", "--registry", "tcp://127.0.0.1:1")
    assert (done.code, done.out, len(done.faults)) == (1, "", 1)
    assert "no registry answers at tcp://127.0.0.1:1" in done.err


def test_without_a_registry_it_is_one_line_in_a_terminal_too(place: Place) -> None:
    with terminal(place, 120, 30, "--registry", "tcp://127.0.0.1:1") as screen:
        code, shown = screen.ended()
    assert code == 1
    assert shown.rpartition("\x1b[?1049l")[2].count("zpipe: no registry answers at tcp://127.0.0.1:1") == 1
    assert "Traceback" not in shown


class Terminal:
    """`zpipe top` in a terminal of so many columns and lines."""

    def __init__(self, place: Place, columns: int, lines: int, *argv: str) -> None:
        self._ours, theirs = os.openpty()
        self._resize(columns, lines)
        env = {key: value for key, value in place.env.items() if key not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "zpipe", "top", "--every", "0.2", *argv], cwd=place.folder, stdin=theirs,
            stdout=theirs, stderr=theirs, env={**env, "TERM": "xterm"}, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.shown = ""

    def _resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        """Drag the terminal to another size, and forget what it has shown."""
        self._resize(columns, lines)
        self.shown = ""
        self.process.send_signal(signal.SIGWINCH)

    def shows(self, words: str) -> str:
        """Wait until these words have been shown, and return all that was.  Raises TimeoutError."""
        end_s = time.monotonic() + DEADLINE_S
        while words not in self.shown:
            if not select.select([self._ours], [], [], max(0.0, end_s - time.monotonic()))[0]:
                raise TimeoutError(f"{words!r} was not shown: {self.shown!r}")
            self.shown += self._read()
        return self.shown

    def ended(self) -> tuple[int, str]:
        """Wait for the end, and return the exit code and all that was shown."""
        while some := self._read():
            self.shown += some
        return self.process.wait(DEADLINE_S), self.shown

    def _read(self) -> str:
        try:
            return os.read(self._ours, 65536).decode(errors="replace")
        except OSError:  # nobody has it open any more
            return ""

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@contextmanager
def terminal(place: Place, columns: int, lines: int, *argv: str) -> Iterator[Terminal]:
    made = Terminal(place, columns, lines, *argv)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    ("columns", "lines", "line"), [(30, 30, "the terminal is 30 columns wide"), (80, 5, "the terminal is 5 lines high")]
)
def test_a_terminal_too_small_is_one_line_and_exit_2(place: Place, columns: int, lines: int, line: str) -> None:
    with terminal(place, columns, lines, "--registry", "tcp://127.0.0.1:1") as screen:
        code, shown = screen.ended()
    assert code == 2
    assert shown.startswith(f"zpipe: {line}: zpipe top needs ") and shown.count("\n") == 1


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_terminal_is_drawn_anew_when_its_size_changes(place: Place, which: signal.Signals) -> None:
    with terminal(place, 120, 30) as screen:
        assert "\x1b[?1049h" in screen.shows("double -> lines")
        assert "starved %" in screen.shown
        screen.resize(60, 30)
        assert "starved %" not in screen.shows("double -> lines")
        screen.resize(40, 30)
        screen.shows("the terminal is 40 columns wide")
        screen.resize(120, 30)
        screen.shows("starved %")
        screen.process.send_signal(which)
        code, shown = screen.ended()
    assert code == 0
    left = shown.rpartition("\x1b[?1049l")[2]  # what stays when the terminal is as it was before
    assert "t  running" in left and "double -> lines" in left


def test_the_end_of_a_run_ends_a_terminal_too(place: Place, run: Command) -> None:
    with terminal(place, 120, 30) as screen:
        screen.shows("double -> lines")
        stop(run)
        code, shown = screen.ended()
    assert code == 0
    assert shown.splitlines()[-1].startswith("t: interrupted in ")
