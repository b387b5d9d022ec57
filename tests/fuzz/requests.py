"""What may be said to a registry: any map at all, and requests that are nearly right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgpack

from tests.fuzz.target import Draw, target
from tests.unit.test_registry import make_plan
from zpipe.core.outcomes import Action, Push, Reply, Store, Stored
from zpipe.core.registry import Registry
from zpipe.values.errors import ProtocolError
from zpipe.wire import control

VERBS = ("HELLO", "BEAT", "FAILED", "DIED", "BYE", "FAIL", "STOP", "DRAIN", "SCALE", "TAP", "PS", "DOWN")
STAGES = ("crops", "clean", "batch", "out", "nobody")
WORKERS = ("crops-1", "clean-1", "clean-2", "batch-1", "out-1", "nobody-1")
MALFORMED = (400, 426, 501)  # answers to what changes nothing
PROTO = [1, 0]


class Bench:
    """A registry whose answers can all travel, and which may be started again from what it has stored."""

    def __init__(self, *, starts_workers: bool) -> None:
        self.rows: dict[tuple[str, str], str] = {}
        self.now_s = 100.0
        self.starts_workers = starts_workers
        self.epoch = 0
        self.refused: dict[str, Any] | None = None  # the table after a malformed request, while nothing else is said
        self.restart()

    def restart(self) -> None:
        """Let a new one take over."""
        self.epoch += 1
        self.refused = None
        stored = Stored.from_rows([(*key, json.loads(value)) for key, value in self.rows.items()])
        self.registry = Registry(
            make_plan(), run_key=7, epoch=self.epoch, stored=stored, starts_workers=self.starts_workers
        )

    def ask(self, message: dict[str, Any]) -> None:
        """Make a request; one that is malformed changes nothing."""
        before, self.refused = self.refused, None
        (reply,) = self._take(self.registry.step(self.now_s, b"peer", message))
        if reply["t"] == "ERR":
            assert isinstance(reply["text"], str) and "\n" not in reply["text"]
            if reply["code"] in MALFORMED:
                self.refused = self._table()
                assert before in (None, self.refused), f"{message} changed the registry"

    def tick(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds
        self.refused = None
        self._take(self.registry.tick(self.now_s))

    def _table(self) -> dict[str, Any]:
        (reply,) = self._take(self.registry.step(self.now_s, b"looker", {"t": "PS", "rid": 0}))
        assert reply["t"] == "TABLE"
        return reply

    def _take(self, actions: list[Action]) -> list[dict[str, Any]]:
        replies = []
        for action in actions:
            if isinstance(action, Store):
                if action.value is None:
                    self.rows.pop((action.kind, action.key), None)
                else:
                    self.rows[action.kind, action.key] = json.dumps(action.value)
            elif isinstance(action, Reply):
                replies.append(control.decode(control.encode(action.message)))
            elif isinstance(action, Push):
                control.encode(action.message)
        return replies


def said() -> Iterator[bytes]:
    """Yield dialogues: requests, one behind the other."""
    beat = {
        "state": "live", "ver": 0, "inbox": ["tcp://127.0.0.1:1"], "acks": ["tcp://127.0.0.1:2"],
        "counters": {"in": 5, "done": 5, "busy_s": 0.5}, "running": {"path": "crops[0]:5", "age_s": 0.1},
        "sources": {0: [5, 0, 0, False, 6]}, "calls": {"3": 4},
        "edges": {0: {"sent": 3, "sent_bytes": 9, "transports": ["tcp"], "latency": {1: 1}}},
    }  # fmt: skip
    hellos = [
        {"t": "HELLO", "rid": k, "inc": k + 1, "proto": PROTO, "stage": stage, "pid": k, "host": "h", "slot": None}
        for k, stage in enumerate(STAGES[:4])
    ]
    beats = [{"t": "BEAT", "rid": k, "inc": k + 1, **beat} for k in range(4)]
    others = [
        {"t": "SCALE", "stage": "clean", "workers": 4}, {"t": "DRAIN", "worker": "clean-1"}, {"t": "STOP"},
        {"t": "TAP", "stage": "clean", "endpoints": ["tcp://127.0.0.1:3"], "form": "json"},
        {"t": "DIED", "inc": 2, "reach": {0: 7}, "blame": [["crops:7", 2]], "how": "exited 7"},
        {"t": "DIED", "pid": 1, "host": "h"}, {"t": "PS"}, {"t": "DOWN"},
        {"t": "BYE", "inc": 1, "counters": {"done": 3}}, {"t": "FAIL", "why": "so"},
        {"t": "FAILED", "inc": 3, "error": "no", "detail": "Traceback"},
        {**hellos[1], **beat, "worker": "clean-1", "inc": 9, "replaces": 2, "supervisor": "s"},
    ]  # fmt: skip
    yield b"".join(msgpack.packb(message) for message in [*hellos, *beats])
    for message in others:
        yield b"".join(msgpack.packb(m) for m in (hellos[1], beats[1], message))


@target(seeds=said, errors=(ProtocolError,))
def dialogue(data: bytes) -> None:
    """Any maps, one behind the other, said to a registry."""
    bench = Bench(starts_workers=len(data) % 2 == 0)
    unpacker = msgpack.Unpacker(max_buffer_size=max(1, len(data)), strict_map_key=False)
    unpacker.feed(data)
    while True:
        start = unpacker.tell()
        try:
            unpacker.skip()
        except (msgpack.UnpackException, ValueError):
            return
        bench.ask(control.decode(data[start : unpacker.tell()]))
        if start % 4 == 0:
            bench.tick(0.1)


@target(seeds=lambda: [bytes((k * m) % 251 for k in range(400)) for m in (1, 7, 31, 101)])
def verbs(data: bytes) -> None:
    """Requests with the right fields, some of them with any value, restarts, and time that passes."""
    draw = Draw(data)
    bench = Bench(starts_workers=draw.byte() % 2 == 1)
    while draw:
        kind = draw.byte()
        if kind < 8:
            bench.restart()
        elif kind < 40:
            bench.tick(draw.one((0.0, 0.1, 3.0, 6.0, 11.0)))
        else:
            bench.ask(_request(draw))


def _request(draw: Draw) -> dict[str, Any]:
    message: dict[str, Any] = {"t": draw.one(VERBS), "rid": draw.byte()}
    for field, make in FIELDS.items():
        kind = draw.byte()
        if kind >= 64:  # else it is missing
            message[field] = draw.value() if kind > 250 else make(draw)
    return message


FIELDS = {
    "inc": lambda draw: draw.number(),
    "proto": lambda draw: PROTO,
    "stage": lambda draw: draw.one(STAGES),
    "slot": lambda draw: draw.one((None, None, 0, 1, draw.number())),
    "pid": lambda draw: draw.number(),
    "host": lambda draw: draw.one(("h", "g")),
    "supervisor": lambda draw: draw.one((None, "s", "r")),
    "replaces": lambda draw: draw.one((None, None, draw.number())),
    "worker": lambda draw: draw.one((*WORKERS, None, None)),
    "ver": lambda draw: draw.number(),
    "state": lambda draw: draw.one(("joining", "live", "live", "drain")),
    "inbox": lambda draw: ["tcp://127.0.0.1:1"] * (draw.byte() % 3),
    "acks": lambda draw: ["tcp://127.0.0.1:2"] * (draw.byte() % 3),
    "counters": lambda draw: {name: draw.number() for name in ("in", "done", "dropped", "busy_s")},
    "running": lambda draw: draw.one((None, {"path": "x:1", "age_s": draw.number()})),
    "sources": lambda draw: {
        draw.byte() % 3: [draw.number(), draw.number(), draw.number(), draw.byte() % 2 == 1, draw.number()]
    },
    "calls": lambda draw: {draw.byte() % 140: draw.number()},
    "edges": lambda draw: {draw.byte() % 4: {"sent": draw.number(), "transports": ["tcp"], "latency": {1: 2}}},
    "reach": lambda draw: {draw.byte() % 3: draw.number()},
    "workers": lambda draw: draw.number(),
    "auto": lambda draw: draw.one((True, False)),
    "endpoints": lambda draw: [draw.one(("tcp://127.0.0.1:3", "ipc://x"))],
    "output": lambda draw: draw.one((None, "left")),
    "inputs": lambda draw: draw.one((True, False)),
    "form": lambda draw: draw.one(("text", "json")),
    "over": lambda draw: draw.one((True, False)),
    "error": lambda draw: "it failed",
    "why": lambda draw: "so",
}
