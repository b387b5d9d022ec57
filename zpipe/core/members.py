"""Who takes part in a run: admission, slots, neighbours, and what the dead leave behind.

Knows lives and their slots; refuses to know messages, the state of the run and the time of day.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from zpipe.core.histogram import Histogram
from zpipe.core.mesh import Mesh
from zpipe.core.requests import STATES, Beat, EdgeNews, Hello, Refused
from zpipe.values.plan import Plan, StagePlan

SUMMED = ("in", "done", "dropped", "dead", "out", "skipped", "errors", "repeats", "busy_s", "starved_s", "blocked_s")
OUTCOMES = ("done", "dropped", "dead")  # of an input
GONE_MAX = 4096  # lives that are remembered as dead
RATE_BEATS = 6
RATE_GAP_S = 0.4  # beats closer than this are one measurement


@dataclass
class Member:
    """One life of a worker, from its HELLO until it is gone."""

    inc: int
    stage: StagePlan
    slot: int
    fence: int  # lives of this slot, this one included
    pid: int
    host: str
    peer: bytes
    seen_s: float
    lost_s: float | None = None  # since when nothing can be sent to it
    supervisor: str | None = None
    key: str = ""  # the public key of its host, where keys are used
    announced: bool = True  # False: stored by a registry before this one, not heard of since
    state: str = "joining"
    inbox: tuple[str, ...] = ()
    acks: tuple[str, ...] = ()
    counters: dict[str, int | float] = field(default_factory=dict)
    running: dict[str, Any] | None = None
    calls: Histogram = field(default_factory=Histogram)
    edges: dict[int, EdgeNews] = field(default_factory=dict)
    waits: str = ""  # what for, where its disk has no room
    listen: dict[str, str] = field(default_factory=dict)  # of a gate: its endpoints by kind
    ver: int = 0  # of its roster
    roster_due_s: float = 0.0  # until then no further one is told of at once
    stored_s: float = 0.0  # when its counters were stored last
    done: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=RATE_BEATS))

    @property
    def name(self) -> str:
        """Return `clean-3` for the third slot."""
        return worker_name(self.stage, self.slot)

    @property
    def in_rosters(self) -> bool:
        """Tell whether neighbours may link to it."""
        return self.announced and self.state != "joining"

    @property
    def rate(self) -> float:
        """Return the inputs finished with per second, whatever became of them, over the last beats."""
        if len(self.done) < 2 or self.done[-1][0] <= self.done[0][0]:
            return 0.0
        return max(0.0, (self.done[-1][1] - self.done[0][1]) / (self.done[-1][0] - self.done[0][0]))

    def take(self, beat: Beat, now_s: float) -> bool:
        """Believe a beat, and return whether rosters change by it."""
        before = (self.in_rosters, self.state, self.inbox, self.acks)
        if STATES.index(beat.state) > STATES.index(self.state):
            self.state = beat.state
        self.inbox, self.acks = beat.inbox, beat.acks
        self.counters, self.running, self.calls = beat.counters, beat.running, beat.calls
        self.waits, self.listen = beat.waits, beat.listen
        own = (*self.stage.inputs, *self.stage.outputs)
        self.edges = {number: news for number, news in beat.edges.items() if number in own}
        done = float(sum(beat.counters.get(name, 0) for name in OUTCOMES))
        if not self.done or now_s - self.done[-1][0] >= RATE_GAP_S:
            self.done.append((now_s, done))
        return self.in_rosters and before != (self.in_rosters, self.state, self.inbox, self.acks)


class Members:
    """All living workers of a run."""

    def __init__(self, plan: Plan, *, starts_workers: bool = False, mesh_peers: int = 32) -> None:
        self._stages = {stage.number: stage for stage in plan.stages}
        self._by_name = {stage.name: stage for stage in plan.stages}
        self._mesh = Mesh(neighbours(plan), mesh_peers)
        self.living: dict[int, Member] = {}  # by inc
        self.gone: dict[int, str] = {}  # by inc, why
        self._places: dict[int, tuple[int, int]] = {}  # of the gone: stage, slot
        self.dead_processes: deque[tuple[str, int]] = deque(maxlen=GONE_MAX)  # (host, pid) without a known inc
        self.fences: dict[tuple[int, int], int] = {}  # (stage, slot) -> lives
        self.sums: dict[int, dict[str, int | float]] = {stage.number: {} for stage in plan.stages}
        self.calls = {stage.number: Histogram() for stage in plan.stages}  # of the gone
        self.edges = {edge.number: EdgeNews() for edge in plan.edges}  # by number, what the gone have told
        # (stage, slot) of the dead, for their next lives, and of those that the launcher is about to start.
        self.kept = {(stage.number, k) for stage in plan.stages for k in range(planned(stage)) if starts_workers}
        self._starts_workers = starts_workers
        self.draining: set[tuple[int, int]] = set()  # (stage, slot) whose worker is to finish and leave
        self.wanted: dict[int, int] = {}  # stage -> how many workers it should have, where that was said
        self.pinned: set[int] = set()  # stages of which a user has said it: they do not scale themselves any more

    def __iter__(self) -> Iterator[Member]:
        return iter(sorted(self.living.values(), key=_by_place))

    def of(self, stage: StagePlan) -> list[Member]:
        """Return the living workers of a stage by slot."""
        return sorted((m for m in self.living.values() if m.stage.number == stage.number), key=_by_place)

    def beside(self, member: Member) -> list[Member]:
        """Return the workers that a worker is to be linked to; one that is in rosters is in theirs."""
        if member.in_rosters and member.inc not in self._mesh:
            self._mesh.join(member.inc, member.stage.number)
        peers = (self.living[inc] for inc in self._mesh.peers(member.inc))
        return sorted((peer for peer in peers if peer.in_rosters), key=_by_place)

    def rearrange(self) -> list[Member]:
        """Give others in place of those that are to leave to whoever is linked to them; returns whose links change."""
        drains = self.draining
        told = {m.inc for m in self.living.values() if (m.stage.number, m.slot) in drains} if drains else set()
        staying = {m.stage.number for m in self.living.values() if m.in_rosters and m.inc not in told} if told else ()
        changed = self._mesh.retire(inc for inc in told if self.living[inc].stage.number in staying)
        return sorted((self.living[inc] for inc in changed), key=_by_place)

    def stage(self, name: str) -> StagePlan:
        """Return the stage of that name.  Raises Refused with what may have been meant."""
        if name in self._by_name:
            return self._by_name[name]
        names = list(self._by_name)
        variants = [stage.name for stage in self._by_name.values() if stage.stage == name]
        if variants:
            raise Refused(404, f"stage {name!r} has variants: name one of {', '.join(variants)}")
        near = get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
        raise Refused(404, f"stage {name!r:.80} is unknown: {hint}")

    def replaced_by(self, hello: Hello) -> Member | None:
        """Return the living member that a new life takes the place of.

        Either it says so, or both have the same supervisor, who starts a slot's next life after a death only.
        """
        for member in self.living.values():
            same = hello.supervisor is not None and member.supervisor == hello.supervisor
            if member.stage.name == hello.stage and (
                member.inc == hello.replaces or (same and member.slot == hello.slot)
            ):
                return member
        return None

    def named(self, name: str) -> Member:
        """Return the living worker of that name.  Raises Refused with what may have been meant."""
        names = [member.name for member in self]
        if name in names:
            return next(member for member in self if member.name == name)
        near = get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names) or 'none'}"
        raise Refused(404, f"worker {name!r:.80} is unknown: {hint}")

    def is_leaving(self, member: Member) -> bool:
        """Tell whether a worker is to finish and leave: not while no other one of its stage stays."""
        return (member.stage.number, member.slot) in self.draining and self._stays_without(member)

    def check_may_scale(self, stage: StagePlan) -> None:
        """Raise Refused for a stage whose number of workers cannot change."""
        if stage.role == "source":
            raise Refused(409, f"{stage.name!r} is a source, whose workers own its partitions: set them before the run")
        if stage.is_gate:
            raise Refused(409, f"stage {stage.name!r} has a gate, and so one worker: launch more at its address")
        if stage.memory:
            raise Refused(409, f"stage {stage.name!r} has a memory, and so one worker: scale the stages above it")

    def check_has_room(self, stage: StagePlan) -> None:
        """Raise Refused when a stage has all the workers that its range allows."""
        if stage.workers_max is not None and len(self.of(stage)) >= stage.workers_max:
            most = f"{stage.workers}..{stage.workers_max}"
            raise Refused(409, f"stage {stage.name!r} has workers = '{most}' and takes no more: raise the range")

    def check_may_leave(self, member: Member) -> None:
        """Raise Refused when the run could not go on without this worker."""
        stage = member.stage
        if stage.role == "source":
            raise Refused(409, f"{member.name} is of a source and owns its partitions: zpipe down ends the run instead")
        if stage.is_single:
            what = _why_single(stage)
            raise Refused(409, f"stage {stage.name!r} {what} and one worker: the run cannot go on without it")
        if not self._stays_without(member):
            way_out = f"start another first, zpipe worker {stage.name}"
            raise Refused(409, f"{member.name} is the last worker of stage {stage.name!r} that stays: {way_out}")

    def _stays_without(self, member: Member) -> bool:
        return any(
            other is not member and other.in_rosters and (other.stage.number, other.slot) not in self.draining
            for other in self.of(member.stage)
        )

    def find(self, inc: int | None, pid: int | None, host: str | None, worker: str | None) -> Member | None:
        """Return the member that a supervisor means: by id, else by process, else by name."""
        if inc is not None:
            return self.living.get(inc)
        for member in self:
            if pid is not None:
                found = member.pid == pid and host in (None, member.host)
            else:
                found = member.name == worker
            if found:
                return member
        return None

    def stage_of_gone(self, inc: int | None) -> StagePlan | None:
        """Return the stage of a life that is gone, as long as it is remembered."""
        return self._stages[self._places[inc][0]] if inc is not None and inc in self._places else None

    def admit(self, hello: Hello, peer: bytes, now_s: float) -> Member:
        """Take a new life in.  Raises Refused when its place is taken."""
        stage = self.stage(hello.stage)
        slot = self._place(stage, hello.slot, hello.replaces)
        self.kept.discard((stage.number, slot))
        fence = self.fences[stage.number, slot] = self.fences.get((stage.number, slot), 0) + 1
        member = Member(hello.inc, stage, slot, fence, hello.pid, hello.host, peer, now_s, supervisor=hello.supervisor)
        self.living[member.inc] = member
        return member

    def restore(self, inc: int, stored: dict[str, Any]) -> None:
        """Expect a life that an earlier registry knew."""
        stage = self._stages[stored["stage"]]
        self.living[inc] = Member(
            inc,
            stage,
            stored["slot"],
            stored["fence"],
            stored["pid"],
            stored["host"],
            peer=inc.to_bytes(8, "big"),  # as it names itself to every registry
            seen_s=0.0,
            supervisor=stored["supervisor"],
            announced=False,
            counters=stored.get("counters", {}),
        )

    def remove(self, member: Member, why: str, *, returns: bool) -> list[Member]:
        """Let a life end, and return whose links change by it.

        What it had counted is kept, and its place when its supervisor will start a next life.
        """
        del self.living[member.inc]
        changed = self._mesh.leave(member.inc) if member.inc in self._mesh else ()
        if returns:
            self.kept.add((member.stage.number, member.slot))
        add_counters(self.sums[member.stage.number], member.counters)
        self.calls[member.stage.number] += member.calls
        for number, news in member.edges.items():
            self.edges[number] += news.of_the_gone
        self._places[member.inc] = (member.stage.number, member.slot)
        self.bury(member.inc, f"{member.name} {why}")
        return sorted((self.living[inc] for inc in changed), key=_by_place)

    def bury(self, inc: int, why: str) -> None:
        """Remember a life as dead, whether it was known or not."""
        self.gone[inc] = why
        while len(self.gone) > GONE_MAX:
            oldest = next(iter(self.gone))
            del self.gone[oldest]
            self._places.pop(oldest, None)

    def totals(self, stage: StagePlan) -> dict[str, int | float]:
        """Return a stage's counters over all lives; what is no sum, over the living."""
        totals = {name: self.sums[stage.number].get(name, 0) for name in SUMMED}
        for member in self.of(stage):
            for name, number in member.counters.items():
                totals[name] = totals.get(name, 0) + number
        return totals

    def calls_of(self, stage: StagePlan) -> Histogram:
        """Return how long a stage's calls took, over all lives."""
        return sum((member.calls for member in self.of(stage)), self.calls[stage.number])

    def restarts(self, stage: StagePlan) -> int:
        """Return how many lives took the place of an earlier one."""
        return sum(lives - 1 for (number, _), lives in self.fences.items() if number == stage.number)

    def _place(self, stage: StagePlan, wanted: int | None, replaces: int | None) -> int:
        most = capacity(stage)
        taken = {member.slot: member for member in self.of(stage)}
        slots = [slot for slot in range(most or len(taken) + len(self.kept) + 1) if slot not in taken] or [len(taken)]
        free = next((slot for slot in slots if (stage.number, slot) not in self.kept), None)
        left = self._places.get(replaces, (-1, -1)) if replaces is not None else (-1, -1)
        if wanted is None and left[0] == stage.number and left[1] not in taken:
            wanted = left[1]
        is_kept = wanted is None and free is None and self._starts_workers  # for one that the run itself starts
        slot = (slots[0] if free is None else free) if wanted is None else wanted
        if stage.is_single and (taken or slot > 0 or is_kept):
            there = "".join(f", {_where(member)}: end it first" for member in taken.values())
            there = there or ", which the run starts itself" * is_kept
            raise Refused(409, f"stage {stage.name!r} {_why_single(stage)} and takes one worker{there}")
        if slot in taken:
            raise Refused(409, f"slot {slot} of stage {stage.name!r} is held by {_where(taken[slot])}")
        if most is not None and (slot >= most or is_kept):
            raise Refused(
                409,
                f"source {stage.name!r} has {stage.partitions} partitions and {stage.workers} workers, so it "
                f"takes {most} (slots from 0): set more workers or partitions and start the run anew",
            )
        return slot


