"""Show of the end of a run, by itself or on demand: what a sink has committed is what the source says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import zmq

from tests.real import Done, Place
from tests.shows.flow import Shown, chain, ended, stage_place
from zpipe.processes.values import Values

COUNT = 1_000_000
LOOK_S = 0.1
IDLE_MS = 3000  # after which nothing more comes from a sender that has ended
SENDER = """
import sys
import zmq
push = zmq.Context().socket(zmq.PUSH)
push.connect(sys.argv[1])
for k in range(int(sys.argv[2])):
    push.send(b"%d" % k)
push.close(linger=0)
"""


def orderly(count: int = COUNT) -> Iterator[Shown]:
    """Nothing is lost over ipc by the end of a run, by `zpipe down` or by Ctrl-C; plain sockets lose their tail."""
    for how in ("by itself", "by zpipe down", "by Ctrl-C"):
        with stage_place() as place:
            done = _run(place, count, how)
            position = _position(done.folder)
            times = _seen(done.folder)
        # A source ends its epoch at a position of its own, and all it makes at another.
        made = position - (2 if how == "by itself" else 1)
        lost, beyond = (times[:made] == 0).sum(), (times[made:] > 0).sum()
        twice = (times > 1).sum()
        yield Shown(
            f"ended {how}, exit {done.code}: the source says {made:,}, the sink has committed {(times > 0).sum():,}, "
            f"{twice} of them again after a lost ack: {lost} lost, {beyond} beyond",
            bool(not lost and not beyond and (made == count) == (how == "by itself")),
        )
    arrived = _plain(count)
    yield Shown(f"plain PUSH/PULL, closed with linger=0: {count - arrived:,} of {count:,} lost", True)


def _run(place: Place, count: int, how: str) -> Done:
    numbers = f"replay = 'seek'\nargs = {{ count = {count} }}"
    stages = chain("numbers", "same", "seen", numbers=numbers, seen=f"args = {{ count = {count} }}")
    run = place.start("run", place.pipeline(stages), "--transport", "ipc")
    if how == "by itself":
        return ended(run.wait(600.0))
    while not any(np.count_nonzero(_seen(folder)) > count // 3 for folder in place.folder.glob("runs/*")):
        if run.ends_within(LOOK_S):
            return run.wait()
    if how == "by zpipe down":
        ended(place.run("down"))
    else:
        run.interrupt()
    return run.wait(600.0)


def _seen(folder: Path) -> np.ndarray[Any, Any]:
    """Return how often each number was committed."""
    return np.fromfile(folder / "seen", np.uint8) if (folder / "seen").exists() else np.zeros(0, np.uint8)


def _position(folder: Path) -> int:
    """Return below which position everything is settled, by what the registry has kept."""
    values = Values(folder / "run.db")
    (found,) = [value for kind, _, value in values.rows() if kind == "watermark"]
    values.close()
    return int(found[0])


def _plain(count: int) -> int:
    """Return how many of as many messages arrive."""
    arrived = 0
    with TemporaryDirectory(prefix="zpipe-show-") as folder, zmq.Context() as context, context.socket(zmq.PULL) as pull:
        pull.bind(f"ipc://{folder}/pull")
        sender = subprocess.Popen((sys.executable, "-c", SENDER, f"ipc://{folder}/pull", str(count)))
        while pull.poll(IDLE_MS) or sender.poll() is None:
            while pull.poll(0):
                pull.recv()
                arrived += 1
    return arrived
