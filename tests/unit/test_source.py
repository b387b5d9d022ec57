"""Sources: positions, watermarks, and how far they may run ahead."""

from __future__ import annotations

import pytest

from zpipe.core.limits import Limits
from zpipe.core.source import Position, Source
from zpipe.values.paths import Mark

LIMITS = Limits(source_items=4, source_bytes=100)


def source(*numbers: int, limits: Limits = LIMITS) -> Source:
    return Source(dict.fromkeys(numbers, Position()), 1, limits)


def test_positions_follow_each_other_and_keep_their_epoch() -> None:
    made = source(7)
    first, _ = made.made(7, ["a", "b"], 10)
    second, _ = made.made(7, ["c"], 5)
    mark, _ = made.marked(7, Mark.EPOCH)
    third, _ = made.made(7, ["d"], 5)
    assert [(run.lane, run.position, run.n, run.epoch, run.marks) for run in (first, second, mark, third)] == [
        (7, 0, 2, 0, None), (7, 2, 1, 0, None), (7, 3, 1, 0, b"\3"), (7, 4, 1, 1, None),
    ]  # fmt: skip
    assert (first.parts, mark.parts, first.elements) == (["a", "b"], [None], ())
    assert made.partitions[7].at == Position(5, 1, 4)


def test_a_source_goes_on_where_its_watermark_stands() -> None:
    made = Source({0: Position(12, 2, 9)}, 3, LIMITS)
    assert made.watermarks() == {0: (Position(12, 2, 9), False)}
    run, _ = made.made(0, ["x"], 0)
    assert (run.position, run.epoch) == (12, 2)


def test_a_source_that_is_told_to_stop_ends_where_it_stands() -> None:
    made = source(0)
    made.made(0, ["a", "b"], 10)
    assert not made.is_over(0)
    made.stopping = True
    assert made.is_over(0)


def test_a_source_that_is_told_to_stop_first_makes_again_what_earlier_lives_have_made() -> None:
    made = Source({0: Position(2, 0, 0)}, 9, LIMITS, {0: 5})
    made.stopping = True
    assert not made.is_over(0)
    job = made.take(64)
    assert job is not None
    assert job.room == 3
    made.made(0, ["c", "d", "e"], 0)
    assert made.is_over(0)
    end = made.take(64)
    assert end is not None
    assert end.room == 0


def test_a_source_that_no_earlier_life_has_read_may_stop_where_it_begins() -> None:
    made = source(0)
    made.stopping = True
    assert made.is_over(0)


def test_a_source_is_over_when_its_epochs_are() -> None:
    made = source(0)
    made.made(0, ["a"], 0)
    made.marked(0, Mark.EPOCH)
    assert made.is_over(0)


def test_a_source_makes_nothing_new_while_a_stage_below_holds_too_much() -> None:
    made = source(0)
    _, stretch = made.made(0, ["a", "b", "c"], 3)
    stretch.pend = 1
    made.sent(stretch)
    made.hold_back(True)
    assert (made.take(64), made.pressed) == (None, True)
    made.hold_back(False)
    job = made.take(64)
    assert job is not None
    assert job.room == 1


def test_a_source_held_back_follows_its_acks_down() -> None:
    made = Source({0: Position()}, 1, Limits(source_items=64))
    stretches = [made.made(0, ["a"] * n, n)[1] for n in (3, 2)]
    for stretch in stretches:
        stretch.pend = 1
        made.sent(stretch)
    made.hold_back(True)
    stretches[0].pend = 0
    stretches[0].settled()
    made.hold_back(True)
    assert made.take(64) is None


def test_what_groups_below_need_is_made_though_the_source_is_held_back() -> None:
    made = Source({0: Position()}, 1, Limits(source_items=64))
    _, stretch = made.made(0, ["a", "b", "c"], 3)
    stretch.pend = 1
    made.sent(stretch)
    made.hold_back(True)
    assert made.widen({0})
    made.hold_back(True)
    job = made.take(64)
    assert job is not None
    assert job.room == 3
    stretch.pend = 0
    stretch.settled()
    made.hold_back(True)
    assert made.room(made.partitions[0]) == 6


def test_the_watermark_moves_over_what_is_settled_and_stops_at_a_gap() -> None:
    made = source(0)
    stretches = [made.made(0, [None] * n, 10 * n)[1] for n in (2, 1, 1)]
    for stretch in stretches:
        stretch.pend = 1
        made.sent(stretch)
    stretches[1].pend = 0
    stretches[1].settled()
    assert (made.partitions[0].watermark, made.unsettled_bytes) == (0, 40)
    stretches[0].pend = 0
    stretches[0].settled()
    assert (made.partitions[0].watermark, made.unsettled_bytes, made.partitions[0].unsettled) == (3, 10, 1)


def test_what_made_no_output_is_settled_when_it_is_sent_and_not_before() -> None:
    made = source(0)
    _, stretch = made.made(0, ["x"], 10)
    made.settle(made.partitions[0])
    assert made.partitions[0].watermark == 0
    made.sent(stretch)
    assert made.partitions[0].watermark == 1


def test_what_waits_for_outputs_is_not_settled_when_it_is_sent() -> None:
    made = source(0)
    _, stretch = made.made(0, ["x"], 10)
    stretch.pend = 1
    made.sent(stretch)
    assert made.partitions[0].watermark == 0


