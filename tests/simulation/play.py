"""Play one seed: draw a scenario, limits and faults, run it, and judge the outcome."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.simulation import scenarios as sc
from tests.simulation.reference import expected
from tests.simulation.stagecode import Database, plan_of, targets
from zpipe.testing.faults import Faults
from zpipe.testing.simulator import World
from zpipe.values.errors import ZpipeError
from zpipe.values.plan import Plan

TIME_LIMIT_S = 40.0  # simulated; the longest run that ends takes a third of it


@dataclass(frozen=True)
class Outcome:
    """`verdict` is "ok" or what went wrong: lost, twice, hung, early end, order, over memory, crash."""

    seed: int
    scenario: str
    verdict: str
    detail: str
    deaths: int
    committed: int
    seconds: float  # simulated


def play(
    seed: int,
    *,
    scenario: str | None = None,
    world_type: type[World] = World,
    calm: bool = False,
) -> Outcome:
    """Run one seed and judge it."""
    r = random.Random(seed)
    make = next((s for s in sc.SCENARIOS if s.__name__ == scenario), None) or r.choice(sc.SCENARIOS)
    steps = make(r)
    limits, faults = sc.limits(r), sc.faults(r)
    plan = plan_of(steps)
    database = Database()

    world = world_type(
        plan,
        targets(steps, plan, database),
        seed,
        limits=limits,
        faults=Faults() if calm else faults,
        time_limit_s=TIME_LIMIT_S,
    )
    try:
        end = world.run()
    except (AssertionError, ZpipeError) as error:
        end = f"crash: {error!r}"
    wanted = expected(steps, plan, world.ends)
    if make is sc.gathered:
        verdict, detail = _judge_gathered(end, wanted["sink"], database, once=calm)
    else:
        verdict, detail = _judge(end, wanted, database, plan)
    if verdict == "ok" and world.peak_unconsumed > limits.window_max:
        verdict, detail = "over memory", f"{world.peak_unconsumed} unconsumed items on a link"
    committed = sum(len(rows) for rows in database.rows.values())
    return Outcome(seed, make.__name__, verdict, detail, world.deaths, committed, world.now_s)


def _judge(end: str, wanted: dict[str, list[tuple[str, Any]]], database: Database, plan: Plan) -> tuple[str, str]:
    if end.startswith("crash"):
        return "crash", end
    if database.conflicts:
        return "twice", f"{database.conflicts} paths came with two values"
    for sink, pairs in wanted.items():
        rows = database.rows.get(sink, {})
        extra = rows.keys() - {path for path, _ in pairs}
        if extra:
            return "twice", f"{sink}: not expected {sorted(extra)[:3]}"
        needed = _last(pairs) if _is_below_latest(plan, sink) else [path for path, _ in pairs]
        missing = [path for path in needed if path not in rows]
        if missing:
            return ("hung" if end == "hung" else "early end"), f"{sink}: missing {len(missing)}, first {missing[0]}"
        wrong = [path for path, value in pairs if path in rows and repr(rows[path]) != repr(value)]
        if wrong:
            return "lost", f"{sink}: {wrong[0]} is {rows[wrong[0]]!r}"
        if plan.stage(sink).memory and database.order[sink] != [path for path, _ in pairs]:
            return "order", f"{sink}: {database.order[sink]} is not source order"
    if end == "hung":
        return "hung", "all committed, but no end"
    return "ok", ""


def _judge_gathered(end: str, wanted: list[tuple[str, Any]], database: Database, *, once: bool) -> tuple[str, str]:
    """Judge groups that nobody can foretell: every member is in one, in more than one only after a fault."""
    if end != "complete":
        return ("hung", "no end") if end == "hung" else ("crash", end)
    found = Counter(repr(member) for _, _, group in database.rows.get("sink", {}).values() for member in group)
    members = {repr(member) for _, (_, _, (member,)) in wanted}
    if missing := members - found.keys():
        return "lost", f"missing {sorted(missing)[:3]}"
    if found.keys() > members or (once and found.total() > len(members)):
        return "twice", f"{found.total()} members of {len(members)}"
    return "ok", ""


def _is_below_latest(plan: Plan, name: str) -> bool:
    above = [plan.edges[number] for number in plan.stage(name).inputs]
    return any(edge.keep == "latest" or _is_below_latest(plan, plan.stages[edge.from_].name) for edge in above)


def _last(pairs: list[tuple[str, Any]]) -> list[str]:
    """Return the last path on each lane."""
    return list({path.rpartition(":")[0]: path for path, _ in pairs}.values())
