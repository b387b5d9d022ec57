"""A worker's dialogue with the registry, in a thread of its own.

Knows how to stay in touch with a registry that comes and goes; refuses to know what rosters and commands
mean.
"""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from zpipe.processes.client import REQUEST_S, Map, checked, nobody
from zpipe.transport import sockets
from zpipe.transport.keys import Keys
from zpipe.transport.wake import Wake
from zpipe.values.errors import ProtocolError, RegistryError
from zpipe.wire import control as wire

PROTO = (1, 0)
BEAT_S = 1.0
BEAT_JITTER = 0.2  # of BEAT_S, so that workers started together do not beat together
BEAT_GAP_S = 0.02  # between two beats, however often they are asked for
HELLO_S = 0.5  # an unanswered HELLO is repeated after this
CONFLICT_S = 3.0  # a taken place may be a dead worker's, whose supervisor is about to say so
REDIAL_S = 3.0  # a registry this long silent is dialled anew: libzmq may hold a connection to nobody
BURST = 200  # messages handled between two looks at the clock

log = logging.getLogger(__name__)


class Control(threading.Thread):
    """A worker's side of the dialogue: introduces it, beats, keeps what the registry tells.

    `hello` holds the worker's `inc`, `stage`, `slot`, `pid`, `host`, `supervisor` and, after a death in its
    slot, `replaces`.  `report` is called in this thread and returns the changing part of a beat: state,
    inbox, acks, counters, running, sources.  A registry that was restarted is told everything anew.  `inbox`
    holds at most one STATE, the newest merged over what was unread.  `fenced`: this life was declared dead
    and must end; `fenced_why` says why.
    """

    def __init__(
        self,
        registry: str,
        hello: Mapping[str, Any],
        report: Callable[[], Mapping[str, Any]],
        *,
        beat_s: float = BEAT_S,
        keys: Keys | None = None,
    ) -> None:
        sockets.check_endpoint(registry)
        super().__init__(name="zpipe-control", daemon=True)
        self.registry = registry
        self.inbox: deque[Map] = deque()
        self.fenced = False
        self.fenced_why = ""
        self.epoch = 0
        self._keys = keys
        self._news: sockets.News | None = None  # of the connection, but that it is down
        self._hello: Map = {"proto": list(PROTO), **hello, "t": "HELLO"}
        self._report = report
        self._beat_s = beat_s
        self._ver = 0
        self._heard_s = time.monotonic()
        self._welcome: Map | None = None
        self._refusal: RegistryError | None = None
        self._answered = threading.Event()  # the first HELLO, either way
        self._up = False  # there is a connection: what is sent without one would only grow old
        self._in_touch = False  # this registry knows us
        self._hello_rids: deque[int] = deque(maxlen=16)  # since the last WELCOME
        self._conflict_s: float | None = None  # since when the place has been taken
        self._hello_due_s = self._beat_due_s = 0.0
        self._beat_sent_s = float("-inf")
        self._beat_asked = False
        self._over = False  # refused or fenced: nothing more to say
        self._ending = False
        self._rids = itertools.count(1)
        self._requests: dict[int, _Request] = {}
        self._lock = threading.Lock()  # guards _requests
        self._to_thread = Wake()
        self._to_owner = Wake()

    def welcome(self, timeout_s: float) -> Map:
        """Wait for the answer to HELLO.  Raises RegistryError: nobody there, another version, or refused."""
        if not self._answered.wait(timeout_s) and self._refusal is None:
            raise nobody(self.registry, timeout_s, self._keys, self._news)
        if self._refusal is not None:
            raise self._refusal
        assert self._welcome is not None
        return self._welcome

    def fileno(self) -> int:
        """Return a descriptor that is readable while `inbox` has something or `fenced` is news."""
        return self._to_owner.fileno()

    def clear(self) -> None:
        """Acknowledge the descriptor; before `inbox` is emptied, so that nothing is overlooked."""
        self._to_owner.clear()

    @property
    def lost_s(self) -> float:
        """Return how long ago the registry was last heard; beyond two beats it is away."""
        return time.monotonic() - self._heard_s

    def beat_now(self) -> None:
        """Report at once, or 20 ms after the last beat."""
        self._beat_asked = True
        self._to_thread.set()

    def request(self, message: Mapping[str, Any], timeout_s: float) -> Map:
        """Ask until the registry answers, and return the answer.  Raises RegistryError.

        The message may arrive more than once: only what may be repeated can be asked (FAILED, BYE).
        """
        rid = next(self._rids)
        request = _Request(rid, wire.encode({**message, "rid": rid}))
        with self._lock:
            self._requests[request.rid] = request
        self._to_thread.set()
        try:
            if not request.answered.wait(timeout_s):
                raise nobody(self.registry, timeout_s)
        finally:
            with self._lock:
                del self._requests[request.rid]
        return checked(request.answer)

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._ending = True
        self._to_thread.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        """Speak with the registry until stopped."""
        ctx = sockets.context()  # of its own: a registry's name that does not resolve holds up no data
        try:
            while not self._ending:
                self._speak(ctx)
        except RegistryError as error:  # not an address at all
            self._refuse(error)
        finally:
            sockets.end(ctx)

    def _speak(self, ctx: sockets.Context) -> None:
        """Use one socket until it has been silent for too long."""
        identity = int(self._hello["inc"]).to_bytes(8, "big")
        dealer, monitor = sockets.dealer(ctx, self.registry, identity, self._keys)
        poller = sockets.Poller()
        for readable in (dealer, monitor, self._to_thread):
            poller.register(readable, sockets.IN)
        dialled_s = time.monotonic()
        try:
            while not self._ending and (self._over or time.monotonic() - max(self._heard_s, dialled_s) < REDIAL_S):
                wait_s = self._send_due(dealer)
                poller.poll(int(wait_s * 1000) + 1)
                self._to_thread.clear()
                while news := sockets.watched(monitor):
                    self._take_news(news)
                for _ in range(BURST):
                    frames = sockets.receive(dealer)
                    if frames is None:
                        break
                    self._take(frames)
        finally:
            self._up = False
            sockets.unwatch(dealer)
            sockets.close(dealer, monitor)

    def _take_news(self, news: sockets.News) -> None:
        if news in ("up", "down"):
            self._up = news == "up"
            self._make_all_due()
        if news != "down":
            self._news = news
        if news == "denied":
            denial = nobody(self.registry, 0.0, self._keys, news)
            if self._welcome is None:
                self._refuse(denial)
            else:
                self._end(str(denial))

    def _end(self, why: str) -> None:
        self.fenced_why, self.fenced, self._over = why, True, True
        self._to_owner.set()

    def _make_all_due(self) -> None:
        self._hello_due_s = self._beat_due_s = 0.0
        with self._lock:
            for request in self._requests.values():
                request.due_s = 0.0

    def _send_due(self, dealer: sockets.Socket) -> float:
        """Send what is due and return the seconds until the next."""
        now_s = time.monotonic()
        if self._over or not self._up:
            return HELLO_S
        if not self._in_touch:
            if now_s >= self._hello_due_s:
                self._send_hello(dealer)
                self._hello_due_s = now_s + HELLO_S
            return max(0.0, self._hello_due_s - now_s)
        if self._beat_asked:
            self._beat_due_s = min(self._beat_due_s, self._beat_sent_s + BEAT_GAP_S)
        if now_s >= self._beat_due_s:
            self._beat_asked = False
            self._beat_sent_s = now_s
            self._beat_due_s = now_s + self._beat_s * random.uniform(1 - BEAT_JITTER, 1 + BEAT_JITTER)
            beat = {
                **self._report(),
                "t": "BEAT",
                "inc": self._hello["inc"],
                "epoch": self.epoch,
                "ver": self._ver,
            }
            sockets.ask(dealer, wire.encode({**beat, "rid": next(self._rids)}))
        due_s = self._beat_due_s
        with self._lock:
            waiting = [request for request in self._requests.values() if not request.answered.is_set()]
        for request in waiting:
            if now_s >= request.due_s:
                request.due_s = now_s + REQUEST_S
                sockets.ask(dealer, request.payload)
            due_s = min(due_s, request.due_s)
        return max(0.0, due_s - now_s)

    def _send_hello(self, dealer: sockets.Socket) -> None:
        self._hello_rids.append(next(self._rids))
        hello = {**self._hello, "rid": self._hello_rids[-1]}
        if self._welcome is not None:  # a registry that has lost us wants to know the life, not to begin one
            hello = {**self._report(), **hello}
        sockets.ask(dealer, wire.encode(hello))

    def _take(self, frames: list[memoryview]) -> None:
        try:
            message = wire.decode(frames[0])
        except ProtocolError:
            return  # what the registry means to say it repeats with the next beat
        verb, rid = message.get("t"), message.get("rid")
        if verb not in ("WELCOME", "STATE", "OK", "TABLE", "ERR"):
            return  # a socket that has connected to itself hears its own words; silence redials it
        self._heard_s = time.monotonic()
        with self._lock:
            request = self._requests.get(rid) if isinstance(rid, int) else None
        if verb == "ERR":
            self._take_error(message, request)
        elif verb == "WELCOME":
            if rid in self._hello_rids:
                self._take_welcome(message)
        elif verb == "STATE":
            if self._in_touch and message.get("epoch") == self.epoch:
                self._take_state(message)
        elif request is not None:
            request.end(message)

    def _take_welcome(self, welcome: Map) -> None:
        self.epoch, self._ver = welcome["epoch"], 0
        self._in_touch = True
        self._hello_rids.clear()
        self._beat_due_s = 0.0
        if self._welcome is None:
            self._hello |= {"worker": welcome["worker"], "slot": welcome["slot"]}
            self._hello.pop("replaces", None)
            self._welcome, self._refusal = welcome, None
            self._answered.set()

    def _take_state(self, state: Map) -> None:
        if "roster" in state:
            self._ver = state["ver"]
        # A worker may be in a call for hours: what it has not read yet is merged, never piled up.  Only the
        # owner takes things out, so that what it has seen there it can take.
        try:
            self.inbox[-1] = {**self.inbox[-1], **state}
        except IndexError:
            self.inbox.append(state)
        self._to_owner.set()

    def _take_error(self, error: Map, request: _Request | None) -> None:
        code, text = error.get("code", 0), str(error.get("text", "the registry gives no reason"))
        to_hello = error.get("rid") in self._hello_rids
        if self._welcome is None and (to_hello or code in (403, 410)):
            self._refusal = RegistryError(text, code)
            now_s = time.monotonic()
            self._conflict_s = now_s if self._conflict_s is None else self._conflict_s
            if code != 409 or now_s - self._conflict_s >= CONFLICT_S:
                self._refuse(self._refusal)
        elif to_hello or code in (403, 410):
            self._end(text)
        elif code == 404:  # the registry was restarted: whatever was asked is asked again after HELLO
            if self._in_touch:
                self._in_touch, self._hello_due_s = False, 0.0
            if request is not None:
                request.due_s = 0.0
            return
        elif request is None:
            log.warning("the registry refuses a beat: %s", text)
        if request is not None:
            request.end(error)

    def _refuse(self, refusal: RegistryError) -> None:
        self._refusal, self._over = refusal, True
        self._answered.set()


class _Request:
    """A question of the owner's thread, on its way."""

    def __init__(self, rid: int, payload: bytes) -> None:
        self.rid = rid
        self.payload = payload
        self.due_s = 0.0
        self.answer: Map = {}
        self.answered = threading.Event()

    def end(self, answer: Map) -> None:
        self.answer = answer
        self.answered.set()
