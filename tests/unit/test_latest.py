"""An edge that keeps only the latest: what is sent, what makes way, and until when its parents wait."""

from __future__ import annotations

from tests.unit.test_outlet import Bench, Parent, Part, run
from zpipe.core.latest import Latest
from zpipe.core.outlet import Edge, Link
from zpipe.values.paths import Run


def bench() -> Bench:
    return Bench(Edge(0, False, latest=Latest()))


def other_lane(position: int) -> Run:
    return Run(1, position, (), 1, [Part(10)])


def test_a_newer_item_takes_the_place_of_what_waits() -> None:
    b = bench()
    parents = [Parent(), Parent(), Parent()]
    for position, parent in enumerate(parents):
        b.outlet.emit(run(position), (parent,))
    assert [(parent.pend, parent.times) for parent in parents] == [(0, 1), (0, 1), (1, 0)]
    assert (b.outlet.skipped_items, b.outlet.unsettled_items, b.outlet.unsettled_bytes) == (2, 1, 10)
    b.link(7, limit=1)
    b.outlet.dispatch()
    assert b.sends == [(7, 1, 2, 1)]


def test_of_a_run_only_the_last_item_is_kept() -> None:
    b = bench()
    b.outlet.emit(run(5, 4), ())
    b.link(7, limit=9)
    b.outlet.dispatch()
    assert (b.sends, b.outlet.skipped_items, b.outlet.out_items) == ([(7, 1, 8, 1)], 3, 4)


def test_what_waits_is_no_backlog_and_its_reader_keeps_nothing_quiet_or_full() -> None:
    b = bench()
    b.link(7, limit=1)
    b.outlet.emit(run(0), ())
    b.outlet.dispatch()
    b.outlet.emit(run(1), ())
    b.outlet.dispatch()
    assert b.sends == [(7, 1, 0, 1)]
    b.ack(7, got=1, limit=1, wants=[3], full=True)
    assert not b.outlet.backlog
    assert b.outlet.quiet()
    assert not b.outlet.is_full_below and b.outlet.wanted() == set()


def test_the_newest_holds_its_parents_until_all_that_was_sent_is_settled() -> None:
    b = bench()
    b.link(7, limit=1)
    b.link(8, limit=1)
    first, second = Parent(), Parent()
    b.outlet.emit(run(0), (first,))
    b.outlet.dispatch()
    b.outlet.emit(run(1), (second,))
    b.outlet.dispatch()
    assert [inc for inc, *_ in b.sends] == [7, 8]
    assert (first.pend, second.pend) == (0, 1)
    b.ack(8, got=1, consumed=1, base=2)
    assert second.pend == 1  # the other reader is not done
    b.ack(7, got=1, consumed=1, base=2)
    assert (second.pend, second.times, b.outlet.unsettled_items) == (0, 1, 0)


def test_lanes_have_a_latest_item_each() -> None:
    b = bench()
    b.outlet.emit(run(4), ())
    b.outlet.emit(other_lane(2), ())
    b.link(7, limit=9)
    b.outlet.dispatch()
    assert [position for _, _, position, _ in b.sends] == [4, 2]
    assert b.outlet.skipped_items == 0


def test_an_older_item_than_the_newest_is_skipped_and_holds_nothing() -> None:
    b = bench()
    newest, older = Parent(), Parent()
    b.outlet.emit(run(9), (newest,))
    b.outlet.emit(run(3), (older,))
    assert (newest.pend, older.pend, older.times, b.outlet.skipped_items) == (1, 0, 0, 1)


def test_a_replay_of_the_newest_shares_its_fate() -> None:
    b = bench()
    first, again, late = Parent(), Parent(), Parent()
    b.link(7, limit=9)
    b.outlet.emit(run(3), (first,))
    b.outlet.dispatch()
    b.outlet.emit(run(3), (again,))
    b.outlet.dispatch()
    assert (len(b.sends), again.pend) == (1, 1)
    b.ack(7, got=1, consumed=1, base=2)
    assert (first.times, again.times) == (1, 1)
    b.outlet.emit(run(3), (late,))
    assert (late.pend, b.outlet.unsettled_items, b.outlet.skipped_items) == (0, 0, 0)


def test_what_a_dead_link_held_waits_again_only_when_it_is_the_newest() -> None:
    b = bench()
    old, new = b.link(7, limit=1), b.link(8, limit=1)
    parent = Parent()
    b.outlet.emit(run(0), ())
    b.outlet.dispatch()
    b.outlet.emit(run(1), (parent,))
    b.outlet.dispatch()
    b.outlet.lost(0.0, old)
    assert (b.outlet.skipped_items, b.outlet.unsettled_items) == (1, 1)
    b.outlet.lost(0.0, new)
    assert old.state == new.state == Link.DEAD
    assert (b.outlet.skipped_items, b.outlet.unsettled_items, parent.pend) == (1, 1, 1)
    assert [out.run.path(0) for out in b.outlet.unsettled()] == [(0, 1)]
    assert b.outlet.unsettled()[0].run.attempt == 1


def test_a_dead_link_with_an_older_item_lets_go_what_waited_for_it() -> None:
    b = bench()
    old = b.link(7, limit=1)
    b.link(8, limit=1)
    parent = Parent()
    b.outlet.emit(run(0), ())
    b.outlet.dispatch()
    b.outlet.emit(run(1), (parent,))
    b.outlet.dispatch()
    b.ack(8, got=1, consumed=1, base=2)
    assert parent.pend == 1
    b.outlet.lost(0.0, old)
    assert (parent.pend, parent.times) == (0, 1)
