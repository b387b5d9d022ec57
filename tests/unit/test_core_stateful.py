"""The machines of the core against plain models, under everything that a network and a process may do to them.

`ZPIPE_HYPOTHESIS=thorough` plays fifty times as many and longer.  The names I1 to I21 are those of the
invariants that the protocol was designed by; what fails prints a blob that plays it again.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.streams import Stream, streams
from zpipe.core.inlet import Address, InLink
from zpipe.core.limits import Limits
from zpipe.core.memory import Memory, Save, Step
from zpipe.core.order import Order
from zpipe.core.outlet import Link, Out, Peer
from zpipe.core.source import Position, Source
from zpipe.core.work import Job
from zpipe.core.worker import Role, Worker
from zpipe.values.paths import Mark, Path, Run
from zpipe.values.plan import EdgePlan
from zpipe.wire.frames import Ack, Data, Message, Open, Sync

THOROUGH = os.environ.get("ZPIPE_HYPOTHESIS") == "thorough"
SETTINGS = settings(
    max_examples=5000 if THOROUGH else 100,
    stateful_step_count=100 if THOROUGH else 30,
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
ROUNDS = 2000  # within which a network without faults must settle everything
FEW, ANY = st.integers(1, 5), st.integers(0, 10**6)


class Part:
    """The item made at a position; it has bytes of its own."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


# -- lines of workers -----------------------------------------------------------------------------------


@dataclass
class Wire:
    """What one generation of a link has said and is not yet heard, in order."""

    to: int
    messages: deque[Message] = field(default_factory=deque)


@dataclass
class Sent:
    """What a model knows of the upper end of one generation: (seq, paths) of the frames, and the best of its acks."""

    frames: list[tuple[int, list[Path]]] = field(default_factory=list)
    settled: set[int] = field(default_factory=set)
    limit: int = 0
    limit_bytes: int = 0
    consumed: int = 0
    hi: int = 0
    nbytes: int = 0


class Life:
    """One life of a worker, and what a model knows of it."""

    def __init__(self, inc: int, layer: int, worker: Worker) -> None:
        self.inc = inc
        self.layer = layer
        self.worker = worker
        self.emitted: Counter[Path] = Counter()
        self.settled: Counter[Path] = Counter()
        self.sent: dict[tuple[int, int], Sent] = {}  # by (receiver, gen)
        self.open: dict[int, int] = {}  # receiver -> gen, from dialling to hanging up
        self.hears: dict[int, tuple[int, int]] = {}  # sender -> (gen, items taken in)
        self.left: dict[int, tuple[int, int]] = {}  # the same of a sender that a roster left out
        self.acks: dict[tuple[int, int], Ack] = {}  # (sender, gen) -> the last one said

    @property
    def source(self) -> Source:
        assert isinstance(self.worker.intake, Source)
        return self.worker.intake


