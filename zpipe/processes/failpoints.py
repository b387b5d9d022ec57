"""Deaths at chosen moments, for tests: `ZPIPE_FAILPOINTS="sink=committed@3,fit=saved@1:stop"` kills a worker of
stage `sink` when it has committed for the third time in its life, and stops one of `fit` (SIGSTOP) after its first
save, each once in the run.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

_armed: dict[str, tuple[int, signal.Signals, Path]] = {}  # point -> (hits until then, signal, marker)


def arm(stage: str, folder: Path) -> None:
    """Take in the points of a stage; one whose marker is in the run folder has done its work."""
    for entry in filter(None, os.environ.get("ZPIPE_FAILPOINTS", "").split(",")):
        name, _, rest = entry.partition("=")
        point, _, when = rest.partition("@")
        count, _, how = when.partition(":")
        marker = folder / f".failpoint-{name}-{point}-{count}"
        if name == stage and not marker.exists():
            _armed[point] = (int(count or 1), signal.SIGSTOP if how == "stop" else signal.SIGKILL, marker)


def hit(point: str) -> None:
    """Die or stop here if that was asked for; the marker holds the id of the process."""
    if not _armed or point not in _armed:
        return
    left, how, marker = _armed[point]
    if left > 1:
        _armed[point] = (left - 1, how, marker)
        return
    del _armed[point]
    try:
        with open(marker, "x") as file:
            file.write(f"{os.getpid()}\n")
    except FileExistsError:  # another worker of the stage was faster
        return
    os.kill(os.getpid(), how)
