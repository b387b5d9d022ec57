"""Messages of the registry: what goes in comes out, what is too much is refused."""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped,unused-ignore]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zpipe.values.errors import ProtocolError, RegistryError
from zpipe.wire import control

TIMELESS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4))
MESSAGES = st.dictionaries(st.text(), VALUES, max_size=4).map(lambda m: m | {"t": "BEAT"})


@TIMELESS
@given(MESSAGES)
def test_a_message_comes_out_as_it_went_in(message: dict[str, Any]) -> None:
    assert control.decode(control.encode(message)) == message


@TIMELESS
@given(MESSAGES, st.data())
def test_a_message_cut_anywhere_is_refused(message: dict[str, Any], draw: st.DataObject) -> None:
    data = control.encode(message)
    with pytest.raises(ProtocolError):
        control.decode(data[: draw.draw(st.integers(0, len(data) - 1))])


@TIMELESS
@given(st.binary(max_size=300))
def test_any_bytes_raise_nothing_but_a_protocol_error(data: bytes) -> None:
    try:
        assert "t" in control.decode(data)
    except ProtocolError:
        pass


@TIMELESS
@given(MESSAGES, st.data())
def test_a_flipped_bit_raises_nothing_but_a_protocol_error(message: dict[str, Any], draw: st.DataObject) -> None:
    data = bytearray(control.encode(message))
    bit = draw.draw(st.integers(0, 8 * len(data) - 1))
    data[bit // 8] ^= 1 << bit % 8
    try:
        assert isinstance(control.decode(data)["t"], str)
    except ProtocolError:
        pass


def test_numbers_may_be_keys_below_the_top() -> None:
    message = {"t": "STATE", "watermarks": {0: [5, 1, 3]}}
    assert control.decode(control.encode(message)) == message


def nested(depth: int) -> bytes:
    return b"\x82\xa1t\xa1B\xa1x" + b"\x91" * (depth - 1) + b"\0"


def test_nesting_ends_at_thirty_two() -> None:
    assert control.decode(nested(32))["t"] == "B"
    with pytest.raises(ProtocolError, match="nests deeper than 32"):
        control.decode(nested(33))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "ends in the middle"),
        (b"\x80", "no verb"),
        (b"\x90", "is a list, not a map"),
        (b"\x81\xa1t\x05", "no verb"),
        (b"\x82\xa1t\xa1B\x05\x06", "keys are texts"),
        (b"\x81\xa1t\xa1B\x00", "not plain msgpack"),
        (b"\x81\xa1t\xa1\xff", "not plain msgpack"),
        (b"\x82\xa1t\xa1B\xa1x\xd4\x05\x00", "not plain msgpack"),
        (b"\x82\xa1t\xa1B\xa1x\xc1", "no msgpack"),
        (b"\x82\xa1t\xa1B\xa1x\xdf\xff\xff\xff\xff", "ends in the middle"),
        (b"\x82\xa1t\xa1B\xa1x\x81\x90\x00", "unhashable"),
        (msgpack.packb({"t": "B", "x": [0] * 2**17}), "more than 131072 values"),
        (bytes(control.BYTES_MAX + 1), "at most 4194304"),
    ],
)
def test_hostile_messages_are_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        control.decode(data)


def test_a_message_that_readers_would_refuse_is_not_sent() -> None:
    with pytest.raises(RegistryError, match="message 'WELCOME' takes 4194"):
        control.encode({"t": "WELCOME", "plan": "x" * control.BYTES_MAX})
