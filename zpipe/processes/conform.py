"""Tells whether a program keeps the rules of docs/protocol.md, Part A.

Plays a stage, or a gate, to several lives of it, each odder than the one before.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zpipe.processes.atgate import NO_ITEM, plays
from zpipe.processes.child import Child
from zpipe.processes.played import Broken, Gone, Life, Outcome, Play, Untried, is_same
from zpipe.processes.visitor import Visitor
from zpipe.wire.outside import Message

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
    "restart": "it asks the same at a gate that was killed and is back at its address",
    "killed": "it works in its next life when it was killed with an item in its hands",
    "two": "two of it get items at one gate, and say what came of them",
    "error": "it goes on when it is given nothing for now, or a result is refused, with an error",
    "nonsense": "an answer that is no message does not make it tell of an item",
    "version": "nor does one of no version, or of another",
    "name": "it says its name",
    "busy": "it says `busy` in each lease while an item takes longer",
    "ends": "it ends soon after SIGTERM",
}
SECTIONS = {
    "tokens": "A 1", "refused": "A 1", "busy": "A 1", "silence": "A 2", "restart": "A 2", "again": "A 3",
    "killed": "A 3", "ends": "A 4", "arrays": "A Items",
}  # fmt: skip
SHOULD = frozenset(("silence", "restart", "version", "name", "busy", "ends"))  # who breaks them does no other harm


@dataclass(frozen=True)
class Verdict:
    """Whether a rule holds, and what was seen where it does not; None: it could not be tried."""

    rule: str
    holds: bool | None
    seen: str = ""


def conform(
    cmd: Sequence[str], folder: Path, items: Sequence[Any], args: Mapping[str, Any], *, timeout_s: float,
    at_gate: bool = False, slow: Any = NO_ITEM, only: frozenset[str] = frozenset(),
) -> list[Verdict]:  # fmt: skip
    """Return for each rule whether the program keeps it; after one that it breaks not all others can be tried.

    There is at least one item; `timeout_s` is how long it may take for one, `slow` one that takes longer than a lease.
    With `only`, no lives are played but the first and those that try one of these.  Raises StageError when it cannot
    be started.
    """
    rules = AT_GATES if at_gate else RULES
    kind = Visitor if at_gate else Child
    kept: dict[str, bool] = {}
    seen: dict[str, str] = {}
    first: list[Outcome] = []
    lives: list[tuple[Play, Sequence[str]]] = [
        (lambda life: first.extend(_first(life, items)), ("answers", "tokens", "arrays", "lives")),
        (lambda life: _again(life, items, first), ("unknown", "refused", "again")),
        *(plays(items, slow) if at_gate else ()),
    ]
    if only:
        lives[1:] = [(play, tried) for play, tried in lives[1:] if not only.isdisjoint(tried)]
    for play, tried in lives:
        if any(not kept[rule] for rule in kept if rule not in SHOULD):
            break
        if any(rule in kept and not kept[rule] for rule in tried):
            continue
        life = Life(kind(cmd, folder, args), timeout_s)
        try:
            life.begin()
            _keep(kept, ("starts", "message", "takes"))
            play(life)
            _keep(kept, tried)
            life.end()
            _keep(kept, ("over",))
        except Gone:
            _keep(kept, tried)
        except Untried as untried:
            seen |= dict.fromkeys(tried, str(untried))
        except Broken as broken:
            kept[broken.rule], seen[broken.rule] = False, str(broken)
        finally:
            life.child.close()
    wanted = [rule for rule in rules if not only or rule in only or kept.get(rule) is False]
    return [Verdict(rule, kept.get(rule), seen.get(rule, "")) for rule in wanted]


def _keep(kept: dict[str, bool], rules: Sequence[str]) -> None:
    for rule in rules:
        kept.setdefault(rule, True)


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
            if not is_same(found, before):
                raise Broken("again", f"the item {item!r:.60} came to {found!r:.80}, and before to {before!r:.80}")
