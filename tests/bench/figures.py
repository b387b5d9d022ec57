"""What a workload is judged by: which of its numbers, beside what, and the goals set for it."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.workloads import OUTSIDE

# What a number is put beside, of the same round: the same number of the way's base; nothing; half the time of the
# loop in one process; the time that one worker took, by the same way, over two.
TO_BASE, ALONE, TO_IDEAL, SCALING = "to base", "alone", "of ideal", "scaling"


SERIAL = "serial"  # the way that is the loop


@dataclass(frozen=True)
class Figure:
    """A `number` of a load.  What is worse than before by more than `noise` is a regression."""

    load: str
    number: str
    unit: str
    beside: str = TO_BASE
    more_is_better: bool = True
    noise: float = 0.15

    @property
    def title(self) -> str:
        return f"{self.load} {self.unit}"

    def goal(self, way: str) -> Goal | None:
        """Return the goal that a way has here."""
        return GOALS.get((self.title, way))


@dataclass(frozen=True)
class Goal:
    """Bounds for the median, one behind the other, and one for the worst round."""

    bounds: tuple[float, ...]
    worst: float | None = None


FIGURES = (
    Figure("W1", "items_s", "items/s"),
    Figure("W1-bytes", "items_s", "items/s"),
    Figure("W2", "gb_s", "GB/s"),
    Figure("W3", "items_s", "items/s"),
    Figure("W4x2", "seconds", "s, scaling", SCALING),
    Figure("W4x2", "seconds", "s, of ideal", TO_IDEAL, more_is_better=False, noise=0.05),
    Figure("W5", "items_s", "items/s"),
    Figure("W5", "source_us", "source CPU us/item", ALONE, more_is_better=False),
    Figure("W6", "p50_us", "p50 us", more_is_better=False),
    Figure("W6", "p99_us", "p99 us", more_is_better=False),
    Figure("W7", "start_s", "s to the first item", more_is_better=False),
    Figure("W7", "pss_mb", "PSS MB", more_is_better=False),
    Figure("W8", "seconds", "s, of ideal", TO_IDEAL, more_is_better=False, noise=0.05),
    *(Figure(load, "items_s", "items/s") for load in OUTSIDE),
)

# By what the table calls the figure, and the way.  The second bounds of W7 are for where workers are forked.
GOALS = {
    ("W1 items/s", "zpipe"): Goal((2.0,)),
    ("W1 items/s", "zpipe-blocks"): Goal((6.0,)),
    ("W1 items/s", "zpipe-single"): Goal((0.30,)),
    ("W1 items/s", "zpipe-guarded"): Goal((0.93,)),
    ("W2 GB/s", "zpipe"): Goal((9.0,)),
    ("W2 GB/s", "zpipe-tcp"): Goal((0.95,)),
    ("W3 items/s", "zpipe"): Goal((5.0,)),
    ("W4x2 s, scaling", "zpipe"): Goal((0.95,)),
    ("W5 items/s", "zpipe"): Goal((11.0,)),
    ("W5 source CPU us/item", "zpipe"): Goal((40.0,)),
    ("W6 p50 us", "zpipe"): Goal((1.05,)),
    ("W7 s to the first item", "zpipe"): Goal((0.60, 0.25)),
    ("W7 PSS MB", "zpipe"): Goal((1.0, 0.45)),
    ("W8 s, of ideal", "zpipe"): Goal((1.05,), worst=1.10),
}
