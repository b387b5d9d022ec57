"""What a supervisor tells of the deaths of its workers, and whom it ends itself."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

from zpipe.processes.crew import Crew
from zpipe.processes.events import Event
from zpipe.processes.supervisor import Death, Program, Slot, Supervisor
from zpipe.processes.tally import Tally

DEADLINE_S = 30.0
INC = 77


class Registry:
    """Takes down what it is asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def ask(self, verb: str, now_s: float, /, **fields: Any) -> None:
        self.asked.append({"t": verb, **fields})

    def asking(self, verb: str, **fields: Any) -> bool:
        return False


class Bench:
    """One worker, living, that the registry knows."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.registry = Registry()
        self.tally = Tally()
        self.events: list[Event] = []
        self.crew = Crew(supervisor, self.registry, self.tally, {}, self.events.append)  # type: ignore[arg-type]
        argv = (sys.executable, "-I", "-c", "import signal; signal.pause()")
        self.slot: Slot = supervisor.add(Program("clean-1", argv, os.environ))
        supervisor.step(0.0)
        assert self.slot.pid is not None
        self.pid: int = self.slot.pid
        self.see(here=True)

    def see(self, *, here: bool, declared: tuple[int, ...] = ()) -> None:
        row = {"worker": "clean-1", "inc": INC, "pid": self.pid, "host": os.uname().nodename, "counters": {}}
        table = {"state": "running", "stages": [], "workers": [row] if here else [], "declared_dead": declared}
        self.tally.see(table)
        self.crew.look(table, 1.0, 1.0)

    def die(self) -> dict[str, Any]:
        """Let the end of its process be seen; return what the registry is told."""
        while not (found := self.supervisor.step(DEADLINE_S)):
            pass
        self.crew.died(Death(self.slot, found[0].pid, found[0].status, (("numbers:3", 1),)), 2.0)
        return self.registry.asked[-1]


@pytest.fixture
def bench() -> Any:
    with Supervisor() as supervisor:
        yield Bench(supervisor)


def test_one_that_was_declared_dead_is_ended_at_once_and_its_item_is_not_to_blame(bench: Bench) -> None:
    bench.see(here=False, declared=(INC,))
    assert [event.text for event in bench.events] == ["clean-1 was out of reach and is started anew"]
    told = bench.die()
    assert (told["t"], told["pid"], told["signal"], told["blame"]) == ("DIED", bench.pid, 9, [])
    assert bench.slot.due_s is not None


def test_one_that_the_registry_knows_no_longer_has_time_to_leave(bench: Bench) -> None:
    bench.see(here=False)
    assert bench.events == []
    assert bench.slot.pid == bench.pid


def test_the_item_of_one_that_died_by_itself_answers_for_it(bench: Bench) -> None:
    bench.supervisor.kill(bench.slot)
    assert bench.die()["blame"] == [["numbers:3", 1]]
