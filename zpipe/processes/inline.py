"""Run a whole pipeline in this one thread, for a debugger.

One machine and one caller per stage, as in the worker processes, but joined directly: what one sends, the
other has received.  Items travel as bytes, so that they arrive, and fail, as they do between processes.
Refuses to know sockets, saves and deaths.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from zpipe.core.limits import Limits
from zpipe.core.members import worker_name
from zpipe.core.outlet import Link, Out, Peer
from zpipe.core.source import Source
from zpipe.core.worker import Worker
from zpipe.processes import targets
from zpipe.processes.caller import Caller
from zpipe.processes.codec import WireCodec
from zpipe.processes.events import FILE, Event, EventLog, ended, happened, log_event, started, tell
from zpipe.processes.letters import Letters
from zpipe.processes.prepare import prepare
from zpipe.processes.report import (
    DONE,
    FAILED,
    INTERRUPTED,
    ProcessReport,
    Report,
    read_memory,
    stage_report,
    with_letters,
)
from zpipe.processes.roles import role_of
from zpipe.processes.runfolder import RunFolder
from zpipe.processes.targets import call_hook, user_traceback, users_own
from zpipe.processes.trace import recorder
from zpipe.processes.tracefile import TraceFile
from zpipe.values import context
from zpipe.values.callables import in_process
from zpipe.values.errors import ConfigError, StageError
from zpipe.values.paths import Run
from zpipe.values.pipeline import Pipeline
from zpipe.values.plan import Plan, StagePlan
from zpipe.wire import frames
from zpipe.wire.frames import Ack, Data, Open, Sync

STALLED = 1000  # rounds without a call after which no call will come: our mistake


def run(
    pipeline: Pipeline,
    *,
    sets: Sequence[str] = (),
    seed: int | None = None,
    runs: str | os.PathLike[str] = "runs",
    limit: int | None = None,
    until: str | None = None,
    events: str | os.PathLike[str] | None = None,
    trace: str | os.PathLike[str] | None = None,
) -> Report:
    """Run a pipeline in this thread to its end and return its report; every stage has one worker.

    Raises ConfigError with every fault, and StageError with the traceback of the user's code as its own.
    """
    with (
        EventLog(events) as log,
        in_process(),
        TraceFile(trace) if trace is not None else nullcontext() as tracing,
    ):
        plan, folder = prepare(
            pipeline, runs=runs, sets=sets, seed=seed, transport="inline", limit=limit, until=until
        )  # fmt: skip
        for stage in plan.stages:
            if stage.listen:
                raise ConfigError(
                    f"stage {stage.name!r} has listen, for those outside: run it in processes, not inline"
                )
        log.open(folder.path / FILE)
        return Thread(plan, folder, log, trace=tracing).run()


class Thread:
    """One run; `run` may be called once.  `build` brings a stage's code to life."""

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        log: EventLog | None = None,
        build: Callable[[StagePlan, Path], Any] = targets.build,
        trace: TraceFile | None = None,
    ) -> None:
        every = [replace(edge, keep="all") for edge in plan.edges]  # here a reader is never busy
        self.plan = replace(plan, edges=tuple(every))
        self.folder = folder
        self.log = log or EventLog()
        self.build = build
        self.trace = trace
        self.nodes: list[Node] = []
        self._skipped_s = 0.0  # what the machines would have waited for

    def run(self) -> Report:
        """Run to the end, and write the report also of a run that failed."""
        started_s = time.monotonic()
        state, said = DONE, ("", "")
        if self.trace is not None:
            self.trace.begin(self.folder, self.plan, lambda stage: 1)
        self._event(started(self.plan.name, "", self.folder.path))
        try:
            with ExitStack() as stack:
                stack.callback(self._end_trace)
                for stage in self.plan.stages:
                    self.nodes.append(Node(self.plan, stage, self.folder, self.build))
                    stack.push(self.nodes[-1])
                self._join()
                self._work()
        except StageError as error:
            error.detail = error.detail or user_traceback(error)
            state, said = FAILED, (str(error), error.detail)
            # A debugger's post mortem shows the frames of the error itself: let them be the user's.
            raise error.with_traceback(users_own(error).__traceback__)  # noqa: B904
        except BaseException as error:
            state = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
            said = (f"{type(error).__name__}: {error}", "")
            raise
        finally:
            report = self._report(state, time.monotonic() - started_s, *said)
            self.folder.write("report.json", report.to_dict())
            self._event(ended(report.name, report.state, report.error, report.seconds))
        return report

    def _event(self, event: Event) -> None:
        tell(event, self.log, log_event)
        if self.trace is not None:
            self.trace.event(event)

    def _end_trace(self) -> None:
        for line in self.trace.end() if self.trace is not None else ():
            self._event(happened("warning", line))

    def _join(self) -> None:
        by_inc = {node.worker.inc: node for node in self.nodes}
        for node in self.nodes:
            node.others = by_inc
            below = [Peer(edge.to + 1, edge.number) for edge in node.worker.role.outputs]
            above = {self.plan.edges[number].from_ + 1 for number in node.stage.inputs}
            node.worker.roster(time.monotonic(), below, above)

    def _work(self) -> None:
        rounds = 0
        while not all(node.is_complete for node in self.nodes):
            now_s = time.monotonic() + self._skipped_s
            # From the end of the pipeline on: what is on its way goes before what is new.
            called = [node.turn(now_s) for node in reversed(self.nodes)]
            rounds = 0 if any(called) else rounds + 1
            assert rounds < STALLED, "the run stands still"
            if rounds > len(self.nodes):
                self._skipped_s += Limits.sync_s

    def _report(self, state: str, seconds: float, error: str, detail: str) -> Report:
        stages = []
        for node in self.nodes:
            stages.append(stage_report(node.stage.name, 1, 0, node.counters(seconds), seconds))
        rss, pss = read_memory(os.getpid())
        return Report(
            name=self.plan.name, state=state, folder=self.folder.path, seconds=seconds,
            stages=with_letters(stages, Letters(self.folder.dead)),
            processes=(ProcessReport("inline", "", 1, rss, pss),), error=error, detail=detail,
            seed=None,
        )  # fmt: skip


