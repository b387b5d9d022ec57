"""Times in buckets: which one, percentiles, sums and differences."""

from __future__ import annotations

import pytest

from zpipe.core.histogram import BUCKETS, Histogram, bucket, percentile


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [(-1.0, 0), (0.0, 0), (1e-6, 0), (1.1e-6, 1), (1.99e-6, 4), (2.01e-6, 5), (1e-3, 40), (1.0, 80), (1e9, 127)],
)
def test_a_time_has_its_bucket(seconds: float, wanted: int) -> None:
    assert bucket(seconds) == wanted


def test_no_time_is_beyond_the_last_bucket() -> None:
    assert bucket(1e300) == BUCKETS - 1


@pytest.mark.parametrize("seconds", [3e-6, 7.7e-5, 0.001, 0.05, 1.0, 90.0])
def test_a_percentile_is_within_a_tenth_of_the_time(seconds: float) -> None:
    found = percentile(Histogram([bucket(seconds)]), 0.5)
    assert found == pytest.approx(seconds, rel=0.1)


def test_percentiles_are_read_from_the_shares() -> None:
    times = Histogram({bucket(0.001): 90, bucket(0.1): 9, bucket(10.0): 1})
    found = [percentile(times, share) for share in (0.5, 0.9, 0.95, 0.99, 1.0)]
    assert found == pytest.approx([0.001, 0.001, 0.1, 0.1, 10.0], rel=0.1)


def test_of_nothing_there_is_no_percentile() -> None:
    assert percentile(Histogram(), 0.5) is None


def test_sums_and_differences_are_of_what_was_counted() -> None:
    first, then = Histogram({3: 5, 40: 1}), Histogram({3: 5, 40: 3, 41: 1})
    assert dict(then - first) == {40: 2, 41: 1}
    assert dict(first + then) == {3: 10, 40: 4, 41: 1}
