"""Sinks of many files: a folder of part files, each item in one of them, and an index of what is in them.

Each worker has one part that is open.  A call writes that anew, with its items at the end, and renames it into its
place: whoever reads the folder sees whole files, and in them all that has been committed.  A part that is large
enough is never written again.

    FOLDER/part-WRITER-NUMBER.SUFFIX    WRITER is the number of a worker
    FOLDER/.index.db                    the paths of all items, and of each writer its open part and how that stood
    FOLDER/.new                         what is being written, under the lock of the index

The part is renamed before the index knows of it: a part that stands otherwise than the index says is read, and what
is in it is known from then on, whoever wrote it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

from zpipe.sinks.files import Item, connect, explained, make_folder, place, transaction
from zpipe.values.context import run_folder, worker_name
from zpipe.values.durable import sync_folder
from zpipe.values.errors import StageError

INDEX = ".index.db"
UNFINISHED = ".new"
PART_BYTES = 2**22  # of a part that is large enough

Batch = TypeVar("Batch", contravariant=True)  # the items of a call, encoded


class Tail(Protocol[Batch]):
    """The items of an open part."""

    @property
    def is_full(self) -> bool: ...
    def add(self, batch: Batch, which: Sequence[int]) -> int:
        """Take in these items of a call, one at least, and return how many."""
        ...

    def write(self, file: BinaryIO) -> None: ...


class Parts(Generic[Batch]):
    """The part files of a folder, as one worker writes them.

    `read` returns a part that is in a file, an empty one without, `paths_of` those of the items in a file.
    """

    def __init__(
        self, path: str, suffix: str, read: Callable[[Path | None], Tail[Batch]],
        paths_of: Callable[[Path], Iterable[str]],
    ) -> None:  # fmt: skip
        self.folder = place(path)
        self._suffix = suffix
        self._read = read
        self._paths_of = paths_of
        self._tail: Tail[Batch] | None = None  # None: as it is on the disk
        self._part, self._stamp = 0, ""  # as the index has them
        with explained(self.folder):
            make_folder(self.folder)
            self._refuse_others()
            self._db = connect(self.folder / INDEX)
            self._writer = self._begin()
            self._hurry()

    def commit(self, batch: Batch, items: Sequence[Item]) -> None:
        """Write the items of a call that are not in a part yet; they are on disk when this returns."""
        insert = "INSERT INTO paths VALUES (?) ON CONFLICT DO NOTHING"
        try:
            with explained(self.folder), transaction(self._db) as execute:
                self._catch_up(execute)
                which = [k for k, item in enumerate(items) if execute(insert, (item.path,)).rowcount == 1]
                if which:
                    self._write(batch, which)
                    execute(
                        "UPDATE writers SET part = ?, stamp = ? WHERE number = ?",
                        (self._part, self._stamp, self._writer),
                    )
        except BaseException:
            self._tail = None
            raise

    def agree(self, name: str, value: bytes) -> None:
        """Tell all workers a fact, unless another has."""
        with explained(self.folder):
            self._db.execute("PRAGMA synchronous=FULL")
            with transaction(self._db) as execute:
                execute("INSERT INTO facts VALUES (?, ?) ON CONFLICT DO NOTHING", (name, value))
            self._hurry()

    def fact(self, name: str) -> bytes | None:
        """Return what was agreed on, None before."""
        with explained(self.folder):
            row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else bytes(row[0])

    def close(self) -> None:
        """Close the index."""
        self._db.close()

    # -- the index ----------------------------------------------------------------------------------

    def _refuse_others(self) -> None:
        if not (self.folder / INDEX).exists() and any(name[0] != "." for name in os.listdir(self.folder)):
            raise StageError(f"{self.folder} is there already: move it away, or give the sink another path")

    def _hurry(self) -> None:
        """Do not flush the index with each commit: what it loses with the power is found in the parts."""
        self._db.execute("PRAGMA synchronous=NORMAL")

    def _begin(self) -> int:
        """Return the number of this worker among those that write here."""
        run, worker = str(run_folder()), worker_name()
        with transaction(self._db) as execute:
            execute("CREATE TABLE IF NOT EXISTS paths (path TEXT PRIMARY KEY) WITHOUT ROWID")
            execute("CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value BLOB)")
            execute(
                "CREATE TABLE IF NOT EXISTS writers "
                "(number INTEGER PRIMARY KEY, worker TEXT UNIQUE, part INTEGER, stamp TEXT)"
            )
            for name, value in (("run", run), ("suffix", self._suffix)):
                execute("INSERT INTO facts VALUES (?, ?) ON CONFLICT DO NOTHING", (name, value))
            facts = dict(execute("SELECT name, value FROM facts WHERE name IN ('run', 'suffix')").fetchall())
            if facts["run"] != run:
                raise StageError(f"{self.folder} is of run {facts['run']}: move it away, or give another path")
            if facts["suffix"] != self._suffix:
                raise StageError(f"{self.folder} holds {facts['suffix']} files: give each sink a folder of its own")
            execute("INSERT INTO writers (worker, part, stamp) VALUES (?, 1, '') ON CONFLICT DO NOTHING", (worker,))
            (number,) = execute("SELECT number FROM writers WHERE worker = ?", (worker,)).fetchone()
        return int(number)

    def _catch_up(self, execute: Any) -> None:
        """Take note of what was written and is not in the index, by whomever; find our own part as it stands."""
        for number, *known in execute("SELECT number, part, stamp FROM writers").fetchall():
            part, stamp = self._found(execute, number, *known)
            if [part, stamp] != known:
                execute("UPDATE writers SET part = ?, stamp = ? WHERE number = ?", (part, stamp, number))
            if number == self._writer and (self._tail is None or (part, stamp) != (self._part, self._stamp)):
                self._part, self._stamp = part, stamp
                self._tail = self._read(self._path(number, part) if stamp else None)

    def _found(self, execute: Any, writer: int, part: int, stamp: str) -> tuple[int, str]:
        """Return the last part of a writer and how it stands, from the one that the index knows on."""
        while True:
            path = self._path(writer, part)
            found = _stamp(path)
            if found != stamp:
                if not found:
                    raise StageError(f"{path} was removed from outside: start the run anew")
                for name in self._paths_of(path):
                    execute("INSERT INTO paths VALUES (?) ON CONFLICT DO NOTHING", (name,))
                stamp = found
            if not _stamp(self._path(writer, part + 1)):
                return part, stamp
            part, stamp = part + 1, ""

    # -- files --------------------------------------------------------------------------------------

    def _path(self, writer: int, part: int) -> Path:
        return self.folder / f"part-{writer:03d}-{part:06d}.{self._suffix}"

    def _write(self, batch: Batch, which: Sequence[int]) -> None:
        assert self._tail is not None
        while which:
            if self._tail.is_full:
                self._tail = self._read(None)
                self._part += 1
            which = which[self._tail.add(batch, which) :]
            self._stamp = self._put(self._tail, self._path(self._writer, self._part))

    def _put(self, tail: Tail[Batch], path: Path) -> str:
        """Write a part in the place of what it was before, and return how it stands."""
        unfinished = self.folder / UNFINISHED
        with open(unfinished, "wb") as file:
            tail.write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        sync_folder(self.folder)
        return _stamp(path)


def _stamp(path: Path) -> str:
    """Return what changes with a file, "" when there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return ""
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"
