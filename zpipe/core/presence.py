"""Which workers are still there, from what gets through to them.

Knows that a worker in a long call may be silent while its connection lives, and that one which was stopped or cut off
has lost its connection too; refuses to know what follows from a death.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from zpipe.core.limits import RegistryLimits
from zpipe.core.members import Member

DOUBT_S = 1.0  # after a connection has gone, whichever it was
HELD_UP_S = 2.0  # between two looks: then it was the registry that was away
DECLARED_MAX = 256  # lives that supervisors are told to end


class Presence:
    """Judges the members of one registry; `restarted`: they have to find it first."""

    def __init__(self, limits: RegistryLimits, *, restarted: bool) -> None:
        self.declared: deque[int] = deque(maxlen=DECLARED_MAX)  # lives that may not know that they were given up
        self._limits = limits
        self._looked_s: float | None = None
        self._patient = restarted
        self._patient_until_s = self._doubtful_until_s = 0.0

    def heard(self, member: Member, now_s: float) -> None:
        """Note that a worker has said something."""
        member.seen_s, member.lost_s = now_s, None

    def tried(self, member: Member, now_s: float, *, there: bool) -> None:
        """Note whether there was a connection for what it was sent."""
        if there:
            member.lost_s = None
        elif member.lost_s is None:
            member.lost_s = now_s

    def doubt(self, now_s: float) -> None:
        """Note that some connection has gone."""
        self._doubtful_until_s = now_s + DOUBT_S

    def lost(self, members: Iterable[Member], now_s: float) -> list[Member]:
        """Return those whose connection has gone and has not come back in time."""
        if self._looked_s is not None and now_s - self._looked_s >= HELD_UP_S:
            self._patient = True
        if self._patient:
            self._patient, self._patient_until_s = False, now_s + self._limits.return_s
        self._looked_s = now_s
        if now_s < self._patient_until_s:
            return []
        limits = self._limits
        silent = [member for member in members if now_s - member.seen_s >= limits.silent_s]
        return [member for member in silent if member.lost_s is not None and now_s - member.lost_s >= limits.cut_s]

    def in_doubt(self, members: Iterable[Member], now_s: float) -> list[Member]:
        """Return those that are to be sent something, so that `tried` learns of their connection."""
        doubtful, silent_s = now_s < self._doubtful_until_s, self._limits.silent_s
        return [m for m in members if doubtful or m.lost_s is not None or now_s - m.seen_s >= silent_s]
