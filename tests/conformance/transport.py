"""A bench for links: machines of workers over the simulator's network or over sockets, turned by hand.

An `End` is one life of a worker without a stage: a sender whose items the test makes, or a receiver that notes
what it is to call.  A bench makes ends, carries what they say, and breaks it; nothing here knows what is true.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import heappop
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from zpipe.core.limits import Limits
from zpipe.core.outlet import Link, Peer
from zpipe.core.source import Position, Source
from zpipe.core.worker import Role, Worker
from zpipe.processes.codec import WireCodec
from zpipe.processes.links import Links, now
from zpipe.testing.simulator import Node, World
from zpipe.transport import sockets
from zpipe.transport.keys import Keys
from zpipe.values.plan import EdgePlan, Plan, StagePlan
from zpipe.wire.frames import Ack, Data, Message

DEADLINE_S = 60.0  # for what takes less than one
TURN_MS = 5  # how long a turn over sockets waits for something to arrive
EDGE = EdgePlan(0, 0, 1, False)
SENDER = Role(inputs=(), outputs=(EDGE,), partitions={0: (Position(), False)})
RECEIVER = Role(inputs=(0,), outputs=())
CODEC = WireCodec()


class Listener(Worker):
    """A machine that notes what it is told."""

    def __init__(self, inc: int, role: Role, limits: Limits) -> None:
        super().__init__(inc, role, limits)
        self.heard: list[Message] = []

    def received(self, now_s: float, message: Message) -> None:
        self.heard.append(message)
        super().received(now_s, message)


class End:
    """One life of a worker: `called` is what a receiver has called; it calls nothing while it `holds`."""

    def __init__(self, worker: Listener) -> None:
        self.inc = worker.inc
        self.worker = worker
        self.holds = False
        self.called: list[Any] = []
        self.endpoints: tuple[str, ...] = ()

    def make(self, *items: Any) -> None:
        """Make items, each a run of its own."""
        source = self.worker.intake
        assert isinstance(source, Source)
        for item in items:
            part = CODEC.encode(item)
            run, stretch = source.made(0, [part], part.nbytes)
            self.worker.emit(run, stretch)
            source.sent(stretch)

    def work(self, now_s: float) -> None:
        """Call what there is, send and acknowledge: a worker's loop, once."""
        worker = self.worker
        while worker.inlet is not None and not self.holds and (job := worker.take(64)) is not None:
            for run, a, b in job.stretches:
                self.called += CODEC.decode(run)[a:b]
            worker.done(job, busy_s=0.0, dropped=0)
        worker.dispatch(now_s)
        worker.flush()

    @property
    def settled(self) -> int:
        """Return how many of the items made, counted from the first, are settled."""
        assert isinstance(self.worker.intake, Source)
        return self.worker.intake.partitions[0].watermark

    @property
    def acks(self) -> list[Ack]:
        """Return the acks that were heard."""
        return [message for message in self.worker.heard if isinstance(message, Ack)]

    @property
    def data(self) -> list[Data]:
        """Return the runs that were heard, taken in or not."""
        return [message for message in self.worker.heard if isinstance(message, Data)]

    def link(self, to: End) -> Link:
        """Return the living link to another end."""
        return self.worker.outlet.links[to.inc]


class Bench(Protocol):
    """What a transport must offer to be held to the facts."""

    def end(self, role: Role, limits: Limits) -> End: ...
    def act(self, end: End) -> None:
        """Carry out what an end has decided."""

    def turn(self) -> None:
        """Let every end work once, or something arrive."""

    def now_s(self) -> float: ...
    def kill(self, end: End) -> None: ...
    def cut(self, sender: End, receiver: End) -> None:
        """Break the connection of a link."""

    def cut_acks(self, receiver: End, sender: End) -> None:
        """Break the connection on which a link's acks return."""


def sender(bench: Bench, limits: Limits | None = None) -> End:
    """Begin the life of a sender."""
    return bench.end(SENDER, limits or Limits())


def receiver(bench: Bench, limits: Limits | None = None) -> End:
    """Begin the life of a receiver."""
    return bench.end(RECEIVER, limits or Limits())


def join(bench: Bench, sender: End, *receivers: End) -> None:
    """Give everyone the roster: these are the ends of the edge, and nobody else."""
    peers = [Peer(end.inc, 0, endpoints=end.endpoints) for end in receivers]
    sender.worker.roster(bench.now_s(), peers, set())
    for end in receivers:
        end.worker.roster(bench.now_s(), [], {sender.inc})


def until(bench: Bench, true: Callable[[], object], always: Callable[[], object] | None = None) -> None:
    """Let the bench turn until something is true; `always` holds at every turn.  Raises TimeoutError."""
    end_s = bench.now_s() + DEADLINE_S
    while not true():
        if bench.now_s() > end_s:
            raise TimeoutError(f"not so within {DEADLINE_S} s")
        bench.turn()
        assert always is None or always()


# -- the simulator's network ----------------------------------------------------------------------------


