"""Which stage the others wait for, and how many more workers would change that; from two tables of `ps`.

Knows tables and how time is told in them; refuses to know clocks, and who starts workers.

Time is told worker by worker: what is not starved and not blocked is busy, so that a call under way counts before
it has ended.  The load of a stage is its busy share as it would be if nothing piled up below it: a source that
still fills the queue of a slow stage is not taken for one that is as slow.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zpipe.core.members import OUTCOMES

Table = Mapping[str, Any]

TIE = 0.15  # loads this close, as a share of the larger, limit alike
NEXT_TIE = 0.25  # the same of those that would limit next: what they could do is further away
CLOSE = 0.05  # and so close that it counts who has fewer workers
QUIET = 0.2  # nobody keeps anybody waiting while all loads are below
NO_LOAD = 0.01  # a stage below it will not limit in any case
COUNTED = (*OUTCOMES, "queued", "starved_s", "blocked_s", "cpu_s")
WINDOW_S = 5.0
FILLING_S = 1.5  # and no more as long as a stage has had nothing to do: that says little of what comes
SPAN_S = 0.2  # a worker that was heard of in less time tells nothing


@dataclass(frozen=True)
class StageLook:
    """A stage over some seconds: inputs a second, and shares of its workers' time, which add up to 1.

    All are 0 as long as none of its workers was heard of twice.  `workers` are those that stay, `queued` the
    inputs that wait for their call, `cpu` the cores that the workers use.
    """

    name: str
    role: str
    workers: int
    scales: bool
    gate: bool
    rate: float = 0.0
    busy: float = 0.0
    starved: float = 0.0
    blocked: float = 0.0
    queued: int = 0
    cpu: float = 0.0
    load: float = 0.0


@dataclass(frozen=True)
class Advice:
    """What keeps a run from being faster: one stage, several that are alike, or none.

    `more` workers for each of `bottlenecks` would make `next` the bottleneck; 0 where one of them cannot be scaled,
    or where nothing else works.  `line` says it all.
    """

    seconds: float
    stages: tuple[StageLook, ...]
    bottlenecks: tuple[str, ...] = ()
    more: int = 0
    next: tuple[str, ...] = ()
    line: str = ""

    def stage(self, name: str) -> StageLook:
        """Return the look at a stage; KeyError when there is none."""
        for look in self.stages:
            if look.name == name:
                return look
        raise KeyError(name)


class Looks:
    """The tables of the last `window_s` of one run."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self.window_s = window_s
        self._tables: deque[Table] = deque()

    def see(self, table: Table) -> Advice | None:
        """Take a table in and return what the window says, None while it is the first and while the run begins."""
        if self._tables and table["age_s"] < self._tables[-1]["age_s"]:
            self._tables.clear()
        self._tables.append(table)
        while len(self._tables) > 2:
            window_s = min(FILLING_S, self.window_s) if _is_filling(self._tables[0]) else self.window_s
            if table["age_s"] - self._tables[1]["age_s"] < window_s:
                break
            self._tables.popleft()
        if len(self._tables) < 2 or (table["age_s"] < self.window_s and _is_filling(table)):
            return None
        return advise(self._tables[0], table)

    @property
    def before(self) -> Table | None:
        """Return the table that the window begins with, None while there are not two."""
        return self._tables[0] if len(self._tables) > 1 else None

    def forget(self) -> None:
        """Begin anew: what was seen is of other workers."""
        self._tables.clear()


def advise(before: Table, table: Table) -> Advice:
    """Return what two tables of one run say of the time between them."""
    spent = _spent(before, table)
    looks = {row["name"]: _look(row, table, spent.get(row["name"], [])) for row in table["stages"]}
    keeps_up = dict.fromkeys(looks, 1.0)  # what is made for a stage and those below, and is not left lying
    for row in reversed(table["stages"]):  # readers first
        name = row["name"]
        looks[name] = replace(looks[name], load=looks[name].busy * keeps_up[name])
        share = _keeps_up(looks[name].workers, spent.get(name, [])) * keeps_up[name]
        for above in row["reads"]:
            keeps_up[above] = min(keeps_up[above], share)
    return _conclude(table["age_s"] - before["age_s"], tuple(looks.values()))


def _is_filling(table: Table) -> bool:
    """Tell whether a stage has had nothing to do yet."""
    called = {row["stage"] for row in table["workers"] if row["running"]}
    worked = {row["name"] for row in table["stages"] if any(row["counters"].get(name) for name in OUTCOMES)}
    return not called | worked >= {row["name"] for row in table["stages"]}


@dataclass(frozen=True)
class _Spent:
    """What one worker did between two beats; `queued` is by how much its queue has grown."""

    span_s: float
    starved_s: float
    blocked_s: float
    taken: int
    queued: int
    cpu_s: float


