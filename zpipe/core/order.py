"""Source order: which path comes next, on the lanes of one stage.  Knows paths and marks, no payloads.

Within an epoch the lanes take turns, one position each, in the order of their numbers; a lane that has
finished the epoch (EPOCH) or altogether (FIN) is passed over.  When all have, the hook lanes above (what
`epoch_end` and `finish` of upstream stages made) follow one after the other.  Below a position the elements
count up, level by level, until the END of each split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zpipe.values.paths import Mark, Path

OVER = 2**64 - 1  # the position at which the cursor of a lane stands that has ended


class Order:
    """A cursor in source order over all lanes into one stage.

    `depths` tells how many elements the paths of a lane have, one per split above; `lanes` are those of
    sources, `hooks` those of hooks.  `expects` is the next path, None when everything is over.  `advance`
    moves past what was found there, or at a prefix of it, and says `"epoch"` or `"over"` when that ended an
    epoch or the whole input.
    """

    def __init__(self, depths: Mapping[int, int], lanes: Sequence[int], hooks: Sequence[int]) -> None:
        self.depths = dict(depths)
        self.lanes = tuple(sorted(lanes))
        self.hooks = tuple(hooks)
        self.epoch = 0
        self.next: dict[int, Path] = {lane: self._first(lane, (0,)) for lane in (*self.lanes, *self.hooks)}
        self.resting: set[int] = set()  # finished with this epoch
        self.ended: set[int] = set()  # finished altogether
        self.closing: dict[int, int] = {}  # lane -> EPOCH or FIN seen at the position it stands at
        self.turn: int | None = self.lanes[0] if self.lanes else None

    @property
    def expects(self) -> Path | None:
        return None if self.turn is None else (self.turn, *self.next[self.turn])

    def covers(self, path: Path) -> bool:
        """Tell whether the cursor is past `path` and everything below it."""
        at = self.next.get(path[0])
        return at is not None and covers(at, path[1:])

    def stride(self, path: Path, n: int) -> int:
        """Return how many of `n` items, or of `n` tombstones, whose paths follow `path` are next: 1 or all.

        Where lanes take turns another one's comes first, and a position that closes an epoch stands alone.
        """
        lane = path[0]
        if n == 1 or len(path) > 2:
            return n
        if lane in self.closing:
            return 1
        return n if lane in self.hooks or self.ended.union(self.resting, (lane,)).issuperset(self.lanes) else 1

    def advance(self, path: Path, mark: int, n: int = 1) -> str | None:
        """Move past the item or mark found at `path`, where the cursor stands or which it stands below.

        Past `n` of them where they follow each other, as `stride` allows.
        """
        lane, at = path[0], path[1:]
        if mark == Mark.EPOCH or mark == Mark.FIN:
            self.closing[lane] = mark
        if mark == Mark.END and len(at) > 1:  # a position is no split that could end
            at = at[:-1]  # the index counts the children: what is over is their parent
        if len(at) > 1:
            self.next[lane] = self._first(lane, (*at[:-1], at[-1] + n))
            return None
        self.next[lane] = self._first(lane, (at[0] + n,))
        closing = self.closing.pop(lane, None)
        if closing == Mark.EPOCH:
            self.resting.add(lane)
        elif closing == Mark.FIN:
            self.ended.add(lane)
            self.next[lane] = self._first(lane, (OVER,))
        elif lane in self.hooks:
            return None  # a hook lane goes on until it closes
        return self._pass_turn(lane)

    def _pass_turn(self, lane: int) -> str | None:
        done = self.resting | self.ended
        going = [other for other in self.lanes if other not in done]
        if going:
            self.turn = next((other for other in going if other > lane), going[0])
            return None
        over = self.ended.issuperset(self.lanes)
        if over:
            done = self.ended  # a hook lane that rests will still say what `finish` makes
        self.turn = next((hook for hook in self.hooks if hook not in done), None)
        if self.turn is not None:
            return None
        if over:
            return "over"
        self.epoch += 1
        self.resting.clear()
        self.turn = next(other for other in self.lanes if other not in self.ended)
        return "epoch"

    def _first(self, lane: int, at: Path) -> Path:
        """Return the first path at or below `at`."""
        return at + (0,) * (self.depths[lane] + 1 - len(at))

    def snapshot(self) -> dict[str, Any]:
        """Return the cursor as plain data, to be saved and given to `restore`."""
        return {
            "epoch": self.epoch,
            "next": [[lane, list(at)] for lane, at in self.next.items()],
            "resting": sorted(self.resting),
            "ended": sorted(self.ended),
            "closing": [[lane, int(mark)] for lane, mark in self.closing.items()],
            "turn": self.turn,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Stand where `snapshot` was taken."""
        self.epoch = saved["epoch"]
        self.next = {lane: tuple(at) for lane, at in saved["next"]}
        self.resting = set(saved["resting"])
        self.ended = set(saved["ended"])
        self.closing = dict(saved["closing"])
        self.turn = saved["turn"]


def covers(cursor: Path, at: Path) -> bool:
    """Tell whether a lane's cursor (position, elements...) is past `at` and everything below it."""
    return at < cursor and cursor[: len(at)] != at
