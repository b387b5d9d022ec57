"""A run as a service: it has a name to itself, a process in the background, and a start that can be waited for.

Knows how the process of a service is started, watched and ended; what happens within it is the launcher's.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from zpipe.processes import commands, launcher
from zpipe.processes.access import Access
from zpipe.processes.client import Client
from zpipe.processes.events import FILE, Event, OnEvent
from zpipe.processes.exits import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from zpipe.processes.logs import Tail
from zpipe.processes.metrics import Metrics
from zpipe.processes.output import lose_lines
from zpipe.processes.report import DONE, INTERRUPTED, Report, read_report
from zpipe.processes.runfolder import LAUNCHER, RunFolder, live_runs, private_folder
from zpipe.processes.supervisor import describe_status, last_line
from zpipe.values.errors import ConfigError, RegistryError, RunError, ZpipeError
from zpipe.values.plan import Plan

LOOK_S = 0.1  # how often to look how the start gets on
TABLE_S = 1.0  # for the registry to answer
NAME_S = 30.0  # for another service of the name to be seen once it has started, or to be gone once it has ended
STOP_AGAIN_S = 0.5  # between two signals: the first would drain, the second stops, the third kills
STOP_S = 10.0  # until the process is killed itself


@dataclass(frozen=True)
class Service:
    """What a service is started with; its name is held by whoever has `claimed` it."""

    name: str
    plan: Plan
    folder: RunFolder
    transport: str = "auto"
    bind: str = launcher.ANY_PORT
    access: Access = Access()
    metrics: str | None = None
    events: Path | None = None

    def run(self, on_event: OnEvent, progress: launcher.Progress | None = None) -> Report:
        """Run in this process until it is told to end.  Raises ConfigError and RunError."""
        return launcher.launch(
            lambda: (self.plan, self.folder), events=self.events, metrics=self.metrics, progress=progress,
            transport=self.transport, bind=self.bind, access=self.access, service=self.name, on_event=on_event,
        )  # fmt: skip


@contextmanager
def claimed(name: str) -> Iterator[int]:
    """Have a name to oneself and yield the lock, which a process it is handed on to keeps.

    The system lets go of it when the last that has it ends, however it ends.  Raises ConfigError when a service of
    this user has the name.
    """
    path = private_folder("services") / f"{name}.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline_s = time.monotonic() + NAME_S
        while not _locked(lock):
            for run in live_runs():
                if run.service == name:
                    raise ConfigError(
                        f"service {name!r} is up already, at {run.address} ({run.folder}): end it with "
                        f"zpipe down --registry {run.address}, or give this one another name with --name"
                    )
            if time.monotonic() >= deadline_s:
                raise ConfigError(f"service {name!r} is about to start or to end: give this one another --name")
            time.sleep(LOOK_S)  # nothing tells when it is one or the other
        yield lock
    finally:
        os.close(lock)


class Background:
    """The process of a service, apart from this one's terminal and session; `with` ends it unless it is `left`.

    `on_event` is told what happens meanwhile.
    """

    def __init__(self, service: Service, lock: int, on_event: OnEvent) -> None:
        self.service = service
        self._lock = lock
        self._event = on_event
        self._log = service.folder.log(LAUNCHER)
        self._events = Tail(service.folder.path / FILE)
        self._events.skip()  # of the lives before, where it is resumed
        self._told: dict[str, Event] = {}  # by kind, the last
        self._is_left = False

    def __enter__(self) -> Background:
        argv, env = commands.service(self.service.folder, self._lock, self._options())
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                pass_fds=[self._lock],
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_left:
            self._stop()

    @property
    def has_ended(self) -> bool:
        """Tell whether its end was seen."""
        return self._process.returncode is not None

    def wait_until_found(self) -> str:
        """Return the registry's address when that and the metrics can be reached.  Raises as `Service.run` does."""
        while not ("started" in self._told and (self.service.metrics is None or "metrics" in self._told)):
            self._wait(LOOK_S)
        return str(self._told["started"].data["address"])

    def wait_until_warm(self, address: str, timeout_s: float) -> None:
        """Wait until each stage has all its workers, or until all has ended well.  Raises RunError."""
        metrics = Metrics.of(self.service.plan)
        deadline_s = time.monotonic() + timeout_s
        with Client(address, self.service.access.to(address)) as client:
            while lacking := metrics.lacking():
                if time.monotonic() >= deadline_s:
                    raise RunError(
                        f"service {self.service.name!r} is not warm after {timeout_s:g} s and was ended: "
                        f"{'; '.join(lacking)}: see {self._log.parent}, or wait longer with --timeout"
                    )
                if self._wait(LOOK_S):
                    return
                with suppress(RegistryError):  # it was killed, and is started again
                    metrics.see(client.request({"t": "PS"}, TABLE_S))

    def leave(self) -> None:
        """Let it go on when `with` is over."""
        self._is_left = True

    def _options(self) -> list[str]:
        service = self.service
        options = {"--name": service.name, "--transport": service.transport, "--bind": service.bind}
        more = {"--metrics": service.metrics, "--events": service.events}
        given = {key: str(value) for key, value in more.items() if value is not None}
        return [*(text for option in (options | given).items() for text in option), *service.access.argv()]

    def _wait(self, timeout_s: float) -> bool:
        """Wait for the end, tell of events, and return whether all has ended well.  Raises what it ended with."""
        over = self._ends_within(timeout_s)  # asked before reading: all that was written by then is read
        for line in self._events.lines(all_of_it=over):
            event = Event(**json.loads(line))
            self._told[event.kind] = event
            self._event(event)
        if over:
            self._explain()
        return over

    def _ends_within(self, timeout_s: float) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self.has_ended

    def _explain(self) -> None:
        """Raise what the process has ended with, unless all that there was to do is done."""
        status, report = self._process.returncode, self.service.folder.path / "report.json"
        if report.exists():
            said = read_report(report)
            if said["state"] != DONE:
                error = said["error"] or f"service {self.service.name!r} was told to end while it started"
                raise RunError(error, said["detail"])
            return
        why = last_line(self._log).removeprefix("zpipe: ")
        if status == EXIT_USAGE:
            raise ConfigError(why)
        if status == EXIT_FAILED and why:
            raise RunError(why)
        raise RunError(f"service {self.service.name!r} {describe_status(status)} while it started: see {self._log}")

    def _stop(self) -> None:
        deadline_s = time.monotonic() + STOP_S
        while self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM if time.monotonic() < deadline_s else signal.SIGKILL)
            self._ends_within(STOP_AGAIN_S)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a service from its command line, its name claimed already; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m zpipe.processes.service")
    parser.add_argument("--run-folder", type=Path, required=True)
    parser.add_argument("--lock", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--transport", required=True)
    parser.add_argument("--bind", required=True)
    parser.add_argument("--metrics")
    parser.add_argument("--events", type=Path)
    parser.add_argument("--keys", type=Path)
    parser.add_argument("--insecure", action="store_true")
    args = parser.parse_args(argv)
    lose_lines()
    os.set_inheritable(args.lock, False)  # its end is ours alone
    plan = Plan.from_dict(json.loads((args.run_folder / "plan.json").read_text(encoding="utf-8")))
    service = Service(
        args.name, plan, RunFolder(args.run_folder), args.transport, args.bind, Access(args.keys, args.insecure),
        args.metrics, args.events,
    )  # fmt: skip
    try:
        return 0 if was_ended(report := service.run(_write_down)) or report.ok else EXIT_INTERRUPTED
    except ZpipeError as error:
        print(f"{getattr(error, 'detail', '')}zpipe: {error}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED


def was_ended(report: Report) -> bool:
    """Tell whether a service was told to end and has finished what was under way."""
    return report.state == INTERRUPTED and not report.error


def _write_down(event: Event) -> None:
    print(f"{datetime.fromtimestamp(event.t):%Y-%m-%d %H:%M:%S} {event.text}", file=sys.stderr, flush=True)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