class Lines(RuleBasedStateMachine):
    """A source, perhaps a layer of maps, and receivers; whatever is said is heard late, repeated or never.

    A pause is a life that no rule chooses for a while.
    """

    @initialize(
        layers=st.sampled_from(((1, 1), (1, 2), (1, 1, 1), (1, 2, 1))),
        marked=st.booleans(),
        limits=st.builds(
            Limits,
            window_max=st.sampled_from((1, 3, 64)),
            budget_bytes=st.sampled_from((10, 300, 10**6)),
            source_items=st.sampled_from((3, 20)),
            source_bytes=st.sampled_from((150, 10**6)),
            recent=st.sampled_from((1, 1024)),
            ack_ranges=st.sampled_from((1, 4096)),
        ),
        rounds=st.sampled_from((0, 2, 2)),
    )
    def begin(self, layers: tuple[int, ...], marked: bool, limits: Limits, rounds: int) -> None:
        self.now_s = 0.0
        self.limits = limits
        self.marked = marked
        self.depth = len(layers)
        self.incs = 0
        self.wires: list[Wire] = []
        self.acks: list[Ack] = []  # not yet heard
        self.said: list[Ack] = []
        self.script: list[Mark] = []  # what the source makes at each position, in every life
        self.watermark = 0
        self.done: set[Path] = set()  # by the last layer
        self.known: dict[tuple[int, int, int], tuple[int, ...]] = {}  # of a link: what must not fall
        self.lives = [self.born(layer) for layer, count in enumerate(layers) for _ in range(count)]
        for life in self.lives:
            self.name(life)
        self.flow(rounds)

    def born(self, layer: int) -> Life:
        self.incs += 1
        last = layer == self.depth - 1
        role = Role(
            inputs=() if layer == 0 else (layer - 1,),
            outputs=() if last else (EdgePlan(layer, layer, layer + 1, self.marked),),
            partitions={0: (Position(self.watermark), False)} if layer == 0 else None,
        )
        return Life(self.incs, layer, Worker(self.incs, role, self.limits))

    def name(self, life: Life, but: Life | None = None) -> None:
        """Give a life the roster; a registry that was restarted may leave out somebody who lives."""
        named = [other for other in self.lives if other is not but]
        receivers = [Peer(other.inc, life.layer) for other in named if other.layer == life.layer + 1]
        senders = {other.inc for other in named if other.layer == life.layer - 1}
        life.worker.roster(self.now_s, receivers, senders)
        self.carry(life)

    def life(self, inc: int) -> Life | None:
        return next((life for life in self.lives if life.inc == inc), None)

    # What a life has decided, carried out and held against the model.

    def carry(self, life: Life) -> None:
        actions, life.worker.actions[:] = list(life.worker.actions), []
        for kind, *about in actions:
            getattr(self, f"on_{kind}")(life, *about)

    def on_dial(self, life: Life, link: Link) -> None:
        gens = [gen for inc, gen in life.sent if inc == link.peer.inc]
        assert link.gen == max(gens, default=0) + 1
        life.sent[link.peer.inc, link.gen] = Sent()
        life.open[link.peer.inc] = link.gen
        wire = Wire(link.peer.inc)
        wire.messages.append(Open(life.inc, link.peer.inc, link.gen, link.peer.edge, {"acks": ["x"]}))
        self.wires.append(wire)
        link.wire = wire  # type: ignore[attr-defined]

    def on_send(self, life: Life, link: Link, seq: int, out: Out) -> None:
        if link.state == Link.DEAD:
            return
        sent, n = life.sent[link.peer.inc, link.gen], out.run.n
        assert seq == sent.hi + 1, "I3: seqs are dense"
        assert seq + n - 1 <= sent.limit, "I3: never above a limit granted"
        assert sent.nbytes + out.nbytes <= sent.limit_bytes or sent.hi == sent.consumed, "I3: nor above the bytes"
        sent.frames.append((seq, paths(out.run)))
        sent.hi += n
        sent.nbytes += out.nbytes
        run = out.run.slice(0, n)
        link.wire.messages.append(  # type: ignore[attr-defined]
            Data(life.inc, link.peer.inc, link.gen, link.peer.edge, seq, run)
        )

    def on_sync(self, life: Life, link: Link, hi: int) -> None:
        if link.state != Link.DEAD:
            message = Sync(life.inc, link.peer.inc, link.gen, link.peer.edge, hi, life.worker.outlet.pressed)
            link.wire.messages.append(message)  # type: ignore[attr-defined]

    def on_hang_up(self, life: Life, link: Link) -> None:
        assert life.open.pop(link.peer.inc) == link.gen

    def on_dial_acks(self, life: Life, link: InLink) -> None:
        assert life.hears[link.src][0] == link.gen, "acks go to the generation that is heard"

    def on_hang_up_acks(self, life: Life, link: InLink) -> None:
        if life.hears[link.src][0] == link.gen:
            life.left[link.src] = life.hears.pop(link.src)

    def on_ack(self, life: Life, ack: Ack) -> None:
        last = life.acks.get((ack.dst, ack.gen))
        if last is not None:
            for name in ("limit", "limit_bytes", "base", "got", "consumed", "echo"):
                assert getattr(ack, name) >= getattr(last, name), f"I4: {name} never falls"
        settled = ack.base - 1 + sum(b - a + 1 for a, b in ack.ranges)
        assert settled <= ack.consumed <= ack.got <= ack.limit, "I5: settled within consumed within received"
        assert ack.limit <= ack.consumed + self.limits.window_max, "I11: unconsumed items within their bound"
        edge = ack.base
        for a, b in ack.ranges:
            assert edge < a <= b <= ack.got, "ranges ascend, apart from each other and from the base"
            edge = b + 1
        life.acks[ack.dst, ack.gen] = ack
        self.acks.append(copy.deepcopy(ack))
        self.said.append(copy.deepcopy(ack))

    # What may happen.

    @rule(
        n=FEW,
        nbytes=st.sampled_from((0, 10, 100)),
        mark=st.sampled_from((Mark.ITEM, Mark.ITEM, Mark.EPOCH)),
        rounds=st.integers(0, 2),
    )
    def make(self, n: int, nbytes: int, mark: Mark, rounds: int) -> None:
        """Make items, or a mark; what an earlier life has made comes again."""
        life = self.lives[0]
        room = life.source.room(life.source.partitions[0])
        at = life.source.partitions[0].at.position
        if room <= 0:
            return
        if at == len(self.script):
            self.script += [mark] * (n if mark == Mark.ITEM else 1)
        if self.script[at] == Mark.ITEM:
            count = next((k for k, kind in enumerate(self.script[at:]) if kind), len(self.script) - at)
            count = min(count, n, room)
            run, stretch = life.source.made(0, [Part(nbytes) for _ in range(count)], nbytes * count)
        else:
            run, stretch = life.source.marked(0, Mark.EPOCH)
        if run.marks is None or self.marked:
            life.emitted.update(paths(run))
            life.worker.emit(run, stretch)
        life.source.sent(stretch)
        life.worker.dispatch(self.now_s)
        self.carry(life)
        self.flow(rounds)

    @rule(which=ANY, count=FEW)
    def hear(self, which: int, count: int) -> None:
        """Some messages of one link arrive."""
        wires = [wire for wire in self.wires if wire.messages]
        if wires:
            self.arrive(wires[which % len(wires)], count)

    def arrive(self, wire: Wire, count: int) -> None:
        life = self.life(wire.to)
        while wire.messages and count:
            count -= 1
            message = wire.messages.popleft()
            if life is None:
                continue
            if life.left.get(message.src, (0, 0))[0] == message.gen:
                life.hears[message.src] = life.left.pop(message.src)  # left out, and goes on
            if isinstance(message, Data):
                self.hear_data(life, message)
                continue
            known = life.hears.get(message.src) or life.left.get(message.src, (0, 0))
            if isinstance(message, Open) and message.gen > known[0]:
                life.hears[message.src] = (message.gen, 0)
                life.left.pop(message.src, None)
            life.worker.received(self.now_s, message)
            self.carry(life)

    def hear_data(self, life: Life, message: Data) -> None:
        gen, got = life.hears.get(message.src, (0, 0))
        ack = life.acks.get((message.src, gen))
        n = message.run.n
        wanted = message.gen == gen and message.seq == got + 1 and ack is not None and got + n <= ack.limit
        before = self.taken_in(life)
        life.worker.received(self.now_s, message)
        self.carry(life)
        assert (self.taken_in(life) != before) == wanted, "I10: only what comes next of an open generation"
        if wanted:
            life.hears[message.src] = (gen, got + n)

    def taken_in(self, life: Life) -> tuple[Any, ...]:
        inlet, ledger = life.worker.inlet, life.worker.intake
        assert inlet is not None and not isinstance(ledger, Source)
        return ([(link.src, link.gen, link.got) for link in inlet.links.values()], ledger.queued_items, ledger.repeats)

    @rule(which=ANY, again=st.booleans())
    def hear_ack(self, which: int, again: bool) -> None:
        """Some ack is heard, in any order; or one that was, or was lost, comes late."""
        if again and self.said:
            self.acknowledge(self.said[which % len(self.said)])
        elif self.acks:
            self.acknowledge(self.acks.pop(which % len(self.acks)))

    def acknowledge(self, ack: Ack) -> None:
        life = self.life(ack.dst)
        if life is None:
            return
        if life.open.get(ack.src) == ack.gen:
            sent = life.sent[ack.src, ack.gen]
            sent.limit = max(sent.limit, ack.limit)
            sent.limit_bytes = max(sent.limit_bytes, ack.limit_bytes)
            sent.consumed = max(sent.consumed, ack.consumed)
            for seq, frame in sent.frames:
                last = seq + len(frame) - 1
                named = last < ack.base or any(a <= seq and last <= b for a, b in ack.ranges)
                if named and seq not in sent.settled:
                    sent.settled.add(seq)
                    life.settled.update(frame)
        life.worker.received(self.now_s, ack)
        self.carry(life)

    @rule(which=ANY, limit=FEW, flush=st.booleans())
    def work(self, which: int, limit: int, flush: bool) -> None:
        """A life calls what waits longest, sends, and perhaps acknowledges."""
        self.turn(self.lives[which % len(self.lives)], limit, flush)

    def turn(self, life: Life, limit: int, flush: bool) -> None:
        worker = life.worker
        if life.layer > 0:
            job = worker.take(limit)
            if job is not None:
                for run, a, b in job.stretches:
                    if life.layer == self.depth - 1:
                        self.done.update(paths(run)[a:b])
                        continue
                    assert run.parts is not None and job.parent is not None
                    life.emitted.update(paths(run)[a:b])
                    worker.emit(run.like(a, run.parts[a:b], run.marks and run.marks[a:b]), job.parent)
                worker.done(job, busy_s=0.0, dropped=0)
        worker.dispatch(self.now_s)
        if flush:
            worker.flush()
        self.carry(life)

    @rule(rounds=st.integers(1, 3))
    def flow(self, rounds: int) -> None:
        """For a while everything is heard and called."""
        for _ in range(rounds):
            for wire in self.wires:
                self.arrive(wire, len(wire.messages))
            for life in self.lives:
                self.turn(life, 5, True)
            acks, self.acks = self.acks, []
            for ack in acks:
                self.acknowledge(ack)

    @rule(what=st.sampled_from(("message", "message", "link", "life", "roster")), which=ANY, other=ANY)
    def strike(self, what: str, which: int, other: int) -> None:
        getattr(self, f"strike_{what}")(which, other)

    def strike_message(self, which: int, _: int) -> None:
        """A run vanishes, and nobody is told."""
        found = [(wire, k) for wire in self.wires for k, m in enumerate(wire.messages) if isinstance(m, Data)]
        if found:
            wire, k = found[which % len(found)]
            del wire.messages[k]

    def strike_link(self, which: int, _: int) -> None:
        """A send fails: the link is dead.  What it has said may still arrive, late."""
        links = [(life, link) for life in self.lives for link in life.worker.outlet.links.values()]
        if links:
            life, link = links[which % len(links)]
            life.worker.lost(self.now_s, link)
            self.carry(life)

    def strike_life(self, which: int, other: int) -> None:
        """A life ends, and another begins; the others are told now or later."""
        k = which % len(self.lives)
        self.lives[k] = self.born(self.lives[k].layer)
        self.name(self.lives[k])
        for life in self.lives if other % 2 else ():
            self.name(life)

    def strike_roster(self, which: int, other: int) -> None:
        """Somebody is told who is there; perhaps one who lives is left out."""
        self.name(self.lives[which % len(self.lives)], self.lives[other % len(self.lives)] if other % 2 else None)

    @rule(passed_s=st.sampled_from((0.01, 0.1, 1.0, 2.5)))
    def wait(self, passed_s: float) -> None:
        self.now_s += passed_s
        for life in self.lives:
            life.worker.tick(self.now_s)
            self.carry(life)

    # What must hold.

    @invariant()
    def i10_links_are_open_as_they_were_heard(self) -> None:
        for life in self.lives:
            if life.worker.inlet is not None:
                links = life.worker.inlet.links
                assert {src: (link.gen, link.got) for src, link in links.items()} == life.hears

    @invariant()
    def i1_i2_i21_what_was_emitted_is_settled_by_name_or_ready_or_on_one_link(self) -> None:
        for life in self.lives:
            outlet = life.worker.outlet
            found = Counter(life.settled)
            unsettled = nbytes = 0
            for edge in outlet.edges.values():
                assert edge.links == [link for link in outlet.links.values() if link.peer.edge == edge.number]
                outs = [out for link in edge.links for out in link.frames.values() if isinstance(out, Out)]
                for out in (*outs, *edge.ready):
                    found.update(paths(out.run))
                    unsettled += out.run.n
                    nbytes += out.nbytes
            assert found == life.emitted
            assert (outlet.unsettled_items, outlet.unsettled_bytes) == (unsettled, nbytes)

    @invariant()
    def i4_what_a_sender_knows_of_a_link_never_falls(self) -> None:
        known = {}
        for life in self.lives:
            for link in life.worker.outlet.links.values():
                now = (link.limit, link.limit_bytes, link.base, link.consumed, link.sent)
                name = (life.inc, link.peer.inc, link.gen)
                assert all(a <= b for a, b in zip(self.known.get(name, now), now, strict=True))
                known[name] = now
                on_way = [frame for frame in link.frames.values() if isinstance(frame, Out)]
                assert link.unsettled == len(on_way)
        self.known = known

    @invariant()
    def i8_all_below_the_watermark_was_done(self) -> None:
        position = self.lives[0].source.watermarks()[0][0].position
        assert position >= self.watermark
        self.watermark = position
        for k in range(position):
            assert (0, k) in self.done or (self.script[k] and not self.marked)

    def teardown(self) -> None:
        """Without further faults everything is settled."""
        if sys.exc_info()[0] is not None or not hasattr(self, "lives"):
            return
        for life in self.lives:
            self.name(life)
        for _ in range(ROUNDS):
            if self.is_settled():
                return
            self.wait(0.05)
            if self.lives[0].source.partitions[0].at.position < len(self.script):
                self.make(5, 10, Mark.ITEM, 0)
            self.flow(1)
        raise AssertionError("I16: without faults everything is settled")

    def is_settled(self) -> bool:
        partition = self.lives[0].source.partitions[0]
        return partition.watermark == len(self.script) and all(
            life.worker.outlet.unsettled_items == 0 for life in self.lives
        )


