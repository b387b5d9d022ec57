"""The registry's process: the loop around its machine, its values in SQLite, its end with its launcher.

Knows where things are kept and when to leave; what messages mean is the machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import select
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zpipe.core.outcomes import Action, Down, Push, Reply, Store, Stored
from zpipe.core.registry import Registry
from zpipe.core.storedcheck import check_rows
from zpipe.processes import failpoints
from zpipe.processes.access import Access
from zpipe.processes.guard import Guard
from zpipe.processes.output import lose_lines
from zpipe.processes.patience import Patience
from zpipe.processes.runfolder import DATABASE, host_id
from zpipe.processes.values import Values
from zpipe.transport import sockets
from zpipe.transport.keys import Keys
from zpipe.transport.wake import Wake
from zpipe.values.errors import ProtocolError, RegistryError, SaveError, ZpipeError
from zpipe.values.plan import Plan
from zpipe.wire import control as wire

TICK_S = 0.1
BURST = 200  # messages handled between two commits
ORPHAN_S = 1.0  # for workers to leave once the launcher is gone
REBIND_S = 2.0  # for the system to give the address of a registry that was killed to the next
LAST_WORDS_MS = 500


class Parent:
    """The launcher, whose end is this process's end too; without pidfds the loop has to look."""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._fd: int | None = None
        self._gone = False
        if pid is not None:
            try:
                self._fd = os.pidfd_open(pid)
            except ProcessLookupError:
                self._gone = True
            except (AttributeError, OSError):
                pass

    def watch(self, poller: sockets.Poller) -> None:
        """Let its end wake the poller."""
        if self._fd is not None:
            poller.register(self._fd, sockets.IN)

    def is_gone(self) -> bool:
        """Tell whether it has ended."""
        if self._fd is not None:
            self._gone = bool(select.select([self._fd], [], [], 0)[0])
        elif self._pid is not None and not self._gone:
            self._gone = os.getppid() != self._pid
        return self._gone

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd is not None:
            os.close(self._fd)


