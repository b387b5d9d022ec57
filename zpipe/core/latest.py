"""What waits on an edge that keeps only the latest: of each lane one item, the newest.

Such an edge holds up nobody: a newer item takes the place of the one that waits.  Only the newest of a lane holds
what it was made from unsettled, until a newer one comes or all that was sent of the lane is settled: so the last
one arrives, and a run does not end before what its readers have begun is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from zpipe.values.paths import Path

if TYPE_CHECKING:
    from zpipe.core.outlet import Out, Parent


class Latest:
    """Outs of one item each; those that `put` and `again` return are sent no more."""

    def __init__(self) -> None:
        self.waiting: dict[int, Out] = {}  # by lane, as all below
        self.sent: Counter[int] = Counter()  # on links and not settled
        self.newest: dict[int, Path] = {}
        self.holding: dict[int, tuple[Parent, ...]] = {}
        self.skipped = 0  # items that a newer one made superfluous

    def put(self, out: Out, parents: tuple[Parent, ...]) -> Out | None:
        """Let an output wait in place of the one that does; an older one than was put before is skipped itself."""
        lane, path, newest = out.run.lane, out.run.path(0), self.newest.get(out.run.lane, ())
        if path < newest:
            self.skipped += 1
            return out
        held = self.holding.get(lane)
        if path == newest and held is None:
            return out  # a replay of what is settled
        for parent in parents:
            parent.pend += 1
        if held is not None and path == newest:  # of what is not: it shares its fate
            self.holding[lane] = (*held, *parents)
            return out
        self.newest[lane], self.holding[lane] = path, parents
        old, self.waiting[lane] = self.waiting.get(lane), out
        self.skipped += old is not None
        release(held or ())
        return old

    def take(self, lane: int) -> Out:
        """Return what waits of a lane, which now goes on a link."""
        self.sent[lane] += 1
        return self.waiting.pop(lane)

    def settled(self, out: Out) -> None:
        """Note that something sent is settled."""
        self._back(out.run.lane)

    def again(self, out: Out) -> Out | None:
        """Take back what a dead link held: it waits again when it is the newest."""
        lane = out.run.lane
        is_newest = out.run.path(0) == self.newest[lane]
        if is_newest:
            self.waiting[lane] = out
        self.skipped += not is_newest
        self._back(lane)
        return None if is_newest else out

    def _back(self, lane: int) -> None:
        self.sent[lane] -= 1
        if not self.sent[lane] and lane not in self.waiting:
            release(self.holding.pop(lane, ()))


def release(parents: Iterable[Parent]) -> None:
    """Tell parents that one of their outputs is settled."""
    for parent in parents:
        parent.pend -= 1
        if parent.pend == 0 and parent.closed:
            parent.settled()
