"""Count the user's Ctrl-C instead of raising in the middle of anything."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from zpipe.transport.wake import Wake

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While open: each SIGINT, SIGTERM or SIGHUP counts one, and wakes who polls `fileno`."""

    def __init__(self) -> None:
        self.count = 0
        self._wake = Wake()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python has no signal handlers
            heeded = [s for s in _SIGNALS if signal.getsignal(s) is not signal.SIG_IGN]  # nohup has its way
            self._before = {s: signal.signal(s, self._count) for s in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for which, before in self._before.items():
            signal.signal(which, before)
        self._wake.close()

    def fileno(self) -> int:
        """Return a descriptor that is readable after a signal, until `taken`."""
        return self._wake.fileno()

    def taken(self) -> int:
        """Return the count so far and make the descriptor quiet."""
        self._wake.clear()
        return self.count

    def _count(self, _signal: int, _frame: FrameType | None) -> None:
        self.count += 1
        self._wake.set()
