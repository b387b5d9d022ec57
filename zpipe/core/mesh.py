"""Who is linked to whom: all to all where they are few, and to some where a full mesh would be too much.

A link stays while both of its ends live, so that whoever comes or goes moves no item of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from heapq import nsmallest


class Mesh:
    """The links between the workers of neighbouring stages.

    Each worker has at least `least` peers in each stage of `beside`, by the number of its own, or all that there are.
    The peers that have the fewest themselves come first.
    """

    def __init__(self, beside: Mapping[int, Iterable[int]], least: int) -> None:
        self._beside = {stage: tuple(others) for stage, others in beside.items()}
        self._least = least
        self._workers: dict[int, dict[int, None]] = {stage: {} for stage in beside}  # by stage, oldest first
        self._stages: dict[int, int] = {}  # by worker
        self._peers: dict[int, dict[int, dict[int, None]]] = {}  # by worker, and by the stage of the peers

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
        self._peers[inc] = {other: {} for other in self._beside[stage]}
        for other in self._beside[stage]:
            there = self._workers[other]
            chosen = list(there)
            if len(there) > self._least:
                chosen = nsmallest(self._least, there, key=lambda peer: len(self._peers[peer][stage]))
                chosen += [peer for peer in there if len(self._peers[peer][stage]) < self._least]
            for peer in chosen:
                self._link(inc, peer)
        self._workers[stage][inc] = None

    def leave(self, inc: int) -> set[int]:
        """Take out a worker that has gone; returns those whose links have changed by it."""
        stage = self._stages.pop(inc)
        del self._workers[stage][inc]
        changed = set()
        for peers in self._peers.pop(inc).values():
            for peer in peers:
                changed.add(peer)
                of_peer = self._peers[peer][stage]
                del of_peer[inc]
                if len(of_peer) < self._least and len(of_peer) < len(self._workers[stage]):
                    left = (other for other in self._workers[stage] if other not in of_peer)
                    other = min(left, key=lambda other: len(self._peers[other][self._stages[peer]]))
                    self._link(peer, other)
                    changed.add(other)
        return changed

    def _link(self, a: int, b: int) -> None:
        self._peers[a][self._stages[b]][b] = None
        self._peers[b][self._stages[a]][a] = None