def paths(run: Run) -> list[Path]:
    return [run.path(i) for i in range(run.n)]


# -- a stage with memory --------------------------------------------------------------------------------


class Remembers(RuleBasedStateMachine):
    """A stage with memory: items arrive in any order, often twice; saves are written, and lives end.

    Every item called makes one output.  `k` counts entries of the stream, in source order.
    """

    @initialize(stream=streams(), keeps=st.booleans())
    def begin(self, stream: Stream, keeps: bool) -> None:
        self.stream = stream
        self.keeps = keeps  # whether its saves hold the outputs that are not settled: a checkpoint
        self.index = {entry.path: k for k, entry in enumerate(stream.entries)}
        self.disk: tuple[Save, int] | None = None
        self.delivered: set[Path] = set()  # of outputs and marks: settled below
        self.start()

    def start(self) -> None:
        stream = self.stream
        self.memory = Memory(stream.depths, stream.lanes, stream.hooks, self.pass_on, self.outs)
        self.link = InLink(1, 1, 0, ())
        self.addresses: list[tuple[Address, Run]] = []
        self.waiting: list[tuple[Step | None, Run]] = []  # outputs on their way
        self.k = 0
        if self.disk is not None:
            save, self.k = self.disk
            save = Save(json.loads(json.dumps(save.cursor)), save.state, save.outs)
            self.memory.restore(save)
            self.waiting = [(None, run) for _, run in save.outs]
        self.called = [e.path for e in stream.entries[: self.k] if e.mark == Mark.ITEM]
        self.passed = [e.path for e in stream.entries[: self.k] if e.mark != Mark.ITEM]
        self.hooks_called = sum(entry.boundary is not None for entry in stream.entries[: self.k])

    def outs(self) -> list[tuple[int, Run]]:
        return [(0, run) for _, run in self.waiting]

    def pass_on(self, run: Run, step: Step) -> None:
        self.passed += paths(run)
        self.send(run, step)

    def send(self, run: Run, step: Step) -> None:
        step.pend += 1
        self.waiting.append((step, run))

    # What may happen.

    @rule(which=ANY, n=FEW)
    def arrive(self, which: int, n: int) -> None:
        """Anything of the stream arrives, whether it did before or not."""
        self.take_in(self.stream.run(which % len(self.stream.entries), n))

    @rule(skip=st.sampled_from((0, 0, 1)), n=st.integers(1, 10), limit=FEW)
    def flow(self, skip: int, n: int, limit: int) -> None:
        """What comes next arrives, or nearly next, and what can be called is called."""
        for k in range(self.seen + skip, min(self.seen + skip + n, len(self.stream.entries))):
            self.take_in(self.stream.run(k, 1))
        self.call(limit)
        self.call(limit)

    def take_in(self, run: Run) -> None:
        address = Address(self.link, self.link.got + 1, run)
        self.link.got += run.n
        self.addresses.append((address, run))
        self.memory.arrived(address, run)

    @rule(limit=FEW)
    def call(self, limit: int) -> None:
        """Call what is next; every item has an output."""
        job = self.memory.take(limit)
        if job is None:
            return
        step = job.parent
        assert isinstance(step, Step)
        if job.kind == Job.ITEMS:
            assert 1 <= job.n <= limit
            for run, a, b in job.stretches:
                for i in range(a, b):
                    self.called.append(run.path(i))
                    self.send(run.like(i, [run.path(i)]), step)
        else:
            boundaries = [entry for entry in self.stream.entries if entry.boundary is not None]
            entry = boundaries[self.hooks_called]
            assert self.index[entry.path] == self.seen - 1, "a hook is called where its boundary is"
            assert (job.kind, job.epoch) == ("finish" if entry.boundary == "over" else "epoch", entry.epoch)
            self.hooks_called += 1
        self.memory.done(job)
        self.k = self.seen

    @property
    def seen(self) -> int:
        """Return how many entries of the stream were called or passed on."""
        return len(self.called) + len(self.passed)

    @rule()
    def close_step(self) -> None:
        self.memory.close_step(self.seen, keeps_outs=self.keeps)

    @rule(which=ANY, n=FEW)
    def deliver(self, which: int, n: int) -> None:
        """Some outputs are settled below, in any order."""
        while self.waiting and n:
            n -= 1
            step, run = self.waiting.pop(which % len(self.waiting))
            self.delivered.update(paths(run))
            if step is not None:
                step.pend -= 1
                if step.pend == 0 and step.closed:
                    step.settled()

    @rule(dies=st.booleans())
    def save(self, dies: bool) -> None:
        """Write what may be saved, and settle it, unless the life ends between the two."""
        save = self.memory.save()
        if save is None:
            return
        k = save.state
        before = self.disk[1] if self.disk is not None else 0
        assert k >= before, "I4: a saved position never falls"
        kept = {path for _, run in save.outs for path in paths(run)}
        for entry in self.stream.entries[:k]:
            assert entry.path in self.delivered or entry.path in kept, "what a save covers is settled or in it"
        if k == len(self.stream.entries) and save.cursor["turn"] is None:
            assert not save.outs and not self.waiting, "the last save leaves no output unsettled"
        self.disk = (copy.deepcopy(save), k)
        if dies:
            self.start()
            return
        self.memory.written()
        for address, run in self.addresses:
            assert self.is_settled(address) == self.is_covered(run), "an ack names all that a save covers"

    def is_covered(self, run: Run) -> bool:
        return self.disk is not None and all(self.index[path] < self.disk[1] for path in paths(run))

    def is_settled(self, address: Address) -> bool:
        return address.seq < self.link.base or any(a <= address.seq <= b for a, b in self.link.ranges)

    @rule()
    @precondition(lambda self: self.disk is not None)
    def crash(self) -> None:
        self.start()

    # What must hold.

    @invariant()
    def i12_i13_every_item_is_called_once_and_in_source_order(self) -> None:
        entries = self.stream.entries[: self.seen]
        assert self.called == [entry.path for entry in entries if entry.mark == Mark.ITEM]
        assert self.passed == [entry.path for entry in entries if entry.mark != Mark.ITEM]
        boundaries = sum(entry.boundary is not None for entry in entries)
        assert self.hooks_called == boundaries - (self.memory.boundary is not None)

    @invariant()
    def i7_a_save_precedes_its_acks(self) -> None:
        for address, run in self.addresses:
            assert self.is_covered(run) or not self.is_settled(address)

    @invariant()
    def i5_settled_within_consumed_within_received(self) -> None:
        link = self.link
        settled = link.base - 1 + sum(b - a + 1 for a, b in link.ranges)
        assert settled <= link.consumed <= link.got
        assert link.consumed == sum(address.n for address, _ in self.addresses if address.returned)

    @invariant()
    def what_is_parked_has_returned_its_credit(self) -> None:
        held = self.memory.held
        for address, run in self.addresses:
            if not address.returned:
                assert address.left > 0
                assert not any(path in held for path in paths(run))

    @invariant()
    def both_cursors_stand_where_the_stream_says(self) -> None:
        called = self.memory.called_order.expects
        assert (called is None) == (self.seen == len(self.stream.entries))
        if called is not None:
            path = self.stream.entries[self.seen].path
            mark = self.stream.entries[self.seen].mark
            assert called[: len(path) - (mark == Mark.END)] == path[: len(path) - (mark == Mark.END)]
        for path, k in self.index.items():
            assert self.memory.called_order.covers(path) == (k < self.seen)

    def teardown(self) -> None:
        """Whatever has happened, the rest of the stream ends it."""
        if sys.exc_info()[0] is not None or not hasattr(self, "memory"):
            return
        for k in range(len(self.stream.entries)):
            self.take_in(self.stream.run(k, 1))
        for _ in range(2 * len(self.stream.entries)):
            self.call(5)
            self.i12_i13_every_item_is_called_once_and_in_source_order()
        assert self.memory.over, "I16: what has arrived is called"
        self.memory.close_step(self.seen)
        self.deliver(0, len(self.waiting))
        self.save(dies=False)
        assert self.disk is not None and self.disk[1] == len(self.stream.entries)
        assert all(self.is_settled(address) for address, _ in self.addresses)


