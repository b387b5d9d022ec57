"""A program at a gate that is played: as a `Child`, but over tcp, and the gate may be silent, or gone for a while."""

from __future__ import annotations

import time
from collections.abc import Sequence

from zpipe.processes.child import Child
from zpipe.processes.door import REOPEN_S
from zpipe.transport import sockets
from zpipe.values.errors import ConfigError


class Visitor(Child):
    """The process of `cmd`, and the address at which it asks."""

    def _bind(self) -> tuple[sockets.Socket, str]:
        socket, self._endpoint = sockets.bind_outside(self._context, "call", "tcp://127.0.0.1:0", None)
        self._peer: tuple[bytes, ...] = ()
        return socket, self._endpoint

    def _received(self) -> list[memoryview] | None:
        found = sockets.receive_outside(self._socket)
        if found is None:
            return None
        frames, _ = found
        start = 2 if len(frames) > 2 and not len(frames[1]) else 1
        self._peer = tuple(bytes(frame) for frame in frames[:start])
        return frames[start:]

    def answer(self, frames: Sequence[bytes | memoryview]) -> None:
        """Answer whoever was heard last."""
        sockets.reply(self._socket, (*self._peer, *frames))

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
