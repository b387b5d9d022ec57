"""Keep programs running: start them, notice each death at once, restart or give up.

Knows processes and nothing of pipelines or registries: what a death means is its caller's decision.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from zpipe.processes import forkserver
from zpipe.processes.blame import Noted, Stretch, describe, running_since_s
from zpipe.processes.forkserver import Forked
from zpipe.values.errors import RunError
from zpipe.values.room import lack_of_room

GIVE_UP_DEATHS = 5
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 30.0
TERM_GRACE_S = 2.0
ABORT_GRACE_S = 0.5
LOOK_MIN_S, LOOK_MAX_S = 0.01, 0.25  # how often to look whether a call takes too long
SAID_LINES, SAID_BYTES = 40, 8192  # of a dead program's output that are kept
WITHOUT_PIDFD_S = 0.05  # how often to look where the system has no pidfd


@dataclass(frozen=True)
class Program:
    """What to run under a name; without `log` it shares this process's stdout and stderr."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    log: Path | None = None
    blame: Path | None = None
    timeout_s: float | None = None  # of one call, as it is noted in `blame`


class Restarts:
    """How long to wait before the next life of one program, from its deaths and its progress.

    A program that keeps dying is given up, unless it is to be started again `forever`.
    """

    def __init__(self, *, forever: bool = False) -> None:
        self.deaths = 0  # in a row, without progress
        self._forever = forever
        self._progress = 0

    def died(self, progress: int) -> float | None:
        """Return the seconds to wait, None to give up; `progress` is the count of settled inputs so far."""
        if progress > self._progress:
            self.deaths, self._progress = 0, progress
        self.deaths += 1
        if self.deaths >= GIVE_UP_DEATHS and not self._forever:
            return None
        doublings = min(self.deaths - 2, 32)  # more are no number any more
        return 0.0 if self.deaths == 1 else min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0**doublings)


@dataclass
class Slot:
    """One program and its lives; `pid` is None between them."""

    program: Program
    restarts: Restarts = field(default_factory=Restarts)
    lives: int = 0
    due_s: float | None = 0.0  # when the next life starts; None: not at all
    extra: tuple[str, ...] = ()  # arguments of the next life only
    log_from: int = 0  # where the output of the present life begins
    overdue_s: float | None = None  # since when its call has taken too long
    _process: subprocess.Popen[bytes] | Forked | None = None
    _pidfd: int | None = None

    @property
    def name(self) -> str:
        """Return the program's name."""
        return self.program.name

    @property
    def pid(self) -> int | None:
        """Return the process id of the present life."""
        return self._process.pid if self._process else None

    @property
    def ended(self) -> bool:
        """Return whether nothing runs and nothing will."""
        return self._process is None and self.due_s is None


@dataclass(frozen=True)
class Death:
    """The end of one life: the status is an exit code, or a signal as its negative."""

    slot: Slot
    pid: int
    status: int
    items: tuple[Stretch, ...] = ()  # what it had noted before its call, nothing when unknown
    settled: bool = False  # whether it had settled an input in this life
    reaches: Mapping[int, int] = field(default_factory=dict)  # of a source: how far its partitions had got
    said: str = ""  # the last lines of its output
    timed_out: bool = False  # ended by us because its call took too long

    @property
    def how(self) -> str:
        """Say how it ended: `killed by SIGKILL`, `exited 7`."""
        if self.timed_out:
            return f"took longer than timeout = {self.slot.program.timeout_s:g} s"
        return describe_status(self.status)

    @property
    def running(self) -> str:
        """Name what it was running, "" when unknown."""
        return describe(self.items)


