"""Run a pipeline on this machine: its registry, one fresh process per worker, and the end.

Starts, watches and reports; what follows from the death of a worker is the crew's to know.
"""

from __future__ import annotations

import itertools
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zpipe.core.members import planned
from zpipe.core.progress import OVER
from zpipe.core.scaling import Scaling
from zpipe.processes import commands, deaths
from zpipe.processes.access import Access, handed_on
from zpipe.processes.chaos import REGISTRY, Chaos
from zpipe.processes.crew import Crew
from zpipe.processes.dialogue import Dialogue, Message
from zpipe.processes.events import FILE, Event, EventLog, OnEvent, ended, happened, log_event, started, tell
from zpipe.processes.interrupts import Interrupts
from zpipe.processes.letters import Letters
from zpipe.processes.metrics import Metrics
from zpipe.processes.prepare import prepare
from zpipe.processes.report import DONE, FAILED, INTERRUPTED, Report, with_letters
from zpipe.processes.resume import ADDRESS, SOCKETS, earlier, told
from zpipe.processes.resume import resume as resumed
from zpipe.processes.runfolder import LiveRun, RunFolder, announce, live_runs, make_sockets_dir, remove_sockets_dir
from zpipe.processes.supervisor import GIVE_UP_DEATHS, Death, Program, Supervisor, last_line
from zpipe.processes.tally import Tally
from zpipe.processes.tracefile import TraceFile
from zpipe.processes.watch import Watch
from zpipe.values.errors import RunError, ZpipeError
from zpipe.values.pipeline import Pipeline
from zpipe.values.plan import Plan, StagePlan

if TYPE_CHECKING:
    from zpipe.processes.scrape import MetricsServer

ANY_PORT = "tcp://127.0.0.1:0"
LOOK_S = 0.25  # how often the registry is asked for its table
EXIT_GRACE_S = 5.0  # for workers to leave once the run is over
INTERRUPTED_GRACE_S = 1.0  # and when the user asked twice
REGISTRY_START_S, ADDRESS_LOOK_S = 20.0, 0.002  # for its address to be known, and between two looks
REGISTRY_END_S = 2.0
LAST_WORDS = {"done": DONE, "interrupted": INTERRUPTED, "failing": FAILED, "failed": FAILED}

WorkerProgram = Callable[[StagePlan, int, str, RunFolder, Access], Program]
Progress = Callable[[Mapping[str, Any]], None]  # takes the registry's table


