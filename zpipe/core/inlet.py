"""The receiving side of a worker: what arrived on each link, the credit it has, and what is settled of it.

Counts are absolute per (sender, generation), so an ack is a snapshot and may be lost, repeated or late.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Protocol

from zpipe.core.limits import Limits
from zpipe.values.paths import Run
from zpipe.wire.frames import Ack, Data, Open, Sync

LEFT_MAX = 256  # closed links that are remembered, for senders that go on
NEWS_MAX = 8  # acks of nothing but quiet and wants, to a sender that is not heard: it may be in a long call


class InLink:
    """The receiving end of a link."""

    __slots__ = ("acks", "base", "consumed", "consumed_bytes", "dirty", "edge", "gen", "got", "got_bytes",
                 "limit", "limit_bytes", "news", "pressed", "ranges", "reported", "seen_hi", "shares",
                 "src", "window")  # fmt: skip

    def __init__(self, src: int, gen: int, edge: int, acks: tuple[str, ...], *, shares: bool = False) -> None:
        self.src = src
        self.shares = shares  # whether this end reads memory that the sender shares
        self.gen = gen
        self.edge = edge
        self.acks = acks
        self.got = 0
        self.got_bytes = 0
        self.consumed = 0
        self.consumed_bytes = 0
        self.base = 1  # every seq below is settled
        self.ranges: list[list[int]] = []  # settled above base, disjoint, ascending, inclusive
        self.window = 1
        self.limit = 0
        self.limit_bytes = 0
        self.seen_hi = 0
        self.pressed = False
        self.news = 0  # acks since the sender was heard that only said quiet or wants
        self.dirty = True
        self.reported: tuple[bool, tuple[int, ...], bool, bool] = (False, (), False, False)

    def settle(self, seq: int, n: int) -> None:
        """Note that the frame of `n` items from `seq` on is settled."""
        self.dirty = True
        last = seq + n - 1
        if seq == self.base:
            self.base = last + 1
            while self.ranges and self.ranges[0][0] == self.base:
                self.base = self.ranges.pop(0)[1] + 1
            return
        at = bisect_left(self.ranges, [seq])
        if at > 0 and self.ranges[at - 1][1] == seq - 1:
            self.ranges[at - 1][1] = last
            at -= 1
        else:
            self.ranges.insert(at, [seq, last])
        if at + 1 < len(self.ranges) and self.ranges[at + 1][0] == last + 1:
            self.ranges[at][1] = self.ranges.pop(at + 1)[1]


class Address:
    """Where an ack for a frame goes: a link, its first seq, and how many items; `left` are not yet called."""

    __slots__ = ("left", "link", "n", "nbytes", "returned", "seq")

    def __init__(self, link: InLink, seq: int, run: Run) -> None:
        self.link = link
        self.seq = seq
        self.n = run.n
        self.nbytes = run.nbytes
        self.left = run.n
        self.returned = False

    def settle(self) -> None:
        self.link.settle(self.seq, self.n)

    def consume(self) -> None:
        """Return the frame's credit, once."""
        if not self.returned:
            self.returned = True
            self.link.consumed += self.n
            self.link.consumed_bytes += self.nbytes
            self.link.dirty = True


class Intake(Protocol):
    """What becomes of a run that arrived; the worker's kind of stage decides."""

    def arrived(self, address: Address, run: Run) -> None: ...


