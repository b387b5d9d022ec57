"""How far a run has come: watermarks, complete sources, its state and its end.

Knows sources and states; refuses to know workers and messages.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zpipe.core.outcomes import Stored
from zpipe.core.requests import SourceNews, Watermark

RUNNING, COMPLETE, FAILING = "running", "complete", "failing"
DONE, INTERRUPTED, FAILED = "done", "interrupted", "failed"
OVER = (DONE, INTERRUPTED, FAILED)
STATES = (RUNNING, COMPLETE, FAILING, *OVER)


class Progress:
    """One run: running, then complete, then done or, when it was told to stop, interrupted.

    From running and complete it may turn to failing and then failed.  `stores` gathers what must be kept.
    """

    def __init__(self, sources: Iterable[int], stored: Stored) -> None:
        self.state: str = stored.run.get("state", RUNNING)
        self.stopping: bool = stored.run.get("stopping", False)
        self.error: dict[str, str] = stored.run.get("error") or {"worker": "", "error": "", "detail": ""}
        self.started_s: float | None = stored.run.get("started_s")
        self.watermarks: dict[int, Watermark] = dict.fromkeys(sorted(sources), (0, 0, 0))
        self.watermarks |= stored.watermarks
        self.positions: dict[int, int] = {}
        self.reaches: dict[int, int] = dict(stored.reaches)
        self.complete = set(stored.complete)
        self.failing_s = 0.0  # when the run is called failed, whoever is still there
        self.stores: dict[tuple[str, str], Any] = {}

    @property
    def is_over(self) -> bool:
        """Tell whether nothing will change any more."""
        return self.state in OVER

    def begin(self, now_s: float, fail_s: float) -> None:
        """Start the clocks, those of a run that was failing when its registry died too."""
        self.failing_s = now_s + fail_s
        if self.started_s is None or self.started_s > now_s:  # later than now: before a reboot
            self.started_s = self.stores["run", "started_s"] = now_s

    def advance(self, number: int, news: SourceNews) -> None:
        """Take in how far a source has come; what is old changes nothing."""
        if news.position is not None:
            self.positions[number] = news.position
        if news.watermark > self.watermarks[number]:
            self.watermarks[number] = news.watermark
            self.stores["watermark", str(number)] = list(news.watermark)
        if news.complete and number not in self.complete:
            self.complete.add(number)
            self.stores["complete", str(number)] = True

    def reached(self, number: int, reach: int) -> None:
        """Take in that a dead life of a source has made nothing at or above `reach`."""
        if number in self.watermarks and reach > self.reaches.get(number, 0):
            self.reaches[number] = self.stores["reach", str(number)] = reach

    def reach(self, number: int) -> int:
        """Return how far the lives of a source have got: as the dead have told, or else as it told in time."""
        return max(self.reaches.get(number, 0), self.positions.get(number, 0))

    def stop(self) -> bool:
        """Let sources stop reading; return whether that is new."""
        if self.state != RUNNING or self.stopping:
            return False
        self.stopping = self.stores["run", "stopping"] = True
        return True

    def fail(self, now_s: float, fail_s: float, worker: str, error: str, detail: str) -> bool:
        """Turn to failing; return False when it had: the first error explains the others."""
        if self.state not in (RUNNING, COMPLETE):
            return False
        self.error = self.stores["run", "error"] = {"worker": worker, "error": error, "detail": detail}
        self.failing_s = now_s + fail_s
        self._turn(FAILING)
        return True

    def decide(self, now_s: float, *, somebody: bool) -> bool:
        """Go on to the next states and return whether there was one; `somebody`: workers are still there."""
        before = self.state
        if self.state == RUNNING and self.complete >= set(self.watermarks):
            self._turn(COMPLETE)
        if self.state == COMPLETE and not somebody:
            self._turn(INTERRUPTED if self.stopping else DONE)
        if self.state == FAILING and (not somebody or now_s >= self.failing_s):
            self._turn(FAILED)
        return self.state != before

    def _turn(self, state: str) -> None:
        self.state = self.stores["run", "state"] = state
