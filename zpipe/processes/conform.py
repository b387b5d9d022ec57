"""Tells whether a program keeps the rules of docs/protocol.md, Part A.

Plays a stage, or a gate, to several lives of it, each odder than the one before.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zpipe.processes.child import Child, Ended
from zpipe.processes.foreign import END_S
from zpipe.processes.visitor import Visitor
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
AT_GATES = {
    **RULES,
    "waits": "it asks again when there are no items for it, and tells of none",
    "several": "it does all that it is given, where it asks for more than one",
    "silence": "it asks the same again when it has no answer for 5 s",
    "restart": "it asks at a gate that was killed and is back at its address",
    "nonsense": "an answer that is no message does not make it tell of an item",
    "name": "it says its name",
}
SECTIONS = {"tokens": "A 1", "refused": "A 1", "silence": "A 2", "restart": "A 2", "again": "A 3", "arrays": "A Items"}
SHOULD = frozenset(("name", "silence", "restart"))  # of a program that breaks them, nothing else is wrong
SEVERAL_MAX = 8  # items that it is given at once
AGAIN_S = 12.0  # for a program to ask again

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


class Gone(Exception):
    """The program has ended, as it may."""


class Life:
    """One life of the program."""

    def __init__(self, child: Child, timeout_s: float) -> None:
        self.child = child
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
    cmd: Sequence[str], folder: Path, items: Sequence[Any], args: Mapping[str, Any], *, timeout_s: float,
    at_gate: bool = False,
) -> list[Verdict]:  # fmt: skip
    """Return for each rule whether the program keeps it; after one that it breaks not all others can be tried.

    There is at least one item; `timeout_s` is how long it may take for one.  Raises StageError when it cannot be
    started.
    """
    rules = AT_GATES if at_gate else RULES
    kind = Visitor if at_gate else Child
    kept: dict[str, bool] = {}
    seen: dict[str, str] = {}
    first: list[Outcome] = []
    lives: list[tuple[Callable[[Life], object], Sequence[str]]] = [
        (lambda life: first.extend(_first(life, items)), ("answers", "tokens", "arrays", "lives")),
        (lambda life: _again(life, items, first), ("unknown", "refused", "again")),
    ]
    if at_gate:
        lives += [
            (lambda life: _named(life), ("name",)),
            (lambda life: kept.update(_waits(life, items)), ()),
            (lambda life: _silence(life, items[0]), ("silence",)),
            (lambda life: _restart(life, items[0]), ("restart",)),
            (lambda life: _nonsense(life), ("nonsense",)),
        ]
    for play, tried in lives:
        if any(not kept[rule] for rule in kept if rule not in SHOULD):
            break
        life = Life(kind(cmd, folder, args), timeout_s)
        try:
            life.begin()
            kept |= dict.fromkeys(("starts", "message", "takes"), True)
            play(life)
            kept |= dict.fromkeys(tried, True)
            life.end()
            kept["over"] = True
        except Gone:
            kept |= dict.fromkeys(tried, True)
        except Broken as broken:
            kept[broken.rule], seen[broken.rule] = False, str(broken)
        finally:
            life.child.close()
    return [Verdict(rule, kept.get(rule), seen.get(rule, "")) for rule in rules]


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


def _named(life: Life) -> None:
    if not life.asked.name:
        raise Broken("name", "it says no `name`: who looks for it in a log does not find it")


def _waits(life: Life, items: Sequence[Any]) -> dict[str, bool]:
    """Have nothing for it, twice, and then as much as it wants at once; returns the rules that it has kept."""
    for _ in range(2):
        life.answer({"items": [], "lease_s": 5.0})
        life.hear("waits", life.timeout_s, "after an answer without items")
        if life.asked.done or life.asked.failed:
            raise Broken("waits", "it tells of an item that it was not given")
    wanted = min(life.asked.take or 0, SEVERAL_MAX)
    if wanted < 2:
        life.give(items[0], {"lease_s": 5.0})
        return {"waits": True}
    tokens = {secrets.token_hex(8) for _ in range(wanted)}
    life.answer({"items": [[token, items[0]] for token in tokens], "lease_s": 5.0})
    for _ in range(ASKS_MAX * wanted):
        life.hear("several", life.timeout_s, f"at {wanted} items")
        for token, *_ in (*life.asked.done, *life.asked.failed):
            if token not in tokens:
                raise Broken("tokens", f"it tells of {token!r:.40}, which is no token of an item at hand")
            tokens.discard(token)
        if not tokens and life.asked.take:
            return {"waits": True, "several": True}
        life.answer({"items": []} if life.asked.take else {})
    raise Broken("several", f"it was given {wanted} items, and says nothing of {len(tokens)} of them")


def _silence(life: Life, item: Any) -> None:
    """Do not answer when it tells what came of an item."""
    before = life.give(item, {})
    told = life.asked
    life.hear("silence", AGAIN_S, "when it had no answer")
    if encode_message([*life.asked.done, *life.asked.failed], raw=False) != encode_message(
        [*told.done, *told.failed], raw=False
    ):
        raise Broken("silence", f"it asks again without {before[0]!r}, which nobody has heard")


def _restart(life: Life, item: Any) -> None:
    life.give(item, {})
    assert isinstance(life.child, Visitor)
    life.child.restart()
    life.hear("restart", AGAIN_S, "when the gate was back at its address")


def _nonsense(life: Life) -> None:
    """Answer with what is none; it may end over it."""
    other = encode_message({"zpipe": VERSION + 1, "items": [["x", 1]]}, raw=False)
    for frames in ([b"\xc1"], encode_message(7, raw=False), other):
        life.child.answer(frames)
        try:
            received = life.child.receive(AGAIN_S)
        except Ended:
            raise Gone from None
        if received is None:
            raise Broken("nonsense", f"it said nothing for {AGAIN_S:g} s after an answer that is no message")
        life.asked = read(received)
        if life.asked.done or life.asked.failed:
            raise Broken("nonsense", "it tells of an item that it was not given")
