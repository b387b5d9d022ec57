"""One stage on its own: fed with items by a source of ours, what it makes collected by a sink of ours.

It is an inline run of that small pipeline: items are encoded and decoded, hooks are called, groups are flushed.
Refuses to know which outputs are right.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zpipe.core.source import Source
from zpipe.processes import inline, targets
from zpipe.processes.runfolder import RunFolder
from zpipe.values.callables import CallableInfo, describe, form_of, name_of, resolve
from zpipe.values.context import out
from zpipe.values.errors import ConfigError
from zpipe.values.options import Options, whole
from zpipe.values.parts import expand
from zpipe.values.pipeline import Pipeline
from zpipe.values.plan import StagePlan, build
from zpipe.values.stage import ANY, BUILT_INS, SPLIT, Stage, StageSpec, Use, caller, default_name
from zpipe.values.stagecheck import check_callable, check_options
from zpipe.values.tables import Reader

Give = Callable[[Any], object]

INPUTS, ITEMS = "inputs", "items"  # our source; it has the second name when the stage has the first
OUTPUTS = "<outputs>"  # our sink, a name that no stage can have
FIRST = 5


def feed(
    stage: Stage | Callable[..., Any] | str,
    inputs: Iterable[Any],
    *,
    args: Mapping[str, Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> list[Any]:
    """Return what a stage makes of `inputs`, in source order, as a run with these items would.

    `stage` is a `zp.stage(...)`, a function, a class, or "module:name"; `args` are its own.  None drops an item,
    the hooks of a class are called; what a function returns that would be a sink is an output here, and `commit`
    has none.  What goes to a named output is there as `zp.out(name, value)`; a stage that joins is given a list
    for each call, `[x, y]`.  With a grid the outputs of all variants are there.

    `folder` is what `zp.run_folder()` returns, made where it is not there; without it one that is removed again.
    Raises ConfigError with every fault of the stage, StageError with what its code raised as its cause, EncodeError
    for what cannot travel.
    """
    alone = _alone(stage, args or {}, is_source=False)
    got: list[Any] = []
    _play(alone, got.append, folder, inputs=_iterable(inputs))
    return got


def first(
    source: Stage | Callable[..., Any] | str,
    count: int = FIRST,
    *,
    args: Mapping[str, Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> list[Any]:
    """Return the first `count` items of a source, as one partition makes them; it is stopped then.

    All else is as with `feed`.
    """
    if rule := whole(1)(count):
        raise ConfigError(f"count {rule}, not {count!r}")
    alone = _alone(source, args or {}, is_source=True)
    got: list[Any] = []
    _play(alone, got.append, folder, count=count)
    return got


def play(pipeline: Pipeline, name: str, give: Give, *, inputs: Iterable[Any] = (), count: int = FIRST) -> None:
    """Hand to `give` what a stage of a checked pipeline makes of `inputs`, a source its first `count` items."""
    spec = pipeline.stage(name)
    alone = Alone(spec, resolve(spec.run, pipeline.folder), pipeline.folder, pipeline.name)
    _play(alone, give, None, inputs=inputs, count=count)


@dataclass(frozen=True)
class Alone:
    """A stage by itself: `found` is its callable, `home` where its code is, `name` that of its pipeline."""

    spec: StageSpec
    found: Any
    home: Path
    name: str

    @property
    def above(self) -> str:
        """Return the name of the source that feeds it."""
        return ITEMS if self.spec.name == INPUTS else INPUTS


def _alone(stage: Stage | Callable[..., Any] | str, args: Mapping[str, Any], *, is_source: bool) -> Alone:
    """Return a user's stage, checked as in a pipeline.  Raises ConfigError with every fault."""
    path, line = caller()
    at = f"{path.name}:{line}"
    home = path.parent if path.exists() else Path.cwd()
    if not isinstance(stage, Stage):
        if not isinstance(stage, str) and not callable(stage):
            raise ConfigError(
                f"{at}: {stage!r} is no stage: give a zp.stage(...), a function, a class or 'module:name'"
            )
        stage = Stage(stage, None, {}, {})
    run = stage.run
    name = stage.name or default_name(run)
    text = run if isinstance(run, str) else name_of(run, home)
    reads = {"join": [INPUTS] * len(stage.inputs)} if stage.joins else {"from": INPUTS}
    table = {**stage.options, "run": text, "args": {**stage.args, **args}, **({} if is_source else reads)}
    reader = Reader({f"stage.{name}": at})
    if isinstance(stage, Use):
        table["use"] = table.pop("run")
        rows, _, places, faults = expand([(name, table)], [], home, reader.places)
        if len(rows) > 1:
            reader.fault(f"stage.{name}", f"{run} is a whole file: feed its stages one by one, as {run}:NAME")
        if faults or reader.faults:
            raise ConfigError(*map(str, (*faults, *reader.faults)))
        ((name, table),) = rows
        reader = Reader(places)
        run = table.get("run", "")
    info = describe(run, home) if isinstance(run, str) else form_of(run)
    spec = reader.stage(name, table, {})
    for where, said in (*check_options(spec, info), *check_callable(spec, info, is_read=not _ends(spec, info))):
        reader.fault(where, said)
    if reader.faults:
        raise ConfigError(*map(str, reader.faults))
    return Alone(spec, resolve(run, home) if isinstance(run, str) else run, home, "feed")


