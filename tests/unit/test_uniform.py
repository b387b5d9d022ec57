"""Items that are one array each take a way of their own, and come to the same bytes and the same arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zpipe.values.errors import ProtocolError
from zpipe.values.paths import Run
from zpipe.wire import body, frames
from zpipe.wire.body import decode_run, encode_item

DTYPES = [np.dtype(text) for text in ("u1", "<i2", ">i4", "<f4", "f8", "?", "c16", "M8[us]")]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
ARRAYS = st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))


def received(*values: Any) -> Run:
    """Return the run of these items as it arrives."""
    parts = [encode_item(value) for value in values]
    message = frames.Data(1, 2, 3, 4, 1, Run(0, 0, (), len(parts), parts))
    arrived = frames.decode([memoryview(bytearray(frame)) for frame in frames.encode(message, crc=True)])  # as libzmq's
    assert isinstance(arrived, frames.Data)
    return arrived.run


def same(found: Any, meant: Any) -> bool:
    return (
        type(found) is np.ndarray
        and (found.dtype, found.shape) == (meant.dtype, meant.shape)
        and found.tobytes() == meant.tobytes()
        and not found.flags.writeable
    )


@given(ARRAYS)
def test_an_array_has_the_bytes_that_it_has_within_an_item(array: np.ndarray[Any, Any]) -> None:
    assert encode_item([array]).head == b"\x91" + encode_item(array).head


@given(st.lists(ARRAYS, min_size=1, max_size=20))
def test_arrays_of_all_kinds_arrive(arrays: list[np.ndarray[Any, Any]]) -> None:
    assert all(map(same, decode_run(received(*arrays)), arrays))


@given(ARRAYS.filter(lambda array: array.size > 0), st.integers(1, 20))
def test_arrays_of_one_kind_arrive_the_second_time_as_the_first(array: np.ndarray[Any, Any], count: int) -> None:
    for _ in range(2):  # the second time it is known what they look like
        assert all(same(found, array) for found in decode_run(received(*[array] * count)))


@pytest.mark.parametrize("count", [1, 2, 15, 16, 64])
def test_what_only_begins_like_a_known_array_is_read_as_what_it_is(count: int) -> None:
    array = np.arange(12, dtype="<i4").reshape(3, 4)
    decode_run(received(*[array] * count))
    for other in (array.T.copy(), array.astype("<f4"), array[:2], [array], 7, {"x": array}):
        *head, last = decode_run(received(*[array] * (count - 1), other))
        assert all(same(found, array) for found in head)
        assert np.array_equal(last["x"], array) if isinstance(other, dict) else np.array_equal(last, other)


@pytest.mark.parametrize("at", range(0, 60, 3))
def test_a_known_array_that_was_altered_is_read_as_strictly_as_any(at: int) -> None:
    array = np.arange(8, dtype=np.uint8)
    run = received(array, array)
    decode_run(run)
    altered = bytearray(run.body)
    altered[at] ^= 0xFF
    run.body = memoryview(bytes(altered))
    try:
        values = decode_run(run)
    except ProtocolError:
        return
    assert len(values) == 2


def test_items_with_buffers_travel_together() -> None:
    big = [np.full((300, 300), k, np.uint8) for k in range(3)]
    values = [big[0], {"two": [big[1], big[2]], "small": np.zeros(3)}, 5, big[2]]
    run = received(*values)
    assert len(run.buffers) == 4
    first, second, third, fourth = decode_run(run)
    assert same(first, big[0]) and same(second["two"][0], big[1]) and same(second["two"][1], big[2])
    assert third == 5 and same(fourth, big[2])
    parts = body.parts_of(run)
    assert [len(part.buffers) for part in parts if part is not None] == [1, 2, 0, 1]
    for _ in range(2):  # the second time it is known what they look like
        assert all(map(same, decode_run(received(*big)), big))


def test_a_buffer_of_another_size_is_refused() -> None:
    big = np.zeros(70_000, np.uint8)
    run = received(big)
    decode_run(run)
    run.buffers = (memoryview(bytes(70_001)),)
    with pytest.raises(ProtocolError, match="needs 70000 bytes"):
        decode_run(run)
