"""The thin parent behind `zpipe worker`: it keeps a few workers of one stage at a registry alive."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from zpipe.processes import commands
from zpipe.processes.access import Access, host_for
from zpipe.processes.client import Client, nobody
from zpipe.processes.crew import Crew
from zpipe.processes.dialogue import Dialogue
from zpipe.processes.events import OnEvent, happened
from zpipe.processes.exits import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED
from zpipe.processes.interrupts import Interrupts
from zpipe.processes.runfolder import live_runs
from zpipe.processes.supervisor import Program, Supervisor
from zpipe.processes.tally import Tally
from zpipe.transport import addresses

REVOKED = 403
LOOK_S = 0.25  # how often the registry is asked for its table
LAST_WORDS_S = 1.0
REGISTRY_TIMEOUT_S = 5.0
CUT_OFF_S = 60.0  # a registry on another host that is silent for less may be there, behind a cable that was pulled
LEAVE_S = 30.0  # for an interrupted worker to finish what it has


class Parent:
    """Workers of one stage that join a run; `run` returns the exit code.

    Those that keep dying are given up, and the run with them, but not those of a service of this user.
    """

    def __init__(
        self, stage: str, address: str, workers: int, *, on_event: OnEvent, access: Access | None = None,
        host: str = "", any_code: bool = False,
    ) -> None:  # fmt: skip
        self.stage = stage
        self.address = address
        self.workers = workers
        self.access = access or Access()
        self.keys = self.access.to(address)
        self.host = host_for(address, host, self.keys, insecure=self.access.insecure)
        self.any_code = any_code
        self._event = on_event
        self._supervisor = Supervisor(forever=any(run.address == address and run.service for run in live_runs()))
        self._interrupts = Interrupts()
        self._tally = Tally()
        self._heard_s = 0.0
        self._is_revoked = False
        self._next_look_s = 0.0

    def run(self) -> int:
        """Keep the workers running until each has left.  Raises RegistryError when no registry answers."""
        with Client(self.address, self.keys) as client:  # one clear line here instead of one from each worker
            table = client.request({"t": "PS"}, REGISTRY_TIMEOUT_S)
            self._heard_s = time.monotonic()
        timeout_s = next((row.get("timeout") for row in table["stages"] if row["name"] == self.stage), None)
        with ExitStack() as stack:
            blame = Path(tempfile.mkdtemp(prefix="zpipe-blame-"))
            stack.callback(shutil.rmtree, blame, ignore_errors=True)
            stack.enter_context(self._supervisor)
            stack.enter_context(self._interrupts)
            self._registry = stack.enter_context(Dialogue(self.address, self.keys))
            self._crew = Crew(self._supervisor, self._registry, self._tally, {}, self._event)
            for number in range(self.workers):
                noted = blame / str(number)
                argv = commands.worker_argv(
                    self.stage, self.address, noted, self.access, any_code=self.any_code, host=self.host
                )
                env = commands.worker_environment(self.stage, {})
                self._supervisor.add(Program(f"{self.stage}#{number}", argv, env, None, noted, timeout_s))
            while not self._interrupts.taken() and not self._are_gone():
                self._turn()
            if self._interrupts.count:
                self._crew.dismiss()
                self._supervisor.close(LEAVE_S)
            elif self._crew.is_short:  # without a word of the registry on those that died
                raise nobody(self.address, REGISTRY_TIMEOUT_S, self.keys, self._registry.news)
            self._tell_the_rest()
        if self._interrupts.count:
            return EXIT_INTERRUPTED
        return EXIT_FAILED if self._crew.failed or self._is_revoked else EXIT_DONE

    def _are_gone(self) -> bool:
        """Tell whether none is left that may return: a registry that is silent then has gone, and lets none."""
        near = addresses.is_loopback(addresses.host_of(self.address))
        is_silent = time.monotonic() - self._heard_s >= (REGISTRY_TIMEOUT_S if near else CUT_OFF_S)
        return all(slot.ended for slot in self._supervisor.slots.values()) and (is_silent or not self._crew.is_waiting)

    def _turn(self) -> None:
        wait_s = max(0.0, self._next_look_s - time.monotonic())
        for death in self._supervisor.step(wait_s, self._registry.fileno(), self._interrupts.fileno()):
            self._crew.died(death, time.monotonic())
            self._next_look_s = 0.0
        now_s = time.monotonic()
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + LOOK_S
            if not self._registry.asking("PS"):
                self._registry.ask("PS", now_s)
        self._hear(now_s)

    def _hear(self, now_s: float) -> None:
        for asked, reply in self._registry.turn(now_s):
            self._heard_s = now_s
            if reply.get("code") == REVOKED and not self._is_revoked:
                self._is_revoked = True
                self._event(happened("warning", f"{self.stage}: {reply.get('text')}", stage=self.stage))
                self._crew.dismiss()
            self._crew.answered(asked)
            if reply.get("t") == "TABLE":
                self._tally.see(reply)
                self._crew.look(reply, asked.asked_s, now_s)

    def _tell_the_rest(self) -> None:
        """Let the registry hear of the last death before the connection closes."""
        deadline_s = time.monotonic() + LAST_WORDS_S
        while (self._registry.asking("FAIL") or self._registry.asking("DIED")) and time.monotonic() < deadline_s:
            self._supervisor.step(0.02, self._registry.fileno())
            self._hear(time.monotonic())