class Loop:
    """One registry at its socket, until it is told to leave."""

    def __init__(
        self, machine: Registry, values: Values, router: sockets.Socket, wake: Wake, guard: Guard | None
    ) -> None:  # fmt: skip
        self._machine = machine
        self._values = values
        self._router = router
        self._monitor = sockets.watch(router)
        self._wake = wake
        self._guard = guard
        self._patience = Patience()
        self._unkept: dict[tuple[str, str], Store] = {}  # what waits for room on the disk, by kind and key
        self._again_s = 0.0  # when that is tried again
        self.leaving = False  # set by a signal

    def run(self, parent: Parent) -> None:
        """Serve until DOWN, SIGTERM or the end of the launcher.  Raises SaveError."""
        poller = sockets.Poller()
        poller.register(self._router, sockets.IN)
        poller.register(self._monitor, sockets.IN)
        poller.register(self._wake, sockets.IN)
        parent.watch(poller)
        tick_s = 0.0
        while not self.leaving:
            poller.poll(int(TICK_S * 1000))
            if parent.is_gone():
                self._outlive()
                return
            self._wake.clear()
            actions = self._serve()
            now_s = time.monotonic()
            while sockets.watched(self._monitor):
                self._machine.presence.doubt(now_s)
            if now_s >= tick_s:
                tick_s = now_s + TICK_S
                if self._guard is not None and (admitted := self._guard.news()):
                    actions += self._machine.admit(now_s, admitted)
                actions += self._machine.tick(now_s)
            self._act(actions)

    def close(self) -> None:
        """Close the socket once what was said last is on its way."""
        sockets.unwatch(self._router)
        sockets.close(self._monitor)
        sockets.close(self._router, linger_ms=LAST_WORDS_MS)

    def _serve(self) -> list[Action]:
        actions: list[Action] = []
        for _ in range(BURST):
            received = sockets.receive_of(self._router)
            if received is None:
                break
            frames, key = received
            peer = bytes(frames[0])
            try:
                if len(frames) != 2:
                    raise ProtocolError(f"a request is one frame, not {len(frames) - 1}")
                message = wire.decode(frames[1])
            except ProtocolError as error:
                actions.append(Reply(peer, {"t": "ERR", "rid": None, "code": 400, "text": str(error)}))
                continue
            actions += self._machine.step(time.monotonic(), peer, message, key)
        return actions

    def _act(self, actions: Sequence[Action], *, keep: bool = True) -> None:
        if keep:
            self._unkept.update(((store.kind, store.key), store) for store in actions if isinstance(store, Store))
            self._keep(time.monotonic())
        for action in actions:
            if isinstance(action, Reply | Push):
                self._say(action, kept=not (keep and self._unkept))
            elif isinstance(action, Down):
                self.leaving = True

    def _keep(self, now_s: float) -> None:
        """Store what is to be stored, later if the disk has no room now."""
        if not self._unkept or now_s < self._again_s:
            return
        try:
            self._values.keep(self._unkept.values())
        except SaveError as error:
            pause_s = self._patience.pause_s(error)
            if pause_s is None:
                raise
            self._again_s = now_s + pause_s
        else:
            self._unkept.clear()
            self._patience.over()

    def _say(self, action: Reply | Push, *, kept: bool) -> None:
        """Send a message; nothing may follow from what is not stored: then only how the run stands is told."""
        message = action.message
        if not kept and not (message.get("t") == "TABLE" and message.get("state") == "running"):
            return  # as if this registry were away: it is asked again
        if not kept:
            message = {**message, "waits": self._patience.lack}
        # Whoever cannot be reached hears it with the answer to its next beat.
        there = sockets.answer(self._router, action.peer, _encoded(message))
        if isinstance(action, Push):
            self._machine.tried(time.monotonic(), action.peer, there=there)

    def _outlive(self) -> None:
        """Send the workers home and wait for them a little; the run folder keeps the run as it was."""
        now_s = time.monotonic()
        deadline_s = now_s + ORPHAN_S
        own_key = "" if self._guard is None else self._guard.key
        failed = self._machine.step(now_s, b"", {"t": "FAIL", "why": "the launcher is gone"}, own_key)
        self._act(failed, keep=False)
        while self._machine.members.living and (left_s := deadline_s - time.monotonic()) > 0:
            self._router.poll(int(left_s * 1000) + 1)
            self._act(self._serve(), keep=False)


