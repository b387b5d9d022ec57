"""The ready-made stages: what they make of their members, at which paths, in which order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.stages import Member, batch, digest, rechunk, shuffle, unbatch
from zpipe.values.errors import ConfigError, StageError
from zpipe.values.paths import Mark

ITEM, TOMB, END = Mark.ITEM, Mark.TOMB, Mark.END


def members(values, lane=0):
    return [Member((lane, i), 0, 0, value) for i, value in enumerate(values)]


def made(grouping, group, *, flushed=True):
    out = [entry for member in group for entry in grouping.add(member)]
    return [*out, *grouping.flush()] if flushed else out


def values(entries):
    return [entry.value for entry in entries if entry.mark == ITEM]


def places(entries):
    return [(entry.mark, entry.path) for entry in entries]


# -- batch ------------------------------------------------------------------------------------------


def test_a_batch_of_numbers_is_an_array():
    (out,) = values(made(batch(3), members([1, 2, 3])))

    assert out.tolist() == [1, 2, 3]
    assert out.dtype == np.int64


def test_a_batch_of_arrays_has_one_axis_more():
    (out,) = values(made(batch(2), members([np.zeros((3, 4), np.float32), np.ones((3, 4), np.float32)])))

    assert (out.shape, out.dtype) == ((2, 3, 4), np.float32)
    assert out[:, 0, 0].tolist() == [0, 1]


def test_a_batch_of_dicts_is_a_dict_of_batches():
    (out,) = values(made(batch(2), members([{"x": 1.5, "of": {"y": "a"}}, {"x": 2.5, "of": {"y": "b"}}])))

    assert out["x"].tolist() == [1.5, 2.5]
    assert out["of"] == {"y": ["a", "b"]}


def test_a_batch_of_anything_else_is_a_list():
    assert values(made(batch(2), members(["a", None, [1], b"b"]))) == [["a", None], [[1], b"b"]]


def test_the_last_batch_may_be_shorter():
    assert [x.tolist() for x in values(made(batch(3), members(range(4))))] == [[0, 1, 2], [3]]


def test_drop_last_drops_all_members_of_a_short_batch():
    entries = made(batch(3, drop_last=True), members(range(5)))

    assert [x.tolist() for x in values(entries)] == [[0, 1, 2]]
    assert places(entries)[3:] == [(TOMB, (0, 3)), (TOMB, (0, 4))]


def test_drop_last_keeps_a_last_batch_that_is_full():
    assert len(values(made(batch(2, drop_last=True), members(range(4))))) == 2


def test_a_batch_stands_at_its_first_path_and_tombs_at_the_others():
    assert places(made(batch(3), members(range(4)))) == [
        (ITEM, (0, 0)), (TOMB, (0, 1)), (TOMB, (0, 2)), (ITEM, (0, 3)),
    ]  # fmt: skip


def test_tombs_keep_the_names_of_their_members():
    group = [Member((0, 0), 7, 0, 1), Member((0, 1), 8, 0, 2)]

    first, second = made(batch(2), group)

    assert (first.digest, second.digest) == (digest(0, group), 8)


def test_nothing_is_made_before_the_group_is_full():
    assert made(batch(3), members([1, 2]), flushed=False) == []


def test_nothing_is_left_after_a_flush():
    stage = batch(3)
    made(stage, members([1, 2]))

    assert list(stage.flush()) == []
    assert stage.room == 3


def test_room_is_what_completes_the_group():
    stage = batch(3)
    made(stage, members([1]), flushed=False)

    assert stage.room == 2


def test_an_open_group_cannot_be_saved():
    stage = batch(2)
    made(stage, members([1]), flushed=False)

    assert not stage.can_save
    made(stage, members([2]), flushed=False)
    assert stage.can_save


def test_a_batch_of_different_keys_is_refused():
    with pytest.raises(StageError, match="needs items with the same keys"):
        made(batch(2), members([{"a": 1}, {"b": 1}]))


def test_a_batch_of_a_dict_and_another_thing_is_refused():
    with pytest.raises(StageError, match="needs items with the same keys"):
        made(batch(2), members([{"a": 1}, 1]))


def test_a_batch_of_different_shapes_is_refused():
    with pytest.raises(StageError, match="needs arrays of one shape"):
        made(batch(2), members([np.zeros(2), np.zeros(3)]))


@pytest.mark.parametrize("kind", [batch, shuffle, rechunk])
@pytest.mark.parametrize("size", [0, -1, 2.0, "4"])
def test_a_size_that_is_no_count_is_refused(kind, size):
    with pytest.raises(ConfigError, match="size must be a whole number, at least 1"):
        kind(size)


# -- names of groups --------------------------------------------------------------------------------


def test_the_name_of_a_group_is_fixed():
    assert digest(3, [Member((0, 1), 0, 0, None), Member((2, 5, 1), 9, 0, None)]) == 0x2B6E10F04DE461E1


def test_other_members_give_another_name():
    group = members([1, 2])
    names = {
        digest(0, group),
        digest(1, group),
        digest(0, group[::-1]),
        digest(0, group[:1]),
        digest(0, [Member(member.path, 1, 0, None) for member in group]),
        digest(0, [Member((0, 0, 0, 1), 0, 0, None)]),
    }

    assert len(names) == 6


def test_the_name_of_a_group_does_not_tell_values_apart():
    assert digest(0, members([1, 2])) == digest(0, members(["a", "b"]))


# -- shuffle ----------------------------------------------------------------------------------------


def test_a_block_is_permuted_the_same_way_in_every_run():
    assert values(made(shuffle(4), members(range(6)))) == [1, 3, 0, 2, 5, 4]


def test_another_seed_gives_another_order():
    orders = {tuple(values(made(shuffle(8, seed=seed), members(range(8))))) for seed in range(20)}

    assert len(orders) == 20


def test_another_epoch_gives_another_order():
    orders = set()
    for epoch in range(10):
        group = [Member((0, i), 0, epoch, i) for i in range(8)]
        orders.add(tuple(values(made(shuffle(8), group))))

    assert len(orders) == 10


def test_another_block_gets_another_order():
    out = values(made(shuffle(8), members([i % 8 for i in range(80)])))

    assert len({tuple(out[i : i + 8]) for i in range(0, 80, 8)}) == 10


def test_shuffled_items_are_children_of_the_first_of_their_block():
    assert places(made(shuffle(2), members(range(3)))) == [
        (ITEM, (0, 0, 0)), (ITEM, (0, 0, 1)), (END, (0, 0, 2)), (TOMB, (0, 1)),
        (ITEM, (0, 2, 0)), (END, (0, 2, 1)),
    ]  # fmt: skip


@given(st.integers(1, 9), st.integers(0, 40), st.integers(0, 2**70))
def test_shuffling_loses_and_repeats_nothing(size, count, seed):
    out = values(made(shuffle(size, seed=seed), members(range(count))))

    blocks = [out[i : i + size] for i in range(0, count, size)]
    assert [sorted(block) for block in blocks] == [list(range(i, min(i + size, count))) for i in range(0, count, size)]


# -- rechunk ----------------------------------------------------------------------------------------


def test_rows_are_cut_anew_in_their_order():
    parts = [np.arange(2), np.arange(2, 6), np.arange(0), np.arange(6, 11)]

    out = values(made(rechunk(3), members(parts)))

    assert [x.tolist() for x in out] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]]


def test_a_chunk_is_a_child_of_the_item_with_its_first_row():
    entries = made(rechunk(3), members([np.arange(2), np.arange(4), np.arange(0), np.arange(5)]))

    assert places(entries) == [
        (END, (0, 0, 1)),  # the chunk is still open here, and counts as a child already
        (ITEM, (0, 0, 0)), (ITEM, (0, 1, 0)), (END, (0, 1, 1)),
        (END, (0, 2, 0)),
        (ITEM, (0, 3, 0)), (END, (0, 3, 2)), (ITEM, (0, 3, 1)),
    ]  # fmt: skip


def test_dicts_of_arrays_and_lists_are_cut_together():
    parts = [{"x": np.arange(3), "y": ["a", "b", "c"]}, {"x": np.arange(3, 4), "y": ["d"]}]

    first, second = values(made(rechunk(2), members(parts)))

    assert (first["x"].tolist(), first["y"]) == ([0, 1], ["a", "b"])
    assert (second["x"].tolist(), second["y"]) == ([2, 3], ["c", "d"])


def test_rows_of_different_lengths_are_refused():
    with pytest.raises(StageError, match=r"have \[2, 3\] rows"):
        made(rechunk(2), members([{"x": np.arange(3), "y": np.arange(2)}]))


@given(st.integers(1, 7), st.lists(st.integers(0, 9), max_size=12))
def test_a_rechunk_restored_anywhere_makes_what_an_undisturbed_one_makes(size, lengths):
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    group = members([np.arange(a, a + n) for a, n in zip(starts, lengths, strict=True)])

    stage, entries = rechunk(size), []
    for member in group:
        state = stage.state()
        stage = rechunk(size)
        stage.restore(state)
        entries += stage.add(member)
    entries += stage.flush()

    straight = made(rechunk(size), group)
    assert places(entries) == places(straight)
    assert [entry.digest for entry in entries] == [entry.digest for entry in straight]
    assert [x.tolist() for x in values(entries)] == [x.tolist() for x in values(straight)]
    assert [len(x) for x in values(entries)[:-1]] == [size] * (len(values(entries)) - 1)
    assert [row for x in values(entries) for row in x] == list(range(sum(lengths)))


# -- unbatch ----------------------------------------------------------------------------------------


def test_unbatch_gives_back_what_batch_took():
    items = [
        {"x": 1, "y": 2.5, "z": "a", "of": {"w": [1, 2]}},
        {"x": 2, "y": 3.5, "z": "b", "of": {"w": [3, 4]}},
    ]
    (stacked,) = values(made(batch(2), members(items)))

    assert list(unbatch(stacked)) == items


def test_rows_of_arrays_come_apart_as_arrays_and_numbers():
    assert [row.tolist() for row in unbatch(np.arange(6).reshape(3, 2))] == [[0, 1], [2, 3], [4, 5]]
    (number,) = unbatch(np.array([1.5]))
    assert (type(number), number) == (float, 1.5)


@pytest.mark.parametrize("item", [1, "text", None, np.float32(1)])
def test_what_has_no_rows_cannot_be_taken_apart(item):
    with pytest.raises(StageError, match="has no rows"):
        list(unbatch(item))


def test_a_batch_of_unequal_columns_cannot_be_taken_apart():
    with pytest.raises(StageError, match=r"have \[1, 2\] rows"):
        list(unbatch({"x": [1], "y": [1, 2]}))


@given(st.lists(st.dictionaries(st.sampled_from("ab"), st.integers(-(2**62), 2**62), min_size=2), min_size=1))
def test_batch_and_unbatch_are_inverse_for_dicts_of_numbers(items):
    (stacked,) = values(made(batch(len(items)), members(items)))

    assert list(unbatch(stacked)) == items
