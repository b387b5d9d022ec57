"""Choose whom to kill and when, by a seed; the launcher does the killing."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

REGISTRY = "registry"
REGISTRY_SHARE = 0.1  # of all kills
START_S = 0.25  # of processor time until a worker with numpy works


class Chaos:
    """One SIGKILL every `every_s` seconds, its victims drawn from `seed`."""

    def __init__(self, every_s: float, seed: int) -> None:
        self.every_s = every_s
        self.seed = seed
        self.kills: Counter[str] = Counter()  # by stage name, or `registry`
        self._random = random.Random(seed)
        self._next_s: float | None = None

    def due(self, now_s: float) -> bool:
        """Return whether a kill is due; the clock starts at the first question."""
        if self._next_s is None:
            self._next_s = now_s + self.every_s
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self.every_s  # after a pause, no volley
        return True

    def wait_s(self, now_s: float) -> float:
        """Return the seconds until the next kill."""
        return self.every_s if self._next_s is None else max(0.0, self._next_s - now_s)

    @property
    def warning(self) -> str:
        """Say, kindly, when workers are killed faster than they start; else nothing."""
        if self.every_s >= START_S:
            return ""
        return (
            f"one kill in {self.every_s:g} s, where a worker takes {START_S:g} s or more to start: "
            "the run may not get on at all; 0.5 or more is hard enough on most pipelines"
        )

    def victim(self, workers: Sequence[str]) -> str | None:
        """Choose among the living workers, or now and then the registry."""
        registry = self._random.random() < REGISTRY_SHARE
        if registry:
            return REGISTRY
        return self._random.choice(sorted(workers)) if workers else None

    def killed(self, role: str) -> None:
        """Count a kill."""
        self.kills[role] += 1
