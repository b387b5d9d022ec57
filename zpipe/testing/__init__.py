"""For the tests of users' stages: `feed` a stage with items, or take the `first` items of a source."""

from zpipe.testing.bench import feed, first

__all__ = ["feed", "first"]
