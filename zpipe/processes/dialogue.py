"""Ask a registry without waiting for it: for those who supervise processes in one loop."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from zpipe.transport import sockets
from zpipe.transport.keys import Keys
from zpipe.values.errors import ProtocolError, RegistryError
from zpipe.wire import control

RESEND_S = 0.5  # a registry that was killed has forgotten what it was asked

Message = dict[str, Any]


@dataclass
class Asked:
    """A question under way; `asked_s` is when it was first put."""

    message: Message
    asked_s: float
    resend_s: float


class Dialogue:
    """Ask a registry, again and again until it answers; only what may be repeated can be asked."""

    def __init__(self, address: str, keys: Keys | None = None) -> None:
        self._context = sockets.context()
        self._rids = itertools.count(1)
        self._asked: dict[int, Asked] = {}
        try:
            self._socket, self._monitor = sockets.dealer(self._context, address, keys=keys)
        except RegistryError:
            sockets.end(self._context)
            raise
        self.news: sockets.News | None = None  # of the connection, but that it is down

    def __enter__(self) -> Dialogue:
        return self

    def __exit__(self, *_: object) -> None:
        sockets.unwatch(self._socket)
        sockets.end(self._context)

    def fileno(self) -> int:
        """Return what becomes readable when `turn` has work; edge-triggered, so turn now and then too."""
        return int(self._socket.fileno())

    def asking(self, verb: str, **fields: Any) -> bool:
        """Return whether a question of this verb, with these fields, still waits for its answer."""
        wanted = {"t": verb, **fields}.items()
        return any(wanted <= asked.message.items() for asked in self._asked.values())

    def ask(self, verb: str, now_s: float, /, **fields: Any) -> None:
        """Queue a question; `turn` sends it and returns its answer."""
        rid = next(self._rids)
        self._asked[rid] = Asked({"t": verb, "rid": rid, **fields}, now_s, now_s)

    def turn(self, now_s: float) -> list[tuple[Asked, Message]]:
        """Send what is due, and return each answer with what was asked."""
        while news := sockets.watched(self._monitor):
            self.news = news if news != "down" else self.news
        for asked in self._asked.values():
            if asked.resend_s <= now_s and sockets.ask(self._socket, control.encode(asked.message)):
                asked.resend_s = now_s + RESEND_S
        answers = []
        while (frames := sockets.receive(self._socket)) is not None:
            try:
                reply = control.decode(frames[0])
            except ProtocolError:
                continue  # the question is put again
            rid = reply.get("rid")
            if isinstance(rid, int) and rid in self._asked:
                answers.append((self._asked.pop(rid), reply))
        return answers
