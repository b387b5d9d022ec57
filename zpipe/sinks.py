"""Ready-made sinks: JSON lines and SQLite, each item once however often it comes and whatever is killed.

Items are known by their paths, which are unique within a run only: a file that another run wrote is refused.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import sqlite3 as sql
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from zpipe.values.context import run_folder
from zpipe.values.errors import ConfigError, EncodeError, NoRoom, StageError
from zpipe.values.room import lack_of_room

ARRAY_MAX = 4096  # numbers of an array that is written as a list
BUSY_S = 60.0  # for other workers to finish what they write to the same database
LOCK_S = 10.0  # for an earlier life of this worker to be gone
LOOK_S = 0.05  # how often to look, where nothing tells


class Item(Protocol):
    """What a sink is given to commit."""

    @property
    def path(self) -> str: ...
    @property
    def value(self) -> Any: ...


class jsonl:
    """Append the items to a file as JSON, one a line, in the order in which they come.

    In: what JSON holds, numpy numbers, arrays of at most 4096 numbers (as lists), datetimes (as ISO 8601)
    A relative `path` is in the run folder.  Beside the file, `.NAME.paths` knows which items are in it and up
    to which byte it is whole; what a kill left behind that byte goes at the next start.  One worker only.
    JSON has no nan and no inf: they are refused, or written as null with nan = "null".
    Holds: nothing.  Errors: StageError when the file is in use or another run's; EncodeError.
    """

    lock_s = LOCK_S

    def __init__(self, path: str, nan: str = "error") -> None:
        self.nan = _check_nan(nan)
        self.path = _place(path)
        self.index = self.path.with_name(f".{self.path.name}.paths")
        with _explained(self.path):
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                self._lock()
                self._db = _connect(self.index)
                self._begin()
            except BaseException:
                os.close(self._file)
                raise

    def commit(self, items: Sequence[Item]) -> None:
        """Write the items that are not in the file yet; they are on disk when this returns."""
        lines = [(_json(item, self.nan) + "\n").encode() for item in items]
        insert = "INSERT INTO paths VALUES (?) ON CONFLICT DO NOTHING"
        with _explained(self.path), _transaction(self._db) as execute:
            (end,) = execute("SELECT bytes FROM file").fetchone()
            pairs = zip(items, lines, strict=True)
            data = b"".join(line for item, line in pairs if execute(insert, (item.path,)).rowcount == 1)
            if data:
                # The lines first: what the index knows must be in the file, what it does not know is cut off.
                self._append(data, end)
                execute("UPDATE file SET bytes = ?", (end + len(data),))

    def close(self) -> None:
        """Close the file and its index."""
        self._db.close()
        os.close(self._file)

    def _append(self, data: bytes, end: int) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.pwrite(self._file, rest, end + len(data) - len(rest)) :]
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, end)
            raise

    def _lock(self) -> None:
        deadline_s = time.monotonic() + self.lock_s
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    raise StageError(
                        f"{self.path} is being written by another worker: give the sink workers = 1, "
                        "and each sink and run a file of its own"
                    ) from None
            time.sleep(LOOK_S)

    def _begin(self) -> None:
        """Cut off what the index does not know."""
        size, run = os.fstat(self._file).st_size, str(run_folder())
        with _transaction(self._db) as execute:
            execute("CREATE TABLE IF NOT EXISTS paths (path TEXT PRIMARY KEY) WITHOUT ROWID")
            execute("CREATE TABLE IF NOT EXISTS file (run TEXT, bytes INTEGER)")
            known = execute("SELECT run, bytes FROM file").fetchone()
            if known is None and size > 0:
                raise StageError(f"{self.path} is there already: move it away, or give the sink another path")
            if known is None:
                execute("INSERT INTO file VALUES (?, 0)", (run,))
        owner, end = known or (run, 0)
        if owner != run:
            raise StageError(f"{self.path} is of run {owner}: move it and {self.index.name} away, or give another path")
        if size < end:
            raise StageError(
                f"{self.path} has {size} bytes where {self.index.name} knows of {end}: it was changed from "
                "outside; remove both and start the run anew"
            )
        os.ftruncate(self._file, end)


class sqlite:
    """Insert the items into a table: path TEXT PRIMARY KEY, item TEXT, the latter as JSON.

    In: as `jsonl`.  A relative `path` is in the run folder.  Any number of workers and sinks may share a file
    and a table; each call is one transaction, on disk when it returns.
    Holds: nothing.  Errors: StageError when the table is another run's, or busy for 60 s; EncodeError.
    """

    def __init__(self, path: str, table: str = "items", nan: str = "error") -> None:
        if not re.fullmatch(r"(?!sqlite_)[A-Za-z_][A-Za-z0-9_]*", table):
            raise ConfigError(f"the table {table!r} has a bad name: use letters, digits and _, no digit first")
        self.nan = _check_nan(nan)
        self.path = _place(path)
        self.table = table
        with _explained(self.path):
            self._db = _connect(self.path)
            self._begin()

    def commit(self, items: Sequence[Item]) -> None:
        """Insert the items that are not in the table yet."""
        rows = [(item.path, _json(item, self.nan)) for item in items]
        with _explained(self.path), _transaction(self._db):
            insert = f'INSERT INTO "{self.table}" (path, item) VALUES (?, ?) ON CONFLICT (path) DO NOTHING'
            self._db.executemany(insert, rows)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def _begin(self) -> None:
        run = str(run_folder())
        with _transaction(self._db) as execute:
            execute(f'CREATE TABLE IF NOT EXISTS "{self.table}" (path TEXT PRIMARY KEY, item TEXT)')
            execute("CREATE TABLE IF NOT EXISTS zpipe_runs (items TEXT PRIMARY KEY, run TEXT)")
            execute("INSERT INTO zpipe_runs VALUES (?, ?) ON CONFLICT DO NOTHING", (self.table, run))
            (owner,) = execute("SELECT run FROM zpipe_runs WHERE items = ?", (self.table,)).fetchone()
        if owner != run:
            raise StageError(
                f"table {self.table!r} of {self.path} is of run {owner}: give another table or another path"
            )


def _place(path: str) -> Path:
    place = run_folder() / path
    with _explained(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _check_nan(nan: str) -> str:
    if nan not in ("error", "null"):
        raise ConfigError(f"nan is {nan!r}: it must be 'error' or 'null'")
    return nan


def _connect(path: Path) -> sql.Connection:
    db = sql.connect(path, timeout=BUSY_S, isolation_level=None)
    deadline_s = time.monotonic() + BUSY_S
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")  # does not heed the timeout while another one asks the same
            break
        except sql.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sql.SQLITE_BUSY or time.monotonic() >= deadline_s:
                raise
        time.sleep(LOOK_S)
    db.execute("PRAGMA synchronous=FULL")
    return db


@contextmanager
def _transaction(db: sql.Connection) -> Iterator[Any]:
    """Give `execute`; all of it is done, or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db.execute
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (sql.Error, OSError) as error:
        kind = NoRoom if lack_of_room(error) else StageError
        said = error if isinstance(error, sql.Error) else error.strerror
        raise kind(f"cannot write {path}: {said}: make room, or give the sink another path") from error


