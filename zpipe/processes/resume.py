"""Go on with a run whose processes are gone: find it, see that it is the same pipeline, and make its folder ready.

Knows the run folder as it was left; what the next life begins with is `zpipe.core.resume`'s to say.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from zpipe.core.outcomes import Stored
from zpipe.core.progress import DONE
from zpipe.core.resume import begin_again, why_not
from zpipe.processes.blame import Noted
from zpipe.processes.events import Event, happened
from zpipe.processes.prepare import checked
from zpipe.processes.report import Report, taken
from zpipe.processes.runfolder import DATABASE, RunFolder, live_runs, remove_sockets_dir
from zpipe.processes.saves import fence_of, has_saved
from zpipe.processes.values import Values
from zpipe.values.errors import ConfigError, SaveError
from zpipe.values.pipeline import Pipeline
from zpipe.values.plan import Plan

ORPHANS_S = 5.0  # for what a killed launcher has left behind to end
# What the registry keeps in the folder, and where the launcher has noted that and its sockets are found.
ADDRESS, SOCKETS = "registry.address", "sockets"
INLINE = "inline"  # what the runs without a registry have for a transport
META = frozenset(("folder", "transport", "sets", "limit", "until"))  # of what `prepare` has written
# What must stay: it says what a position, a path or a save means.  First what a user has written.
FIXED = ("run", "args", "variant", "epochs", "partitions", "limit", "role", "form", "memory", "splits", "spread",
         "unread", "number", "inputs", "outputs", "lanes", "depths", "hook_lane", "hooks_above", "kept")  # fmt: skip


class AlreadyDone(Exception):
    """There is nothing to resume; `report` says how the run ended."""

    def __init__(self, report: Report) -> None:
        super().__init__(f"{report.name} is done, there is nothing to resume: {report.folder}")
        self.report = report


def find(runs: str | os.PathLike[str], name: str) -> RunFolder:
    """Return the last run of a pipeline.  Raises ConfigError when there is none, or when that is not what is meant."""
    found = sorted(_runs(Path(runs).absolute(), name), key=lambda folder: folder.path.name)
    if not found:
        raise ConfigError(f"there is no run of pipeline {name!r} in {runs}: name its folder, --resume RUN_FOLDER")
    undone = [folder for folder in found if state_of(folder) != DONE]
    if undone and undone[-1] is not found[-1]:
        listed = ", ".join(str(folder.path) for folder in undone)
        raise ConfigError(
            f"the last run of pipeline {name!r}, {found[-1].path}, is done, and these are not: {listed}: "
            "name the one that is meant, --resume RUN_FOLDER"
        )
    return found[-1]


def _runs(runs: Path, name: str) -> Iterator[RunFolder]:
    for path in runs.glob("*/meta.json"):
        with suppress(ConfigError):
            meta = _read(path)
            if meta.get("name") == name and meta.get("transport") != INLINE:
                yield RunFolder(path.parent)


def state_of(folder: RunFolder) -> str:
    """Return the state that the registry of a run has stored last, "" before it had any."""
    values = Values(folder.path / DATABASE)
    try:
        return str(Stored.from_rows(values.rows()).run.get("state", ""))
    finally:
        values.close()


def resume(
    pipeline: Pipeline,
    which: str | os.PathLike[str] | bool,
    *,
    runs: str | os.PathLike[str],
    sets: Sequence[str] = (),
    limit: int | None = None,
    until: str | None = None,
) -> tuple[Plan, RunFolder]:
    """Make a run ready to go on, `which` being its folder or True for the last one, and hold its folder.

    What it was begun with (`sets`, `limit`, `until`) holds on where nothing else is said.  Raises AlreadyDone, and
    ConfigError with why it cannot go on.
    """
    folder = find(runs, pipeline.name) if isinstance(which, bool) else RunFolder(Path(which).absolute())
    meta = _read(folder.path / "meta.json")
    if missing := META - meta.keys():
        raise ConfigError(f"{folder.path / 'meta.json'} does not say {', '.join(sorted(missing))}: start the run anew")
    folder = _where_it_was_made(folder, meta)
    old = _old_plan(folder, meta)
    pipeline = pipeline.with_sets([*meta["sets"], *pipeline.sets])
    limit, until = limit or meta["limit"], until or meta["until"]
    pipeline, new = checked(pipeline, sets, limit=limit, until=until)
    if differences := list(_differences(old, Plan.from_dict(json.loads(json.dumps(new.to_dict()))))):
        raise ConfigError(f"run {folder.path} cannot go on with this pipeline: {'; '.join(differences)}")
    _refuse_alive(folder)
    folder.hold(ORPHANS_S)
    try:
        _prepare(folder, meta, old, new, pipeline)
    except BaseException:
        folder.release()
        raise
    return new, folder


def told(folder: RunFolder, plan: Plan) -> Event | None:
    """Return what there is to say of a run that was resumed, None of one that was not."""
    lives = _lives(folder)
    if not lives:
        return None
    changed, stops = lives[-1]["changed"], lives[-1]["stops"]
    line = f"{plan.name}: goes on where it was left"
    if changed:
        line += f"; changed since it began: {', '.join(changed)}"
    if stops:
        line += "; it was told to stop: what was under way is finished, then it ends"
    return happened("resumed", line, times=len(lives), changed=changed, stops=stops)


def earlier(folder: RunFolder) -> tuple[int, Mapping[str, int]]:
    """Return how often a run was resumed, and how many inputs each stage had taken before the last time."""
    lives = _lives(folder)
    return len(lives), lives[-1]["taken"] if lives else {}


def _lives(folder: RunFolder) -> list[dict[str, Any]]:
    return list(_read(folder.path / "meta.json").get("resumed", []))


def _where_it_was_made(folder: RunFolder, meta: Mapping[str, Any]) -> RunFolder:
    made = Path(meta["folder"])
    if made != folder.path and not (made.exists() and made.samefile(folder.path)):
        raise ConfigError(
            f"run folder {folder.path} was made as {made}: move it back, its sinks know the run by that place"
        )
    return RunFolder(made)


def _old_plan(folder: RunFolder, meta: Mapping[str, Any]) -> Plan:
    if meta["transport"] == INLINE:
        raise ConfigError(f"{folder.path} was an inline run, of which nothing is kept: start it anew")
    try:
        return Plan.from_dict(_read(folder.path / "plan.json"))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{folder.path / 'plan.json'} is no plan of this version: start the run anew") from error


def _refuse_alive(folder: RunFolder) -> None:
    for run in live_runs():
        if Path(run.folder) == folder.path:
            raise ConfigError(
                f"run {folder.path} is alive (pid {run.pid}, {run.address}): end it with "
                f"zpipe down --registry {run.address} first"
            )


def _prepare(folder: RunFolder, meta: dict[str, Any], old: Plan, new: Plan, pipeline: Pipeline) -> None:
    values = Values(folder.path / DATABASE)
    try:
        stored = Stored.from_rows(values.rows())
        if stored.run.get("state") == DONE:
            _remove_sockets(folder)  # it may have been killed while it said its last words
            raise AlreadyDone(_report(folder, new.name))
        reaches = _reaches(folder)
        memory = [stage for stage in new.stages if stage.memory]
        saved = [stage.number for stage in memory if has_saved(folder.saves, stage.name)]
        if (why := why_not(new, stored, reaches, saved)) is not None:
            raise ConfigError(f"run {folder.path} cannot be resumed: {why}; start it anew")
        fences = {stage.number: fence_of(folder.saves, stage.name) for stage in memory}
        stores = begin_again(new, stored, reaches, fences)
        values.keep(stores)
        stored = Stored.from_rows(values.rows())
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise SaveError(f"{values.path} does not belong to {folder.path / 'plan.json'}: start the run anew") from error
    finally:
        values.close()
    sums = {new.stages[number].name: taken(counters) for number, counters in stored.sums.items()}
    life = {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "sets": list(pipeline.sets),
        "changed": sorted(name for name, digest in new.code.items() if old.code.get(name, digest) != digest),
        "stops": bool(stored.run.get("stopping")),
        "taken": sums,
    }
    # Once nothing of the last life is needed any more.
    folder.write("plan.json", json.dumps(new.to_dict(), indent=1) + "\n")
    pipeline.save(folder.path / "pipeline.toml")
    folder.write("meta.json", {**meta, "resumed": [*meta.get("resumed", []), life]})
    _clear(folder)


def _clear(folder: RunFolder) -> None:
    """Remove what belonged to processes that are gone."""
    _remove_sockets(folder)
    for path in (folder.path / ADDRESS, folder.path / "report.json", *_notes(folder)):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder.trace, ignore_errors=True)


def _remove_sockets(folder: RunFolder) -> None:
    note = folder.path / SOCKETS
    with suppress(OSError):
        remove_sockets_dir(Path(note.read_text(encoding="utf-8")))
    note.unlink(missing_ok=True)


def _notes(folder: RunFolder) -> list[Path]:
    return [path for path in folder.blame.iterdir() if path.is_file()]


def _reaches(folder: RunFolder) -> dict[int, int]:
    """Return how far the sources have got, by lane, as their last lives have noted."""
    reaches: dict[int, int] = {}
    for note in _notes(folder):
        for lane, reach in Noted(note).reaches.items():
            reaches[lane] = max(reach, reaches.get(lane, 0))
    return reaches


def _report(folder: RunFolder, name: str) -> Report:
    try:
        return Report.from_dict(_read(folder.path / "report.json"))
    except (ConfigError, KeyError, TypeError):
        return Report(name, DONE, folder.path, 0.0)  # killed before it was written


def _differences(old: Plan, new: Plan) -> Iterator[str]:
    """Yield how a pipeline differs from that of a run in what its positions, paths and saves mean."""
    before, now = ({stage.name: stage for stage in plan.stages} for plan in (old, new))
    if gone := [name for name in before if name not in now]:
        yield f"stages {', '.join(gone)} are missing"
    if more := [name for name in now if name not in before]:
        yield f"stages {', '.join(more)} are new"
    if gone or more:
        return
    if old.edges != new.edges:
        lost, added = ([edge for edge in _edges(a) if edge not in _edges(b)] for a, b in ((old, new), (new, old)))
        yield f"its edges had {', '.join(lost) or 'no more'} and have {', '.join(added) or 'other options'}"
        return
    for name, stage in now.items():
        for key in FIXED:
            was, has = getattr(before[name], key), getattr(stage, key)
            if was != has:
                yield f"stage {name!r} had {key} = {was!r} and has {has!r}"
                break


def _edges(plan: Plan) -> list[str]:
    return [f"{plan.stages[edge.from_].name} > {plan.stages[edge.to].name}" for edge in plan.edges]


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"cannot read {path}: {error}: it is no file of a run folder; start the run anew") from error
