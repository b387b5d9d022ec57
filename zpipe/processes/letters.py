"""Dead letters: items that a run has given up, each a file in the run folder with what is known of its failure.

A letter is on disk before its item is settled.  It is named by the path of its item, so that an item which comes
again is known, and what comes of it is one letter.

    dead/STAGE/PATH.letter      magic (6 bytes), version (2), crc32 of the rest (4): big-endian
                                msgpack of [what is known as a map, [frames of the item]]
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from zlib import crc32

from zpipe.values.durable import sync_folder
from zpipe.values.errors import ProtocolError, SaveError
from zpipe.values.paths import Run
from zpipe.wire import frames
from zpipe.wire.body import decode_item, pack_plain, parts_of, unpack_plain
from zpipe.wire.frames import Data

MAGIC = b"zpdead"
VERSION = 1
SUFFIX = ".letter"
NAME_MAX = 240  # bytes that the name of a file may have, of the 255 that systems allow
MANY, LOOK_S = 1000, 1.0  # with so many letters a folder is read only this often while it changes
TICK_NS = 20_000_000  # a folder that was changed this short ago may change again within the same tick of its clock

_BEGINNING = struct.Struct(">6sHI")
_NESTING_MAX = 4
_FACTS = {"stage": str, "path": str, "error": str, "detail": str, "worker": str, "tries": int, "deaths": int,
          "time": float}  # fmt: skip


@dataclass(frozen=True)
class Letter:
    """One item given up: `error` in one line, `detail` its traceback or its worker's last lines.

    `tries` are the calls that failed with an error, `deaths` those that a worker did not survive; `time` is in unix
    seconds.  `run` holds the item.
    """

    stage: str
    path: str
    error: str
    detail: str
    worker: str
    tries: int
    deaths: int
    run: Run
    time: float = field(default_factory=time.time)

    @property
    def value(self) -> Any:
        """Return the item.  Raises ProtocolError when it is none."""
        (part,) = parts_of(self.run)
        assert part is not None
        return decode_item(part)

    def facts(self) -> dict[str, Any]:
        """Return all but the item as plain data."""
        return {name: getattr(self, name) for name in _FACTS}


class Letters:
    """The dead letters of one run; any number of processes may write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: dict[str, tuple[int, frozenset[str]]] = {}  # by stage: when its folder was changed, paths

    def keep(self, letter: Letter) -> None:
        """Write a letter, or write it anew; it is on disk when this returns.  Raises SaveError."""
        folder = self._of(letter.stage)
        path = folder / _file_name(letter.path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            if not folder.exists():
                self.folder.mkdir(exist_ok=True)  # not the run folder: where that is not, nobody would look
                folder.mkdir(exist_ok=True)
                sync_folder(folder.parent)
                sync_folder(folder.parent.parent)
            with open(temporary, "wb") as file:
                file.write(encode(letter))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(folder)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise SaveError(f"cannot write {path}: {error.strerror}: free some space and run again") from error

    def paths(self, stage: str) -> frozenset[str]:
        """Return the paths of a stage's dead letters as they are now; quick while nothing changes."""
        folder = self._of(stage)
        try:
            changed = os.stat(folder).st_mtime_ns
        except FileNotFoundError:
            return frozenset()
        seen = self._seen.get(stage)
        if seen is not None and seen[0] == changed:
            return seen[1]
        found = frozenset(_path(name) for name in os.listdir(folder) if _is_letter(name))
        if time.time_ns() - changed > TICK_NS:
            self._seen[stage] = (changed, found)
        return found

    def known(self, stage: str) -> Container[str]:
        """Return what holds the paths of a stage's dead letters, false when there are none."""
        folder, (changed, seen) = self._of(stage), self._seen.get(stage, (0, frozenset()))
        if len(seen) < MANY or time.time_ns() - changed > LOOK_S * 1e9:
            return self.paths(stage)
        return seen if folder.stat().st_mtime_ns == changed else _OnDisk(folder)

    def stages(self) -> list[str]:
        """Return the stages that have dead letters."""
        names = sorted(os.listdir(self.folder)) if self.folder.exists() else []
        return [stage for name in names if self.paths(stage := unquote(name))]

    def count(self, stage: str) -> int:
        """Return how many dead letters a stage has."""
        return len(self.paths(stage))

    def read(self, stage: str | None = None, paths: Iterable[str] | None = None) -> Iterator[Letter]:
        """Yield the letters of a stage, or of all, or those of `paths`, in the order of paths.  Raises SaveError."""
        for name in [stage] if stage is not None else self.stages():
            folder = self._of(name)
            for path in sorted(self.paths(name) if paths is None else paths, key=_in_order):
                file = folder / _file_name(path)
                try:
                    yield decode(file.read_bytes())
                except FileNotFoundError:
                    continue  # delivered meanwhile
                except (OSError, ProtocolError) as error:
                    raise SaveError(f"{file} cannot be read ({error}): move it away") from error

    def remove(self, stage: str, path: str) -> None:
        """Forget a letter, if it is there."""
        (self._of(stage) / _file_name(path)).unlink(missing_ok=True)

    def _of(self, stage: str) -> Path:
        return self.folder / quote(stage, safe="=,")


class _OnDisk:
    """The paths of letters in a folder that grows faster than it can be read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __contains__(self, path: object) -> bool:
        return (self._folder / _file_name(str(path))).exists()


def encode(letter: Letter) -> bytes:
    """Return a letter as its file holds it."""
    ends = frames.encode(Data(0, 0, 1, 0, 1, letter.run), crc=False)
    rest = pack_plain([letter.facts(), [bytes(frame) for frame in ends]])
    return _BEGINNING.pack(MAGIC, VERSION, crc32(rest)) + rest


def decode(data: bytes) -> Letter:
    """Read what `encode` wrote.  Raises ProtocolError."""
    if len(data) < _BEGINNING.size:
        raise ProtocolError("it is cut off")
    magic, version, crc = _BEGINNING.unpack_from(data)
    rest = data[_BEGINNING.size :]
    if magic != MAGIC:
        raise ProtocolError("it is no dead letter")
    if version != VERSION:
        raise ProtocolError(f"it is of version {version}, not {VERSION}")
    if crc32(rest) != crc:
        raise ProtocolError("it was altered, or cut off")
    contents = unpack_plain(rest, bytes_max=len(rest), nesting_max=_NESTING_MAX)
    if not isinstance(contents, list) or len(contents) != 2 or not all(map(isinstance, contents, (dict, list))):
        raise ProtocolError("it is not what was written")
    facts, ends = contents
    if facts.keys() != _FACTS.keys() or not all(type(facts[name]) is kind for name, kind in _FACTS.items()):
        raise ProtocolError("it does not tell what a letter tells")
    message = frames.decode(ends) if ends and all(isinstance(frame, bytes) for frame in ends) else None
    if not isinstance(message, Data) or message.run.n != 1 or message.run.marks is not None:
        raise ProtocolError("it holds no item")
    return Letter(**facts, run=message.run)


def _file_name(path: str) -> str:
    name = quote(path, safe=":#,=[]>") + SUFFIX
    if len(name) <= NAME_MAX:
        return name
    raise SaveError(f"the path {path} is too long for the name of a file: give the stages above shorter names")


def _is_letter(name: str) -> bool:
    return name.endswith(SUFFIX) and not name.startswith(".")


def _path(name: str) -> str:
    return unquote(name[: -len(SUFFIX)])


def _in_order(path: str) -> tuple[Any, ...]:
    """Sort numbers in a path as numbers."""
    name, _, numbers = path.partition(":")
    return name, [int(x) for x in numbers.partition("#")[0].split(".") if x.isdecimal()], path
