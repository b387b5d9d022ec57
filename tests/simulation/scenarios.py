"""Pipelines for the simulator, drawn from a seed, and what each must deliver, worked out without the core.

The expected items come from plain lists sorted by source order; only the grouping stages themselves and the
numbering of the plan are shared with what is tested.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from zpipe import stages
from zpipe.core.limits import Limits
from zpipe.stages import Grouping, Made, Member
from zpipe.testing.simulator import Faults
from zpipe.values.callables import CallableInfo
from zpipe.values.options import Options
from zpipe.values.paths import Mark, Path
from zpipe.values.plan import Plan, StagePlan, build
from zpipe.values.stage import StageSpec


@dataclass(frozen=True)
class Step:
    """One stage of a scenario; `kind` is source, map, split, a grouping, train or sink."""

    name: str
    kind: str
    inputs: tuple[str, ...] = ()
    workers: int = 1
    size: int = 4  # of a group; for a source its items per partition and epoch
    drop: int = 0  # a map drops one in so many
    ordered: bool = False
    checkpoint: int | None = None
    partitions: int = 1
    epochs: int = 1
    grid: int = 0


def linear(r: random.Random) -> list[Step]:
    return [
        source(r),
        Step("a", "map", ("src",), r.randint(1, 3), drop=r.choice((0, 3))),
        Step("sink", "sink", ("a",), r.randint(1, 2)),
    ]


def ordered(r: random.Random) -> list[Step]:
    return [
        source(r),
        Step("a", "map", ("src",), r.randint(1, 3), drop=r.choice((0, 2, 5))),
        Step("sink", "sink", ("a",), ordered=True),
    ]


def split(r: random.Random) -> list[Step]:
    return [
        source(r),
        Step("a", "split", ("src",), r.randint(1, 3)),
        Step("b", "map", ("a",), r.randint(1, 2), drop=r.choice((0, 4))),
        Step("sink", "sink", ("b",), ordered=r.random() < 0.6),
    ]


def batch(r: random.Random) -> list[Step]:
    return [
        source(r),
        Step("a", "map", ("src",), r.randint(1, 3), drop=r.choice((0, 2))),
        Step("g", "batch", ("a",), size=r.randint(1, 7)),
        Step("sink", "sink", ("g",), r.randint(1, 2)),
    ]


def split_batch(r: random.Random) -> list[Step]:
    return [
        source(r),
        Step("a", "map", ("src",), 2),
        Step("b", "split", ("a",), 2),
        Step("g", "batch", ("b",), size=r.randint(2, 6)),
        Step("sink", "sink", ("g",)),
    ]


def train(r: random.Random) -> list[Step]:
    steps = [
        source(r),
        Step("a", "map", ("src",), 2, drop=r.choice((0, 3))),
        Step("s", "shuffle", ("a",), size=r.randint(2, 8)),
        Step("g", "batch", ("s",), size=r.randint(1, 4)),
        Step("fit", "train", ("g",), checkpoint=r.choice((None, 1, 3, 100)), grid=r.choice((0, 2))),
    ]
    return [*steps, Step("sink", "sink", ("fit",), ordered=r.random() < 0.5)]


def learn(r: random.Random) -> list[Step]:
    return [
        source(r),
        Step("fit", "train", ("src",), checkpoint=r.choice((1, 2, 5))),
        Step("sink", "sink", ("fit",), ordered=r.random() < 0.5),
    ]


def diamond(r: random.Random) -> list[Step]:
    steps = [
        source(r),
        Step("a", "map", ("src",), 2),
        Step("b", "split" if r.random() < 0.5 else "map", ("src",), 2),
    ]
    if r.random() < 0.5:
        return [*steps, Step("sink", "sink", ("a", "b"), ordered=True)]
    return [*steps, Step("g", "batch", ("a", "b"), size=3), Step("sink", "sink", ("g",))]


def regroup(r: random.Random) -> list[Step]:
    return [
        source(r),
        Step("a", "map", ("src",), 2, drop=r.choice((0, 4))),
        Step("g", "batch", ("a",), size=r.randint(2, 5)),
        Step("h", "rechunk", ("g",), size=r.randint(1, 6)),
        Step("u", "unbatch", ("h",), 2),
        Step("sink", "sink", ("u",), ordered=True),
    ]


def two_sources(r: random.Random) -> list[Step]:
    other = Step("src2", "source", size=r.randint(1, 12), epochs=r.randint(1, 2))
    return [
        source(r),
        other,
        Step("a", "map", ("src", "src2"), 2),
        Step("g", "batch", ("a",), size=4),
        Step("sink", "sink", ("g",), ordered=True),
    ]


def fan_out(r: random.Random) -> list[Step]:
    return [
        source(r),
        Step("a", "map", ("src",), 2, drop=r.choice((0, 3))),
        Step("g", "batch", ("a",), size=3),
        Step("sink", "sink", ("g",)),
        Step("sink2", "sink", ("a",), 2),
        Step("sink3", "sink", ("a",), ordered=True),
    ]


SCENARIOS: tuple[Callable[[random.Random], list[Step]], ...] = (
    linear,
    ordered,
    split,
    batch,
    split_batch,
    train,
    learn,
    diamond,
    regroup,
    two_sources,
    fan_out,
)


def source(r: random.Random) -> Step:
    partitions = r.choice((1, 1, 2, 3))
    return Step(
        "src",
        "source",
        workers=r.randint(1, partitions),
        size=r.randint(1, 14),
        partitions=partitions,
        epochs=r.choice((1, 1, 2)),
    )


def limits(r: random.Random) -> Limits:
    """Draw limits, most of them tight: 2 to 8 items."""
    return Limits(
        frame_items=r.choice((1, 2, 4, 64)),
        window_max=r.choice((1, 4, 64)),
        flight_s=r.choice((0.0, 0.01)),
        source_items=r.choice((2, 3, 5, 8, 64)),
        source_bytes=r.choice((200, 500, 10**6)),
        budget_bytes=r.choice((100, 400, 10**6)),
        recent=r.choice((1, 1024)),
    )


def faults(r: random.Random) -> Faults:
    """Draw what goes wrong."""
    return Faults(
        kills=r.choice((0.0, 5.0, 20.0, 60.0)),
        mid_action=r.choice((0.0, 0.5, 1.0)),
        massacres=r.choice((0.0, 0.0, 2.0, 6.0)),
        pauses=r.choice((0.0, 0.0, 8.0)),
        pause_s=r.choice((0.05, 2.0)),
        cuts=r.choice((0.0, 5.0, 30.0)),
        losses=r.choice((0.0, 0.0, 20.0)),
        registry_kills=r.choice((0.0, 0.0, 3.0)),
        until_s=r.choice((0.5, 1.0, 3.0)),
    )


# -- the plan -------------------------------------------------------------------------------------------

FORMS = {
    "source": CallableInfo("split"),
    "map": CallableInfo("map"),
    "split": CallableInfo("split"),
    "unbatch": CallableInfo("split"),
    "batch": CallableInfo("group", True),
    "shuffle": CallableInfo("group", True),
    "rechunk": CallableInfo("group", True),
    "train": CallableInfo("map", True, frozenset(("state", "restore", "finish"))),
    "sink": CallableInfo("commit", True, frozenset(("commit",))),
}


def plan_of(steps: list[Step]) -> Plan:
    """Return the plan of a scenario."""
    specs, infos = [], {}
    for step in steps:
        run = f"zpipe.stages:{step.kind}" if hasattr(stages, step.kind) else f"sim:{step.kind}"
        options: dict[str, Any] = {
            "workers": step.workers,
            "ordered": step.ordered,
            "checkpoint": step.checkpoint,
        }
        if step.kind == "source":
            options |= {"partitions": step.partitions, "epochs": step.epochs}
        if step.grid:
            options["grid"] = {"v": list(range(step.grid))}
        specs.append(StageSpec(step.name, run, step.inputs, {}, Options(**options)))
        infos[step.name] = FORMS[step.kind]
    return build("sim", ".", tuple(specs), infos)


def keep(step: Step, value: Any) -> bool:
    return not step.drop or bool(crc32(repr((step.name, value)).encode()) % step.drop)


def children(step: Step, value: Any) -> int:
    return crc32(repr((step.name, value)).encode()) % 4


class Train:
    """Remembers, in order, all it was given; `finish` tells."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[Any] = []

    def __call__(self, value: Any) -> Any:
        self.seen.append(value)
        return ("step", len(self.seen)) if len(self.seen) % 2 == 0 else None

    def state(self) -> Any:
        return self.seen

    def restore(self, state: Any) -> None:
        self.seen = list(state)

    def finish(self) -> Iterator[Any]:
        yield ("trained", self.name, tuple(map(repr, self.seen)))


