"""What a gate gives out: each item on a token, to one worker at a time, for as long as its lease lasts.

An item is open until its outcome.  A lease that runs out gives the item to the next who asks, but its token stays good
as long as the item is open: whoever comes first with a result has done it.  Calls go before items of the stream.
Reads no clock and makes no tokens.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

LEASE_S = 5.0
STREAM_EVERY = 4  # of so many items given out while calls wait, one is of the stream
UNANSWERED_MAX = 3  # times in a row that one may let leases run out before it gets nothing more
DISTRUST_LEASES = 10  # for the time of so many
OVER_MAX = 4096  # tokens that are good no more of which is remembered why

WAITING, HELD, ASIDE, CLOSED = "waiting", "held", "aside", "closed"
NEW, GIVEN, NOT_SENT, RUN_OUT, FAILED, DUE, GIVEN_UP, DONE = (
    "arrives", "is given", "could not be sent", "lease runs out", "failed", "its time has come", "is given up", "done",
)  # fmt: skip
# What becomes of an item in a state by an event; docs/protocol.md draws this table.
MOVES = {
    ("", NEW): WAITING,
    (WAITING, GIVEN): HELD,
    (WAITING, DONE): CLOSED,  # by one whose lease had run out
    (HELD, NOT_SENT): WAITING,
    (HELD, RUN_OUT): ASIDE,
    (HELD, FAILED): ASIDE,
    (HELD, DONE): CLOSED,
    (ASIDE, DUE): WAITING,
    (ASIDE, GIVEN_UP): CLOSED,
    (ASIDE, DONE): CLOSED,
}


@dataclass(eq=False)
class Item:
    """One item; `what` is whatever its owner wants to find again."""

    what: Any
    is_call: bool = False
    state: str = ""  # aside: its owner has it, or it waits before its next try
    tries: int = 0  # outcomes that were failures
    deaths: int = 0  # leases that ran out at somebody who held nothing else, and can be held to account
    suspect: bool = False  # it was among several that somebody held who fell silent: from now on it is given alone
    lease: Lease | None = None  # the one that runs
    tokens: list[str] = field(default_factory=list)  # all that are good for it

    def move(self, event: str) -> None:
        """Go where the table says."""
        self.state = MOVES[self.state, event]


@dataclass(eq=False)
class Lease:
    """An item in somebody's hands; `holder` is None where nobody can be held to account."""

    token: str
    item: Item
    holder: Any
    since_s: float
    until_s: float


@dataclass
class Holder:
    """What is known of one who takes items."""

    held: int = 0
    unanswered: int = 0  # times in a row that leases ran out
    distrusted_s: float = 0.0  # until when


class Refused(Exception):
    """A token that is good for nothing; the text says why."""


