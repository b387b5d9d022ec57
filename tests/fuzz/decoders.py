"""The decoders of what peers send: frames, bodies, arrays, the scan, control messages, and items to be shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgpack

from tests.fuzz.target import CUT, Draw, target
from zpipe.cli.tap import _json, _line
from zpipe.processes import shown
from zpipe.processes.tapper import read_sample
from zpipe.values.errors import EncodeError, ProtocolError
from zpipe.wire import control, frames, outside
from zpipe.wire.arrays import read_dtype
from zpipe.wire.body import Encoded, decode_item, decode_run, decode_state, encode_item, encode_message, parts_of
from zpipe.wire.frames import Data
from zpipe.wire.scan import scan

VECTORS = Path(__file__).parents[1] / "conformance" / "vectors.json"
BUFFER = bytes(range(64))  # what stands for a raw buffer, twice
OUTSIDE = Path(__file__).parents[1] / "conformance" / "outside.json"
NESTING, ELEMENTS = 64, 2**12


def messages() -> Iterator[list[bytes]]:
    """Yield the frames of every golden vector."""
    for vector in json.loads(VECTORS.read_text(encoding="utf-8"))["messages"]:
        yield [bytes.fromhex(frame) for frame in vector["frames"] if isinstance(frame, str)]


def joined_messages() -> Iterator[bytes]:
    """Yield them as inputs."""
    for message in messages():
        yield CUT.join(message)


def said_outside() -> Iterator[bytes]:
    """Yield the frames of every golden vector of what programs outside say, as inputs."""
    for vector in json.loads(OUTSIDE.read_text(encoding="utf-8"))["messages"]:
        yield CUT.join(bytes.fromhex(frame) for frame in vector["frames"])


def bodies() -> Iterator[bytes]:
    """Yield the bodies of the golden vectors."""
    for message in messages():
        try:
            decoded = frames.decode(message)
        except ProtocolError:
            continue
        if isinstance(decoded, Data):
            yield bytes([decoded.run.arrays]) + bytes(decoded.run.body or b"")[1:]


def values() -> Iterator[bytes]:
    """Yield msgpack of many shapes."""
    yield from (body[1:] for body in bodies())
    yield msgpack.packb({"t": "HELLO", "rid": 1, "inc": 7, "proto": [1, 0], "stage": "clean", "beat": None})
    yield msgpack.packb([[[[[]]]], {"a": {"b": [1.5, -3, 2**40, b"x" * 40, "y" * 300]}}])


def samples() -> Iterator[bytes]:
    """Yield samples of both forms."""
    for item in ("float32 (3,) 0..2 [0 1 2]", '{"x": [0, 1.5]}'):
        sample = {"t": "SAMPLE", "worker": "clean-1", "path": "crops:3", "output": "", "item": item}
        yield control.encode(sample)


@target(seeds=joined_messages, errors=(ProtocolError,))
def message(data: bytes) -> None:
    """Frames as they come from a socket; what is understood is encoded again and understood as the same."""
    decoded = frames.decode(data.split(CUT))
    if isinstance(decoded, Data):
        parts = parts_of(decoded.run)
        assert len(parts) == decoded.run.n
        assert len(decode_run(decoded.run)) == decoded.run.n
    again = frames.decode(frames.encode(decoded, crc=True))
    if not isinstance(decoded, Data):
        assert repr(again) == repr(decoded)


@target(seeds=joined_messages, errors=(ProtocolError,), is_bounded=True)
def header(data: bytes) -> None:
    """Frames of which only the header is read: the body of DATA is left where it is."""
    if data[4:5] not in (b"\2", b"\4", b"\5"):
        frames.decode(data.split(CUT))


@target(seeds=bodies, errors=(ProtocolError, EncodeError))
def item(data: bytes) -> None:
    """The body of an item, with raw buffers or without; what comes out can travel again."""
    head = data[1:]
    value = decode_item(Encoded(head, (memoryview(BUFFER), memoryview(BUFFER)), bool(data[:1] > b"\0")))
    encoded = encode_item(value)
    assert repr(decode_item(encoded)) == repr(value)


@target(seeds=bodies, errors=(ProtocolError,))
def state(data: bytes) -> None:
    """The state of a stage, as a save holds it."""
    decode_state(Encoded(data[1:], (memoryview(BUFFER), memoryview(BUFFER)), bool(data[:1] > b"\0")))


@target(seeds=bodies, errors=(ProtocolError,))
def look(data: bytes) -> None:
    """An item as `zpipe tap` shows it."""
    value = decode_item(Encoded(data[1:], (memoryview(BUFFER), memoryview(BUFFER)), bool(data[:1] > b"\0")))
    assert "\n" not in shown.as_text(value)
    json.dumps(shown.as_json(value), allow_nan=False)


@target(seeds=lambda: [b"<f4", b"|b1", b">M8[25us]", b"<m8", b"c16", b"m8[0Y]"], errors=(ProtocolError,))
def dtype(data: bytes) -> None:
    """The name of an array's type, and arrays of that type."""
    name = data[:30].decode("latin-1")
    size = read_dtype(name).itemsize
    for shape, kept in (((), size), ((2,), 2 * size), ((0, 3), 0), ((2, -1), 0), ((2**62, 4), 0)):
        form = {b"nd": True, b"type": name, b"kind": b"", b"shape": list(shape), b"data": bytes(kept)}
        try:
            value = decode_item(Encoded(msgpack.packb(form), (), True))
        except ProtocolError:
            continue
        shown.as_text(value)
        json.dumps(shown.as_json(value), allow_nan=False)


@target(seeds=values, errors=(ProtocolError,), is_bounded=True)
def walk(data: bytes) -> None:
    """The scan; where it finds a value, msgpack finds one of the same length."""
    scan(data, nesting_max=NESTING, elements_max=ELEMENTS)
    unpacker = msgpack.Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    unpacker.skip()


@target(seeds=values, errors=(ProtocolError,))
def request(data: bytes) -> None:
    """A control message; what is understood can be sent again."""
    decoded = control.decode(data)
    assert repr(control.decode(control.encode(decoded))) == repr(decoded)


@target(seeds=samples, errors=(ProtocolError,))
def sample(data: bytes) -> None:
    """A sample that `zpipe tap` is sent, as text and as JSON."""
    for form, write in (("text", _line), ("json", _json)):
        write(read_sample(data, form))


@target(seeds=lambda: [bytes(range(k, 256)) for k in range(0, 256, 40)], errors=(EncodeError,))
def sent(data: bytes) -> None:
    """Any plain value that is sent as an item is read as the same."""
    value = Draw(data).value(6)
    assert repr(decode_item(encode_item(value))) == repr(value)


@target(seeds=said_outside, errors=(ProtocolError,))
def outside_says(data: bytes) -> None:
    """What a program outside says, or an item that it pushes; what is understood can be said again."""
    parts = data.split(CUT)
    tag = outside.tag_of(parts)
    asked = outside.read_any(parts)
    assert asked.items or tag.get("tag", "") == asked.tag
    for entry in (*asked.done, *asked.failed, *asked.call, *asked.put):
        assert type(entry[0]) is str and len(entry[0]) <= outside.ID_MAX
        encode_message(entry, raw=True)
