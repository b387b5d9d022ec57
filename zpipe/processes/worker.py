"""A worker: one process that runs one stage, `python -m zpipe.processes.worker STAGE --registry ADDR ...`.

One thread owns the sockets, the machine and the stage's code; a small second one keeps up the dialogue with
the registry.  At a source a third one stands in for the first while the source's code runs.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import math
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from zpipe.core.limits import Limits
from zpipe.core.memory import Memory
from zpipe.core.outlet import Peer
from zpipe.core.source import Position, Source
from zpipe.core.worker import Worker
from zpipe.processes import failpoints
from zpipe.processes.access import Access, host_for
from zpipe.processes.blame import Blame
from zpipe.processes.caller import Caller
from zpipe.processes.codec import WireCodec
from zpipe.processes.control import Control
from zpipe.processes.exits import EXIT_DONE, EXIT_DRAINED, EXIT_FAILED, EXIT_FENCED
from zpipe.processes.letters import Letters
from zpipe.processes.links import Links
from zpipe.processes.output import lose_lines
from zpipe.processes.patience import Patience
from zpipe.processes.roles import role_of
from zpipe.processes.runfolder import RunFolder, is_shared
from zpipe.processes.saves import Saves
from zpipe.processes.sourcecalls import SourceCalls
from zpipe.processes.standin import StandIn
from zpipe.processes.system import die_with, keep_memory
from zpipe.processes.taps import Taps
from zpipe.processes.targets import build, call_hook, user_traceback
from zpipe.processes.trace import SAVE, START, Recorder, recorder
from zpipe.transport.shared import SharedMemory
from zpipe.values import context
from zpipe.values.code import difference
from zpipe.values.errors import RegistryError, SaveError, StageError, ZpipeError
from zpipe.values.plan import Plan, StagePlan

if TYPE_CHECKING:
    from zpipe.processes.entry import Entry
    from zpipe.processes.gate import Gate

WELCOME_S = 10.0  # for the registry's first answer
GOODBYE_S = 2.0  # for its last
LEAVE_S = 0.2  # from a drained worker's last ack to its end, for the ack to arrive
IDLE_S = 0.05  # links are probed this often
IDLE_MS = 50  # longest sleep
RETRY_MS = 2  # sleep while something could not be sent yet
LOOK_S = 0.0005  # while there is work at hand, what has arrived is taken in this often
GC_THRESHOLD = (20_000, 20, 20)


class Dismissed(Exception):
    """This life is over: its run has ended, it was told to leave, or another has its place."""


class WorkerProcess:
    """Everything one life of a worker holds."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.inc = secrets.randbits(63) + 1
        self.state = "joining"
        self.worker: Worker | None = None
        self.caller: Caller | None = None
        self.links: Links | None = None
        self.memory: SharedMemory | None = None
        self.taps: Taps | None = None
        self.trace: Recorder | None = None
        self.gate: Gate | None = None
        self.entry: Entry | None = None
        self.listens: dict[str, str] = {}  # where those outside reach either
        self.plan: Plan | None = None
        self.stage: StagePlan | None = None
        self.current: context.Current | None = None
        self.patience = Patience()
        self.called_s: float | None = None  # since when the stage's code has been running
        self.starved_s = self.blocked_s = 0.0
        self.cpu_began_s = 0.0  # what the start of the process took
        self.frames = 0  # taken in or made since the last flush
        self.flushed_s = self.ticked_s = 0.0  # when that was, and when the links were last looked after
        self.begun = 0  # how much was settled when this life began
        self.sources: dict[int, list[Any]] = {}
        self.receivers: dict[int, Peer] = {}
        self.senders: set[int] = set()
        self.desired = "run"
        self.other_code = False  # than the run began with
        self.drained_s: float | None = None  # since when nothing is left to do for a worker that is to leave
        self.keys = Access(options.keys, options.insecure).to(options.registry)
        self.control = Control(
            options.registry,
            {
                "inc": self.inc, "stage": options.stage, "slot": options.slot, "pid": os.getpid(),
                "host": socket.gethostname(), "supervisor": f"{socket.gethostname()}:{options.parent}",
                "replaces": options.replaces,
            },
            self.report,
            keys=self.keys,
        )  # fmt: skip

    # -- life ---------------------------------------------------------------------------------------

    def run(self) -> int:
        """Live until the registry says that the run is over; returns the exit code."""
        self.control.start()
        return self._end(self._live)

    def _live(self) -> int:
        began_s = time.monotonic()
        target: Any = None
        try:
            target = self._join()
            if self.trace is not None:
                self.trace.span(START, "start", began_s)
            if self.gate is not None:
                self._serve(self.gate)
            self._loop()
        except Dismissed:
            return self._leave(target)

    def _end(self, last: Callable[[], int]) -> int:
        """Return the exit code of the last that this life does, whatever comes of it; nothing is left to do then."""
        try:
            return last()
        except SaveError as error:
            if self.control.fenced or "later life" in str(error):
                return EXIT_FENCED
            return self._fail(error)
        except RegistryError as error:
            print(f"zpipe: {error}", file=sys.stderr)
            return exit_code(error, self.options.slot)
        except ZpipeError as error:
            if self.state == "joining" and self.options.slot is None:
                return self._stay_out(error)
            return self._fail(error)
        finally:
            self.control.stop()
            if self.caller is not None and self.caller.source is not None:
                self.caller.source.lock.acquire()  # a handler of a signal may have raised where it was not taken back
            if self.links is not None:
                self.links.close()
            if self.trace is not None:
                self.trace.close()

    def _leave(self, target: Any) -> int:
        if self.control.fenced:
            return EXIT_FENCED
        failpoints.hit("over")
        if target is not None:
            self._close(target)
        self._say_goodbye()
        return EXIT_DRAINED if self.desired == "drain" else EXIT_DONE

    def _join(self) -> Any:
        welcome = self.control.welcome(WELCOME_S)
        host = host_for(self.options.registry, self.options.host, self.keys, insecure=self.options.insecure)
        plan = self.plan = Plan.from_dict(welcome["plan"])
        stage = self.stage = plan.stages[welcome["stage_number"]]
        os.environ.update(stage.env)  # before anything of the user's is imported
        os.environ["ZPIPE_WORKER"] = welcome["worker"]
        folder, here = Path(welcome["run_folder"]), welcome.get("here")
        home = Path(plan.home or folder)
        self._check_folder(stage, folder, is_here=is_shared(folder, here))
        failpoints.arm(stage.stage, folder)
        self.current = context.Current(
            stage.name, worker=welcome["worker"], lane_names=plan.lane_names, run_key=welcome["run_key"],
            run_folder=home if is_shared(home, here) else None, variant=stage.variant,
        )  # fmt: skip
        context.enter(self.current)
        make = partial(build, stage, Path(plan.folder))
        target = make() if stage.outputs else self._until_room(make)
        self._compare(plan, stage)
        call_hook(stage, target, "warmup")
        marks = {
            int(lane): (Position(*at), int(lane) in welcome["complete"]) for lane, at in welcome["watermarks"].items()
        }
        reaches = {int(lane): reach for lane, reach in welcome["reach"].items()}
        worker = self.worker = Worker(self.inc, role_of(plan, stage, welcome["slot"], marks, reaches), Limits())
        if isinstance(worker.intake, Source):
            # From the start: an earlier life that was told to stop may have sent its ends.
            worker.intake.stopping = welcome["desired"] == "drain"
            self._publish_sources(worker)
        saves = Saves(folder / "saves", stage.name, welcome["fence"])
        blame = Blame(self.options.blame, self.current, tuple(marks), timed=stage.timeout is not None)
        letters = Letters(RunFolder(folder).dead)
        self.caller = Caller(
            stage, target, worker, WireCodec(), time.monotonic, self.current, blame, letters, self.patience
        )  # fmt: skip
        self.caller.trouble.suspect(welcome["suspects"])
        sockets_dir = welcome.get("sockets_dir")
        if sockets_dir is not None and not is_shared(Path(sockets_dir), here):
            sockets_dir = None
        transport = welcome.get("transport", "auto")
        self.memory = None if transport == "tcp" or sockets_dir is None else SharedMemory(welcome["worker"])
        self.links = Links(
            worker, host=host, sockets_dir=sockets_dir, transport=transport, stage=stage.name,
            save=lambda save: self._save(saves, save), keys=self.keys, admitted=welcome.get("keys", ()),
            memory=self.memory,
        )  # fmt: skip
        self.taps = Taps(self.caller, self.links.context, keys=self.keys)
        if stage.listen:
            self._listen(stage, folder, target, sockets_dir)
        self.trace = recorder(RunFolder(folder), self.caller)
        if stage.memory:
            self._until_room(saves.claim)
            save = self._until_room(saves.read)
            if save is not None:
                worker.restore(save)
                self.caller.restore(save.state)
        self.state, self.cpu_began_s = "live", time.process_time()
        self.control.beat_now()
        gc.freeze()  # what was imported stays: the collector need not look at it again,
        gc.set_threshold(*GC_THRESHOLD)  # nor at every seven hundredth object of items that come and go
        return target

    def _listen(self, stage: StagePlan, folder: Path, target: Any, sockets_dir: str | None) -> None:
        """Open the addresses of a stage at which those outside take part.  Raises StageError."""
        from zpipe.core.leases import LEASE_S  # few stages need any of this
        from zpipe.processes.doors import Doors
        from zpipe.processes.hands import crew_of
        from zpipe.transport.waiting import Waiter

        assert self.links is not None and self.caller is not None and self.plan is not None
        poller = self.links.poller if stage.is_gate else Waiter()  # an entry has a thread of its own
        doors = Doors(
            self.links.context, stage.name, stage.listen, RunFolder(folder), keys=self.keys,
            insecure=self.options.insecure, poller=poller, own=stage.crew > 0, sockets_dir=sockets_dir,
        )  # fmt: skip
        self.listens = doors.endpoints
        if stage.is_gate:
            self.gate = target
            hands = crew_of(stage, Path(self.plan.folder), doors.near) if stage.crew else None
            target.open(self.caller, doors, float(stage.listen.get("lease_s", LEASE_S)), hands)
        else:
            self.entry = target
            target.open(doors, poller)

    def _check_folder(self, stage: StagePlan, folder: Path, *, is_here: bool) -> None:
        """Raise StageError for a stage whose saves or dead letters would have nowhere to go."""
        if is_here or not (stage.memory or stage.on_error == "dead-letter"):
            return
        what = "has a memory and saves" if stage.memory else "puts dead letters"
        raise StageError(
            f"stage {stage.name!r} {what} into the run folder, {folder}, which is not on this host: start its worker "
            "where the registry is"
        )

    def _compare(self, plan: Plan, stage: StagePlan) -> None:
        """See that the code imported here is the run's.  Raises StageError where somebody joins with another."""
        other = difference(plan.code, Path(plan.folder))
        if not other:
            return
        line = f"stage {stage.name!r}: {other} is not the code that the run began with"
        if self.options.slot is None and self.options.replaces is None and not self.options.any_code:
            raise StageError(f"{line}: use the same version of it, or join with --any-code")
        print(f"zpipe: {line}", file=sys.stderr)
        self.other_code = True

    def _save(self, saves: Saves, save: Any) -> None:
        if not saves.is_ours():
            raise SaveError(f"a later life of stage {saves.stage!r} has taken over")
        failpoints.hit("save")
        began_s = time.monotonic()
        self._until_room(partial(saves.write, save))
        if self.trace is not None:
            self.trace.span(SAVE, "save", began_s)
        failpoints.hit("saved")

    def _until_room(self, call: Callable[[], Any]) -> Any:
        """Call until the disk has room for what that writes, and return the result; takes in messages meanwhile.

        Raises Dismissed when the run ends before.
        """
        while True:
            try:
                result = call()
            except ZpipeError as error:
                pause_s = self.patience.pause_s(error)
                if pause_s is None:
                    raise
            else:
                self.patience.over()
                return result
            self._wait(time.monotonic() + pause_s)

    def _wait(self, until_s: float) -> None:
        """Wait until then, heeding the registry and, once this worker takes part, its peers.  Raises Dismissed."""
        while (left_s := until_s - time.monotonic()) > 0:
            if self.state != "live" or self.links is None:
                time.sleep(min(left_s, IDLE_S))
                desired = self.control.inbox[-1]["desired"] if self.control.inbox else self.desired
                if self.control.fenced or desired == "exit":
                    raise Dismissed
            else:
                self.links.wait(min(IDLE_MS, math.ceil(1000 * left_s)))
                self.links.receive(time.monotonic())
                self._heed(time.monotonic())
                self.links.share(time.monotonic())
            self._look_at_parent()

    def _close(self, target: Any) -> None:
        assert self.stage is not None
        call_hook(self.stage, target, "close")

    def _say_goodbye(self) -> None:
        try:
            self.control.request({"t": "BYE", "inc": self.inc, "counters": self._counters()}, GOODBYE_S)
        except RegistryError:
            pass  # it is gone: so is the run

    def _stay_out(self, error: ZpipeError) -> int:
        """End a worker that somebody wanted to join and that cannot: the run goes on without it."""
        self._print(error)
        self._say_goodbye()
        return EXIT_FAILED

    def _print(self, error: ZpipeError) -> str:
        """Print an error with what led to it, and return that."""
        detail = getattr(error, "detail", "") or (user_traceback(error.__cause__) if error.__cause__ else "")
        print(f"{detail}zpipe: {error}", file=sys.stderr)
        return detail

    def _fail(self, error: ZpipeError) -> int:
        detail = self._print(error)
        message = {"t": "FAILED", "inc": self.inc, "worker": "", "error": str(error), "detail": detail}
        try:
            self.control.request(message, GOODBYE_S)
        except RegistryError as lost:
            print(f"zpipe: {lost}", file=sys.stderr)
        return EXIT_FAILED

    # -- the loop -----------------------------------------------------------------------------------

    def _loop(self) -> NoReturn:
        """Call the stage's code and look after everything else in between.  Raises Dismissed at the end."""
        assert self.worker is not None and self.caller is not None
        assert self.links is not None and self.taps is not None
        worker, caller, links, taps = self.worker, self.caller, self.links, self.taps
        trace = self.trace
        heard = self.control.fileno()
        links.poller.register(heard)
        limits, clock = worker.limits, time.monotonic
        activity: Any = None
        self.flushed_s = self.ticked_s = clock()
        received_s = 0.0
        self.begun = _progress(worker)
        if caller.source is not None:
            StandIn(caller.source, partial(self._stand_in, caller.source), self._end_at_once).start()
        while True:
            now_s = clock()
            if now_s - received_s >= LOOK_S or worker.is_idle or worker.outlet.backlog:
                received_s = now_s
                self._take_in(now_s)
            job = None
            if activity is None:
                job = worker.take(caller.limit)
                if job is not None:
                    self.called_s = now_s
                    if taps.given is not None:
                        taps.given(job)
                    activity = caller.perform(job)
                    if trace is not None:
                        activity = trace.steps(activity, job)
            if activity is not None and not worker.outlet.backlog and now_s >= caller.due_s:
                if next(activity, activity) is activity:
                    activity = None
                    self.called_s = None
                self.frames += 1
            now_s = clock()
            worker.dispatch(now_s)
            links.act(now_s)
            blocked = worker.outlet.backlog
            waits = activity is not None and now_s < caller.due_s
            idle = waits or (activity is None and worker.is_idle)
            if idle and not waits:
                caller.idle()
            may_wait = worker.may_wait
            if not (self.frames or may_wait):
                self.flushed_s = now_s  # nothing is to be told yet: from the first that is, others may join it
            flush_s = self.flushed_s + (limits.rest_s if may_wait else limits.ack_s)
            due = self.frames >= limits.ack_frames or now_s >= flush_s
            held_back = not due and may_wait
            if due or ((idle or blocked) and not held_back):
                self._flush(now_s)
            if waits or (idle and worker.is_idle) or blocked:
                waiting = links.retry(now_s)
                if not (self.control.inbox or worker.actions):
                    due_s = caller.due_s if waits else worker.due_s
                    if held_back:
                        due_s = flush_s if due_s is None else min(due_s, flush_s)
                    readable = links.wait(RETRY_MS if waiting else _sleep_ms(due_s, now_s))
                    slept_s = clock() - now_s
                    if heard in readable:
                        self._heed(clock())  # even when there is nothing: what woke us is taken note of
                    if waits or blocked or (isinstance(worker.intake, Source) and not self._is_complete(worker)):
                        self.blocked_s += slept_s
                    else:
                        self.starved_s += slept_s
            elif links.pending:
                links.retry(now_s)

    def _serve(self, gate: Gate) -> NoReturn:
        """Let workers outside do what there is, and look after everything else.  Raises Dismissed at the end."""
        assert self.worker is not None and self.links is not None
        worker, links = self.worker, self.links
        heard = self.control.fileno()
        links.poller.register(heard)
        clock = time.monotonic
        self.flushed_s = self.ticked_s = clock()
        self.begun = _progress(worker)
        while True:
            now_s = clock()
            self._take_in(now_s)
            worker.calling = gate.is_open
            busy = gate.turn(now_s)
            worker.calling = gate.is_open
            worker.dispatch(now_s)
            links.act(now_s)
            now_s = clock()
            if not busy or now_s - self.flushed_s >= worker.limits.ack_s:
                self._flush(now_s)
            waiting = links.retry(now_s)
            if busy or self.control.inbox or worker.actions:
                continue
            due_ms = max(0, math.ceil(1000 * (min(gate.due_s(now_s), now_s + 1.0) - now_s)))
            readable = links.wait(RETRY_MS if waiting else min(IDLE_MS, due_ms))
            slept_s = clock() - now_s
            if heard in readable:
                self._heed(clock())
            if worker.outlet.backlog:
                self.blocked_s += slept_s
            elif not gate.is_open:
                self.starved_s += slept_s

    def _take_in(self, now_s: float) -> None:
        """Take in what has come, and now and then look after the links.  Raises Dismissed."""
        assert self.worker is not None and self.links is not None
        if self.control.inbox or self.control.fenced:
            self._heed(now_s)
        if self._may_leave(now_s):
            raise Dismissed
        self.frames += self.links.receive(now_s)
        if now_s - self.ticked_s >= IDLE_S:
            self.ticked_s = now_s
            self.worker.tick(now_s)
            self.links.look_out(now_s, _rss)
            self.links.share(now_s)
            if self.trace is not None:
                self.trace.tick(now_s)
            self._look_at_parent()

    def _flush(self, now_s: float) -> None:
        """Acknowledge what is settled, and send what that lets go."""
        assert self.worker is not None and self.links is not None and self.caller is not None
        worker = self.worker
        worker.flush()
        worker.dispatch(now_s)
        self.links.act(now_s)
        self.flushed_s, self.frames = now_s, 0
        if not self.caller.blame.settled[0] and _progress(worker) != self.begun:
            self.caller.blame.settled[0] = 1
        if isinstance(worker.intake, Source):
            self._publish_sources(worker)

    def _stand_in(self, source: SourceCalls) -> bool:
        """Do what the loop does between two calls; tells whether there was anything.  Raises Dismissed.

        Called in another thread, while that of the loop is inside of the source's code.
        """
        assert self.links is not None
        now_s = time.monotonic()
        self._take_in(now_s)
        busy = source.hand_over() or self.frames > 0
        self._flush(now_s)
        return self.links.retry(now_s) or busy

    def _end_at_once(self, error: BaseException) -> NoReturn:
        """End the process by what has come of standing in: the source's code may never return."""

        def last() -> int:
            if isinstance(error, Dismissed):
                return self._leave(None)  # whose `close` is for a source that has come back
            raise error

        code = EXIT_FAILED
        try:
            code = self._end(last)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            _exit(code)

    def _heed(self, now_s: float) -> None:
        """Take in what the registry says.  Raises Dismissed when that is the end."""
        assert self.worker is not None and self.taps is not None and self.caller is not None
        self.control.clear()
        while self.control.inbox:
            state = self.control.inbox.popleft()
            self.desired = state["desired"]
            if "roster" in state:
                self._take_roster(now_s, state["roster"])
            self.taps.heed(state.get("taps", ()), now_s)
            self.caller.trouble.suspect(state.get("suspects", ()))
            if self.entry is not None:
                self._tell_settled(self.entry, state.get("watermarks") or {})
        if not isinstance(self.worker.intake, Source):
            self.worker.draining = self.desired == "drain"
        elif self.desired == "drain":
            self.worker.intake.stopping = True
            if self.entry is not None:
                self.entry.stopping = True
        if self.desired == "exit" or self.control.fenced:
            raise Dismissed

    def _tell_settled(self, entry: Entry, watermarks: dict[Any, Sequence[int]]) -> None:
        """Let an entry know what the registry has stored to be settled."""
        assert self.stage is not None
        for lane, mark in watermarks.items():
            if int(lane) in self.stage.lanes:
                entry.settled = mark[0]

    def _may_leave(self, now_s: float) -> bool:
        """Tell whether a worker that was told to leave has nothing left to do, and its last ack has had its time."""
        assert self.worker is not None
        if not self.worker.is_drained:
            self.drained_s = None
        elif self.drained_s is None:
            self.drained_s = now_s
        return self.drained_s is not None and now_s - self.drained_s >= LEAVE_S

    def _take_roster(self, now_s: float, roster: dict[str, Any]) -> None:
        assert self.plan is not None and self.stage is not None
        assert self.worker is not None and self.links is not None
        receivers: dict[int, Peer] = {}
        senders: set[int] = set()
        for peer in roster["peers"]:
            self.links.names[peer["inc"]] = peer["worker"]
            self.links.peer_keys[peer["inc"]] = peer.get("key", "")
            for edge in self.plan.edges:
                if edge.from_ == self.stage.number and edge.to == peer["stage_number"]:
                    inbox = tuple(peer["inbox"])
                    receivers[peer["inc"]] = Peer(peer["inc"], edge.number, peer["worker"], inbox)
                elif edge.to == self.stage.number and edge.from_ == peer["stage_number"]:
                    senders.add(peer["inc"])
        if roster.get("only_adds"):
            receivers = {**self.receivers, **receivers}
            senders |= self.senders
        self.receivers, self.senders = receivers, senders
        self.links.admit(now_s, roster.get("keys", ()))
        self.worker.roster(now_s, list(receivers.values()), set(senders))

    def _publish_sources(self, worker: Worker) -> None:
        source = worker.intake
        assert isinstance(source, Source)
        before = self.sources
        self.sources = {
            lane: [at.position, at.epoch, at.epoch_start, complete, source.partitions[lane].at.position]
            for lane, (at, complete) in source.watermarks().items()
        }
        if any(row[3] and not (before.get(lane) or row)[3] for lane, row in self.sources.items()):
            self.control.beat_now()

    def _is_complete(self, worker: Worker) -> bool:
        source = worker.intake
        assert isinstance(source, Source)
        return all(partition.complete for partition in source.partitions.values())

    def _look_at_parent(self) -> None:
        if self.options.parent and os.getppid() != self.options.parent:
            os._exit(EXIT_FAILED)  # nobody would restart this worker, and nobody would end it

    # -- what the registry is told ------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """Return the changing part of a beat; called in the thread of the dialogue."""
        worker, links, current = self.worker, self.links, self.current
        if worker is None or links is None or current is None:
            return {"state": "joining", "waits": self.patience.lack}
        running = None
        called_s, run = self.called_s, current.run
        if called_s is not None and run is not None and not self.patience.lack:
            running = {
                "path": run.text(current.lane_names, min(current.index, run.n - 1)),
                "age_s": time.monotonic() - called_s,
            }
        return {
            "state": self.state, "inbox": links.inbox_endpoints, "acks": links.acks_endpoints,
            "counters": self._counters(), "running": running, "sources": self.sources,
            "calls": {} if self.caller is None else dict(self.caller.calls), "edges": self._edges(worker, links),
            "resolved": [] if self.caller is None else list(self.caller.trouble.resolved),
            "waits": self.patience.lack, "listen": self.listens,
        }  # fmt: skip

    def _edges(self, worker: Worker, links: Links) -> dict[int, dict[str, Any]]:
        """Return what is told of each edge, from this end of it."""
        edges: dict[int, dict[str, Any]] = {}
        transports = links.transports()
        for edge in worker.outlet.edges.values():
            sent, sent_bytes = edge.sent()
            edges[edge.number] = {
                "sent": sent, "sent_bytes": sent_bytes, "in_flight": edge.unsettled_items,
                "latency": dict(edge.latency), "transports": sorted(transports.get(edge.number, ())),
            }  # fmt: skip
        for number, queued in (worker.inlet.queued() if worker.inlet is not None else {}).items():
            edges.setdefault(number, {})["queued"] = queued
        return edges

    def _counters(self) -> dict[str, int | float]:
        worker, caller = self.worker, self.caller
        if worker is None or caller is None:
            return {}
        intake, counters = worker.intake, worker.counters
        inlet = worker.inlet
        return {
            "in": counters.arrived, "done": counters.done, "dropped": counters.dropped, "dead": counters.dead,
            "out": worker.outlet.out_items, "skipped": worker.outlet.skipped_items,
            "errors": caller.trouble.errors,
            "repeats": 0 if isinstance(intake, Source) else intake.repeats,
            "queued": 0 if isinstance(intake, Source) else intake.queued_items,
            "in_flight": worker.outlet.unsettled_items,
            "retained_bytes": worker.outlet.unsettled_bytes,
            "busy_s": caller.busy_s, "starved_s": self.starved_s, "blocked_s": self.blocked_s,
            "cpu_s": time.process_time() - self.cpu_began_s,
            "refused": (inlet.refused if inlet is not None else 0) + (self.links.refused if self.links else 0)
            + (self.gate.refused if self.gate else 0) + (self.entry.refused if self.entry else 0),
            "outside": self.gate.workers if self.gate else 0,
            "other_code": int(self.other_code), "unreached": len(self.links.unreached) if self.links else 0,
            "shared": self.memory.nbytes if self.memory else 0, "unshared": self.memory.full if self.memory else 0,
            "rss": _rss(), "saves": int(isinstance(intake, Memory) and intake.saves),
        }  # fmt: skip


