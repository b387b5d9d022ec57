"""Peers that have a key and no manners: when one is to be shut out for a while, and when memory says that one is.

A PULL socket cannot let go of one peer, so whoever is found out costs all a new connection; hence not for a trifle.
"""

from __future__ import annotations

from collections import Counter

REFUSED_MAX = 4096  # messages of one key within SPELL_S that are refused: a link that was closed sends hardly more
SPELL_S = 10.0
SHUT_OUT_S = 10.0
UNREAD_MAX = 256 << 20  # bytes by which a process may grow beyond what is delivered to it: an endless message


class Flood:
    """Decides, of one worker, whom not to admit."""

    def __init__(self) -> None:
        self.shut_out: dict[str, float] = {}  # key -> until when
        self._refused: Counter[str] = Counter()
        self._since_s = 0.0
        self._rss = self._delivered = 0  # when the spell began
        self._from_s = float("-inf")

    def refused(self, key: str, now_s: float) -> bool:
        """Note that a message of a key was refused; return whether the key is to be shut out for it."""
        if now_s - self._since_s >= SPELL_S:
            self._refused.clear()
            self._since_s = now_s
        self._refused[key] += 1
        if self._refused[key] < REFUSED_MAX or key in self.shut_out:
            return False
        self.shut_out[key] = now_s + SHUT_OUT_S
        return True

    def forgives(self, now_s: float) -> bool:
        """Return whether somebody who was shut out may come in again."""
        over = [key for key, until_s in self.shut_out.items() if until_s <= now_s]
        for key in over:
            del self.shut_out[key]
        return bool(over)

    def grows(self, rss: int, delivered: int, now_s: float) -> bool:
        """Return whether the process has grown, within a spell, by far more than what was `delivered`."""
        if rss < self._rss or now_s - self._from_s >= SPELL_S:
            self._rss, self._delivered, self._from_s = rss, delivered, now_s
        if rss - self._rss - (delivered - self._delivered) < UNREAD_MAX:
            return False
        self._from_s = float("-inf")  # what is let go now is no measure
        return True
