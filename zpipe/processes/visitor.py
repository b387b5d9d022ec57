"""A program at a gate that is played: as a `Child`, but over tcp, and the gate may be silent, or gone for a while."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence

from zpipe.processes.child import Child, Ended
from zpipe.processes.door import REOPEN_S
from zpipe.transport import sockets
from zpipe.values.errors import ConfigError


class Visitor(Child):
    """The process of `cmd`, and the address at which it asks; it is `peer` that is answered."""

    def _bind(self) -> tuple[sockets.Socket, str]:
        socket, self._endpoint = sockets.bind_outside(self._context, "call", "tcp://127.0.0.1:0", None)
        self._double: subprocess.Popen[bytes] | None = None
        return socket, self._endpoint

    def _received(self) -> list[memoryview] | None:
        found = sockets.receive_outside(self._socket)
        if found is None:
            return None
        self.peer, frames = sockets.asker(found[0])
        return frames

    def answer(self, frames: Sequence[bytes | memoryview]) -> None:
        """Answer `peer`."""
        sockets.reply(self._socket, (*self.peer, *frames))

    def restart(self) -> None:
        """Be gone, with all that was asked, and back at the same address."""
        self._poll.unregister(sockets.descriptor(self._socket))
        sockets.close(self._socket)
        until_s = time.monotonic() + REOPEN_S
        while True:
            try:
                self._socket, _ = sockets.bind_outside(self._context, "call", self._endpoint, None)
                break
            except ConfigError:
                if time.monotonic() >= until_s:
                    raise
                time.sleep(0.01)
        self._watch()

    def revive(self) -> None:
        """Kill the program and start it anew; what it has said before is not heard any more."""
        self._process.kill()
        self._process.wait()
        assert self._pidfd is not None
        self._poll.unregister(self._pidfd)
        os.close(self._pidfd)
        self.restart()
        self._process = self._started()
        self._watch_process()

    def terminate(self) -> None:
        """Ask the program to end, as systems do."""
        self._process.terminate()

    def double(self) -> None:
        """Start the program once more, at the same address."""
        self._double = self._started()

    def check_double(self) -> None:
        """Raise Ended when what was started once more is no more."""
        if self._double is not None and (status := self._double.poll()) is not None:
            raise Ended(status)

    def close(self) -> None:
        """End the program, and what was started of it besides, and close its socket."""
        if self._double is not None:
            self._double.kill()
            self._double.wait()
        super().close()
