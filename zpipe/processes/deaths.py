"""What the death of a worker means for the run, in words and for the registry."""

from __future__ import annotations

import socket
from typing import Any

from zpipe.processes.events import Event, happened
from zpipe.processes.supervisor import Death, last_line
from zpipe.values.plan import StagePlan


def fields(death: Death, *, innocent: bool) -> dict[str, Any]:
    """Return what the registry is told of a death; `innocent`: nothing that was running is to blame."""
    how = {"signal": -death.status} if death.status < 0 else {"exit": death.status}
    return {
        "pid": death.pid,
        "host": socket.gethostname(),
        "worker": death.slot.name,
        "blame": [] if innocent else [list(item) for item in death.items],
        "how": f"{death.how}\n{death.said}" if death.said else death.how,
        "reach": dict(death.reaches),
        **how,
    }


def event(death: Death, stage: str, *, by_chaos: bool, again: bool) -> Event:
    """Return a death as an event; `again`: a next life follows."""
    return happened(
        "killed" if by_chaos else "died", f"{death.slot.name} {death.how}{during(death)}", stage=stage,
        worker=death.slot.name, pid=death.pid, status=death.status, running=death.running, again=again,
    )  # fmt: skip


def why_fatal(stage: StagePlan, death: Death) -> str | None:
    """Return why the run cannot go on after this death, None when it can."""
    what = f"stage {stage.name!r}: worker {death.slot.name} was lost ({death.how}{during(death)})"
    if stage.role == "source" and stage.replay == "no":
        return f'{what} and with replay = "no" it cannot make its items again: make it repeatable and use "skip"'
    if stage.loses_state:
        return f"{what} with what it had accumulated: give its class state() and restore(state)"
    return None


def why_given_up(stage: str, death: Death) -> str:
    """Return the line of a slot that keeps dying."""
    return f"stage {stage!r}: worker {_keeps_dying(death)}{_output(death)}"


def held_back(death: Death, stage: str, delay_s: float) -> Event:
    """Return that a slot keeps dying and is not given up as an event."""
    line = f"{_keeps_dying(death)}, and is started again in {delay_s:g} s{_output(death)}"
    return happened("warning", line, stage=stage, worker=death.slot.name)


def during(death: Death) -> str:
    """Say what was running, with a space in front; nothing when unknown."""
    return f" while running {death.running}" if death.running else ""


def _keeps_dying(death: Death) -> str:
    return (
        f"{death.slot.name} died {death.slot.restarts.deaths} times in a row "
        f"without settling an input, the last time {death.how}{during(death)}"
    )


def _output(death: Death) -> str:
    log = death.slot.program.log
    return f": its output is in {log}" if log and last_line(log) else ""
