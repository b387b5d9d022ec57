"""From a pipeline to a run that can start: checked, planned, its folder written."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from zpipe.processes.runfolder import RunFolder, describe_run
from zpipe.values.check import check
from zpipe.values.errors import ConfigError
from zpipe.values.pipeline import Pipeline
from zpipe.values.plan import Plan, plan


def checked(
    pipeline: Pipeline, sets: Sequence[str] = (), *, limit: int | None = None, until: str | None = None
) -> tuple[Pipeline, Plan]:
    """Return the pipeline, with `sets` applied and cut off below `until`, and its plan.

    Raises ConfigError with every fault.
    """
    pipeline = pipeline.with_sets(sets)
    if until is not None:
        pipeline = pipeline.until(until)
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ConfigError(f"limit is {limit!r}: give a whole number of items, at least 1, or leave it out")
    if faults := check(pipeline):
        raise ConfigError(*map(str, faults))
    return pipeline, plan(pipeline, limit)


def prepare(
    pipeline: Pipeline, *, runs: str | os.PathLike[str], sets: Sequence[str], seed: int | None, transport: str,
    limit: int | None = None, until: str | None = None,
) -> tuple[Plan, RunFolder]:  # fmt: skip
    """Check a pipeline and make its run folder.  Raises ConfigError with every fault."""
    pipeline, its_plan = checked(pipeline, sets, limit=limit, until=until)
    now = datetime.now().astimezone()
    folder = RunFolder.create(runs, pipeline.name, now)
    describe(
        folder, pipeline, its_plan, folder=str(folder.path), sets=list(pipeline.sets), seed=seed, limit=limit,
        until=until, transport=transport, started=now.isoformat(timespec="seconds"),
    )  # fmt: skip
    return its_plan, folder


def describe(into: RunFolder, pipeline: Pipeline, its_plan: Plan, **more: Any) -> None:
    """Write into a run folder what runs: the pipeline, its plan, and `more` of what is known of the run."""
    pipeline.save(into.path / "pipeline.toml")
    into.write("plan.json", json.dumps(its_plan.to_dict(), indent=1) + "\n")
    text = (into.path / "pipeline.toml").read_text(encoding="utf-8")
    into.write("meta.json", describe_run(text, Path(pipeline.folder), name=pipeline.name, **more))
