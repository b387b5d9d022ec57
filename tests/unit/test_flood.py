"""Peers that have a key and no manners: when they are shut out, and for how long."""

from __future__ import annotations

from zpipe.processes.flood import REFUSED_MAX, SHUT_OUT_S, SPELL_S, UNREAD_MAX, Flood

BAD, GOOD = "bad's key", "good's key"
MIB = 2**20


def refuse(flood: Flood, key: str, times: int, now_s: float) -> list[bool]:
    return [flood.refused(key, now_s) for _ in range(times)]


def test_one_who_sends_what_is_refused_again_and_again_is_shut_out_once() -> None:
    flood = Flood()
    told = refuse(flood, BAD, REFUSED_MAX + 5, 100.0)
    assert told.index(True) == REFUSED_MAX - 1
    assert told.count(True) == 1
    assert flood.shut_out == {BAD: 100.0 + SHUT_OUT_S}


def test_what_a_link_that_was_closed_sends_late_shuts_nobody_out() -> None:
    flood = Flood()
    for spell in range(5):
        assert not any(refuse(flood, GOOD, REFUSED_MAX - 1, 100.0 + spell * SPELL_S))
    assert flood.shut_out == {}


def test_each_key_is_judged_by_itself() -> None:
    flood = Flood()
    refuse(flood, BAD, REFUSED_MAX - 1, 100.0)
    assert not flood.refused(GOOD, 100.0)


def test_who_was_shut_out_may_come_again_after_a_while() -> None:
    flood = Flood()
    refuse(flood, BAD, REFUSED_MAX, 100.0)
    assert not flood.forgives(100.0 + SHUT_OUT_S - 1)
    assert flood.forgives(100.0 + SHUT_OUT_S)
    assert flood.shut_out == {}


def test_memory_that_grows_beyond_what_is_delivered_is_noticed() -> None:
    flood = Flood()
    assert not flood.grows(50 * MIB, 0, 100.0)
    assert not flood.grows(50 * MIB + UNREAD_MAX, 1, 101.0)
    assert flood.grows(51 * MIB + UNREAD_MAX, 1, 102.0)
    assert not flood.grows(51 * MIB + UNREAD_MAX, 1, 102.1)


def test_memory_that_grows_by_what_is_delivered_is_the_stages_own() -> None:
    flood = Flood()
    assert not any(flood.grows(size * UNREAD_MAX, size * UNREAD_MAX, 100.0 + size) for size in range(9))


def test_memory_that_grows_slowly_is_the_stages_own() -> None:
    flood = Flood()
    assert not any(flood.grows(k * UNREAD_MAX // 2, 0, 100.0 + k * SPELL_S) for k in range(9))
