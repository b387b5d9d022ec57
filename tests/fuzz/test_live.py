"""A run among hostile peers; `python -m tests.fuzz.live` plays longer ones."""

from __future__ import annotations

from tests.fuzz.live import play


def test_hostile_peers_kill_nobody_and_change_nothing() -> None:
    outcome = play(1, count=1000)
    assert outcome.faults == []
    assert outcome.sent.total() > 0