class Launcher:
    """One run from start to end; `run` may be called once.

    `service` is the name it has as a service: then what keeps dying is started again for ever.
    """

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        *,
        transport: str = "auto",
        bind: str = ANY_PORT,
        access: Access | None = None,
        with_workers: bool = True,
        worker: WorkerProgram = commands.worker,
        service: str = "",
        chaos: Chaos | None = None,
        progress: Progress | None = None,
        on_event: OnEvent | None = None,
        log: EventLog | None = None,
        opening: Sequence[Event] = (),
        trace: TraceFile | None = None,
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.bind = bind
        self.access, self.keys = handed_on(access or Access(), bind)
        self.transport = transport
        self.address = ""
        self._with_workers = with_workers
        self._worker_program = worker
        self._service = service
        self._chaos = chaos
        self._progress = progress or (lambda table: None)
        self._on_event = on_event or log_event
        self._log = log or EventLog()
        self._opening = opening  # what is to be told first
        self._trace = trace
        self._supervisor = Supervisor(forever=bool(service))
        self._interrupts = Interrupts()
        self._tally = Tally()
        self._stages: dict[str, StagePlan] = {}  # by worker
        self._watch = Watch(self._stages, folder)
        self._scaling = Scaling(plan.stages if with_workers else (), cores())
        self._lives: Counter[str] = Counter()  # by slot, those that were told of
        self._chaos_pids: set[int] = set()
        self._next_look_s = 0.0
        self._signals = 0
        self._state = ""  # DONE, FAILED or INTERRUPTED once decided
        self._error = self._detail = ""
        self._is_final = False  # by the registry's word
        self._over_s = float("inf")  # when the last workers are ended by force

    def run(self) -> Report:
        """Run to the end and return the report, also of a run that failed or was interrupted.

        Raises RunError when it could not start.
        """
        started_s = time.monotonic()
        with ExitStack() as announced:  # until all is written that there is to say of the run
            self._supervisor.hands_on = (self.folder.hold(),)
            announced.callback(self.folder.release)
            self._log.open(self.folder.path / FILE, adds=True)
            try:
                report = self._run(started_s, announced)
            except ZpipeError as error:
                self._event(ended(self.plan.name, FAILED, str(error), time.monotonic() - started_s))
                raise
            self._event(ended(report.name, report.state, report.error, report.seconds))
        return report

    def pids(self) -> dict[str, int]:
        """Return the process ids of the registry and the workers that run now, by name."""
        return {slot.name: slot.pid for slot in self._supervisor.slots.values() if slot.pid}

    def _run(self, started_s: float, announced: ExitStack) -> Report:
        with ExitStack() as stack:
            if self._trace is not None:
                self._trace.begin(self.folder, self.plan)
                stack.callback(self._end_trace, self._trace)
            sockets_dir = make_sockets_dir()
            stack.callback(remove_sockets_dir, sockets_dir)
            self.folder.write(SOCKETS, str(sockets_dir))
            stack.callback((self.folder.path / SOCKETS).unlink, missing_ok=True)
            stack.enter_context(self._supervisor)
            stack.enter_context(self._interrupts)
            self._start_registry(sockets_dir)
            self._registry = stack.enter_context(Dialogue(self.address, self.keys))
            self._crew = Crew(self._supervisor, self._registry, self._tally, self._stages, self._event)
            name, folder = self.plan.name, str(self.folder.path)
            keys = str(self.keys.path) if self.keys else ""
            note = announce(LiveRun(name, self.address, os.getpid(), folder, time.time(), self._service, keys))
            announced.callback(note.unlink, missing_ok=True)
            begun, resumed = started(self.plan.name, self.address, self.folder.path), told(self.folder, self.plan)
            for event in filter(None, (begun, resumed, *self._opening)):
                self._event(event)
            if self._chaos:
                self._warn_of_chaos(self._chaos)
            if self._with_workers:
                self._start_workers()
            else:
                self._say_who_scales()
            while not self._is_over(time.monotonic()):
                self._turn()
            self._end_registry()
            for event in self._watch.given_up():
                self._event(event)
        report = self._report(time.monotonic() - started_s)
        try:
            self.folder.write("report.json", report.to_dict())
        except OSError as error:
            line = f"cannot write {self.folder.path / 'report.json'}: {error.strerror}: this is all there is of it"
            self._event(happened("warning", line))
        return report

    def _event(self, event: Event) -> None:
        tell(event, self._log, self._on_event)
        if self._trace is not None:
            self._trace.event(event)

    def _end_trace(self, trace: TraceFile) -> None:
        for line in trace.end():
            self._event(happened("warning", line))

    def _warn_of_chaos(self, chaos: Chaos) -> None:
        line = f"chaos: one kill in {chaos.every_s:g} s, seed {chaos.seed}"
        self._event(happened("chaos", line, every_s=chaos.every_s, seed=chaos.seed))
        if chaos.warning:
            self._event(happened("warning", chaos.warning))

    def _start_registry(self, sockets_dir: Path) -> None:
        found = self.folder.path / ADDRESS
        self._registry_command = commands.registry(
            self.folder, found, sockets_dir, self.transport, self.access, starts_workers=self._with_workers
        )  # fmt: skip
        slot = self._supervisor.add(self._registry_command(self.bind))
        deadline_s = time.monotonic() + REGISTRY_START_S
        while not (address := found.read_text().strip() if found.exists() else ""):
            given_up = [death for death in self._supervisor.step(ADDRESS_LOOK_S) if not self._returns(death)]
            if given_up or time.monotonic() > deadline_s:
                why = last_line(slot.program.log).removeprefix("zpipe: ") or f"see {slot.program.log}"
                raise RunError(f"the registry did not start: {self._who_has_the_address() or why}")
        self.address = address
        slot.program = self._registry_command(address)  # its next life is found at the same place

    def _returns(self, death: Death) -> bool:
        """Start a registry again that was killed before its address was known; one that gave up itself stays down."""
        delay_s = death.slot.restarts.died(0) if death.status < 0 else None
        if delay_s is not None:
            self._supervisor.restart(death.slot, delay_s)
        return delay_s is not None

    def _who_has_the_address(self) -> str:
        """Say which live run of this user listens where this one should, "" when none does."""
        port = self.bind.rpartition(":")[2]
        for run in live_runs():
            if run.address.rpartition(":")[2] == port:
                return (
                    f"{self.bind} is in use by run {run.name!r} ({run.folder}): end it with "
                    f"zpipe down --registry {run.address}, or bind another port (0: any free one)"
                )
        return ""

    def _start_workers(self) -> None:
        for stage in self.plan.stages:
            for slot in range(planned(stage)):
                program = self._worker_program(stage, slot, self.address, self.folder, self.access)
                self._stages[program.name] = stage
                self._supervisor.add(program)

    def _say_who_scales(self) -> None:
        for stage in (stage for stage in self.plan.stages if stage.workers_max is not None):
            line = f"{stage.name}: nobody starts workers for this run, {stage.workers_max} may join at most"
            self._event(happened("warning", line, stage=stage.name))

    def _decide_on_workers(self, table: Message, now_s: float) -> None:
        for stage, before, after, why, line in map(astuple, self._scaling.look(table)):
            self._event(happened("scaled", line, stage=stage, before=before, after=after, why=why))
            if after != before:
                self._registry.ask("SCALE", now_s, stage=stage, workers=after, auto=True)

    def _scale(self, table: Message) -> None:
        """Start the workers that a stage wants and has not: those that are to leave do not count."""
        wanted = {row["name"]: row["wanted"] for row in table["stages"] if row["wanted"]}
        for stage in (stage for stage in self.plan.stages if stage.name in wanted):
            rows = [row for row in table["workers"] if row["stage"] == stage.name]
            own = {name: slot for name, slot in self._supervisor.slots.items() if self._stages.get(name) is stage}
            coming = [name for name, slot in own.items() if not slot.ended and slot.pid not in {r["pid"] for r in rows}]
            staying = {row["worker"] for row in rows if row["state"] != "drain"}.union(coming)
            taken = {row["slot"] for row in rows}
            for slot in itertools.count():
                if len(staying) >= wanted[stage.name]:
                    break
                program = self._worker_program(stage, slot, self.address, self.folder, self.access)
                if slot not in taken and (program.name not in own or own[program.name].ended):
                    self._stages[program.name] = stage
                    self._supervisor.add(program)
                    staying.add(program.name)

    def _turn(self) -> None:
        now_s = time.monotonic()
        wait_s = max(0.0, self._next_look_s - now_s)
        if self._chaos:
            wait_s = min(wait_s, self._chaos.wait_s(now_s))
        died = self._supervisor.step(wait_s, self._registry.fileno(), self._interrupts.fileno())
        self._tell_of_restarts()  # first: one that was just started may have died since
        for death in died:
            self._died(death)
        now_s = time.monotonic()
        self._heed_interrupts(now_s)
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + LOOK_S
            self._tally.measure(self._supervisor.slots.values(), now_s)
            if not self._registry.asking("PS"):
                self._registry.ask("PS", now_s)
        for asked, reply in self._registry.turn(now_s):
            self._crew.answered(asked)
            if reply.get("t") == "TABLE":
                self._look(reply, asked.asked_s, now_s)
        if self._chaos and self._chaos.due(now_s) and not (self._state or self._signals):
            self._wreak(self._chaos)

    def _look(self, table: Message, asked_s: float, now_s: float) -> None:
        self._tally.see(table)
        self._progress(table)
        if self._trace is not None:
            self._trace.table(table)
        for event in self._watch.see(table):
            self._event(event)
        if not self._state and not self._signals:
            self._decide_on_workers(table, now_s)
            self._scale(table)
        for death in self._crew.look(table, asked_s, now_s):
            said = last_line(death.slot.program.log).removeprefix("zpipe: ")
            self._crew.fail(f"{death.slot.name} failed: {said}", now_s)
        self._is_final = table["state"] in OVER
        if table["state"] in LAST_WORDS and not self._state:
            self._error, self._detail = table["error"], table["detail"]
            self._end(LAST_WORDS[table["state"]], now_s, EXIT_GRACE_S)

    def _end(self, state: str, now_s: float, grace_s: float) -> None:
        self._state = state
        self._over_s = now_s + grace_s
        self._crew.dismiss()

    def _is_over(self, now_s: float) -> bool:
        if not self._state:
            return False
        gone = all(self._supervisor.slots[name].ended for name in self._stages)
        return (gone and self._is_final) or now_s >= self._over_s

    def _died(self, death: Death) -> None:
        now_s = time.monotonic()
        by_chaos = death.pid in self._chaos_pids
        self._chaos_pids.discard(death.pid)
        if death.slot.name != REGISTRY:
            self._crew.died(death, now_s, by_chaos=by_chaos)
            self._next_look_s = now_s
            return
        delay_s = 0.0 if by_chaos else death.slot.restarts.died(self._tally.settled())
        self._event(deaths.event(death, "", by_chaos=by_chaos, again=delay_s is not None))
        if delay_s is None:
            said = last_line(death.slot.program.log).removeprefix("zpipe: ")
            self._error = f"the registry died {GIVE_UP_DEATHS} times in a row, at last {death.how}: {said}"
            self._end(FAILED, now_s, 0.0)
            return
        if not by_chaos and death.slot.restarts.deaths >= GIVE_UP_DEATHS:
            self._event(deaths.held_back(death, "", delay_s))
        self._supervisor.restart(death.slot, delay_s)

    def _tell_of_restarts(self) -> None:
        for slot in self._supervisor.slots.values():
            if slot.lives > max(1, self._lives[slot.name]):
                stage = self._stages[slot.name].name if slot.name in self._stages else ""
                line = f"{slot.name} was started again"
                self._event(happened("restarted", line, stage=stage, worker=slot.name, life=slot.lives))
            self._lives[slot.name] = slot.lives

    def _heed_interrupts(self, now_s: float) -> None:
        count = self._interrupts.taken()
        while self._signals < count:
            self._signals += 1
            if self._signals == 1:
                self._event(happened("stopping", "interrupted: finishing what is under way; again to stop now"))
                self._registry.ask("STOP", now_s)
            elif self._signals == 2:
                self._crew.fail("interrupted", now_s)
                self._error = "interrupted"
                self._end(INTERRUPTED, now_s, INTERRUPTED_GRACE_S)
            else:
                for slot in self._supervisor.slots.values():
                    self._supervisor.kill(slot)

    def _wreak(self, chaos: Chaos) -> None:
        name = chaos.victim([name for name in self._stages if self._supervisor.slots[name].pid])
        slot = self._supervisor.slots.get(name or "")
        if slot and slot.pid:
            self._chaos_pids.add(slot.pid)
            self._supervisor.kill(slot)
            chaos.killed(self._stages[slot.name].name if slot.name in self._stages else REGISTRY)

    def _end_registry(self) -> None:
        slot = self._supervisor.slots[REGISTRY]
        self._supervisor.stop(slot)
        now_s = time.monotonic()
        deadline_s = now_s + REGISTRY_END_S
        self._registry.ask("DOWN", now_s)
        while slot.pid and now_s < deadline_s:
            self._registry.turn(now_s)
            self._supervisor.step(min(0.02, deadline_s - now_s), self._registry.fileno())
            now_s = time.monotonic()

    def _report(self, seconds: float) -> Report:
        began = Counter(stage.name for stage in self._stages.values())
        resumed, earlier_taken = earlier(self.folder)
        stages = self._tally.stages(self.plan, began, seconds, earlier_taken)
        return Report(
            name=self.plan.name, state=self._state, folder=self.folder.path, seconds=seconds,
            stages=with_letters(stages, Letters(self.folder.dead)),
            processes=self._tally.processes(self._supervisor.slots),
            error=self._error, detail=self._detail, seed=self._chaos.seed if self._chaos else None,
            kills=dict(self._chaos.kills) if self._chaos else {}, resumed=resumed,
        )  # fmt: skip


