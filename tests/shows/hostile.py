"""One who has a key and means harm, beside a run with keys; and many who never say who they are."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import psutil

from tests.real import Command, Place, lines, wait_until
from tests.shows.flow import Shown, ended, stage_place
from zpipe.transport.keys import read
from zpipe.transport.sockets import make_pair

SPELL_S, SPELLS = 5.0, 5
LEAST = 0.95
HALF_OPEN = 10_000
KINDS = ("noise", "nested", "replayed", "giant", "parts")
STAGES = """
[stage.numbers]
run = "stages:numbers"
replay = "seek"
args = { count = 10000000 }
[stage.whispered]
run = "stages:whispered"
from = "numbers"
workers = 2
[stage.lines]
run = "zpipe.sinks:jsonl"
from = "whispered"
ordered = true
args = { path = "out.jsonl" }
"""

# Sends at most 10,000 messages a second, of the giant ones 8, and of those with 8,192 parts of 64 KiB 2.
HOSTILE = """
import os, struct, sys, time
import msgpack, zmq
kind, public, secret, server, *addresses = sys.argv[1:]
context = zmq.Context()
context.linger = 0
def dial(address):
    sock = context.socket(zmq.PUSH)
    sock.curve_publickey, sock.curve_secretkey, sock.curve_serverkey = public.encode(), secret.encode(), server.encode()
    sock.sndhwm, sock.immediate = 1000, 1
    sock.connect(address)
    return sock
head = struct.Struct(">4sBBHQQIHH")
deep = b"\\x91" * 60_000 + b"\\xc0"
def message(k):
    if kind == "noise":
        return [os.urandom(1 + k % 400)]
    if kind == "nested":
        return [head.pack(b"ZPI1", 2, 0, 32, 7, 8, 1, 0, 0) + deep]
    if kind == "replayed":  # an OPEN and a SYNC of a link that was, for a process that was
        info = msgpack.packb({"proto": [1, 0], "stage": "numbers", "acks": ["tcp://127.0.0.1:9"]})
        return [head.pack(b"ZPI1", 2 + k % 2, 0, 32, 7, 8, 1 + k % 3, 0, 0) + info]
    return [giant] if kind == "giant" else [part] * 8192  # libzmq itself sends no message that never ends
part = os.urandom(65536)
giant = os.urandom(16 << 20) if kind == "giant" else b""
socks = [dial(address) for address in addresses]
pace_s, burst = {"giant": (0.125, 1), "parts": (0.5, 1)}.get(kind, (0.01, 100))
k = sent = 0
due_s = time.monotonic()
while True:
    for _ in range(burst):
        k += 1
        sock = socks[k % len(socks)]
        try:
            sock.send_multipart(message(k), zmq.NOBLOCK, copy=kind != "parts")
            sent += 1
        except zmq.Again:
            if k % 1000 == 0:  # it was shut out: comes again
                sock.close()
                socks[k % len(socks)] = dial(addresses[k % len(socks)])
    due_s = max(due_s + pace_s, time.monotonic() - 1)
    time.sleep(max(0.0, due_s - time.monotonic()))
"""

# Takes what comes and drops it: what a flood costs two cores that send it and decrypt it, whoever is meant.
WALL = """
import sys
import zmq
context = zmq.Context()
sock = context.socket(zmq.PULL)
sock.curve_server, sock.curve_secretkey = 1, sys.argv[1].encode()
sock.bind_to_random_port("tcp://127.0.0.1")
print(sock.last_endpoint.decode(), flush=True)
while True:
    sock.recv_multipart(copy=False)
