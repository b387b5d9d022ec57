"""Questions to the registry, from one who asks now and then and waits for the answer.

Knows that an answer may need several tries; refuses to know what is asked.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any, TypeAlias

from zpipe.transport import sockets
from zpipe.transport.keys import Keys
from zpipe.values.errors import ProtocolError, RegistryError
from zpipe.wire import control as wire

Map: TypeAlias = dict[str, Any]

REQUEST_S = 0.5  # an unanswered request is repeated after this


class Client:
    """One who asks the registry and waits: the command line, a test."""

    def __init__(self, registry: str, keys: Keys | None = None) -> None:
        self.registry = registry
        self._keys = keys
        self._ctx = sockets.context()
        try:
            self._dealer, self._monitor = sockets.dealer(self._ctx, registry, keys=keys)
        except RegistryError:
            sockets.end(self._ctx)
            raise
        self._rids = itertools.count(1)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(self, message: Mapping[str, Any], timeout_s: float) -> Map:
        """Ask until the registry answers, and return the answer.  Raises RegistryError."""
        rid = next(self._rids)
        payload = wire.encode({**message, "rid": rid})
        now_s = time.monotonic()
        deadline_s, due_s = now_s + timeout_s, now_s
        sent, news = False, None
        while now_s < deadline_s:
            if now_s >= due_s:
                sent = sockets.ask(self._dealer, payload)
                due_s = now_s + REQUEST_S
            until_s = min(due_s, deadline_s)
            ready = self._dealer.poll(int((until_s - now_s) * 1000) + 1, sockets.IN if sent else sockets.OUT)
            if ready and not sent:
                due_s = now_s
            while (frames := sockets.receive(self._dealer)) is not None:
                try:
                    answer = wire.decode(frames[0])
                except ProtocolError:
                    continue
                if answer.get("rid") == rid and answer.get("t") != message.get("t"):
                    return checked(answer)
            while latest := sockets.watched(self._monitor):
                news = latest if latest != "down" else news
            if news == "denied":
                break  # it is not dialled again
            now_s = time.monotonic()
        raise nobody(self.registry, timeout_s, self._keys, news)

    def close(self) -> None:
        """Hang up."""
        sockets.unwatch(self._dealer)
        sockets.end(self._ctx)


def checked(answer: Map) -> Map:
    """Return an answer, or raise what it refuses as RegistryError."""
    if answer.get("t") == "ERR":
        raise RegistryError(str(answer.get("text")), int(answer.get("code", 0)))
    return answer


def nobody(
    registry: str, timeout_s: float, keys: Keys | None = None, news: sockets.News | None = None
) -> RegistryError:  # fmt: skip
    """Say that nobody answers, and why: `news` is the last of the connection."""
    if keys is not None and news == "denied":
        return RegistryError(
            f"the registry at {registry} does not admit the key {keys.name!r} of {keys.path}: it was revoked, or is "
            "of another registry: make one there with zpipe keys add",
            403,
        )
    if keys is not None and news == "unshaken":
        return RegistryError(
            f"the registry at {registry} is not the one of {keys.path}, or uses no keys: take the key that was made "
            "there, or say --insecure where that was started so"
        )
    if news == "unshaken":
        return RegistryError(
            f"the registry at {registry} wants a key: make one there with zpipe keys add, and name it with --keys"
        )
    return RegistryError(
        f"no registry answers at {registry} within {timeout_s:g} s: "
        "start one with `zpipe registry` or check the address"
    )