class Simulated:
    """Ends over the simulator's network, its clock moved from event to event."""

    def __init__(self) -> None:
        self.world = _Empty(Plan("bench", ".", (), (EDGE,), {0: "made"}, {0: 0}), {}, seed=0)
        self.lives: dict[int, _Life] = {}

    def end(self, role: Role, limits: Limits) -> End:
        self.world.next_role, self.world.limits = role, limits
        life = _Life(self.world, _STAGE, 0, len(self.lives) + 1)
        self.lives[life.inc] = self.world.nodes[life.inc] = life
        return life.end

    def act(self, end: End) -> None:
        self.lives[end.inc].drain()

    def turn(self) -> None:
        world = self.world
        world.now_s, _, call, args = heappop(world.events)
        call(*args)

    def now_s(self) -> float:
        return self.world.now_s

    def kill(self, end: End) -> None:
        self.world.kill(self.lives[end.inc])

    def cut(self, sender: End, receiver: End) -> None:
        pipe = self.lives[sender.inc].data_pipes[receiver.inc]
        pipe.queue.clear()
        pipe.cut = True

    def cut_acks(self, receiver: End, sender: End) -> None:
        pipe = self.lives[receiver.inc].ack_pipes[sender.inc]
        pipe.queue.clear()
        pipe.cut = True


_NO_CALLER = SimpleNamespace(call=None, trouble=SimpleNamespace(suspect=lambda rows: None, resolved=set()))


class _Empty(World):
    """A world in which nobody begins a life by himself."""

    worker_type = Listener
    caller_type = staticmethod(lambda *_: _NO_CALLER)  # type: ignore[assignment]
    next_role = SENDER

    def role(self, stage: StagePlan, slot: int) -> Role:
        return self.next_role

    def start(self, stage: StagePlan, slot: int) -> None:
        pass

    def push_rosters(self) -> None:
        pass


class _Life(Node):
    """A node that an end drives in place of a caller."""

    def __init__(self, world: _Empty, stage: StagePlan, slot: int, inc: int) -> None:
        world.targets = {stage.name: lambda: None}
        super().__init__(world, stage, slot, inc)
        assert isinstance(self.worker, Listener)
        self.end = End(self.worker)

    def run(self) -> None:
        self.end.work(self.world.now_s)
        self.drain()


_STAGE = StagePlan(
    number=0, name="end", stage="end", role="end", run="", args={}, env={}, workers=1, form="map", hooks=(),
    memory=False, splits=False, inputs=(), outputs=(), lanes=(), depths=(), hook_lane=None, hooks_above=(),
)  # fmt: skip


# -- sockets --------------------------------------------------------------------------------------------


class Real:
    """Ends over sockets, each with a context of its own."""

    def __init__(self, transport: str, folder: Path) -> None:
        self.transport = "tcp" if transport == "keys" else transport
        public, secret = sockets.make_pair()
        self.keys = Keys("registry", public, secret, public, folder) if transport == "keys" else None
        self.folder = folder
        self.lives: dict[int, tuple[End, Links]] = {}
        self.born = 0
        self.poll = select.poll()

    def end(self, role: Role, limits: Limits) -> End:
        self.born += 1
        end = End(Listener(self.born, role, limits))
        links = Links(
            end.worker, host="127.0.0.1", sockets_dir=str(self.folder), transport=self.transport, stage="end",
            save=lambda save: None, keys=self.keys, admitted=[self.keys.public] if self.keys else (),
        )  # fmt: skip
        if self.keys is not None:
            links.peer_keys = dict.fromkeys(range(100), self.keys.public)
        end.endpoints = tuple(links.inbox_endpoints)
        self.lives[end.inc] = (end, links)
        for door in (links.inbox, links.acks):
            for socket in door.inlets if door is not None else ():
                self.poll.register(sockets.descriptor(socket), select.POLLIN)
        return end

    def act(self, end: End) -> None:
        self.lives[end.inc][1].act(now())

    def turn(self) -> None:
        for end, links in self.lives.values():
            now_s = now()
            links.receive(now_s)
            end.worker.tick(now_s)
            end.work(now_s)
            links.act(now_s)
            links.retry(now_s)
        self.poll.poll(TURN_MS)

    def now_s(self) -> float:
        return time.monotonic()

    def kill(self, end: End) -> None:
        _, links = self.lives.pop(end.inc)
        for door in (links.inbox, links.acks):
            for socket in door.inlets if door is not None else ():
                self.poll.unregister(sockets.descriptor(socket))
        links.close()

    def cut(self, sender: End, receiver: End) -> None:
        _disconnect(self.lives[sender.inc][1].data[receiver.inc].socket)

    def cut_acks(self, receiver: End, sender: End) -> None:
        socket = self.lives[receiver.inc][1].returns[sender.inc].socket
        assert socket is not None
        _disconnect(socket)

    def close(self) -> None:
        """End every life that is left."""
        for end, _ in list(self.lives.values()):
            self.kill(end)


def _disconnect(socket: sockets.Socket) -> None:
    socket.disconnect(socket.last_endpoint)


@contextmanager
def opened(transport: str, folder: Path) -> Iterator[Bench]:
    """Open the bench of a transport: simulated, ipc, tcp, or tcp with keys."""
    if transport == "simulated":
        yield Simulated()
        return
    bench = Real(transport, folder)
    try:
        yield bench
    finally:
        bench.close()