def add_counters(sums: dict[str, int | float], counters: Mapping[str, int | float]) -> None:
    """Add what a life has counted to the sums of its stage."""
    for name in SUMMED:
        if name in counters:
            sums[name] = sums.get(name, 0) + counters[name]


def neighbours(plan: Plan) -> dict[int, list[int]]:
    """Return, by the number of each stage, those at the other ends of its edges."""
    pairs = [(edge.from_, edge.to) for edge in plan.edges]
    pairs += [(to, from_) for from_, to in pairs]
    return {stage.number: sorted({to for from_, to in pairs if from_ == stage.number}) for stage in plan.stages}


def capacity(stage: StagePlan) -> int | None:
    """Return how many workers a stage may have, None for any number."""
    if stage.is_single:
        return 1
    return max(1, min(stage.workers, stage.partitions)) if stage.role == "source" else None


def may_scale(stage: StagePlan) -> bool:
    """Tell whether the number of a stage's workers may change while it runs."""
    return stage.role != "source" and not stage.is_single


def _why_single(stage: StagePlan) -> str:
    return "has a gate" if stage.is_gate else "has a memory"


def planned(stage: StagePlan) -> int:
    """Return how many workers a stage begins with."""
    most = capacity(stage)
    return stage.workers if most is None else min(stage.workers, most)


def sources_of(stage: StagePlan, slot: int) -> list[int]:
    """Return the lanes of the partitions that a slot owns; none unless the stage is a source."""
    if stage.role != "source":
        return []
    workers = capacity(stage) or 1
    return [lane for k, lane in enumerate(stage.lanes) if k % workers == slot]


def worker_name(stage: StagePlan, slot: int) -> str:
    """Return the name that a slot's workers bear, life after life."""
    return f"{stage.name}-{slot + 1}"


def _by_place(member: Member) -> tuple[int, int]:
    return member.stage.number, member.slot


def _where(member: Member) -> str:
    return f"{member.name} (pid {member.pid} on {member.host})"
