"""States of stages as bytes: arrays of any number and size, writable when they come back; the rest has a limit."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from zpipe.processes.caller import thaw
from zpipe.values.errors import EncodeError
from zpipe.wire import body
from zpipe.wire.body import decode_state, encode_state


def there_and_back(state: Any) -> Any:
    encoded = encode_state(state)
    # As a file gives them back: each buffer with bytes of its own.
    buffers = tuple(memoryview(bytearray(buffer)) for buffer in encoded.buffers)
    return decode_state(body.Encoded(encoded.head, buffers, encoded.arrays))


@pytest.mark.parametrize("array", [np.array(3), np.arange(10), np.arange(2000.0), np.arange(12, dtype=">i4")])
def test_arrays_of_a_state_come_back_equal_and_writable(array: np.ndarray[Any, Any]) -> None:
    found = there_and_back({"w": [array]})["w"][0]
    assert (found.shape, found.dtype.kind, found.tolist()) == (array.shape, array.dtype.kind, array.tolist())
    found[...] = 7
    assert found.flags.writeable


def test_buffers_that_may_not_be_written_to_are_copied() -> None:
    encoded = encode_state([np.arange(5000)])
    (found,) = decode_state(encoded)
    found[0] = 7
    assert decode_state(encoded)[0][0] == 0


def test_arrays_that_were_one_come_back_as_two() -> None:
    shared = np.zeros(10_000)
    first, second = there_and_back(thaw([shared, shared]))
    first[0] = 1
    assert second[0] == 0


def test_all_else_comes_back_as_an_item_does() -> None:
    state = {"n": 3, "names": ["a", None], ("lr", 1): b"x", "nd": True, "scalar": np.float32(0.5)}
    assert there_and_back(state) == state


def test_a_state_may_have_more_arrays_than_an_item_may_have_buffers() -> None:
    state = {str(k): np.full(1024, k) for k in range(3000)}
    encoded = encode_state(state)
    assert len(encoded.buffers) == 3000
    assert [array[0] for array in there_and_back(state).values()] == list(range(3000))


def test_an_array_of_a_state_may_be_larger_than_a_frame() -> None:
    array = np.zeros(2**30 + 1, np.uint8)  # untouched pages take no memory
    assert [len(buffer) for buffer in encode_state([array]).buffers] == [2**30 + 1]


def test_what_is_no_array_is_limited() -> None:
    with pytest.raises(EncodeError) as caught:
        encode_state({"w": b"x" * (body.BODY_MAX + 1)})
    assert str(caught.value) == (
        "state takes 67108873 bytes of msgpack besides its arrays, more than 67108864: use numpy arrays"
    )


def test_many_plain_values_may_be_saved() -> None:
    assert there_and_back(list(range(2**18))) == list(range(2**18))


def test_what_cannot_be_saved_is_named_with_its_place() -> None:
    with pytest.raises(EncodeError, match=r"^state\['seen'\] is a set: a state may hold None, bool"):
        encode_state({"w": np.zeros(10**6), "seen": {1}})


def test_a_state_nested_too_deep_is_one_clear_line() -> None:
    state: list[Any] = []
    for _ in range(2000):
        state = [state]
    with pytest.raises(EncodeError, match=r"^state nests deeper than 1023"):
        encode_state(state)


def test_nothing_holds_the_arrays_of_a_state_that_is_let_go() -> None:
    array = np.zeros(10_000)
    there = weakref.ref(array)
    gc.disable()
    try:
        encode_state({"w": array})
        del array
        assert there() is None
    finally:
        gc.enable()


def test_a_copy_shares_no_array_with_the_state_not_even_within_tuples() -> None:
    w, b, n = np.zeros(10_000), np.zeros(3), np.array(1)
    encode_state(thaw({"layers": (w, [b]), "n": n}))
    w[0], b[0], n[...] = 1, 1, 2  # the stage goes on writing
    copy = thaw({"layers": (w, [b]), "n": n})
    assert not np.shares_memory(copy["layers"][0], w)
    assert not np.shares_memory(copy["layers"][1][0], b)
    assert not np.shares_memory(copy["n"], n)
