"""Processes that work at a gate, kept alive: those that a gate starts itself, or one command line several of.

What they do is between them and the gate.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zpipe.processes.child import Ended, environment
from zpipe.processes.system import spawn
from zpipe.values.errors import StageError
from zpipe.values.plan import StagePlan

PAUSE_S, PAUSE_MAX_S = 0.1, 5.0  # before one that died is started anew, doubling
WELL_S = 10.0  # one that lived for so long has got over it
END_S = 2.0  # for one that was told that nothing more comes
LOOK_S = 0.02

Process = subprocess.Popen[bytes]


@dataclass
class Hand:
    """One of them and its lives; no further one where `due_s` is None."""

    name: str
    process: Process | None = None
    began_s: float = 0.0
    due_s: float | None = 0.0
    pause_s: float = PAUSE_S


class Hands:
    """Processes by name; `start` starts one."""

    def __init__(self, names: Iterable[str], start: Callable[[str], Process]) -> None:
        self._start = start
        self.hands = [Hand(name) for name in names]

    def look(self, now_s: float) -> list[tuple[Hand, Ended, float]]:
        """Start those that are due; returns those that have ended since, how, and how long they have lived."""
        ended = []
        for hand in self.hands:
            if hand.process is not None and (status := hand.process.poll()) is not None:
                lived_s = now_s - hand.began_s
                hand.pause_s = PAUSE_S if lived_s >= WELL_S else min(2 * hand.pause_s, PAUSE_MAX_S)
                hand.process, hand.due_s = None, now_s + hand.pause_s
                ended.append((hand, Ended(status), lived_s))
            elif hand.process is None and hand.due_s is not None and now_s >= hand.due_s:
                hand.process, hand.began_s = self._start(hand.name), now_s
        return ended

    @property
    def living(self) -> list[Process]:
        """Return those that run."""
        return [hand.process for hand in self.hands if hand.process is not None]

    def close(self) -> None:
        """Wait for those that were told that nothing more comes, and end the others."""
        until_s = time.monotonic() + END_S
        for process in self.living:
            try:
                process.wait(max(0.0, until_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def crew_of(stage: StagePlan, folder: Path, endpoint: str) -> Hands:
    """Return the workers that a gate has itself: processes of its stage's `run` or `cmd` that ask at `endpoint`."""
    argv = list(stage.cmd) or [sys.executable, "-m", "zpipe.processes.taker", stage.run, "--folder", str(folder)]
    env = {**os.environ, **environment(endpoint, stage.args)}

    def start(name: str) -> Process:
        try:
            return spawn(argv, folder, {**env, "ZPIPE_NAME": name})
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise StageError(f"stage {stage.name!r}: cannot start {argv[0]!r}: {why}") from None

    return Hands([f"{stage.name}#{n + 1}" for n in range(stage.crew)], start)


def keep(argv: Sequence[str], n: int) -> int:
    """Keep `n` processes of a command alive until they end by themselves, or this one is to; returns the exit code.

    One that fails as soon as it was started would do so again: then all are ended.
    """
    told: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: told.append(number))
    hands = Hands(map(str, range(n)), lambda _: spawn(argv, Path.cwd(), os.environ))
    code, is_ending = 0, False
    while hands.living or any(hand.due_s is not None for hand in hands.hands):
        for hand, ended, lived_s in hands.look(time.monotonic()):
            if ended.status == 0 or is_ending:
                hand.due_s = None
                continue
            print(f"zpipe: a worker {ended}", file=sys.stderr, flush=True)
            if ended.status > 0 and lived_s < WELL_S:
                code = code or ended.status
        if (told or code) and not is_ending:
            is_ending = True
            for hand in hands.hands:
                hand.due_s = None
            for process in hands.living:
                process.terminate()
        time.sleep(LOOK_S)
    return code
