"""How many workers a stage should have whose option `workers` is a range; decided from tables of `ps`.

Knows what the stages did with their time, and what its own decisions have changed; refuses to know who starts
workers.  The time is that of the tables, the age of the run.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zpipe.core.advice import Advice, Looks, StageLook, Table
from zpipe.core.progress import RUNNING
from zpipe.values.plan import StagePlan

BUSY = 0.8  # of their time workers are busy at least before there are more
BLOCKED = 0.1  # of its time a stage above must wait for them, unless inputs are queued
STARVED = 0.2  # of their time workers wait at least before there are fewer,
FEWER_BUSY = 0.7  # and those that stay will not be busy for more
GAIN = 0.25  # of the rate that more workers promise, what they must bring to stay
CORES_SHARE = 1.1  # of the cores may be planned for: shares of CPU time are not exact
CPU_LEAST = 0.01  # cores that a stage is taken to use

UP_S = 0.5  # how long a stage must want more workers,
DOWN_S = 3.0  # or fewer; doubled each time that this was soon regretted,
DOWN_MAX_S = 60.0  # up to this
REGRET_S = 30.0  # soon
SETTLE_S = 1.2  # until each worker has been heard of, or as long as it took to start
RETRY_S = 300.0  # more workers that brought nothing are not tried again for so long
LOOK_S = 1.5  # least time to judge by
WINDOW_S = (3.0, 10.0)  # least and most that is remembered: so long that each worker
CALLS = 4  # has made so many calls, and a rate says something


@dataclass(frozen=True)
class Decision:
    """`stage` is to have `after` workers instead of `before`; the two are equal where it is only told why not more.

    `why` is busy, starved, no gain or cores; `line` says it with figures.
    """

    stage: str
    before: int
    after: int
    why: str
    line: str


class Scaling:
    """The stages of a plan that scale themselves, on a machine with so many cores."""

    def __init__(self, stages: Collection[StagePlan], cores: int) -> None:
        self._ranges = [_Range(stage, cores) for stage in stages if stage.workers_max is not None]

    def look(self, table: Table) -> Iterator[Decision]:
        """Take a table in and yield what follows, for the caller to carry out."""
        if not self._ranges:
            return
        over = table["stopping"] or all(row["complete"] for row in table["sources"])
        if table["state"] != RUNNING or table["recovering"] or over:
            for scaled in self._ranges:
                scaled.pause()
            return
        rows = {row["name"]: row for row in table["stages"]}
        growing = {scaled.name for scaled in self._ranges if scaled.may_grow}
        for scaled in self._ranges:
            decision = scaled.look(rows[scaled.name], table, growing)
            if decision is not None:
                yield decision


@dataclass(frozen=True)
class _Trial:
    """What a stage did before it got more workers."""

    workers: int
    rate: float


class _Range:
    """One stage that scales itself."""

    def __init__(self, stage: StagePlan, cores: int) -> None:
        assert stage.workers_max is not None
        self.name = stage.name
        self._least, self._most, self._cores = stage.workers, stage.workers_max, cores
        self._looks = Looks(WINDOW_S[0])
        self._n = stage.workers
        self._pinned = False
        self._asked: int | None = None  # decided, and not all of them are live yet
        self._decided_s = self._settled_s = 0.0
        self._trial: _Trial | None = None
        self._ceiling, self._ceiling_s = self._most, 0.0  # until when more would bring nothing
        self._up_s: float | None = None  # since when it wants more,
        self._down_s: float | None = None  # or fewer
        self._patience_s, self._shrunk_s = DOWN_S, -REGRET_S
        self._told_of_cores = 0  # with so many workers

    @property
    def may_grow(self) -> bool:
        """Tell whether it may get more workers once it wants them."""
        return not self._pinned and self._n < min(self._most, self._ceiling)

    def pause(self) -> None:
        """Decide nothing from what is seen now."""
        self._looks.forget()
        self._up_s = self._down_s = None

    def look(self, row: Mapping[str, Any], table: Table, growing: set[str]) -> Decision | None:
        """Return what the table calls for; `growing` are the stages that may get more workers of themselves."""
        now_s = table["age_s"]
        if self._pinned:
            return None
        if row["pinned"]:
            self._pinned = True  # somebody has said how many: it is left alone from now on
            return None
        if not self._is_complete(row, table):
            self.pause()
            return None
        if self._asked is not None:
            self._asked = None
            self._settled_s = now_s + max(SETTLE_S, now_s - self._decided_s)
        if now_s < self._settled_s:
            self.pause()
            return None
        advice = self._looks.see(table)
        if advice is None or advice.seconds < LOOK_S:
            return None
        look = advice.stage(self.name)
        needed_s = _needed_s(look)
        self._looks.window_s = max(WINDOW_S[0], needed_s)
        if advice.seconds < needed_s:
            return None
        if now_s >= self._ceiling_s:
            self._ceiling = self._most
        above = max((advice.stage(name) for name in row["reads"]), key=lambda stage: stage.blocked)
        limits = self.name in advice.bottlenecks and look.busy >= BUSY and (look.queued or above.blocked >= BLOCKED)
        decision = self._back(look, now_s) if limits else None
        self._trial = None
        if decision is None:
            grows = limits and self.may_grow and growing >= set(advice.bottlenecks)
            decision = self._grow(look, advice, above, now_s, wanted=bool(grows)) or self._shrink(look, now_s)
        if decision is not None and decision.after != self._n:
            self._asked, self._decided_s = decision.after, now_s
            self.pause()
        return decision

    def _is_complete(self, row: Mapping[str, Any], table: Table) -> bool:
        """Tell whether all workers that it should have are live, and count them."""
        staying = [r["state"] for r in table["workers"] if r["stage"] == self.name and r["state"] != "drain"]
        is_told = self._asked is None or row["wanted"] == self._asked
        if not is_told or len(staying) < (row["wanted"] or self._least) or set(staying) != {"live"}:
            return False
        self._n = len(staying)
        return True

    def _back(self, look: StageLook, now_s: float) -> Decision | None:
        """Take back workers that have brought nothing, although the others still wait for this stage."""
        trial = self._trial
        if trial is None or look.rate >= trial.rate * (1.0 + GAIN * (self._n / trial.workers - 1.0)):
            return None
        self._ceiling, self._ceiling_s = trial.workers, now_s + RETRY_S
        return self._decide(
            trial.workers, "no gain", f"{self._n} made it no faster, {look.rate:.3g}/s after {trial.rate:.3g}/s"
        )

    def _grow(
        self, look: StageLook, advice: Advice, above: StageLook, now_s: float, *, wanted: bool
    ) -> Decision | None:
        if not wanted:
            self._up_s = None
            return None
        self._up_s = now_s if self._up_s is None else self._up_s
        if now_s - self._up_s < UP_S:
            return None
        used = sum(stage.cpu for stage in advice.stages)
        room = (self._cores * CORES_SHARE - used) * self._n / max(look.cpu, CPU_LEAST)
        more = int(min(advice.more or self._n, self._n, min(self._most, self._ceiling) - self._n, room))
        if more < 1:
            told, self._told_of_cores = self._told_of_cores, self._n
            line = f"{self.name}: no more than {_workers(self._n)}: {used:.1f} of {self._cores} cores are in use"
            return Decision(self.name, self._n, self._n, "cores", line) if told != self._n else None
        if now_s - self._shrunk_s < REGRET_S:
            self._patience_s = min(2.0 * self._patience_s, DOWN_MAX_S)
        self._trial = _Trial(self._n, look.rate) if look.rate > 0 else None
        waits = f"{above.name} blocked {_percent(above.blocked)}"
        if above.blocked < BLOCKED:
            waits = f"{look.queued} input{'s' if look.queued > 1 else ''} queued"
        return self._decide(self._n + more, "busy", f"busy {_percent(look.busy)}, {waits}")

    def _shrink(self, look: StageLook, now_s: float) -> Decision | None:
        fewer = max(self._least, math.ceil(self._n * look.load / FEWER_BUSY))
        if look.starved < STARVED or fewer >= self._n:
            self._down_s = None
            return None
        self._down_s = now_s if self._down_s is None else self._down_s
        if now_s - self._down_s < self._patience_s:
            return None
        self._shrunk_s = now_s
        return self._decide(fewer, "starved", f"busy {_percent(look.busy)}, starved {_percent(look.starved)}")

    def _decide(self, after: int, why: str, because: str) -> Decision:
        line = f"{self.name}: {self._n} -> {_workers(after)}: {because}"
        return Decision(self.name, self._n, after, why, line)


def _needed_s(look: StageLook) -> float:
    """Return how long a stage must be looked at, for some calls of each worker."""
    if look.rate > 0:
        calls_s = CALLS * look.busy * look.workers / look.rate
    else:
        calls_s = math.inf if look.busy >= BUSY else 0.0
    return min(calls_s, WINDOW_S[1])


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _workers(n: int) -> str:
    return f"{n} worker{'s' if n != 1 else ''}"
