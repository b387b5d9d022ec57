"""The machine of one worker: events with the time go in, actions come out.

Nothing here reads a clock, a socket or chance; the same object lives in the worker's loop and in the
simulator.  `actions` is emptied by whoever runs it, in order: a save stands before the acks that it covers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from zpipe.core.inlet import Inlet
from zpipe.core.latest import Latest
from zpipe.core.ledger import Ledger
from zpipe.core.limits import Limits
from zpipe.core.memory import Memory, Save, Step
from zpipe.core.outlet import Edge, Link, Outlet, Parent, Peer
from zpipe.core.source import Position, Source
from zpipe.core.work import Job
from zpipe.values.paths import Run
from zpipe.values.plan import EdgePlan
from zpipe.wire.frames import Ack, Close, Data, Message, Open, Sync


@dataclass(frozen=True)
class Role:
    """What the machine needs to know of its stage."""

    inputs: tuple[int, ...]  # edges
    outputs: Sequence[EdgePlan]
    unread: Sequence[str] = ()  # outputs that nobody reads any more
    latest: Set[int] = frozenset()  # of the inputs, those that keep only the latest
    memory: bool = False
    commits: bool = False
    block: int = 0  # most items that one call takes together; 0: it takes one
    gate: bool = False  # items are done in any order, many at a time
    stacked: bool = False  # a source makes its items by the array
    wait_s: float = 0.0  # for a block to fill
    depths: Mapping[int, int] = field(default_factory=dict)  # of the paths on each lane, for a stage with memory
    lanes: Sequence[int] = ()
    hooks: Sequence[int] = ()
    kept: Sequence[int] = ()  # lanes whose marks go on, where not all do
    origins: Mapping[int, int] = field(default_factory=dict)  # lane -> source lane
    partitions: Mapping[int, tuple[Position, bool]] | None = None  # of a source: (where to begin, complete)
    reaches: Mapping[int, int] = field(default_factory=dict)  # and how far its earlier lives have gone
    epochs: int = 1


@dataclass
class Counters:
    """Items since the worker's life began: in = done + dropped + dead."""

    arrived: int = 0
    done: int = 0
    dropped: int = 0
    dead: int = 0


