"""Source order, written out: what a cursor expects, what it covers, and what ends an epoch."""

from __future__ import annotations

import json

import pytest

from zpipe.core.order import OVER, Order, covers
from zpipe.values.paths import Mark, Path

ITEM, TOMB, END, EPOCH, FIN = Mark


def flat(*lanes: int, hooks: tuple[int, ...] = ()) -> Order:
    """Return an order of lanes without splits."""
    return Order(dict.fromkeys((*lanes, *hooks), 0), lanes, hooks)


def walk(order: Order, *steps: tuple[Path, Mark]) -> list[str | None]:
    """Advance through paths, each of which must be expected; return what that ended."""
    ended = []
    for path, mark in steps:
        assert order.expects == path
        ended.append(order.advance(path, mark))
    return ended


def test_lanes_take_turns_by_their_numbers_one_position_each() -> None:
    order = flat(5, 2, 9)
    assert walk(
        order,
        ((2, 0), ITEM), ((5, 0), ITEM), ((9, 0), ITEM),
        ((2, 1), ITEM), ((5, 1), ITEM), ((9, 1), ITEM),
    ) == [None] * 6  # fmt: skip
    assert order.expects == (2, 2)


def test_a_lane_that_ends_the_epoch_first_rests_until_all_have() -> None:
    order = flat(0, 1)
    assert walk(
        order,
        ((0, 0), ITEM), ((1, 0), ITEM),
        ((0, 1), ITEM), ((1, 1), EPOCH),
        ((0, 2), ITEM),
        ((0, 3), EPOCH),
    ) == [None, None, None, None, None, "epoch"]  # fmt: skip
    assert (order.epoch, order.expects) == (1, (0, 4))
    assert walk(order, ((0, 4), FIN), ((1, 2), FIN)) == [None, "over"]
    assert (order.epoch, order.expects) == (1, None)


def test_a_lane_that_has_ended_is_passed_over_in_later_epochs() -> None:
    order = flat(0, 1, 2)
    assert walk(
        order,
        ((0, 0), FIN), ((1, 0), ITEM), ((2, 0), EPOCH),
        ((1, 1), EPOCH),
        ((1, 2), ITEM), ((2, 1), ITEM),
        ((1, 3), FIN), ((2, 2), EPOCH),
        ((2, 3), FIN),
    ) == [None, None, None, "epoch", None, None, None, "epoch", "over"]  # fmt: skip
    assert order.epoch == 2


def test_hook_lanes_follow_one_after_the_other_when_all_lanes_have_closed() -> None:
    order = flat(0, hooks=(2, 1))
    assert walk(
        order,
        ((0, 0), ITEM), ((0, 1), EPOCH),
        ((2, 0), ITEM), ((2, 1), ITEM), ((2, 2), EPOCH),
        ((1, 0), EPOCH),
        ((0, 2), FIN),
        ((2, 3), FIN),
        ((1, 1), ITEM), ((1, 2), FIN),
    ) == [None, None, None, None, None, "epoch", None, None, None, "over"]  # fmt: skip


def test_what_finish_makes_follows_an_epoch_that_its_hook_lane_has_closed() -> None:
    order = flat(0, hooks=(1,))
    assert walk(order, ((0, 0), FIN), ((1, 0), EPOCH), ((1, 1), ITEM), ((1, 2), FIN)) == [None, None, None, "over"]


def test_a_tombstone_on_a_hook_lane_does_not_close_it() -> None:
    order = flat(0, hooks=(1,))
    assert walk(order, ((0, 0), FIN), ((1, 0), TOMB)) == [None, None]
    assert order.expects == (1, 1)


def test_children_of_one_position_follow_each_other_whoever_takes_turns() -> None:
    order = Order({0: 1, 1: 1}, (0, 1), ())
    assert order.stride((0, 0, 0), 5) == 5
    order.advance((0, 0, 0), ITEM, 5)
    assert order.expects == (0, 0, 5)


def test_positions_follow_each_other_on_a_lane_that_takes_no_turns() -> None:
    order = flat(0, 1)
    assert order.stride((0, 0), 5) == 1
    walk(order, ((0, 0), ITEM), ((1, 0), FIN), ((0, 1), ITEM))
    assert order.stride((0, 2), 5) == 5
    order.advance((0, 2), TOMB, 5)
    assert order.expects == (0, 7)
    walk(order, ((0, 7), EPOCH))
    assert order.stride((0, 8), 5) == 5


def test_positions_follow_each_other_while_all_other_lanes_rest() -> None:
    order = flat(0, 1)
    walk(order, ((0, 0), ITEM), ((1, 0), EPOCH))
    assert order.stride((0, 1), 5) == 5


