"""Joins: who meets whom, who is given up and when, and what a save holds."""

import numpy as np
import pytest

from zpipe.joins import join, join_on
from zpipe.stages import Member
from zpipe.values.errors import StageError
from zpipe.values.paths import Mark

ITEM, TOMB = Mark.ITEM, Mark.TOMB


def met(group, *paths):
    """Add items that are named by their paths; return what was made of them."""
    return [(e.mark, e.path, e.value) for path in paths for e in group.add(Member(path, 0, 0, path))]


def places(made):
    return [(entry.mark, entry.path) for entry in made]


# -- arms of a fork -------------------------------------------------------------------------------------


def test_a_join_puts_together_what_was_one_item():
    group = join([[1], [2]], [])
    assert met(group, (1, 0), (2, 0), (1, 1), (2, 1)) == [
        (ITEM, (1, 0), [(1, 0), (2, 0)]),
        (ITEM, (1, 1), [(1, 1), (2, 1)]),
    ]
    assert (list(group.flush()), group.dropped, group.can_save) == ([], 0, True)


def test_a_join_gives_the_arms_in_the_order_in_which_they_were_named():
    group = join([[5, 6], [1, 2]], [])
    assert met(group, (1, 0), (2, 0), (5, 0), (6, 0)) == [
        (ITEM, (1, 0), [(5, 0), (1, 0)]),
        (ITEM, (2, 0), [(6, 0), (2, 0)]),
    ]


def test_an_item_without_a_partner_is_dropped_as_soon_as_source_order_says_so():
    group = join([[1], [2], [3]], [])
    assert met(group, (1, 0), (3, 0)) == []
    assert group.dropped == 1  # the third arm comes and the second did not
    assert met(group, (1, 1), (2, 1), (3, 1)) == [(TOMB, (1, 0), None), (ITEM, (1, 1), [(1, 1), (2, 1), (3, 1)])]
    assert met(group, (2, 2), (1, 3)) == []
    assert (places(group.flush()), group.dropped) == ([(TOMB, (1, 3))], 4)


def test_children_of_one_position_wait_for_each_other():
    group = join([[1], [2]], [])
    assert met(group, (1, 0, 0), (1, 0, 1), (1, 0, 2), (2, 0, 1)) == [
        (TOMB, (1, 0, 0), None),
        (ITEM, (1, 0, 1), [(1, 0, 1), (2, 0, 1)]),
    ]
    assert met(group, (1, 1, 0)) == [(TOMB, (1, 0, 2), None)]


def test_what_hooks_made_waits_until_the_other_arm_has_come():
    group = join([[1, 3], [2, 4]], [3, 4])
    assert met(group, (3, 0), (3, 1), (3, 2), (4, 1)) == [(TOMB, (3, 0), None), (ITEM, (3, 1), [(3, 1), (4, 1)])]
    assert places(group.flush()) == [(TOMB, (3, 2))]


def test_a_join_may_stop_at_what_has_no_partner():
    group = join([[1], [2]], [], unmatched="stop")
    with pytest.raises(StageError, match="the item at 7 of one arm found no partner"):
        met(group, (2, 7))


def test_a_join_is_saved_with_what_waits_when_it_has_waited_long():
    group = join([[1], [2]], [])
    met(group, (1, 0))
    assert not group.can_save
    met(group, *((1, n) for n in range(1, join.PATIENCE)))
    assert group.can_save
    again = join([[1], [2]], [])
    again.restore(group.state())
    assert met(again, (2, join.PATIENCE - 1)) == [(ITEM, (1, join.PATIENCE - 1), [(1, 15), (2, 15)])]
    assert not group.can_save
    assert met(group, (1, 99)) == [(TOMB, (1, 15), None)]


def test_what_an_earlier_life_counted_is_not_counted_again():
    group = join([[1], [2]], [])
    met(group, (1, 0))
    again = join([[1], [2]], [])
    again.restore(group.state())
    assert (places(again.flush()), again.dropped) == ([(TOMB, (1, 0))], 0)


# -- independent sources --------------------------------------------------------------------------------


def by_field(within=3, unmatched="drop"):
    return join_on([[1], [2]], ["left", "right"], "field:id", within, unmatched)


def with_ids(group, *members):
    """Add items (lane, position, id); return what was made of them, items as pairs of positions."""
    made = []
    for lane, position, name in members:
        made += group.add(Member((lane, position), 0, 0, {"id": name, "at": position}))
    return [(e.mark, e.path, e.value and [x["at"] for x in e.value]) for e in made]


