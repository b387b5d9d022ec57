"""Show of a source whose items are put from outside, and whose whole run is killed at random moments."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import msgpack
import psutil
import zmq

from tests.real import Command, Place, rows
from tests.shows.flow import Shown, ended, stage_place
from tests.shows.languages import address_of

MOMENTS = 20
LATEST_S = 1.0  # after the first item was put
AFTER = 50  # items that are put after the kill
ANSWER_MS = 30_000
DATABASE = "out.db"
STAGES = f"""
[stage.inbox]
listen = {{ call = 0 }}
[stage.same]
run = "stages:same"
from = "inbox"
workers = 2
[stage.kept]
run = "zpipe.sinks:sqlite"
from = "same"
args = {{ path = "{DATABASE}" }}
"""


@dataclass
class Client:
    """Puts items one by one, each a number under an id of its own, and notes which are on the disk."""

    put: int = 0  # numbers from 0 on that it has tried to put
    stored: set[int] = field(default_factory=set)

    def go_on(self, address: str, gone: threading.Event) -> None:
        """Put one number after another until `gone`."""
        with zmq.Context() as context, context.socket(zmq.REQ) as socket:
            socket.linger = 0
            socket.connect(address)
            while not gone.is_set():
                self.put += 1
                self._put(socket, [self.put - 1], gone=gone)

    def finish(self, address: str, more: int) -> None:
        """Put again what is not known to be stored, and more, and say that this is the end."""
        with zmq.Context() as context, context.socket(zmq.REQ) as socket:
            socket.linger = 0
            socket.connect(address)
            self.put += more
            self._put(socket, sorted(set(range(self.put)) - self.stored), end=True)

    def _put(
        self, socket: zmq.Socket[bytes], numbers: list[int], *, end: bool = False, gone: threading.Event | None = None
    ) -> None:  # fmt: skip
        message = {"zpipe": 1, "put": [[f"n{k}", k] for k in numbers], "end": end}
        socket.send(msgpack.packb(message))
        while not socket.poll(100 if gone else ANSWER_MS):
            if gone is None:
                raise TimeoutError(f"the gate has not answered within {ANSWER_MS} ms")
            if gone.is_set():
                return
        answer = msgpack.unpackb(socket.recv())
        if answer.get("error"):
            raise RuntimeError(f"the gate says: {answer['error']}")
        self.stored |= {int(id_[1:]) for id_ in answer["stored"]}


def journal(moments: int = MOMENTS) -> Iterator[Shown]:
    """All processes are killed while a client puts items: what it was told is stored is there, all of it once."""
    seed = random.SystemRandom().getrandbits(32)
    rng = random.Random(seed)
    put = stored = again = 0
    faults: list[str] = []
    for moment in range(moments):
        after_s = rng.uniform(0, LATEST_S)
        with stage_place() as place:
            client, known, fault = _killed(place, after_s)
        put, stored, again = put + client.put, stored + known, again + client.put - known - AFTER
        if fault:
            faults.append(f"moment {moment}, {after_s:.3f} s: {fault}")
    yield Shown(
        f"seed {seed}: all processes killed at {moments} moments: {put:,} items put, {stored:,} of them acknowledged "
        f"before the kill and {again} put again behind it; {'; '.join(faults[:3]) or 'all there, each once'}",
        not faults and stored > 0,
    )


def _killed(place: Place, after_s: float) -> tuple[Client, int, str]:
    """Kill a run so long after the first put, go on with it, and return its client, what it knew, and a fault."""
    file = place.pipeline(STAGES)
    # In a session of its own: its process group has all that it starts.
    run = Command(("setsid", sys.executable, "-m", "zpipe", "run", file), place.folder, place.env)
    address = address_of(place, "inbox")
    (folder,) = place.folder.glob("runs/*")
    client, gone = Client(), threading.Event()
    timer = threading.Timer(after_s, _kill_all, (place, run, gone))
    timer.start()
    client.go_on(address, gone)
    timer.join()
    known = len(client.stored)
    again = place.start("run", file, "--resume", str(folder))
    again.says("registry tcp://")
    client.finish(address_of(place, "inbox"), AFTER)
    done = ended(again.wait())
    found = sorted(item for _, item in rows(done.folder / DATABASE))
    if found == list(range(client.put)):
        return client, known, ""
    missing = sorted(set(range(client.put)) - set(found))
    return client, known, f"{len(found)} of {client.put} at the sink, {len(missing)} missing: {missing[:5]}"


def _kill_all(place: Place, run: Command, gone: threading.Event) -> None:
    with suppress(ProcessLookupError):
        os.killpg(run.process.pid, signal.SIGKILL)
    for process in place.processes():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    run.process.wait()
    gone.set()
