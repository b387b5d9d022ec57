"""The code of the stages of a scenario, its plan, and the database that its sinks commit to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from zlib import crc32

import numpy as np

from tests.simulation.scenarios import Step
from zpipe import joins, stages
from zpipe.stages import Grouping
from zpipe.testing.ailing import Deadly
from zpipe.testing.shared import objects
from zpipe.values.callables import CallableInfo
from zpipe.values.context import out
from zpipe.values.options import Options
from zpipe.values.plan import Plan, StagePlan, build
from zpipe.values.stage import StageSpec

FORMS = {
    "source": CallableInfo("split"),
    "map": CallableInfo("map"),
    "gate": CallableInfo("map"),
    "route": CallableInfo("map"),
    "split": CallableInfo("split"),
    "unbatch": CallableInfo("split"),
    "batch": CallableInfo("group", True),
    "shuffle": CallableInfo("group", True),
    "rechunk": CallableInfo("group", True),
    "join": CallableInfo("group", True),
    "join_on": CallableInfo("group", True),
    "tag": CallableInfo("map"),
    "spread": CallableInfo("split"),
    "train": CallableInfo("map", True, frozenset(("state", "restore", "finish"))),
    "teach": CallableInfo("map", True, frozenset(("state", "restore", "epoch_end", "finish"))),
    "bell": CallableInfo("map", True, frozenset(("epoch_end",))),
    "sink": CallableInfo("commit", True, frozenset(("commit",))),
}


def plan_of(steps: list[Step]) -> Plan:
    """Return the plan of a scenario."""
    specs, infos = [], {}
    for step in steps:
        home = next((home for home in (stages, joins) if hasattr(home, step.kind)), None)
        run = f"{home.__name__}:{step.kind}" if home else f"sim:{step.kind}"
        options: dict[str, Any] = {
            "workers": step.workers,
            "ordered": step.ordered,
            "checkpoint": step.checkpoint,
            "stacked": step.is_stacked,
        }
        if step.kind == "gate":
            options["listen"] = {"call": 0}
        if step.ails:
            options |= {"on_error": "dead-letter", "retries": step.retries}
        if step.block:
            options |= {"max_wait_s": step.wait_s, "batch_size": step.block if step.kind == "map" else None}
        if step.kind == "source":
            options |= {"partitions": step.partitions, "epochs": step.epochs}
        args = {"names": list(step.inputs), "on": step.on, "within": step.within} if step.on else {}
        if step.kind == "batch" and step.block:
            args = {"size": step.block, "order": "arrival"}
        if step.grid:
            options["grid"] = {"v": list(range(step.grid))}
        specs.append(StageSpec(step.name, run, step.inputs, args, Options(**options),
                               latest=step.inputs if step.latest else ()))  # fmt: skip
        infos[step.name] = CallableInfo("split") if step.kind == "route" and step.fan else FORMS[step.kind]
    return build("sim", ".", tuple(specs), infos)


def keep(step: Step, value: Any) -> bool:
    return not step.drop or bool(crc32(repr((step.name, value)).encode()) % step.drop)


def mapped(step: Step, value: Any) -> Any:
    return ("m", step.name, value) if keep(step, value) else None


def children(step: Step, value: Any) -> int:
    return step.fan or crc32(repr((step.name, value)).encode()) % 4


def tagged(step: Step, value: Any) -> dict[str, Any]:
    return {"id": crc32(repr(value[1:]).encode()) % 7, "v": ("t", step.name, value)}


def spread(step: Step, item: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"id": (item["id"] + i) % 7, "v": ("x", step.name, item["v"], i)} for i in range(children(step, item["v"]))]


def output_of(step: Step, value: Any) -> str:
    return "ab"[crc32(repr((step.name, value)).encode()) % 2]


def routed(step: Step, value: Any) -> list[Any]:
    return [("r", step.name, value, i) for i in range(step.fan or 1)]


def ailment(step: Step, value: Any) -> str:
    """Return what an item has at a stage: nothing, or it fails so often, or kills its worker whenever it is called."""
    found = ("", "", "", "", "1", "3", "always", "kills")[crc32(repr(("ails", step.name, value)).encode()) % 8]
    return found if step.fickle or not found.isdecimal() else ""


def suffer(step: Step, value: Any, calls: Counter[Any]) -> None:
    """Let a call for an item fail as it must; `calls` counts those that did, in any life."""
    if not step.ails or not (ails := ailment(step, value)):
        return
    if ails == "kills":
        raise Deadly
    calls[step.name, repr(value)] += 1
    if ails == "always" or calls[step.name, repr(value)] <= int(ails):
        raise ValueError(ails)


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


class Teach(Train):
    """Tells at the end of each epoch too, now this much and now that."""

    def epoch_end(self, epoch: int) -> Iterator[Any]:
        for i in range(crc32(repr((self.name, epoch, len(self.seen))).encode()) % 5):
            yield ("epoch", self.name, epoch, len(self.seen), i)


class Bell:
    """Remembers nothing, and says when an epoch is over; it goes on where its stage was saved."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, value: Any) -> Any:
        return ("heard", value)

    def epoch_end(self, epoch: int) -> Any:
        return ("bell", self.name, epoch)


