"""Play one seed: draw a scenario, limits and faults, run it, and judge the outcome."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tests.simulation import scenarios as sc
from tests.simulation.reference import expected
from tests.simulation.scenarios import Step
from tests.simulation.stagecode import Database, ailment, children, plan_of, targets
from zpipe.testing.faults import Faults
from zpipe.testing.simulator import World
from zpipe.values.errors import StageError, ZpipeError
from zpipe.values.plan import Plan

TIME_LIMIT_S = 40.0  # simulated; the longest run that ends takes a third of it


@dataclass(frozen=True)
class Outcome:
    """`verdict` is "ok" or what went wrong: lost, twice, hung, early end, order, over memory, crash, and of dead
    letters: blamed, spared.
    """

    seed: int
    scenario: str
    verdict: str
    detail: str
    deaths: int
    resumptions: int
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
        faults=Faults() if calm else faults if _is_fickle(steps) else replace(faults, in_call=0.0),
        shares=random.Random(seed + 1).random() < 0.5,
        mesh_peers=(32, 32, 1, 2)[seed % 4],
        time_limit_s=TIME_LIMIT_S,
    )
    try:
        end = world.run()
    except (AssertionError, ZpipeError) as error:
        end = f"crash: {error!r}"
        if isinstance(error, StageError) and _is_rightly_given_up(world, plan, str(error)):
            return Outcome(seed, make.__name__, "ok", str(error), world.deaths, world.resumptions, 0, world.now_s)
    given: dict[str, list[tuple[str, Any]]] = {}
    surely_given: dict[str, list[tuple[str, Any]]] = {}
    letters = world.letters.letters
    needed = expected(steps, plan, world.ends, letters, surely_given)
    wanted = expected(steps, plan, world.ends, _surely_dead(steps, plan, letters), given)
    if make is sc.gathered:
        verdict, detail = _judge_gathered(end, wanted["sink"], database, once=calm)
    else:
        verdict, detail = _judge(end, wanted, needed, database, plan, _halves(world, plan))
        if verdict == "ok":
            verdict, detail = _judge_dead(steps, plan, world, given, surely_given)
    if verdict == "ok" and world.peak_unconsumed > limits.window_max:
        verdict, detail = "over memory", f"{world.peak_unconsumed} unconsumed items on a link"
    committed = sum(len(rows) for rows in database.rows.values())
    return Outcome(seed, make.__name__, verdict, detail, world.deaths, world.resumptions, committed, world.now_s)


def _is_rightly_given_up(world: World, plan: Plan, said: str) -> bool:
    """Tell whether a run has ended at an item that, by chance, as many workers died of as its stage lets it."""
    allowed = {stage.name: stage.deaths for stage in plan.stages}
    return any(
        deaths >= allowed[stage] and f"stage {stage!r} at {path}: " in said
        for (stage, path), deaths in world.deaths_of.items()
    )


def _is_fickle(steps: list[Step]) -> bool:
    """Tell whether it may be chance that an item is given up."""
    return all(step.fickle for step in steps if step.ails)


def _surely_dead(
    steps: list[Step], plan: Plan, letters: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Return the letters of items that fail in every life: of others one life may make a letter, one an output."""
    sure: dict[str, dict[str, Any]] = {}
    for step in steps:
        rows = letters.get(step.name, {})
        sure[step.name] = {
            path: letter
            for path, letter in rows.items()
            if ailment(step, letter.run.parts[0].value) in ("always", "kills")
        }
    return sure


def _halves(world: World, plan: Plan) -> tuple[str, ...]:
    """Return how the paths begin of what a split had made of an item before it was given up."""
    split = (stage.name for stage in plan.stages if stage.splits)
    return tuple(f"{path}." for name in split for path in world.letters.letters.get(name, ()))


def _judge_dead(
    steps: list[Step],
    plan: Plan,
    world: World,
    given: dict[str, list[tuple[str, Any]]],
    surely_given: dict[str, list[tuple[str, Any]]],
) -> tuple[str, str]:
    """Judge the dead letters: those, and only those, that have failed as often as their stage allows."""
    for step in [step for step in steps if step.ails]:
        found = world.letters.letters.get(step.name, {})
        strangers = found.keys() - {path for path, _ in given[step.name]}
        if any(not path.startswith(_halves(world, plan)) for path in strangers):
            return "twice", f"{step.name}: letters of {sorted(strangers)[:3]}"
        sure = {path for path, _ in surely_given[step.name]}
        for path, value in given[step.name]:
            ails = ailment(step, value) if step.kind != "split" or children(step, value) else ""
            stage = plan.stage(step.name)
            killed = world.deaths_of.get((step.name, path), 0) >= stage.deaths
            halved = path.startswith(_halves(world, plan))
            may = killed or (ails not in ("", "kills") and (ails == "always" or int(ails) >= stage.tries))
            if path in found and not may:
                return "blamed", f"{step.name}: {path} ({ails or 'healthy'}) is a dead letter"
            if path in sure - found.keys() and ails in ("always", "kills") and not halved:
                return "spared", f"{step.name}: {path} ({ails}) is none"
    return "ok", ""


def _judge(
    end: str,
    wanted: dict[str, list[tuple[str, Any]]],
    needed: dict[str, list[tuple[str, Any]]],
    database: Database,
    plan: Plan,
    halves: tuple[str, ...],
) -> tuple[str, str]:
    if end.startswith("crash"):
        return "crash", end
    if database.conflicts:
        return "twice", f"{database.conflicts} paths came with two values"
    for sink, pairs in wanted.items():
        rows = {path: row for path, row in database.rows.get(sink, {}).items() if not path.startswith(halves)}
        order = [path for path in database.order.get(sink, ()) if not path.startswith(halves)]
        extra = rows.keys() - {path for path, _ in pairs}
        if extra:
            return "twice", f"{sink}: not expected {sorted(extra)[:3]}"
        must = _last(pairs) if _is_below_latest(plan, sink) else [path for path, _ in needed[sink]]
        missing = [path for path in must if path not in rows and not path.startswith(halves)]
        if missing:
            return ("hung" if end == "hung" else "early end"), f"{sink}: missing {len(missing)}, first {missing[0]}"
        wrong = [path for path, value in pairs if path in rows and repr(rows[path]) != repr(value)]
        if wrong:
            return "lost", f"{sink}: {wrong[0]} is {rows[wrong[0]]!r}"
        if plan.stage(sink).memory and order != [path for path, _ in pairs if path in rows]:
            return "order", f"{sink}: {order} is not source order"
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
