"""Deaths at chosen moments, for tests: `ZPIPE_FAILPOINTS="sink=committed@3,fit=saved@1"` kills a worker of
stage `sink` when it has committed for the third time in its life, once in the run.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

_armed: dict[str, tuple[int, Path]] = {}  # point -> (hits until death, marker)


def arm(stage: str, folder: Path) -> None:
    """Take in the points of a stage; one whose marker is in the run folder has done its work."""
    for entry in filter(None, os.environ.get("ZPIPE_FAILPOINTS", "").split(",")):
        name, _, rest = entry.partition("=")
        point, _, count = rest.partition("@")
        marker = folder / f".failpoint-{name}-{point}-{count}"
        if name == stage and not marker.exists():
            _armed[point] = (int(count or 1), marker)


def hit(point: str) -> None:
    """Die here if that was asked for."""
    if not _armed or point not in _armed:
        return
    left, marker = _armed[point]
    if left > 1:
        _armed[point] = (left - 1, marker)
        return
    marker.touch()
    os.kill(os.getpid(), signal.SIGKILL)
