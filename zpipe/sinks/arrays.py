"""A sink for npz files: the arrays of many items in each, as `np.load` reads them."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

from zpipe.sinks.files import Item, explained
from zpipe.sinks.parts import PART_BYTES, Parts
from zpipe.values.errors import EncodeError

MEMBERS_MAX = 2**16 - 2  # of a zip file without the extension for more
BYTES_MAX = 2**32 - 2**20  # as well
MEMBERS_MANY = 10_000  # of a part that is large enough

# APPNOTE.TXT of PKWARE, sections 4.3.7, 4.3.12 and 4.3.16; no compression, times are 1980-01-01.
_LOCAL, _CENTRAL, _END = struct.Struct("<4s5H3I2H"), struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s4H2IH")
_VERSION, _UTF8, _DAY = 20, 0x800, 0x21

Members = list[tuple[str, bytes]]  # of an item: name and npy file of each array
Batch = list[tuple[str, Members]]  # path and members of each item


class npz:
    """Write the arrays of items into npz files of a folder: `PATH` of an item that is an array, else `PATH/KEY`.

    In: arrays, numbers and text, or maps of them; dtype and shape are kept
    A relative `path` is in the run folder.  Any number of workers may share a folder.  A part that has 4 MiB or
    10,000 arrays is followed by another.
    Holds: the open part, up to 4 MiB.  Errors: StageError when the folder is another run's; EncodeError.
    """

    def __init__(self, path: str) -> None:
        self._parts = Parts(path, "npz", _Tail, _paths_of)

    def commit(self, items: Sequence[Item]) -> None:
        """Write the items that are not in a file yet; they are on disk when this returns."""
        self._parts.commit([(item.path, _members(item)) for item in items], items)

    def close(self) -> None:
        """Close the index."""
        self._parts.close()


class _Tail:
    """The items of an open part: a zip file without its end.  The comment of a member is the path of its item."""

    def __init__(self, path: Path | None) -> None:
        self._body = bytearray()
        self._directory = bytearray()
        self._count = 0
        if path is not None:
            with explained(path):
                self._open(path)

    @property
    def is_full(self) -> bool:
        """Tell whether the part is large enough."""
        return self._count >= MEMBERS_MANY or len(self._body) >= PART_BYTES

    def add(self, batch: Batch, which: Sequence[int]) -> int:
        """Take in items, one at least, until the part is full, and return how many."""
        for taken, k in enumerate(which):
            path, members = batch[k]
            large = self._count + len(members) > MEMBERS_MAX or len(self._body) + _size(members) > BYTES_MAX
            if taken and (self.is_full or large):
                return taken
            for name, data in members:
                self._put(name.encode(), data, path.encode())
        return len(which)

    def write(self, file: BinaryIO) -> None:
        """Write the whole file."""
        file.write(self._body)
        file.write(self._directory)
        ends = (0, 0, self._count, self._count, len(self._directory), len(self._body), 0)
        file.write(_END.pack(b"PK\x05\x06", *ends))

    def _put(self, name: bytes, data: bytes, comment: bytes) -> None:
        about = (_UTF8, 0, 0, _DAY, crc32(data), len(data), len(data), len(name))
        at = len(self._body)
        self._body += _LOCAL.pack(b"PK\x03\x04", _VERSION, *about, 0) + name
        self._body += data
        self._directory += _CENTRAL.pack(b"PK\x01\x02", _VERSION, _VERSION, *about, 0, len(comment), 0, 0, 0, at)
        self._directory += name + comment
        self._count += 1

    def _open(self, path: Path) -> None:
        whole = path.read_bytes()
        mark, *_, count, nbytes, at, _ = _END.unpack(whole[-_END.size :])
        assert mark == b"PK\x05\x06" and at + nbytes + _END.size == len(whole), f"{path} was not written here"
        self._body += memoryview(whole)[:at]
        self._directory += memoryview(whole)[at : at + nbytes]
        self._count = count


def _paths_of(path: Path) -> Iterator[str]:
    with explained(path), zipfile.ZipFile(path) as file:
        yield from dict.fromkeys(member.comment.decode() for member in file.infolist())


def _members(item: Item) -> Members:
    try:
        members = [(f"{name}.npy", _npy(value, place)) for name, value, place in _leaves(item.value, item.path, "item")]
        if len(members) > MEMBERS_MAX or _size(members) > BYTES_MAX:
            raise EncodeError(f"item has {len(members)} arrays of {_size(members)} bytes, which one file cannot hold")
    except EncodeError as error:
        raise EncodeError(f"cannot write {item.path}: {error}") from None
    return members


def _leaves(value: Any, name: str, place: str) -> Iterator[tuple[str, Any, str]]:
    if not isinstance(value, dict):
        yield name, value, place
        return
    if not value:
        raise EncodeError(f"{place} is an empty map, which leaves nothing to write: drop such items, or give it a key")
    for key, inner in value.items():
        if not isinstance(key, str) or "/" in key or not key:
            raise EncodeError(f"{place} has the key {key!r:.40}: names of arrays are text without '/'")
        yield from _leaves(inner, f"{name}/{key}", f"{place}[{key!r:.40}]")


def _npy(value: Any, place: str) -> bytes:
    import numpy as np

    if not isinstance(value, str | bool | int | float | complex) and not hasattr(value, "dtype"):
        raise EncodeError(f"{place} is a {type(value).__name__}, which is no array: map it to one first")
    array = np.asarray(value)
    descr = np.lib.format.dtype_to_descr(array.dtype)
    if array.dtype.hasobject or np.lib.format.descr_to_dtype(descr) != array.dtype:
        what = "a number beyond 64 bits" if isinstance(value, int) else f"an array of {array.dtype}"
        raise EncodeError(f"{place} is {what}, which a npz file cannot hold: map it to another dtype first")
    if isinstance(value, str) and array.item() != value:
        raise EncodeError(f"{place} is text with a NUL at its end, which a npz file cannot hold: strip it")
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()


def _size(members: Members) -> int:
    return sum(len(data) for _, data in members)
