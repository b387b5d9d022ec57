"""What is more than a message holds fails alone: the gate and its run go on."""

from __future__ import annotations

import os
from typing import Any

import msgpack  # type: ignore[import-untyped,unused-ignore]
import zmq

from tests.gates import gate_at
from tests.real import DEADLINE_S, Place, lines

MIB = 2**20
LARGE = 70 * MIB  # more than a message holds, less than a frame does
STAGES = """
import numpy as np


def two():
    yield 1
    yield np.zeros(70 << 20, np.uint8)


def held():
    open("go").close()
    yield 1
"""


class Line:
    """One DEALER at a gate."""

    def __init__(self, address: str) -> None:
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.connect(address)

    def say(self, *frames: bytes, **message: Any) -> None:
        self._socket.send_multipart([msgpack.packb({"zpipe": 1, **message}), *frames])

    def hear(self) -> dict[str, Any]:
        """Return the next answer, its first frame.  Raises TimeoutError."""
        if not self._socket.poll(DEADLINE_S * 1000):
            raise TimeoutError("the gate does not answer")
        answer: dict[str, Any] = msgpack.unpackb(self._socket.recv_multipart()[0], strict_map_key=False)
        return answer

    def ask(self, *frames: bytes, **message: Any) -> dict[str, Any]:
        self.say(*frames, **message)
        return self.hear()

    def take(self, **message: Any) -> dict[str, Any]:
        """Ask until there are items, or nothing more comes."""
        while not (answer := self.ask(take=100, name="w", **message)).get("items") and not answer.get("over"):
            message.pop("done", None)
        return answer

    def close(self) -> None:
        self._socket.close(1000)


def pipeline(place: Place, source: str, *more: str) -> str:
    (place.folder / "large.py").write_text(STAGES)
    return place.pipeline(f"""
[stage.large]
run = "large:{source}"
[stage.x]
from = "large"
listen = {{ call = 0 }}
{chr(10).join(more)}
[stage.out]
run = "zpipe.sinks:jsonl"
from = "x"
args = {{ path = "out.jsonl" }}
""")


def form(size: int) -> dict[str, Any]:
    return {"nd": True, "type": "|u1", "kind": "", "shape": [size], "data": msgpack.ExtType(78, bytes(4))}


def finish(worker: Line, **message: Any) -> None:
    """Do what is given out, until nothing more comes."""
    answer = worker.take(**message)
    while not answer.get("over"):
        answer = worker.take(done=[[token, 1] for token, _ in answer["items"]], **message)
    worker.close()


def test_an_item_that_a_message_does_not_hold_is_given_up_where_frames_are_not_taken(place: Place) -> None:
    run = place.start("run", pipeline(place, "two", 'on_error = "dead-letter"'))
    worker = Line(gate_at(place, "x"))
    finish(worker)
    done = run.wait()
    assert done.code == 3, done.err
    assert lines(done.folder / "out.jsonl") == [1]
    assert "let the program take raw frames" in place.run("dead", "ls", "--run", str(done.folder)).out


def test_an_item_is_given_whole_where_frames_are_taken(place: Place) -> None:
    run = place.start("run", pipeline(place, "two"))
    worker = Line(gate_at(place, "x"))
    finish(worker, raw=True)
    done = run.wait()
    assert done.code == 0, done.err
    assert lines(done.folder / "out.jsonl") == [1, 1]


def test_calls_go_out_so_many_as_a_message_holds_and_too_large_ones_fail(place: Place) -> None:
    os.mkfifo(place.folder / "go")
    run = place.start("run", pipeline(place, "held"))
    address = gate_at(place, "x")
    caller, worker = Line(address), Line(address)
    for k in range(7):
        caller.say(call=[[f"{k}-{j}", bytes(MIB)] for j in range(10)])
    assert "stage" in caller.ask(stage="x")  # what was said before has been heard
    done = 0
    while done < 70:
        answer = worker.take()
        done += len(answer["items"])
        assert worker.ask(done=[[token, len(item)] for token, item in answer["items"]]) == {"zpipe": 1}
    assert [caller.hear()["done"][0][1] for _ in range(70)] == [MIB] * 70

    caller.say(bytes(LARGE), raw=True, call=[["large", form(LARGE)]])
    assert "stage" in caller.ask(stage="x")
    assert worker.ask(take=1)["items"] == []
    assert "let the program take raw frames" in caller.hear()["failed"][0][1]

    caller.say(call=[["small", 7]])
    ((token, _),) = worker.take()["items"]
    assert worker.ask(bytes(LARGE), raw=True, done=[[token, form(LARGE)]]) == {"zpipe": 1}
    assert "let the program take raw frames" in caller.hear()["failed"][0][1]
    caller.close()

    (place.folder / "go").write_text("")
    finish(worker)
    assert run.wait().code == 0
