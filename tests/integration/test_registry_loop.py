"""A real registry process and real dialogues with it: joining, its death and return, its end."""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_registry import make_plan
from zpipe.processes.client import Client
from zpipe.processes.control import Control
from zpipe.transport import sockets
from zpipe.values.errors import RegistryError
from zpipe.wire import control as wire

DEADLINE_S = 20.0
DEADLINE_MS = 20_000


class Process:
    """A registry in a process of its own; `start` again binds the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sockets_dir = folder / "sockets"
        self.sockets_dir.mkdir()
        self.address = ""
        self.process: subprocess.Popen[str] | None = None
        (folder / "plan.json").write_text(json.dumps(make_plan().to_dict()))

    def argv(self, parent: int) -> list[str]:
        return [
            *(sys.executable, "-m", "zpipe.processes.registry", "--run-folder", str(self.folder)),
            *("--bind", self.address or "tcp://127.0.0.1:0", "--address-file", str(self.folder / "address")),
            *("--sockets-dir", str(self.sockets_dir), "--parent", str(parent)),
        ]

    def start(self) -> str:
        self.process = subprocess.Popen(self.argv(os.getpid()), stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.address = (self.folder / "address").read_text().strip()
        assert line == f"zpipe: registry of textures at {self.address}\n"
        return self.address

    def kill(self, how: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.wait()

    def wait(self) -> int:
        assert self.process is not None
        self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode


class Life:
    """One worker as the registry sees it."""

    def __init__(self, registry: str, stage: str, **more: Any) -> None:
        self.inc = secrets.randbits(63) or 1
        self.news: dict[str, Any] = {
            "state": "joining",
            "inbox": [f"ipc:///{self.inc}"],
            "acks": [],
            "counters": {},
        }
        self.known: dict[str, Any] = {}
        hello = {"inc": self.inc, "stage": stage, "slot": None, "pid": os.getpid(), "host": "h", **more}
        self.control = Control(registry, hello, lambda: dict(self.news))

    def join(self) -> Life:
        self.control.start()
        self.control.welcome(DEADLINE_S)
        self.news = {**self.news, "state": "live"}
        self.control.beat_now()
        return self

    def until(self, *, after: int = 0, **wanted: Any) -> dict[str, Any]:
        """Wait until the latest that was told holds these values, by another epoch than `after`."""
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            while self.control.inbox:
                state = self.control.inbox.popleft()
                self.known |= state
                if "roster" in state:
                    self.known["peers"] = [peer["worker"] for peer in state["roster"]["peers"]]
            is_news = self.known.get("epoch") != after
            if is_news and all(self.known.get(name) == value for name, value in wanted.items()):
                return self.known
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"waited for {wanted}, knows {self.known}"
            select.select([self.control.fileno()], [], [], left_s)
            self.control.clear()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path)
    process.start()
    yield process
    if process.process is not None and process.process.poll() is None:
        process.kill()


@pytest.fixture
def lives() -> Iterator[list[Life]]:
    found: list[Life] = []
    yield found
    for life in found:
        life.control.stop()


def table(registry: Process) -> dict[str, Any]:
    with Client(registry.address) as client:
        return client.request({"t": "PS"}, DEADLINE_S)


def test_neighbours_hear_of_each_other(registry: Process, lives: list[Life]) -> None:
    lives += [Life(registry.address, stage).join() for stage in ("crops", "clean", "clean")]
    lives[0].until(desired="run", peers=["clean-1", "clean-2"])
    lives[1].until(peers=["crops-1"])
    lives[1].control.request({"t": "BYE", "inc": lives[1].inc, "counters": {"done": 7}}, DEADLINE_S)
    lives[0].until(peers=["clean-2"])
    seen = table(registry)
    assert [row["worker"] for row in seen["workers"]] == ["crops-1", "clean-2"]
    assert seen["stages"][1]["counters"]["done"] == 7


def test_a_welcome_carries_the_run(registry: Process, lives: list[Life]) -> None:
    lives.append(Life(registry.address, "crops").join())
    welcome = lives[0].control.welcome(0.0)
    assert (welcome["run_folder"], welcome["transport"]) == (str(registry.folder), "auto")
    assert welcome["sockets_dir"] == str(registry.sockets_dir)
    assert welcome["watermarks"] == {0: [0, 0, 0]}


def test_workers_come_back_to_a_registry_that_was_killed(registry: Process, lives: list[Life]) -> None:
    lives += [Life(registry.address, stage).join() for stage in ("crops", "clean", "batch")]
    lives[0].news |= {"sources": {0: [42, 1, 40, False]}, "counters": {"out": 50}}
    lives[0].control.beat_now()
    lives[1].until(peers=["crops-1", "batch-1"])
    run_key = lives[0].control.welcome(0.0)["run_key"]
    old = lives[1].until(watermarks={0: [42, 1, 40], 1: [0, 0, 0]})["epoch"]
    address = registry.address
    registry.kill()
    assert registry.start() == address
    for life, names in zip(lives, (["clean-1"], ["crops-1", "batch-1"], ["clean-1"]), strict=True):
        life.until(after=old, peers=names, watermarks={0: [42, 1, 40], 1: [0, 0, 0]})
    seen = table(registry)
    assert [(row["worker"], row["state"]) for row in seen["workers"]] == [
        ("crops-1", "live"),
        ("clean-1", "live"),
        ("batch-1", "live"),
    ]
    assert seen["stages"][0]["counters"]["out"] == 50
    lives.append(Life(registry.address, "clean").join())
    assert lives[-1].control.welcome(0.0)["run_key"] == run_key
    lives[0].until(peers=["clean-1", "clean-2"])


def test_a_request_outlives_the_registry_it_was_put_to(registry: Process, lives: list[Life]) -> None:
    lives.append(Life(registry.address, "clean").join())
    lives[0].until(peers=[])
    registry.kill()
    failed = {
        "t": "FAILED",
        "inc": lives[0].inc,
        "worker": "clean-1",
        "error": "ValueError: no",
        "detail": "",
    }
    answers: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: answers.append(lives[0].control.request(failed, DEADLINE_S)))
    asking.start()
    registry.start()
    asking.join(DEADLINE_S)
    assert [answer["t"] for answer in answers] == ["OK"]
    lives[0].until(desired="exit")
    assert table(registry)["error"] == "ValueError: no"


def test_a_life_declared_dead_is_fenced(registry: Process, lives: list[Life]) -> None:
    lives.append(Life(registry.address, "batch").join())
    lives[0].until(peers=[])
    with Client(registry.address) as client:
        client.request({"t": "DIED", "inc": lives[0].inc, "signal": 9}, DEADLINE_S)
    lives[0].control.beat_now()
    assert select.select([lives[0].control.fileno()], [], [], DEADLINE_S)[0]
    lives[0].control.clear()
    deadline_s = time.monotonic() + DEADLINE_S
    while not lives[0].control.fenced:
        assert select.select([lives[0].control.fileno()], [], [], deadline_s - time.monotonic())[0]
        lives[0].control.clear()
    assert "batch-1 died" in lives[0].control.fenced_why


def test_a_place_that_becomes_free_is_taken(registry: Process, lives: list[Life]) -> None:
    lives.append(Life(registry.address, "batch").join())
    second = Life(registry.address, "batch")
    lives.append(second)
    second.control.start()
    with pytest.raises(RegistryError, match="has a memory and takes one worker") as refused:
        second.control.welcome(0.3)
    assert refused.value.code == 409
    lives[0].control.request({"t": "BYE", "inc": lives[0].inc}, DEADLINE_S)
    deadline_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            assert second.control.welcome(DEADLINE_S)["worker"] == "batch-1"
            break
        except RegistryError:
            assert time.monotonic() < deadline_s


@pytest.mark.parametrize(
    ("stage", "more", "code"),
    [("claen", {}, 404), ("clean", {"proto": [2, 0]}, 426), ("clean", {"pid": -1}, 400)],
)
def test_a_refusal_is_raised_at_once(
    registry: Process, lives: list[Life], stage: str, more: dict[str, Any], code: int
) -> None:
    lives.append(Life(registry.address, stage, **more))
    lives[0].control.start()
    with pytest.raises(RegistryError) as refused:
        lives[0].control.welcome(DEADLINE_S)
    assert refused.value.code == code


def test_a_registry_that_is_not_there_is_one_clear_line(lives: list[Life]) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{held.getsockname()[1]}"
        lives.append(Life(address, "clean"))
        lives[0].control.start()
        words = f"no registry answers at {address} within 0.05 s: start one with"
        with pytest.raises(RegistryError, match=words):
            lives[0].control.welcome(0.05)
        with Client(address) as client, pytest.raises(RegistryError, match=words):
            client.request({"t": "PS"}, 0.05)
    with pytest.raises(RegistryError, match="write tcp://HOST:PORT"):
        Life("localhost:1", "clean")


def test_a_port_in_use_ends_the_registry_with_one_line(registry: Process, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Process(tmp_path / "other")
    other.address = registry.address
    done = subprocess.run(other.argv(os.getpid()), check=False, capture_output=True, text=True, timeout=DEADLINE_S)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"zpipe: {registry.address} is in use: ")
    assert done.stderr.count("\n") == 1


def test_a_folder_without_a_plan_ends_the_registry_with_one_line(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "zpipe.processes.registry", "--run-folder", str(tmp_path)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 1
    assert (
        done.stderr == f"zpipe: cannot read {tmp_path}/plan.json: No such file or directory: the launcher writes it\n"
    )


def test_rubbish_is_refused_and_the_registry_lives(registry: Process, lives: list[Life]) -> None:
    ctx = sockets.context()
    try:
        rude, _ = sockets.dealer(ctx, registry.address)
        assert rude.poll(DEADLINE_MS, sockets.OUT)
        for frames in (
            [b""],
            [b"\xc1"],
            [b"\x80"],
            [b"x" * 1000],
            [b"a", b"b", b"c"],
            [wire.encode({"t": "HELLO"})],
        ):
            assert sockets.send(rude, frames)
            assert rude.poll(DEADLINE_MS, sockets.IN)
            reply = sockets.receive(rude)
            assert reply is not None
            assert wire.decode(reply[0])["code"] == 400
    finally:
        sockets.end(ctx)
    lives.append(Life(registry.address, "clean").join())


def test_sigint_is_ignored_and_sigterm_ends_the_registry(registry: Process) -> None:
    assert registry.process is not None
    registry.process.send_signal(signal.SIGINT)
    assert table(registry)["state"] == "running"
    assert registry.kill(signal.SIGTERM) == 0
    assert registry.sockets_dir.exists()


def test_down_is_answered_before_the_registry_leaves(registry: Process) -> None:
    with Client(registry.address) as client:
        assert client.request({"t": "DOWN"}, DEADLINE_S)["t"] == "OK"
    assert registry.wait() == 0


def test_without_its_launcher_the_registry_sends_workers_home_and_cleans_up(tmp_path: Path, lives: list[Life]) -> None:
    registry = Process(tmp_path)
    launcher = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    process = subprocess.Popen(registry.argv(launcher.pid), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    registry.address = (tmp_path / "address").read_text().strip()
    lives.append(Life(registry.address, "clean").join())
    lives[0].until(peers=[])
    launcher.kill()
    launcher.communicate()
    lives[0].until(desired="exit")
    lives[0].control.request({"t": "BYE", "inc": lives[0].inc}, DEADLINE_S)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert not registry.sockets_dir.exists()


def test_an_answer_too_large_to_travel_becomes_one_that_says_so(registry: Process) -> None:
    context = sockets.context()
    try:
        dealer, _ = sockets.dealer(context, registry.address)
        question = {"t": "PS", "rid": "x" * (wire.BYTES_MAX - 100)}  # which comes back with the answer
        sockets.ask(dealer, wire.encode(question))
        assert dealer.poll(DEADLINE_MS)
        received = sockets.receive(dealer)
        assert received is not None
        answer = wire.decode(received[0])
    finally:
        sockets.end(context)
    assert (answer["t"], answer["code"], answer["rid"]) == ("ERR", 413, None)
    assert table(registry)["state"] == "running"