class Worker:
    """Links, intake and outlet of one worker; the types are seams for tests that change one rule."""

    outlet_type = Outlet
    inlet_type = Inlet
    ledger_type = Ledger
    memory_type = Memory
    source_type = Source
    latest_type = Latest

    def __init__(self, inc: int, role: Role, limits: Limits) -> None:
        self.inc = inc
        self.role = role
        self.limits = limits
        self.actions: list[tuple[Any, ...]] = []
        self.counters = Counters()
        self.draining = False
        self.refused = 0
        self.now_s = 0.0  # of the last event
        self.calling = False  # whether a job is under way
        self.due_s: float | None = None  # when a block that waits to fill is called as it is
        self.tap: Callable[[Run], None] | None = None  # looks on at what is emitted
        edges = [
            Edge(e.number, e.marked, e.lane_map(), e.outputs, self.latest_type() if e.keep == "latest" else None)
            for e in role.outputs
        ]
        self.outlet = self.outlet_type(edges, limits, role.unread)
        self.intake: Ledger | Memory | Source
        if role.partitions is not None:
            self.intake = self._source(role.partitions)
        elif role.memory:
            self.intake = self.memory_type(role.depths, role.lanes, role.hooks, self._pass_on, self._unsettled)
        else:
            self.intake = self.ledger_type(limits, joins=role.commits or role.block > 0 or role.gate)
        act = self.actions.append
        self.inlet: Inlet | None = None
        if not isinstance(self.intake, Source):
            self.inlet = self.inlet_type(inc, set(role.inputs), limits, self.intake)
            self.inlet.latest = frozenset(role.latest)
            least = limits.commit_items if role.commits else 2 * role.block  # one in its call, and the next
            self.inlet.least = min(least, limits.window_max)
            self.inlet.dial_acks = lambda link: act(("dial_acks", link))
            self.inlet.send_ack = lambda ack: act(("ack", ack))
            self.inlet.hang_up = lambda link: act(("hang_up_acks", link))
        self.outlet.dial = lambda link: act(("dial", link))
        self.outlet.send = lambda link, seq, out: act(("send", link, seq, out))
        self.outlet.sync = lambda link, hi: act(("sync", link, hi))
        self.outlet.hang_up = lambda link: act(("hang_up", link))

    def _source(self, partitions: Mapping[int, tuple[Position, bool]]) -> Source:
        role = self.role
        source = self.source_type(
            {n: at for n, (at, _) in partitions.items()}, role.epochs, self.limits, role.reaches, stacked=role.stacked
        )
        for number, (_, complete) in partitions.items():
            source.partitions[number].ended = complete
        return source

    def _pass_on(self, run: Run, step: Step) -> None:
        if self.outlet.edges and (not self.role.kept or run.lane in self.role.kept):
            self.outlet.emit(run, (step,))

    def _unsettled(self) -> list[tuple[int, Run]]:
        return [(out.edge, out.run) for out in self.outlet.unsettled()]

    # -- events -------------------------------------------------------------------------------------

    def roster(self, now_s: float, receivers: list[Peer], senders: set[int]) -> None:
        """Take in who is at the other end of the edges; the roster is complete and replaces the last one."""
        self.outlet.roster(now_s, receivers)
        if self.inlet is not None:
            self.inlet.roster(senders)

    def received(self, now_s: float, message: Message) -> None:
        """Take in one message from a peer."""
        self.now_s = now_s
        if message.dst != self.inc:  # for an earlier process at this address: its numbers are not ours
            self.refused += 1
        elif isinstance(message, Ack):
            self.outlet.ack(now_s, message)
        elif self.inlet is None:
            return
        elif isinstance(message, Data):
            self.inlet.data(message, now_s)
        elif isinstance(message, Sync):
            self.inlet.synced(message)
        elif isinstance(message, Open):
            self.inlet.opened(message)
        elif isinstance(message, Close):
            self.inlet.closed(message.src, message.gen)

    def lost(self, now_s: float, link: Link) -> None:
        """A send failed: the link is dead."""
        self.outlet.lost(now_s, link)

    def tick(self, now_s: float) -> None:
        """Probe links and dial again; call at least every `sync_s`."""
        self.outlet.tick(now_s)

    # -- work ---------------------------------------------------------------------------------------

    def take(self, limit: int) -> Job | None:
        """Return what to call next: nothing while earlier outputs wait for credit, or a block for more items."""
        job = None if self._waits_to_fill() or self.outlet.backlog else self.intake.take(limit)
        self.calling = job is not None
        return job

    def _waits_to_fill(self) -> bool:
        role = self.role
        if role.wait_s and isinstance(self.intake, Ledger) and self.inlet is not None:
            # Where nobody has credit left nothing comes: it returns with the call.
            if not self.draining and 0 < self.intake.queued_items < role.block and self.inlet.may_bring:
                self.due_s = self.now_s + role.wait_s if self.due_s is None else self.due_s
                if self.now_s < self.due_s:
                    return True
            self.due_s = None
        return False

    @property
    def is_idle(self) -> bool:
        """Tell whether there is nothing to call now; what waits to fill a block is called at `due_s`."""
        return self.intake.idle or self.due_s is not None

    def emit(self, run: Run, *parents: Parent) -> None:
        """Send outputs on their way; `parents` are what they were made from."""
        if self.tap is not None:
            self.tap(run)
        if self.outlet.edges:
            self.outlet.emit(run, parents)

    def done(self, job: Job, *, busy_s: float, dropped: int, dead: int = 0, repeated: int = 0) -> None:
        """The job's function has returned, and its outputs were emitted.

        `dead` of its items were given up, and `repeated` had been before.
        """
        self.calling = False
        self.intake.done(job)
        items = job.n - sum(_marks(run, a, b) for run, a, b in job.stretches)
        self.counters.arrived += items - repeated
        if repeated and not isinstance(self.intake, Source):
            self.intake.repeats += repeated
        self.counters.dropped += dropped
        self.counters.dead += dead
        self.counters.done += items - dropped - dead - repeated
        if job.kind == Job.ITEMS and self.inlet is not None and job.n:
            self.inlet.served(busy_s, job.n)  # marks among them: they take credit like items

    def dispatch(self, now_s: float) -> None:
        """Send what has credit, and tell the stages below whether a source waits."""
        self.now_s = now_s
        source = self.intake if isinstance(self.intake, Source) else None
        if source is not None:
            source.hold_back(self.outlet.is_full_below)
        self.outlet.press(now_s, source.pressed if source else self.inlet is not None and self.inlet.pressed)
        self.outlet.dispatch(now_s)

    @property
    def may_wait(self) -> bool:
        """Tell whether acks may wait a little for more of them: nobody above is short of credit or acks."""
        return self.inlet is not None and self.inlet.has_news and not self.inlet.is_urgent

    def flush(self) -> None:
        """Save and acknowledge what is settled: before sleeping, and now and then under load."""
        quiet = self.outlet.quiet() and self.intake.idle
        wanted = self.outlet.wanted() if quiet else set()
        if isinstance(self.intake, Source):
            if quiet:
                self.intake.widen(wanted)
            return
        if isinstance(self.intake, Memory):
            if self.intake.passed and self.inlet is not None:
                self.inlet.served(0.0, self.intake.passed)
                self.intake.passed = 0
            save = self.intake.save()
            if save is not None:
                self.actions.append(("save", save))
                self.intake.written()
        assert self.inlet is not None
        own = {self.role.origins.get(lane, lane) for lane in self.intake.wants()} if quiet else set()
        wants = tuple(sorted(wanted | own))
        hungry = self.intake.idle and not self.calling and not self.outlet.backlog
        full = self.outlet.holds_much or self.intake.parked_bytes > self.limits.held_bytes or self.outlet.is_full_below
        self.inlet.flush(quiet, wants, self.draining, full=full, hungry_s=self.now_s if hungry else None)

    def restore(self, save: Save) -> None:
        """Begin where a save stands: its outputs go out again."""
        assert isinstance(self.intake, Memory)
        self.intake.restore(save)
        for edge, run in save.outs:
            self.outlet.resend(edge, run)

    @property
    def is_drained(self) -> bool:
        """Tell whether a worker that is to leave may: all that came is settled and acknowledged."""
        inlet = self.inlet
        if not self.draining or inlet is None or self.calling or not self.intake.idle or self.outlet.unsettled_items:
            return False
        return all(link.base == link.got + 1 and not link.dirty for link in inlet.links.values())

    @property
    def pressed(self) -> bool:
        """Tell whether a source above waits for acks."""
        return self.inlet is not None and self.inlet.pressed


def _marks(run: Run, a: int, b: int) -> int:
    return 0 if run.marks is None else (b - a) - run.marks[a:b].count(0)
