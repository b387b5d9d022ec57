"""A show of a registry that is away while items flow."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.real import Place, wait_until
from tests.shows.flow import Shown, count_of, stage_place

BEFORE_S, AWAY_S = 10.0, 30.0
RATE, BACK_S = 0.05, 2.0
WORKERS = 4
STAGES = f"""
[stage.numbers]
run = "stages:numbers"
replay = "seek"
args = {{ count = 1000000 }}
[stage.nap]
run = "stages:nap"
from = "numbers"
workers = {WORKERS}
[stage.counting]
run = "stages:Counting"
from = "nap"
"""


def registry() -> Iterator[Shown]:
    """The registry is killed and stays away for 30 s: the rate stays within 5 %, `ps` is complete 2 s after."""
    with stage_place() as place:
        run = place.start("run", place.pipeline(STAGES))
        wait_until(lambda: is_complete(place.ps()))
        (folder,) = place.folder.glob("runs/*")
        before = rate(folder, BEFORE_S)
        run.process.send_signal(signal.SIGSTOP)  # else the launcher would start the next at once
        of_run(place, "zpipe.processes.registry").kill()
        away = rate(folder, AWAY_S)
        unreached = place.run("ps").code != 0
        run.process.send_signal(signal.SIGCONT)
        began_s = time.monotonic()
        wait_until(lambda: is_complete(place.ps()))
        seconds = time.monotonic() - began_s
        run.interrupt()
        done = run.wait()
    ratio = away / before
    yield Shown(
        f"{before:.0f} items a second before, {ratio:.3f} times as many in {AWAY_S:.0f} s without a registry "
        f"(within {100 * RATE:.0f} %), exit {done.code}",
        abs(ratio - 1) < RATE and unreached and done.code == 130,
    )
    yield Shown(f"ps has all workers {seconds:.1f} s after it may start again (at most {BACK_S:.0f})", seconds < BACK_S)


def of_run(place: Place, module: str) -> psutil.Process:
    """Return the process of the run that runs a module."""
    (process,) = [process for process in place.processes() if module in process.cmdline()]
    return process


def is_complete(table: dict[str, Any]) -> bool:
    """Tell whether `ps` shows every worker, and each is live."""
    live = [row for row in table["workers"] if row["state"] == "live"]
    return len(live) == WORKERS + 2 and not table["recovering"]


def rate(folder: Path, seconds: float) -> float:
    """Return the items a second that reach the sink."""
    first, began_s = count_of(folder, "done"), time.monotonic()
    time.sleep(seconds)
    return (count_of(folder, "done") - first) / (time.monotonic() - began_s)
