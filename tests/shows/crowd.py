"""Show of a registry with a thousand workers, which are played by one process."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil
import zmq

from tests.real import Place
from tests.shows.away import of_run
from tests.shows.flow import Shown, stage_place
from zpipe.core.requests import PROTO
from zpipe.processes.control import BEAT_JITTER, BEAT_S
from zpipe.transport import sockets
from zpipe.wire import control as wire

SIZES = (100, 200, 400, 1000)
MIB = 2**20
GONE = 410  # the code of what is said to a worker that was declared dead
STEADY_S = 10.0
JOIN_S = 120.0
MESH_PEERS = 32  # of each stage beside; docs/protocol.md
REGISTRY_MAX = 4 * 2**30  # bytes; one that takes more is ended, before the machine is
COUNTERS = ("in", "done", "dropped", "dead", "out", "errors", "repeats", "busy_s", "starved_s", "blocked_s", "queued")


@dataclass
class Worker:
    """One worker, as far as its registry can tell."""

    inc: int
    stage: str
    socket: sockets.Socket
    peers_wanted: int
    hello: bytes
    epoch: int = 0  # of the registry, once it has said WELCOME
    ver: int = 0
    peers: int = 0
    roster_bytes: int = 0  # of the last answer with a roster
    taken_bytes: int = 0
    due_s: float = 0.0


class Crowd:
    """As many workers: one source, and two stages of the others."""

    def __init__(self, address: str, size: int) -> None:
        self.context = sockets.context()
        self.context.set(zmq.IO_THREADS, 4)  # else one thread would answer the heartbeats of all
        self.poller = sockets.Poller()
        self.workers: dict[Any, Worker] = {}
        first = (size - 1) // 2
        numbers = {"numbers": 1, "first": first, "second": size - 1 - first}
        few = {name: min(n, MESH_PEERS) for name, n in numbers.items()}
        beside = {"numbers": few["first"], "first": 1 + few["second"], "second": few["first"]}
        for stage, n in numbers.items():
            for slot in range(n):
                self._add(address, stage, slot, beside[stage])
        self.beats = 0
        self.dead: set[int] = set()  # of whom the registry has said so

    def _add(self, address: str, stage: str, slot: int, beside: int) -> None:
        inc = random.getrandbits(62) + 1
        socket, monitor = sockets.dealer(self.context, address, inc.to_bytes(8, "big"))
        sockets.unwatch(socket)
        sockets.close(monitor)
        self.poller.register(socket, sockets.IN)
        hello = {
            "t": "HELLO", "rid": 1, "proto": list(PROTO), "inc": inc, "stage": stage, "slot": slot, "pid": slot + 1,
            "host": f"{stage}-host-{slot}", "supervisor": None,
        }  # fmt: skip
        self.workers[socket] = Worker(inc, stage, socket, beside, wire.encode(hello))

    def close(self) -> None:
        """Let nobody be there any more."""
        sockets.end(self.context)

    def join(self) -> None:
        """Let all of them say HELLO."""
        for worker in self.workers.values():
            sockets.ask(worker.socket, worker.hello)

    @property
    def joined(self) -> int:
        """Return how many know as many peers as a worker is to have."""
        return sum(worker.peers >= worker.peers_wanted for worker in self.workers.values())

    def turn(self) -> None:
        """Take what has come, and send the beats that are due."""
        for socket, _ in self.poller.poll(10):
            worker, news = self.workers[socket], b""
            while frames := sockets.receive(socket):
                worker.taken_bytes += len(frames[0])
                data = bytes(frames[0])
                if b"WELCOME" in data or b"roster" in data or b"ERR" in data:
                    news = data  # what it says is the whole: the last is enough
            if news:
                self._take(worker, wire.decode(news), len(news))
        now_s = time.monotonic()
        for worker in self.workers.values():
            if worker.epoch and worker.due_s <= now_s:
                worker.due_s = now_s + BEAT_S * random.uniform(1 - BEAT_JITTER, 1 + BEAT_JITTER)
                sockets.ask(worker.socket, self._beat(worker))
                self.beats += 1

    def _take(self, worker: Worker, message: dict[str, Any], nbytes: int) -> None:
        if message["t"] == "ERR" and message["code"] != GONE:
            raise RuntimeError(f"the registry refuses: {message['text']}")
        if message["t"] == "ERR":
            worker.epoch = 0
            self.dead.add(worker.inc)
        elif message["t"] == "WELCOME":
            worker.epoch = message["epoch"]
        elif "roster" in message and message["ver"] >= worker.ver:
            worker.ver, worker.peers, worker.roster_bytes = message["ver"], len(message["roster"]["peers"]), nbytes

    def _beat(self, worker: Worker) -> bytes:
        """Return what a worker at work tells."""
        endpoint = [f"ipc:///run/user/1000/zpipe/0123456789/{worker.inc:016x}", "tcp://10.111.222.233:54321"]
        n = self.beats + 100_000
        edge = {"sent": n, "sent_bytes": 100 * n, "in_flight": 17, "queued": 3, "transports": ["tcp"], "latency": {}}
        return wire.encode(
            {
                "t": "BEAT", "rid": n, "inc": worker.inc, "epoch": worker.epoch, "ver": worker.ver,
                "state": "live", "inbox": endpoint if worker.stage != "numbers" else [],
                "acks": endpoint if worker.stage != "second" else [], "counters": dict.fromkeys(COUNTERS, n),
                "running": None, "sources": {}, "calls": {}, "edges": {0: edge, 1: edge}, "resolved": [], "waits": "",
            }
        )  # fmt: skip


def crowd(sizes: tuple[int, ...] = SIZES) -> Iterator[Shown]:
    """A registry of up to 1,000 workers: until all know their peers, and what it takes then."""
    for size in sizes:
        with stage_place() as place:
            yield _crowd(place, size)


def _crowd(place: Place, size: int) -> Shown:
    n = (size - 1) // 2
    stages = (
        '[stage.numbers]\nrun = "stages:numbers"\nargs = { count = 1 }\nreplay = "seek"\n'
        f'[stage.first]\nrun = "stages:same"\nfrom = "numbers"\nworkers = {n}\n'
        f'[stage.second]\nrun = "stages:out"\nfrom = "first"\nworkers = {size - 1 - n}\n'
    )
    run = place.start("registry", place.pipeline(stages))
    address = run.says("registry tcp://").partition("registry ")[2].split(",")[0].split()[0]
    registry = of_run(place, "zpipe.processes.registry")
    people = Crowd(address, size)
    try:
        _turn_until(people, registry, lambda: False, 1.0)  # connected
        before, began_s = _cpu_s(registry), time.monotonic()
        people.join()
        _turn_until(people, registry, lambda: people.joined == size, JOIN_S)
        joined_s, joined_cpu_s, joined = time.monotonic() - began_s, _cpu_s(registry) - before, people.joined
        taken = sum(worker.taken_bytes for worker in people.workers.values())
        peak = registry.memory_info().rss
        _turn_until(people, registry, lambda: False, 2.0)
        before, began_s, beats = _cpu_s(registry), time.monotonic(), people.beats
        _turn_until(people, registry, lambda: False, STEADY_S)
        cpu_s, beats = _cpu_s(registry) - before, people.beats - beats
        seconds, rss = time.monotonic() - began_s, registry.memory_info().rss
        roster = max(worker.roster_bytes for worker in people.workers.values())
        peers = max(worker.peers for worker in people.workers.values())
    finally:
        people.close()
        with suppress(psutil.Error):
            run.interrupt()
            run.says("again to stop now")
            run.interrupt()
            run.wait()
    return Shown(
        f"{size} workers: {joined} know all their peers after {joined_s:.1f} s, {joined_cpu_s:.1f} s of the registry's "
        f"CPU and {taken / 1e6:,.0f} MB from it; a roster of {peers} peers has {roster:,} bytes, "
        f"{roster / max(1, peers):.0f} each; then {beats / seconds:.0f} beats a second take "
        f"{100 * cpu_s / seconds:.0f} % of a core, {1e6 * cpu_s / max(1, beats):.0f} us each; "
        f"RSS {peak / MIB:.0f} MiB then, {rss / MIB:.0f} in the end; {len(people.dead)} declared dead by mistake",
        joined == size and not people.dead,
    )


def _turn_until(people: Crowd, registry: psutil.Process, over: Any, seconds: float) -> None:
    end_s = time.monotonic() + seconds
    look_s = 0.0
    while (now_s := time.monotonic()) < end_s:
        people.turn()
        if now_s >= look_s:
            look_s = now_s + 0.1
            if over():
                return
            if registry.memory_info().rss > REGISTRY_MAX:
                raise RuntimeError(f"the registry takes {REGISTRY_MAX / MIB:.0f} MiB with {people.joined} joined")


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
