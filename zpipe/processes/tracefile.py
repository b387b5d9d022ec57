"""The trace of a run in one file, in Chrome's format: a JSON array of events that viewers of traces read.

What the launcher sees is written as it happens, what the workers wrote down behind it at the end.  A trace that
cannot be written any more is given up, never the run.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from zpipe.core.members import planned, worker_name
from zpipe.processes.events import Event
from zpipe.processes.ownfile import open_own
from zpipe.processes.runfolder import RunFolder
from zpipe.processes.trace import CALL, GAP, is_line
from zpipe.values.errors import ConfigError
from zpipe.values.plan import Plan, StagePlan

RUN_ROW = 1  # the row of the run as a whole: viewers keep 0 for an idle processor
TID = 1
COUNTED = ("queued", "in_flight")
SLOTS_MAX = 10_000  # workers of a stage in order; only the order of rows depends on it


class TraceFile:
    """One file; `with` closes it.  Raises ConfigError when it cannot be written to."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.failure = ""  # why it was given up
        self._file: IO[str] | None = None
        self._folder: RunFolder | None = None
        self._stages: dict[str, int] = {}
        self._zero_us = 0
        self._between = "\n"
        self._rows: dict[str, int] = {}
        self._counts: dict[str, tuple[int, ...]] = {}
        self._file = open_own(path, "a trace")
        try:
            self._file.write("[")
            self._file.flush()
        except OSError as error:
            self._give_up()
            way_out = "name a file on a disk with room"
            raise ConfigError(f"cannot write a trace to {path}: {error.strerror}: {way_out}") from error

    def __enter__(self) -> TraceFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def begin(self, folder: RunFolder, plan: Plan, workers: Callable[[StagePlan], int] = planned) -> None:
        """Let the time begin, and give the workers, so many of each stage, a place to write to."""
        self._zero_us = _now_us()
        self._folder = folder
        folder.trace.mkdir()
        self._stages = {stage.name: stage.number for stage in plan.stages}
        self._name(RUN_ROW, f"run {plan.name}", -1)
        for stage in plan.stages:
            for slot in range(workers(stage)):
                self._row(worker_name(stage, slot), stage.name)

    def event(self, event: Event) -> None:
        """Write down what happens, in the row of whom it happens to."""
        row = self._row(event.worker, event.stage) if event.worker else RUN_ROW
        about = {"name": event.kind, "cat": "event", "args": {"text": event.text, **event.data}}
        self._put({"ph": "i", "s": "p" if event.worker else "g", **about}, row, _now_us())
        self._flush()

    def table(self, table: Mapping[str, Any]) -> None:
        """Write down what of the registry's table is counted, where it has changed."""
        for row in table["workers"]:
            counts = tuple(int(row["counters"].get(key, 0)) for key in COUNTED)
            if counts != self._counts.get(row["worker"]):
                self._counts[row["worker"]] = counts
                counted = {"ph": "C", "name": "items", "args": dict(zip(COUNTED, counts, strict=True))}
                self._put(counted, self._row(row["worker"], row["stage"]), _now_us())

    def end(self) -> list[str]:
        """Join what the workers have written, and return a line for each thing that is missing."""
        if self._folder is None:
            return []
        gaps = []
        for path in sorted(self._folder.trace.iterdir()):
            if path.name.endswith(GAP):
                worker = path.name.removesuffix(GAP)
                gaps.append(f"the trace lacks calls of {worker}: {self._folder.log(worker)} says why")
            else:
                self._join(path)
        self._close()
        if self.failure:
            parts = f"its parts are in {self._folder.trace}"
            return [*gaps, f"cannot write the trace to {self.path}: {self.failure}: {parts}"]
        shutil.rmtree(self._folder.trace, ignore_errors=True)
        return gaps

    def _join(self, path: Path) -> None:
        row, stage = RUN_ROW, ""
        for said in _read(path):
            if isinstance(said, dict):
                row, stage = self._row(said["worker"], said["stage"]), said["stage"]
                continue
            kind, name, began_us, took_us, items, runs, busy_us = said
            args: dict[str, Any] = {"stage": stage}
            if kind == CALL:
                args |= {"path": name, "items": items, "busy_ms": busy_us / 1000}
                name += f" x{items}" if items > 1 else ""
            if runs > 1:
                args["runs"] = runs
            self._put({"ph": "X", "name": name, "cat": kind, "dur": took_us, "args": args}, row, began_us)

    def _row(self, worker: str, stage: str) -> int:
        """Return the number of a worker's row, named and in its place."""
        if worker not in self._rows:
            self._rows[worker] = RUN_ROW + 1 + len(self._rows)
            slot = worker.rpartition("-")[2]
            order = (self._stages.get(stage, -1) + 1) * SLOTS_MAX + (int(slot) if slot.isdigit() else 0)
            self._name(self._rows[worker], worker, order)
        return self._rows[worker]

    def _name(self, row: int, name: str, order: int) -> None:
        about = {"process_name": {"name": name}, "process_sort_index": {"sort_index": order},
                 "thread_name": {"name": "calls"}}  # fmt: skip
        for kind, args in about.items():
            self._put({"ph": "M", "name": kind, "args": args}, row, self._zero_us)

    def _put(self, event: dict[str, Any], row: int, at_us: int) -> None:
        whole = {**event, "ts": max(0, at_us - self._zero_us), "pid": row, "tid": TID}
        self._write(self._between + json.dumps(whole))
        self._between = ",\n"

    def _write(self, text: str) -> None:
        try:
            if self._file is not None:
                self._file.write(text)
        except OSError as error:
            self._give_up(error)

    def _flush(self) -> None:
        try:
            if self._file is not None:
                self._file.flush()
        except OSError as error:
            self._give_up(error)

    def _close(self) -> None:
        self._write("\n]\n")
        self._flush()
        self._give_up()

    def _give_up(self, error: OSError | None = None) -> None:
        if error is not None:
            self.failure = error.strerror or str(error)
        file, self._file = self._file, None
        with suppress(OSError):  # of what could not be written
            if file is not None:
                file.close()


def _read(path: Path) -> Iterator[Any]:
    """Yield what a worker has written; a line that is none, as a kill leaves them, is left out."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            with suppress(ValueError, RecursionError):
                if line.strip() and is_line(said := json.loads(line)):
                    yield said


def _now_us() -> int:
    return int(time.monotonic() * 1e6)
