"""Who is linked to whom: all to all where they are few, and to some where a full mesh would be too much.

A link stays while both of its ends live, so that whoever comes or goes moves no item of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from heapq import nsmallest


class Mesh:
    """The links between the workers of neighbouring stages.

    Each worker has at least `least` peers that stay in each stage of `beside`, by the number of its own, or all that
    there are.  Those that have the fewest themselves come first.
    """

    def __init__(self, beside: Mapping[int, Iterable[int]], least: int) -> None:
        self._beside = {stage: tuple(others) for stage, others in beside.items()}
        self._least = least
        self._workers: dict[int, dict[int, None]] = {stage: {} for stage in beside}  # by stage, oldest first
        self._stages: dict[int, int] = {}  # by worker
        self._peers: dict[int, dict[int, dict[int, None]]] = {}  # by worker, and by the stage of the peers
        self._staying: dict[int, dict[int, int]] = {}  # how many of those stay
        self._leaving: set[int] = set()  # workers that take nothing new

    def __contains__(self, inc: int) -> bool:
        return inc in self._stages

    def __iter__(self) -> Iterator[int]:
        return iter(self._stages)

    def peers(self, inc: int) -> list[int]:
        """Return the workers that a worker is linked to."""
        return [peer for peers in self._peers.get(inc, {}).values() for peer in peers]

    def join(self, inc: int, stage: int) -> None:
        """Link a worker that has come; those that had too few peers get it too."""
        self._stages[inc] = stage
        self._workers[stage][inc] = None
        self._peers[inc] = {other: {} for other in self._beside[stage]}
        self._staying[inc] = dict.fromkeys(self._beside[stage], 0)
        for other in self._beside[stage]:
            there = list(self._workers[other])
            if len(there) <= self._least:
                for peer in there:
                    self._link(inc, peer)
                continue
            self._fill(inc, other)
            for peer in there:
                if self._staying[peer][stage] < self._least:
                    self._fill(peer, stage)

    def leave(self, inc: int) -> set[int]:
        """Take out a worker that has gone; returns those whose links have changed by it."""
        stage = self._stages.pop(inc)
        del self._workers[stage][inc], self._staying[inc]
        peers = [peer for peers in self._peers.pop(inc).values() for peer in peers]
        for peer in peers:
            del self._peers[peer][stage][inc]
            self._staying[peer][stage] -= inc not in self._leaving
        self._leaving.discard(inc)
        return set(peers).union(*(self._fill(peer, stage) for peer in peers))

    def retire(self, leaving: Iterable[int]) -> set[int]:
        """Take note of who is about to leave, all of them; returns those whose links have changed by it.

        Its peers keep it, and get others in its place.
        """
        leaving = self._stages.keys() & set(leaving)
        short = [(peer, self._stages[inc]) for inc in leaving ^ self._leaving for peer in self.peers(inc)]
        for inc in leaving ^ self._leaving:
            for peer in self.peers(inc):
                self._staying[peer][self._stages[inc]] += 1 if inc in self._leaving else -1
        self._leaving = leaving
        return set().union(*(self._fill(peer, stage) for peer, stage in short))

    def _fill(self, inc: int, other: int) -> set[int]:
        """Link a worker to as many of another stage as it lacks; returns who was."""
        missing = self._least - self._staying[inc][other]
        if missing <= 0:
            return set()
        stage, linked = self._stages[inc], self._peers[inc][other]
        free = (peer for peer in self._workers[other] if peer not in linked and peer not in self._leaving)
        chosen = nsmallest(missing, free, key=lambda peer: self._staying[peer][stage])
        for peer in chosen:
            self._link(inc, peer)
        return {inc, *chosen} if chosen else set()

    def _link(self, a: int, b: int) -> None:
        for inc, peer in ((a, b), (b, a)):
            linked = self._peers[inc][self._stages[peer]]
            if peer not in linked:
                linked[peer] = None
                self._staying[inc][self._stages[peer]] += peer not in self._leaving
