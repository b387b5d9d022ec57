"""A program in any language and the socket over which it takes its items: started, heard, answered, ended.

Knows processes and frames; what a message means is in `processes.foreign`.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zpipe.processes.system import spawn
from zpipe.transport import sockets
from zpipe.values.errors import StageError

Frames = Sequence[bytes | memoryview]


class Ended(Exception):
    """The program is no more: `status` is its exit code, or a signal as its negative."""

    def __init__(self, status: int) -> None:
        self.status = status
        how = f"exited {status}" if status >= 0 else f"was killed by {signal.Signals(-status).name}"
        super().__init__(how)


class Child:
    """The process of `cmd`, started in `folder`, and this end of its socket; each message is answered before the next.

    `args` are for the program, as JSON in ZPIPE_ARGS, those that are no tables or lists also as ZPIPE_ARG_NAME.
    Its output is that of this process.  Raises StageError when it cannot be started.
    """

    peer: tuple[bytes, ...] = ()  # who was heard last, where there may be several

    def __init__(self, cmd: Sequence[str], folder: Path, args: Mapping[str, Any]) -> None:
        self._pidfd: int | None = None
        self._place = tempfile.mkdtemp(prefix="zpipe-program-")
        self._context = sockets.context()
        self._socket, endpoint = self._bind()
        self._cmd, self._folder = cmd, folder
        self._env = {**os.environ, **environment(endpoint, args)}
        try:
            self._process = self._started()
        except OSError as error:
            self.clear()
            raise StageError(f"cannot start {cmd[0]!r}: {(error.strerror or str(error)).lower()}") from None
        self._poll = select.poll()
        self._watch()
        self._watch_process()

    def _started(self) -> subprocess.Popen[bytes]:
        return spawn(self._cmd, self._folder, self._env)

    def _watch_process(self) -> None:
        self._pidfd = os.pidfd_open(self._process.pid)
        self._poll.register(self._pidfd, select.POLLIN)

    def _bind(self) -> tuple[sockets.Socket, str]:
        endpoint = f"ipc://{self._place}/call"
        return sockets.bind_answers(self._context, endpoint), endpoint

    def _watch(self) -> None:
        self._poll.register(sockets.descriptor(self._socket), select.POLLIN)

    def _received(self) -> list[memoryview] | None:
        return sockets.receive(self._socket)

    def receive(self, timeout_s: float | None = None) -> list[memoryview] | None:
        """Return the program's next message, None when that time is over.  Raises Ended when none will come."""
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while (received := self._received()) is None:
            if self._process.poll() is not None:
                raise Ended(self._process.returncode)
            left_s = None if until_s is None else until_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                return None
            if not sockets.has_more(self._socket):
                self._poll.poll(None if left_s is None else 1000 * left_s)
        return received

    def answer(self, frames: Frames) -> None:
        """Answer the message that was received last."""
        sockets.send(self._socket, frames)

    def wait(self, timeout_s: float) -> int | None:
        """Return the status of the program once it has ended, None when it has not within that time."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """End the program, if it still runs, and close its socket."""
        self._process.kill()
        self._process.wait()
        self.clear()

    def clear(self) -> None:
        """Close the socket, and remove its place."""
        sockets.end(self._context)
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        shutil.rmtree(self._place, ignore_errors=True)


def environment(endpoint: str, args: Mapping[str, Any]) -> dict[str, str]:
    """Return what a program finds in its environment: where to ask, and its args."""
    return {"ZPIPE_CALL": endpoint, "ZPIPE_ARGS": json.dumps(dict(args)), **_plain(args)}


def _plain(args: Mapping[str, Any]) -> dict[str, str]:
    """Return the args that are one value each, by the names of their variables, numbers and truths as in JSON."""
    values = {key: value for key, value in args.items() if not isinstance(value, Mapping | list | tuple)}
    names = {key: f"ZPIPE_ARG_{key.upper().replace('-', '_')}" for key in values}
    return {names[key]: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