def _json(item: Item, nan: str) -> str:
    try:
        return _encode(item.value)
    except (TypeError, ValueError, RecursionError):
        pass  # once more, slowly, to find out what and where
    try:
        return _encode(_plain(item.value, "item", nan))
    except EncodeError as error:
        raise EncodeError(f"cannot write {item.path}: {error}") from None


def _plain(value: Any, place: str, nan: str) -> Any:
    """Return `value` in the types of JSON.  Raises EncodeError naming the place that has none."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str | int):
                raise EncodeError(f"{place} has the key {key!r:.40}, and keys of JSON are text: map them to text first")
        return {key: _plain(x, f"{place}[{key!r:.40}]", nan) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x, f"{place}[{i}]", nan) for i, x in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        if nan == "null":
            return None
        raise EncodeError(f"{place} is {value}, which JSON has not: send None instead, or set nan = 'null'")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    try:
        return _plain(_simple(value), place, nan)
    except TypeError as error:
        raise EncodeError(f"{place} is {error}") from None


def _simple(value: Any) -> Any:
    """Return lists and numbers for those of numpy, text for times.  Raises TypeError."""
    if isinstance(value, datetime):
        return value.isoformat()
    kind = f"a {type(value).__name__}"
    if hasattr(value, "dtype"):
        if value.size > ARRAY_MAX:
            what = f"an array of {value.size} numbers, and a list of JSON may have {ARRAY_MAX}"
            raise TypeError(f"{what}: map it to fewer, or write a sink of your own with commit(items)")
        if value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
            return value.tolist()
        kind = f"an array of {value.dtype}" if value.ndim else f"a {value.dtype}"
    raise TypeError(f"{kind}, which JSON has not: map it to text, numbers or lists first")


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_simple).encode
