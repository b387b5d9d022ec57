"""numpy arrays and scalars as the maps of msgpack-numpy, byte for byte; no objects, no pickle, no sockets.

numpy is loaded when the first array comes by, so that a worker that sees none does not pay for it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from zpipe.values.errors import ProtocolError

if TYPE_CHECKING:
    import numpy as np

RAW_CODE = 0x4E  # the extension type that stands for a raw buffer
RAW_MIN = 64 * 1024  # bytes from which on an array travels as a raw buffer: below, a copy is cheaper than a frame
RAW_MAX = 2**30  # bytes of one raw buffer: the largest frame a reader takes
DIMS_MAX = 32

_TYPES = re.compile(
    r"[<>|]?(b1|[iu][1248]|f[248]|c8|c16|[Mm]8(\[([1-9][0-9]{0,8})?(generic|Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?)"
)
_ARRAY_KEYS = frozenset((b"nd", b"type", b"kind", b"shape", b"data"))
_SCALAR_KEYS = frozenset((b"nd", b"type", b"data"))


# Returns the bytes of an array, little-endian and in C order, where they may stay; None without room.
Share = Callable[["np.ndarray[Any, Any]"], memoryview | None]


class UnfitError(ValueError):
    """A numpy value that cannot travel; the message says what it is."""


def to_map(
    value: object, raw: Callable[[memoryview], object], *, raw_min: int = RAW_MIN, raw_max: int = RAW_MAX,
    share: Share | None = None,
) -> dict[bytes, object] | None:  # fmt: skip
    """Return the map of a numpy array or scalar, None for anything else.

    An array of at least `raw_min` bytes is handed to `raw`, whose answer stands in place of the data; it is
    copied only when it is not C-contiguous and little-endian, or where `share` has room for it.  Raises UnfitError for
    other dtypes.
    """
    if "numpy" not in sys.modules:
        return None
    import numpy as np

    if isinstance(value, np.ndarray):
        dtype = value.dtype
        if isinstance(value, np.ma.MaskedArray):
            raise UnfitError("a masked numpy array")
        if _TYPES.fullmatch(dtype.str) is None or dtype.names is not None:
            raise UnfitError(f"a numpy array of dtype {dtype}")
        if value.ndim > DIMS_MAX:
            raise UnfitError(f"a numpy array of {value.ndim} dimensions, more than {DIMS_MAX},")
        data: object
        if value.nbytes < raw_min:
            data = value.tobytes()
        elif value.nbytes > raw_max:
            raise UnfitError(f"a numpy array of {value.nbytes} bytes, more than {raw_max},")
        elif share is not None and (shared := share(value)) is not None:
            dtype = dtype.newbyteorder("<")
            if value.base is None:  # as where nothing is shared: a stage that writes to it again hears of it everywhere
                value.flags.writeable = False
            data = raw(shared)
        else:
            array = _still(value, np.ascontiguousarray(np.asarray(value), dtype=dtype.newbyteorder("<")))
            dtype = array.dtype
            data = raw(array.reshape(-1).view(np.uint8).data.toreadonly())
        return {b"nd": True, b"type": dtype.str, b"kind": b"", b"shape": value.shape, b"data": data}
    if isinstance(value, np.generic):
        if _TYPES.fullmatch(value.dtype.str) is None or value.dtype.names is not None:
            raise UnfitError(f"a numpy scalar of dtype {value.dtype}")
        return {b"nd": False, b"type": value.dtype.str, b"data": value.tobytes()}
    return None


def _still(value: np.ndarray[Any, Any], array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return `array`, made of `value`, with bytes that nobody changes while they wait to be sent again.

    An array that owns its bytes becomes read-only: who writes to it next hears of it at once.  What could
    still be changed through another array is copied.
    """
    root: Any = value
    while getattr(root, "base", None) is not None and hasattr(root.base, "flags"):
        root = root.base
    if array is not value and not _shares(array, value):
        return array
    if root is value and value.base is None:
        value.flags.writeable = False
        return array
    if not value.flags.writeable and (root is value or not root.flags.writeable):
        return array
    return array.copy()


def _shares(array: np.ndarray[Any, Any], value: np.ndarray[Any, Any]) -> bool:
    return bool(array.__array_interface__["data"][0] == value.__array_interface__["data"][0])


