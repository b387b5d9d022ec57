"""The rules of shared slots, with a control block of plain lists."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.core.slots import GRAIN, Control, Reader, Slot, Slots, rounded

COUNT, READERS = 4, 3


class Watched(Control):
    """A control block in which something may happen between a write and the look behind it."""

    def __init__(self) -> None:
        super().__init__([0] * COUNT, [0] * (COUNT * READERS), READERS)
        self.meanwhile: Callable[[], object] | None = None

    def fence(self) -> None:
        act, self.meanwhile = self.meanwhile, None
        if act is not None:
            act()


@pytest.fixture
def control() -> Watched:
    return Watched()


@pytest.fixture
def slots(control: Watched) -> Slots:
    ends = [0]

    def carve(size: int) -> int:
        ends.append(ends[-1] + size)
        return ends[-2]

    return Slots(control, COUNT, carve)


def taken(slots: Slots, nbytes: int = 1) -> Slot:
    slot = slots.take(nbytes)
    assert slot is not None
    return slot


@given(st.integers(1, 2**34))
def test_a_slot_is_at_most_an_eighth_larger_than_it_must_be(nbytes: int) -> None:
    size = rounded(nbytes)
    assert nbytes <= size <= max(GRAIN, nbytes + nbytes // 8 + GRAIN)
    assert size % GRAIN == 0
    assert rounded(size) == size


def test_a_dropped_slot_is_taken_again_and_names_something_else(slots: Slots, control: Watched) -> None:
    slot = taken(slots)
    gen = slot.gen
    slots.drop(slot)
    assert taken(slots) is slot
    assert not Reader(control, 0).attach(slot.index, gen)
    assert Reader(control, 0).attach(slot.index, slot.gen)


def test_a_slot_that_is_read_waits_for_its_last_view(slots: Slots, control: Watched) -> None:
    slot, readers = taken(slots), [Reader(control, number) for number in range(READERS)]
    assert all(reader.attach(slot.index, slot.gen) for reader in (*readers, readers[0]))
    slots.drop(slot)
    assert slots.held_by() == dict.fromkeys(range(READERS), slot.size)
    for reader in (*readers[1:], readers[0]):
        assert taken(slots, 1) is not slot
        reader.detach(slot.index)
    slots.sweep()
    assert slot in slots.held  # the first had two
    readers[0].detach(slot.index)
    assert taken(slots) is slot


def test_the_views_of_a_dead_reader_do_not_count(slots: Slots, control: Watched) -> None:
    slot = taken(slots)
    Reader(control, 1).attach(slot.index, slot.gen)
    slots.drop(slot)
    slots.forget(1)
    assert taken(slots) is slot


def test_who_attaches_while_its_owner_looks_is_refused_or_waited_for(slots: Slots, control: Watched) -> None:
    slot, reader, found = taken(slots), Reader(control, 2), []
    gen = slot.gen
    control.meanwhile = lambda: found.append(reader.attach(slot.index, gen))
    slots.drop(slot)  # the reader comes between its write and its look
    assert found == [False]
    assert taken(slots) is slot

    control.meanwhile = lambda: slots.drop(slot)
    assert reader.attach(slot.index, slot.gen)  # and now the other way round: it is heard
    assert slot in slots.held
    reader.detach(slot.index)
    slots.sweep()
    assert taken(slots) is slot


def test_who_reads_a_dropped_slot_may_hand_it_on(slots: Slots, control: Watched) -> None:
    slot = taken(slots)
    assert Reader(control, 0).attach(slot.index, slot.gen)
    slots.drop(slot)
    slots.sweep()
    assert Reader(control, 1).attach(slot.index, slot.gen)


def test_where_no_new_slot_is_to_be_had_a_larger_one_serves(control: Watched) -> None:
    room = [8 * GRAIN, 64 * GRAIN]
    slots = Slots(control, COUNT, lambda size: size if size in room and not room.remove(size) else None)
    small, large = taken(slots, 8 * GRAIN), taken(slots, 64 * GRAIN)
    assert slots.take(8 * GRAIN) is None
    slots.drop(small)
    slots.drop(large)
    assert taken(slots, 4 * GRAIN) is small
    assert slots.take(4 * GRAIN) is None  # that one is sixteen times as large
    assert slots.take(65 * GRAIN) is None
    assert slots.nbytes == 72 * GRAIN


def test_there_are_no_more_slots_than_were_agreed_upon(slots: Slots) -> None:
    assert len({taken(slots).index for _ in range(COUNT)}) == COUNT
    assert slots.take(1) is None
