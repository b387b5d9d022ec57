"""Messages of a link and their frames: a binary header, a body, raw buffers; without sockets or state.

All integers are big-endian.  A header may be longer than the one known here; the rest of it is skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from zpipe.values.errors import ProtocolError
from zpipe.values.paths import Run
from zpipe.wire.body import (
    BODY_MAX,
    BUFFERS_MAX,
    JOINED_MAX,
    Buffer,
    array_header,
    pack_plain,
    unpack_plain,
)  # fmt: skip
from zpipe.wire.uniform import Rows

MAGIC = b"ZPI1"
DATA, OPEN, SYNC, CLOSE, ACK = 1, 2, 3, 4, 5
MARKS, ARRAYS, SHARED = 1, 2, 4  # flags of DATA
ITEMS_MAX = 2**16  # items of one run
RANGES_MAX = 4096  # ranges, and likewise wants, of one ACK
JOINED_BUFFERS_MAX = 2 * BUFFERS_MAX  # raw buffers of one run
ENDPOINTS_MAX = 64  # of one OPEN
SMALL_MAX = 2**18  # bytes of the body of a message that is not DATA

#                      magic type flags hlen src dst gen edge nbuf
_COMMON = struct.Struct(">4sBBHQQIHH")
#                           seq n blen lane depth attempt position epoch crc digest
_DATA = struct.Struct(">4sBBHQQIHHQIIIBBxxQIIQ")
_SYNC = struct.Struct(">4sBBHQQIHHQB7x")
#                          limit limit_bytes base got consumed echo state quiet crc
_ACK = struct.Struct(">4sBBHQQIHHQQQQQQBBxxI")
_LENGTHS = {DATA: _DATA.size, OPEN: _COMMON.size, SYNC: _SYNC.size, CLOSE: _COMMON.size, ACK: _ACK.size}
_CRC_AT, _ACK_CRC_AT, _OPEN_CRC_AT = 68, 84, 32
_CRC = struct.Struct(">I")
_U32, _U64 = 2**32 - 1, 2**64 - 1


@dataclass(slots=True)
class Data:
    """A run of items on its way down; `seq` is the number of its first item on the link, from 1.

    `shared`: what came as its raw buffer are references to shared memory, one for each.
    """

    src: int
    dst: int
    gen: int
    edge: int
    seq: int
    run: Run
    shared: bool = False


@dataclass(slots=True)
class Ack:
    """What the lower end has of a link; all numbers are totals, so that a lost or repeated one does no harm.

    `ranges` are settled seqs above `base`, both ends included; `wants` are lanes of sources; `state` is 0
    when running, 1 when draining; `full` when this end, or one below it, holds more bytes than it should; `shares`
    when this end reads memory that the upper end shares.
    """

    src: int
    dst: int
    gen: int
    edge: int
    limit: int
    limit_bytes: int
    base: int
    got: int
    consumed: int
    echo: int
    state: int
    quiet: int
    ranges: list[tuple[int, int]]
    wants: list[int]
    full: bool = False
    shares: bool = False


@dataclass(slots=True)
class Sync:
    """What the upper end has sent: `hi` is the highest seq; `blocked` when it cannot go on without acks."""

    src: int
    dst: int
    gen: int
    edge: int
    hi: int
    blocked: bool


@dataclass(slots=True)
class Open:
    """The upper end opens a link; `info` says who it is and where acks go.

    `shares`: this end has found that it reads memory that the upper end shares; it does not travel.
    """

    src: int
    dst: int
    gen: int
    edge: int
    info: dict[str, Any]
    shares: bool = False


@dataclass(slots=True)
class Close:
    """The upper end closes a link, and why."""

    src: int
    dst: int
    gen: int
    edge: int
    why: str


Message = Data | Ack | Sync | Open | Close
Refs = Callable[[Sequence[Any]], bytes | None]


def encode(message: Message, *, crc: bool, refs: Refs | None = None) -> list[bytes | memoryview]:
    """Return the frames of a message: header and body in one, then raw buffers; `crc` guards that of DATA, ACK, OPEN.

    The run of a Data may hold encoded parts, or a body as it was received, which goes out as it stands.  `refs` gives
    the references to shared memory that may stand for all its raw buffers, in one.
    """
    if type(message) is Data:
        return _encode_data(message, crc, refs)
    ends = (message.src, message.dst, message.gen, message.edge, 0)
    if type(message) is Ack:
        fields = (
            MAGIC, ACK, 0, _ACK.size, *ends, message.limit, message.limit_bytes, message.base, message.got,
            message.consumed, message.echo, message.state, message.quiet,
        )  # fmt: skip
        more = (message.full, True) if message.shares else (True,) if message.full else ()
        rest = pack_plain((message.ranges[:RANGES_MAX], message.wants[:RANGES_MAX], *more))
        header = _ACK.pack(*fields, 0)
        return [(_ACK.pack(*fields, crc32(rest, crc32(header))) if crc else header) + rest]
    if type(message) is Sync:
        return [_SYNC.pack(MAGIC, SYNC, 0, _SYNC.size, *ends, message.hi, message.blocked)]
    if type(message) is Open:
        return [_encode_open(ends, pack_plain(message.info), crc)]
    assert type(message) is Close
    return [_COMMON.pack(MAGIC, CLOSE, 0, _COMMON.size, *ends) + pack_plain({"why": message.why[:4096]})]


def decode(frames: Sequence[Buffer]) -> Message:
    """Return the message in `frames`; the run of a Data keeps its body undecoded and views into the frames.

    Raises ProtocolError and nothing else, whatever the bytes are.
    """
    if not frames:
        raise ProtocolError("message of no frames")
    frame = frames[0]
    size = len(frame)
    if size < 32:
        raise ProtocolError(f"frame of {size} bytes: a header takes 32")
    magic, kind, flags, length, src, dst, gen, edge, nbuf = _COMMON.unpack_from(frame)
    if magic != MAGIC:
        raise ProtocolError(f"magic is {magic!r}, not {MAGIC!r}")
    known = _LENGTHS.get(kind)
    if known is None:
        raise ProtocolError(f"type {kind} is not known")
    if not known <= length <= size:
        raise ProtocolError(f"header length {length} of type {kind}: at least {known}, at most the frame's {size}")
    if nbuf != len(frames) - 1:
        raise ProtocolError(f"{len(frames) - 1} raw buffers where the header says {nbuf}")
    if kind == DATA:
        return Data(src, dst, gen, edge, *_decode_data(frames, length), shared=bool(flags & SHARED))
    if flags or nbuf:
        raise ProtocolError(f"type {kind} with flags {flags} and {nbuf} raw buffers: it has neither")
    rest = memoryview(frame)[length:]
    if kind == SYNC:
        if rest:
            raise ProtocolError(f"{len(rest)} bytes behind the header of SYNC")
        *_, hi, blocked = _SYNC.unpack_from(frame)
        return Sync(src, dst, gen, edge, hi, _flag("blocked", blocked) == 1)
    if kind == ACK:
        limit, limit_bytes, base, got, consumed, echo, state, quiet, crc = _ACK.unpack_from(frame)[9:]
        _check_crc(frame, crc, _ACK_CRC_AT)
        body = unpack_plain(rest, bytes_max=SMALL_MAX, nesting_max=8)
        ranges, wants = _settled(body, base)
        _flag("state", state)
        _flag("quiet", quiet)
        return Ack(
            src, dst, gen, edge, limit, limit_bytes, base, got, consumed, echo, state, quiet, ranges, wants,
            full=body[2:3] == [True], shares=body[3:4] == [True],
        )  # fmt: skip
    if kind == OPEN and length >= _OPEN_CRC_AT + _CRC.size:
        _check_crc(frame, _CRC.unpack_from(frame, _OPEN_CRC_AT)[0], _OPEN_CRC_AT)
    body = unpack_plain(rest, bytes_max=SMALL_MAX, nesting_max=8)
    if not isinstance(body, dict) or not all(isinstance(key, str) for key in body):
        raise ProtocolError("body of OPEN or CLOSE is not a map with text keys")
    if kind == OPEN:
        _check_endpoints(body.get("acks", []))
        return Open(src, dst, gen, edge, body)
    why = body.get("why", "")
    if not isinstance(why, str):
        raise ProtocolError(f"CLOSE gives a {type(why).__name__} as its reason, not a text")
    return Close(src, dst, gen, edge, why)


def _encode_open(ends: tuple[int, ...], info: bytes, crc: bool) -> bytes:
    """Return an OPEN; its header is longer where it has a crc, which a reader may skip."""
    if not crc:
        return _COMMON.pack(MAGIC, OPEN, 0, _COMMON.size, *ends) + info
    header = _COMMON.pack(MAGIC, OPEN, 0, _COMMON.size + _CRC.size, *ends)
    return header + _CRC.pack(crc32(info, crc32(_CRC.pack(0), crc32(header)))) + info


def _encode_data(message: Data, crc: bool, refs: Refs | None) -> list[bytes | memoryview]:
    run = message.run
    marks, depth, parts = run.marks, len(run.elements), run.parts
    flags = 0 if marks is None else MARKS
    buffers: Sequence[Any] = ()
    body: bytes | memoryview
    if parts is None:
        middle, body, buffers = b"", run.body or b"", run.buffers
        if run.arrays:
            flags |= ARRAYS
    elif len(parts) == 1 and parts[0] is not None:
        part = parts[0]
        middle, body, buffers = b"\x91", part.head, part.buffers
        if part.arrays:
            flags |= ARRAYS
    elif type(parts) is Rows:
        middle, body = array_header(len(parts)), parts.body
        flags |= ARRAYS
    else:
        present = [part for part in parts if part is not None]
        heads = [part.head for part in present]
        if True in [part.arrays for part in present]:
            flags |= ARRAYS
            buffers = [buffer for part in present for buffer in part.buffers]
        middle = array_header(len(heads)) if heads else b""
        # Small heads are joined first: a second copy of a few KB is cheaper than adding up their lengths.
        body = b"".join(heads)
        assert len(middle) + len(body) <= JOINED_MAX or len(heads) == 1, "runs are cut before they pass JOINED_MAX"
    if buffers and refs is not None and (found := refs(buffers)) is not None:
        flags, buffers = flags | SHARED, (found,)
    fields = (
        MAGIC, DATA, flags, _DATA.size, message.src, message.dst, message.gen, message.edge, len(buffers),
        message.seq, run.n, len(middle) + len(body), run.lane, depth, min(run.attempt, 255),
        run.position, run.epoch,
    )  # fmt: skip
    header = _DATA.pack(*fields, 0, run.digest)
    if depth or marks is not None:
        middle = struct.pack(f">{depth}I", *run.elements) + (marks or b"") + middle
    if crc:
        header = _DATA.pack(*fields, crc32(body, crc32(middle, crc32(header))), run.digest)
    return [b"".join((header, middle, body)), *buffers]


def _decode_data(frames: Sequence[Buffer], length: int) -> tuple[int, Run]:
    """Return seq and run of a DATA whose common header is right."""
    frame = frames[0]
    (
        _, _, flags, _, _, _, _, _, nbuf, seq, n, blen, lane, depth, attempt, position, epoch, crc,
        digest,
    ) = _DATA.unpack_from(frame)  # fmt: skip
    view = memoryview(frame)
    _check_crc(frame, crc, _CRC_AT)
    if flags > 7:
        raise ProtocolError(f"flags {flags:#04x} of DATA: only 0x07 are known")
    if not 1 <= n <= ITEMS_MAX:
        raise ProtocolError(f"run of {n} items: from 1 to {ITEMS_MAX} are allowed")
    end = length + 4 * depth
    start = end + n if flags & MARKS else end
    if start + blen != len(frame):
        raise ProtocolError(f"frame of {len(frame)} bytes where its header adds up to {start + blen}")
    if blen > BODY_MAX:
        raise ProtocolError(f"body of {blen} bytes: at most {BODY_MAX} are allowed")
    elements = struct.unpack_from(f">{depth}I", frame, length) if depth else ()
    marks = None
    count = n
    if flags & MARKS:
        marks = bytes(view[end:start])
        if marks.strip(b"\0\1\2\3\4"):
            raise ProtocolError(f"mark {max(marks)}: marks go from 0 to 4")
        count = marks.count(0)
    if (count == 0) != (blen == 0):
        raise ProtocolError(f"body of {blen} bytes for {count} items")
    if (elements[-1] + n - 1 > _U32) if elements else (position + n - 1 > _U64):
        raise ProtocolError(f"run of {n} items leaves the range of its paths' numbers")
    if seq == 0 or seq + n - 1 > _U64:
        raise ProtocolError(f"seq {seq} of {n} items: seqs go from 1 to {_U64}")
    if flags & SHARED and nbuf != 1:
        raise ProtocolError(f"references to shared memory are flagged, and {nbuf} raw buffers: they stand in one")
    if nbuf and (not flags & ARRAYS or nbuf > JOINED_BUFFERS_MAX or count == 0):
        raise ProtocolError(f"{nbuf} raw buffers: only items with arrays may have them, at most {JOINED_BUFFERS_MAX}")
    run = Run(
        lane,
        position,
        elements,
        n,
        None,
        epoch=epoch,
        digest=digest,
        attempt=attempt,
        marks=marks,
    )
    run.body = view[start:]
    if flags & ARRAYS:
        run.arrays = True
        run.buffers = tuple(frames[1:])
    return seq, run


def _check_crc(frame: Buffer, crc: int, at: int) -> None:
    """Check a frame whose header gives its crc at that offset, where it gives one."""
    if not crc:
        return
    view = memoryview(frame)
    found = crc32(view[at + 4 :], crc32(b"\0\0\0\0", crc32(view[:at])))
    if found != crc:
        raise ProtocolError(f"crc is {found:#010x} where the header says {crc:#010x}")


def _flag(name: str, number: int) -> int:
    if number > 1:
        raise ProtocolError(f"{name} is {number}, neither 0 nor 1")
    return number


def _check_endpoints(acks: Any) -> None:
    if type(acks) is not list or len(acks) > ENDPOINTS_MAX or not all(type(endpoint) is str for endpoint in acks):
        raise ProtocolError(f"acks of OPEN are {acks!r:.40}, not a list of at most {ENDPOINTS_MAX} endpoints")


def _settled(body: Any, base: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Check the body of an ACK and return its ranges and wants."""
    if type(body) is not list or len(body) < 2 or type(body[0]) is not list or type(body[1]) is not list:
        raise ProtocolError("body of ACK is not [ranges, wants]")
    ranges, wants = body[0], body[1]
    if len(ranges) > RANGES_MAX or len(wants) > RANGES_MAX:
        raise ProtocolError(f"ACK with {len(ranges)} ranges and {len(wants)} wants: at most {RANGES_MAX} of each")
    pairs = []
    for pair in ranges:
        if type(pair) is not list or len(pair) != 2 or type(pair[0]) is not int or type(pair[1]) is not int:
            raise ProtocolError(f"range {pair!r:.40} of ACK is not a pair of numbers")
        if not base <= pair[0] <= pair[1]:
            raise ProtocolError(f"range {pair!r:.40} of ACK is not above its base {base}")
        pairs.append((pair[0], pair[1]))
    for want in wants:
        if type(want) is not int or not 0 <= want <= _U32:
            raise ProtocolError(f"want {want!r:.20} of ACK is not a lane")
    return pairs, wants
