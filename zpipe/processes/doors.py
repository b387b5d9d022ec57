"""The addresses of a gate: where those outside ask, where work is pushed to them, and where they push to.

Knows sockets and who is at their other ends; what is said is for the gate.  With keys only their owners come in.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from zpipe.processes.runfolder import RunFolder
from zpipe.transport import addresses, sockets
from zpipe.transport.keys import Keys
from zpipe.transport.sockets import Buffer, OutsideKind
from zpipe.transport.waiting import Waiter
from zpipe.values.errors import ConfigError, StageError

KINDS: tuple[OutsideKind, ...] = ("call", "push", "pull")

OWN = b""  # in place of an identity: who has come by the door of the gate's own workers
SAID_MAX = 20  # lines of what is said often
HEARD_BYTES = 64 << 20  # beyond which nothing more is taken in at once
EVERY = "0.0.0.0"  # in an endpoint: every address of this host

Peer = tuple[bytes, ...]  # what stands in front of an answer: where it goes, and the empty frame of a REQ


class Heard:
    """A message that came: its frames, and who is to be answered, if it can be."""

    __slots__ = ("address", "frames", "peer")

    def __init__(self, frames: Sequence[Buffer], address: str, peer: Peer | None) -> None:
        self.frames = frames
        self.address = address
        self.peer = peer


class Refusals:
    """What a gate refuses or misses: counted, and said in its log of the first."""

    def __init__(self, stage: str) -> None:
        self.count = 0
        self._stage = stage
        self._said = 0

    def refuse(self, who: str, what: str, count: int = 1) -> None:
        """Note that something was refused that somebody said."""
        self.count += count
        self.say_of_many(f"refused what {who} says: {what}")

    def say_of_many(self, text: str) -> None:
        """Say what is said often, unless it has been."""
        self._said += 1
        if self._said <= SAID_MAX:
            self.say(text)

    def say(self, text: str) -> None:
        """Say something."""
        print(f"zpipe: gate of {self._stage!r}: {text}", file=sys.stderr, flush=True)


class Doors:
    """The bound sockets of one gate; the ports of a life are those of the next.

    `listen` has a port for each kind, and the host.  `near` is where the gate's `own` workers call, a file that needs
    no keys; "" where it has none.  Raises StageError when one cannot be bound.
    """

    def __init__(
        self, context: sockets.Context, stage: str, listen: Mapping[str, Any], folder: RunFolder, *,
        keys: Keys | None, insecure: bool, poller: Waiter, own: bool = False, sockets_dir: str | None = None,
    ) -> None:  # fmt: skip
        self._poller = poller
        self._place = tempfile.mkdtemp(prefix="zpipe-gate-") if own and sockets_dir is None else ""
        self.near = ""
        self._sockets: dict[str, sockets.Socket] = {}
        self.endpoints: dict[str, str] = {}
        host = listen.get("host", addresses.LOOPBACK)
        if keys is None and not (insecure or addresses.is_loopback(host)):
            raise StageError(
                f"stage {stage!r} listens at {host}, which is not of this machine alone, and there are no keys: make "
                "them with zpipe keys, or say --insecure to let everyone in who reaches it"
            )
        noted = folder.path / "gates" / f"{stage}.json"
        before: dict[str, str] = {}
        with suppress(OSError, ValueError):
            before = json.loads(noted.read_text(encoding="utf-8"))
        for kind in KINDS:
            if kind in listen or kind == "call":
                self._bind(context, stage, kind, host, listen.get(kind, 0), before.get(kind, ""), keys)
        if own:
            self._sockets["own"], self.near = sockets.bind_outside(
                context, "call", sockets.ipc_name(sockets_dir or self._place), None
            )
        self._pullers: set[int] = set()
        self._order = deque(("own", "call", "pull"))
        self._monitor = sockets.watch_outside(self._sockets["push"]) if "push" in self._sockets else None
        for socket in (*self._sockets.values(), self._monitor):
            if socket is not None:
                poller.register(socket)
        noted.parent.mkdir(exist_ok=True)
        noted.write_text(json.dumps(self.endpoints), encoding="utf-8")

    def _bind(
        self, context: sockets.Context, stage: str, kind: OutsideKind, host: str, port: int, before: str,
        keys: Keys | None,
    ) -> None:  # fmt: skip
        shown = f"[{host}]" if ":" in host else host
        try:
            if not port and before:
                with suppress(ConfigError):
                    self._sockets[kind], self.endpoints[kind] = sockets.bind_outside(context, kind, before, keys)
                    return
            self._sockets[kind], self.endpoints[kind] = sockets.bind_outside(
                context, kind, f"tcp://{shown}:{port}", keys
            )
        except ConfigError as error:
            raise StageError(f"stage {stage!r} cannot listen for {kind}: {error}") from None

    def heard(self, most: int) -> list[Heard]:
        """Return up to so many of the messages that have come, of not too many bytes."""
        found: list[Heard] = []
        nbytes = 0
        self._order.rotate()  # so that many at one address do not shut out those at the others
        for kind in self._order:
            socket = self._sockets.get(kind)
            while socket is not None and len(found) < most and nbytes < HEARD_BYTES:
                received = sockets.receive_outside(socket)
                if received is None:
                    self._poller.empty(socket)
                    break
                frames, address = received
                nbytes += sum(map(len, frames))
                if kind == "pull":
                    found.append(Heard(frames, address, None))
                    continue
                peer, frames = sockets.asker(frames)
                found.append(Heard(frames, address, (OWN, *peer) if kind == "own" else peer))
        return found

    def answer(self, peer: Peer, frames: Sequence[Buffer]) -> bool:
        """Answer somebody; False when it has gone."""
        if peer[0] == OWN:
            return sockets.reply(self._sockets["own"], (*peer[1:], *frames))
        return sockets.reply(self._sockets["call"], (*peer, *frames))

    @property
    def pullers(self) -> int:
        """Return how many connections there were at the last `look` at which work is pulled; in any thread."""
        return len(self._pullers)

    def look(self) -> None:
        """Take note of who has come to pull, and who has gone."""
        if self._monitor is None:
            return
        while (news := sockets.visitor(self._monitor)) is not None:
            number, has_come = news
            if has_come:
                self._pullers.add(number)
            else:
                self._pullers.discard(number)
        self._poller.empty(self._monitor)

    def push(self, frames: Sequence[Buffer]) -> bool:
        """Push work to whoever's turn it is; False when nobody takes it now."""
        return sockets.send(self._sockets["push"], frames)

    def close(self, linger_ms: int = 0) -> None:
        """Close, once what was said last is on its way."""
        if self._monitor is not None:
            sockets.unwatch(self._sockets["push"])
        sockets.close(self._monitor)
        sockets.close(*self._sockets.values(), linger_ms=linger_ms)
        if self._place:
            shutil.rmtree(self._place, ignore_errors=True)
