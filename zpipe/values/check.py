"""The check of a pipeline: every fault at once, with its place and the way out.

Imports users' modules to see what their callables take; starts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zpipe.values.callables import CallableInfo, describe, missing_program
from zpipe.values.errors import ConfigError
from zpipe.values.faults import Fault, did_you_mean
from zpipe.values.joincheck import check_join
from zpipe.values.parts import INPUT
from zpipe.values.pipeline import Pipeline
from zpipe.values.stage import BUILT_INS, NAME, SPLIT, StageSpec
from zpipe.values.stagecheck import Found, check_callable, check_options, is_memory
from zpipe.values.testtables import check_tests

NAME_RULE = "use a-z, 0-9 and -, a letter first"


def check(pipeline: Pipeline) -> list[Fault]:
    """Return every fault of the pipeline, those found while reading it first; none when it can run."""
    found = [*_pipeline(pipeline), *_edges(pipeline)]
    infos: dict[str, CallableInfo] = {}
    for spec in pipeline.stages:
        info = None
        if spec.run:  # its absence was noted while reading
            try:
                info = describe(spec.run, pipeline.folder)
            except ConfigError as e:
                found.append((f"stage.{spec.name}.run", f"stage {spec.name!r}: {e}"))
        found += check_options(spec, info)
        found += _program(spec, pipeline.folder)
        if info is not None:
            infos[spec.name] = info
            found += check_callable(spec, info, is_read=bool(pipeline.readers(spec.name)))
    found += _out_of_order(pipeline, infos)
    found += check_tests(pipeline.tests, pipeline.stages)
    faults = [*pipeline.faults, *(Fault(pipeline.place(path), text) for path, text in found)]
    return list(dict.fromkeys(faults))


def _program(spec: StageSpec, folder: Path) -> Found:
    cmd = spec.options.cmd
    if cmd and "cmd" not in spec.options.broken() and (fault := missing_program(cmd, folder)):
        yield f"stage.{spec.name}.cmd", f"stage {spec.name!r}: {fault}"


def outputs_of_split(spec: StageSpec) -> tuple[str, ...]:
    """Return the outputs that the built-in split sends to; none for other stages, whose code decides."""
    weights = spec.args.get("weights") if spec.run == SPLIT else None
    return tuple(weights) if isinstance(weights, dict) else ()


def _out_of_order(pipeline: Pipeline, infos: Mapping[str, CallableInfo]) -> Found:
    """Find stages that need every item in source order, below what leaves some out or groups them by arrival."""
    for spec in pipeline.stages:
        at, stage = f"stage.{spec.name}.from", f"stage {spec.name!r}"
        for above in dict.fromkeys(read.partition(".")[0] for read in spec.latest):
            if any(read.partition(".")[0] == above and read not in spec.latest for read in spec.inputs):
                yield at, f"{stage} keeps only the latest of one output of {above!r}: keep that of all, or of none"
        what = f"keeps only the latest of {spec.latest[0]!r}" if spec.latest else ""
        what = "groups items as they come" if spec.groups_arrivals else what
        for below in _below(pipeline, spec) if what else ():
            if below.joins or (below.name in infos and is_memory(below, infos[below.name])):
                why = "joins" if below.joins else "remembers across items"
                who = "it" if below is spec else repr(below.name)
                yield at, f"{stage} {what}, but {who} {why} and needs source order"


def _below(pipeline: Pipeline, spec: StageSpec) -> list[StageSpec]:
    """Return a stage and all that is below it."""
    below = [spec]
    for other in below:
        below += [reader for reader in pipeline.readers(other.name) if reader not in below]
    return below


def _no_output(above: StageSpec, output: str) -> str:
    """Say why a stage cannot have an output, "" when it can."""
    if output and above.run in BUILT_INS and above.run != SPLIT:
        return f"{above.run} has no named outputs: read {above.name!r}"
    outputs = outputs_of_split(above)
    if not outputs or output in outputs:
        return ""
    named = f"{output!r} is none of its outputs" if output else "it sends to named outputs only"
    hint = did_you_mean(output, outputs) or f": it has {', '.join(outputs)}"
    return f"{named}{hint}"


def find_cycles(pipeline: Pipeline) -> list[list[str]]:
    """Return the names along each cycle in the direction of the items, the first name again at the end."""
    inputs = {spec.name: spec.above for spec in pipeline.stages}
    cycles = []
    while inputs := _knotted(inputs):
        name = next(iter(inputs))
        trail: list[str] = []
        while name not in trail:
            trail.append(name)
            name = next(above for above in inputs[name] if above in inputs)
        cycle = trail[trail.index(name) :]
        cycles.append([name, *reversed(cycle)])
        for name in cycle:
            del inputs[name]
    return cycles


def _knotted(inputs: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return what is left when stages whose inputs are all gone are taken away, again and again."""
    left = {name: above for name, above in inputs.items() if any(x in inputs for x in above)}
    return left if len(left) == len(inputs) else _knotted(left)


