"""What every worker at a gate keeps, whatever its language, and how to find and kill the gate of a run."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgpack  # type: ignore[import-untyped,unused-ignore]
import zmq

from tests.real import DEADLINE_S, Command, Place, wait_until


class PlayedGate:
    """An address at which the test itself hears what is asked, and answers."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self.address = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"

    def __enter__(self) -> PlayedGate:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def hear(self) -> dict[str, Any]:
        """Return the next message, its first frame.  Raises TimeoutError."""
        if not self._socket.poll(DEADLINE_S * 1000):
            raise TimeoutError("the worker says nothing")
        self.peer, empty, frame, *self.frames = self._socket.recv_multipart()
        assert empty == b""
        said: dict[str, Any] = msgpack.unpackb(frame, strict_map_key=False)
        assert said["zpipe"] == 1
        return said

    def answer(self, *frames: bytes, **message: Any) -> None:
        """Answer what was heard last."""
        self._socket.send_multipart([self.peer, b"", msgpack.packb({"zpipe": 1, **message}), *frames])


class Worker:
    """The rules; a service says which `argv` its worker has, before the address, and an `item` that it can do."""

    argv: Sequence[str]
    item: Any

    def begin(self, place: Place, address: str) -> Command:
        return Command((*self.argv, address), place.folder, place.env)

    def test_it_asks_says_its_name_and_ends_with_0(self, place: Place) -> None:
        with PlayedGate() as gate:
            worker = self.begin(place, gate.address)
            said = gate.hear()
            assert said["take"] == 1
            assert said["name"].endswith(f":{worker.process.pid}")
            gate.answer(items=[], lease_s=5.0)
            assert gate.hear()["take"] == 1
            gate.answer(over=True)
            assert worker.wait().code == 0

    def test_one_that_a_gate_has_started_has_the_name_that_it_was_given(self, place: Place) -> None:
        with PlayedGate() as gate:
            worker = Command(
                tuple(self.argv), place.folder, {**place.env, "ZPIPE_CALL": gate.address, "ZPIPE_NAME": "x#1"}
            )
            assert gate.hear()["name"] == "x#1"
            gate.answer(over=True)
            assert worker.wait().code == 0

    def test_what_is_not_answered_is_asked_again_over_a_new_connection(self, place: Place) -> None:
        with PlayedGate() as gate:
            worker = self.begin(place, gate.address)
            gate.hear()
            gate.answer(items=[["t1", self.item]], lease_s=5.0)
            first = gate.hear(), gate.frames, gate.peer
            again = gate.hear(), gate.frames, gate.peer
            assert first[0]["done"][0][0] == "t1"
            assert again[:2] == first[:2]
            assert again[2] != first[2]
            gate.answer(over=True)
            assert worker.wait().code == 0

    def test_it_goes_on_when_a_token_is_refused(self, place: Place) -> None:
        with PlayedGate() as gate:
            worker = self.begin(place, gate.address)
            gate.hear()
            gate.answer(items=[["t1", self.item]], lease_s=5.0)
            assert gate.hear()["done"][0][0] == "t1"
            gate.answer(refused=[["t1", "another was faster"]], items=[["t2", self.item]], lease_s=5.0)
            assert gate.hear()["done"][0][0] == "t2"
            gate.answer(over=True)
            done = worker.wait()
            assert done.code == 0
            assert "t1 is refused: another was faster" in done.err

    def test_a_result_that_breaks_a_rule_fails_with_what_the_gate_says(self, place: Place) -> None:
        with PlayedGate() as gate:
            worker = self.begin(place, gate.address)
            gate.hear()
            gate.answer(items=[["t1", self.item]], lease_s=5.0)
            gate.hear()
            gate.answer(error="it is too large")
            assert gate.hear()["failed"] == [["t1", "it is too large"]]
            gate.answer(over=True)
            assert worker.wait().code == 0

    def test_one_that_is_given_nothing_for_now_goes_on_asking(self, place: Place) -> None:
        with PlayedGate() as gate:
            worker = self.begin(place, gate.address)
            gate.hear()
            gate.answer(error="nothing more is given to you for now", items=[], lease_s=5.0)
            assert gate.hear()["take"] == 1
            gate.answer(over=True)
            done = worker.wait()
            assert done.code == 0
            assert "nothing more is given to you for now" in done.err

    def test_one_that_may_not_take_items_here_ends_and_says_why(self, place: Place) -> None:
        with PlayedGate() as gate:
            worker = self.begin(place, gate.address)
            gate.hear()
            gate.answer(error="items are put here, not taken")
            done = worker.wait()
            assert done.code == 1
            assert "items are put here, not taken" in done.err

    def test_without_an_address_it_ends_with_one_line(self, place: Place) -> None:
        done = Command(tuple(self.argv), place.folder, place.env).wait()
        assert done.code == 2
        assert len(done.err.splitlines()) == 1 and "whom to ask" in done.err


def gate_at(place: Place, stage: str) -> str:
    """Wait for the gate of a stage of the one run in a place, and return its address for calls."""
    found: list[str] = []

    def is_there() -> bool:
        for noted in place.folder.glob(f"runs/*/gates/{stage}.json"):
            with suppress(ValueError, OSError):
                found.append(json.loads(noted.read_text())["call"])
        return bool(found)

    wait_until(is_there)
    return found[0]


def kill_gate(place: Place, stage: str) -> None:
    """Kill the process of a gate."""
    (pid,) = [row["pid"] for row in place.ps()["workers"] if row["stage"] == stage]
    os.kill(pid, signal.SIGKILL)


def wait_for_lines(place: Place, name: str, least: int) -> None:
    """Wait until a file of the one run in a place has so many lines."""
    wait_until(lambda: sum(file.read_bytes().count(b"\n") for file in place.folder.glob(f"runs/*/{name}")) >= least)