def test_an_epoch_that_closed_below_a_position_is_in_the_snapshot() -> None:
    order = Order({0: 1}, (0,), ())
    order.advance((0, 0, 0), EPOCH)
    saved = json.loads(json.dumps(order.snapshot()))
    assert saved["closing"] == [[0, 3]]
    again = Order({0: 1}, (0,), ())
    again.restore(saved)
    assert again.advance((0, 0, 1), END) == "epoch"


def test_a_position_below_which_its_epoch_closed_stands_alone() -> None:
    order = Order({0: 1}, (0,), ())
    order.advance((0, 0, 0), EPOCH)
    assert order.expects == (0, 0, 1)
    assert order.stride((0, 0), 3) == 1


def test_without_lanes_nothing_is_expected() -> None:
    assert Order({}, (), ()).expects is None
    assert Order({3: 0}, (), (3,)).expects is None


def test_below_a_position_children_count_up_until_the_end_of_their_split() -> None:
    order = Order({0: 1, 1: 1}, (0, 1), ())
    walk(order, ((0, 0, 0), ITEM), ((0, 0, 1), ITEM), ((0, 0, 2), END))
    walk(order, ((1, 0, 0), END))  # no children
    assert order.expects == (0, 1, 0)


def test_nested_splits_end_level_by_level() -> None:
    order = Order({0: 2}, (0,), ())
    walk(order, ((0, 0, 0, 0), ITEM), ((0, 0, 0, 1), END), ((0, 0, 1, 0), END))
    assert order.expects == (0, 0, 2, 0)
    order.advance((0, 0, 2), END)
    assert order.expects == (0, 1, 0, 0)


@pytest.mark.parametrize(
    ("tombstone", "expects"),
    [((0, 0), (0, 1, 0, 0)), ((0, 0, 0), (0, 0, 1, 0)), ((0, 0, 0, 0), (0, 0, 0, 1))],
)
def test_a_tombstone_at_a_prefix_stands_for_everything_below(tombstone: Path, expects: Path) -> None:
    order = Order({0: 2}, (0,), ())
    assert order.advance(tombstone, TOMB) is None
    assert order.expects == expects


def test_an_epoch_of_a_lane_with_splits_stands_at_the_position() -> None:
    order = Order({0: 2, 1: 0}, (0, 1), ())
    assert order.advance((0, 0), EPOCH) is None
    assert order.expects == (1, 0)
    assert order.advance((1, 0), EPOCH) == "epoch"
    assert order.expects == (0, 1, 0, 0)


def test_the_cursor_of_a_lane_that_has_ended_covers_whatever_its_source_made() -> None:
    order = Order({0: 1, 1: 0}, (0, 1), ())
    order.advance((0, 3), FIN)
    assert order.next == {0: (OVER, 0), 1: (0,)}
    assert order.covers((0, OVER - 1, 7))
    assert not order.covers((1, 0))


@pytest.mark.parametrize(
    ("at", "covered"),
    [
        ((3,), True), ((4,), False), ((5,), False),
        ((3, 9, 9), True), ((4, 0), True), ((4, 1), False), ((4, 2), False),
        ((4, 0, 9), True), ((4, 1, 1), True), ((4, 1, 2), False), ((4, 1, 3), False), ((4, 2, 0), False),
    ],
)  # fmt: skip
def test_a_cursor_covers_what_lies_behind_it_with_all_below(at: Path, covered: bool) -> None:
    assert covers((4, 1, 2), at) == covered


def test_a_lane_that_is_not_known_is_not_covered() -> None:
    assert not flat(0).covers((7, 0))


def test_a_snapshot_is_plain_data_and_stands_where_it_was_taken() -> None:
    order = Order({0: 1, 1: 0, 2: 0}, (0, 1), (2,))
    order.advance((0, 0, 0), ITEM)
    order.advance((0, 0, 1), END)
    order.advance((1, 0), EPOCH)
    saved = json.loads(json.dumps(order.snapshot()))
    assert saved == {
        "epoch": 0, "next": [[0, [1, 0]], [1, [1]], [2, [0]]], "resting": [1], "ended": [], "closing": [], "turn": 0,
    }  # fmt: skip
    order.advance((0, 1), EPOCH)
    assert order.expects == (2, 0)
    assert order.advance((2, 0), EPOCH) == "epoch"
    again = Order({0: 1, 1: 0, 2: 0}, (0, 1), (2,))
    again.restore(saved)
    assert again.expects == (0, 1, 0)
    assert again.snapshot() == saved
    assert [again.advance((0, 1), FIN), again.advance((2, 0), EPOCH)] == [None, "epoch"]
    assert (again.epoch, again.expects) == (1, (1, 1))
    assert again.snapshot()["ended"] == [0]


def test_the_end_of_a_split_at_a_position_is_passed_like_a_tombstone() -> None:
    order = Order({0: 0}, (0,), ())
    order.advance((0, 0), Mark.END)
    assert order.expects == (0, 1)
