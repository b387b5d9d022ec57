"""Workers and registries without the wait for Python to start: one process has imported all that they need, and forks.

It has one thread and neither sockets of libzmq nor anything of the user's, so that nothing is torn by a fork.  Those
that it forks are children of who asked for them: their own parent ends at once, and who asked adopts orphans.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

from zpipe.processes.environment import environment
from zpipe.processes.system import adopt_orphans, die_with, set_command_line

FORKED = ("zpipe.processes.worker", "zpipe.processes.registry")  # modules with a `main` that takes the arguments
AT_ANY_TIME = {"ZPIPE_WORKER", "CUDA_VISIBLE_DEVICES"}  # variables that nothing reads while it is imported
READY_S = 20.0  # for Python to start and import
BORN_S = 2.0  # for a fork
END_S = 1.0
ORDER_MAX, FDS_MAX = 65536, 8
TITLE_ROOM = 2048  # bytes for what `ps` is to show
_READY, _GO = b"ready", b"go"
_early: list[ForkServer] = []
_adopting: set[ForkServer] = set()  # those for which this process adopts orphans


class Forked:
    """A child of this process that was forked elsewhere."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def wait(self) -> int:
        """Wait for its end; returns its exit code, or a signal as its negative."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class ForkServer:
    """The near end: starts the server with the first program, and again after its death."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._env: dict[str, str] = {}
        self._is_ready = False
        self._is_early = False  # begun before it was known what it is for

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], log: int | None, hands_on: Sequence[int]
    ) -> Forked | None:  # fmt: skip
        """Fork a program with its output to `log`; None where it has to be started in the ordinary way.

        It is given the descriptors `hands_on`, to keep them open.
        """
        if tuple(argv[:2]) != (sys.executable, "-m") or argv[2] not in FORKED:
            return None
        if self._is_early and self._differs(env) - AT_ANY_TIME:
            self.close()  # what is in the environment has changed since
        if self._process is None and not self.begin(env):
            return None
        self._is_early, differs = False, self._differs(env)
        if differs - AT_ANY_TIME or not self._wait_until_ready():
            return None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        order = json.dumps([list(argv[2:]), {name: env.get(name) for name in differs}, log is not None]).encode()
        with ours, theirs:
            pid = self._order(order, ours, theirs, [*(() if log is None else (log,)), *hands_on])
        if pid is None:
            self.close()  # the next start is another's
        return pid

    def close(self) -> None:
        """End the server; what it has forked lives on."""
        if self._process is not None and self._socket is not None:
            self._socket.close()
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process, self._socket, self._is_ready, self._is_early = None, None, False, False
        if self in _adopting:
            _adopting.remove(self)
            adopt_orphans(wanted=bool(_adopting))

    def begin(self, env: Mapping[str, str]) -> bool:
        """Start the server, which imports while others do something else; tells whether it could be started."""
        if not adopt_orphans(wanted=True):
            return False
        _adopting.add(self)
        self._env = {name: value for name, value in env.items() if name not in AT_ANY_TIME}
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            argv = [sys.executable, "-m", __name__, str(theirs.fileno()), str(os.getpid()), " " * TITLE_ROOM]
            try:
                self._process = subprocess.Popen(
                    argv, env=self._env, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),),
                    process_group=0,
                )  # fmt: skip
            except OSError:
                self._socket.close()
                return False
        return True

    def _wait_until_ready(self) -> bool:
        assert self._socket is not None
        if not self._is_ready:
            self._is_ready = _heard(self._socket, READY_S) == _READY
            if not self._is_ready:
                self.close()
        return self._is_ready

    def _differs(self, env: Mapping[str, str]) -> set[str]:
        return {name for name in env.keys() | self._env.keys() if env.get(name) != self._env.get(name)}

    def _order(
        self, order: bytes, ours: socket.socket, theirs: socket.socket, fds: Sequence[int]
    ) -> Forked | None:  # fmt: skip
        assert self._socket is not None
        try:
            socket.send_fds(self._socket, [order], [theirs.fileno(), *fds])
            theirs.close()  # so that its death is heard
            pid = int(_heard(ours, BORN_S) or 0)
            if pid:
                ours.send(_GO)
                return Forked(pid)
        except (OSError, ValueError):
            pass
        return None


def prepare() -> None:
    """Begin with a server before anything else is imported, for whoever takes one first."""
    server = ForkServer()
    server._is_early = server.begin(environment({}))
    _early.append(server)


def take() -> ForkServer:
    """Return the server that was prepared, or another."""
    return _early.pop() if _early else ForkServer()


def _heard(channel: socket.socket, timeout_s: float) -> bytes:
    """Return what comes, nothing when the other end has gone or does not answer."""
    channel.settimeout(timeout_s)
    try:
        return channel.recv(64)
    except OSError:
        return b""


def serve(orders: socket.socket) -> None:
    """Fork what is asked for until nobody can ask any more; what is forked does not return."""
    orders.send(_READY)
    while True:
        order, fds, _, _ = socket.recv_fds(orders, ORDER_MAX, FDS_MAX)
        if not order:
            return
        pid = os.fork()
        if pid == 0:
            middle = os.getpid()
            if os.fork() != 0:
                os._exit(0)
            orders.close()
            _live(json.loads(order), fds, middle)
        for fd in fds:
            os.close(fd)
        os.waitpid(pid, 0)


def _live(order: tuple[list[str], dict[str, str | None], bool], fds: list[int], middle: int) -> NoReturn:
    """Be the program that was ordered, once who has ordered it knows this process."""
    (module, *argv), env, has_log = order
    os.setpgid(0, 0)
    while os.getppid() == middle:
        time.sleep(0.0002)
    with socket.socket(fileno=fds[0]) as channel:
        channel.send(str(os.getpid()).encode())
        if channel.recv(64) != _GO:
            os._exit(0)  # who asked has given up
    for log in fds[1 : 1 + has_log]:  # what is behind it is only kept open
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
    for name, value in env.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    gc.enable()
    words = [sys.executable, "-m", module, *argv]
    sys.argv[:], sys.orig_argv[:] = words[2:], words
    set_command_line(words)
    if "numpy.random" in sys.modules:  # of old versions of numpy; what is random must not be the same in all
        sys.modules["numpy.random"].seed()
    code = 1
    try:
        code = sys.modules[module].main(argv)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)  # libzmq's threads and the user's need no farewell


def main() -> int:
    """Serve who has started this process."""
    orders, parent = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    if not die_with(parent):
        return 1
    os.set_inheritable(orders.fileno(), False)
    gc.disable()  # until somebody lives: what is never looked at stays shared by all
    for module in (*FORKED, "numpy"):
        importlib.import_module(module)
    gc.freeze()
    set_command_line(sys.orig_argv[:-1])
    with suppress(ConnectionError):  # who has started it has gone, perhaps before it wanted anything
        serve(orders)
    return 0


if __name__ == "__main__":
    sys.exit(main())
