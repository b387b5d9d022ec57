"""What each scenario must deliver, worked out without the core.

The expected items come from plain lists sorted by source order; only the grouping stages themselves and the
numbering of the plan are shared with what is tested.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from tests.simulation.scenarios import Step
from tests.simulation.stagecode import CLASSES, children, grouping, keep, output_of, routed, source_size, spread, tagged
from zpipe.stages import Made, Member
from zpipe.values.paths import Mark, Path, format_path
from zpipe.values.plan import Plan, StagePlan

Entry = tuple[Path, int, int, Any]  # path, digest, epoch, value


def expected(
    steps: list[Step],
    plan: Plan,
    ends: Mapping[int, int],
    dead: Mapping[str, Container[str]],
    given: dict[str, list[tuple[str, Any]]],
) -> dict[str, list[tuple[str, Any]]]:
    """Return, per sink, the (path, value) pairs in source order, when lanes of sources end where `ends` says.

    `dead` are the paths of the items that stages have given up; to `given` goes what each stage was given.
    """
    by_name = {step.name: step for step in steps}
    made: dict[int, list[Entry]] = {}
    sinks: dict[str, list[tuple[str, Any]]] = {}

    def rank(entry: Entry) -> tuple[Any, ...]:
        (lane, position, *elements), _, epoch, _ = entry
        origin = plan.origins[lane]
        stage = next((s for s in plan.stages if s.role == "source" and origin in s.lanes), None)
        if stage is None:
            return (epoch, 1, lane, position, *elements)  # what hooks make follows the epoch
        size = source_size(by_name[stage.stage], stage, origin)
        return (epoch, 0, position - epoch * (size + 1), lane, *elements)

    def epochs(lane: int) -> int:
        """Return how many epochs a lane of a source has closed."""
        stage = next(s for s in plan.stages if s.role == "source" and lane in s.lanes)
        step = by_name[stage.stage]
        whole = (source_size(step, stage, lane) + 1) * step.epochs
        return min(ends.get(lane, whole), whole) // (source_size(step, stage, lane) + 1)

    for stage in plan.stages:
        step = by_name[stage.stage]
        inputs = []
        for number in stage.inputs:
            edge = plan.edges[number]
            lanes = edge.lane_map()
            above = by_name[plan.stages[edge.from_].stage]
            read = [x for x in made[edge.from_] if above.kind != "route" or output_of(above, x[3]) in edge.outputs]
            inputs += [((lanes[p[0]] if lanes else p[0], *p[1:]), d, e, v) for p, d, e, v in read]
        inputs.sort(key=rank)
        pairs = [(format_path(plan.lane_names[p[0]], p, d), v) for p, d, _, v in inputs]
        given[stage.name] = pairs
        lost = dead.get(stage.name, ())
        inputs = [entry for entry, (path, _) in zip(inputs, pairs, strict=True) if path not in lost]
        if step.kind == "sink":
            sinks[stage.name] = [pair for pair in pairs if pair[0] not in lost]
        closed = max((epochs(plan.origins[lane]) for lane in stage.lanes), default=0)
        if step.kind == "join_on":
            outputs = _joined_on(step, stage, inputs, [rank(entry)[2] for entry in inputs])
        else:
            outputs = _outputs(step, stage, inputs, closed)
        made[stage.number] = [entry for entry in outputs if step.kind != "source" or _is_made(entry, ends)]
    return sinks


def _is_made(entry: Entry, ends: Mapping[int, int]) -> bool:
    lane, position = entry[0][:2]
    return lane not in ends or position < ends[lane]


def _outputs(step: Step, stage: StagePlan, inputs: list[Entry], epochs: int) -> list[Entry]:
    match step.kind:
        case "source":
            return [
                ((s, e * (size + 1) + i), 0, e, (step.name, s, e, i))
                for s in stage.lanes
                for size in [source_size(step, stage, s)]
                for e in range(step.epochs)
                for i in range(size)
            ]
        case "map" | "gate":
            return [(p, d, e, ("m", step.name, v)) for p, d, e, v in inputs if keep(step, v)]
        case "tag":
            return [(p, d, e, tagged(step, v)) for p, d, e, v in inputs if keep(step, v)]
        case "spread":
            return [((*p, i), d, e, x) for p, d, e, v in inputs for i, x in enumerate(spread(step, v))]
        case "route":
            routes = [(p, d, e, routed(step, v)) for p, d, e, v in inputs]
            return [((*p, i) if step.fan else p, d, e, x) for p, d, e, made in routes for i, x in enumerate(made)]
        case "split":
            return [((*p, i), d, e, ("c", step.name, v, i)) for p, d, e, v in inputs for i in range(children(step, v))]
        case "unbatch":
            return [((*p, i), d, e, x) for p, d, e, v in inputs for i, x in enumerate(v)]
        case "train" | "teach" | "bell":
            return _with_hooks(step, stage, inputs, epochs)
        case "join":
            return _joined(stage, inputs)
        case "batch" if step.block:
            return [(p, d, e, [v]) for p, d, e, v in inputs]  # who goes with whom is not known
        case "batch" | "shuffle" | "rechunk":
            group = grouping(step)
            group.number = stage.number
            entries: list[Made] = []
            for p, d, e, v in inputs:
                entries += group.add(Member(p, d, e, v))
            entries += group.flush()
            return [(m.path, m.digest, m.epoch, m.value) for m in entries if m.mark == Mark.ITEM]
    return []


def _joined(stage: StagePlan, inputs: list[Entry]) -> list[Entry]:
    """Look each item of the arm with the lowest lanes up on all of them, by what follows the lane in its path."""
    arms = stage.args["arms"]
    first = min(arms)
    found = {(p[0], p[1:], d): v for p, d, _, v in inputs}
    entries = []
    for p, d, e, _ in inputs:
        if p[0] in first:
            keys = [(arm[first.index(p[0])], p[1:], d) for arm in arms]
            if all(key in found for key in keys):
                entries.append((p, d, e, [found[key] for key in keys]))
    return entries


def _joined_on(step: Step, stage: StagePlan, inputs: list[Entry], at: list[int]) -> list[Entry]:
    """Give each item, in source order, the first of each other arm that still waits; `at` are their positions."""
    arms = stage.args["arms"]
    by_field = step.on != "position"
    free: list[int] = []
    entries = []
    for k, (p, _, e, v) in enumerate(inputs):
        free = [i for i in free if inputs[i][2] == e and at[i] >= at[k] - step.within]
        key = v["id"] if by_field else (_lane(arms, p), at[k])
        free.append(k)
        keys = {i: inputs[i][3]["id"] if by_field else (_lane(arms, inputs[i][0]), at[i]) for i in free}
        group = [next((i for i in free if keys[i] == key and inputs[i][0][0] in arm), None) for arm in arms]
        if None not in group:
            free = [i for i in free if i not in group]
            found = [inputs[i] for i in group if i is not None]
            first = found[arms.index(min(arms))]
            entries.append((*first[:3], [entry[3] for entry in found]))
    return entries


def _lane(arms: list[list[int]], path: Path) -> int:
    return next(arm.index(path[0]) for arm in arms if path[0] in arm)


def _with_hooks(step: Step, stage: StagePlan, inputs: list[Entry], epochs: int) -> list[Entry]:
    """Call a class on its inputs, its hooks between them; what they make has positions on their own lane."""
    target = CLASSES[step.kind](stage.name)
    entries: list[Entry] = []
    position = 0
    for epoch in range(epochs + 1):
        entries += [(p, d, e, out) for p, d, e, v in inputs if e == epoch and (out := target(v)) is not None]
        name = "epoch_end" if epoch < epochs else "finish"
        hook = getattr(target, name, None)
        made = hook(*[epoch][: epoch < epochs]) if hook else []
        for value in [made] if isinstance(made, tuple) else made:
            assert stage.hook_lane is not None
            entries.append(((stage.hook_lane, position), 0, epoch, value))
            position += 1
        position += 1  # the mark that closes the hook
    return entries
