"""A flag between threads that a poller can wait for."""

from __future__ import annotations

import socket
from contextlib import suppress


class Wake:
    """A flag that any thread or signal handler raises and one poller waits for."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """Return what to poll for IN."""
        return self._reader.fileno()

    def set(self) -> None:
        """Raise the flag; harmless when it is up or closed."""
        with suppress(OSError):  # full: it is up; closed: nobody waits
            self._writer.send(b"!")

    def clear(self) -> None:
        """Lower the flag."""
        with suppress(OSError):
            while self._reader.recv(4096):
                pass

    def close(self) -> None:
        """Give the descriptors back."""
        self._reader.close()
        self._writer.close()