def _ends(spec: StageSpec, info: CallableInfo) -> bool:
    """Tell whether nobody can read the stage."""
    return bool(spec.inputs) and "commit" in info.hooks


def _output(item: Any) -> Any:
    """Return what the stage has sent: an item, or one to a named output."""
    return out(item[ANY], item["value"]) if isinstance(item, dict) and item.keys() == {ANY, "value"} else item


def _iterable(inputs: Iterable[Any]) -> Iterable[Any]:
    if not isinstance(inputs, Iterable):
        raise ConfigError(f"inputs is {inputs!r}: give a list of items, or whatever else one can iterate over")
    return inputs


def _play(
    alone: Alone,
    give: Give,
    folder: str | os.PathLike[str] | None,
    *,
    inputs: Iterable[Any] = (),
    count: int = FIRST,
) -> None:
    spec, info = alone.spec, form_of(alone.found)
    specs, infos = [spec], {spec.name: info}
    if not spec.inputs:
        specs = [replace(spec, options=replace(spec.options, partitions=1))]
    else:
        specs = [StageSpec(alone.above, "inputs"), replace(spec, inputs=(alone.above,))]
        infos[alone.above] = CallableInfo("split")
    if not _ends(spec, info):
        reads = (spec.name,) if spec.run in BUILT_INS and spec.run != SPLIT else (spec.name, f"{spec.name}.{ANY}")
        specs.append(StageSpec(OUTPUTS, "outputs", reads, options=Options(ordered=True)))
        infos[OUTPUTS] = CallableInfo("map")

    def live(stage: StagePlan, _: Path) -> Any:
        if stage.name == alone.above:
            return lambda: inputs
        if stage.name == OUTPUTS:
            return lambda item: give(_output(item))
        made = targets.make(stage, alone.found)
        return made if spec.inputs else _Limited(made, count, lambda: stop(stage.number))

    def stop(number: int) -> None:
        source = thread.nodes[number].worker.intake
        assert isinstance(source, Source)
        source.stopping = True

    plan = build(alone.name, str(alone.home), tuple(specs), infos)
    with ExitStack() as stack:
        folder = folder if folder is not None else stack.enter_context(tempfile.TemporaryDirectory(prefix="zpipe-"))
        run_folder = RunFolder(Path(folder).absolute())
        run_folder.path.mkdir(parents=True, exist_ok=True)
        thread = inline.Thread(plan, run_folder, build=live)
        thread.run()


class _Limited:
    """A source that is stopped after `left` items."""

    def __init__(self, made: Any, left: int, stop: Callable[[], None]) -> None:
        self._made = made
        self._left = left
        self._stop = stop

    def __call__(self, **start: int) -> Iterator[Any]:
        for item in self._made(**start):
            yield item
            self._left -= 1
            if self._left == 0:
                self._stop()
                return

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made, name)
