"""The fork server, with the command lines of real workers that find no registry, and a module of the test's own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zpipe.processes import forkserver
from zpipe.processes.forkserver import Forked, ForkServer
from zpipe.processes.supervisor import Program, Supervisor

ARGV = (sys.executable, "-m", "zpipe.processes.worker")
HELP = (*ARGV, "--help")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every program is started anew")


@pytest.fixture
def server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def start(server: ForkServer, log: Path, argv: tuple[str, ...] = HELP, **env: str) -> Forked | None:
    with open(log, "ab") as file:
        return server.start(argv, {**os.environ, **env}, file.fileno(), ())


def started(server: ForkServer, log: Path, argv: tuple[str, ...] = HELP, **env: str) -> Forked:
    found = start(server, log, argv, **env)
    assert found is not None
    return found


def server_of(server: ForkServer) -> int:
    assert server._process is not None
    return server._process.pid


def test_a_forked_program_is_a_child_that_writes_to_its_log(server: ForkServer, log: Path) -> None:
    assert started(server, log).wait() == 0
    assert log.read_text().startswith("usage: python -m zpipe.processes.worker")
    assert started(server, log, ARGV).wait() == 2  # no stage
    assert "the following arguments are required: stage" in log.read_text()


def test_one_that_waits_is_seen_under_its_own_command_line_and_group(server: ForkServer, log: Path) -> None:
    argv = (*ARGV, "clean", "--registry", "tcp://127.0.0.1:1", "--parent", str(os.getpid()))
    forked = started(server, log, argv, ZPIPE_WORKER="clean")
    shown = Path(f"/proc/{forked.pid}/cmdline")
    while b"clean" not in shown.read_bytes():  # it does that at once
        assert os.waitid(os.P_PID, forked.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    assert shown.read_bytes().rstrip(b"\0").split(b"\0") == [word.encode() for word in argv]
    assert os.getpgid(forked.pid) == forked.pid
    os.kill(forked.pid, signal.SIGKILL)
    assert forked.wait() == -signal.SIGKILL


def test_only_workers_and_registries_of_the_same_environment_are_forked(server: ForkServer, log: Path) -> None:
    assert start(server, log, (sys.executable, "-c", "pass")) is None
    assert start(server, log, ("/usr/bin/python3", "-m", "zpipe.processes.worker", "--help")) is None
    assert started(server, log).wait() == 0
    assert start(server, log, HELP, OMP_NUM_THREADS="7") is None  # read by libraries when they are imported
    assert started(server, log, HELP, CUDA_VISIBLE_DEVICES="3", ZPIPE_WORKER="fit").wait() == 0


def test_a_server_has_one_thread_and_its_children_end_without_it(server: ForkServer, log: Path) -> None:
    started(server, log).wait()
    pid = server_of(server)
    assert os.listdir(f"/proc/{pid}/task") == [str(pid)]
    server.close()
    assert not Path(f"/proc/{pid}").exists()


def test_one_that_was_killed_is_replaced(server: ForkServer, log: Path) -> None:
    started(server, log).wait()
    before = server_of(server)
    os.kill(before, signal.SIGKILL)
    assert start(server, log) is None  # this one starts in the ordinary way
    assert started(server, log).wait() == 0
    assert server_of(server) != before


def test_one_that_hangs_is_replaced(server: ForkServer, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forkserver, "BORN_S", 0.05)
    monkeypatch.setattr(forkserver, "END_S", 0.05)
    started(server, log).wait()
    os.kill(server_of(server), signal.SIGSTOP)
    assert start(server, log) is None
    monkeypatch.undo()
    assert started(server, log).wait() == 0


def test_orphans_of_a_dead_program_leave_no_zombies(tmp_path: Path) -> None:
    said = tmp_path / "said"
    code = (
        "import os, signal, subprocess, sys\n"
        f"child = subprocess.Popen(['sleep', '1000'])\nprint(child.pid, file=open({str(said)!r}, 'w'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    with Supervisor() as supervisor:
        assert supervisor._fork_server.start(HELP, os.environ, None, ()) is not None  # which makes orphans ours
        supervisor.add(Program("a-0", (sys.executable, "-c", code), os.environ))
        while not supervisor.step(30.0):
            pass
        orphan = int(said.read_text())
        while Path(f"/proc/{orphan}").exists():
            supervisor.step(0.01)
