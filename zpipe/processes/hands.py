"""The workers that a gate starts itself, for a stage with `listen` and code: each is one more at its address.

Kept alive as a supervisor keeps workers alive; what they do is between them and the gate.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zpipe.processes.child import environment
from zpipe.processes.system import die_with
from zpipe.values.errors import StageError
from zpipe.values.plan import StagePlan

PAUSE_S, PAUSE_MAX_S = 0.1, 5.0  # before one that died is started anew, doubling
WELL_S = 10.0  # one that lived for so long has got over it
END_S = 2.0  # for one that was told that nothing more comes


@dataclass
class _Hand:
    name: str
    process: subprocess.Popen[bytes] | None = None
    began_s: float = 0.0
    due_s: float = 0.0
    pause_s: float = PAUSE_S
    told: bool = False  # to end


class Hands:
    """`n` processes of a stage's `run` or `cmd`, that ask for items at `endpoint`."""

    def __init__(self, stage: StagePlan, folder: Path, endpoint: str) -> None:
        self._stage = stage
        self._folder = folder
        self._endpoint = endpoint
        self._hands = [_Hand(f"{stage.name}#{n + 1}") for n in range(stage.crew)]

    def look(self, now_s: float) -> list[tuple[str, str]]:
        """Start those that are to run and do not; returns the names of those that have died, and how."""
        died = []
        for hand in self._hands:
            if hand.process is not None and (status := hand.process.poll()) is not None:
                hand.process = None
                well = now_s - hand.began_s >= WELL_S
                hand.pause_s = PAUSE_S if well else min(2 * hand.pause_s, PAUSE_MAX_S)
                hand.due_s = now_s + hand.pause_s
                died.append((hand.name, _how(status)))
            if hand.process is None and now_s >= hand.due_s:
                hand.began_s, hand.process = now_s, self._start(hand.name)
        return died

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        stage, parent = self._stage, os.getpid()
        argv = list(stage.cmd) or [
            sys.executable, "-m", "zpipe.processes.taker", stage.run, "--folder", str(self._folder),
        ]  # fmt: skip
        env = {**os.environ, **environment(self._endpoint, stage.args), "ZPIPE_NAME": name}
        try:
            return subprocess.Popen(
                argv, cwd=self._folder, env=env, stdin=subprocess.DEVNULL, preexec_fn=lambda: die_with(parent)
            )  # fmt: skip
        except OSError as error:
            raise StageError(
                f"stage {stage.name!r}: cannot start {argv[0]!r}: {(error.strerror or str(error)).lower()}"
            ) from None

    def close(self) -> None:
        """Wait for those that were told that nothing more comes, and end the others."""
        for hand in self._hands:
            if hand.process is not None:
                try:
                    hand.process.wait(END_S)
                except subprocess.TimeoutExpired:
                    hand.process.kill()
                    hand.process.wait()


def keep(argv: Sequence[str], n: int) -> int:
    """Keep `n` processes of a command alive until they end by themselves, or this one is to; returns the exit code.

    One that fails as soon as it was started would do so again: then all are ended.
    """
    told: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: told.append(number))
    parent = os.getpid()
    hands = [_Hand(str(k)) for k in range(n)]
    code = 0
    while hands:
        now_s = time.monotonic()
        for hand in list(hands):
            if hand.process is None and now_s >= hand.due_s:
                hand.began_s = now_s
                hand.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, preexec_fn=lambda: die_with(parent))
            if hand.process is None or (status := hand.process.poll()) is None:
                continue
            if status == 0 or told or code:
                hands.remove(hand)
                continue
            print(f"zpipe: a worker {_how(status)}", file=sys.stderr, flush=True)
            if status > 0 and now_s - hand.began_s < WELL_S:
                code = status
                told.append(signal.SIGTERM)
            hand.process, hand.due_s = None, now_s + hand.pause_s
            hand.pause_s = PAUSE_S if now_s - hand.began_s >= WELL_S else min(2 * hand.pause_s, PAUSE_MAX_S)
        if told:
            for hand in hands:
                if hand.process is not None and not hand.told:
                    hand.told = True
                    hand.process.terminate()
            hands = [hand for hand in hands if hand.process is not None]
        time.sleep(0.02)
    return code


def _how(status: int) -> str:
    return f"exited {status}" if status >= 0 else f"was killed by {signal.Signals(-status).name}"