def _pipeline(pipeline: Pipeline) -> Found:
    if pipeline.name is None:
        yield "name", "the pipeline has no name: add name = 'NAME'"
    elif not isinstance(pipeline.name, str) or not NAME.fullmatch(pipeline.name):
        yield "name", f"the pipeline has the bad name {pipeline.name!r}: {NAME_RULE}"
    names = [spec.name for spec in pipeline.stages]
    if not names:
        yield "stage", f"pipeline {pipeline.name!r} has no stages: add at least a source"
    elif all(spec.inputs for spec in pipeline.stages):
        yield "stage", f"pipeline {pipeline.name!r} has no source: one stage must read no other"
    for name in dict.fromkeys(names):
        if not NAME.fullmatch(name):
            yield f"stage.{name}", f"stage {name!r} has a bad name: {NAME_RULE}"
        if (n := names.count(name)) > 1:
            text = f"{n} stages have the name {name!r}: give each its own, like name={name + '-a'!r}"
            yield f"stage.{name}", text


def _edges(pipeline: Pipeline) -> Found:
    names = {spec.name for spec in pipeline.stages}
    cycles = find_cycles(pipeline)
    for spec in pipeline.stages:
        at, stage = f"stage.{spec.name}.{'join' if spec.joins else 'from'}", f"stage {spec.name!r}"
        for above in dict.fromkeys(spec.inputs):
            base, dot, output = above.partition(".")
            if base == INPUT and base not in names:
                yield at, f"{stage} reads 'input', so this file is a part: check and run one that has use for it"
            elif base not in names:
                yield at, f"{stage} reads {above!r}, but there is no such stage{did_you_mean(base, names)}"
            elif dot and not NAME.fullmatch(output):
                yield at, f"{stage} reads {above!r}, but {output!r} is no name of an output: {NAME_RULE}"
            elif text := _no_output(pipeline.stage(base), output):
                yield at, f"{stage} reads {above!r}, but {text}"
            if spec.inputs.count(above) > 1:
                yield at, f"{stage} reads {above!r} more than once: name it once"
        if spec.joins:
            if not cycles and names.issuperset(spec.above) and not spec.options.broken():
                yield from check_join(pipeline, spec)
        else:
            for key in spec.options.given().keys() & {"on", "within", "unmatched"}:
                yield f"stage.{spec.name}.{key}", f"{stage}: {key} is an option of joins: leave it out"
        read = pipeline.outputs(spec.name) | pipeline.unread.get(spec.name, frozenset())
        for output in sorted(set(outputs_of_split(spec)) - read):
            text = f"sends items to output {output!r}, which no stage reads: let one read '{spec.name}.{output}'"
            yield f"stage.{spec.name}.args.weights", f"{stage} {text}"
    for cycle in cycles:
        text = f"stages form a cycle, {' -> '.join(cycle)}: items only go forward, so cut one `from`"
        yield f"stage.{cycle[0]}.from", text