def cores() -> int:
    """Return how many cores this process, and those that it starts, may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    pipeline: Pipeline,
    *,
    runs: str | os.PathLike[str] = "runs",
    sets: Sequence[str] = (),
    chaos: float | None = None,
    seed: int | None = None,
    limit: int | None = None,
    until: str | None = None,
    resume: str | os.PathLike[str] | bool = False,
    events: str | os.PathLike[str] | None = None,
    transport: str = "auto",
    bind: str = ANY_PORT,
    access: Access | None = None,
    with_workers: bool = True,
    metrics: str | None = None,
    trace: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    on_event: OnEvent | None = None,
) -> Report:
    """Run a pipeline on this machine to its end and return its report; `chaos` is seconds between kills.

    `limit` is the most items of each source per epoch, `until` the stage where the pipeline is cut off, `events`
    a file for a copy of what happens.  Without workers of its own it waits for those that join at `bind`.
    `resume` names the folder of a run to go on with, True the last of this pipeline.
    `access` says how it is guarded there.  `metrics` is where metrics are served meanwhile, `trace` a file for who
    ran which item when.  An interrupted run returns too, its report not `ok`.  Raises ConfigError with every fault,
    RunError, and AlreadyDone.
    """
    if chaos is not None and seed is None:
        seed = secrets.randbelow(2**32)
    access = (access or Access()).of(pipeline)
    access.at(bind)  # before anything is made
    wreaker = Chaos(chaos, seed) if chaos is not None and seed is not None else None

    def prepared() -> tuple[Plan, RunFolder]:
        if resume:
            return resumed(pipeline, resume, runs=runs, sets=sets, limit=limit, until=until)
        return prepare(pipeline, runs=runs, sets=sets, seed=seed, transport=transport, limit=limit, until=until)

    return launch(
        prepared, events=events, metrics=metrics, trace=trace, progress=progress, transport=transport, bind=bind,
        access=access, with_workers=with_workers, chaos=wreaker, on_event=on_event,
    )  # fmt: skip


def launch(
    prepared: Callable[[], tuple[Plan, RunFolder]],
    *,
    events: str | os.PathLike[str] | None = None,
    metrics: str | None = None,
    trace: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Run what is prepared once the addresses and files that `run` is told of are had; `options` are a Launcher's.

    Raises RunError when the run failed.
    """
    with ExitStack() as stack:
        server = stack.enter_context(_metrics_server(metrics)) if metrics is not None else None
        log = stack.enter_context(EventLog(events))
        tracing = stack.enter_context(TraceFile(trace)) if trace is not None else None
        plan, folder = prepared()
        stack.callback(folder.release)
        opening = []
        if server is not None:
            seen = Metrics.of(plan)
            progress = _both(seen.see, progress)
            url = server.serve(seen)
            opening.append(happened("metrics", f"metrics: {url}", url=url))
        report = Launcher(plan, folder, progress=progress, log=log, opening=opening, trace=tracing, **options).run()
    if report.state == FAILED:
        raise RunError(report.error, report.detail)
    return report


def _metrics_server(address: str) -> MetricsServer:
    from zpipe.processes.scrape import MetricsServer  # an extra, and slow to import

    return MetricsServer(address)


def _both(first: Progress, then: Progress | None) -> Progress:
    def progress(table: Mapping[str, Any]) -> None:
        first(table)
        if then is not None:
            then(table)

    return progress
