"""The shape of a msgpack value, walked over without building it."""

from __future__ import annotations

from zpipe.values.errors import ProtocolError


def scan(data: bytes | bytearray | memoryview, *, nesting_max: int, elements_max: int) -> None:
    """Walk over the first msgpack value; raises ProtocolError past a limit or the end of `data`.

    Keys count as values, a container counts as one.  Costs about 0.2 us per value and nothing per byte.
    """
    at, end, seen = 0, len(data), 0
    left = [1]  # values that each open container still waits for
    while left:
        if left[-1] == 0:
            left.pop()
            continue
        left[-1] -= 1
        seen += 1
        if seen > elements_max:
            raise ProtocolError(f"more than {elements_max} values in one message")
        if at >= end:
            raise ProtocolError("msgpack ends in the middle of a value")
        width, length, children = _SHAPES[data[at]]
        at += 1 + width
        if width:
            number = int.from_bytes(data[at - width : at], "big")
            if children:
                children *= number
            else:
                length += number
        elif children < 0:
            raise ProtocolError("byte 0xc1 is no msgpack")
        at += length
        if at > end:
            raise ProtocolError("msgpack ends in the middle of a value")
        if children:
            left.append(children)
            if len(left) > nesting_max + 1:
                raise ProtocolError(f"msgpack nests deeper than {nesting_max}")


_WIDE = (
    (0, 0, 0), (0, 0, -1), (0, 0, 0), (0, 0, 0),  # nil, never, false, true
    (1, 0, 0), (2, 0, 0), (4, 0, 0), (1, 1, 0), (2, 1, 0), (4, 1, 0),  # bin, ext
    (0, 4, 0), (0, 8, 0), (0, 1, 0), (0, 2, 0), (0, 4, 0), (0, 8, 0),  # floats, unsigned
    (0, 1, 0), (0, 2, 0), (0, 4, 0), (0, 8, 0),  # signed
    (0, 2, 0), (0, 3, 0), (0, 5, 0), (0, 9, 0), (0, 17, 0),  # fixext
    (1, 0, 0), (2, 0, 0), (4, 0, 0), (2, 0, 1), (4, 0, 1), (2, 0, 2), (4, 0, 2),  # str, array, map
)  # fmt: skip


def _shape(byte: int) -> tuple[int, int, int]:
    """Return (width of the length prefix, bytes that follow, children, per unit of a prefix)."""
    if 0x80 <= byte < 0xA0:
        return 0, 0, (byte & 15) * (2 if byte < 0x90 else 1)
    if 0xA0 <= byte < 0xC0:
        return 0, byte & 31, 0
    if byte < 0xC0 or byte >= 0xE0:
        return 0, 0, 0
    return _WIDE[byte - 0xC0]


_SHAPES = tuple(_shape(byte) for byte in range(256))
