"""Items that are one array each: their msgpack is the same but for the data, so it is written and read without a map.

What is written here is byte for byte what the maps of `wire.arrays` make, and only what is exactly that is read here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

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
        if not all(len(b) == known.nbytes for b in buffers):
            return None
        return [array(shape, dtype, b if hasattr(b, "flags") else memoryview(b).toreadonly()) for b in buffers]
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


def read_rows(body: Buffer, start: int, count: int) -> Any:
    """Return what `read` does, of arrays without buffers, as one array (count, ...), in C order and read-only."""
    at = bytes(body[start : start + HEAD_MAX]).find(_DATA_KEY)
    known = _known.get(bytes(body[start : start + at])) if at > 0 else None
    if known is None or len(body) - start != count * (len(known.head) + known.nbytes):
        return None
    import numpy as np

    coded = np.frombuffer(body, np.uint8, offset=start).reshape(count, -1)
    ahead = len(known.head)
    if not np.array_equal(coded[:, :ahead], np.broadcast_to(np.frombuffer(known.head, np.uint8), (count, ahead))):
        return None
    rows = coded[:, ahead:].copy().reshape(-1).view(known.dtype).reshape(count, *known.shape)
    rows.flags.writeable = False
    return rows


class Rows(Sequence[Any]):
    """The encoded rows of an array (n, ...), to be cut and sent without a look at each.

    `coded` is uint8 (n, bytes of one), and stays as it is.
    """

    __slots__ = ("coded", "row")

    arrays = True

    def __init__(self, coded: np.ndarray[Any, Any], row: Callable[[bytes], Any]) -> None:
        self.coded = coded
        self.row = row  # makes an encoded item of one row

    @classmethod
    def of(cls, form: Form, array: np.ndarray[Any, Any], row: Callable[[bytes], Any]) -> Rows:
        """Encode the rows of an array whose rows have that form."""
        import numpy as np

        count, ahead = len(array), len(form.head)
        coded = np.empty((count, ahead + form.nbytes), np.uint8)
        coded[:, :ahead] = np.frombuffer(form.head, np.uint8)
        coded[:, ahead:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(count, -1)
        return cls(coded, row)

    def __len__(self) -> int:
        return len(self.coded)

    @overload
    def __getitem__(self, k: int) -> Any: ...
    @overload
    def __getitem__(self, k: slice) -> Rows: ...
    def __getitem__(self, k: int | slice) -> Any:
        return Rows(self.coded[k], self.row) if isinstance(k, slice) else self.row(self.coded[k].tobytes())

    def __iter__(self) -> Iterator[Any]:
        return (self[k] for k in range(len(self)))

    @property
    def nbytes(self) -> int:
        """Return the bytes of all."""
        return int(self.coded.nbytes)

    @property
    def body(self) -> memoryview:
        """Return the msgpack of all, one behind the other."""
        return self.coded.reshape(-1).data


def _bin_header(nbytes: int) -> bytes:
    if nbytes < 2**8:
        return bytes((0xC4, nbytes))
    return b"\xc5" + nbytes.to_bytes(2, "big") if nbytes < 2**16 else b"\xc6" + nbytes.to_bytes(4, "big")
