"""Carries out the actions of a worker's machine over real sockets.

Knows sockets and frames; refuses to know stages and jobs.  One socket is one generation of a link: what
cannot be sent on it any more is told to the machine, which dials anew.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from zpipe.core.inlet import InLink
from zpipe.core.memory import Save
from zpipe.core.outlet import Link, Out
from zpipe.core.worker import Worker
from zpipe.processes import failpoints
from zpipe.processes.door import Door
from zpipe.processes.flood import SHUT_OUT_S, Flood
from zpipe.transport import sockets
from zpipe.transport.admission import Admission
from zpipe.transport.keys import Keys
from zpipe.transport.shared import SHARED_MIN, SharedMemory
from zpipe.transport.waiting import Waiter
from zpipe.values import context
from zpipe.values.errors import ConfigError, ProtocolError
from zpipe.wire import frames
from zpipe.wire.body import decode_run, share_arrays
from zpipe.wire.frames import Ack, Data, Message, Open, Sync

BURST = 200  # messages taken from one socket before the others are looked at
REDIAL_ACKS_S = 0.05  # an ack connection that failed is dialled again after this
ACKS_UP_S = 2.0  # and one that never came up after this
RETRY_S, RETRY_MAX_S = 0.002, 0.05  # what could not be sent is tried again, ever less often
UNREACHED_S = 15.0  # a peer that nothing gets through to is worth a line: a dead one leaves the rosters by then


class _Again:
    """When to try again to send something."""

    __slots__ = ("due_s", "pause_s")

    def __init__(self) -> None:
        self.due_s = 0.0
        self.pause_s = RETRY_S

    def put_off(self, now_s: float) -> None:
        self.due_s = now_s + self.pause_s
        self.pause_s = min(2 * self.pause_s, RETRY_MAX_S)

    @property
    def is_soon(self) -> bool:
        return self.pause_s < RETRY_MAX_S


@dataclass
class _Data:
    """The socket of a link, and its OPEN until it is sent."""

    link: Link
    socket: sockets.Socket
    opening: list[Any] | None
    transport: str
    crc: bool  # on a network, not within a machine
    again: _Again = field(default_factory=_Again)


@dataclass
class _Acks:
    """The connection on which one sender gets its acks; the newest that is not sent waits."""

    endpoints: tuple[str, ...]
    socket: sockets.Socket | None = None
    crc: bool = True  # on a network
    up: bool = False
    dialled_s: float = 0.0
    waiting: dict[int, Ack] = field(default_factory=dict)  # by generation
    again: _Again = field(default_factory=_Again)


class Links:
    """The sockets of one worker; `save` makes a save durable.

    With `keys` only the public keys that were told to `admit` get in over tcp, and only owners of the keys that
    rosters name are dialled.
    """

    def __init__(
        self, worker: Worker, *, host: str, sockets_dir: str | None, transport: str, stage: str,
        save: Callable[[Save], None], warn: Callable[[str], None] | None = None,
        keys: Keys | None = None, admitted: Iterable[str] = (), memory: SharedMemory | None = None,
    ) -> None:  # fmt: skip
        self.worker = worker
        self.memory = memory
        self.told_of_memory = False
        self.shares = False  # whether arrays are made in shared memory
        self.unshared: set[int] = set()  # senders whose references lead nowhere
        self.stage = stage
        self.save = save
        self.warn = warn or _say
        self.context = sockets.context()
        self.poller = Waiter()
        self.data: dict[int, _Data] = {}  # by receiver
        self.returns: dict[int, _Acks] = {}  # by sender
        self.inbox: Door | None = None
        self.acks: Door | None = None
        self.keys = keys
        self.peer_keys: dict[int, str] = {}  # of the workers at the other ends
        self.admitted = frozenset(admitted)
        self.admission = None if keys is None else Admission(self.context, self.admitted)
        self.flood = Flood()
        self.delivered = 0  # bytes that were taken in
        self.readable: Collection[Any] = ()  # what the last wait found
        self.pending = False  # whether something could not be sent yet
        self.refused = 0
        self.names: dict[int, str] = {}  # of the workers at the other ends
        self.tried: dict[int, float] = {}  # peers that nothing has got through to, since when
        self.unreached: set[int] = set()  # and those of them that were warned of
        door = partial(Door, transport=transport, sockets_dir=sockets_dir, keys=keys, poller=self.poller)
        if worker.inlet is not None:
            hwm = 4 * worker.limits.window_max
            self.inbox = door(partial(sockets.bind_pull, self.context, host=host, hwm=hwm))
        if worker.outlet.edges:
            self.acks = door(partial(sockets.bind_acks, self.context, host=host))

    def _drain_warily(self, now_s: float, socket: sockets.Socket) -> int:
        """Do what `_drain` does, with an eye on who sends what is refused."""
        for count in range(1, BURST + 1):
            received = sockets.receive_of(socket)
            if received is None:
                self.poller.empty(socket)
                return count - 1
            before = self.all_refused
            self._take(now_s, received[0])
            if self.all_refused == before:
                self.delivered += sum(map(len, received[0]))
            elif received[1] and self.flood.refused(received[1], now_s):
                self._shut_out(received[1])
                return count  # this socket is closed
        return BURST

    def _take(self, now_s: float, received: list[memoryview]) -> None:
        try:
            message = frames.decode(received)
            if type(message) is Data and message.shared:
                self._attach(message)
            elif type(message) is Open and self.memory is not None:
                where = message.info.get("memory")
                message.shares = message.src not in self.unshared and self.memory.opens(where)
            self.worker.received(now_s, self._checked(message))
        except ProtocolError:
            self.refused += 1

    def _attach(self, message: Data) -> None:
        """Put the bytes in shared memory in place of the references to them.  Raises ProtocolError."""
        if self.memory is None:
            raise ProtocolError("reference to shared memory where there is none")
        try:
            message.run.buffers = tuple(self.memory.attach(message.run.buffers[0]))
        except ProtocolError:
            link = None if self.worker.inlet is None else self.worker.inlet.links.get(message.src)
            if link is not None and link.gen == message.gen:  # else it comes late, over a link that is no more
                self.unshared.add(message.src)  # it comes again, over a link that does without
            raise

    @property
    def all_refused(self) -> int:
        """Return how many messages were refused, for whatever reason."""
        inlet = self.worker.inlet
        return self.refused + self.worker.refused + (0 if inlet is None else inlet.refused)

    @property
    def inbox_endpoints(self) -> list[str]:
        """Return where senders reach this worker; in any thread."""
        return [] if self.inbox is None else self.inbox.endpoints

    @property
    def acks_endpoints(self) -> list[str]:
        """Return where receivers acknowledge to this worker; in any thread."""
        return [] if self.acks is None else self.acks.endpoints

    def admit(self, now_s: float, admitted: Iterable[str]) -> None:
        """Admit these keys; where one is admitted no longer all are cut off, and come again if they may."""
        self.admitted = frozenset(admitted)
        self._admit_all()
        for src, entry in self.returns.items():
            if entry.socket is None:  # its key has come
                self._connect(now_s, src, entry)

    def _admit_all(self) -> None:
        """Admit those that are to be, but for those that are shut out."""
        if self.admission is not None and self.admission.admit(self.admitted - self.flood.shut_out.keys()):
            self._reopen()

    def _reopen(self) -> None:
        for door in (self.acks, self.inbox):
            if door is not None:
                door.reopen()

    def share(self, now_s: float) -> None:
        """Let arrays be made in shared memory while somebody below reads it; call now and then."""
        if self.memory is None:
            return
        self.memory.look(now_s)
        if self.memory.full and not self.told_of_memory:
            self.told_of_memory = True
            kept = ", ".join(f"{name} {nbytes // 2**20} MiB" for name, nbytes in self.memory.holders().items())
            self.warn(
                f"no room for an array in the {self.memory.nbytes // 2**20} MiB that are shared; of what everybody "
                f"else has done with is kept: {kept or 'nothing'}; arrays that find none are copied"
            )
        is_read = any(link.shares for link in self.worker.outlet.links.values())
        if is_read != self.shares:
            self.shares = is_read
            share_arrays(self.memory.put if is_read else None, SHARED_MIN)
            context.allocate_by(self.memory.empty if is_read else None)

    def look_out(self, now_s: float, rss: Callable[[], int]) -> None:
        """Look, now and then, whether peers with keys send what never ends, and forgive in time."""
        if self.admission is None:
            return
        if self.flood.forgives(now_s):
            self._admit_all()
        if self.flood.grows(rss(), self.delivered, now_s):
            self.warn("a message that came in grew and grew: all links are made anew, see who else is in the roster")
            self._reopen()

    def _shut_out(self, key: str) -> None:
        self.warn(f"who has the key {key} sends what makes no sense: shut out for {SHUT_OUT_S:.0f} s")
        self._admit_all()

    def transports(self) -> dict[int, set[str]]:
        """Return what the links of each outgoing edge go over; in any thread."""
        edges: dict[int, set[str]] = {}
        for entry in list(self.data.values()):
            names = {entry.transport, "shm"} if entry.link.shares else {entry.transport}
            edges.setdefault(entry.link.peer.edge, set()).update(names)
        return edges

    def close(self) -> None:
        """Close every socket at once."""
        share_arrays(None)
        context.allocate_by(None)
        if self.admission is not None:
            self.admission.close()
        sockets.end(self.context)

    # -- in -----------------------------------------------------------------------------------------

    def wait(self, timeout_ms: int) -> Collection[Any]:
        """Sleep until something can be read, and return what; `receive` takes it in."""
        self.readable = self.poller.wait(timeout_ms)
        return self.readable

    def receive(self, now_s: float) -> int:
        """Take in what has arrived, acks first.  Returns how many messages."""
        readable = self.readable or self.wait(0)
        self.readable = ()
        count = 0
        # Acks before data: an ack may free the credit that the next message needs.
        for door in (self.acks, self.inbox):
            if door is not None:
                count += sum(self._drain(now_s, socket) for socket in door.inlets if socket in readable)
        return count

    def _drain(self, now_s: float, socket: sockets.Socket) -> int:
        if self.admission is not None:
            return self._drain_warily(now_s, socket)
        for count in range(1, BURST + 1):
            received = sockets.receive(socket)
            if received is None:
                self.poller.empty(socket)
                return count - 1
            self._take(now_s, received)
            if count == 1 and not sockets.has_more(socket):  # of several the last is found out by trying
                self.poller.empty(socket)
                return count
        return count

    def _checked(self, message: Message) -> Message:
        """Decode what comes from a sender that no roster has named: its items must not end a call.

        Raises ProtocolError.
        """
        inlet = self.worker.inlet
        if isinstance(message, Data) and inlet is not None and message.src not in inlet.named:
            decode_run(message.run)
        return message

    # -- out ----------------------------------------------------------------------------------------

    def act(self, now_s: float) -> None:
        """Carry out what the machine has decided, in order, and whatever that makes it decide."""
        actions = self.worker.actions
        while actions:
            todo, actions[:] = list(actions), []
            for action in todo:
                kind = action[0]
                if kind == "send":
                    self._send(now_s, action[1], action[2], action[3])
                elif kind == "ack":
                    self._ack(now_s, action[1])
                elif kind == "sync":
                    self._sync(now_s, action[1], action[2])
                elif kind == "save":
                    self.save(action[1])
                elif kind == "dial":
                    self._dial(now_s, action[1])
                elif kind == "hang_up":
                    self._hang_up(action[1])
                elif kind == "dial_acks":
                    self._dial_acks(now_s, action[1])
                elif kind == "hang_up_acks":
                    self._hang_up_acks(action[1])
            if self.worker.outlet.backlog:
                self.worker.dispatch(now_s)

    def retry(self, now_s: float) -> bool:
        """Go on with what could not be sent yet; tells whether something is to be tried again soon."""
        waiting: list[_Again] = []
        for inc, entry in self.data.items():
            if entry.opening is not None:
                if entry.again.due_s <= now_s:
                    if sockets.send(entry.socket, entry.opening):
                        entry.opening = None
                        failpoints.hit("open")
                        self._reached(inc)
                        continue
                    entry.again.put_off(now_s)
                waiting.append(entry.again)
        for src, returns in self.returns.items():
            if returns.waiting and (returns.again.due_s > now_s or not self._send_acks(now_s, src, returns)):
                waiting.append(returns.again)
        self.pending = bool(waiting)
        return any(again.is_soon for again in waiting)

    def _reached(self, inc: int) -> None:
        self.tried.pop(inc, None)
        self.unreached.discard(inc)

    def _try(self, now_s: float, inc: int, endpoints: Sequence[str]) -> None:
        """Note that a peer is dialled; warn, once, when nothing has got through to it for long."""
        tried_s = now_s - self.tried.setdefault(inc, now_s)
        if tried_s >= UNREACHED_S and inc not in self.unreached:
            self.unreached.add(inc)
            self.warn(
                f"{self.names.get(inc, 'a worker')} lives but cannot be reached for {tried_s:.0f} s, "
                f"{sockets.trouble(endpoints)}"
            )

    def _dial(self, now_s: float, link: Link) -> None:
        if link.state == Link.DEAD:
            return
        info: dict[str, Any] = {"proto": [1, 0], "stage": self.stage, "acks": self.acks_endpoints}
        self._try(now_s, link.peer.inc, link.peer.endpoints)
        try:
            socket = self._push(link.peer.inc, link.peer.endpoints)
        except ConfigError:
            self.worker.lost(now_s, link)  # its endpoints are gone: the roster or the next dial will tell
            return
        transport = sockets.choose(link.peer.endpoints).partition("://")[0]
        if transport == "ipc" and self.memory is not None and (where := self.memory.where) is not None:
            info["memory"] = where
        message = Open(self.worker.inc, link.peer.inc, link.gen, link.peer.edge, info)
        opening = frames.encode(message, crc=transport != "ipc")
        self.data[link.peer.inc] = _Data(link, socket, opening, transport, crc=transport != "ipc")
        self.pending = True

    def _push(self, inc: int, endpoints: Sequence[str]) -> sockets.Socket:
        return sockets.dial_push(self.context, endpoints, keys=self.keys, peer=self.peer_keys.get(inc, ""))

    def _send(self, now_s: float, link: Link, seq: int, out: Out) -> None:
        entry = self.data.get(link.peer.inc)
        if link.state == Link.DEAD or entry is None or entry.link is not link:
            return
        message = Data(self.worker.inc, link.peer.inc, link.gen, link.peer.edge, seq, out.run)
        refs = self.memory.refs if link.shares and self.memory is not None else None
        if not sockets.send(entry.socket, frames.encode(message, crc=entry.crc, refs=refs)):
            self.worker.lost(now_s, link)

    def _sync(self, now_s: float, link: Link, hi: int) -> None:
        entry = self.data.get(link.peer.inc)
        if link.state == Link.DEAD or entry is None or entry.link is not link:
            return
        message = Sync(self.worker.inc, link.peer.inc, link.gen, link.peer.edge, hi, self.worker.outlet.pressed)
        if not sockets.send(entry.socket, frames.encode(message, crc=False)):
            self.worker.lost(now_s, link)

    def _hang_up(self, link: Link) -> None:
        entry = self.data.get(link.peer.inc)
        if entry is not None and entry.link is link:
            del self.data[link.peer.inc]
            sockets.close(entry.socket)
        if link.peer.inc not in self.worker.outlet.peers:
            self._reached(link.peer.inc)  # nobody looks for it any more

    def _dial_acks(self, now_s: float, link: InLink) -> None:
        old = self.returns.pop(link.src, None)
        if old is not None:
            sockets.close(old.socket)
        entry = self.returns[link.src] = _Acks(link.acks)
        self._connect(now_s, link.src, entry)

    def _connect(self, now_s: float, src: int, entry: _Acks) -> None:
        sockets.close(entry.socket)
        if self.worker.inlet is not None and src in self.worker.inlet.named:  # else it may be gone
            self._try(now_s, src, entry.endpoints)
        entry.dialled_s, entry.up, entry.socket, entry.again = now_s, False, None, _Again()
        try:
            entry.socket = self._push(src, entry.endpoints)
            entry.crc = not sockets.choose(entry.endpoints).startswith("ipc:")
        except ConfigError:
            self.refused += 1  # dialled again later: the sender may only be gone

    def _ack(self, now_s: float, ack: Ack) -> None:
        entry = self.returns.get(ack.dst)
        if entry is not None:
            entry.waiting = {ack.gen: ack}
            self._send_acks(now_s, ack.dst, entry)

    def _send_acks(self, now_s: float, src: int, entry: _Acks) -> bool:
        for gen, ack in list(entry.waiting.items()):
            if entry.socket is None or not sockets.send(entry.socket, frames.encode(ack, crc=entry.crc)):
                if now_s - entry.dialled_s >= (REDIAL_ACKS_S if entry.up else ACKS_UP_S):
                    self._connect(now_s, src, entry)
                else:
                    entry.again.put_off(now_s)
                self.pending = True
                return False
            if not entry.up:
                entry.up, entry.again = True, _Again()
                self._reached(src)
            del entry.waiting[gen]
        return True

    def _hang_up_acks(self, link: InLink) -> None:
        entry = self.returns.get(link.src)
        current = self.worker.inlet.links.get(link.src) if self.worker.inlet is not None else None
        if entry is not None and current in (None, link):
            del self.returns[link.src]
            sockets.close(entry.socket)
            self._reached(link.src)


def _say(line: str) -> None:
    print(f"zpipe: {line}", file=sys.stderr, flush=True)


def now() -> float:
    """Return the time that the machine is given, in seconds."""
    return time.monotonic()
