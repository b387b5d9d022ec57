"""What the processes of a run have written into its folder: whose logs there are, and their lines.

Knows files, and nothing of processes: whether more will come is its caller's to say.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from zpipe.core.members import planned, worker_name
from zpipe.processes.chaos import REGISTRY
from zpipe.processes.runfolder import LAUNCHER, RunFolder
from zpipe.values.errors import ConfigError
from zpipe.values.faults import did_you_mean
from zpipe.values.plan import Plan

Line = tuple[str, str]  # who wrote it, and what


def logs_of(folder: RunFolder, name: str | None) -> dict[str, Path]:
    """Return the logs of a stage, a variant, a worker or the registry by name, in order; of all without a name.

    Raises ConfigError when it is no run folder, or has nothing of that name.
    """
    try:
        plan = Plan.from_dict(json.loads((folder.path / "plan.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{folder.path} is no run folder: it has no plan.json that can be read") from error
    there = [LAUNCHER] if folder.log(LAUNCHER).exists() else []
    names = {name: {name} for name in (*there, REGISTRY)}  # of each worker, what it answers to
    for stage in plan.stages:
        for slot in itertools.count():
            worker = worker_name(stage, slot)
            if slot >= planned(stage) and not folder.log(worker).exists():
                break  # beyond those that were planned there may be those of a stage that was scaled
            names[worker] = {worker, stage.name, stage.stage}
    found = {worker: folder.log(worker) for worker, its in names.items() if name is None or name in its}
    if not found:
        stages = ", ".join(dict.fromkeys(stage.stage for stage in plan.stages))
        hint = did_you_mean(name or "", set().union(*names.values())) or f": its stages are {stages}"
        raise ConfigError(f"run {plan.name!r} has no stage or worker {name!r}{hint}")
    return found


def follow(
    logs: Mapping[str, Path], last: int | None, is_over: Callable[[], bool], wait: Callable[[], None]
) -> Iterator[Line]:
    """Yield what has been written, and what is written from now on, until `is_over` and all is read.

    Of what is there already, the `last` lines of each where that is given.  A line comes when it is complete;
    `wait` is called in between.
    """
    tails = {worker: Tail(path) for worker, path in logs.items()}
    begun = False
    while True:
        over = is_over()  # asked before reading: all that was written by then is read
        for worker, tail in tails.items():
            lines = tail.lines(all_of_it=over)
            for line in lines if begun or last is None else deque(lines, last):
                yield worker, line
        if over:
            return
        begun = True
        wait()


class Tail:
    """One log, read on from where it was left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at = 0  # bytes read

    def skip(self) -> None:
        """Leave out what is there already."""
        for _ in self.lines(all_of_it=False):
            pass

    def lines(self, *, all_of_it: bool) -> Iterator[str]:
        """Yield the lines that are new; one without its end only with `all_of_it`."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self._at)
            for line in file:
                if line.endswith(b"\n") or all_of_it:
                    self._at += len(line)
                    yield line.decode("utf-8", "replace").rstrip("\r\n")
