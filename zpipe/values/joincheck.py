"""The check of a join: whether the items of its arms can meet.

Knows what stages do to the paths of items; refuses to know options and callables otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

from zpipe.values.callables import CallableInfo, describe
from zpipe.values.errors import ConfigError
from zpipe.values.pipeline import Pipeline
from zpipe.values.plan import join_name
from zpipe.values.stage import StageSpec
from zpipe.values.stagecheck import Found

Arms = Sequence[frozenset[str]]  # the stages of each, up to the sources


def check_join(pipeline: Pipeline, spec: StageSpec) -> Found:
    """Find why the arms of a join cannot meet; the stages above it are there and form no cycle."""
    at, stage = f"stage.{spec.name}.join", f"stage {spec.name!r}"
    if len(spec.above) < len(spec.inputs):
        yield at, f"{stage} joins {' and '.join(map(repr, spec.inputs))}: an item goes to one output of a stage only"
        return
    if any(other.name == join_name(spec.name) for other in pipeline.stages):
        yield at, f"{stage} joins, for which a stage {join_name(spec.name)!r} is made: rename the one of that name"
    arms = [_arm(pipeline, above) for above in spec.above]
    if spec.options.on == "path":
        yield from _fork(pipeline, spec, arms)
    elif spec.options.on == "position":
        yield from _positions(pipeline, spec, arms)
    else:
        yield from _fields(pipeline, spec, arms)


def _fork(pipeline: Pipeline, spec: StageSpec, arms: Arms) -> Found:
    at, stage = f"stage.{spec.name}.join", f"stage {spec.name!r}"
    yield from _no_within(spec)
    if len({frozenset(name for name in arm if pipeline.stage(name).is_source) for arm in arms}) > 1:
        text = "joins arms that come from different sources: their items can never meet on their paths"
        yield at, f"{stage} {text}: join on = 'position' or on = 'field:NAME'"
        return
    for name in sorted(frozenset.union(*arms) - frozenset.intersection(*arms)):
        if what := _does_to_paths(pipeline, pipeline.stage(name)):
            way_out = {
                "merges several stages": "merge above the fork",
                "groups items": "group below the join",
                "is a grid": "each of its variants is an arm of its own",
                "makes many of one": "split above the fork, or below",
            }[what]
            yield at, f"{stage}: {name!r} on the way from the fork {what}: {way_out}"


def _positions(pipeline: Pipeline, spec: StageSpec, arms: Arms) -> Found:
    at, stage = f"stage.{spec.name}.join", f"stage {spec.name!r}"
    yield from _no_within(spec)
    for name in sorted(frozenset.union(*arms)):
        other = pipeline.stage(name)
        what = _does_to_paths(pipeline, other)
        if other.joins and other.options.on.startswith("field:"):
            what = "joins on a field, which leaves positions out"
        if what:
            yield at, f"{stage} joins on the position, but {name!r} above it {what}: do that below, or join on a field"
    if len(counts := {_partitions(pipeline, above) for above in spec.above}) > 1:
        text = f"joins on the position, but its arms have {' and '.join(map(str, sorted(counts)))} partitions"
        yield at, f"{stage} {text}: give their sources the same number"


def _fields(pipeline: Pipeline, spec: StageSpec, arms: Arms) -> Found:
    at, stage = f"stage.{spec.name}.join", f"stage {spec.name!r}"
    if spec.options.within is None:
        text = "joins on a field: say how many positions an item may wait for a partner, like within = 1000"
        yield f"stage.{spec.name}.within", f"{stage} {text}"
    for name in sorted(frozenset.union(*arms)):
        other = pipeline.stage(name)
        if other.options.grid:
            yield at, f"{stage} joins on a field, but {name!r} above it is a grid: each variant would find each partner"
        elif _info(pipeline, other).hooks & {"finish", "epoch_end"}:
            text = "has finish() or epoch_end(), whose items stand at no position of a source"
            yield at, f"{stage} joins on a field, but {name!r} above it {text}: do that below"


def _no_within(spec: StageSpec) -> Found:
    if spec.options.within is not None:
        yield f"stage.{spec.name}.within", f"stage {spec.name!r}: within is for joins on a field: leave it out"


def _arm(pipeline: Pipeline, name: str) -> frozenset[str]:
    """Return a stage and all that is above it."""
    return frozenset((name,)).union(*(_arm(pipeline, above) for above in pipeline.stage(name).above))


def _partitions(pipeline: Pipeline, name: str) -> int:
    """Return how many partitions reach below a stage; a join goes on with those of one arm."""
    spec = pipeline.stage(name)
    return spec.options.partitions if spec.is_source else _partitions(pipeline, spec.above[0])


def _does_to_paths(pipeline: Pipeline, spec: StageSpec) -> str:
    """Say what a stage does to the paths of items, so that those of two arms differ; "" for nothing."""
    if spec.is_source:
        return ""
    if len(spec.inputs) > 1 and not spec.joins:
        return "merges several stages"
    if spec.is_grouping:
        return "groups items"
    if spec.options.grid:
        return "is a grid"
    info = _info(pipeline, spec)
    return "makes many of one" if info.form == "split" or info.hooks & {"finish", "epoch_end"} else ""


def _info(pipeline: Pipeline, spec: StageSpec) -> CallableInfo:
    try:
        return describe(spec.run, pipeline.folder)
    except ConfigError:
        return CallableInfo("map")  # it is a fault of its own
