"""Stands in for the thread of a source's worker while that is inside of the source's code.

A live source may wait for its next item for hours.  Meanwhile what it has made must arrive, links must be looked after,
and the registry must be heeded.
Knows when it may; what there is to do is for the worker to say.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from zpipe.processes.sourcecalls import SourceCalls

PERIOD_S, IDLE_S = 0.02, 0.05  # between two looks, and when there is nothing to do


class StandIn(threading.Thread):
    """Does a `turn` of the loop in each period that its thread, which makes this, spends inside of one call.

    `turn` tells whether there was anything to do.  What it raises goes to `end`, which ends the process: the call may
    never return.
    """

    def __init__(self, source: SourceCalls, turn: Callable[[], bool], end: Callable[[BaseException], NoReturn]) -> None:
        super().__init__(name="zpipe-standin", daemon=True)
        self._source = source
        self._turn = turn
        self._end = end
        self._main = threading.get_ident()  # the thread of the loop
        self._seen = source.at

    def start(self) -> None:
        """Begin to look; a fork by the source's code waits for the turn at hand, whose locks its child would keep."""
        os.register_at_fork(before=self._hold, after_in_parent=self._let_go, after_in_child=self._let_go)
        super().start()

    def run(self) -> None:
        """Look for as long as the process lives: the thread of the loop keeps the lock at the end."""
        pause_s = PERIOD_S
        while True:
            time.sleep(pause_s)
            pause_s = self.look()

    def look(self) -> float:
        """Do a turn if the thread of the loop has been inside of one call since the last look; returns when to look."""
        seen, self._seen = self._seen, self._source.at
        if self._seen != seen or not self._source.lock.acquire(blocking=False):
            return PERIOD_S
        try:
            is_still_there = self._source.at == seen  # or has just come back, and gone into another
            return IDLE_S if is_still_there and not self._turn() else PERIOD_S
        except BaseException as error:
            self._end(error)
        finally:
            self._source.lock.release()

    def _hold(self) -> None:
        if threading.get_ident() == self._main:  # of a fork in another thread the child has no loop
            self._source.lock.acquire()

    def _let_go(self) -> None:
        if threading.get_ident() == self._main:
            self._source.lock.release()
