"""Frames: what goes in comes out; cut, flipped and invented frames raise nothing but ProtocolError."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zpipe.values.errors import ProtocolError
from zpipe.values.paths import Run
from zpipe.wire import body, frames

TIMELESS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
ENDS = {"src": U64, "dst": U64, "gen": U32, "edge": U16}
PAIRS = st.tuples(st.integers(2**32, 2**40), st.integers(0, 2**20)).map(lambda p: (p[0], p[0] + p[1]))
VALUES = st.none() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20) | st.binary(max_size=40)

ACKS = st.builds(
    frames.Ack, **ENDS, limit=U64, limit_bytes=U64, base=U32, got=U64, consumed=U64, echo=U64,
    state=st.integers(0, 1), quiet=st.integers(0, 1), ranges=st.lists(PAIRS), wants=st.lists(U32),
)  # fmt: skip
SYNCS = st.builds(frames.Sync, **ENDS, hi=U64, blocked=st.booleans())
OPENS = st.builds(frames.Open, **ENDS, info=st.dictionaries(st.text(), st.integers(0, 9) | st.text(), max_size=4))
CLOSES = st.builds(frames.Close, **ENDS, why=st.text())
SMALL = ACKS | SYNCS | OPENS | CLOSES


@st.composite
def datas(draw: st.DrawFn) -> frames.Data:
    values = draw(st.lists(VALUES, min_size=1, max_size=20))
    n = len(values)
    kinds = st.lists(st.integers(0, 4), min_size=n, max_size=n)
    marks = draw(st.none() | kinds.map(bytes))
    elements = draw(st.lists(st.integers(0, 2**32 - 20), max_size=5).map(tuple))
    run = Run(
        draw(U32), draw(st.integers(0, 2**64 - 20)), elements, n,
        [None if marks and marks[i] else body.encode_item(v) for i, v in enumerate(values)],
        epoch=draw(U32), digest=draw(U64),
        attempt=draw(st.integers(0, 255)), marks=marks,
    )  # fmt: skip
    return frames.Data(draw(U64), draw(U64), draw(U32), draw(U16), draw(st.integers(1, 2**64 - 20)), run)


def told(message: frames.Message) -> Any:
    """Return what a message says, comparable with another's."""
    if not isinstance(message, frames.Data):
        return message
    run = message.run
    return (
        message.src, message.dst, message.gen, message.edge, message.seq, run.key, run.epoch, run.attempt,
        run.marks, body.decode_run(run),
    )  # fmt: skip


def through(message: frames.Message, *, crc: bool = True) -> frames.Data:
    back = frames.decode(frames.encode(message, crc=crc))
    assert isinstance(back, frames.Data)
    return back


def one(value: Any, **more: Any) -> frames.Data:
    return frames.Data(1, 2, 3, 4, 5, Run(6, 7, (), 1, [body.encode_item(value)], **more))


@TIMELESS
@given(datas(), st.booleans())
def test_a_run_comes_out_as_it_went_in(data: frames.Data, crc: bool) -> None:
    assert told(through(data, crc=crc)) == told(data)


@TIMELESS
@given(SMALL, st.booleans())
def test_a_small_message_comes_out_as_it_went_in(message: frames.Message, crc: bool) -> None:
    assert frames.decode(frames.encode(message, crc=crc)) == message


@TIMELESS
@given(datas(), st.booleans())
def test_a_received_run_goes_on_as_it_stands(data: frames.Data, crc: bool) -> None:
    sent = frames.encode(data, crc=crc)
    assert frames.encode(frames.decode(sent), crc=crc) == sent


@TIMELESS
@given(datas(), st.booleans())
def test_a_run_cut_at_any_byte_is_refused(data: frames.Data, crc: bool) -> None:
    (frame,) = frames.encode(data, crc=crc)
    for end in range(len(frame)):
        with pytest.raises(ProtocolError):
            frames.decode([frame[:end]])


@TIMELESS
@given(SMALL)
def test_a_small_message_cut_at_any_byte_is_refused(message: frames.Message) -> None:
    (frame,) = frames.encode(message, crc=False)
    for end in range(len(frame)):
        with pytest.raises(ProtocolError):
            frames.decode([frame[:end]])


@TIMELESS
@given(datas())
def test_any_flipped_bit_of_a_checked_run_is_refused(data: frames.Data) -> None:
    (frame,) = frames.encode(data, crc=True)
    for bit in range(8 * len(frame)):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProtocolError):
            frames.decode([flipped])


@TIMELESS
@given(datas() | SMALL)
def test_a_flipped_bit_of_an_unchecked_frame_raises_nothing_but_a_protocol_error(
    message: frames.Message,
) -> None:
    (frame,) = frames.encode(message, crc=False)
    for bit in range(8 * len(frame)):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            told(frames.decode([flipped]))
        except ProtocolError:
            pass


@TIMELESS
@given(st.integers(0, 6), st.integers(0, 3), st.integers(30, 100), st.binary(max_size=120), st.integers(0, 2))
def test_any_bytes_raise_nothing_but_a_protocol_error(
    kind: int, flags: int, length: int, rest: bytes, extra: int
) -> None:
    frame = b"ZPI1" + bytes((kind, flags)) + length.to_bytes(2, "big") + rest
    try:
        told(frames.decode([frame, *[b"x"] * extra]))
    except ProtocolError:
        pass


def test_a_checked_frame_differs_from_an_unchecked_one_in_four_bytes() -> None:
    (plain,) = map(bytes, frames.encode(one(1), crc=False))
    (checked,) = map(bytes, frames.encode(one(1), crc=True))
    assert plain[68:72] == bytes(4)
    assert checked[:68] + bytes(4) + checked[72:] == plain


def test_a_large_array_is_neither_copied_out_nor_in() -> None:
    array = np.arange(10000)
    sent = frames.encode(one({"x": array}), crc=True)
    run = through(one({"x": array})).run
    assert np.shares_memory(np.asarray(sent[1]), array)
    assert np.shares_memory(body.decode_run(run)[0]["x"], array)


def test_a_received_array_goes_on_with_its_buffer() -> None:
    array = np.arange(10000)
    back = through(through(one({"x": array})))
    assert np.array_equal(body.decode_run(back.run)[0]["x"], array)


def test_a_received_run_knows_its_bytes() -> None:
    run = through(one(np.zeros(100_000, "u1"))).run
    assert run.nbytes == len(run.body) + 100_000


def test_a_received_body_is_a_view_into_its_frame() -> None:
    (frame,) = frames.encode(one(b"payload"), crc=False)
    message = frames.decode([frame])
    assert isinstance(message, frames.Data)
    assert message.run.body.obj is frame


def test_attempts_are_counted_up_to_255() -> None:
    assert through(one(1, attempt=300)).run.attempt == 255


def test_frames_may_be_any_buffer() -> None:
    (frame,) = frames.encode(one("x"), crc=True)
    assert isinstance(frame, bytes)
    for form in (frame, bytearray(frame), memoryview(frame)):
        assert told(frames.decode([form])) == told(one("x"))


def test_a_single_item_under_a_mark_that_marks_nothing_keeps_its_buffers() -> None:
    back = through(one(np.ones(65536, "u1"), marks=b"\0"))
    assert int(body.decode_run(back.run)[0].sum()) == 65536
