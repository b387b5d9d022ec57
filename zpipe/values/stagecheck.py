"""The check of one stage: its options, and whether its callable fits its place and its args.

Knows the stage and what its callable takes; refuses to know the rest of the pipeline.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import Parameter

from zpipe.values.callables import CallableInfo
from zpipe.values.faults import did_you_mean
from zpipe.values.options import FIELDS, LATER, READER_ONLY, SOURCE_ONLY, not_plain
from zpipe.values.stage import BATCH, BUILT_INS, ENTRY, GATE, StageSpec

Found = Iterator[tuple[str, str]]  # dotted path, text

GATE_HOOKS = frozenset(("warmup", "close"))
READER_HOOKS = ("state", "restore", "finish", "epoch_end", "commit")
POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
REST = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def is_memory(spec: StageSpec, info: CallableInfo) -> bool:
    """Tell whether the stage remembers across items, and so has one worker and saves before it acks."""
    return _why_memory(spec, info) is not None


def check_options(spec: StageSpec, info: CallableInfo | None) -> Found:
    """Find unknown options, broken rules, and options that are for other stages."""
    at, stage, options = f"stage.{spec.name}", f"stage {spec.name!r}", spec.options
    for key in spec.extra:
        if key in LATER:
            text = f"option {key!r} is not supported by this version: leave it out"
        elif info is not None and key in _fillable(spec, info):
            text = f"{key!r} is an argument of {spec.run}, not an option: put it in args"
        else:
            text = f"there is no option {key!r}{did_you_mean(key, [*FIELDS, 'run', 'use', 'from', 'join', 'args'])}"
        yield f"{at}.{key}", f"{stage}: {text}"
    broken = options.broken()
    for key, rule in broken.items():
        yield f"{at}.{key}", f"{stage}: {key} {rule}"
    for key in options.given():
        if spec.inputs and key in SOURCE_ONLY:
            yield f"{at}.{key}", f"{stage}: {key} is an option of sources, but it reads {spec.inputs[0]!r}"
        if not spec.inputs and key in READER_ONLY:
            yield f"{at}.{key}", f"{stage}: {key} is an option of stages with inputs, but it is a source"
    if options.listen is not None and "listen" not in broken:
        yield from _listen(spec)
    if "workers" not in broken:
        yield from _workers(spec, known_partitions="partitions" not in broken)
    if options.devices and not broken.keys() & {"gpus", "devices"} and options.gpus > len(options.devices):
        rule = f"wants {options.gpus} gpus for each worker from {len(options.devices)} devices"
        yield f"{at}.gpus", f"{stage} {rule}: lower gpus or add devices"


NOT_AT_GATES = ("ordered", "checkpoint", "batch_size", "stacked", "grid")
NOT_AT_ENTRIES = ("epochs", "partitions", "replay", "stacked", "grid")


def _listen(spec: StageSpec) -> Found:
    """Find what a stage with a gate cannot have."""
    at, stage, options = f"stage.{spec.name}", f"stage {spec.name!r}", spec.options
    for key in options.given().keys() & set(NOT_AT_GATES if spec.inputs else NOT_AT_ENTRIES):
        why = "those outside take items in any order, one by one" if spec.inputs else "it has what is put there"
        yield f"{at}.{key}", f"{stage} has listen, so it cannot have {key}: {why}"
    if not spec.inputs and spec.run != ENTRY:
        text = f"{stage} is a source with listen, so its items come from outside: leave {spec.code!r} out"
        yield f"{at}.listen", f"{text}, or make two sources"
    if not spec.inputs and "push" in (options.listen or ()):
        yield (
            f"{at}.listen",
            f"{stage} is a source, so no work goes out: leave push out, items come in at pull and call",
        )
    if spec.run in (GATE, ENTRY):
        for key in options.given().keys() & {"workers", "env"}:
            text = "others are launched at its address" if spec.inputs else "one takes in what is put"
            yield f"{at}.{key}", f"{stage} has listen and no code of its own, so it cannot have {key}: {text}"
    elif options.scales_itself:
        yield f"{at}.workers", f"{stage} has listen, so the workers it starts are a number: set one"


def _workers(spec: StageSpec, *, known_partitions: bool) -> Found:
    at, options = f"stage.{spec.name}.workers", spec.options
    if options.scales_itself and not spec.inputs:
        rule = f"has workers = {options.workers!r}, but the workers of a source own its partitions"
        yield at, f"source {spec.name!r} {rule}: set a number"
    elif options.scales_itself and options.grid:
        rule = f"has workers = {options.workers!r} and a grid, whose variants do not scale by themselves"
        yield at, f"stage {spec.name!r} {rule}: set a number, for each of them"
    elif not spec.inputs and known_partitions and options.worker_range[0] > options.partitions:
        rule = f"has {options.workers} workers for {options.partitions} partitions"
        yield at, f"source {spec.name!r} {rule}: raise partitions or lower workers"


def check_callable(spec: StageSpec, info: CallableInfo, *, is_read: bool) -> Found:
    """Find what does not fit between the stage, its args and its callable."""
    if spec.options.listen and spec.inputs and (info.form != "map" or info.is_built_in or info.hooks - GATE_HOOKS):
        rule = "has listen, so its callable is to make one output of one item, and to remember nothing"
        yield f"stage.{spec.name}.listen", f"stage {spec.name!r} ({spec.run}) {rule}: put it above or below the gate"
        return
    yield from _form(spec, info, is_read=is_read)
    yield from _args(spec, info)
    yield from _memory(spec, info)
    yield from _blocks(spec, info)


def _form(spec: StageSpec, info: CallableInfo, *, is_read: bool) -> Found:
    at, stage = f"stage.{spec.name}.run", f"stage {spec.name!r} ({spec.run})"
    if info.is_async:
        yield at, f"{stage} is async, but stages are called one item at a time: use a plain def"
    elif not spec.inputs and info.is_built_in:
        yield at, f"{stage} reads no stage, but has nothing to send of its own: name its input in `from`"
    elif not spec.inputs and not info.yields:
        rule = "reads no stage, so it is a source, but does not yield"
        yield at, f"{stage} {rule}: name its input in `from`, or make it a generator"
    elif spec.inputs and info.is_class and not info.form:
        yield at, f"{stage} has no __call__: add __call__(item), or commit(items) for a sink"
    elif spec.inputs and not info.takes_input:
        yield (
            at,
            f"{stage} takes no item, but reads {spec.inputs[0]!r}: give it a first parameter for the item",
        )
    elif spec.joins and (info.is_built_in or info.form == "commit"):
        yield at, f"{stage} takes one item, but joins {len(spec.inputs)}: let a stage of yours join above it"
    elif spec.joins and (n := _most(spec, info)) is not None and n < len(spec.inputs):
        yield at, f"{stage} takes {n} items, but joins {len(spec.inputs)}: give it a parameter for each"
    elif info.is_class and (extra := _wants(spec, info)):
        gets = f"{len(spec.inputs)} items" if spec.joins else "one item" if spec.inputs else "none"
        yield at, f"{stage}: __call__ wants also {', '.join(extra)}, but gets {gets}: args go to __init__"
    if is_read and spec.inputs and "commit" in info.hooks:
        yield at, f"{stage} has commit(), which only sinks have, but another stage reads it: rename commit"
    if not info.is_class and info.hooks:
        yield at, f"{stage} is an object made at import: name its class, which is built in the worker"
    if not spec.inputs:
        for hook in sorted(info.hooks & set(READER_HOOKS)):
            yield at, f"{stage} has {hook}(), which is never called on a source: rename it or leave it out"
        if spec.options.replay == "seek" and info.yields and not info.takes_start:
            rule = "replay = 'seek' needs a parameter `start`, the position to begin at"
            yield f"stage.{spec.name}.replay", f"{stage}: {rule}: add it, or use replay = 'skip'"


def _args(spec: StageSpec, info: CallableInfo) -> Found:
    at, stage = f"stage.{spec.name}", f"stage {spec.name!r} ({spec.run})"
    options = spec.options
    grid = options.grid if isinstance(options.grid, dict) else {}
    for key, value in spec.args.items():
        if bad := not_plain(value, f"args.{key}"):
            yield (
                f"{at}.args.{key}",
                f"{stage}: {bad}: args hold numbers, text, true, false, lists and tables",
            )
        if key in grid:
            yield f"{at}.grid.{key}", f"{stage}: {key!r} is in args and in grid: leave it in one of them"
    for key, (rule, _) in BUILT_INS.get(spec.run, {}).items():
        values = grid.get(key, [])
        for value in [spec.args[key]] if key in spec.args else values if isinstance(values, list) else []:
            if broken := rule(value):
                yield f"{at}.args.{key}", f"{stage}: {key} {broken}, not {value!r}"
    if info.parameters is None:
        return
    items = _items(spec, info)
    fillable = _fillable(spec, info)
    takes_any = any(p.kind is Parameter.VAR_KEYWORD for p in info.parameters)
    for table, keys in (("args", spec.args), ("grid", grid)):
        for key in keys:
            if key in items:
                text = f"{stage}: {key!r} is where the item goes: leave it out of {table}"
            elif key not in fillable and not takes_any:
                hint = did_you_mean(key, fillable) or (
                    ": it is an option, write it beside args" if key in FIELDS else _takes(fillable)
                )
                text = f"{stage} takes no argument {key!r}{hint}"
            else:
                continue
            yield f"{at}.{table}.{key}", text
    if not spec.inputs and not info.yields:
        return  # whether its first parameter is for an item or for an arg is not known
    seeks = not spec.inputs and options.replay == "seek" and not info.is_class
    for p in info.parameters:
        needed = p.default is Parameter.empty and p.kind not in REST and p.name not in items
        if needed and p.name not in spec.args and p.name not in grid and not (seeks and p.name == "start"):
            yield f"{at}.args", f"{stage} needs an argument {p.name!r}: {_way_out(spec, info, p)}"


def _memory(spec: StageSpec, info: CallableInfo) -> Found:
    at, stage = f"stage.{spec.name}", f"stage {spec.name!r}"
    why = _why_memory(spec, info)
    workers = spec.options.workers
    if why and "workers" not in spec.options.broken() and workers != 1:
        yield f"{at}.workers", f"{stage} {why}, so it has one worker, not {workers}: set workers = 1"
    if not spec.inputs:
        return
    can_save = {"state", "restore"} <= info.hooks
    if spec.options.checkpoint is not None and not can_save:
        rule = "has checkpoint, but its callable is no class with state() and restore(state)"
        yield f"{at}.checkpoint", f"{stage} {rule}: add both, or leave checkpoint out"
    elif not can_save and (half := info.hooks & {"state", "restore"}):
        has, lacks = ("state", "restore") if "state" in half else ("restore", "state")
        yield f"{at}.run", f"{stage} ({spec.run}) has {has}() but no {lacks}(): a save needs both"


def _blocks(spec: StageSpec, info: CallableInfo) -> Found:
    at, stage, options = f"stage.{spec.name}", f"stage {spec.name!r}", spec.options
    if options.batch_size is not None and spec.inputs and (why := _why_no_block(spec, info)):
        yield f"{at}.batch_size", f"{stage} {why}: leave batch_size out, or put zp.batch above"
    if options.stacked is True and spec.inputs and options.batch_size is None:
        yield f"{at}.stacked", f"{stage}: stacked is for the items of a block: give it a batch_size"
    if options.max_wait_s and options.batch_size is None and not spec.groups_arrivals:
        text = "max_wait_s is how long a block waits to fill: give it a batch_size"
        if spec.run == BATCH:
            text = "max_wait_s is for groups in the order of arrival: set order = 'arrival' in args"
        yield f"{at}.max_wait_s", f"{stage}: {text}"
    if spec.groups_arrivals and spec.args.get("drop_last"):
        yield f"{at}.args.drop_last", f"{stage}: in the order of arrival any group may be the last: leave drop_last out"


def _why_no_block(spec: StageSpec, info: CallableInfo) -> str | None:
    if info.is_built_in:
        return f"({spec.run}) takes one item at a time"
    if info.form == "commit":
        return "commits blocks by itself"
    if info.form == "split":
        return "yields, but a block of items needs a list with an output for each"
    why = _why_memory(spec, info)
    return why and f"{why}, for which blocks of arrival are never the same"


def _why_memory(spec: StageSpec, info: CallableInfo) -> str | None:
    if not spec.inputs:
        return None
    if spec.options.ordered is True:
        return "is ordered"
    if spec.is_grouping:
        return "groups items in source order"
    if spec.options.checkpoint is not None:
        return "has a checkpoint"
    hook = next((hook for hook in ("state", "finish", "epoch_end") if hook in info.hooks), None)
    return f"has {hook}() and so remembers" if hook else None


def _wants(spec: StageSpec, info: CallableInfo) -> list[str]:
    """Return the parameters of a class's __call__ that nobody fills."""
    needed = [p.name for p in info.call or () if p.default is Parameter.empty and p.kind not in REST]
    if spec.inputs:
        return needed[_count(spec) :]
    return [name for name in needed if (name, spec.options.replay) != ("start", "seek")]


