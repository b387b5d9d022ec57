"""What the registry's table tells that none before it did: who came, who left, and what is worth a warning.

Sees tables only.  How the processes of this launcher end is not read from them: their deaths are seen.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

from zpipe.processes.chaos import REGISTRY
from zpipe.processes.events import Event, happened
from zpipe.processes.letters import Letters
from zpipe.processes.runfolder import RunFolder

LONG_CALL_S = 30.0  # a call that takes longer is worth one warning
LETTERS_MAX = 10  # dead letters of a stage that are told of one by one
JOINED = ("live", "drain")  # states of a worker that takes part


class Watch:
    """The workers of one run, from table to table; `own` are the names of those started here."""

    def __init__(self, own: Container[str], folder: RunFolder) -> None:
        self._own = own
        self._folder = folder
        self._there: dict[int, Mapping[str, Any]] = {}  # by inc: lives that have joined
        self._warned: set[tuple[str, str]] = set()
        self._wanted: dict[str, int] = {}  # workers, by stage
        self._leaving: set[int] = set()
        self._stages: set[str] = set()
        self._letters = Letters(folder.dead)
        self._dead: dict[str, frozenset[str]] = {}  # by stage, the paths that were told of
        self._waiting: dict[str, str] = {}  # workers whose disk has no room, with their stages; the registry

    def see(self, table: Mapping[str, Any]) -> Iterator[Event]:
        """Yield what is new."""
        for stage in table["stages"]:
            yield from self._scaled(stage)
            self._stages.add(stage["name"])
        yield from self.given_up()
        yield from self._waits(table)
        rows = {row["inc"]: row for row in table["workers"]}
        for inc in self._there.keys() - rows.keys():
            row = self._there.pop(inc)
            self._leaving.discard(inc)
            if row["worker"] not in self._own:
                yield happened("left", f"{row['worker']} left", stage=row["stage"], worker=row["worker"], status=None)
        for inc, row in rows.items():
            if row["state"] in JOINED and inc not in self._there:
                self._there[inc] = row
                yield happened(
                    "joined", f"{row['worker']} joined", stage=row["stage"], worker=row["worker"], pid=row["pid"],
                    host=row["host"],
                )  # fmt: skip
            if row["state"] == "drain" and inc not in self._leaving:
                self._leaving.add(inc)
                line = f"{row['worker']} is to leave when it has finished what it has"
                yield happened("draining", line, stage=row["stage"], worker=row["worker"])
            elif row["state"] == "live":
                self._leaving.discard(inc)
            yield from self._warn(row)

    def _scaled(self, stage: Mapping[str, Any]) -> Iterator[Event]:
        """Tell that somebody has said how many workers a stage is to have, but not what it finds by itself."""
        name, wanted = stage["name"], stage["wanted"]
        before = self._wanted.get(name, stage["workers"])
        if wanted and wanted != before and stage["pinned"]:
            line = f"{name}: {before} -> {wanted} worker{'s' if wanted > 1 else ''}: by hand"
            yield happened("scaled", line, stage=name, before=before, after=wanted, why="by hand")
        if wanted:
            self._wanted[name] = wanted

    def given_up(self) -> Iterator[Event]:
        """Yield what is new among the dead letters."""
        for stage in sorted(self._stages):
            yield from self._given_up(stage)

    def _given_up(self, stage: str) -> Iterator[Event]:
        before = self._dead.get(stage, frozenset())
        paths = self._letters.paths(stage)
        new = sorted(paths - before)
        if not new:
            return
        self._dead[stage] = paths | before
        room = max(0, LETTERS_MAX - len(before))
        for letter in self._letters.read(stage, new[:room]):
            line = f"{stage}: {letter.path} is a dead letter: {letter.error}"
            yield happened("dead", line, stage=stage, path=letter.path, error=letter.error)
        if len(before) <= LETTERS_MAX < len(paths | before):
            line = f"{stage}: further dead letters are not told of one by one: zpipe dead ls"
            yield happened("warning", line, stage=stage)

    def _waits(self, table: Mapping[str, Any]) -> Iterator[Event]:
        """Tell who begins to wait for room on a disk, and who goes on."""
        lacks = {row["worker"]: (row["stage"], row["waits"]) for row in table["workers"] if row.get("waits")}
        if table.get("waits"):
            lacks[REGISTRY] = ("", table["waits"])
        for name, (stage, lack) in lacks.items():
            if name not in self._waiting:
                self._waiting[name] = stage
                yield happened("warning", f"{name} waits: {lack}", stage=stage, worker=name)
        for name in [name for name in self._waiting if name not in lacks]:
            stage = self._waiting.pop(name)
            yield happened("warning", f"{name} goes on", stage=stage, worker=name)

    def _warn(self, row: Mapping[str, Any]) -> Iterator[Event]:
        worker, call = row["worker"], row["running"]
        if call and call["age_s"] > LONG_CALL_S and self._first(worker, call["path"]):
            line = f"{worker} has been running {call['path']} for {call['age_s']:.0f} s"
            yield happened("warning", line, stage=row["stage"], worker=worker)
        where = self._folder.log(worker) if worker in self._own else "its output"
        if row["counters"].get("other_code") and self._first(worker, "code"):
            line = f"{worker} runs other code than the run began with: {where} says which"
            yield happened("warning", line, stage=row["stage"], worker=worker)
        if row["counters"].get("unreached") and self._first(worker, ""):
            line = f"{worker} cannot reach a worker beside it: {where} says which, and why"
            yield happened("warning", line, stage=row["stage"], worker=worker)
        if row["counters"].get("unshared") and self._first(worker, "shared"):
            line = f"{worker} has no more room in shared memory, and copies arrays: {where} says who keeps it"
            yield happened("warning", line, stage=row["stage"], worker=worker)

    def _first(self, worker: str, what: str) -> bool:
        """Tell whether this is not yet said of the worker, and note it."""
        new = (worker, what) not in self._warned
        self._warned.add((worker, what))
        return new