class Node:
    """One stage: its machine, its code, and the nodes it is joined to; `with` closes the code."""

    def __init__(
        self, plan: Plan, stage: StagePlan, folder: RunFolder, build: Callable[[StagePlan, Path], Any]
    ) -> None:
        self.stage = stage
        self.others: Mapping[int, Node] = {}
        self.current = context.Current(
            stage.name, worker=worker_name(stage, 0), lane_names=plan.lane_names, run_key=plan.run_key,
            run_folder=folder.path, variant=stage.variant,
        )  # fmt: skip
        alone = replace(stage, workers=1, wait_s=0.0)
        self.worker = Worker(stage.number + 1, role_of(plan, alone, 0, {}, {}), Limits())
        with self._inside():
            target = build(stage, Path(plan.folder))
            self.caller = Caller(
                stage, target, self.worker, WireCodec(), time.monotonic, self.current, letters=Letters(folder.dead)
            )
            call_hook(stage, target, "warmup")
        self.trace = recorder(folder, self.caller)
        self._activity: Iterator[None] | None = None

    def __enter__(self) -> Node:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._inside(), suppress(*(() if kind is None else (StageError,))):  # the first error explains
            call_hook(self.stage, self.caller.target, "close")
        if self.trace is not None:
            self.trace.close()

    @property
    def is_complete(self) -> bool:
        """Tell whether all that a source has made is settled; other stages have nothing of their own."""
        intake = self.worker.intake
        return not isinstance(intake, Source) or all(p.complete for p in intake.partitions.values())

    def turn(self, now_s: float) -> bool:
        """Go on with the stage's work, send what comes of it, and tell whether its code was called."""
        worker = self.worker
        called = False
        worker.tick(now_s)
        if self._activity is None:
            job = worker.take(self.caller.limit)
            self._activity = self.caller.perform(job) if job is not None else None
            if self.trace is not None and self._activity is not None and job is not None:
                self._activity = self.trace.steps(self._activity, job)
        if self._activity is not None and not worker.outlet.backlog:
            called = True
            time.sleep(max(0.0, self.caller.due_s - time.monotonic()))
            with self._inside():
                if next(self._activity, self) is self:
                    self._activity = None
        if self._activity is None and worker.intake.idle:
            with self._inside():
                self.caller.idle()
        worker.dispatch(now_s)
        worker.flush()
        self._act(now_s)
        return called

    def counters(self, seconds: float) -> dict[str, float]:
        """Return the columns of the report; the time of this one thread is busy here or starved."""
        counts, intake = self.worker.counters, self.worker.intake
        return {
            "done": counts.done,
            "dropped": counts.dropped,
            "dead": counts.dead,
            "out": self.worker.outlet.out_items,
            "errors": self.caller.trouble.errors,
            "repeats": 0 if isinstance(intake, Source) else intake.repeats,
            "busy_s": self.caller.busy_s,
            "starved_s": max(0.0, seconds - self.caller.busy_s),
        }

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Have in force what the stage's code may ask for, its environment among it."""
        env = self.stage.env
        before = {name: os.environ.get(name) for name in env}
        os.environ.update(env)
        try:
            with context.inside(self.current):
                yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def _act(self, now_s: float) -> None:
        """Carry out the machine's actions; saves are not for a run that ends with its process."""
        actions, self.worker.actions[:] = list(self.worker.actions), []
        for kind, *rest in actions:
            if kind == "send":
                self._send(now_s, *rest)
            elif kind == "ack":
                ack: Ack = rest[0]
                self.others[ack.dst].worker.received(now_s, ack)
            elif kind in ("dial", "sync"):
                link: Link = rest[0]
                ends = (self.worker.inc, link.peer.inc, link.gen, link.peer.edge)
                pressed = self.worker.outlet.pressed
                word = Open(*ends, {}) if kind == "dial" else Sync(*ends, link.sent, pressed)
                self.others[link.peer.inc].worker.received(now_s, word)

    def _send(self, now_s: float, link: Link, seq: int, out: Out) -> None:
        ends = (self.worker.inc, link.peer.inc, link.gen, link.peer.edge, seq)
        self.others[link.peer.inc].worker.received(now_s, Data(*ends, _carried(out.run)))


def _carried(run: Run) -> Run:
    """Return a run as it arrives at the other end."""
    message = frames.decode(frames.encode(Data(0, 0, 0, 0, 1, run), crc=False))
    assert isinstance(message, Data)
    return message.run
