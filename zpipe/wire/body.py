"""Items and small maps as msgpack and back; knows nothing of frames, links or sockets.

What a reader accepts, checked before anything is built:
  a body of several items     JOINED_MAX bytes
  a body of one item          BODY_MAX bytes, and past JOINED_MAX at most ELEMENTS_MAX values in it
  nesting                     1024 containers, msgpack's own stack
  length prefixes             past UNCHECKED_MAX bytes of body, none that claims what does not follow
So a hostile body costs its own size and at most what JOINED_MAX empty maps do, about 0.3 s and 100 MiB.
Not guarded against: map keys chosen so that their hashes collide.
The state of a stage goes to a file of ours: its arrays may be of any size and number.
One thread encodes; any may decode.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from math import prod
from typing import Any

import msgpack  # type: ignore[import-untyped,unused-ignore]

from zpipe.values.errors import EncodeError, ProtocolError
from zpipe.values.paths import Run
from zpipe.wire.arrays import (
    RAW_CODE,
    RAW_MAX,
    RAW_MIN,
    ArrayReader,
    Share,
    UnfitError,
    form_of,
    is_fit,
    lasting,
    to_map,
)  # fmt: skip
from zpipe.wire.scan import scan
from zpipe.wire.uniform import FORMS_MAX, HEAD_MAX, Form, Rows, learn, read, read_rows

BODY_MAX = 64 * 2**20  # bytes
JOINED_MAX = 2**20  # bytes
ELEMENTS_MAX = 2**17  # values and keys
STATE_RAW_MIN = 4096  # bytes from which on an array of a state is a buffer: only what is not is limited
NESTING_MAX = 1023  # of an item; the list of the items in a body is one more
BUFFERS_MAX = 1024  # raw buffers of one item; further arrays travel inline
ALONE = 2**62  # the room of an item that takes a message for itself
UNCHECKED_MAX = 1024  # bytes up to which a lying length prefix costs less than looking for it
SHORT_MAX = 4096  # values of a list up to which a lie costs little: nested as deep as may be, 32 MiB

MAY_HOLD = "may hold None, bool, int, float, str, bytes, list, tuple, dict, aware datetime and numpy arrays"

Buffer = bytes | bytearray | memoryview


class Encoded:
    """One item as it travels: `head` is its msgpack, `buffers` the raw buffers that the head names.

    `arrays` tells that the head holds array forms, so that a reader must look for them; `room` is what it takes up of
    a message's bytes, in which what lies in shared memory counts for an eighth; `output` names the output that it is
    sent to, and is only set by a stage with named ones.
    """

    __slots__ = ("arrays", "buffers", "head", "nbytes", "output", "room")

    output: str

    def __init__(self, head: bytes, buffers: tuple[Any, ...] = (), arrays: bool = False) -> None:
        self.head = head
        self.buffers = buffers
        self.arrays = arrays
        if not buffers:
            self.nbytes = self.room = len(head)
            return
        self.nbytes = len(head) + sum(map(len, buffers))
        self.room = ALONE if memoryview in map(type, buffers) else max(self.nbytes // 8, 512 * len(buffers))

    def __repr__(self) -> str:
        return f"Encoded({self.nbytes} bytes, {len(self.buffers)} buffers)"


class _Packing:
    """The packer, reused for every item, and what its hook met in the item at hand."""

    def __init__(self) -> None:
        self.buffers: list[Any] = []
        self.arrays = False
        self.data_bytes = 0  # of arrays within the msgpack: no containers are in them
        self.share: Share | None = None
        self.raw_min = RAW_MIN
        self.array_type: type = type(self)  # numpy's, once the first array has come by
        self.pack: Callable[[object], bytes] = msgpack.Packer(default=self._other, datetime=True).pack

    def clear(self) -> None:
        self.buffers = []
        self.arrays = False
        self.data_bytes = 0

    def _other(self, value: object) -> object:
        form = to_map(value, self._raw, raw_min=self.raw_min, share=self.share)
        if form is None:
            raise TypeError(type(value))
        self.arrays = True
        if type(value).__name__ == "ndarray":
            self.array_type = type(value)
        data = form[b"data"]
        if isinstance(data, bytes):
            self.data_bytes += len(data)
        return form

    def _raw(self, data: Any) -> object:
        self.arrays = True
        if len(self.buffers) == BUFFERS_MAX:
            return bytes(data)
        self.buffers.append(data)
        return msgpack.ExtType(RAW_CODE, (len(self.buffers) - 1).to_bytes(4, "big"))


_packing = _Packing()
_pack = _packing.pack


class _StatePacking(_Packing):
    """Hands out every array but small ones; not kept, for its memory has grown to the size of the state."""

    def _other(self, value: object) -> object:
        form = to_map(value, self._raw, raw_min=STATE_RAW_MIN, raw_max=sys.maxsize)
        if form is None:
            raise TypeError(type(value))
        self.arrays = True
        return form

    def _raw(self, data: Any) -> object:
        self.buffers.append(data)
        return msgpack.ExtType(RAW_CODE, (len(self.buffers) - 1).to_bytes(4, "big"))


def share_arrays(share: Share | None, least: int = RAW_MIN) -> None:
    """Have `share` put arrays of at least `least` bytes where their bytes are to be sent from; None ends that."""
    _packing.share = share
    _packing.raw_min = RAW_MIN if share is None else least


def encode_item(value: object) -> Encoded:
    """Encode one item; large arrays are not copied and must not change any more.

    Raises EncodeError naming the type and the place of what cannot travel.
    """
    if type(value) is _packing.array_type and (encoded := _encode_array(value)) is not None:
        return encoded
    if _packing.arrays:  # left by a call that failed
        _packing.clear()
    try:
        head = _pack(value)
    except (TypeError, ValueError, OverflowError, BufferError) as error:
        raise _explain(value, error) from None
    if len(head) - _packing.data_bytes > UNCHECKED_MAX:
        _check_head(head)
    if not _packing.arrays:
        return Encoded(head)
    encoded = Encoded(head, tuple(_packing.buffers), True)
    _packing.clear()
    return encoded


def _encode_array(array: Any) -> Encoded | None:
    """Encode an item that is an array and no more, None where it is not as most are."""
    form = _form(array.dtype, array.shape)
    if form is None:
        return None
    if form.nbytes < _packing.raw_min:
        return Encoded(form.head + array.tobytes(), (), True)
    return Encoded(form.raw, (lasting(array, _packing.share),), True)


def encode_rows(array: Any) -> Sequence[Encoded]:
    """Encode the rows of an array (n, ...), n of at least 1, as `encode_item` does each.  Raises EncodeError."""
    form = _form(array.dtype, array.shape[1:]) if array.ndim > 1 else None
    if form is None or form.nbytes >= _packing.raw_min:
        return [encode_item(row) for row in array]
    return Rows.of(form, array, _encoded_row)


def _encoded_row(head: bytes) -> Encoded:
    return Encoded(head, (), True)


@lru_cache(maxsize=FORMS_MAX)
def _form(dtype: Any, shape: tuple[int, ...]) -> Form | None:
    """Return the form of arrays that travel as they are, None of others: they take the way of all other items."""
    nbytes = dtype.itemsize * prod(shape)
    if not is_fit(dtype, len(shape)) or dtype.str[0] == ">" or not 0 < nbytes <= RAW_MAX:
        return None
    found = Form(dtype, shape, nbytes, msgpack.packb(form_of(dtype, shape, msgpack.ExtType(RAW_CODE, bytes(4)))))
    return found if len(found.head) < HEAD_MAX else None


def decode_item(encoded: Encoded) -> Any:
    """Decode one encoded item; arrays are read-only views.  Raises ProtocolError."""
    if encoded.arrays and (found := read(encoded.head, 0, 1, encoded.buffers)) is not None:
        return found[0]
    return _decode(encoded.head, 1, encoded.arrays, encoded.buffers)


class _ForeignPacking(_Packing):
    """Hands out large arrays where a reader takes them as frames; nothing is put into shared memory."""

    def __init__(self, *, raw: bool) -> None:
        super().__init__()
        self.raw_min = RAW_MIN if raw else sys.maxsize


def encode_message(value: object, *, raw: bool) -> list[bytes | memoryview]:
    """Encode a message of foreign programs: msgpack, and behind it, if `raw`, a frame for each large array in it.

    Raises EncodeError.
    """
    packing = _ForeignPacking(raw=raw)
    try:
        head = packing.pack(value)
    except (TypeError, ValueError, OverflowError, BufferError) as error:
        raise _explain(value, error) from None
    finally:
        del packing.pack  # it leads back to its owner
    if len(head) > BODY_MAX:
        raise EncodeError(f"message of {len(head)} bytes, more than {BODY_MAX}: let the program take raw frames")
    return [head, *packing.buffers]


def decode_message(frames: Sequence[Buffer]) -> Any:
    """Decode what `encode_message` makes; arrays are read-only views.  Raises ProtocolError."""
    return _decode(frames[0], 1, True, frames[1:])


def encode_state(value: object) -> Encoded:
    """Encode the state of a stage; arrays are not copied and must not change any more.

    Raises EncodeError naming the type and the place of what cannot be saved.
    """
    packing = _StatePacking()
    try:
        head = packing.pack(value)
    except (TypeError, ValueError, OverflowError, BufferError) as error:
        raise _explain(value, error, "state", packing.pack) from None
    finally:
        del packing.pack  # it leads back to its owner: the arrays would wait for the collector
    if len(head) > BODY_MAX:
        raise EncodeError(
            f"state takes {len(head)} bytes of msgpack besides its arrays, more than {BODY_MAX}: use numpy arrays"
        )
    unpacker = _walker(head)
    try:
        unpacker.skip()
    except msgpack.StackError:
        raise EncodeError(f"state nests deeper than {NESTING_MAX}") from None
    return Encoded(head, tuple(packing.buffers), packing.arrays)


def decode_state(encoded: Encoded) -> Any:
    """Decode a state; its arrays may be written to, and use the buffers as they are where those may be.

    Raises ProtocolError.
    """
    reader = ArrayReader(encoded.buffers, writable=True)

    def extension(code: int, data: bytes) -> object:
        return reader.raw(data) if code == RAW_CODE else msgpack.ExtType(code, data)

    def read(pairs: list[tuple[Any, Any]]) -> Any:
        return reader.read(_frozen_map(pairs)) if encoded.arrays else _frozen_map(pairs)

    try:
        value = msgpack.unpackb(
            encoded.head, strict_map_key=False, timestamp=3, ext_hook=extension, object_pairs_hook=read
        )
    except (TypeError, ValueError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError(f"state is not msgpack: {_reason(error)}") from None
    reader.finish()
    return value


def decode_run(run: Run) -> list[Any]:
    """Return the decoded items of a run, None where a mark stands; the run stays as it is.

    Raises ProtocolError when the body is not a list of as many items as the run has.
    """
    if run.parts is not None:
        return [None if part is None else decode_item(part) for part in run.parts]
    marks = run.marks
    count = run.n if marks is None else marks.count(0)
    if count == 0:
        return [None] * run.n
    values = _decode_list(run.body, count, run.buffers) if run.arrays else _decode(run.body, count, False, ())
    if type(values) is not list or len(values) != count:
        raise ProtocolError(f"body of {run!r} is not a list of {count} items")
    if marks is None:
        return values
    rest = iter(values)
    return [None if mark else next(rest) for mark in marks]


def decode_rows(run: Run) -> Any:
    """Return the items of a run as one array (n, ...), read-only, where they are small ones of one form.

    Otherwise, and also of the first that come of a form, what `decode_run` does.  Raises ProtocolError as that does.
    """
    if run.parts is None and run.arrays and run.marks is None and not run.buffers:
        header = array_header(run.n)
        if run.body[: len(header)] == header and (rows := read_rows(run.body, len(header), run.n)) is not None:
            return rows
    return decode_run(run)


def _decode_list(body: Buffer, count: int, buffers: Sequence[Any]) -> Any:
    """Decode a list of items with arrays."""
    header = array_header(count)
    if body[: len(header)] == header and (found := read(body, len(header), count, buffers)) is not None:
        return found
    values = _decode(body, count, True, buffers)
    if type(values) is list and values and type(values[0]).__name__ == "ndarray":
        form = _form(values[0].dtype, values[0].shape)
        if form is not None:
            learn(form)
    return values


def parts_of(run: Run) -> Sequence[Encoded | None]:
    """Return the encoded items of a run, None where a mark stands; cuts a received body without decoding it.

    Raises ProtocolError when the body is not a list of as many items as the run has.
    """
    if run.parts is not None:
        return run.parts
    count = run.n if run.marks is None else run.marks.count(0)
    if count == 0:
        return [None] * run.n
    body, buffers = run.body, tuple(run.buffers)
    unpacker = _walker(body)
    heads: list[Encoded] = []
    taken = 0
    try:
        length = unpacker.read_array_header()
        start = unpacker.tell()
        while start < len(body) and len(heads) < count:
            unpacker.skip()
            end = unpacker.tell()
            head = bytes(body[start:end])
            used = len(buffers) if count == 1 else _count_buffers(head) if buffers else 0
            heads.append(Encoded(head, buffers[taken : taken + used], run.arrays))
            start, taken = end, taken + used
    except (ValueError, msgpack.UnpackException, msgpack.BufferFull) as error:
        raise ProtocolError(f"body of {run!r} is not msgpack: {_reason(error)}") from None
    if length != count or len(heads) != count or start != len(body) or taken != len(buffers):
        raise ProtocolError(f"body of {run!r} is not a list of {count} items with {len(buffers)} raw buffers")
    if run.marks is None:
        return list(heads)
    rest = iter(heads)
    return [None if mark else next(rest) for mark in run.marks]


def _count_buffers(head: bytes) -> int:
    """Return how many raw buffers an item names."""
    names: list[bytes] = []

    def extension(code: int, data: bytes) -> None:
        if code == RAW_CODE:
            names.append(data)

    msgpack.unpackb(
        head, strict_map_key=False, timestamp=3, ext_hook=extension, object_pairs_hook=lambda pairs: None
    )  # fmt: skip
    return len(names)


def array_header(count: int) -> bytes:
    """Return the msgpack header of a list of `count` values."""
    if count < 16:
        return bytes((0x90 | count,))
    return b"\xdc" + count.to_bytes(2, "big") if count < 0x10000 else b"\xdd" + count.to_bytes(4, "big")


def pack_plain(value: object) -> bytes:
    """Encode a value of plain types; raises TypeError, ValueError or OverflowError as msgpack does."""
    packed: bytes = msgpack.packb(value)
    return packed


def unpack_plain(data: Buffer, *, bytes_max: int, nesting_max: int, elements_max: int = ELEMENTS_MAX) -> Any:
    """Decode a value of plain types, no extension types; raises ProtocolError past any of the limits."""
    if len(data) > bytes_max:
        raise ProtocolError(f"message of {len(data)} bytes: at most {bytes_max} are allowed")
    scan(data, nesting_max=nesting_max, elements_max=elements_max)
    try:
        return msgpack.unpackb(data, strict_map_key=False, max_ext_len=0)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ProtocolError(f"message is not plain msgpack: {_reason(error)}") from None


def _decode(body: Buffer, count: int, arrays: bool, buffers: Sequence[Any]) -> Any:
    joined = count > 1
    if UNCHECKED_MAX < len(body) <= JOINED_MAX:
        try:
            return _unpack(body, arrays, buffers, joined, max_array_len=SHORT_MAX, max_map_len=SHORT_MAX)
        except (TypeError, ValueError, OverflowError, msgpack.UnpackException):
            pass  # looked at more closely below
    if len(body) > UNCHECKED_MAX:
        _check_body(body, count)
    try:
        return _unpack(body, arrays, buffers, joined)
    except TypeError:
        return _decode_frozen(body, arrays, buffers, joined)
    except (ValueError, OverflowError, msgpack.UnpackException) as error:
        raise ProtocolError(f"body is not msgpack of an item: {_reason(error)}") from None


def _unpack(body: Buffer, arrays: bool, buffers: Sequence[Any], joined: bool, **limits: Any) -> Any:
    if arrays:
        return _unpack_arrays(body, buffers, joined, **limits)
    return msgpack.unpackb(body, strict_map_key=False, timestamp=3, ext_hook=_extension, **limits)


def _unpack_arrays(
    body: Buffer, buffers: Sequence[Any], joined: bool, *, frozen: bool = False, **limits: Any
) -> Any:  # fmt: skip
    reader = ArrayReader(buffers, joined=joined)

    def extension(code: int, data: bytes) -> object:
        return reader.raw(data) if code == RAW_CODE else msgpack.ExtType(code, data)

    hooks: dict[str, Any] = {"object_hook": reader.read}
    if frozen:
        hooks = {"object_pairs_hook": lambda pairs: reader.read(_frozen_map(pairs))}
    value = msgpack.unpackb(body, strict_map_key=False, timestamp=3, ext_hook=extension, **hooks, **limits)
    reader.finish()
    return value


def _decode_frozen(body: Buffer, arrays: bool, buffers: Sequence[Any], joined: bool) -> Any:
    """Decode a body whose maps have lists as keys: they are tuples on this side."""
    try:
        if arrays:
            return _unpack_arrays(body, buffers, joined, frozen=True)
        return msgpack.unpackb(
            body, strict_map_key=False, timestamp=3, ext_hook=_extension, object_pairs_hook=_frozen_map
        )
    except (TypeError, ValueError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError(f"body is not msgpack of an item: {_reason(error)}") from None


def _frozen_map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    return {_frozen(key): value for key, value in pairs}


def _frozen(key: Any) -> Any:
    return tuple(map(_frozen, key)) if type(key) is list else key


def _extension(code: int, data: bytes) -> object:
    if code == RAW_CODE:
        raise ProtocolError("a raw buffer is named in a message without array forms")
    return msgpack.ExtType(code, data)


def _check_body(body: Buffer, count: int) -> None:
    size = len(body)
    if size > BODY_MAX:
        raise ProtocolError(f"body of {size} bytes: at most {BODY_MAX} are allowed")
    if size > JOINED_MAX:
        if count > 1:
            raise ProtocolError(f"body of {count} items in {size} bytes: at most {JOINED_MAX} are allowed")
        scan(body, nesting_max=NESTING_MAX + 1, elements_max=ELEMENTS_MAX + 1)
        return
    # Skipping builds nothing: a list that claims more values than follow is refused before it is allocated.
    unpacker = _walker(body)
    try:
        unpacker.skip()
    except (ValueError, msgpack.UnpackException) as error:
        raise ProtocolError(f"body is not msgpack: {_reason(error)}") from None


def _walker(data: Buffer) -> Any:
    """Return what walks over msgpack; it takes as much memory as the data, where it would take a MiB untold."""
    size = max(1, len(data))
    unpacker = msgpack.Unpacker(max_buffer_size=size, read_size=size)
    unpacker.feed(data)
    return unpacker


def _check_head(head: bytes) -> None:
    """Hold what readers hold, so that nothing is sent that they refuse."""
    if len(head) >= BODY_MAX:
        raise EncodeError(f"item takes {len(head)} bytes of msgpack, more than {BODY_MAX}: use numpy arrays")
    if head[0] in b"\xc4\xc5\xc6\xd9\xda\xdb":  # one bin or str
        return
    try:
        if len(head) >= JOINED_MAX:
            scan(head, nesting_max=NESTING_MAX, elements_max=ELEMENTS_MAX)
        else:
            unpacker = msgpack.Unpacker()
            unpacker.feed(b"\x91")
            unpacker.feed(head)
            unpacker.skip()
    except ProtocolError as error:
        raise EncodeError(f"item of {len(head)} bytes cannot travel, {error}: use numpy arrays") from None
    except msgpack.StackError:
        raise EncodeError(f"item nests deeper than {NESTING_MAX}") from None


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _explain(
    value: object, error: Exception, what: str = "item", pack: Callable[[object], bytes] = _pack
) -> EncodeError:
    """Find what made `error` in an item, or a state, and where it sits."""
    todo: list[tuple[object, str, int]] = [(value, what, 0)]
    while todo:
        found, place, depth = todo.pop()
        if depth > NESTING_MAX:
            return EncodeError(f"{what} nests deeper than {NESTING_MAX} at {place[:40]}...")
        if isinstance(found, dict):
            for key in found:
                if fault := _fault(key, pack):
                    return EncodeError(f"{place} has a key that is {fault}: keys may be str, int or bytes")
            todo += [(v, f"{place}[{k!r:.40}]", depth + 1) for k, v in reversed(found.items())]
        elif isinstance(found, (list, tuple)):
            indexed = reversed(list(enumerate(found)))
            todo += [(v, f"{place}[{i}]", depth + 1) for i, v in indexed]
        elif fault := _fault(found, pack):
            return EncodeError(f"{place} is {fault}: {'an' if what == 'item' else 'a'} {what} {MAY_HOLD}")
    return EncodeError(f"{what} cannot travel: {_reason(error)}")


def _fault(value: object, pack: Callable[[object], bytes]) -> str | None:
    try:
        pack(value)
        return None
    except UnfitError as error:
        return str(error)
    except (TypeError, ValueError, OverflowError, BufferError):
        pass
    if isinstance(value, int):
        return "an int beyond 64 bits"
    if isinstance(value, str):
        return "a str that UTF-8 cannot hold"
    if isinstance(value, datetime):
        return "a datetime without a time zone"
    kind = type(value)
    return f"a {kind.__qualname__}" if kind.__module__ == "builtins" else f"a {kind.__module__}.{kind.__qualname__}"
