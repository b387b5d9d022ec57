"""Tells whether a program keeps the rules of docs/foreign.md: plays a stage to it, and a second one that is odder."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zpipe.processes.child import Child, Ended
from zpipe.processes.foreign import END_S
from zpipe.values.errors import ProtocolError
from zpipe.wire.body import encode_message
from zpipe.wire.outside import VERSION, Asked, Message, read

BEGIN_S = 20.0  # for the program to ask for its first item
ASKS_MAX = 3  # how often it may say what leads nowhere
RULES = {
    "starts": "it asks for an item soon after its start",
    "message": "every message is a map, of this version, and of the shapes that are said",
    "takes": "it asks for items, with `take` of at least 1",
    "answers": "it says of each item what came of it, done or failed",
    "tokens": "it names the token of an item at hand, and each of them once",
    "arrays": "what it makes can be read: sizes agree, and frames that are named are there",
    "lives": "it goes on after each item, whatever came of that",
    "unknown": "it ignores keys that it does not know",
    "refused": "it goes on when told that a token was refused",
    "again": "the same item in its next life comes to the same",
    "over": "it ends, with 0, within 2 s of being told that nothing more comes",
}

Outcome = tuple[str, Any]  # "done" or "failed", and what


@dataclass(frozen=True)
class Verdict:
    """Whether a rule holds, and what was seen where it does not; None: it could not be tried."""

    rule: str
    holds: bool | None
    seen: str = ""


class Broken(Exception):
    """The program broke a rule."""

    def __init__(self, rule: str, seen: str) -> None:
        super().__init__(seen)
        self.rule = rule


class Life:
    """One life of the program."""

    def __init__(self, cmd: Sequence[str], folder: Path, args: Mapping[str, Any], timeout_s: float) -> None:
        self.child = Child(cmd, folder, args)
        self.timeout_s = timeout_s
        self.asked = Asked()

    def begin(self) -> None:
        """Hear it ask for its first item.  Raises Broken."""
        self.hear("starts", max(BEGIN_S, self.timeout_s), "before it asked for an item")
        for _ in range(ASKS_MAX):
            if self.asked.done or self.asked.failed:
                raise Broken("tokens", "it tells of items before it was given one")
            if self.asked.take:
                return
            self.answer({})
            self.hear("takes", self.timeout_s, "and asked for no item")
        raise Broken("takes", f"it sent {ASKS_MAX} messages and asked for no item")

    def hear(self, rule: str, timeout_s: float, when: str) -> None:
        """Take in its next message.  Raises Broken."""
        try:
            received = self.child.receive(timeout_s)
        except Ended as ended:
            raise Broken(rule, f"it {ended} {when}") from None
        if received is None:
            raise Broken(rule, f"it said nothing for {timeout_s:g} s {when}")
        try:
            self.asked = read(received)
        except ProtocolError as error:
            is_array = "array" in str(error) or "raw buffer" in str(error)
            raise Broken("arrays" if is_array else "message", str(error)) from None

    def answer(self, answer: Message) -> None:
        self.child.answer(encode_message({"zpipe": VERSION, **answer}, raw=self.asked.raw))

    def give(self, item: Any, more: Message, rule: str = "lives") -> Outcome:
        """Give it an item, and return what came of it.  Raises Broken."""
        token = secrets.token_hex(8)
        given = {"items": [[token, item]]}
        self.answer({**given, **more})
        found: list[Outcome] = []
        asks = 0
        while True:
            self.hear(rule, self.timeout_s, f"at the item {item!r:.60}")
            for kind, entries in (("done", self.asked.done), ("failed", self.asked.failed)):
                for named, what, *_ in entries:
                    if named != token:
                        raise Broken("tokens", f"it says {kind} of {named!r:.40}, which is no token of an item at hand")
                    found.append((kind, what))
            if len(found) > 1:
                raise Broken("tokens", f"it tells {len(found)} times what came of the item {item!r:.60}")
            if self.asked.take:
                if found:
                    return found[0]
                asks += 1
                if asks >= ASKS_MAX:
                    raise Broken("answers", f"it asked for more {asks} times with no word of the item {item!r:.60}")
                self.answer(given)
            else:
                self.answer({})

    def end(self) -> None:
        """Tell it that nothing more comes.  Raises Broken."""
        self.answer({"over": True})
        status = self.child.wait(END_S)
        if status is None:
            raise Broken("over", f"it still runs {END_S:g} s after it was told that nothing more comes")
        if status != 0:
            raise Broken("over", f"it {Ended(status)}")


def conform(
    cmd: Sequence[str], folder: Path, items: Sequence[Any], args: Mapping[str, Any], *, timeout_s: float
) -> list[Verdict]:
    """Return for each rule whether the program keeps it; after the first that it breaks no other can be tried.

    There is at least one item; `timeout_s` is how long it may take for one.  Raises StageError when it cannot be
    started.
    """
    kept: dict[str, bool] = {}
    first: list[Outcome] = []
    try:
        _lived(cmd, folder, args, timeout_s, lambda life: first.extend(_first(life, items)))
        kept |= dict.fromkeys(("starts", "message", "takes", "answers", "tokens", "arrays", "lives"), True)
        kept["over"] = True
        _lived(cmd, folder, args, timeout_s, lambda life: _again(life, items, first))
        kept |= dict.fromkeys(RULES, True)
    except Broken as broken:
        verdicts = [Verdict(rule, kept.get(rule)) for rule in RULES if rule != broken.rule]
        return [*verdicts, Verdict(broken.rule, False, str(broken))]
    return [Verdict(rule, True) for rule in RULES]


def _lived(
    cmd: Sequence[str], folder: Path, args: Mapping[str, Any], timeout_s: float, play: Callable[[Life], None]
) -> None:
    life = Life(cmd, folder, args, timeout_s)
    try:
        life.begin()
        play(life)
        life.end()
    finally:
        life.child.close()


def _first(life: Life, items: Sequence[Any]) -> list[Outcome]:
    return [life.give(item, {}) for item in items]


def _again(life: Life, items: Sequence[Any], first: Sequence[Outcome]) -> None:
    """Give the same items in a way that is right but unusual, and compare what comes of them."""
    odd: dict[str, Message] = {
        "unknown": {"of-a-later-version": [1]},
        "refused": {"refused": [[secrets.token_hex(8), "it was done before"]]},
    }
    for item, before in zip(items, first, strict=True):
        for rule, more in odd.items():
            found = life.give(item, more, rule)
            if encode_message(list(found), raw=False) != encode_message(list(before), raw=False):
                raise Broken("again", f"the item {item!r:.60} came to {found!r:.80}, and before to {before!r:.80}")
