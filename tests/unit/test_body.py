"""Items: what goes in comes out, what cannot travel is named with its place, hostile bodies are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import msgpack  # type: ignore[import-untyped,unused-ignore]
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zpipe.values.errors import EncodeError, ProtocolError
from zpipe.values.paths import Run
from zpipe.wire import body, frames

TIMELESS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ZONES = st.integers(-720, 840).map(lambda m: timezone(timedelta(minutes=m)))
TIMES = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=ZONES)
NUMBERS = st.integers(-(2**63), 2**64 - 1)
SCALARS = st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False) | st.text() | st.binary() | TIMES
KEYS = st.text() | st.integers(-(2**63), 2**64 - 1) | st.binary()
ITEMS = st.recursive(SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(KEYS, v, max_size=4))
DTYPES = st.sampled_from(
    ["|b1", "<i1", "<i2", ">i4", "<u1", ">u2", "<u8", "<f2", "<f4", ">f8", "<c8", "<c16", "<M8[ns]", "<m8[s]"]
)
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))


def there_and_back(item: Any) -> Any:
    return body.decode_item(body.encode_item(item))


def received(items: list[Any], marks: bytes | None = None) -> Run:
    """Return a run as it is after the wire: not decoded."""
    parts = [None if marks and marks[i] else body.encode_item(item) for i, item in enumerate(items)]
    run = Run(0, 0, (), len(items), parts, marks=marks)
    message = frames.decode(frames.encode(frames.Data(1, 2, 3, 4, 1, run), crc=False))
    assert isinstance(message, frames.Data)
    return message.run


@TIMELESS
@given(ITEMS)
def test_an_item_comes_out_as_it_went_in(item: Any) -> None:
    assert there_and_back(item) == item


@TIMELESS
@given(ARRAYS)
def test_an_array_comes_out_with_dtype_shape_and_bytes(array: Any) -> None:
    back = there_and_back({"x": [array]})["x"][0]
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert not back.flags.writeable


@TIMELESS
@given(st.lists(ITEMS, min_size=1, max_size=20), st.data())
def test_a_run_comes_out_with_none_where_marks_stand(items: list[Any], draw: st.DataObject) -> None:
    marks = bytes(draw.draw(st.lists(st.integers(0, 4), min_size=len(items), max_size=len(items))))
    run = received(items, marks)
    expected = [None if marks[i] else item for i, item in enumerate(items)]
    assert body.decode_run(run) == expected
    assert run.parts is None
    assert [p if p is None else body.decode_item(p) for p in body.parts_of(run)] == expected


@TIMELESS
@given(st.binary(max_size=300), st.integers(1, 4), st.booleans(), st.lists(st.binary(max_size=20), max_size=2))
def test_any_body_raises_nothing_but_a_protocol_error(data: bytes, n: int, arrays: bool, buffers: list[bytes]) -> None:
    run = Run(0, 0, (), n, None)
    run.body, run.arrays, run.buffers = memoryview(data), arrays, tuple(buffers)
    for read in (body.decode_run, body.parts_of):
        try:
            assert len(read(run)) == n
        except ProtocolError:
            pass


@TIMELESS
@given(ITEMS, ARRAYS, st.data())
def test_a_flipped_bit_in_an_item_raises_nothing_but_a_protocol_error(
    item: Any, array: Any, draw: st.DataObject
) -> None:
    head = bytearray(body.encode_item([item, array, {"big": np.zeros(65536, "u1")}]).head)
    bit = draw.draw(st.integers(0, 8 * len(head) - 1))
    head[bit // 8] ^= 1 << bit % 8
    try:
        body.decode_item(body.Encoded(bytes(head), (memoryview(bytes(65536)),), True))
    except ProtocolError:
        pass


@TIMELESS
@given(ITEMS, st.data())
def test_an_item_cut_anywhere_is_refused(item: Any, draw: st.DataObject) -> None:
    head = body.encode_item(item).head
    with pytest.raises(ProtocolError):
        body.decode_item(body.Encoded(head[: draw.draw(st.integers(0, len(head) - 1))]))


def test_not_a_number_stays_not_a_number() -> None:
    assert math.isnan(there_and_back(math.nan))


def test_tuples_arrive_as_lists_and_tuple_keys_as_tuples() -> None:
    assert there_and_back(({(1, (2, "x")): (3,)},)) == [{(1, (2, "x")): [3]}]


def test_tuple_keys_do_not_hinder_arrays() -> None:
    back = there_and_back({(1, 2): np.arange(3)})
    assert back[1, 2].tolist() == [0, 1, 2]


def test_a_time_in_another_zone_is_the_same_moment() -> None:
    moment = datetime(2024, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert there_and_back(moment) == datetime(2024, 5, 1, 10, tzinfo=UTC)


def test_a_large_array_travels_as_it_lies_in_memory() -> None:
    array = np.arange(16384, dtype="<u4")
    encoded = body.encode_item([array])
    assert np.shares_memory(np.asarray(encoded.buffers[0]), array)
    assert encoded.nbytes == len(encoded.head) + 65536


def test_an_array_one_byte_below_the_limit_travels_inline() -> None:
    assert body.encode_item(np.zeros(65535, "u1")).buffers == ()
    assert len(body.encode_item(np.zeros(65536, "u1")).buffers) == 1


@pytest.mark.parametrize(
    "turn",
    [
        lambda a: a.T,
        lambda a: a[:, ::2],
        lambda a: a[::-1],
        lambda a: np.asfortranarray(a),
        lambda a: a.astype(">f8"),
    ],
)
def test_a_large_array_in_any_layout_arrives_equal(turn: Callable[[Any], Any]) -> None:
    array = turn(np.arange(90000, dtype="<f8").reshape(300, 300))
    back = there_and_back(array)
    assert back.dtype == "<f8"
    assert np.array_equal(back, array)


def test_large_arrays_past_the_limit_of_buffers_travel_inline() -> None:
    encoded = body.encode_item([np.full(65536, i % 256, "u1") for i in range(1026)])
    assert len(encoded.buffers) == 1024
    assert [a[0] for a in body.decode_item(encoded)] == [i % 256 for i in range(1026)]


def test_large_times_travel() -> None:
    array = np.arange(4096).astype("M8[s]")
    assert np.array_equal(there_and_back(array), array)


@pytest.mark.parametrize(
    ("item", "place"),
    [
        ({"x": [0, 1, 2, {3}]}, r"item\['x'\]\[3\] is a set: an item may hold None"),
        (object(), "item is a object: "),
        ([1j], r"item\[0\] is a complex"),
        ({"a": {"b": date(2024, 1, 1)}}, r"item\['a'\]\['b'\] is a datetime.date"),
        ([datetime(2024, 1, 1)], r"item\[0\] is a datetime without a time zone"),
        ((0, 2**64), r"item\[1\] is an int beyond 64 bits"),
        ("\ud800", "item is a str that UTF-8 cannot hold"),
        ({frozenset(): 1}, "item has a key that is a frozenset: keys may be"),
        ([np.array([None])], r"item\[0\] is a numpy array of dtype object"),
        (np.array(["ab"]), "item is a numpy array of dtype <U2"),
        (np.zeros(2, [("a", "i4")]), "item is a numpy array of dtype"),
        (np.ma.masked_array([1, 2], [True, False]), "item is a masked numpy array"),
        (np.zeros((1,) * 33), "item is a numpy array of 33 dimensions"),
        ([np.longdouble(1)], r"item\[0\] is a numpy scalar of dtype"),
        ([0] * 2**20, "more than 131072 values.* use numpy arrays"),
        (b"x" * 2**26, "more than 67108864: use numpy arrays"),
    ],
)
def test_what_cannot_travel_is_named_with_its_place(item: Any, place: str) -> None:
    with pytest.raises(EncodeError, match=place) as caught:
        body.encode_item(item)
    assert "\n" not in str(caught.value)


def nested(depth: int) -> Any:
    item: Any = 0
    for _ in range(depth):
        item = [item]
    return item


def test_the_deepest_item_that_may_go_out_may_come_in() -> None:
    encoded = body.encode_item(nested(1023))
    run = Run(0, 0, (), 1, None)
    run.body = b"\x91" + encoded.head
    assert len(body.decode_run(run)) == 1


@pytest.mark.parametrize("depth", [1024, 1025, 5000])
def test_an_item_that_nests_too_deep_is_refused(depth: int) -> None:
    with pytest.raises(EncodeError, match="item nests deeper than 1023"):
        body.encode_item(nested(depth))


def test_an_item_within_itself_is_refused() -> None:
    item: list[Any] = []
    item += [item, item]
    with pytest.raises(EncodeError, match="item nests deeper than 1023"):
        body.encode_item(item)


def test_an_item_after_one_that_failed_is_not_touched_by_it() -> None:
    with pytest.raises(EncodeError):
        body.encode_item([np.zeros(65536, "u1"), object()])
    encoded = body.encode_item([1])
    assert (encoded.head, encoded.buffers, encoded.arrays) == (b"\x91\x01", (), False)


def test_a_body_of_many_items_past_a_mebibyte_is_refused() -> None:
    run = Run(0, 0, (), 2, None)
    run.body = msgpack.packb([b"x" * 2**20, 1])
    with pytest.raises(ProtocolError, match="body of 2 items in"):
        body.decode_run(run)


def test_one_item_past_a_mebibyte_may_not_hold_too_many_values() -> None:
    with pytest.raises(ProtocolError, match="more than 131073 values"):
        body.decode_item(body.Encoded(b"\xdd\x02\x00\x00\x00" + b"\x80" * 2**25))


def test_one_item_of_many_mebibytes_comes_through() -> None:
    item = {"blob": b"x" * 2**23, "n": list(range(100000))}
    assert there_and_back(item) == item


def test_a_received_body_is_cut_into_the_very_bytes_of_its_items() -> None:
    items = [7, "x" * 3000, {"a": np.arange(3)}]
    assert [p.head for p in body.parts_of(received(items)) if p] == [body.encode_item(i).head for i in items]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65535, 65536])
def test_the_header_of_a_list_is_that_of_msgpack(count: int) -> None:
    header = body.array_header(count)
    assert msgpack.packb([0] * count) == header + bytes(count)