def test_items_of_one_position_are_joined_and_what_has_no_partner_is_dropped():
    group = join_on([[2], [1]], ["b", "a"], "position")
    assert met(group, (1, 0), (2, 0), (2, 1), (1, 2)) == [(ITEM, (1, 0), [(2, 0), (1, 0)])]
    assert group.dropped == 1
    assert (places(group.flush()), group.dropped, group.can_save) == ([(TOMB, (1, 2))], 2, True)


def test_partitions_correspond_by_their_order():
    group = join_on([[1, 2], [5, 6]], ["a", "b"], "position")
    assert met(group, (1, 0), (2, 0), (6, 0), (5, 0)) == [
        (ITEM, (2, 0), [(2, 0), (6, 0)]),
        (ITEM, (1, 0), [(1, 0), (5, 0)]),
    ]


def test_positions_count_from_the_beginning_of_the_epoch():
    group = join_on([[1], [2]], ["a", "b"], "position")
    met(group, (1, 0))
    assert places(group.epoch_end({1: 11, 2: 7})) == [(TOMB, (1, 0))]
    assert met(group, (1, 12), (2, 8)) == [(ITEM, (1, 12), [(1, 12), (2, 8)])]
    again = join_on([[1], [2]], ["a", "b"], "position")
    again.restore(group.state())
    assert met(again, (1, 13), (2, 9)) == [(ITEM, (1, 13), [(1, 13), (2, 9)])]


def test_items_with_one_value_of_a_field_are_joined_each_once_the_first_first():
    assert with_ids(by_field(), (1, 0, "x"), (1, 1, "x"), (2, 2, "x"), (2, 3, "x"), (2, 3, "y"), (1, 4, "y")) == [
        (ITEM, (1, 0), [0, 2]),
        (ITEM, (1, 1), [1, 3]),
        (ITEM, (1, 4), [4, 3]),
    ]


def test_an_item_waits_for_so_many_positions():
    group = by_field(within=3)
    assert with_ids(group, (1, 0, "x"), (2, 0, "y"), (2, 3, "x"), (1, 4, "y")) == [(ITEM, (1, 0), [0, 3])]
    assert group.dropped == 1  # the y of position 0
    assert with_ids(group, (2, 8, "y")) == [(TOMB, (1, 4), None)]
    assert group.dropped == 2


def test_what_has_met_its_partner_is_not_held_on_to():
    group = by_field(within=100)
    with_ids(group, (1, 0, "w"), (1, 1, "x"), (2, 1, "x"))
    assert [waiting.member.value for waiting in group.order if waiting.met] == [None, None]
    assert group.fitting.keys() == {"w"}


def test_numbers_of_numpy_are_numbers():
    group = by_field()
    made = [*group.add(Member((1, 0), 0, 0, {"id": np.int64(5)})), *group.add(Member((2, 0), 0, 0, {"id": 5}))]
    assert places(made) == [(ITEM, (1, 0))]


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (7, "an item of 'right' is a int without field 'id'"),
        ({"name": 1, "x": 2}, "an item of 'right' has no field 'id': it has name, x"),
        ({"id": [1]}, "field 'id' of an item of 'right' is a list: joins go by numbers and texts"),
        ({"id": None}, "field 'id' of an item of 'right' is a NoneType: joins go by numbers and texts"),
    ],
)
def test_an_item_without_the_field_is_an_error(item, said):
    with pytest.raises(StageError) as caught:
        list(by_field().add(Member((2, 0), 0, 0, item)))
    assert str(caught.value) == said


def test_a_join_of_sources_may_stop_at_what_has_no_partner():
    with pytest.raises(StageError, match="the item of 'left' with id = 'x' found no partner"):
        with_ids(by_field(0, "stop"), (1, 0, "x"), (1, 1, "y"))
    with pytest.raises(StageError, match="the item of 'b' at position 4 found no partner"):
        met(join_on([[1], [2]], ["a", "b"], "position", unmatched="stop"), (2, 4), (1, 5))


def test_a_join_of_sources_is_saved_with_what_waits_and_counts_it_once():
    group = by_field(within=1000)
    with_ids(group, (1, 0, "a"))
    assert not group.can_save
    with_ids(group, *((1, n, n) for n in range(1, join_on.PATIENCE)))
    assert group.can_save
    again = by_field(within=1000)
    again.restore(group.state())
    assert not group.can_save
    assert with_ids(again, (2, 16, "a"), (2, 16, 9)) == [(ITEM, (1, 0), [0, 16]), (ITEM, (1, 9), [9, 16])]
    assert (len(places(again.flush())), again.dropped) == (14, 0)


def test_much_that_waits_is_saved_less_often():
    group = by_field(within=1000)
    with_ids(group, *((1, n, n) for n in range(200)))
    group.state()
    with_ids(group, *((1, n, n) for n in range(200, 290)))
    assert not group.can_save
    with_ids(group, *((1, n, n) for n in range(290, 450)))
    assert group.can_save