class Supervisor:
    """Run programs as fresh processes, each leading a process group of its own, in one loop of one thread.

    `forever`: a program that keeps dying is never to be given up.  `hands_on` are descriptors that each is given.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, forever: bool = False) -> None:
        self.slots: dict[str, Slot] = {}
        self._clock = clock
        self._forever = forever
        self._fork_server = forkserver.take()
        self._orphaned: set[int] = set()  # groups of dead programs, whose other processes are ours to bury
        self.hands_on: tuple[int, ...] = ()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, program: Program) -> Slot:
        """Take a program in; the next `step` starts it."""
        slot = self.slots[program.name] = Slot(program, Restarts(forever=self._forever))
        return slot

    def restart(self, slot: Slot, delay_s: float, extra: Sequence[str] = ()) -> None:
        """Start the next life of a dead slot in `delay_s` seconds."""
        slot.due_s = self._clock() + delay_s
        slot.extra = tuple(extra)

    def step(self, timeout_s: float, *fds: int) -> list[Death]:
        """Start what is due, wait for a death, a readable `fds` or the time, and return the deaths.

        Raises RunError when a program cannot be started at all.
        """
        self._start_due()
        poll = select.poll()
        for fd in fds:
            poll.register(fd, select.POLLIN)
        running = [slot for slot in self.slots.values() if slot._process]
        for slot in running:
            if slot._pidfd is not None:
                poll.register(slot._pidfd, select.POLLIN)
            else:
                timeout_s = min(timeout_s, WITHOUT_PIDFD_S)
            if slot.program.timeout_s is not None:
                self._look_at_time(slot, slot.program.timeout_s)
                timeout_s = min(timeout_s, max(LOOK_MIN_S, min(slot.program.timeout_s / 10, LOOK_MAX_S)))
        due = [slot.due_s for slot in self.slots.values() if slot.due_s is not None]
        if due:
            timeout_s = min(timeout_s, max(0.0, min(due) - self._clock()))
        poll.poll(max(0.0, timeout_s) * 1000)
        self._bury()
        return [death for slot in running if (death := self._reap(slot))]

    def _look_at_time(self, slot: Slot, timeout_s: float) -> None:
        """End a life whose call takes too long: SIGABRT lets Python say where it is, SIGKILL follows."""
        now_s = self._clock()
        if slot.overdue_s is not None:
            if now_s - slot.overdue_s >= ABORT_GRACE_S:
                self.kill(slot)
            return
        since_s = running_since_s(slot.program.blame) if slot.program.blame else None
        if since_s is not None and now_s - since_s >= timeout_s:
            slot.overdue_s = now_s
            self.kill(slot, signal.SIGABRT)

    def kill(self, slot: Slot, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the present life of a slot and to what it has started."""
        if slot._process:
            _signal_group(slot._process.pid, how)

    def stop(self, slot: Slot) -> None:
        """Let a slot have no further life."""
        slot.due_s = None

    def close(self, grace_s: float = TERM_GRACE_S) -> None:
        """End everything: SIGTERM, and SIGKILL to what is left after `grace_s`."""
        for slot in self.slots.values():
            self.stop(slot)
            self.kill(slot, signal.SIGTERM)
        deadline_s = self._clock() + grace_s
        while self._alive() and (left_s := deadline_s - self._clock()) > 0:
            self.step(left_s)
        for slot in self._alive():
            self.kill(slot)
        while self._alive():
            self.step(1.0)
        self._fork_server.close()

    def _alive(self) -> list[Slot]:
        return [slot for slot in self.slots.values() if slot._process]

    def _start_due(self) -> None:
        now_s = self._clock()
        for slot in self.slots.values():
            if slot.due_s is not None and slot.due_s <= now_s:
                slot.due_s = None
                self._start(slot)

    def _start(self, slot: Slot) -> None:
        program = slot.program
        argv = [*program.argv, *slot.extra]
        log = _open_log(program.log) if program.log else None
        slot.log_from, slot.overdue_s = log.tell() if log else 0, None
        try:
            forked = self._fork_server.start(argv, program.env, log.fileno() if log else None, self.hands_on)
            slot._process = forked or subprocess.Popen(
                argv, env=dict(program.env), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=self.hands_on,
                process_group=0,  # the terminal's Ctrl-C must reach this process only
            )  # fmt: skip
        except OSError as error:
            raise RunError(f"{slot.name}: cannot start {program.argv[0]}: {error.strerror}") from error
        finally:
            if log:
                log.close()
        slot.lives += 1
        slot._pidfd = _open_pidfd(slot._process.pid)

    def _bury(self) -> None:
        """Reap what dead programs have left behind, where this process has become its parent."""
        for group in list(self._orphaned):
            try:
                while os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG) is not None:
                    pass
            except ChildProcessError:
                self._orphaned.discard(group)

    def _reap(self, slot: Slot) -> Death | None:
        process = slot._process
        if process is None or not _has_ended(process.pid):
            return None
        # Before the pid is given back: it is also the name of the group that its own children are in.
        _signal_group(process.pid, signal.SIGKILL)
        status = process.wait()
        self._orphaned.add(process.pid)
        if slot._pidfd is not None:
            os.close(slot._pidfd)
        slot._process = slot._pidfd = None
        blame = slot.program.blame
        noted, said = Noted(blame), last_lines(slot.program.log, slot.log_from)
        death = Death(
            slot, process.pid, status, noted.items, noted.has_settled, noted.reaches, said,
            timed_out=slot.overdue_s is not None,
        )  # fmt: skip
        if blame is not None:
            blame.unlink(missing_ok=True)  # the next life may die before it has notes of its own
        return death


def describe_status(status: int) -> str:
    """Say how a process ended: `killed by SIGSEGV`, `exited 7`."""
    if status >= 0:
        return f"exited {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:  # real-time signals have no name
        return f"killed by signal {-status}"


def last_line(log: Path | None) -> str:
    """Return the last line that a program wrote, "" without one."""
    return last_lines(log).rpartition("\n")[2].strip()


def last_lines(log: Path | None, start: int = 0) -> str:
    """Return the last lines that a program wrote from byte `start` of its log on, "" without any."""
    if log is None or not log.exists():
        return ""
    with open(log, "rb") as file:
        file.seek(max(start, log.stat().st_size - SAID_BYTES))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return "\n".join(lines[-SAID_LINES:])


def _open_log(path: Path) -> IO[bytes]:
    """Open a log; what would go to one that the disk has no room for is lost."""
    try:
        return open(path, "ab")
    except OSError as error:
        if not lack_of_room(error):
            raise
        return open(os.devnull, "ab")


def _has_ended(pid: int) -> bool:
    """Look without reaping, so that the pid stays ours."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _signal_group(pid: int, how: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it has gone, with everything it started
        os.killpg(pid, how)
