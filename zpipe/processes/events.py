"""What happens in a run, as values, and the files that they are written to, one line of JSON each.

Knows the kinds and what each carries; refuses to know who shows them.  `docs/events.md` is for who reads them.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from zpipe.processes.ownfile import open_own
from zpipe.values.room import lack_of_room

FILE = "events.jsonl"  # in the run folder

# Each kind with what is in its `data`, always all of it.
KINDS: dict[str, tuple[str, ...]] = {
    "started": ("name", "address", "folder"),
    "resumed": ("times", "changed", "stops"),
    "metrics": ("url",),
    "chaos": ("every_s", "seed"),
    "joined": ("pid", "host"),
    "killed": ("pid", "status", "running", "again"),
    "died": ("pid", "status", "running", "again"),
    "restarted": ("life",),
    "draining": (),
    "left": ("status",),
    "scaled": ("before", "after", "why"),
    "dead": ("path", "error"),
    "warning": (),
    "stopping": (),
    "ended": ("state", "error", "seconds"),
}

_log = logging.getLogger("zpipe")


@dataclass(frozen=True)
class Event:
    """One thing that happened at `t`, in unix seconds; `stage` and `worker` are "" where it is not of one."""

    t: float
    kind: str
    stage: str
    worker: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(asdict(self)) + "\n"


OnEvent = Callable[[Event], None]


def happened(kind: str, text: str, *, stage: str = "", worker: str = "", **data: Any) -> Event:
    """Return an event of this moment."""
    assert set(data) == set(KINDS[kind]), f"{kind} carries {KINDS[kind]}, not {tuple(data)}"
    return Event(time.time(), kind, stage, worker, text, data)


def started(name: str, address: str, folder: Path) -> Event:
    """Return the first event of a run; one in a single thread has no address."""
    where = f"registry {address}" if address else "inline"
    line = f"{name}: {where}, run folder {folder}"
    return happened("started", line, name=name, address=address, folder=str(folder))


def ended(name: str, state: str, error: str, seconds: float) -> Event:
    """Return the last event of a run."""
    return happened("ended", f"{name}: {state}", state=state, error=error, seconds=round(seconds, 3))


class EventLog:
    """Events as lines in files; one that cannot be written any more is given up, never the run.

    Where a disk has no room lines wait for some, and are lost when the run ends before.

    `with` opens `copy`, a file of the user's, where one is given, and closes all.
    """

    def __init__(self, copy: str | os.PathLike[str] | None = None) -> None:
        self._copy = copy
        self._files: dict[Path, IO[str]] = {}
        self._waiting: set[Path] = set()  # for room

    def __enter__(self) -> EventLog:
        if self._copy is not None:
            self.open(self._copy)
        return self

    def __exit__(self, *_: object) -> None:
        for path in list(self._files):
            self._close(path)

    def open(self, path: str | os.PathLike[str], *, adds: bool = False) -> None:
        """Begin a file, or go on with it where it `adds`, and keep other runs from it.  Raises ConfigError."""
        self._files[Path(path)] = open_own(path, "events", adds=adds)

    def write(self, event: Event) -> list[str]:
        """Write an event to every file, and return a line for each that is given up."""
        failures = []
        for path, file in list(self._files.items()):
            try:
                file.write(event.line())
                file.flush()
                self._waiting.discard(path)
            except OSError as error:
                if not lack_of_room(error):
                    self._close(path)
                elif path in self._waiting:
                    continue
                self._waiting.add(path)
                failures.append(f"cannot write events to {path}: {error.strerror}: the run goes on without it")
        return failures

    def _close(self, path: Path) -> None:
        with suppress(OSError):  # of what could not be written
            self._files.pop(path).close()


def tell(event: Event, log: EventLog, on_event: OnEvent) -> None:
    """Let everybody know of an event, and of the files that could not take it."""
    try:
        on_event(event)
    except OSError as error:
        if not lack_of_room(error):  # for what is printed
            raise
    for failure in log.write(event):
        tell(happened("warning", failure), log, on_event)


def log_event(event: Event) -> None:
    """Log what a user may care about as warnings; the rest is for who asks."""
    _log.log(logging.WARNING if event.kind in ("warning", "dead", "stopping") else logging.INFO, event.text)
