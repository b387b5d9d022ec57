"""Hostile peers of a run under way: `python -m tests.fuzz.live --seed 1`.

Beside a run of real workers over tcp, a worker that has turned against it: it has joined, and so knows every address
and has recordings of what a real worker sends.  It speaks to all inboxes, channels of acks and the registry: bytes
that are no ZMTP, multiparts of any bytes, its recordings, again and with changes, messages of peers that are none,
and requests of any shape.  The run is to go on without a death, and to end with every item once.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import select
import socket
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.decoders import messages
from tests.fuzz.requests import said
from tests.fuzz.test_fuzz import changed
from tests.real import Command, Place, rows
from zpipe.processes.control import Control
from zpipe.transport import sockets
from zpipe.values.errors import ProtocolError
from zpipe.values.paths import Run
from zpipe.wire import frames
from zpipe.wire.body import Encoded, pack_plain
from zpipe.wire.frames import Ack, Data, Open, Sync

STAGES = """import time

def numbers(count):
    yield from range(count)

def double(x):
    time.sleep(0.001)
    return 2 * x
"""
PIPELINE = """[stage.numbers]
run = "stages:numbers"
args = { count = COUNT }
[stage.double]
run = "stages:double"
from = "numbers"
workers = 2
[stage.out]
run = "zpipe.sinks:sqlite"
from = "double"
args = { path = "out.db" }
"""
EDGES = {"double": 0, "out": 1}
RECORDED = 40  # messages
BURST = 50  # messages of one kind
DEADLINE_S = 30.0
GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00NULL" + bytes(48)
HARMLESS = ("HELLO", "BEAT", "TAP", "PS", "SCALE", "DRAIN", "BYE", "DIED", "FAILED")  # in the name of nobody


@dataclass
class Outcome:
    """What was sent, by kind, and what is wrong with the run."""

    seed: int
    sent: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = ", ".join(f"{count} {kind}" for kind, count in sorted(self.sent.items()))
        return f"seed {self.seed}: {self.seconds:.1f} s, {said}: {'; '.join(self.faults) or 'exact, no death'}"


class Joined:
    """A worker that has joined a stage and does nothing; `peers` are those beside it."""

    def __init__(self, registry: str, stage: str, inbox: list[str]) -> None:
        self.inc = secrets.randbits(63) + 1
        self.news: dict[str, Any] = {"state": "joining", "inbox": inbox, "acks": [], "counters": {}}
        hello = {"inc": self.inc, "stage": stage, "slot": None, "pid": 0, "host": "nowhere"}
        self.control = Control(registry, hello, lambda: dict(self.news), beat_s=0.1)
        self.control.start()
        self.control.welcome(DEADLINE_S)
        self.news["state"] = "live"
        self.control.beat_now()
        self.peers: list[dict[str, Any]] = []

    def wait(self, *workers: str) -> list[dict[str, Any]]:
        """Wait until these are beside it, and return what it is told of them."""
        end_s = time.monotonic() + DEADLINE_S
        while not set(workers) <= {peer["worker"] for peer in self.peers}:
            assert time.monotonic() < end_s, f"not all of {workers} came: {self.peers}"
            select.select([self.control], [], [], DEADLINE_S)
            self.control.clear()
            while self.control.inbox:
                self.peers = self.control.inbox.popleft().get("roster", {}).get("peers", self.peers)
        return [peer for peer in self.peers if peer["worker"] in workers]

    def leave(self) -> None:
        """Leave as a worker does that has finished."""
        self.control.request({"t": "BYE", "inc": self.inc, "counters": {}}, DEADLINE_S)
        self.control.stop()


class Hostile:
    """Everything that is sent to one run."""

    def __init__(self, registry: str, seed: int, outcome: Outcome) -> None:
        self.registry = registry
        self.chance = random.Random(seed)
        self.outcome = outcome
        self.context = sockets.context()
        self.recorded = [list(message) for message in messages()]
        self.requests = list(said())
        self.endpoints: list[str] = []
        self.incs: list[int] = []
        self.inboxes: list[tuple[int, int, str]] = []  # of whom, the edge that leads there, and where
        self.pushes: dict[str, sockets.Socket] = {}

    def look(self) -> None:
        """Join both stages, take note of who is there, record what one of them sends, and leave."""
        inbox, endpoints = sockets.bind_pull(
            self.context, host="127.0.0.1", sockets_dir=None, transport="tcp", hwm=1000
        )
        with_inbox, without = Joined(self.registry, "out", endpoints), Joined(self.registry, "double", [])
        for peer in (*with_inbox.wait("double-1", "double-2"), *without.wait("numbers-1", "out-1")):
            self.endpoints += [*peer["inbox"], *peer["acks"]]
            self.incs.append(peer["inc"])
            if peer["inbox"]:
                self.inboxes.append((peer["inc"], EDGES[peer["worker"][:-2]], peer["inbox"][0]))
        heard = 0
        end_s = time.monotonic() + DEADLINE_S
        while heard < RECORDED and time.monotonic() < end_s:
            if inbox.poll(100) and (received := sockets.receive(inbox)) is not None:
                self.recorded.append([bytes(frame) for frame in received])
                heard += 1
                self._take(received)
        assert heard == RECORDED, f"{heard} messages were recorded"
        with_inbox.leave()
        without.leave()

    def _take(self, received: list[memoryview]) -> None:
        """Give credit to who opens a link, and never settle anything."""
        with suppress(ProtocolError):
            message = frames.decode(received)
            if isinstance(message, Open):
                ack = Ack(message.dst, message.src, message.gen, message.edge, 64, 2**20, 1, 0, 0, 0, 0, 0, [], [])
                self._push(message.info["acks"][0], frames.encode(ack, crc=False))

    def strike(self) -> None:
        """Send a few things of one kind to one of them."""
        kind = self.chance.choice(("raw", "random", "recorded", "changed", "changed", "stranger", "link", "request"))
        endpoint = self.chance.choice(self.endpoints)
        for _ in range(self.chance.randint(1, BURST)):
            self.outcome.sent[kind] += 1
            self._send(kind, endpoint)

    def _send(self, kind: str, endpoint: str) -> None:
        if kind == "raw":
            self._raw(self.chance.choice((endpoint, self.registry)))
        elif kind == "random":
            sizes = [self.chance.choice((0, 1, 31, 32, 80, 1000, 70_000)) for _ in range(self.chance.randint(1, 20))]
            self._push(endpoint, [self.chance.randbytes(size) for size in sizes])
        elif kind == "recorded":
            self._push(endpoint, self.chance.choice(self.recorded))
        elif kind == "changed":
            self._push(endpoint, [changed(frame, self.chance) for frame in self.chance.choice(self.recorded)])
        elif kind == "stranger":
            self._push(endpoint, frames.encode(self._of_a_stranger(), crc=False))
        elif kind == "link":
            self._link(*self.chance.choice(self.inboxes))
        else:
            self._request()

    def _link(self, inc: int, edge: int, endpoint: str) -> None:
        """Open a link of its own, and send along it what nobody can decode."""
        acks, where = sockets.bind_acks(self.context, host="127.0.0.1", sockets_dir=None, transport="tcp")
        src, body = self.chance.getrandbits(64), self.chance.choice((b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x91" * 2000))
        self._push(endpoint, frames.encode(Open(src, inc, 1, edge, {"acks": where}), crc=False))
        if acks.poll(1000):  # credit
            run = Run(0, 5, (), 1, [Encoded(body)])
            self._push(endpoint, frames.encode(Data(src, inc, 1, edge, 1, run), crc=True))
        sockets.close(acks)

    def _of_a_stranger(self) -> Any:
        r = self.chance
        ends = (r.getrandbits(64), r.choice(self.incs), r.randint(0, 3), r.randint(0, 3))
        number = r.choice((0, 1, 2**32, 2**64 - 1))
        where = r.choice((7, [7], ["tcp://no.such.host:1"], ["ipc:///nowhere"], ["x"], [], ["tcp://127.0.0.1:1"]))
        ack = Ack(*ends, number, number, 1, number, number, number, 0, 0, [(1, 2)], [5])
        return r.choice((ack, Sync(*ends, number, True), Open(*ends, {"acks": where})))

    def _raw(self, endpoint: str) -> None:
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        data = self.chance.choice(
            (self.chance.randbytes(200), GREETING[: self.chance.randint(0, 64)], GREETING + b"\x02" + b"\xff" * 8, b"")
        )
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=1.0) as raw:
            raw.sendall(data)

    def _push(self, endpoint: str, message: Any) -> None:
        if endpoint not in self.pushes:
            self.pushes[endpoint] = sockets.dial_push(self.context, [endpoint])
        push = self.pushes[endpoint]
        if not (message and push.poll(1000, sockets.OUT) and sockets.send(push, message)):
            sockets.close(self.pushes.pop(endpoint))

    def _request(self) -> None:
        dealer, monitor = sockets.dealer(self.context, self.registry)
        r = self.chance
        parts = [changed(r.choice(self.requests), r) for _ in range(r.choice((1, 1, 1, 3)))]
        if r.random() < 0.5:
            message = {"t": r.choice(HARMLESS), "rid": r.choice((1, "x" * 3_000_000)), "inc": r.getrandbits(64)}
            more = {"stage": r.choice(("double", 7)), "workers": 2**64 - 1, "worker": "nobody-1", "proto": [2, 0]}
            parts = [pack_plain({**message, **more})]
        sockets.send(dealer, parts)
        sockets.unwatch(dealer)
        sockets.close(dealer, monitor, linger_ms=200)

    def close(self) -> None:
        """Hang up."""
        sockets.end(self.context)


def play(seed: int, *, count: int) -> Outcome:
    """Run once among hostile peers."""
    outcome = Outcome(seed)
    with tempfile.TemporaryDirectory(prefix="zpipe-live-") as name, Place(Path(name)) as place:
        (place.folder / "stages.py").write_text(STAGES, encoding="utf-8")
        file = place.pipeline(PIPELINE.replace("COUNT", str(count)))
        run = place.start("run", file, "--transport", "tcp")
        registry = run.says("registry tcp://").split()[2].rstrip(",")
        hostile = Hostile(registry, seed, outcome)
        try:
            hostile.look()
            began_s = time.monotonic()
            while not run.ends_within(0) and time.monotonic() - began_s < 10 * DEADLINE_S:
                hostile.strike()
            outcome.seconds = time.monotonic() - began_s
        finally:
            hostile.close()
        _judge(run, count, outcome)
    return outcome


def _judge(run: Command, count: int, outcome: Outcome) -> None:
    done = run.wait()
    if done.code != 0:
        outcome.faults.append(f"exit {done.code}: {' / '.join(done.faults[-3:])}")
        return
    found = rows(done.folder / "out.db")
    if sorted(item for _, item in found) != [2 * n for n in range(count)]:
        outcome.faults.append(f"{len(found)} items of {count}")
    report = json.loads((done.folder / "report.json").read_text(encoding="utf-8"))
    deaths = [line for line in done.err.splitlines() if "killed by" in line or "exited" in line]
    if deaths:
        outcome.faults.append(f"deaths: {deaths}")
    if report["state"] != "done":
        outcome.faults.append(report["state"])


def main() -> int:
    """Play the runs of consecutive seeds."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.live", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; each further one has the next")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--count", type=int, default=20_000, help="numbers to send")
    options = parser.parse_args()
    bad = 0
    for seed in range(options.seed, options.seed + options.runs):
        outcome = play(seed, count=options.count)
        print(outcome, flush=True)
        bad += bool(outcome.faults)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