class Leases:
    """The open items of a gate."""

    def __init__(
        self, make_token: Callable[[], str], *, lease_s: float = LEASE_S, timeout_s: float | None = None
    ) -> None:  # fmt: skip
        self.lease_s = lease_s
        self.timeout_s = timeout_s  # of one attempt, however often it is extended
        self.holders: dict[Hashable, Holder] = {}
        self.open = 0  # items without an outcome
        self.waiting = 0  # of them those that may be given out now,
        self.calling = 0  # and of these the calls
        self.unaccounted = 0  # leases that run at nobody in particular
        self._make_token = make_token
        self._stream: deque[Item] = deque()
        self._calls: deque[Item] = deque()
        self._later: list[tuple[float, int, Item]] = []  # a heap: items that wait before their next try
        self._given: dict[str, Lease] = {}  # every token of an open item
        self._running: dict[str, Lease] = {}  # those whose lease runs
        self._over: OrderedDict[str, str] = OrderedDict()  # tokens that are good no more: why
        self._numbers = itertools.count()
        self._first_s = float("inf")  # no lease runs out before: they are only ever extended

    # -- items --------------------------------------------------------------------------------------

    def add(self, what: Any, *, is_call: bool = False) -> Item:
        """Open an item."""
        item = Item(what, is_call)
        self.open += 1
        item.move(NEW)
        self._queue(item, first=False)
        return item

    def again(self, item: Item, due_s: float) -> None:
        """Give an item out once more that is `aside`, not before `due_s`."""
        heappush(self._later, (due_s, next(self._numbers), item))

    def close(self, item: Item) -> None:
        """Take note of the outcome of an item that is `aside`: it was given up."""
        self._end(item, GIVEN_UP, "the item was given up")

    @property
    def streaming(self) -> int:
        """Return how many items of the stream may be given out now."""
        return self.waiting - self.calling

    @property
    def held(self) -> int:
        """Return how many leases run."""
        return len(self._running)

    # -- those who work -----------------------------------------------------------------------------

    def give(self, now_s: float, n: int, holder: Any = None) -> list[Lease]:
        """Give up to `n` items to `holder`; nothing to one who is not trusted."""
        leases: list[Lease] = []
        if holder is not None and self.is_distrusted(now_s, holder):
            return leases
        while len(leases) < n and self.waiting:
            item = self._next()
            if item.suspect and leases:
                self._queue(item, first=True)
                break
            token = self._make_token()
            lease = Lease(token, item, holder, now_s, now_s + self._lasts(now_s, now_s))
            self._first_s = min(self._first_s, lease.until_s)
            item.move(GIVEN)
            item.lease = lease
            item.tokens.append(token)
            self._given[token] = self._running[token] = lease
            if holder is None:
                self.unaccounted += 1
            else:
                self.holders.setdefault(holder, Holder()).held += 1
            leases.append(lease)
            if item.suspect:
                break
        return leases

    def take_back(self, leases: Iterable[Lease]) -> None:
        """Undo a `give` that did not arrive."""
        for lease in reversed(list(leases)):
            self._stop(lease)
            del self._given[lease.token]
            lease.item.tokens.remove(lease.token)
            lease.item.move(NOT_SENT)
            self._queue(lease.item, first=True)

    def extend(self, now_s: float, token: str) -> Lease:
        """Let a lease last for another `lease_s`, no longer than an attempt may take; returns it.  Raises Refused."""
        lease = self._lease(token)
        if token not in self._running:
            raise Refused(f"its lease of {self.lease_s:g} s ran out, and the item is for whoever is first")
        self._hear_of(lease)
        lease.until_s = now_s + self._lasts(lease.since_s, now_s)
        return lease

    def done(self, token: str) -> Item:
        """Return the item that a result is for: it is closed, whoever else holds it.  Raises Refused."""
        lease = self._lease(token)
        self._hear_of(lease)
        self._end(lease.item, DONE, "its lease ran out, and another has done the item")
        self._over[token] = "it was used before"
        return lease.item

    def failed(self, token: str) -> Item:
        """Return the item that could not be done: it is `aside`, for its owner to say what follows.  Raises Refused."""
        lease = self._lease(token)
        self._hear_of(lease)
        if token not in self._running:
            raise Refused(f"its lease of {self.lease_s:g} s ran out, and the item is for whoever is first")
        self._stop(lease)
        self._drop_tokens(lease.item, "the item is tried again")
        self._over[token] = "it was used before"
        lease.item.move(FAILED)
        lease.item.tries += 1
        return lease.item

    def expire(self, now_s: float) -> list[Lease]:
        """Return the leases that have run out: their items are `aside`, and their tokens still good."""
        if now_s < self._first_s:
            return []
        over = self._run_out(now_s, [lease for lease in self._running.values() if lease.until_s <= now_s])
        self._first_s = min((lease.until_s for lease in self._running.values()), default=float("inf"))
        return over

    def drop(self, now_s: float, holder: Hashable) -> list[Lease]:
        """Return the leases of one who is known to be dead, which end now; as `expire`."""
        return self._run_out(now_s, [lease for lease in self._running.values() if lease.holder == holder])

    def _run_out(self, now_s: float, over: list[Lease]) -> list[Lease]:
        held = {id(lease): self.holders[lease.holder].held for lease in over if lease.holder is not None}
        for lease in over:
            self._stop(lease)
            lease.item.move(RUN_OUT)
            if lease.holder is not None:
                alone = held[id(lease)] == 1
                lease.item.deaths += alone
                lease.item.suspect = True
        for silent in {lease.holder: self.holders[lease.holder] for lease in over if lease.holder is not None}.values():
            silent.unanswered += 1
            silent.distrusted_s = now_s + DISTRUST_LEASES * self.lease_s
        return over

    def is_distrusted(self, now_s: float, holder: Hashable) -> bool:
        """Tell whether one has let too many leases run out to be given more."""
        known = self.holders.get(holder)
        return known is not None and known.unanswered >= UNANSWERED_MAX and now_s < known.distrusted_s

    def forget(self, holder: Hashable) -> None:
        """Take note that one has gone; what it holds stays with it until the leases run out."""
        if (known := self.holders.get(holder)) is not None and not known.held:
            del self.holders[holder]

    def due_s(self) -> float:
        """Return before when no lease runs out and no try is due, infinity when there is none."""
        return min(self._first_s, self._later[0][0]) if self._later else self._first_s

    # -- within -------------------------------------------------------------------------------------

    def _queue(self, item: Item, *, first: bool) -> None:
        queue = self._calls if item.is_call else self._stream
        self.waiting += 1
        self.calling += item.is_call
        if first:
            queue.appendleft(item)
        else:
            queue.append(item)

    def ripen(self, now_s: float) -> None:
        """Put what is to be tried again where it is given out next."""
        while self._later and self._later[0][0] <= now_s:
            item = heappop(self._later)[2]
            if item.state == ASIDE:
                item.move(DUE)
                self._queue(item, first=True)

    def _next(self) -> Item:
        """Return the item that is given out next, of which there is one."""
        first, second = self._calls, self._stream
        if next(self._numbers) % STREAM_EVERY == 0:
            first, second = second, first
        while True:
            item = (first or second).popleft()
            if item.state == WAITING:  # else it was done meanwhile, by one whose lease had run out
                self.waiting -= 1
                self.calling -= item.is_call
                return item

    def _lasts(self, since_s: float, now_s: float) -> float:
        """Return for how long from now on a lease holds."""
        if self.timeout_s is None:
            return self.lease_s
        return min(self.lease_s, since_s + self.timeout_s - now_s)

    def _lease(self, token: str) -> Lease:
        lease = self._given.get(token)
        if lease is None:
            raise Refused(self._over.get(token, "this token was not given out"))
        return lease

    def _hear_of(self, lease: Lease) -> None:
        if lease.holder is not None and lease.holder in self.holders:
            self.holders[lease.holder].unanswered = 0

    def _stop(self, lease: Lease) -> None:
        if self._running.pop(lease.token, None) is None:
            return
        lease.item.lease = None
        if lease.holder is None:
            self.unaccounted -= 1
        else:
            self.holders[lease.holder].held -= 1

    def _end(self, item: Item, event: str, why: str) -> None:
        if item.lease is not None:
            self._stop(item.lease)
        if item.state == WAITING:
            self.waiting -= 1
            self.calling -= item.is_call
        self.open -= 1
        item.move(event)
        self._drop_tokens(item, why)

    def _drop_tokens(self, item: Item, why: str) -> None:
        for token in item.tokens:
            del self._given[token]
            self._over[token] = why
        item.tokens = []
        while len(self._over) > OVER_MAX:
            self._over.popitem(last=False)
