"""The plan of a run: a checked pipeline with its variants laid out and everything numbered.

This is what the registry hands to workers.  Stages, edges and lanes have numbers.  A lane stands for one
partition of a source, or for what the hooks of a stage (`epoch_end`, `finish`) make, and for the arms taken at
fan-outs since: so what meets again below a fan-out is told apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from zpipe.values.callables import OURS, CallableInfo, form_of, resolve
from zpipe.values.code import imported
from zpipe.values.paths import Again
from zpipe.values.pipeline import Pipeline
from zpipe.values.stage import ENTRY, GATE, JOIN, JOIN_ON, StageSpec

MEMORY_HOOKS = frozenset(("state", "finish", "epoch_end"))
DEATHS_RETRIED = 3
SPLITTING = frozenset(("zpipe.stages:shuffle", "zpipe.stages:rechunk"))


@dataclass(frozen=True)
class EdgePlan:
    """An edge: `to` reads what `from_` writes; marks travel on it when a stage with memory is below.

    `outputs` are those of `from_` that `to` reads; "" stands for what goes to no named one.  `keep` is "all", or
    "latest": what comes while the readers are busy takes the place of what waits.
    """

    number: int
    from_: int
    to: int
    marked: bool
    lanes: tuple[tuple[int, int], ...] = ()  # on the arm of a fan-out: (lane above, lane on this edge)
    outputs: tuple[str, ...] = ("",)
    keep: str = "all"

    def lane_map(self) -> dict[int, int] | None:
        """Return lane above -> lane on this edge, None when the edge changes none."""
        return dict(self.lanes) if self.lanes else None


@dataclass(frozen=True)
class StagePlan:
    """One stage, or one variant of a grid."""

    number: int
    name: str  # of a variant: fit/lr=0.1,width=64
    stage: str
    role: str  # source, transform, sink
    run: str
    args: dict[str, Any]
    env: dict[str, str]
    workers: int
    form: str  # map, split, group, commit, source
    hooks: tuple[str, ...]  # methods of its class
    memory: bool
    splits: bool  # appends an element to the path
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    lanes: tuple[int, ...]  # of a source its own partitions, else the lanes of sources that reach it
    depths: tuple[tuple[int, int], ...]  # (lane, elements of its paths) for all lanes that reach it
    hook_lane: int | None  # the lane of what its hooks make
    hooks_above: tuple[int, ...]  # the lanes of hooks that reach it, upstream first
    kept: tuple[int, ...] = ()  # of a stage that joins arms: the lanes on which it goes on, those of one arm
    unread: tuple[str, ...] = ()  # outputs whose readers were cut off: what goes there is dropped
    spread: bool = False  # its callable is given the items of a join one by one
    block: int = 0  # most items that its callable takes together, in a list; 0: it takes one
    cmd: tuple[str, ...] = ()  # of a program in place of a callable
    listen: dict[str, Any] = field(default_factory=dict)  # ports, by kind; and more
    crew: int = 0  # of a gate: how many workers of its own it has
    stacked: bool = False  # a block is an array of items; a source yields such blocks
    wait_s: float = 0.0  # for a block to fill, in seconds
    epochs: int = 1
    partitions: int = 1
    replay: str = "skip"
    checkpoint: int | None = None
    limit: int | None = None  # of a source: most items per epoch, over all partitions
    retries: int | None = None  # of an item that failed
    on_error: str = "stop"
    timeout: float | None = None  # of a call, in seconds
    workers_max: int | None = None  # of a stage that scales itself from `workers` on; else None
    variant: dict[str, Any] = field(default_factory=dict)

    def depth_map(self) -> dict[int, int]:
        """Return lane -> elements of its paths."""
        return dict(self.depths)

    def share(self, lane: int) -> int | None:
        """Return how many items the partition of that lane may make per epoch, None for all."""
        if self.limit is None:
            return None
        n, rest = divmod(self.limit, self.partitions)
        return n + (self.lanes.index(lane) < rest)

    @property
    def is_gate(self) -> bool:
        """Tell whether its items are done by workers outside."""
        return bool(self.listen) and self.role != "source"

    @property
    def is_single(self) -> bool:
        """Tell whether it has one worker, come what may."""
        return self.memory or self.is_gate

    @property
    def tries(self) -> int:
        """Return how often an item may fail with an error."""
        return (self.retries or 0) + 1

    @property
    def deaths(self) -> int:
        """Return how often a worker may die of an item: unless told otherwise oftener, for it may be innocent."""
        return (DEATHS_RETRIED if self.retries is None else self.retries) + 1

    @property
    def loses_state(self) -> bool:
        """Tell whether the stage accumulates what a death of its worker would lose."""
        return "finish" in self.hooks and "state" not in self.hooks


@dataclass(frozen=True)
class Plan:
    """Everything a worker, the registry and the launcher must agree on."""

    name: str
    folder: str
    stages: tuple[StagePlan, ...]
    edges: tuple[EdgePlan, ...]
    lane_names: dict[int, str | Again]
    origins: dict[int, int]  # lane -> the lane that the source, or the hook, made it on
    code: dict[str, str] = field(default_factory=dict)  # the user's modules behind it: name -> sha256 of its file
    home: str = ""  # the run folder that stages are told of, where it is another run's: of one whose items go again

    @property
    def run_key(self) -> int:
        """Return what seeds `zp.rng()` beside stage and path: the pipeline's name, so every run draws the same."""
        return int.from_bytes(blake2b(self.name.encode(), digest_size=8).digest(), "big") >> 1

    def stage(self, name: str) -> StagePlan:
        """Return the stage of that name; KeyError when there is none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data, for msgpack or JSON."""
        data = asdict(self)
        data["lane_names"] = [
            [lane, name if isinstance(name, str) else [name.source, name.arms, list(name.paths), list(name.epochs)]]
            for lane, name in self.lane_names.items()
        ]
        data["origins"] = [[lane, origin] for lane, origin in self.origins.items()]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Return the plan that `to_dict` wrote."""
        plain = ("args", "env", "variant", "listen")
        stages = tuple(StagePlan(**{k: v if k in plain else _tuples(v) for k, v in s.items()}) for s in data["stages"])
        edges = tuple(EdgePlan(**{k: _tuples(v) for k, v in edge.items()}) for edge in data["edges"])
        lanes = {lane: name if isinstance(name, str) else Again(*name) for lane, name in data["lane_names"]}
        return cls(
            data["name"], data["folder"], stages, edges, lanes, dict(data["origins"]), dict(data["code"]),
            data.get("home", ""),
        )  # fmt: skip


def _tuples(value: Any) -> Any:
    return tuple(_tuples(x) for x in value) if isinstance(value, list | tuple) else value


def _info(spec: StageSpec, folder: Path) -> CallableInfo:
    return OURS.get(spec.run) or form_of(resolve(spec.run, folder))


def plan(pipeline: Pipeline, limit: int | None = None) -> Plan:
    """Return the plan of a checked pipeline; `limit` is the most items of each source per epoch."""
    specs = tuple(with_joins(pipeline.stages))
    infos = {spec.name: _info(spec, pipeline.folder) for spec in specs}
    made = build(pipeline.name, str(pipeline.folder), specs, infos)
    return replace(
        made,
        code=imported(pipeline.folder),
        stages=tuple(
            replace(
                stage,
                limit=limit if stage.role == "source" else None,
                unread=tuple(sorted(pipeline.unread.get(stage.stage, ()))),
            )
            for stage in made.stages
        ),
    )


def with_joins(specs: Iterable[StageSpec]) -> Iterator[StageSpec]:
    """Put above each stage that joins what joins for it: one worker, which leaves the calls to many."""
    for spec in specs:
        if not spec.joins:
            yield spec
            continue
        above, options = join_name(spec.name), spec.options
        args: dict[str, Any] = {"unmatched": options.unmatched}
        if options.on == "path":
            yield StageSpec(above, JOIN, spec.inputs, args)
        else:
            args |= {"names": list(spec.inputs), "on": options.on, "within": options.within or 0}
            yield StageSpec(above, JOIN_ON, spec.inputs, args)
        yield replace(spec, inputs=(above,))


def join_name(stage: str) -> str:
    """Return the name of what joins for a stage."""
    return f"{stage}-join"


def build(name: str, folder: str, specs: tuple[StageSpec, ...], infos: Mapping[str, CallableInfo]) -> Plan:
    """Number the stages, variants, edges and sources; `specs` are in topological order."""
    nodes = [(spec, variant) for spec in specs for variant in variants(spec)]
    numbers: dict[str, list[int]] = {}
    for number, (spec, _) in enumerate(nodes):
        numbers.setdefault(spec.name, []).append(number)
    pairs = [(up, down) for down, (spec, _) in enumerate(nodes) for read in spec.above for up in numbers[read]]
    is_memory = [has_memory(spec, infos[spec.name]) for spec, _ in nodes]
    leads_to_memory = list(is_memory)
    for up, down in sorted(pairs, reverse=True):
        leads_to_memory[up] = leads_to_memory[up] or leads_to_memory[down]

    lanes = _Lanes()
    edges: list[EdgePlan] = []
    stages: list[StagePlan] = []
    for number, (spec, variant) in enumerate(nodes):
        info, options = infos[spec.name], spec.options
        full = variant_name(spec.name, variant)
        outputs = tuple(k for k, (up, _) in enumerate(pairs) if up == number)
        inputs = tuple(k for k, (_, down) in enumerate(pairs) if down == number)
        if not spec.inputs:
            parts = options.partitions
            arriving = {lanes.new(f"{full}[{k}]" if parts > 1 else full): 0 for k in range(parts)}
        else:
            arriving = {lane: depth for k in inputs for lane, depth in lanes.on_edge[k].items()}
        args, leaving = {**spec.args, **variant}, set(arriving)
        if spec.run in (JOIN, JOIN_ON):
            arms = [sorted(lane for k in inputs if pairs[k][0] in numbers[above] for lane in lanes.on_edge[k])
                    for above in spec.above]  # fmt: skip
            args["arms"] = arms
            if spec.run == JOIN:
                args["hooks"] = sorted(lanes.hooks & set(arriving))
            leaving = set(min(arms))  # in source order the items of this arm come first
        hook = None
        if spec.inputs and outputs and info.hooks & {"finish", "epoch_end"} and not spec.is_grouping:
            hook = lanes.new(f"{full}.finish", hook=True)
        form = "source" if not spec.inputs else "group" if spec.is_grouping else info.form
        stages.append(
            StagePlan(
                number=number, name=full, stage=spec.name,
                role="source" if not spec.inputs else "transform" if outputs else "sink",
                run=spec.run, args=args, env=dict(options.env), workers=1 if spec.is_gate else options.worker_range[0],
                listen=dict(options.listen or {}),
                crew=options.worker_range[0] if spec.is_gate and spec.run != GATE else 0,
                workers_max=options.worker_range[1] if options.scales_itself else None,
                form=form, hooks=("close",) if spec.is_gate else tuple(sorted(info.hooks)), memory=is_memory[number],
                splits=form == "split" or spec.run in SPLITTING, inputs=inputs, outputs=outputs,
                lanes=tuple(sorted(lane for lane in arriving if lane not in lanes.hooks)),
                depths=tuple(sorted(arriving.items())), hook_lane=hook,
                hooks_above=tuple(sorted(lane for lane in arriving if lane in lanes.hooks)),
                epochs=options.epochs, partitions=options.partitions,
                replay="seek" if spec.run == ENTRY else options.replay,
                checkpoint=options.checkpoint, variant=variant,
                retries=options.retries, on_error=options.on_error, timeout=options.timeout, spread=spec.joins,
                block=args["size"] if spec.groups_arrivals else options.batch_size or 0, wait_s=options.max_wait_s,
                stacked=options.stacked, cmd=tuple(options.cmd or ()),
                kept=tuple(sorted(leaving)) if spec.run in (JOIN, JOIN_ON) else (),
            )
        )  # fmt: skip
        depths = {lane: depth + stages[-1].splits for lane, depth in arriving.items() if lane in leaving}
        if hook is not None:
            depths[hook] = 0
        for k in outputs:
            below = pairs[k][1]
            reader = variant_name(nodes[below][0].name, nodes[below][1])
            changed = lanes.arm(reader, depths) if len(outputs) > 1 else {}
            lanes.on_edge[k] = {changed.get(lane, lane): depth for lane, depth in depths.items()}
            reading = nodes[below][0]
            read, keep = reading.outputs_of(spec.name), reading.keeps(spec.name)
            edges.append(EdgePlan(k, number, below, leads_to_memory[below], tuple(changed.items()), read, keep))
    edges.sort(key=lambda edge: edge.number)
    return Plan(name, folder, tuple(stages), tuple(edges), dict(lanes.names), lanes.origins)


class _Lanes:
    """The lanes of a plan while it is built."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.origins: dict[int, int] = {}
        self.hooks: set[int] = set()
        self.on_edge: dict[int, dict[int, int]] = {}  # edge -> lane -> depth

    def new(self, name: str, *, hook: bool = False) -> int:
        lane = len(self.names)
        self.names[lane] = name
        self.origins[lane] = lane
        if hook:
            self.hooks.add(lane)
        return lane

    def arm(self, below: str, leaving: Mapping[int, int]) -> dict[int, int]:
        """Return lane -> new lane for the arm of a fan-out that leads to stage `below`."""
        arms = {}
        for lane in leaving:
            arms[lane] = self.new(f"{self.names[lane]}>{below}", hook=lane in self.hooks)
            self.origins[arms[lane]] = self.origins[lane]
        return arms


def has_memory(spec: StageSpec, info: CallableInfo) -> bool:
    """Tell whether a stage needs its inputs in source order, and so one worker."""
    if not spec.inputs:
        return False
    options = spec.options
    return bool(options.ordered or options.checkpoint or spec.is_grouping or info.hooks & MEMORY_HOOKS)


def variants(spec: StageSpec) -> Iterator[dict[str, Any]]:
    """Yield the points of the stage's grid, one empty point without a grid."""
    grid = spec.options.grid
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def variant_name(stage: str, variant: Mapping[str, Any]) -> str:
    """Return the name of a variant, `fit/lr=0.1,width=64`."""
    return f"{stage}/{','.join(f'{k}={v}' for k, v in variant.items())}" if variant else stage