def exit_code(error: RegistryError, slot: int | None) -> int:
    """Return how a worker ends that may not join: for one with a slot of its own that may pass, so it is started again.

    The slot may still be an earlier life's, and a registry that does not answer will be back.
    """
    again = error.code == 410 or (error.code in (0, 409) and slot is not None)
    return EXIT_FENCED if again else EXIT_FAILED


def _sleep_ms(due_s: float | None, now_s: float) -> int:
    """Return how long to sleep: until a block that waits to fill is due, at the latest."""
    return IDLE_MS if due_s is None else min(IDLE_MS, max(0, math.ceil(1000 * (due_s - now_s))))


def _progress(worker: Worker) -> int:
    """Return what grows with the first input that is settled: of a source, the watermarks."""
    if isinstance(worker.intake, Source):
        return sum(partition.watermark for partition in worker.intake.partitions.values())
    return sum(link.base - 1 + len(link.ranges) for link in worker.inlet.links.values()) if worker.inlet else 0


def _rss() -> int:
    """Return the resident bytes of this process, 0 where that is not to be had."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _exit(code: int) -> NoReturn:
    """End the process at once: libzmq's threads and the user's need no farewell."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one life of a worker; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m zpipe.processes.worker", description=__doc__)
    parser.add_argument("stage")
    parser.add_argument("--registry", required=True)
    parser.add_argument("--slot", type=int)
    parser.add_argument("--blame", type=Path)
    parser.add_argument("--parent", type=int, default=0)
    parser.add_argument("--replaces", type=int)
    parser.add_argument("--any-code", action="store_true")
    parser.add_argument("--host", default="")
    parser.add_argument("--keys", type=Path)
    parser.add_argument("--insecure", action="store_true")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole group: the launcher decides
    if not die_with(options.parent):
        return EXIT_FAILED
    lose_lines()
    keep_memory()
    faulthandler.enable(all_threads=False)  # the last lines of one that a crash ends say where
    try:
        process = WorkerProcess(options)
    except ZpipeError as error:  # its keys
        print(f"zpipe: {error}", file=sys.stderr)
        return EXIT_FAILED
    return process.run()


if __name__ == "__main__":
    _exit(main())