# -- order ----------------------------------------------------------------------------------------------


class Walks(RuleBasedStateMachine):
    """A cursor led through a whole stream, saved and restored on the way."""

    @initialize(stream=streams())
    def begin(self, stream: Stream) -> None:
        self.stream = stream
        self.order = self.fresh()
        self.k = 0

    def fresh(self) -> Order:
        return Order(self.stream.depths, self.stream.lanes, self.stream.hooks)

    @rule(n=st.integers(1, 10))
    def advance(self, n: int) -> None:
        for entry in self.stream.entries[self.k : self.k + n]:
            expects = self.order.expects
            assert expects is not None
            assert len(expects) == 2 + self.stream.depths[expects[0]]
            assert expects[: len(entry.path)] == entry.path
            assert self.order.epoch == entry.epoch
            assert self.order.advance(entry.path, entry.mark) == entry.boundary
            self.k += 1

    @rule()
    def restore(self) -> None:
        saved = json.loads(json.dumps(self.order.snapshot()))
        self.order = self.fresh()
        self.order.restore(saved)
        assert self.order.snapshot() == saved

    @invariant()
    def it_covers_what_is_behind_it_and_nothing_else(self) -> None:
        for k, entry in enumerate(self.stream.entries):
            assert self.order.covers(entry.path) == (k < self.k)

    @invariant()
    def it_is_over_at_the_end_and_not_before(self) -> None:
        assert (self.order.expects is None) == (self.k == len(self.stream.entries))


for machine in (Lines, Remembers, Walks):
    machine.TestCase.settings = SETTINGS
TestLines, TestRemembers, TestWalks = Lines.TestCase, Remembers.TestCase, Walks.TestCase
