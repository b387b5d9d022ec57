"""What may come into a stage with memory, drawn at random, and its source order found the slow way.

A stream is laid out by columns: for each epoch the first position of every lane, then the second of every
lane, until all have closed the epoch, and then the hook lanes one behind the other.  No cursor is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from zpipe.values.paths import Mark, Path, Run


@dataclass(frozen=True)
class Entry:
    """An item or a mark, with the boundary that it completes: "epoch", "over" or None."""

    path: Path
    mark: int
    epoch: int
    boundary: str | None = None


@dataclass(frozen=True)
class Stream:
    """Lanes and their depths, and all entries in source order."""

    depths: dict[int, int]
    lanes: tuple[int, ...]
    hooks: tuple[int, ...]
    entries: tuple[Entry, ...]

    def run(self, i: int, n: int) -> Run:
        """Return up to `n` entries from the i-th on that may travel as one run."""
        first = self.entries[i]
        taken = [first]
        by_path = {entry.path: entry for entry in self.entries}
        while len(taken) < n:
            last = taken[-1].path
            after = by_path.get((*last[:-1], last[-1] + 1))
            if after is None or after.epoch != first.epoch:
                break
            taken.append(after)
        lane, position, *elements = first.path
        marks = bytes(entry.mark for entry in taken)
        parts = [None if entry.mark else entry.path for entry in taken]
        return Run(lane, position, tuple(elements), len(taken), parts, epoch=first.epoch,
                   marks=marks if any(marks) else None)  # fmt: skip


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Draw a stream of one to three lanes, of their own lengths and depths, with or without a hook lane."""
    small = st.integers(0, 3)
    lanes = tuple(range(draw(st.integers(1, 3))))
    hooks = tuple(range(len(lanes), len(lanes) + draw(st.integers(0, 2))))
    depths = {lane: draw(st.integers(0, 2)) for lane in (*lanes, *hooks)}
    lives = {lane: draw(st.integers(0, 2)) for lane in lanes}  # the epoch in which a lane ends
    last = max(lives.values())
    at = dict.fromkeys(depths, 0)

    def below(path: Path, depth: int) -> list[tuple[Path, int]]:
        if draw(small) == 0:
            return [(path, Mark.TOMB)]
        if depth == 0:
            return [(path, Mark.ITEM)]
        children = draw(small)
        found = [leaf for i in range(children) for leaf in below((*path, i), depth - 1)]
        return [*found, ((*path, children), Mark.END)]

    def positions(lane: int, closing: Mark) -> list[list[tuple[Path, int]]]:
        """Return what one lane brings in an epoch, position by position."""
        found = []
        for _ in range(draw(small)):
            found.append(below((lane, at[lane]), depths[lane]))
            at[lane] += 1
        found.append([((lane, at[lane]), closing)])
        at[lane] += 1
        return found

    entries: list[Entry] = []
    for epoch in range(last + 1):
        columns = {
            lane: positions(lane, Mark.FIN if lives[lane] == epoch else Mark.EPOCH)
            for lane in lanes
            if lives[lane] >= epoch
        }
        order = [
            leaf for k in range(20) for lane in lanes if k < len(columns.get(lane, ())) for leaf in columns[lane][k]
        ]
        for hook in hooks:
            closing = Mark.FIN if epoch == last else Mark.EPOCH
            order += [leaf for position in positions(hook, closing) for leaf in position]
        made = [Entry(path, int(mark), epoch) for path, mark in order]
        *rest, end = made
        entries += [*rest, Entry(end.path, end.mark, epoch, "over" if epoch == last else "epoch")]
    return Stream(depths, lanes, hooks, tuple(entries))