"""


class Guarded:
    """A run with keys on this machine, and the key of one who is admitted."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.most = 0
        ended(place.run("keys", "--keys", "keys", "add", "bad"))
        self.run: Command = place.start("run", place.pipeline(STAGES), "--keys", "keys", "--transport", "tcp")
        self.folder = Path(self.run.says("registry tcp://").rpartition("run folder ")[2])
        wait_until(lambda: self.size() > 0)

    def size(self) -> int:
        file = self.folder / "out.jsonl"
        return file.stat().st_size if file.exists() else 0

    def addresses(self) -> list[str]:
        """Return where workers listen."""
        found = []
        for process in self.workers():
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found.append(f"tcp://127.0.0.1:{connection.laddr.port}")
        return found

    def workers(self) -> list[psutil.Process]:
        return [process for process in self.place.processes() if "zpipe.processes.worker" in process.cmdline()]

    def grown(self, seconds: float) -> float:
        """Return how much is written in a second; `most` is the largest that a worker was seen to be."""
        before, began_s = self.size(), time.monotonic()
        workers = self.workers()
        while time.monotonic() < began_s + seconds:
            time.sleep(0.25)
            self.most = max([self.most, *(worker.memory_info().rss for worker in workers)])
        return (self.size() - before) / (time.monotonic() - began_s)

    def attacked(self, kind: str) -> float:
        """Return how much is written in a second beside one who means harm."""
        return self._beside(kind, read(self.place.folder / "keys" / "bad.key").registry, self.addresses())

    def spared(self, kind: str) -> float:
        """Return how much is written in a second beside one who does the same to somebody else."""
        public, secret = make_pair()
        with subprocess.Popen((sys.executable, "-c", WALL, secret), stdout=subprocess.PIPE, text=True) as wall:
            assert wall.stdout is not None
            try:
                return self._beside(kind, public, [wall.stdout.readline().strip()] * len(self.addresses()))
            finally:
                wall.kill()

    def _beside(self, kind: str, server: str, addresses: list[str]) -> float:
        keys = read(self.place.folder / "keys" / "bad.key")
        argv = (sys.executable, "-c", HOSTILE, kind, keys.public, keys.secret, server, *addresses)
        with subprocess.Popen(argv, env=self.place.env) as hostile:
            try:
                return self.grown(SPELL_S)
            finally:
                hostile.kill()

    def end(self) -> bool:
        """End the run early and tell whether every item is there once, in order."""
        self.run.interrupt()
        done = self.run.wait()
        found = [item["k"] for item in lines(self.folder / "out.jsonl")]
        return done.code == 130 and found == list(range(len(found)))


def hostile() -> Iterator[Shown]:
    """One with a key sends what harms: nothing is lost, and the others keep 95 % of their rate."""
    for kind in KINDS:
        with stage_place() as place:
            run = Guarded(place)
            spared, attacked = [], []
            for _ in range(SPELLS):
                spared.append(run.spared(kind))
                attacked.append(run.attacked(kind))
            said = [path.read_text().count("shut out") for path in (run.folder / "logs").glob("*.log")]
            exact = run.end()
            deaths = sum(stage["restarts"] for stage in _report(run)["stages"])
        ratio = median(a / s for a, s in zip(attacked, spared, strict=True))
        yield Shown(
            f"{kind}: {ratio:.3f} of the rate while it is sent to somebody else (at least {LEAST}), "
            f"shut out {sum(said)} times, largest worker {run.most / 2**20:.0f} MiB, {deaths} deaths, "
            f"results {'exact' if exact else 'NOT EXACT'}",
            exact and ratio >= LEAST and not deaths,
        )


def half_open() -> Iterator[Shown]:
    """Ten thousand connections that never say who they are keep no good one out."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = HALF_OPEN if most >= HALF_OPEN + 500 else most - 500
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, count + 500), most))
    with stage_place() as place, ExitStack() as opened:
        run = Guarded(place)
        quiet = run.grown(SPELL_S)
        addresses = run.addresses()
        address = run.run.says("registry tcp://").split()[2].rstrip(",")
        for k in range(count):
            target = [*addresses, address][k % (len(addresses) + 1)]
            opened.enter_context(socket.create_connection(("127.0.0.1", int(target.rpartition(":")[2])), 30))
        began_s = time.monotonic()
        more = place.start("worker", "whispered", "--registry", address, "--keys", "keys/bad.key")
        wait_until(lambda: '"whispered-3"' in place.run("ps", "--json").out)
        joined_s = time.monotonic() - began_s
        beside = run.grown(SPELL_S)
        exact = run.end()
        more.wait()
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    yield Shown(
        f"{count:,} half-open connections to {len(addresses) + 1} sockets: a worker joins within {joined_s:.1f} s, "
        f"{beside / quiet:.2f} of the rate before, results {'exact' if exact else 'NOT EXACT'}",
        exact and count == HALF_OPEN,
    )


def _report(run: Guarded) -> dict[str, list[dict[str, int]]]:
    return dict(json.loads((run.folder / "report.json").read_text()))
