"""The ways that a workload can be run: the command of each, and the way that it is measured against."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.figures import SERIAL
from tests.bench.halves import Task
from tests.bench.pipelines import pipeline
from tests.bench.workloads import EIGHT, OUTSIDE, PAYLOADS, Load
from tests.outside import command, compiled
from tests.real import ROOT

BASE = "PUSH/PULL"
TCP_BASE = "PUSH/PULL-tcp"  # without copies
UNGUARDED = "zpipe-unguarded"  # what the guarantee is put beside, to see its own price
PLAIN = "zpipe"  # what programs outside are put beside
INSIDE = Path(__file__).parent / "inside"
TAKE_MAX, TAKE_BYTES = 64, 1 << 18  # what a program asks a gate for at a time


@dataclass(frozen=True)
class Start:
    """A command and what it needs in its environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Way:
    """A way of running `loads`, prepared by `start`; `shares` are of a load's items, more for the fast and less for
    the slow, since what is compared is a rate.
    """

    name: str
    start: Callable[[Task], Start]
    loads: tuple[str, ...] = EIGHT
    base: str = BASE
    shares: Mapping[str, float] = field(default_factory=dict)

    def count(self, load: Load) -> int:
        """Return how many items of a load it runs, a whole number of rounds of its payloads."""
        share = self.shares.get(load.name, 1)
        return load.count if share == 1 else PAYLOADS * max(1, round(share * load.count / PAYLOADS))


def _program(module: str, *options: str) -> Callable[[Task], Start]:
    def start(task: Task) -> Start:
        return Start((sys.executable, "-m", f"tests.bench.{module}", json.dumps(task.to_dict()), *options))

    return start


def _zpipe(
    *options: str, blocks: bool = False, env: Mapping[str, str] | None = None
) -> Callable[[Task], Start]:  # fmt: skip
    def start(task: Task) -> Start:
        file = Path(task.folder) / "relay.toml"
        pipeline(task, blocks=blocks).save(file)
        return Start((sys.executable, "-m", "zpipe", "run", str(file), *options), env or {})

    return start


def _outside(language: str = "", *, gate: bool = False) -> Callable[[Task], Start]:
    """A stage whose items are done by a program in a language, or by the function at a gate."""

    def start(task: Task) -> Start:
        folder, file = Path(task.folder), Path(task.folder) / "relay.toml"
        if language == "c":
            compiled(folder)
        stage: dict[str, Any] = {"listen": {"call": 0}} if gate else {}
        if language:
            take = max(1, min(TAKE_MAX, TAKE_BYTES // task.of.nbytes)) if gate else 1
            stage |= {"cmd": list(command(language, folder)), "args": {"take": take}}
        pipeline(task, stage=stage).save(file)
        return Start((sys.executable, "-m", "zpipe", "run", str(file)))

    return start


def _inside(**options: str) -> dict[str, str]:
    return {"PYTHONPATH": f"{INSIDE}:{ROOT}", **options}


WAYS = {
    way.name: way
    for way in (
        Way(SERIAL, _program("serial"), ("W4x2", "W8")),
        Way(BASE, _program("sockets")),
        Way(TCP_BASE, _program("sockets", "--tcp", "--no-copies"), ("W2",), TCP_BASE),
        Way("mp.Queue", _program("queues"), shares={"W1": 0.2, "W1-bytes": 0.2, "W2": 0.3, "W5": 0.3}),
        Way(
            PLAIN,
            _zpipe(),
            EIGHT + OUTSIDE,
            shares={"W2": 4, "W3": 2, "W5": 3, "G64": 20, "G4k": 10, "G150k": 5, "G5M": 4},
        ),
        Way("zpipe-blocks", _zpipe(blocks=True), ("W1", "W1-bytes"), shares={"W1": 20, "W1-bytes": 2}),
        Way("zpipe-single", _zpipe(env=_inside(BENCH_FRAME_ITEMS="1")), ("W1",), shares={"W1": 0.1}),
        Way(UNGUARDED, _zpipe(env=_inside(BENCH_UNGUARDED="1")), ("W1", "W1-bytes"), UNGUARDED),
        Way("zpipe-guarded", _zpipe(env=_inside()), ("W1", "W1-bytes"), UNGUARDED),
        Way("zpipe-tcp", _zpipe("--transport", "tcp"), ("W2",), TCP_BASE),
        Way("zpipe-cmd", _outside("python"), OUTSIDE, PLAIN),
        Way("zpipe-cmd-c", _outside("c"), OUTSIDE, PLAIN),
        Way("zpipe-gate", _outside(gate=True), OUTSIDE, PLAIN),
        Way("zpipe-gate-c", _outside("c", gate=True), OUTSIDE, PLAIN),
    )
}