def _count(spec: StageSpec) -> int:
    """Return how many items one call gets."""
    return len(spec.inputs) if spec.joins else min(1, len(spec.inputs))


def _items(spec: StageSpec, info: CallableInfo) -> list[str]:
    """Return the names of a function's parameters that take the items, which args cannot fill."""
    if info.is_class or info.is_built_in:
        return []
    return [p.name for p in info.parameters or () if p.kind in POSITIONAL][: _count(spec)]


def _most(spec: StageSpec, info: CallableInfo) -> int | None:
    """Return how many items a callable can take by position, None for any number."""
    found = info.call if info.is_class else info.parameters
    if found is None or any(p.kind is Parameter.VAR_POSITIONAL for p in found):
        return None
    return sum(p.kind in POSITIONAL for p in found)


def _fillable(spec: StageSpec, info: CallableInfo) -> list[str]:
    items = _items(spec, info)
    return [p.name for p in info.parameters or () if p.kind in NAMED and p.name not in items]


def _takes(fillable: list[str]) -> str:
    return f": it takes {', '.join(fillable)}" if fillable else ": it takes none"


def _way_out(spec: StageSpec, info: CallableInfo, p: Parameter) -> str:
    if p.kind is Parameter.POSITIONAL_ONLY:
        return "args go by name, so it must not be positional-only"
    if not spec.inputs and not info.is_class and p.name == "start":
        return "set replay = 'seek', or give it a default"
    if not spec.inputs and not info.is_class and p.kind in POSITIONAL:
        return "give it in args, or name the stage's input in `from`"
    if spec.inputs and not info.is_class and p.kind in POSITIONAL:
        return "give it in args (a stage takes one item of each stage that it joins)"
    return "give it in args"