def run_registry(
    run_folder: Path,
    *,
    bind: str,
    access: Access | None = None,
    address_file: Path | None = None,
    sockets_dir: Path | None = None,
    transport: str = "auto",
    parent_pid: int | None = None,
    starts_workers: bool = False,
) -> None:
    """Serve the run of a folder until it is told to leave.  Raises ZpipeError when it cannot start.

    `starts_workers`: its launcher starts those that are wanted.  SIGINT is the launcher's business and ignored,
    SIGTERM ends it.  When the launcher is gone, the directory of sockets is removed.
    """
    keys = (access or Access()).at(bind)
    plan = _read_plan(run_folder / "plan.json")
    wake, parent = Wake(), Parent(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    values = _open(run_folder / DATABASE, parent)
    ctx = sockets.context()
    guard = None if keys is None else Guard(ctx, keys)
    try:
        rows = values.rows()
        machine = _machine(
            plan, rows, values, run_folder=run_folder, sockets_dir=sockets_dir, transport=transport,
            starts_workers=starts_workers,
        )  # fmt: skip
        if guard is not None:
            machine.admit(time.monotonic(), guard.admitted)
        router, address = _bind(ctx, bind, keys, restarted=bool(rows))
        loop = Loop(machine, values, router, wake, guard)

        def leave(*_: object) -> None:
            loop.leaving = True
            wake.set()

        signal.signal(signal.SIGTERM, leave)
        failpoints.arm("registry", run_folder)
        failpoints.hit("bound")
        if address_file is not None:
            _write(address_file, f"{address}\n")
        print(f"zpipe: registry of {plan.name} at {address}", flush=True)
        loop.run(parent)
        loop.close()
    finally:
        if guard is not None:
            guard.close()
        sockets.end(ctx)
        values.close()
        if parent.is_gone() and sockets_dir is not None:
            shutil.rmtree(sockets_dir, ignore_errors=True)
        parent.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a registry from its command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m zpipe.processes.registry")
    parser.add_argument("--run-folder", type=Path, required=True)
    parser.add_argument("--bind", default="tcp://127.0.0.1:0")
    parser.add_argument("--keys", type=Path)
    parser.add_argument("--insecure", action="store_true")
    parser.add_argument("--address-file", type=Path)
    parser.add_argument("--sockets-dir", type=Path)
    parser.add_argument("--transport", choices=sockets.TRANSPORTS, default="auto")
    parser.add_argument("--starts-workers", action="store_true")
    parser.add_argument("--parent", type=int)
    args = parser.parse_args(argv)
    lose_lines()
    try:
        run_registry(
            args.run_folder,
            bind=args.bind,
            access=Access(args.keys, args.insecure),
            address_file=args.address_file,
            sockets_dir=args.sockets_dir,
            transport=args.transport,
            parent_pid=args.parent,
            starts_workers=args.starts_workers,
        )
    except ZpipeError as error:
        print(f"zpipe: {error}", file=sys.stderr)
        return 1
    return 0


def _machine(
    plan: Plan,
    rows: list[tuple[str, str, Any]],
    values: Values,
    *,
    run_folder: Path,
    sockets_dir: Path | None,
    transport: str,
    starts_workers: bool,
) -> Registry:
    folders = {
        "run_folder": str(run_folder.absolute()),
        "sockets_dir": str(sockets_dir.absolute()) if sockets_dir else None,
        "transport": transport,
        "here": host_id(),
    }
    try:
        check_rows(rows, plan)
        return Registry(
            plan,
            run_key=plan.run_key,
            epoch=secrets.randbits(63) or 1,
            stored=Stored.from_rows(rows),
            welcome=folders,
            starts_workers=starts_workers,
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        plan_path = run_folder / "plan.json"
        raise SaveError(f"{values.path} does not belong to {plan_path}, {error}: start the run anew") from error


def _encoded(message: dict[str, Any]) -> bytes:
    """Encode a message; what cannot travel becomes an answer that says so."""
    try:
        return wire.encode(message)
    except RegistryError as error:
        rid = message.get("rid")
        return wire.encode({"t": "ERR", "rid": rid if isinstance(rid, int) else None, "code": 413, "text": str(error)})


def _open(path: Path, parent: Parent) -> Values:
    """Open the run's values; a disk without room is waited for, as long as there is a launcher."""
    patience = Patience()
    while True:
        try:
            return Values(path)
        except SaveError as error:
            pause_s = patience.pause_s(error)
            if pause_s is None or parent.is_gone():
                raise
        time.sleep(pause_s)


def _bind(
    ctx: sockets.Context, endpoint: str, keys: Keys | None, *, restarted: bool
) -> tuple[sockets.Socket, str]:  # fmt: skip
    deadline_s = time.monotonic() + (REBIND_S if restarted else 0.0)
    while True:
        try:
            return sockets.router(ctx, endpoint, keys)
        except RegistryError:
            if time.monotonic() >= deadline_s:
                raise
        time.sleep(0.02)  # nothing tells when an address becomes free


def _read_plan(path: Path) -> Plan:
    try:
        return Plan.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RegistryError(f"cannot read {path}: {error.strerror}: the launcher writes it") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RegistryError(f"{path} is no plan: {error}: start the run anew") from error


def _write(path: Path, content: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(content, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise RegistryError(f"cannot write {path}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
