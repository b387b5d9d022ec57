"""Waits for a disk that is full or does not answer: what could not be written is tried again, ever less often.

Nothing is acknowledged meanwhile, so the stages above stop by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from zpipe.values.room import lack_of_room

if TYPE_CHECKING:
    from zpipe.processes.caller import Caller

PAUSE_S, PAUSE_MAX_S = 0.1, 5.0  # before the next try, doubling with each


class Patience:
    """What one worker waits for: `lack` says it in one line, "" while it does not wait."""

    def __init__(self) -> None:
        self.lack = ""
        self._pause_s = PAUSE_S

    def pause_s(self, error: BaseException) -> float | None:
        """Return how long to wait before another try, None where waiting does not help."""
        lack = lack_of_room(error)
        if not lack:
            return None
        self.lack = lack
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, PAUSE_MAX_S)
        return pause_s

    def over(self) -> None:
        """What was waited for is done."""
        self.lack, self._pause_s = "", PAUSE_S

    def until_done(self, caller: Caller, call: Callable[[], Any]) -> Generator[None, None, Any]:
        """Call until there is room, and return the result; yields while the worker is to look after its links."""
        while True:
            try:
                result = call()
            except Exception as error:
                pause_s = self.pause_s(error)
                if pause_s is None:
                    raise
            else:
                self.over()
                return result
            yield from caller.wait(pause_s)
