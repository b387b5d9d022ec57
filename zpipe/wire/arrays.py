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


# Returns an array's bytes, little-endian and in C order, as uint8 (nbytes,), where they may stay; None without room.
Share = Callable[["np.ndarray[Any, Any]"], "np.ndarray[Any, Any] | None"]


class UnfitError(ValueError):
    """A numpy value that cannot travel; the message says what it is."""


def to_map(
    value: object, raw: Callable[[Any], object], *, raw_min: int = RAW_MIN, raw_max: int = RAW_MAX,
    share: Share | None = None,
) -> dict[bytes, object] | None:  # fmt: skip
    """Return the map of a numpy array or scalar, None for anything else.

    An array of at least `raw_min` bytes is handed to `raw`, as `lasting` has it, and what that returns stands in place
    of the data.  Raises UnfitError for other dtypes.
    """
    if "numpy" not in sys.modules:
        return None
    import numpy as np

    if isinstance(value, np.ndarray):
        dtype = value.dtype
        if isinstance(value, np.ma.MaskedArray):
            raise UnfitError("a masked numpy array")
        if not is_fit(dtype, 0):
            raise UnfitError(f"a numpy array of dtype {dtype}")
        if value.ndim > DIMS_MAX:
            raise UnfitError(f"a numpy array of {value.ndim} dimensions, more than {DIMS_MAX},")
        data: object
        if value.nbytes < raw_min:
            data = value.tobytes()
        elif value.nbytes > raw_max:
            raise UnfitError(f"a numpy array of {value.nbytes} bytes, more than {raw_max},")
        else:
            data, dtype = raw(lasting(value, share)), dtype.newbyteorder("<")
        return form_of(dtype, value.shape, data)
    if isinstance(value, np.generic):
        if not is_fit(value.dtype, 0):
            raise UnfitError(f"a numpy scalar of dtype {value.dtype}")
        return {b"nd": False, b"type": value.dtype.str, b"data": value.tobytes()}
    return None


def is_fit(dtype: np.dtype[Any], dims: int) -> bool:
    """Tell whether arrays of a dtype and so many dimensions may travel."""
    return _TYPES.fullmatch(dtype.str) is not None and dtype.names is None and dims <= DIMS_MAX


def form_of(dtype: np.dtype[Any], shape: tuple[int, ...], data: object) -> dict[bytes, object]:
    """Return the map that stands for an array."""
    return {b"nd": True, b"type": dtype.str, b"kind": b"", b"shape": shape, b"data": data}


def lasting(value: np.ndarray[Any, Any], share: Share | None) -> Any:
    """Return the bytes of an array, little-endian and in C order, with a len() of `nbytes`, to be sent from.

    Where `share` has room they are what it returns, otherwise a memoryview, and copied only when the array is not
    C-contiguous and little-endian, or could still be changed.  An array that owns its bytes becomes read-only.
    """
    if share is not None and (shared := share(value)) is not None:
        if value.base is None:  # as where nothing is shared: a stage that writes to it again hears of it everywhere
            value.flags.writeable = False
        return shared
    import numpy as np

    array = _still(value, np.ascontiguousarray(np.asarray(value), dtype=value.dtype.newbyteorder("<")))
    return array.reshape(-1).view(np.uint8).data.toreadonly()


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

    def __init__(self, view: Any) -> None:
        self.view = view


class ArrayReader:
    """Turn maps back into arrays while one body is decoded; `buffers` are its raw buffers, each with a len() of bytes.

    The arrays are read-only, unless `writable`: then each has a buffer that is writable, or a copy.  Where several
    items are `joined` each counts its own buffers from 0, and they stand in the order in which they are named.
    """

    __slots__ = ("_base", "_taken", "buffers", "joined", "pending", "writable")

    def __init__(self, buffers: Sequence[Any], *, writable: bool = False, joined: bool = False) -> None:
        self.buffers = buffers
        self.pending = 0
        self.writable = writable
        self.joined = joined
        self._base = self._taken = 0

    def raw(self, data: bytes) -> Raw:
        """Return the raw buffer that the extension type's `data` names."""
        index = int.from_bytes(data, "big")
        if self.joined:
            if index == 0:
                self._base = self._taken
            index += self._base
            if index != self._taken:
                raise ProtocolError(f"raw buffer {index - self._base} of an item is named out of turn")
            self._taken += 1
        if len(data) != 4 or index >= len(self.buffers):
            raise ProtocolError(f"raw buffer {index} is named but the message has {len(self.buffers)}")
        self.pending += 1
        buffer = self.buffers[index]
        if not self.writable:
            return Raw(buffer if hasattr(buffer, "flags") else memoryview(buffer).toreadonly())
        view = memoryview(buffer)
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
        if self.joined and self._taken != len(self.buffers):
            raise ProtocolError(f"{len(self.buffers)} raw buffers of which {self._taken} are named")

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

    def _data(self, data: object) -> Any:
        if type(data) is bytes:
            return bytearray(data) if self.writable else data
        if type(data) is Raw:
            self.pending -= 1
            return data.view
        raise ProtocolError(f"array data is a {type(data).__name__}, neither bin nor a raw buffer")


def _view(shape: Sequence[int], dtype: np.dtype[Any], data: Any) -> np.ndarray[Any, Any]:
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