class Database:
    """What the sinks of a scenario committed: path -> value per sink, and the order of first commits."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.order: dict[str, list[str]] = {}
        self.conflicts = 0

    def sink(self, name: str) -> Any:
        rows, order = self.rows.setdefault(name, {}), self.order.setdefault(name, [])

        class Sink:
            def commit(_, items: list[Any]) -> None:
                for item in items:
                    if item.path not in rows:
                        rows[item.path] = item.value
                        order.append(item.path)
                    elif repr(rows[item.path]) != repr(item.value):
                        self.conflicts += 1

        return Sink()


def targets(steps: list[Step], plan: Plan, database: Database) -> dict[str, Callable[..., Any]]:
    """Return what makes the code of each stage."""
    by_name = {step.name: step for step in steps}
    made: dict[str, Callable[..., Any]] = {}
    for stage in plan.stages:
        made[stage.name] = _target(by_name[stage.stage], stage, database)
    return made


def _target(step: Step, stage: StagePlan, database: Database) -> Callable[..., Any]:
    match step.kind:
        case "source":
            return lambda node: lambda: _source_items(step, node.caller.current.run)
        case "map":
            return lambda: lambda value: ("m", step.name, value) if keep(step, value) else None
        case "split":
            return lambda: lambda value: (("c", step.name, value, i) for i in range(children(step, value)))
        case "unbatch":
            return lambda: stages.unbatch
        case "train":
            return lambda: Train(stage.name)
        case "sink":
            return lambda: database.sink(stage.name)
    return lambda: getattr(stages, step.kind)(step.size)


def _source_items(step: Step, here: Any) -> Iterator[Any]:
    for i in range(step.size):
        yield (step.name, here.lane, here.epoch, i)


# -- what must come out ---------------------------------------------------------------------------------

Entry = tuple[Path, int, int, Any]  # path, digest, epoch, value


def expected(steps: list[Step], plan: Plan) -> dict[str, list[tuple[str, Any]]]:
    """Return, per sink, the (path, value) pairs in source order."""
    by_name = {step.name: step for step in steps}
    made: dict[int, list[Entry]] = {}
    sinks: dict[str, list[tuple[str, Any]]] = {}

    def rank(entry: Entry) -> tuple[Any, ...]:
        (lane, position, *elements), _, epoch, _ = entry
        origin = plan.origins[lane]
        stage = next((s for s in plan.stages if s.role == "source" and origin in s.lanes), None)
        if stage is None:
            return (10**6, lane, position, *elements)
        size = by_name[stage.stage].size
        return (epoch, position - epoch * (size + 1), lane, *elements)

    for stage in plan.stages:
        step = by_name[stage.stage]
        inputs = []
        for number in stage.inputs:
            edge = plan.edges[number]
            lanes = edge.lane_map()
            inputs += [((lanes[p[0]] if lanes else p[0], *p[1:]), d, e, v) for p, d, e, v in made[edge.from_]]
        inputs.sort(key=rank)
        if step.kind == "sink":
            from zpipe.values.paths import format_path

            sinks[stage.name] = [(format_path(plan.lane_names[p[0]], p, d), v) for p, d, _, v in inputs]
        epochs = max(s.epochs for s in steps if s.kind == "source")
        made[stage.number] = _outputs(step, stage, inputs, epochs)
    return sinks


def _outputs(step: Step, stage: StagePlan, inputs: list[Entry], epochs: int) -> list[Entry]:
    match step.kind:
        case "source":
            return [
                ((s, e * (step.size + 1) + i), 0, e, (step.name, s, e, i))
                for s in stage.lanes
                for e in range(step.epochs)
                for i in range(step.size)
            ]
        case "map":
            return [(p, d, e, ("m", step.name, v)) for p, d, e, v in inputs if keep(step, v)]
        case "split":
            return [((*p, i), d, e, ("c", step.name, v, i)) for p, d, e, v in inputs for i in range(children(step, v))]
        case "unbatch":
            return [((*p, i), d, e, x) for p, d, e, v in inputs for i, x in enumerate(v)]
        case "train":
            model = Train(stage.name)
            steps = [(p, d, e, model(v)) for p, d, e, v in inputs]
            last = ((stage.hook_lane, epochs), 0, epochs, next(model.finish()))
            return [entry for entry in steps if entry[3] is not None] + [last]  # type: ignore[list-item]
        case "batch" | "shuffle" | "rechunk":
            grouping: Grouping = getattr(stages, step.kind)(step.size)
            grouping.number = stage.number
            entries: list[Made] = []
            for p, d, e, v in inputs:
                entries += grouping.add(Member(p, d, e, v))
            entries += grouping.flush()
            return [(m.path, m.digest, m.epoch, m.value) for m in entries if m.mark == Mark.ITEM]
    return []