def test_a_watermark_names_the_epoch_that_it_stands_in() -> None:
    made = source(0)
    stretches = [made.made(0, ["a"], 0)[1], made.marked(0, Mark.EPOCH)[1], made.made(0, ["b"], 0)[1]]
    for stretch in stretches:
        stretch.pend = 1
        made.sent(stretch)
    found = [made.watermarks()[0]]
    for stretch in stretches:
        stretch.pend = 0
        stretch.settled()
        found.append(made.watermarks()[0])
    assert found == [
        (Position(0, 0, 0), False), (Position(1, 0, 0), False), (Position(2, 1, 2), False), (Position(3, 1, 2), False),
    ]  # fmt: skip
    assert len(made.partitions[0].starts) == 1


def test_a_partition_is_complete_when_it_has_ended_and_all_is_settled() -> None:
    made = source(0)
    _, item = made.made(0, ["x"], 0)
    item.pend = 1
    made.sent(item)
    assert not made.partitions[0].complete
    _, end = made.marked(0, Mark.FIN)
    made.sent(end)
    assert (made.partitions[0].ended, made.watermarks()) == (True, {0: (Position(0, 0, 0), False)})
    item.pend = 0
    item.settled()
    assert made.watermarks() == {0: (Position(2, 0, 0), True)}


def test_partitions_take_turns() -> None:
    made = source(3, 1, 2)
    assert [job.source for _ in range(4) if (job := made.take(8))] == [1, 2, 3, 1]


def test_a_partition_that_has_ended_or_no_room_is_passed_over() -> None:
    made = source(1, 2, 3)
    made.made(2, ["x"] * 4, 0)
    made.marked(3, Mark.FIN)
    assert [job.source for _ in range(2) if (job := made.take(8))] == [1, 1]
    made.made(1, ["x"] * 4, 0)
    assert made.take(8) is None
    assert made.idle


def test_a_source_is_idle_when_none_of_its_partitions_may_go_on() -> None:
    made = source(0, 1)
    idle = []
    for number, n in ((0, 4), (1, 3), (1, 1)):
        made.made(number, ["x"] * n, 0)
        idle.append(made.idle)
    assert idle == [False, False, True]


def test_a_job_may_make_what_the_window_and_the_limit_allow() -> None:
    made = source(0)
    assert [(job.room, job.epoch) for limit in (8, 3) if (job := made.take(limit))] == [(4, 0), (3, 0)]
    made.marked(0, Mark.EPOCH)
    made.made(0, ["x"], 0)
    job = made.take(8)
    assert job is not None
    assert (job.kind, job.room, job.epoch) == ("source", 2, 1)
    assert not made.idle


@pytest.mark.parametrize(("nbytes", "room"), [(99, 3), (100, 0), (101, 0)])
def test_bytes_stop_a_source_when_they_reach_their_limit(nbytes: int, room: int) -> None:
    made = source(0, 1)
    made.made(0, ["x"], nbytes)
    assert [made.room(made.partitions[k]) for k in (0, 1)] == [room, room and 4]


def test_a_source_without_unsettled_bytes_always_has_room() -> None:
    made = source(0, limits=Limits(source_items=4, source_bytes=0))
    assert made.room(made.partitions[0]) == 4
    made.made(0, ["x"], 1)
    assert made.room(made.partitions[0]) == 0


def test_marks_hold_a_position_and_no_bytes() -> None:
    made = source(0)
    made.marked(0, Mark.EPOCH)
    assert (made.partitions[0].unsettled, made.unsettled_bytes) == (1, 0)


@pytest.mark.parametrize(("items", "nbytes", "pressed"), [(2, 49, False), (3, 0, True), (1, 50, True), (0, 0, False)])
def test_acks_are_urgent_when_half_of_a_window_is_unsettled(items: int, nbytes: int, pressed: bool) -> None:
    made = source(0, 1, limits=Limits(source_items=6, source_bytes=100))
    if items:
        made.made(0, ["x"] * items, nbytes)
    assert made.pressed == pressed


def test_a_window_widens_for_a_blocked_partition_that_is_wanted() -> None:
    made = source(0, 1)
    made.made(0, ["x"] * 4, 0)
    made.made(1, ["x"] * 4, 0)
    assert made.widen({1, 9})
    assert [made.partitions[k].window for k in (0, 1)] == [4, 8]
    assert made.bytes_max == 100
    assert not made.widen({1})  # it has room now
    assert made.partitions[1].window == 8


def test_a_partition_with_room_for_one_more_does_not_widen() -> None:
    made = source(0)
    made.made(0, ["x"] * 3, 0)
    assert not made.widen({0})
    assert made.partitions[0].window == 4


def test_bytes_widen_where_they_stop_a_source() -> None:
    made = source(0)
    made.made(0, ["x"], 100)
    assert made.widen({0})
    assert (made.bytes_max, made.partitions[0].window) == (200, 4)


def test_a_partition_that_has_ended_never_widens() -> None:
    made = source(0)
    made.made(0, ["x"] * 4, 0)
    made.marked(0, Mark.FIN)
    assert not made.widen({0})
    assert made.partitions[0].window == 4