def _spent(before: Table, table: Table) -> dict[str, list[_Spent]]:
    """Return what the workers of each stage did, but for those that were not heard of twice."""
    earlier = {row["inc"]: row for row in before["workers"]}
    out: dict[str, list[_Spent]] = {}
    for row in table["workers"]:
        old = earlier.get(row["inc"], {"counters": {}, "state": "joining"})
        counters, began = row["counters"], old["counters"]
        if not counters or (not began and old["state"] != "joining"):
            continue  # a registry that was started again has not heard of it yet, or had not
        if began:
            span_s = table["age_s"] - row["beat_age_s"] - before["age_s"] + old["beat_age_s"]
        else:
            span_s = sum(counters.get(f"{what}_s", 0.0) for what in ("busy", "starved", "blocked"))
            span_s += row["running"]["age_s"] if row["running"] else 0.0
        if span_s < SPAN_S:
            continue
        grown = {name: counters.get(name, 0) - began.get(name, 0) for name in COUNTED}
        taken = int(sum(grown[name] for name in OUTCOMES))
        cpu_s = grown["cpu_s"] if "cpu_s" in counters else span_s  # who does not tell is taken to need it all
        spent = _Spent(span_s, grown["starved_s"], grown["blocked_s"], taken, int(grown["queued"]), cpu_s)
        out.setdefault(row["stage"], []).append(spent)
    return out


def _look(row: Table, table: Table, spent: Sequence[_Spent]) -> StageLook:
    workers = [worker for worker in table["workers"] if worker["stage"] == row["name"]]
    look = StageLook(
        row["name"], row["role"], scales=row["scales"], gate=row["gate"],
        workers=sum(worker["state"] != "drain" for worker in workers),
        queued=sum(worker["counters"].get("queued", 0) for worker in workers),
    )  # fmt: skip
    if not spent:
        return look
    span_s = sum(worker.span_s for worker in spent)
    waited_s = sum(worker.starved_s + worker.blocked_s for worker in spent)
    span_s = max(span_s, waited_s)
    return replace(
        look,
        rate=sum(worker.taken / worker.span_s for worker in spent),
        busy=1.0 - waited_s / span_s,
        starved=sum(worker.starved_s for worker in spent) / span_s,
        blocked=sum(worker.blocked_s for worker in spent) / span_s,
        cpu=sum(worker.cpu_s / worker.span_s for worker in spent),
    )


def _keeps_up(workers: int, spent: Sequence[_Spent]) -> float:
    """Return which share of what came a stage has finished with; an input in a call is as good as finished."""
    taken = sum(worker.taken for worker in spent)
    came = taken + sum(worker.queued for worker in spent)
    return min(1.0, (taken + workers) / came) if came > 0 else 1.0


def _conclude(seconds: float, looks: tuple[StageLook, ...]) -> Advice:
    most = max((look.load for look in looks), default=0.0)
    if most < QUIET:
        line = f"no stage is the bottleneck: none is busy for {100 * QUIET:.0f} % of its time"
        return Advice(seconds, looks, line=line)
    alike = _alike(looks, TIE)
    fewest = [look for look in alike if look.workers == min(look.workers for look in alike)]
    if max(look.load for look in fewest) >= most * (1.0 - CLOSE):
        alike = fewest  # what the others were given already they would need as well
    others = _alike([look for look in looks if look not in alike and look.load > NO_LOAD], NEXT_TIE)
    more = 0  # until a stage could do as much as the next: what it can do goes with its workers
    if others and all(look.scales for look in alike):
        less = max(look.load for look in others)
        more = max(math.ceil(look.workers * (look.load * (1.0 - TIE) / less - 1.0)) for look in alike)
        more = max(1, more)
    names = tuple(look.name for look in alike)
    return Advice(seconds, looks, names, more, tuple(look.name for look in others), _line(alike, more, others))


def _alike(looks: Sequence[StageLook], tie: float) -> list[StageLook]:
    """Return the stages with the largest load, as far as that can be told."""
    most = max((look.load for look in looks), default=0.0)
    return [look for look in looks if look.load >= most * (1.0 - tie)]


def _line(alike: Sequence[StageLook], more: int, others: Sequence[StageLook]) -> str:
    verb = "is" if len(alike) == 1 else "are"
    shares = _and([f"{100 * look.busy:.0f} %" for look in alike])
    line = f"{_and([look.name for look in alike])} {verb} the bottleneck (busy {shares})"
    fixed = [look for look in alike if not look.scales]
    if fixed:
        free = [look.name for look in alike if look.scales]
        why = _and([f"{look.name if len(alike) > 1 else 'it'} {_why_fixed(look)}" for look in fixed])
        return f"{line}: {why}" + (f", and more workers of {_and(free)} alone change nothing" if free else "")
    if not others:
        return f"{line}: more workers make the run faster"
    wanted = f"{more} more worker{'s' if more > 1 else ''}" + (" each" if len(alike) > 1 else "")
    return f"{line}; {wanted} would move it to {_and([look.name for look in others])}"


def _why_fixed(look: StageLook) -> str:
    if look.role == "source":
        return "is a source, whose workers are set before the run"
    return "has a gate: launch workers at its address" if look.gate else "has a memory, and so one worker"


def _and(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
