"""How long things took, counted in buckets, four to a factor of two: what is kept of many times.

Histograms add up, over workers and over lives; the difference of two tells of the time between them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from math import exp2
from typing import TypeAlias

Histogram: TypeAlias = Counter[int]  # bucket -> how many times

BUCKETS = 128  # bucket k ends at 2**(k / 4) us; the last holds whatever is longer, from an hour on
ENDS_S = [1e-6 * exp2(k / 4) for k in range(BUCKETS - 1)]


def bucket(seconds: float) -> int:
    """Return the bucket of a time."""
    return bisect_left(ENDS_S, seconds)


def percentile(times: Histogram, share: float) -> float | None:
    """Return the time in seconds that this share of them did not exceed, within 10 %; None of nothing."""
    left = share * times.total()
    for k, count in sorted(times.items()):
        left -= count
        if left <= 0:
            return 1e-6 * exp2((k - 0.5) / 4)
    return None