class Raw:
    """A raw buffer on its way from the extension type into the array around it."""

    __slots__ = ("view",)

    def __init__(self, view: memoryview) -> None:
        self.view = view


class ArrayReader:
    """Turn maps back into arrays while one body is decoded; `buffers` are its raw buffers.

    The arrays are read-only, unless `writable`: then each has a buffer that is writable, or a copy.
    """

    __slots__ = ("buffers", "pending", "writable")

    def __init__(self, buffers: Sequence[bytes | bytearray | memoryview], *, writable: bool = False) -> None:
        self.buffers = buffers
        self.pending = 0
        self.writable = writable

    def raw(self, data: bytes) -> Raw:
        """Return the raw buffer that the extension type's `data` names."""
        index = int.from_bytes(data, "big")
        if len(data) != 4 or index >= len(self.buffers):
            raise ProtocolError(f"raw buffer {index} is named but the message has {len(self.buffers)}")
        self.pending += 1
        view = memoryview(self.buffers[index])
        if not self.writable:
            return Raw(view.toreadonly())
        return Raw(memoryview(bytearray(view)) if view.readonly else view)

    def read(self, found: dict[Any, Any]) -> Any:
        """Return the array or scalar that a map stands for, or the map itself when it stands for none."""
        if b"nd" in found:
            form = found
        elif "nd" in found:  # writers whose msgpack has no bin keys
            form = {k.encode() if isinstance(k, str) else k: v for k, v in found.items()}
        else:
            return found
        keys = form.keys()
        if form[b"nd"] is True and keys | {b"kind"} == _ARRAY_KEYS:
            return self._array(form)
        if form[b"nd"] is False and keys == _SCALAR_KEYS:
            dtype = read_dtype(form[b"type"])
            return _view((), dtype, self._data(form[b"data"]))[()]
        return found

    def finish(self) -> None:
        """Check that every raw buffer went into an array."""
        if self.pending:
            raise ProtocolError("a raw buffer is named outside of an array's data")

    def _array(self, form: dict[bytes, Any]) -> np.ndarray[Any, Any]:
        if form.get(b"kind", b"") not in (b"", ""):
            raise ProtocolError(f"array of kind {form[b'kind']!r:.20}: only plain dtypes may travel")
        shape = form[b"shape"]
        if type(shape) is not list or len(shape) > DIMS_MAX:
            raise ProtocolError(f"array shape {shape!r:.60} is not a list of at most {DIMS_MAX} numbers")
        for length in shape:
            if type(length) is not int or length < 0:
                raise ProtocolError(f"array shape {shape!r:.60} holds {length!r:.20}, not a length")
        return _view(shape, read_dtype(form[b"type"]), self._data(form[b"data"]))

    def _data(self, data: object) -> bytes | bytearray | memoryview:
        if type(data) is bytes:
            return bytearray(data) if self.writable else data
        if type(data) is Raw:
            self.pending -= 1
            return data.view
        raise ProtocolError(f"array data is a {type(data).__name__}, neither bin nor a raw buffer")


def _view(shape: Sequence[int], dtype: np.dtype[Any], data: bytes | bytearray | memoryview) -> np.ndarray[Any, Any]:
    import numpy as np

    needed = dtype.itemsize
    for length in shape:
        needed *= length
    size = len(data) if type(data) is bytes else memoryview(data).nbytes
    if needed != size:
        raise ProtocolError(f"array of shape {list(shape)!s:.60} and dtype {dtype} needs {needed} bytes, not {size}")
    try:
        return np.ndarray(shape, dtype, data)
    except (ValueError, TypeError, OverflowError) as error:
        raise ProtocolError(f"array of shape {list(shape)!s:.60} and dtype {dtype}: {error}") from None


@lru_cache(maxsize=256)
def _dtype(text: str) -> np.dtype[Any]:
    import numpy as np

    return np.dtype(text)


def read_dtype(text: object) -> np.dtype[Any]:
    """Return the dtype that `text` names; raises ProtocolError when it is not one that may travel."""
    if type(text) is not str or len(text) > 24 or _TYPES.fullmatch(text) is None:
        raise ProtocolError(f"array type {text!r:.40} may not travel: only bool, int, float, complex and time")
    try:
        return _dtype(text)
    except (TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"array type {text!r:.40}: {error}") from None
