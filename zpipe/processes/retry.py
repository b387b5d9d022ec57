"""Dead letters go again: a run of the stage that gave them up and of all below it, whose source are the letters.

The items have the paths that they had, and sinks are told that they are in the old run: so what was committed of
them is not committed again.  A letter is kept until the run with it is done.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from zpipe.processes.events import OnEvent
from zpipe.processes.launcher import Launcher, Progress
from zpipe.processes.letters import Letters
from zpipe.processes.prepare import describe
from zpipe.processes.report import FAILED, Report
from zpipe.processes.runfolder import RunFolder
from zpipe.values import tomlfile
from zpipe.values.callables import form_of, resolve
from zpipe.values.check import check
from zpipe.values.code import imported
from zpipe.values.errors import ConfigError, RunError
from zpipe.values.options import Options
from zpipe.values.paths import Again
from zpipe.values.pipeline import Pipeline
from zpipe.values.plan import Plan, StagePlan, build, with_joins
from zpipe.values.stage import JOIN, JOIN_ON, StageSpec

SOURCE = "zpipe.processes.retry:letters"
REMEMBERS = frozenset(("state", "finish", "epoch_end"))  # hooks of what a run leaves behind as a whole


def letters(folder: str, stage: str, paths: list[str], start: int = 0) -> Iterator[Any]:
    """Yield the items of dead letters, from the `start`-th on: the source of such a run."""
    for path in paths[start:]:
        (letter,) = Letters(Path(folder)).read(stage, [path])
        yield letter.value


def retry(
    run: RunFolder,
    stage: str,
    paths: Sequence[str],
    pipeline: Pipeline | None = None,
    *,
    progress: Progress | None = None,
    on_event: OnEvent | None = None,
) -> Report:
    """Send the letters of these paths through their stage and those below it, and return the report of that run.

    What is delivered is a letter no more; what is given up again is one anew.  `pipeline` is another than the run
    was started with.  Raises ConfigError and RunError.
    """
    plan, folder = _prepared(run, stage, paths, pipeline)
    report = Launcher(plan, folder, progress=progress, on_event=on_event).run()
    if report.state == FAILED:
        raise RunError(report.error, report.detail)
    if report.ok:
        _settle(run, folder, stage, paths)
    return report


def _prepared(run: RunFolder, stage: str, paths: Sequence[str], pipeline: Pipeline | None) -> tuple[Plan, RunFolder]:
    """Return the plan of a run with these letters, and its folder within that of the old run."""
    old = _plan_of(run)
    pipeline = pipeline or Pipeline.from_dict(tomlfile.read(run.path / "pipeline.toml").data, folder=old.folder)
    if faults := check(pipeline):
        raise ConfigError(*map(str, faults))
    plan = replace(_plan(pipeline, old, run, stage, paths), code=imported(pipeline.folder), home=str(run.path))
    now = datetime.now().astimezone()
    folder = RunFolder.create(run.path / "retries", pipeline.name, now)
    describe(folder, pipeline, plan, started=now.isoformat(timespec="seconds"), retry=stage)
    return plan, folder


def _settle(run: RunFolder, again: RunFolder, stage: str, paths: Sequence[str]) -> None:
    """Forget the letters that a run which is done has delivered, and keep in their place what it gave up itself."""
    old, new = Letters(run.dead), Letters(again.dead)
    for letter in new.read():
        old.keep(letter)
    left = new.paths(stage)
    for path in paths:
        if path not in left:
            old.remove(stage, path)


@contextmanager
def claimed(run: RunFolder) -> Iterator[None]:
    """Have a run to oneself while its letters go again.  Raises ConfigError when it is under way, or retried."""
    run.hold()
    try:
        yield
    finally:
        run.release()


def _plan_of(run: RunFolder) -> Plan:
    path = run.path / "plan.json"
    try:
        return Plan.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{run.path} is no run folder: cannot read {path.name}: {error}") from error


def _plan(pipeline: Pipeline, old: Plan, run: RunFolder, stage: str, paths: Sequence[str]) -> Plan:
    """Return the plan: the letters in place of all above the stage, of a grid the one variant."""
    try:
        first = old.stage(stage)
    except KeyError:
        raise ConfigError(f"the run of {run.path} has no stage {stage!r}") from None
    specs = tuple(with_joins(pipeline.stages))
    kept = _below(specs, first.stage)
    if not kept:
        raise ConfigError(f"pipeline {pipeline.name!r} has no stage {first.stage!r}, whose letters these are")
    source = f"dead-{first.stage}"
    args = {"folder": str(run.dead), "stage": stage, "paths": list(paths)}
    made = [StageSpec(source, SOURCE, (), args, Options(replay="seek"))]
    for spec in specs:
        if spec.name == first.stage:
            grid = {key: [value] for key, value in first.variant.items()}
            made.append(replace(spec, inputs=(source,), latest=(), options=replace(spec.options, grid=grid)))
        elif spec.name in kept:
            _refuse_join(spec, stage)
            made.append(replace(spec, inputs=tuple(read for read in spec.inputs if read.partition(".")[0] in kept)))
    infos = {spec.name: form_of(resolve(spec.run, pipeline.folder)) for spec in made}
    plan = build(pipeline.name, str(pipeline.folder), tuple(made), infos)
    for below in plan.stages[1:]:
        _refuse_memory(below, stage)
    epochs = [letter.run.epoch for path in paths for letter in Letters(run.dead).read(stage, [path])]
    lanes = {
        lane: Again(source, str(name).removeprefix(source), paths, epochs) for lane, name in plan.lane_names.items()
    }
    unread = {known.name: known.unread for known in old.stages}
    stages = (replace(below, unread=unread.get(below.name, ())) for below in plan.stages)
    return replace(plan, lane_names=dict(lanes), stages=tuple(stages))


def _below(specs: Sequence[StageSpec], name: str) -> set[str]:
    """Return a stage, if it is there, and all that read what comes of it; `specs` are in topological order."""
    kept: set[str] = set()
    for spec in specs:
        if spec.name == name or kept.intersection(spec.above):
            kept.add(spec.name)
    return kept


def _refuse_join(spec: StageSpec, stage: str) -> None:
    if spec.run in (JOIN, JOIN_ON):
        reads = " and ".join(map(repr, spec.above))
        raise ConfigError(
            f"letters of {stage!r} cannot go again: {spec.name!r} joins {reads}, and what they would have met there "
            "has gone without them: run the pipeline again"
        )


def _refuse_memory(below: StagePlan, stage: str) -> None:
    hooks = sorted(REMEMBERS.intersection(below.hooks))
    if hooks and below.form != "group":  # one that groups makes groups of these items alone
        raise ConfigError(
            f"letters of {stage!r} cannot go again: {below.name!r} has {hooks[0]}() and has ended with what it knew: "
            "run the pipeline again"
        )
