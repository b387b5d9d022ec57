"""A job: what the worker's loop is to call next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zpipe.values.paths import Run

if TYPE_CHECKING:
    from zpipe.core.outlet import Parent


class Job:
    """Items to call in this order, or a boundary: the end of an epoch, or of everything.

    `stretches` are (run, a, b): items a..b-1 of a run.  In a stage without memory marks stand among them;
    a stage with memory passes marks on by itself.  There is one stretch for each of `records`, where there are any.
    """

    ITEMS, EPOCH, FINISH, SOURCE = "items", "epoch", "finish", "source"

    __slots__ = ("epoch", "kind", "n", "parent", "records", "room", "source", "stretches")

    def __init__(self, kind: str, parent: Parent | None = None) -> None:
        self.kind = kind
        self.parent = parent  # what the outputs belong to
        self.records: list[Any] = []  # what the intake is to close when the job is done
        self.stretches: list[tuple[Run, int, int]] = []
        self.n = 0
        self.epoch = 0
        self.source = 0  # of a source's job: which partition,
        self.room = 0  # and how many items it may make

    def add(self, run: Run, a: int, b: int) -> None:
        """Append items a..b-1 of a run."""
        self.n += b - a
        if self.stretches and self.stretches[-1][0] is run and self.stretches[-1][2] == a:
            a = self.stretches.pop()[1]
        self.stretches.append((run, a, b))
