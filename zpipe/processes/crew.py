"""Keep workers alive in step with their registry: it hears of each death before the next life begins.

Knows what to tell and when to give up; processes are the supervisor's, the state of the run the registry's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zpipe.processes import deaths
from zpipe.processes.chaos import REGISTRY
from zpipe.processes.dialogue import Asked, Dialogue
from zpipe.processes.events import OnEvent, happened
from zpipe.processes.exits import EXIT_DONE, EXIT_DRAINED, EXIT_FAILED
from zpipe.processes.supervisor import GIVE_UP_DEATHS, Death, Slot, Supervisor
from zpipe.processes.tally import Tally
from zpipe.values.plan import StagePlan

ABSENT_S = 2.0  # for one that the registry no longer knows to leave by itself


class Crew:
    """The workers of one supervisor.  `stages` names the plan of each, where it is known."""

    def __init__(
        self,
        supervisor: Supervisor,
        registry: Dialogue,
        tally: Tally,
        stages: Mapping[str, StagePlan],
        on_event: OnEvent,
    ) -> None:
        self.failed: list[str] = []  # workers that exited 1 or were given up
        self._supervisor = supervisor
        self._registry = registry
        self._tally = tally
        self._stages = stages
        self._event = on_event
        self._settled: dict[str, int] = {}  # lives of each slot that had settled an input
        self._returning: dict[str, float] = {}  # seconds to wait once the registry knows
        self._left: dict[str, tuple[Death, float]] = {}  # exited 0 or 1 at that time
        self._absent: dict[int, float] = {}  # pids the registry no longer knows, since when
        self._ended: set[int] = set()  # pids that were ended here, being out of reach
        self._over = False

    def died(self, death: Death, now_s: float, *, by_chaos: bool = False) -> None:
        """Tell the registry of a death, and see to the next life; what was done to it counts against nobody."""
        name = death.slot.name
        innocent = by_chaos or death.pid in self._ended
        self._ended.discard(death.pid)
        self._settled[name] = self._settled.get(name, 0) + death.settled
        self._absent.pop(death.pid, None)
        self._registry.ask("DIED", now_s, **deaths.fields(death, innocent=innocent), **self._tally.inc(death.pid))
        self._tally.forget(death.pid)
        if death.status == EXIT_DRAINED:
            self._left_for_good(death)
        elif death.status in (EXIT_DONE, EXIT_FAILED):
            self._left[name] = (death, now_s)  # the next table says whether it was right to
            if death.status == EXIT_FAILED:
                self.failed.append(name)
            if self._over:
                self._tell_who_left()
        elif self._over:
            self._event(deaths.event(death, self._stage_name(name), by_chaos=by_chaos, again=False))
        else:
            self._lost(death, now_s, by_chaos=by_chaos, innocent=innocent)

    def answered(self, asked: Asked) -> None:
        """Let a worker return whose death the registry has heard of."""
        name = asked.message.get("worker", "")
        if asked.message["t"] == "DIED" and name in self._returning and not self._over:
            self._supervisor.restart(self._supervisor.slots[name], self._returning.pop(name))

    def look(self, table: Mapping[str, Any], asked_s: float, now_s: float) -> list[Death]:
        """Compare with the registry's table; return who exited 1 without a word to it."""
        if table["state"] != "running":
            self.dismiss()
            return []
        early = [death for death, left_s in self._left.values() if left_s < asked_s]
        for death in early:
            del self._left[death.slot.name]
            if death.status == EXIT_DONE:
                self._lost(death, now_s, by_chaos=False, innocent=False)
            else:
                self._left_for_good(death)
        if not table.get("recovering"):
            self._end_declared_dead(now_s, set(table.get("declared_dead", ())))
        return [death for death in early if death.status == EXIT_FAILED]

    def dismiss(self) -> None:
        """Let nobody return: the run is over."""
        self._over = True
        self._tell_who_left()
        for slot in self._workers():
            self._supervisor.stop(slot)

    def fail(self, why: str, now_s: float) -> None:
        """End the run."""
        self._registry.ask("FAIL", now_s, why=why)

    @property
    def is_waiting(self) -> bool:
        """Tell whether a dead worker may still return."""
        return bool(self._returning or self._left) and not self._over

    @property
    def is_short(self) -> bool:
        """Tell whether a worker is missing that has died; one that left as it does when all is over is not."""
        return bool(self._returning) and not self._over

    def _lost(self, death: Death, now_s: float, *, by_chaos: bool, innocent: bool) -> None:
        name = death.slot.name
        stage, stage_name = self._stages.get(name), self._stage_name(name)
        fatal = deaths.why_fatal(stage, death) if stage else None
        if innocent or death.items:  # for what it was running the item answers, as often as its stage lets it
            delay_s: float | None = 0.0
        else:
            delay_s = death.slot.restarts.died(self._settled[name])
        again = not fatal and delay_s is not None
        self._event(deaths.event(death, stage_name, by_chaos=by_chaos, again=again))
        if fatal or delay_s is None:
            self.failed.append(name)
            self.fail(fatal or deaths.why_given_up(stage_name, death), now_s)
            return
        if not innocent and death.slot.restarts.deaths >= GIVE_UP_DEATHS:
            self._event(deaths.held_back(death, stage_name, delay_s))
        if self._registry.asking("DIED", worker=name):
            self._returning[name] = delay_s
        else:
            self._supervisor.restart(death.slot, delay_s)

    def _end_declared_dead(self, now_s: float, declared: set[int]) -> None:
        for slot in self._workers():
            if slot.pid is None or not self._tally.is_gone(slot.pid):
                self._absent.pop(slot.pid or 0, None)
                continue
            absent_s = now_s - self._absent.setdefault(slot.pid, now_s)
            if absent_s >= ABSENT_S or self._tally.inc(slot.pid).get("inc") in declared:
                line = f"{slot.name} was out of reach and is started anew"
                self._event(happened("warning", line, stage=self._stage_name(slot.name), worker=slot.name))
                self._ended.add(slot.pid)
                self._supervisor.kill(slot)

    def _tell_who_left(self) -> None:
        """Say of those who exited that they were right to."""
        for death, _ in self._left.values():
            self._left_for_good(death)
        self._left.clear()

    def _left_for_good(self, death: Death) -> None:
        name = death.slot.name
        status = EXIT_DONE if death.status == EXIT_DRAINED else death.status
        line = f"{name} left" if status == EXIT_DONE else f"{name} left: {death.how}"
        self._event(happened("left", line, stage=self._stage_name(name), worker=name, status=status))

    def _stage_name(self, worker: str) -> str:
        stage = self._stages.get(worker)
        return stage.name if stage else worker.partition("#")[0]

    def _workers(self) -> list[Slot]:
        return [slot for slot in self._supervisor.slots.values() if slot.name != REGISTRY]
