"""What a worker writes down for `--trace`: who ran which item when, one line of JSON each, in the run folder.

Items that are called in one go are one entry.  Calls that are short and follow each other closely are joined, and
what counts as short doubles with every so many entries: they grow with the logarithm of the time.

    file    a line per life, {"worker": str, "stage": str}, and behind it its entries, in order and without overlap
    entry   [kind, name or path, begin, duration, items, runs, busy]    times in microseconds of CLOCK_MONOTONIC
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import IO

from zpipe.core.source import Source
from zpipe.core.work import Job
from zpipe.processes.caller import Caller
from zpipe.processes.runfolder import RunFolder
from zpipe.values.context import Current
from zpipe.values.paths import format_path

SHORT_S = 0.001  # an entry shorter than this is joined with one that follows within as much
JOINED = 50  # times as long as that an entry may become by being joined
ENTRIES = 50_000  # of one life, after which twice as long is short
FLUSH_S = 0.1  # what a killed worker has done since is not in the trace
GAP = ".gap"  # behind the name of a file that is not whole, the name of an empty one

CALL, HOOK, SAVE, START = "call", "hook", "save", "start"


@dataclass(slots=True)
class Entry:
    """What ran without a break from `began_s` to `ended_s`; `busy_s` of that in the stage's code."""

    kind: str
    name: str
    began_s: float
    ended_s: float
    items: int = 0
    runs: int = 1
    busy_s: float = 0.0

    def line(self) -> str:
        """Return it as a line of the file."""
        began, ended = int(self.began_s * 1e6), int(self.ended_s * 1e6)
        line = (self.kind, self.name, began, ended - began, self.items, self.runs, round(self.busy_s * 1e6))
        return json.dumps(line) + "\n"


def is_line(said: object) -> bool:
    """Tell whether it is a line of the file: the head of a life, or an entry."""
    if isinstance(said, dict):
        return said.keys() == {"worker", "stage"} and all(type(text) is str for text in said.values())
    if not isinstance(said, list) or len(said) != len(fields(Entry)):
        return False
    return all(type(text) is str for text in said[:2]) and all(type(number) is int for number in said[2:])


class Recorder:
    """The entries of one life of a worker; gives up, with a line on stderr, when they cannot be written."""

    def __init__(self, folder: RunFolder, caller: Caller) -> None:
        self._caller = caller
        self._clock = caller.clock
        self._current = caller.current
        self._path = folder.trace_file(self._current.worker)
        self._short_s = SHORT_S
        self._count = 0
        self._open: Entry | None = None  # may yet be joined
        self._lines: list[str] = []
        self._flushed_s = 0.0
        self._file: IO[str] | None = None
        try:
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            self._give_up(error)
        # In a line of its own, even behind one that a killed life has not finished.
        self._lines.append(f"\n{json.dumps({'worker': self._current.worker, 'stage': caller.stage.name})}\n")

    def steps(self, activity: Iterator[None], job: Job) -> Iterator[None]:
        """Pass on what performs a job, writing down each step of it."""
        return activity if self._file is None else self._steps(activity, job)

    def span(self, kind: str, name: str, began_s: float) -> None:
        """Write down what began then and has ended now."""
        self._add(Entry(kind, name, began_s, self._clock()))

    def tick(self, now_s: float) -> None:
        """Write what is at hand to the file, now and then."""
        if self._open is not None and now_s - self._open.ended_s > self._short_s:
            self._close_entry()
        if self._lines and now_s - self._flushed_s >= FLUSH_S:
            self._flush(now_s)

    def close(self) -> None:
        """Write the rest."""
        self._close_entry()
        self._flush(self._clock())
        if self._file is not None:
            self._file.close()

    def _steps(self, activity: Iterator[None], job: Job) -> Iterator[None]:
        caller, clock, counters = self._caller, self._clock, self._caller.worker.counters
        source = caller.worker.intake.partitions[job.source] if isinstance(caller.worker.intake, Source) else None
        before, over = 0, False
        while not over:
            first = source.at.position if source is not None else before
            made, busy_s, began_s = counters.done, caller.busy_s, clock()
            try:
                over = next(activity, activity) is activity
            finally:
                ended_s, busy_s = clock(), caller.busy_s - busy_s
                if job.kind in (Job.EPOCH, Job.FINISH):
                    self._add_hook("epoch_end" if job.kind == Job.EPOCH else "finish", began_s, ended_s)
                else:
                    begun = 0 if source is not None else _items(job) if over else _items(job, self._current)
                    items = counters.done - made if source is not None else begun - before
                    before = begun
                    took_s = busy_s or ended_s - began_s  # of a call that raises nothing is counted
                    if (items or busy_s >= SHORT_S) and not self._joins(began_s, took_s, items):
                        path = self._path_of(job, first if source is not None else min(first, begun - 1))
                        self._add(Entry(CALL, path, began_s, began_s + took_s, items, busy_s=took_s))
            if not over:
                yield

    def _path_of(self, job: Job, index: int) -> str:
        """Return the path of an item of a job, by its number, marks not counted; of a source by its position."""
        names = self._current.lane_names
        for run, a, b in job.stretches:
            for k in range(a, b):
                if not run.mark(k):
                    if index == 0:
                        return run.text(names, k)
                    index -= 1
        return format_path(names[job.source], (job.source, index))

    def _joins(self, began_s: float, took_s: float, items: int) -> bool:
        """Join a call with the one before it where both are short and close; tell whether that is so."""
        last, short_s = self._open, self._short_s
        if (
            last is None
            or last.kind != CALL
            or took_s >= short_s
            or began_s - last.ended_s >= short_s
            or last.busy_s >= last.runs * short_s
            or began_s + took_s - last.began_s >= JOINED * short_s
        ):
            return False
        last.ended_s = began_s + took_s
        last.items += items
        last.runs += 1
        last.busy_s += took_s
        return True

    def _add_hook(self, name: str, began_s: float, ended_s: float) -> None:
        if name in self._caller.stage.hooks:
            self._add(Entry(HOOK, name, began_s, ended_s))

    def _add(self, entry: Entry) -> None:
        self._close_entry()
        self._open = entry
        if entry.ended_s - self._flushed_s >= FLUSH_S:
            self._flush(entry.ended_s)

    def _close_entry(self) -> None:
        if self._open is not None:
            self._lines.append(self._open.line())
            self._open = None
            self._count += 1
            if self._count % ENTRIES == 0:
                self._short_s *= 2

    def _flush(self, now_s: float) -> None:
        lines, self._lines, self._flushed_s = self._lines, [], now_s
        if self._file is None:
            return
        try:
            self._file.write("".join(lines))
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        print(f"zpipe: cannot write {self._path}: {error.strerror}: goes on without the trace", file=sys.stderr)
        file, self._file = self._file, None
        with suppress(OSError):  # of what could not be written
            if file is not None:
                file.close()
        with suppress(OSError):
            self._path.with_name(self._path.name + GAP).touch()


def recorder(folder: RunFolder, caller: Caller) -> Recorder | None:
    """Return what writes down the calls of a worker, None in a run without a trace."""
    return Recorder(folder, caller) if folder.trace.is_dir() else None


def _items(job: Job, current: Current | None = None) -> int:
    """Return how many items a job has, marks not counted; those up to the one at hand where that is given."""
    count = 0
    for run, a, b in job.stretches:
        here = current is not None and run is current.run and a <= current.index < b
        if current is not None and here:
            b = current.index + 1
        count += b - a if run.marks is None else run.marks[a:b].count(0)
        if here:
            break
    return count
