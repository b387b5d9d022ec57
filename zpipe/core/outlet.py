"""The sending side of a worker: links, what is ready, what is on its way, and what of it has been settled.

An output waits in `ready`, goes on one link, and is settled by an ack of exactly its (link, seq).  When a
link dies, everything unsettled on it is ready again, ahead of what is new.  On an edge that keeps only the latest
an output waits, in place of `ready`, until a newer one comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from zpipe.core.histogram import Histogram, bucket
from zpipe.core.latest import Latest, release
from zpipe.core.limits import Limits
from zpipe.values.paths import Mark, Run
from zpipe.wire.frames import Ack

PRESSES_MAX = 4  # probes without an answer beyond which news of `blocked` waits for its turn
PROBE_MAX_S = 10.0  # between two probes of a receiver from which nothing is heard


class Parent(Protocol):
    """What an output was made from: told when the last of its outputs is settled."""

    pend: int  # outputs not yet settled
    closed: bool  # no further outputs will come

    def settled(self) -> None: ...


class Out:
    """One run on its way along one edge."""

    __slots__ = ("edge", "nbytes", "parents", "run")

    def __init__(self, edge: int, run: Run, parents: tuple[Parent, ...]) -> None:
        self.edge = edge
        self.run = run
        self.parents = parents
        self.nbytes = run.nbytes


@dataclass
class Peer:
    """A worker as the roster names it; `edge` is the one that joins it to us."""

    inc: int
    edge: int
    worker: str = ""
    endpoints: tuple[str, ...] = ()


class Link:
    """The sending end of a link: one generation of one edge to one worker."""

    # States: a new link is dialing; the first ack of its generation brings it up; a dead one is gone.
    DIALING, UP, DEAD = "dialing", "up", "dead"

    def __init__(self, peer: Peer, gen: int, now_s: float) -> None:
        self.peer = peer
        self.gen = gen
        self.state = Link.DIALING
        self.opened_s = now_s
        self.sent = 0  # items; the next seq is sent + 1
        self.sent_bytes = 0
        self.limit = 0
        self.limit_bytes = 0
        self.consumed = 0
        self.timed = 0  # a seq whose way to its end is being timed, one at a time; 0: none
        self.timed_s = 0.0  # when it was sent
        self.base = 1  # every seq below is settled
        self.frames: dict[int, Out | int] = {}  # by first seq; the length stays where a frame is settled
        self.unsettled = 0
        self.used = 0  # dispatch counter at the last send: ties go to the link used longest ago
        self.synced_s = now_s
        self.unheard = 0  # probes since the last ack
        self.quiet = False
        self.wants: tuple[int, ...] = ()
        self.full = False
        self.draining = False
        self.shares = False  # whether the receiver reads memory that this worker shares


@dataclass
class Edge:
    """An outgoing edge and what waits to go along it."""

    number: int
    marked: bool
    lanes: Mapping[int, int] | None = None  # of the arm of a fan-out: the lane above -> the lane on this edge
    outputs: tuple[str, ...] = ("",)  # of this stage that are read along it
    latest: Latest | None = None  # of an edge that keeps only the latest
    ready: deque[Out] = field(default_factory=deque)
    links: list[Link] = field(default_factory=list)
    gone: tuple[int, int] = (0, 0)  # items, marks among them, and bytes sent on links that are no more
    marks: int = 0  # sent
    unsettled_items: int = 0
    latency: Histogram = field(default_factory=Histogram)  # from sending until it is heard to be consumed, sampled

    def sent(self) -> tuple[int, int]:
        """Return how many items, without marks, and bytes were sent along it, repeats too; in any thread."""
        marks, links = self.marks, list(self.links)
        items, nbytes = self.gone
        items += sum(link.sent for link in links)
        return max(0, items - marks), nbytes + sum(link.sent_bytes for link in links)


class Outlet:
    """All outgoing edges of a worker.  Actions go to the callables `dial`, `send`, `sync`, `hang_up`."""

    def __init__(self, edges: Sequence[Edge], limits: Limits, unread: Sequence[str] = ()) -> None:
        self.edges = {edge.number: edge for edge in edges}
        self.marked = any(edge.marked for edge in edges)
        self.outputs = {name for edge in edges for name in edge.outputs}.union(unread)
        self.switches = bool(self.outputs - {""})
        self.limits = limits
        self.links: dict[int, Link] = {}  # by the receiver's incarnation
        self.peers: dict[int, Peer] = {}
        self.gens: dict[int, int] = {}
        self.redial: dict[int, tuple[float, float]] = {}  # inc -> (when, next pause)
        self.unsettled_items = 0  # ready or on links
        self.unsettled_bytes = 0
        self.out_items = 0
        self.pressed = False
        self._tick = 0
        self.dial: Callable[[Link], None] = _unset
        self.send: Callable[[Link, int, Out], None] = _unset
        self.sync: Callable[[Link, int], None] = _unset
        self.hang_up: Callable[[Link], None] = _unset

    # -- outputs ------------------------------------------------------------------------------------

    def emit(self, run: Run, parents: tuple[Parent, ...]) -> None:
        """Send a run along every edge; marks and dropped items travel on marked edges only."""
        self.out_items += run.n if run.marks is None else run.marks.count(0)
        for edge in self.edges.values():
            below = run if edge.lanes is None else run.on(edge.lanes[run.lane])
            if self.switches:
                below = self._sent_to(edge.outputs, below)
            if edge.marked or below.marks is None:
                self._add(edge, below, parents)
            else:
                for a, b in _items(below.marks):
                    self._add(edge, below.slice(a, b), parents)

    def _sent_to(self, outputs: tuple[str, ...], run: Run) -> Run:
        """Return the run as the readers of these outputs get it: what goes to others is a tombstone for them."""
        assert run.parts is not None
        parts = [part if part is not None and part.output in outputs else None for part in run.parts]
        marks = bytes(run.mark(i) or (Mark.TOMB if part is None else 0) for i, part in enumerate(parts))
        return run.like(0, parts, marks if any(marks) else None)

    def resend(self, edge: int, run: Run) -> None:
        """Send again what a save held back; nothing above waits for it any more."""
        self._add(self.edges[edge], run, ())

    def _add(self, edge: Edge, run: Run, parents: tuple[Parent, ...]) -> None:
        if edge.latest is not None:
            self._add_latest(edge, edge.latest, run, parents)
            return
        out = Out(edge.number, run, parents)
        for parent in parents:
            parent.pend += 1
        self.unsettled_items += run.n
        edge.unsettled_items += run.n
        self.unsettled_bytes += out.nbytes
        edge.ready.append(out)

    def _add_latest(self, edge: Edge, latest: Latest, run: Run, parents: tuple[Parent, ...]) -> None:
        """Let the last item of a run wait; those before it are skipped at once."""
        latest.skipped += run.n - 1
        out = Out(edge.number, run.slice(run.n - 1, run.n), ())
        self.unsettled_items += 1
        edge.unsettled_items += 1
        self.unsettled_bytes += out.nbytes
        self._forget(latest.put(out, parents))

    def _forget(self, out: Out | None) -> None:
        if out is not None:
            self.unsettled_items -= out.run.n
            self.edges[out.edge].unsettled_items -= out.run.n
            self.unsettled_bytes -= out.nbytes

    @property
    def backlog(self) -> bool:
        """Tell whether something is ready that no link has credit for."""
        return any(edge.ready for edge in self.edges.values())

    def unsettled(self) -> list[Out]:
        """Return every output that is not settled, per edge in the order it was sent."""
        outs: list[Out] = []
        for edge in self.edges.values():
            for link in edge.links:
                outs.extend(o for o in link.frames.values() if isinstance(o, Out))
            outs.extend(edge.latest.waiting.values() if edge.latest is not None else edge.ready)
        return outs

    def dispatch(self, now_s: float = 0.0) -> None:
        """Send what is ready to the links with credit, the least loaded first."""
        for edge in self.edges.values():
            if edge.latest is not None:
                self._dispatch_latest(now_s, edge, edge.latest)
            ready = edge.ready
            while ready:
                out = ready[0]
                link = self._choose(edge, out)
                if link is None:
                    break
                ready.popleft()
                room = link.limit - link.sent
                if out.run.n > room:
                    out = self._cut(edge, out, room)
                self._put(link, out)
                if out.run.marks is not None:
                    edge.marks += out.run.n - out.run.marks.count(0)
                if not link.timed:
                    link.timed, link.timed_s = link.sent, now_s

    def _dispatch_latest(self, now_s: float, edge: Edge, latest: Latest) -> None:
        for lane, out in list(latest.waiting.items()):
            link = self._choose(edge, out)
            if link is not None:
                self._put(link, latest.take(lane))
                if not link.timed:
                    link.timed, link.timed_s = link.sent, now_s

    def _choose(self, edge: Edge, out: Out) -> Link | None:
        best: Link | None = None
        for link in edge.links:
            if link.state != Link.UP or link.draining or link.sent >= link.limit:
                continue
            load = link.sent - link.consumed
            # One item larger than the bytes left may go when nothing else of the link is unconsumed.
            if load and link.sent_bytes + out.nbytes > link.limit_bytes:
                continue
            if best is None or (load, link.used) < (best.sent - best.consumed, best.used):
                best = link
        return best

    def _cut(self, edge: Edge, out: Out, n: int) -> Out:
        """Keep the first `n` items, and put the rest back at the head of what is ready."""
        rest = Out(out.edge, out.run.slice(n, out.run.n), out.parents)
        out.run = out.run.slice(0, n)
        out.nbytes = out.run.nbytes
        for parent in out.parents:
            parent.pend += 1
        edge.ready.appendleft(rest)
        return out

    def _put(self, link: Link, out: Out) -> None:
        seq = link.sent + 1
        link.sent += out.run.n
        link.sent_bytes += out.nbytes
        link.frames[seq] = out
        link.unsettled += 1
        self._tick += 1
        link.used = self._tick
        self.send(link, seq, out)

    # -- acks ---------------------------------------------------------------------------------------

    def ack(self, now_s: float, ack: Ack) -> None:
        """Take in an ack: everything in it is absolute, so repeats and late ones are harmless."""
        link = self.links.get(ack.src)
        if link is None or link.gen != ack.gen or ack.base > link.sent + 1 or ack.got > link.sent:
            return
        if link.state == Link.DIALING:
            link.state = Link.UP
            self.redial.pop(ack.src, None)
        link.unheard = 0
        link.limit = max(link.limit, ack.limit)
        link.limit_bytes = max(link.limit_bytes, ack.limit_bytes)
        link.consumed = max(link.consumed, ack.consumed)
        if 0 < link.timed <= link.consumed:
            self.edges[link.peer.edge].latency[bucket(now_s - link.timed_s)] += 1
            link.timed = 0
        link.draining = ack.state == 1
        link.shares = ack.shares
        if self.edges[link.peer.edge].latest is None:  # else nobody waits for what is below
            link.quiet = bool(ack.quiet) and ack.got == link.sent
            link.wants = tuple(ack.wants)
            link.full = ack.full
        while link.base < ack.base:
            frame = link.frames[link.base]
            n = frame.run.n if isinstance(frame, Out) else frame
            if link.base + n > ack.base:
                break  # a frame settles as a whole
            if isinstance(frame, Out):
                self._settle(link, link.base, frame)
            del link.frames[link.base]
            link.base += n
        for a, b in ack.ranges:
            seq = max(a, link.base)
            while seq <= b and seq in link.frames:
                frame = link.frames[seq]
                if isinstance(frame, Out):
                    if seq + frame.run.n - 1 > b:
                        break
                    self._settle(link, seq, frame)
                    frame = frame.run.n
                seq += frame
        if self._has_gap(ack):
            self.lost(now_s, link)

    def _has_gap(self, ack: Ack) -> bool:
        """A receiver that has read our mark `echo` without all that we sent before it has lost something."""
        return ack.echo > ack.got

    def _settle(self, link: Link, seq: int, out: Out) -> None:
        link.frames[seq] = out.run.n
        link.unsettled -= 1
        self._forget(out)
        latest = self.edges[out.edge].latest
        if latest is None:
            release(out.parents)
        else:
            latest.settled(out)

    # -- links --------------------------------------------------------------------------------------

    def roster(self, now_s: float, peers: list[Peer]) -> None:
        """Dial the receivers that are new, and drop those that are gone."""
        self.peers = {peer.inc: peer for peer in peers}
        for inc in [inc for inc in self.links if inc not in self.peers]:
            self.lost(now_s, self.links[inc])
        self.redial = {inc: when for inc, when in self.redial.items() if inc in self.peers}
        for inc in self.peers:
            if inc not in self.links and inc not in self.redial:
                self._dial(now_s, inc)

    def _dial(self, now_s: float, inc: int) -> None:
        self.gens[inc] = self.gens.get(inc, 0) + 1
        link = Link(self.peers[inc], self.gens[inc], now_s)
        self.links[inc] = link
        self.edges[link.peer.edge].links.append(link)
        self.dial(link)

    def lost(self, now_s: float, link: Link) -> None:
        """A link is dead: what is unsettled on it is ready again, in order, before anything new."""
        if link.state == Link.DEAD:
            return
        link.state = Link.DEAD
        inc = link.peer.inc
        self.links.pop(inc, None)
        edge = self.edges[link.peer.edge]
        edge.links.remove(link)
        edge.gone = (edge.gone[0] + link.sent, edge.gone[1] + link.sent_bytes)
        again = [out for out in link.frames.values() if isinstance(out, Out)]
        for out in reversed(again):
            out.run.attempt = min(out.run.attempt + 1, 255)
            if edge.latest is None:
                edge.ready.appendleft(out)
            else:
                self._forget(edge.latest.again(out))
        link.frames = {}
        self.hang_up(link)
        if inc in self.peers:
            pause = self.redial.get(inc, (0.0, self.limits.redial_s))[1]
            self.redial[inc] = (now_s + pause, min(2 * pause, self.limits.dial_s))

    def tick(self, now_s: float) -> None:
        """Probe links, give up dials that lead nowhere, dial again."""
        for link in list(self.links.values()):
            if link.state == Link.DIALING:
                if now_s - link.opened_s >= self.limits.dial_s:
                    self.lost(now_s, link)
            elif now_s - link.synced_s >= self._probe_s(link):
                self._sync(now_s, link)
        for inc, (when, _) in list(self.redial.items()):
            if inc not in self.links and when <= now_s:
                self._dial(now_s, inc)

    def _probe_s(self, link: Link) -> float:
        """Return the pause between probes: it grows while a receiver is in a call, whose inbox is not endless."""
        pause_s = self.limits.sync_s if link.unsettled else 10 * self.limits.sync_s
        return max(pause_s, min(self.limits.sync_s * link.unheard, PROBE_MAX_S))

    def press(self, now_s: float, pressed: bool) -> None:
        """Tell the stages below, at once, whether the sources above wait for acks."""
        if pressed != self.pressed:
            self.pressed = pressed
            for link in self.links.values():
                if link.state == Link.UP and link.unheard < PRESSES_MAX:
                    self._sync(now_s, link)

    def _sync(self, now_s: float, link: Link) -> None:
        link.synced_s = now_s
        link.unheard += 1
        self.sync(link, link.sent)  # now: what is decided after this goes out after it

    def quiet(self) -> bool:
        """Tell whether nothing below will move before something new is sent, but for what keeps only the latest."""
        if self.backlog:
            return False
        edges = [edge for edge in self.edges.values() if edge.latest is None]
        links = (link for edge in edges for link in edge.links)
        return all(link.consumed == link.sent and (link.quiet or link.sent == 0) for link in links)

    @property
    def skipped_items(self) -> int:
        """Return how many outputs were sent no more because a newer one came."""
        return sum(edge.latest.skipped for edge in self.edges.values() if edge.latest is not None)

    @property
    def holds_much(self) -> bool:
        """Tell whether more is unsettled than should be."""
        limits = self.limits
        return self.unsettled_bytes > limits.held_bytes and self.unsettled_items > limits.held_items * len(self.links)

    @property
    def is_full_below(self) -> bool:
        """Tell whether a stage below holds more than it should."""
        return any(link.full for link in self.links.values())

    def wanted(self) -> set[int]:
        """Return the source numbers that stages below wait for."""
        return {source for link in self.links.values() for source in link.wants}


def _items(marks: bytes) -> list[tuple[int, int]]:
    """Return the stretches [a, b) of items between marks."""
    stretches, start = [], None
    for i, mark in enumerate(marks):
        if mark == 0 and start is None:
            start = i
        elif mark != 0 and start is not None:
            stretches.append((start, i))
            start = None
    if start is not None:
        stretches.append((start, len(marks)))
    return stretches


def _unset(*_: object) -> None:
    raise AssertionError("an outlet needs its actions")
