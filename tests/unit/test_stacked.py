"""Arrays whose rows are items: written, cut and read without a look at each row, to the same bytes and values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.unit.test_uniform import DTYPES
from zpipe.core.limits import Limits
from zpipe.processes.blame import stretches_of
from zpipe.processes.joiner import cuts
from zpipe.values.errors import EncodeError, ProtocolError, StageError
from zpipe.values.paths import Run, Spots
from zpipe.values.stacks import stack
from zpipe.wire import frames
from zpipe.wire.body import decode_rows, decode_run, encode_item, encode_rows

TABLES = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=6))
)


def sent(parts: Any, n: int) -> list[bytes]:
    message = frames.Data(1, 2, 3, 4, 1, Run(0, 0, (), n, parts))
    return [bytes(frame) for frame in frames.encode(message, crc=True)]


def arrived(frame: list[bytes]) -> Run:
    message = frames.decode([memoryview(part) for part in frame])
    assert isinstance(message, frames.Data)
    return message.run


@given(TABLES, st.data())
def test_rows_have_the_bytes_that_each_has_alone(table: np.ndarray[Any, Any], data: st.DataObject) -> None:
    parts = encode_rows(table)
    a = data.draw(st.integers(0, len(table) - 1))
    b = data.draw(st.integers(a + 1, len(table)))
    assert sent(parts[a:b], b - a) == sent([encode_item(row) for row in table[a:b]], b - a)
    assert [part.head for part in parts] == [encode_item(row).head for row in table]
    assert sum(part.nbytes for part in parts) == Run(0, 0, (), len(table), parts).nbytes


@given(TABLES)
def test_rows_are_read_as_what_was_written(table: np.ndarray[Any, Any]) -> None:
    frame = sent(encode_rows(table), len(table))
    decode_run(arrived(frame))  # of the first of a form it is learnt how they look
    rows = decode_rows(arrived(frame))
    found = rows if isinstance(rows, np.ndarray) else stack(rows)
    table = table.astype(table.dtype.newbyteorder("="))  # as numpy stacks
    assert (found.dtype, found.shape) == (table.dtype, table.shape)
    assert found.tobytes() == table.tobytes()
    assert found.flags.c_contiguous and not found.flags.writeable


def test_small_rows_are_read_at_once() -> None:
    table = np.arange(24, dtype=np.float32).reshape(4, 6)
    frame = sent(encode_rows(table), 4)
    decode_run(arrived(frame))
    assert isinstance(decode_rows(arrived(frame)), np.ndarray)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_read_as_by_others(at: int, value: int) -> None:
    frame = bytearray(sent(encode_rows(np.arange(24, dtype="<i2").reshape(4, 6)), 4)[0])
    frame[72:76] = bytes(4)  # the crc: of who sends without it
    frame[88 + at % (len(frame) - 88)] = value
    outcomes = []
    for decode in (decode_run, decode_rows):
        try:
            outcomes.append([np.asarray(x).tolist() for x in decode(arrived([bytes(frame)]))])
        except ProtocolError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


def test_what_changes_later_is_not_seen() -> None:
    table = np.zeros((3, 4), np.uint8)
    parts = encode_rows(table)
    table[:] = 9
    assert all(not any(row) for row in decode_run(arrived(sent(parts, 3))))


def test_rows_that_may_not_travel_are_refused() -> None:
    with pytest.raises(EncodeError, match="dtype object"):
        encode_rows(np.array([[object()]]))


@given(st.integers(1, 3000))
def test_rows_are_cut_to_frames(count: int) -> None:
    limits = Limits(frame_bytes=4096)
    parts = encode_rows(np.zeros((count, 10), np.uint8))
    stretches = list(cuts(limits, parts))
    assert [k for a, b in stretches for k in range(a, b)] == list(range(count))
    assert all(Run(0, 0, (), b - a, parts[a:b]).nbytes <= limits.frame_bytes for a, b in stretches)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=6), st.data()), max_size=5))
def test_spots_are_the_items_of_stretches(drawn: list[tuple[bytes, st.DataObject]]) -> None:
    stretches = []
    for k, (kinds, data) in enumerate(drawn):
        marks = bytes(kind % 2 for kind in kinds)
        a = data.draw(st.integers(0, len(marks) - 1))
        run = Run(k, 0, (), len(marks), [None] * len(marks), marks=marks if any(marks) else None)
        stretches.append((run, a, data.draw(st.integers(a, len(marks)))))
    spots = Spots(stretches)
    plain = [(run, k) for run, a, b in stretches for k in range(a, b) if not run.mark(k)]
    assert list(spots) == plain == [spots[k] for k in range(len(spots))] == spots[:]
    assert [(run, first + k) for run, first, n in stretches_of(spots) for k in range(n)] == plain
    assert spots[1:-1] == plain[1:-1]
    with pytest.raises(IndexError):
        spots[len(plain)]


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([np.zeros(2), {}], "is stacked and was given a dict: only arrays and numbers can be stacked"),
        (
            [np.zeros(2), np.zeros(3)],
            r"float64 of shape \(2,\) beside float64 of shape \(3,\): a block needs",
        ),
        ([np.zeros(2), np.zeros(2, np.int8)], r"float64 of shape \(2,\) beside int8 of shape \(2,\)"),
    ],
)
def test_what_cannot_be_stacked_is_named(items: list[Any], said: str) -> None:
    with pytest.raises(StageError, match=said):
        stack(items)
