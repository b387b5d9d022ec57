"""A channel into a worker: the sockets behind its inbox, or behind where its acks come in.

Within a machine, over ipc, it is open to those who reach its directory; with keys it is guarded over tcp.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from zpipe.transport import sockets
from zpipe.transport.keys import Keys
from zpipe.transport.waiting import Waiter
from zpipe.values.errors import ConfigError

REOPEN_S = 2.0  # for the system to give a port that was closed to the next socket

Bind = Callable[..., tuple[sockets.Socket, list[str]]]


class Door:
    """Sockets to receive from, and the endpoints that lead to them, ipc first.  `bind` makes one.

    Raises ConfigError when there is nothing to bind.
    """

    def __init__(
        self, bind: Bind, *, transport: str, sockets_dir: str | None, keys: Keys | None, poller: Waiter
    ) -> None:  # fmt: skip
        self._bind = bind
        self._poller = poller
        self._keys = keys
        self._guarded: tuple[sockets.Socket, list[str]] | None = None
        self._open: list[tuple[sockets.Socket, list[str]]] = []
        if keys is None:
            self._open.append(bind(transport=transport, sockets_dir=sockets_dir))
        elif transport == "ipc" or (transport == "auto" and sockets_dir is not None):
            self._open.append(bind(transport="ipc", sockets_dir=sockets_dir))
        if keys is not None and transport != "ipc":
            self._guarded = self._bind_guarded(keys, 0)
        for socket in self.inlets:
            poller.register(socket)

    @property
    def inlets(self) -> list[sockets.Socket]:
        """Return what to receive from."""
        return [socket for socket, _ in self._all]

    @property
    def endpoints(self) -> list[str]:
        """Return where peers reach it."""
        return [endpoint for _, endpoints in self._all for endpoint in endpoints]

    def reopen(self) -> None:
        """Cut off all who have come in with keys, and admit anew, at the same address.  Raises ConfigError."""
        if self._guarded is None or self._keys is None:
            return
        socket, (endpoint,) = self._guarded
        self._poller.unregister(socket)
        sockets.close(socket)
        self._guarded = None
        deadline_s = time.monotonic() + REOPEN_S
        while self._guarded is None:
            try:
                self._guarded = self._bind_guarded(self._keys, int(endpoint.rpartition(":")[2]))
            except ConfigError:
                if time.monotonic() >= deadline_s:
                    raise
                time.sleep(0.002)  # nothing tells when libzmq has let go of the address
        self._poller.register(self._guarded[0])

    def _bind_guarded(self, keys: Keys, port: int) -> tuple[sockets.Socket, list[str]]:
        return self._bind(transport="tcp", sockets_dir=None, keys=keys, port=port)

    @property
    def _all(self) -> list[tuple[sockets.Socket, list[str]]]:
        return self._open if self._guarded is None else [*self._open, self._guarded]