class Inlet:
    """All links into a worker.  Actions go to the callables `dial_acks` and `send_ack`."""

    link_type = InLink

    def __init__(self, inc: int, edges: set[int], limits: Limits, intake: Intake) -> None:
        self.inc = inc
        self.edges = edges
        self.limits = limits
        self.intake = intake
        self.links: dict[int, InLink] = {}  # by the sender's incarnation
        self.left: dict[int, InLink] = {}  # links that a roster closed
        self.named: set[int] = set()  # the senders of the last roster, and those that went on without being named
        self.senders = 1  # upstream workers in the roster: they share the budget
        self.latest: frozenset[int] = frozenset()  # edges that keep only the latest: a window of one item
        self.least = 0  # a window to grow to whatever the calls take: one commit serves many items
        self.service_s: float | None = None  # seconds per item, a moving average
        self.flight_s = 0.0  # from granting credit to what it brings, a moving average
        self.hungry_s: float | None = None  # since when credit was all that was missing
        self.refused = 0
        self.dial_acks: Callable[[InLink], None] = _unset
        self.send_ack: Callable[[Ack], None] = _unset
        self.hang_up: Callable[[InLink], None] = _unset

    def opened(self, message: Open) -> None:
        """Open a link: a new generation ends the older ones of the same sender, and an older one comes too late."""
        old = self._link(message.src, message.gen)
        last = old or self.left.get(message.src)
        if message.edge not in self.edges or (last is not None and message.gen < last.gen):
            self.refused += 1
            return
        if old is not None:
            if old.gen == message.gen:
                old.dirty = True
                return
            self.hang_up(old)
        link = self.link_type(
            message.src, message.gen, message.edge, tuple(message.info.get("acks", ())), shares=message.shares
        )
        self.left.pop(message.src, None)
        self.links[message.src] = link
        self.dial_acks(link)

    def _link(self, src: int, gen: int) -> InLink | None:
        """Return the link of a sender; one that a roster closed opens again when its sender goes on with it.

        A registry that was restarted may leave out a worker that is only late: that one keeps its links.
        """
        link = self.links.get(src)
        if link is None and src in self.left and self.left[src].gen == gen:
            link = self.links[src] = self.left.pop(src)
            link.dirty = True
            self.named.add(src)
            self.dial_acks(link)
        return link

    def data(self, message: Data, now_s: float) -> bool:
        """Take in a run; False when it is not for this life, not of an open link, or not what comes next."""
        link = self._link(message.src, message.gen)
        run = message.run
        if link is None or not self._is_current(link, message.gen):
            self.refused += 1
            return False
        link.news = 0
        if message.seq != link.got + 1 or message.seq + run.n - 1 > link.limit:
            link.seen_hi = max(link.seen_hi, message.seq - 1)  # a gap: the sender reads it in the next ack
            link.dirty = True
            self.refused += 1
            return False
        if self.hungry_s is not None:
            waited_s = min(now_s - self.hungry_s, self.limits.flight_max_s)
            self.flight_s += (waited_s - self.flight_s) / 4
            self.hungry_s = None
        link.got += run.n
        link.got_bytes += run.nbytes
        self.intake.arrived(Address(link, message.seq, run), run)
        return True

    def _is_current(self, link: InLink, gen: int) -> bool:
        return link.gen == gen

    def synced(self, message: Sync) -> None:
        """Answer a probe with the next ack."""
        link = self._link(message.src, message.gen)
        if link is None or link.gen != message.gen:
            return
        link.news = 0
        link.seen_hi = max(link.seen_hi, message.hi)
        link.pressed = bool(message.blocked)
        link.dirty = True

    def closed(self, src: int, gen: int) -> None:
        link = self.links.get(src)
        if link is not None and link.gen == gen:
            self.hang_up(link)
            del self.links[src]

    def roster(self, senders: set[int]) -> None:
        """Forget senders that are gone; one that no roster has named yet is early, not gone."""
        for inc in self.named - senders:
            if inc in self.links:
                link = self.left[inc] = self.links.pop(inc)
                self.hang_up(link)
        while len(self.left) > LEFT_MAX:
            del self.left[next(iter(self.left))]
        self.named = set(senders)
        self.senders = max(1, len(senders))

    @property
    def pressed(self) -> bool:
        """Tell whether a source above waits for acks."""
        return any(link.pressed for link in self.links.values())

    def served(self, seconds: float, items: int) -> None:
        """Note how long a call took, to size the windows."""
        each = seconds / items
        weight = max(0.2, items / (items + 16))  # many items say more than one
        self.service_s = each if self.service_s is None else self.service_s + weight * (each - self.service_s)

    def want(self, items: int) -> None:
        """Grant so many more items at once, over all links: who is to do them asks for them already."""
        each = -(-items // max(1, len(self.links)))
        for link in self.links.values():
            window = min(self.limits.window_max, link.got - link.consumed + each)
            if link.limit < link.consumed + window:
                link.window = max(link.window, window)
                link.dirty = True

    def _grant(self, link: InLink) -> None:
        limits = self.limits
        if self.service_s is not None and link.edge not in self.latest:
            # At least `flight_s`: where cores are shared, a sender that is ready may have to wait for its turn.
            flight_s = max(self.flight_s, limits.flight_s)
            target = min(limits.window_max, 1 + int(flight_s / max(self.service_s, 1e-9)))
            # It grows where it is used: items that came one by one say nothing of those that may come all at once.
            is_used = 2 * (link.limit - link.got) <= link.window
            link.window = max(1, min(max(target, self.least), 2 * link.window if is_used else link.window))
        budget = limits.budget_bytes // self.senders
        link.limit = max(link.limit, link.consumed + link.window)
        link.limit_bytes = max(link.limit_bytes, link.consumed_bytes + budget)

    @property
    def may_bring(self) -> bool:
        """Tell whether a sender has credit left for one more item, of the size of those that came."""
        return any(
            link.got < link.limit and link.got_bytes * (link.got + 1) <= link.limit_bytes * link.got
            for link in self.links.values()
        )

    @property
    def has_news(self) -> bool:
        """Tell whether an ack waits to be sent."""
        return any(link.dirty for link in self.links.values())

    @property
    def is_urgent(self) -> bool:
        """Tell whether a sender is about to run out of credit, or a source waits for acks."""
        return any(
            link.pressed or 2 * (link.limit - link.got) <= link.window for link in self.links.values() if link.dirty
        )

    def queued(self) -> dict[int, int]:
        """Return how many items have arrived on each edge and are not consumed; in any thread."""
        edges: dict[int, int] = {}
        for link in list(self.links.values()):
            # Consumed first: what is consumed meanwhile has arrived before.
            edges[link.edge] = edges.get(link.edge, 0) - link.consumed + link.got
        return edges

    def flush(
        self,
        quiet: bool,
        wants: tuple[int, ...],
        draining: bool,
        *,
        full: bool = False,
        hungry_s: float | None = None,
    ) -> None:
        """Send an ack for every link that has news; `hungry_s` is the time when there is nothing left to call."""
        for link in self.links.values():
            if not link.dirty:
                if link.reported == (quiet, wants, full, draining) or link.news >= NEWS_MAX:
                    continue
                link.news += 1
            if hungry_s is not None and self.hungry_s is None and 0 < link.limit == link.got:
                self.hungry_s = hungry_s  # its sender had more to send than credit, or had nothing: taken for the first
            self._grant(link)
            link.dirty = False
            link.reported = (quiet, wants, full, draining)
            self.send_ack(
                Ack(
                    src=self.inc, dst=link.src, gen=link.gen, edge=link.edge, limit=link.limit,
                    limit_bytes=link.limit_bytes, base=link.base, got=link.got, consumed=link.consumed,
                    echo=link.seen_hi, state=int(draining), quiet=int(quiet),
                    ranges=[(a, b) for a, b in link.ranges[: self.limits.ack_ranges]], wants=list(wants),
                    full=full, shares=link.shares,
                )
            )  # fmt: skip


def _unset(*_: object) -> None:
    raise AssertionError("an inlet needs its actions")
