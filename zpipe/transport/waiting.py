"""Waits for many sockets at the price of one system call, where zmq.Poller asks libzmq for each of them twice."""

from __future__ import annotations

import select
from collections.abc import Collection

from zpipe.transport import sockets


class Waiter:
    """Tells which sockets, and other descriptors, may be read from; of a socket whoever reads says when it is `empty`.

    A socket's descriptor tells of what is new, once; libzmq may also have news of its own, so there may be nothing.
    https://libzmq.readthedocs.io/en/latest/zmq_getsockopt.html, ZMQ_FD
    """

    def __init__(self) -> None:
        self._poll = select.poll()
        self._sockets: dict[int, sockets.Socket] = {}  # by descriptor
        self._unread: set[sockets.Socket] = set()  # those that may hold messages

    def register(self, what: sockets.Socket | int) -> None:
        """Wait for a socket, or a descriptor, too."""
        if isinstance(what, int):
            self._poll.register(what, select.POLLIN)
            return
        descriptor = sockets.descriptor(what)
        self._sockets[descriptor] = what
        self._poll.register(descriptor, select.POLLIN)
        self._unread.add(what)

    def unregister(self, socket: sockets.Socket) -> None:
        """Wait for a socket, which is still open, no more."""
        descriptor = sockets.descriptor(socket)
        del self._sockets[descriptor]
        self._poll.unregister(descriptor)
        self._unread.discard(socket)

    def empty(self, socket: sockets.Socket) -> None:
        """Take note that nothing is left in a socket."""
        self._unread.discard(socket)

    def wait(self, timeout_ms: int) -> Collection[sockets.Socket | int]:
        """Return what may be read from, at once or when there is something, nothing when the time is over."""
        unread = self._unread
        for socket in list(unread):
            if not sockets.has_more(socket):
                unread.discard(socket)
        found: set[sockets.Socket | int] = set(unread)
        for descriptor, _ in self._poll.poll(0 if found else timeout_ms):
            known = self._sockets.get(descriptor)
            if known is not None:
                unread.add(known)
            found.add(descriptor if known is None else known)
        return found
