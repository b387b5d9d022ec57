"""A worker that only talks to its registry: it joins, does as its stage is named, and leaves when told to."""

from __future__ import annotations

import argparse
import os
import secrets
import select
import socket
import sys
from pathlib import Path
from typing import Any

from zpipe.processes.blame import Blame
from zpipe.processes.control import Control
from zpipe.values.context import Current
from zpipe.values.paths import Run


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("stage")
    parser.add_argument("--registry", required=True)
    parser.add_argument("--slot", type=int)
    parser.add_argument("--blame", required=True)
    args, _ = parser.parse_known_args()
    inc = secrets.randbits(63) + 1
    state: dict[str, Any] = {"state": "joining", "counters": {}, "sources": {}}
    hello = {
        "inc": inc,
        "stage": args.stage,
        "slot": args.slot,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "supervisor": None,
    }
    control = Control(args.registry, hello, lambda: dict(state), beat_s=0.05)
    control.start()
    welcome = control.welcome(30)
    current = Current(args.stage, worker="", lane_names={0: "numbers"}, run_key=0, run_folder=Path())
    blame = Blame(Path(args.blame), current)
    if args.stage != "crashes-idle":
        blame.note(Run(0, 0, (), 5, None), 3)
    once = os.path.join(welcome["run_folder"], f"once-{welcome['worker']}")
    behave(args.stage, once, control, inc)
    state |= {"state": "live", "counters": {"in": 5, "done": 5, "out": 5, "busy_s": 3.0, "starved_s": 1.0}}
    if args.stage == "cut-off":
        state["counters"]["unreached"] = 1
    state["sources"] = {n: [0, 0, 0, False] for n in welcome["partitions"]}
    control.beat_now()
    readers = sum(stage["workers"] for stage in welcome["plan"]["stages"]) - 1
    while not control.fenced:
        select.select([control], [], [])
        control.clear()
        while control.inbox:
            news = control.inbox.popleft()
            desired = news["desired"]
            all_there = len(news.get("roster", {}).get("peers", ())) == readers
            if desired == "drain" or (all_there and args.stage != "endless"):
                state["sources"] = {n: [5, 0, 0, True] for n in welcome["partitions"]}
                control.beat_now()
            elif desired == "exit":
                control.request({"t": "BYE", "inc": inc, "counters": state["counters"]}, 30)
                return 0
    return 75


def behave(stage: str, once: str, control: Control, inc: int) -> None:
    """Fail as the stage's name says: in the first life only, or in every life."""
    first = not os.path.exists(once)
    open(once, "w").close()
    if stage in ("crashes", "crashes-idle") or (stage == "crashes-once" and first):
        os.kill(os.getpid(), 9)
    if stage == "leaves-once" and first:
        os._exit(0)
    if stage == "silent":
        sys.exit("zpipe: no reason in particular")
    if stage == "raises":
        control.request(
            {
                "t": "FAILED",
                "inc": inc,
                "worker": "raises-1",
                "error": "stage 'raises' raised ValueError: 7",
                "detail": "Traceback ...",
            },
            30,
        )
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
