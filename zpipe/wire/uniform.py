"""Items that are one array each: their msgpack is the same but for the data, so it is written and read without a map.

What is written here is byte for byte what the maps of `wire.arrays` make, and only what is exactly that is read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

FORMS_MAX = 256  # that are remembered
HEAD_MAX = 512  # bytes of msgpack before an array's data
_DATA_KEY = b"\xc4\x04data"

Buffer = bytes | bytearray | memoryview


class Form:
    """How arrays of one dtype and shape look: `head` stands before the data, `raw` is all of one with a buffer."""

    __slots__ = ("array", "dtype", "head", "nbytes", "raw", "shape")

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...], nbytes: int, raw: bytes) -> None:
        import numpy as np

        self.array = np.ndarray
        self.dtype = dtype
        self.shape = shape
        self.nbytes = nbytes
        self.raw = raw
        self.head = raw[: raw.rindex(_DATA_KEY)] + _DATA_KEY + _bin_header(nbytes)


_known: dict[bytes, Form] = {}  # by what stands before the data's key


def learn(form: Form) -> None:
    """Remember a form, for `read`."""
    if len(_known) >= FORMS_MAX:
        _known.clear()
    _known[form.head[: form.head.rindex(_DATA_KEY)]] = form


def read(body: Buffer, start: int, count: int, buffers: Sequence[Any]) -> list[Any] | None:
    """Return the `count` arrays of one known form in `body` from `start` on, None when anything else is there.

    All have their data within the body, or each its own buffer.
    """
    at = bytes(body[start : start + HEAD_MAX]).find(_DATA_KEY)
    known = _known.get(bytes(body[start : start + at])) if at > 0 else None
    if known is None:
        return None
    array, shape, dtype, head = known.array, known.shape, known.dtype, known.head
    if buffers:
        if len(buffers) != count or body[start:] != known.raw * count:
            return None
        return [array(shape, dtype, b) for b in buffers] if all(len(b) == known.nbytes for b in buffers) else None
    data, ahead = bytes(body), len(head)
    stride = ahead + known.nbytes
    if len(data) - start != count * stride:
        return None
    values = []
    for a in range(start, len(data), stride):
        if not data.startswith(head, a):
            return None
        values.append(array(shape, dtype, data[a + ahead : a + stride]))
    return values


def _bin_header(nbytes: int) -> bytes:
    if nbytes < 2**8:
        return bytes((0xC4, nbytes))
    return b"\xc5" + nbytes.to_bytes(2, "big") if nbytes < 2**16 else b"\xc6" + nbytes.to_bytes(4, "big")
