"""Whom the guarded sockets of a context let in: answers libzmq's question for each handshake, from memory.

A thread of its own, since the owner of the sockets may be in a call for hours.  Where it does not answer nobody comes
in, and who knocks is let go after `sockets.HANDSHAKE_MS`; established connections go on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from zpipe.transport import sockets
from zpipe.transport.wake import Wake

VERSION, OK, NO = b"1.0", b"200", b"400"


class Admission:
    """Admits keys to the sockets of a context; to be made before they are bound, and closed before it is ended."""

    def __init__(self, context: sockets.Context, keys: Iterable[str] = ()) -> None:
        self._admitted = frozenset(keys)
        self._wake = Wake()
        self._ending = False
        self._socket = sockets.bind_admission(context)
        self._thread = threading.Thread(target=self._run, name="zpipe-admission", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Tell whether it still answers."""
        return self._thread.is_alive()

    def admit(self, keys: Iterable[str]) -> bool:
        """Admit these public keys and no others from now on; return whether one is admitted no longer."""
        before, self._admitted = self._admitted, frozenset(keys)
        return bool(before - self._admitted)

    def close(self) -> None:
        """Admit nobody any more."""
        self._ending = True
        self._wake.set()
        self._thread.join()
        self._wake.close()

    def _run(self) -> None:
        poller = sockets.Poller()
        poller.register(self._socket, sockets.IN)
        poller.register(self._wake, sockets.IN)
        while not self._ending:
            poller.poll()
            while not self._ending and (frames := sockets.receive(self._socket)) is not None:
                sockets.reply(self._socket, self._answer([bytes(frame) for frame in frames]))
        sockets.close(self._socket)

    def _answer(self, frames: Sequence[bytes]) -> Sequence[bytes]:
        """Answer a request of RFC 27: who asks, "", version, id, domain, address, identity, mechanism, key."""
        peer, number = frames[0], frames[3] if len(frames) > 3 else b""
        key = sockets.key_text(frames[8]) if len(frames) == 9 and frames[7] == b"CURVE" and len(frames[8]) == 32 else ""
        if key in self._admitted:
            return (peer, b"", VERSION, number, OK, b"", key.encode(), b"")
        return (peer, b"", VERSION, number, NO, b"", b"", b"")
