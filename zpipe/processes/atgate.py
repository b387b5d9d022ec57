"""What is tried of a program at a gate beyond what the `cmd` of a stage has to keep: one function, and one life, each.

Plays the gate that is slow, silent, killed or out of its mind, and the world that kills the program.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from zpipe.processes.child import Ended
from zpipe.processes.gate import POLL_S
from zpipe.processes.played import ASKS_MAX, BEGIN_S, Broken, Gone, Life, Outcome, Play, Untried, is_same
from zpipe.processes.visitor import Visitor
from zpipe.wire.body import encode_message
from zpipe.wire.outside import VERSION

SEVERAL_MAX = 8  # items that it is given at once
WARM = 8  # items that it is given before, one by one
AGAIN_S = 12.0  # for a program to ask again
LEASE_S = 2.0
BUSY_ENOUGH = 6  # how often it is heard that an item is still being worked on
TERM_S = 10.0  # for a program that was told by the system to end
NO_ITEM = object()


def plays(items: Sequence[Any], slow: Any) -> list[tuple[Play, Sequence[str]]]:
    """Return what to play, and the rules that hold when it has gone well; `slow` may be NO_ITEM."""
    item = items[0]
    nonsense = (b"\xc1", encode_message(7, raw=False)[0])
    return [
        (_named, ("name",)),
        (lambda life: _waits(life, item), ("waits",)),
        (lambda life: _several(life, item), ("several",)),
        (lambda life: _silence(life, item), ("silence",)),
        (lambda life: _restart(life, item), ("restart",)),
        (lambda life: _killed(life, item), ("killed",)),
        (lambda life: _two(life, item), ("two",)),
        (lambda life: _error(life, item), ("error",)),
        *((lambda life, frame=frame: _nonsense(life, frame), ("nonsense",)) for frame in nonsense),
        *((lambda life, says=says: _version(life, says), ("version",)) for says in ({}, {"zpipe": VERSION + 1})),
        (lambda life: _busy(life, slow), ("busy",)),
        (lambda life: _ends(life, item), ("ends",)),
    ]


def _named(life: Life) -> None:
    if not life.asked.name:
        raise Broken("name", "it says no `name`: who looks for it in a log does not find it")


def _waits(life: Life, item: Any) -> None:
    """Have nothing for it, twice."""
    for _ in range(2):
        _nothing(life, "waits", "after an answer without items")
    life.give(item, {"lease_s": LEASE_S})


def _nothing(life: Life, rule: str, when: str, **more: Any) -> None:
    """Have nothing for it, and hear that it asks again."""
    life.answer({"items": [], "lease_s": LEASE_S, **more})
    life.hear(rule, life.timeout_s, when)
    if life.asked.done or life.asked.failed:
        raise Broken(rule, "it tells of an item that it was not given")


def _several(life: Life, item: Any) -> None:
    """Give it as much as it wants at once."""
    for _ in range(WARM):
        if (life.asked.take or 0) > 1:
            break
        life.give(item, {"lease_s": LEASE_S})
    wanted = min(life.asked.take or 0, SEVERAL_MAX)
    if wanted < 2:
        raise Untried("it asks for one item at a time")
    tokens = {secrets.token_hex(8) for _ in range(wanted)}
    life.answer({"items": [[token, item] for token in tokens], "lease_s": LEASE_S})
    peer = life.child.peer
    for _ in range(ASKS_MAX * wanted):
        life.hear("several", life.timeout_s, f"at {wanted} items")
        tokens -= {token for token, _ in life.outcomes(list(tokens))}
        if not tokens and life.asked.take:
            return
        if life.asked.take and life.child.peer != peer:
            life.put_aside()
        else:
            life.answer({"items": []} if life.asked.take else {})
    raise Broken("several", f"it was given {wanted} items, and says nothing of {len(tokens)} of them")


def _silence(life: Life, item: Any) -> None:
    """Do not answer when it tells what came of an item."""
    _asks_the_same(life, life.give(item, {}), "silence", "when it had no answer")
    raise Gone


def _restart(life: Life, item: Any) -> None:
    """Be gone when it has told what came of an item, and have forgotten it when back."""
    outcome = life.give(item, {})
    assert isinstance(life.child, Visitor)
    life.child.restart()
    _asks_the_same(life, outcome, "restart", "when the gate was back at its address")
    tokens = [token for token, *_ in (*life.asked.done, *life.asked.failed)]
    life.give(item, {"refused": [[token, "this token was not given out"] for token in tokens]}, "restart")
    raise Gone


def _asks_the_same(life: Life, outcome: Outcome, rule: str, when: str) -> None:
    told = [*life.asked.done, *life.asked.failed]
    until_s = time.monotonic() + AGAIN_S
    life.hear(rule, AGAIN_S, when)
    while not is_same([*life.asked.done, *life.asked.failed], told):
        if not _has_said(life, rule, until_s - time.monotonic()):
            raise Broken(rule, f"it asks again without {outcome[0]!r}, which nobody has heard")


def _killed(life: Life, item: Any) -> None:
    """Kill it with an item in its hands."""
    life.answer({"items": [[secrets.token_hex(8), item]], "lease_s": LEASE_S})
    assert isinstance(life.child, Visitor)
    life.child.revive()
    life.begin("killed")
    life.give(item, {}, "killed")


def _two(life: Life, item: Any) -> None:
    """Start another of it, give each an item when both ask, and hear of both."""
    visitor = life.child
    assert isinstance(visitor, Visitor)
    visitor.double()
    asking = {visitor.peer: life.asked}
    until_s = time.monotonic() + max(BEGIN_S, life.timeout_s)
    while len(asking) < 2:
        if not _has_said(life, "two", POLL_S):
            try:
                visitor.check_double()
            except Ended as ended:
                raise Broken("two", f"the second of two at one gate {ended}") from None
            if time.monotonic() >= until_s:
                raise Broken("two", "of two that were started at one gate one asks")
            life.answer({"items": []})
            asking.clear()
        elif life.asked.take:
            asking[visitor.peer] = life.asked
        else:
            life.answer({})
    tokens = []
    for peer, asked in asking.items():
        life.turn_to(peer, asked)
        tokens.append(secrets.token_hex(8))
        life.answer({"items": [[tokens[-1], item]]})
    missing = set(tokens)
    while missing:
        life.hear("two", life.timeout_s, "when two of it had an item each")
        missing -= {token for token, _ in life.outcomes(tokens)}
        if not life.asked.take:
            life.answer({})
    raise Gone


def _has_said(life: Life, rule: str, timeout_s: float) -> bool:
    try:
        return life.heard(timeout_s)
    except Ended as ended:
        raise Broken(rule, f"it {ended}") from None


def _error(life: Life, item: Any) -> None:
    """Tell it that it is given nothing for now, and that what it says of an item breaks a rule."""
    _nothing(life, "error", "after an error", error="nothing more is given to you for now")
    if life.give(item, {"lease_s": LEASE_S}, "error")[0] != "done":
        return
    tokens = [token for token, *_ in (*life.asked.done, *life.asked.failed)]
    life.answer({"error": "a result is of another kind"})
    life.hear("error", life.timeout_s, "after an error about a result")
    list(life.outcomes(tokens))


def _nonsense(life: Life, frame: bytes) -> None:
    """Answer with what is none; it may end over it."""
    life.child.answer([frame])
    _tells_of_nothing(life, "nonsense", "an answer that is no message")


def _version(life: Life, says: dict[str, int]) -> None:
    """Answer with items in what is no message of this version; it may end over it."""
    message = {**says, **life.due, "items": [[secrets.token_hex(8), "x"]]}
    life.child.answer(encode_message(message, raw=False))
    _tells_of_nothing(life, "version", "an answer of another version" if says else "an answer without one")


def _tells_of_nothing(life: Life, rule: str, what: str) -> None:
    try:
        has_said = life.heard(AGAIN_S)
    except Ended:
        raise Gone from None
    if not has_said:
        raise Broken(rule, f"it said nothing for {AGAIN_S:g} s after {what}")
    if life.asked.done or life.asked.failed:
        raise Broken(rule, f"it tells of an item that it was not given, after {what}")


def _busy(life: Life, slow: Any) -> None:
    """Give it what takes longer than a lease, and hear for some leases that it is at it."""
    if slow is NO_ITEM:
        raise Untried("no item that takes long was given")
    token = secrets.token_hex(8)
    life.answer({"items": [[token, slow]], "lease_s": LEASE_S})
    heard = 0
    until_s = time.monotonic() + LEASE_S
    while heard < BUSY_ENOUGH:
        if not _has_said(life, "busy", until_s - time.monotonic()):
            raise Broken("busy", f"it has an item for {LEASE_S:g} s and says nothing")
        if any(named == token for named, _ in life.outcomes([token])):
            if not heard:
                raise Untried(f"the item has not taken a lease of {LEASE_S:g} s")
            return
        if token in life.asked.busy:
            heard += 1
            until_s = time.monotonic() + LEASE_S
        if not life.asked.take:
            life.answer({})
    raise Gone


def _ends(life: Life, item: Any) -> None:
    """Let the system ask it to end while it has an item."""
    life.answer({"items": [[secrets.token_hex(8), item]], "lease_s": LEASE_S})
    assert isinstance(life.child, Visitor)
    life.child.terminate()
    until_s = time.monotonic() + TERM_S
    while (left_s := until_s - time.monotonic()) > 0:
        try:
            if not life.heard(left_s):
                break
        except Ended:
            raise Gone from None
        if life.asked.take and life.child.wait(POLL_S) is not None:
            raise Gone
        life.answer({"items": []} if life.asked.take else {})
    raise Broken("ends", f"it still runs {TERM_S:g} s after SIGTERM")
