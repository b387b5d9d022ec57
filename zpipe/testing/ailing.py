"""What the simulator plays of failing items: notes that outlive a worker, and a shelf for dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from zpipe.processes.blame import Blame, Stretch
from zpipe.processes.letters import Letter
from zpipe.testing.shared import plain
from zpipe.values.context import Current
from zpipe.values.paths import Run


class Deadly(BaseException):
    """Raised by the code of a stage: its process dies of the item."""


class Notes(Blame):
    """What a worker notes before each call, here in memory."""

    def __init__(self, current: Current) -> None:
        super().__init__(None, current)
        self.spots: Sequence[tuple[Run, int]] = ()
        self.last: tuple[Stretch, ...] = ()  # what it was running when it died

    def note(self, run: Run, index: int) -> None:
        self.spots = ((run, index),)
        self.running[0] = 1

    def note_all(self, spots: Sequence[tuple[Run, int]]) -> None:
        self.spots = spots
        self.running[0] = 1

    def die(self) -> None:
        """Keep what is being called, as a process does that has no time to tidy up."""
        names = self.current.lane_names
        self.last = tuple((run.text(names, k), 1) for run, k in self.spots)


class Shelf:
    """The dead letters of a run: they outlive all."""

    def __init__(self) -> None:
        self.letters: dict[str, dict[str, Letter]] = {}  # by stage and path

    def keep(self, letter: Letter) -> None:
        self.letters.setdefault(letter.stage, {})[letter.path] = replace(letter, run=plain(letter.run))

    def known(self, stage: str) -> Any:
        return self.letters.get(stage, ())