class Database:
    """What the sinks of a scenario committed: path -> value per sink, and the order of first commits."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.order: dict[str, list[str]] = {}
        self.conflicts = 0
        self.calls: Counter[Any] = Counter()  # that failed

    def sink(self, name: str, step: Step) -> Any:
        rows, order = self.rows.setdefault(name, {}), self.order.setdefault(name, [])

        class Sink:
            def commit(_, items: list[Any]) -> None:
                for item in items:
                    suffer(step, item.value, self.calls)
                for item in items:
                    if item.path not in rows:
                        rows[item.path] = item.value
                        order.append(item.path)
                    elif repr(rows[item.path]) != repr(item.value):
                        self.conflicts += 1

        return Sink()


CLASSES: dict[str, Callable[[str], Any]] = {"train": Train, "teach": Teach, "bell": Bell}


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
            return lambda node: lambda: _source_items(step, stage, node.caller.current.run)
        case "map" if step.is_stacked:
            return lambda: lambda values: _mapped_array(step, values, database)
        case "map" if step.block:
            return lambda: lambda values: [_mapped(step, value, database) for value in values]
        case "map" | "gate":
            return lambda: lambda value: _mapped(step, value, database)
        case "tag":
            return lambda: lambda value: tagged(step, value) if keep(step, value) else None
        case "spread":
            return lambda: lambda item: iter(spread(step, item))
        case "route":
            return lambda: lambda value: _route(step, value)
        case "split":
            return lambda: lambda value: _split(step, value, database)
        case "unbatch":
            return lambda: stages.unbatch
        case "train" | "teach" | "bell":
            return lambda: CLASSES[step.kind](stage.name)
        case "sink":
            return lambda: database.sink(stage.name, step)
        case "join" | "join_on":
            return lambda: getattr(joins, step.kind)(**stage.args)
    return lambda: grouping(step)


def _mapped(step: Step, value: Any, database: Database) -> Any:
    suffer(step, value, database.calls)
    return mapped(step, value)


def _mapped_array(step: Step, values: Any, database: Database) -> Any:
    """Return an array where nothing is dropped, otherwise a list."""
    assert isinstance(values, np.ndarray)
    made = [_mapped(step, value, database) for value in values]
    return made if None in made else objects(made)


def _split(step: Step, value: Any, database: Database) -> Iterator[Any]:
    """Fail, where that must be, after the first child."""
    for i in range(children(step, value)):
        yield ("c", step.name, value, i)
        if i == 0:
            suffer(step, value, database.calls)


def _route(step: Step, value: Any) -> Any:
    sent = [out(output_of(step, made), made) for made in routed(step, value)]
    return iter(sent) if step.fan else sent[0]


def grouping(step: Step) -> Grouping:
    """Make the grouping stage of a step."""
    more = {"drop_last": True} if step.drop_last else {}
    made: Grouping = getattr(stages, step.kind)(step.block or step.size, **more)
    return made


def source_size(step: Step, stage: StagePlan, lane: int) -> int:
    """Return how many items a partition has in each epoch."""
    return step.size * (1, 0, 3)[stage.lanes.index(lane) % 3] if step.uneven else step.size


def _source_items(step: Step, stage: StagePlan, here: Any) -> Iterator[Any]:
    items = [(step.name, here.lane, here.epoch, i) for i in range(source_size(step, stage, here.lane))]
    if not step.is_stacked:
        yield from items
        return
    while items:
        n = 1 + crc32(repr(items[0]).encode()) % 5
        yield objects(items[:n])
        items = items[n:]
