"""One life of a program to which a stage, or a gate, is played: what it asks is heard, and answered.

Knows the rules that every message keeps; what a life is for is not known here.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from zpipe.processes.child import Child, Ended
from zpipe.processes.foreign import END_S
from zpipe.values.errors import ProtocolError
from zpipe.wire.body import encode_message
from zpipe.wire.outside import VERSION, Asked, Message, read

BEGIN_S = 20.0  # for the program to ask for its first item
ASKS_MAX = 3  # how often it may say what leads nowhere

Outcome = tuple[str, Any]  # "done" or "failed", and what
Peer = tuple[bytes, ...]


class Broken(Exception):
    """The program broke a rule."""

    def __init__(self, rule: str, seen: str) -> None:
        super().__init__(seen)
        self.rule = rule


class Untried(Exception):
    """A rule could not be tried; the text says why."""


class Gone(Exception):
    """There is nothing more to see: the program has ended, as it may, or is to be killed."""


class Life:
    """One life of the program."""

    def __init__(self, child: Child, timeout_s: float) -> None:
        self.child = child
        self.timeout_s = timeout_s
        self.asked = Asked()
        self._aside: list[tuple[Peer, Asked]] = []

    def begin(self, rule: str = "starts") -> None:
        """Hear it ask for its first item.  Raises Broken."""
        self.hear(rule, max(BEGIN_S, self.timeout_s), "before it asked for an item")
        for _ in range(ASKS_MAX):
            if self.asked.done or self.asked.failed:
                raise Broken("tokens", "it tells of items before it was given one")
            if self.asked.take:
                return
            self.answer({})
            self.hear("takes", self.timeout_s, "and asked for no item")
        raise Broken("takes", f"it sent {ASKS_MAX} messages and asked for no item")

    def hear(self, rule: str, timeout_s: float, when: str, *, since_s: float | None = None) -> None:
        """Take in its next message, which comes in that time, from now on or since then.  Raises Broken."""
        passed_s = 0.0 if since_s is None else time.monotonic() - since_s
        try:
            heard = self.heard(timeout_s - passed_s)
        except Ended as ended:
            raise Broken(rule, f"it {ended} {when}") from None
        if not heard:
            raise Broken(rule, f"it said nothing for {timeout_s:g} s {when}")

    def heard(self, timeout_s: float) -> bool:
        """Tell whether it said something in that time, and take it in.  Raises Ended and Broken."""
        received = self.child.receive(timeout_s)
        if received is None:
            return False
        try:
            self.asked = read(received)
        except ProtocolError as error:
            is_array = "array" in str(error) or "raw buffer" in str(error)
            raise Broken("arrays" if is_array else "message", str(error)) from None
        return True

    def answer(self, answer: Message) -> None:
        """Answer what was heard last."""
        self.child.answer(encode_message({"zpipe": VERSION, **self.due, **answer}, raw=self.asked.raw))

    @property
    def due(self) -> Message:
        """Return what an answer says besides."""
        return {"tag": self.asked.tag} if self.asked.tag else {}

    def outcomes(self, tokens: Sequence[str]) -> Iterator[tuple[str, Outcome]]:
        """Yield what was heard last of each item at hand, with its token.  Raises Broken."""
        for kind, entries in (("done", self.asked.done), ("failed", self.asked.failed)):
            for named, what, *_ in entries:
                if named not in tokens:
                    raise Broken("tokens", f"it says {kind} of {named!r:.40}, which is no token of an item at hand")
                yield named, (kind, what)

    def give(self, item: Any, more: Message, rule: str = "lives") -> Outcome:
        """Give it an item, and return what came of it.  Raises Broken."""
        token = secrets.token_hex(8)
        given = {"items": [[token, item]]}
        self.answer({**given, **more})
        peer = self.child.peer
        since_s = time.monotonic()
        found: list[Outcome] = []
        asks = 0
        while True:
            self.hear(rule, self.timeout_s, f"at the item {item!r:.60}", since_s=since_s)
            found += [outcome for _, outcome in self.outcomes([token])]
            if len(found) > 1:
                raise Broken("tokens", f"it tells {len(found)} times what came of the item {item!r:.60}")
            if self.asked.take and found:
                return found[0]
            if not self.asked.take:
                self.answer({})
            elif self.child.peer != peer:
                self.put_aside()
            else:
                asks += 1
                if asks >= ASKS_MAX:
                    raise Broken("answers", f"it asked for more {asks} times with no word of the item {item!r:.60}")
                self.answer(given)

    def put_aside(self) -> None:
        """Answer what was heard last at the end: it is asked over another of its connections."""
        self._aside.append((self.child.peer, self.asked))

    def turn_to(self, peer: Peer, asked: Asked) -> None:
        """Let this be what is answered next."""
        self.child.peer, self.asked = peer, asked

    def end(self) -> None:
        """Tell it that nothing more comes.  Raises Broken."""
        for peer, asked in [(self.child.peer, self.asked), *self._aside]:
            self.turn_to(peer, asked)
            self.answer({"over": True})
        until_s = time.monotonic() + END_S
        try:
            while self.heard(until_s - time.monotonic()):
                self.answer({"over": True})
        except Ended as ended:
            if ended.status != 0:
                raise Broken("over", f"it {ended}") from None
        else:
            raise Broken("over", f"it still runs {END_S:g} s after it was told that nothing more comes")


Play = Callable[[Life], object]  # what one life is for


def is_same(one: object, other: object) -> bool:
    """Tell whether two things that were said are the same, arrays in them too."""
    return encode_message(one, raw=False) == encode_message(other, raw=False)
