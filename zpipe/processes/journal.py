"""The journal of a gate into a pipeline: every item that was taken in, in a file, before anybody is told so.

An SQLite database: ids are known for as long as the run folder is there, items until they are settled.
Its `position` is that of the item in its source.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from zpipe.values.errors import SaveError

_TABLES = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS items (position INTEGER PRIMARY KEY, id TEXT UNIQUE, item BLOB);
    CREATE TABLE IF NOT EXISTS ends (position INTEGER PRIMARY KEY);
"""


class Journal:
    """The items of one gate; any thread may call.  Raises SaveError when the file cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.executescript(_TABLES)
            (last,) = self._db.execute("SELECT max(position) FROM items").fetchone()
            (nbytes,) = self._db.execute("SELECT total(length(item)) FROM items").fetchone()
            self.over = self._db.execute("SELECT 1 FROM ends").fetchone() is not None
        except (OSError, sqlite3.Error) as error:
            raise SaveError(f"the journal {path} cannot be opened: {error}") from error
        self.end = 0 if last is None else last + 1  # the position of what comes next
        self.nbytes = int(nbytes)  # of the items that are kept
        self.kept = 0  # position of the first of them, as far as is known

    def add(self, entries: Sequence[tuple[str | None, bytes]], *, over: bool = False) -> None:
        """Take (id, item) in, but not what has an id that is known; it is on disk when this returns.

        With `over` nothing more comes behind it.
        """
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                (last,) = self._db.execute("SELECT max(position) FROM items").fetchone()
                end, nbytes = 0 if last is None else last + 1, self.nbytes
                for id_, item in entries:
                    row = (end, id_, item)
                    if self._db.execute("INSERT INTO items VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING", row).rowcount:
                        end += 1
                        nbytes += len(item)
                if over:
                    self._db.execute("INSERT OR IGNORE INTO ends VALUES (?)", (end,))
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise SaveError(f"the journal {self._path} cannot be written: {error}") from error
            self.end, self.nbytes, self.over = end, nbytes, self.over or over

    def knows(self, ids: Sequence[str]) -> bool:
        """Tell whether all of these were taken in."""
        with self._lock:
            find = "SELECT 1 FROM items WHERE id = ?"
            return all(self._db.execute(find, (id_,)).fetchone() is not None for id_ in ids)

    def read(self, position: int, most: int) -> list[bytes]:
        """Return the items from a position on, which are kept."""
        with self._lock:
            try:
                rows = self._db.execute(
                    "SELECT item FROM items WHERE position >= ? ORDER BY position LIMIT ?", (position, most)
                ).fetchall()
            except sqlite3.Error as error:
                raise SaveError(f"the journal {self._path} cannot be read: {error}") from error
        if any(item is None for (item,) in rows):
            raise SaveError(f"the journal {self._path} does not keep the items from position {position} on any more")
        return [item for (item,) in rows]

    def forget(self, position: int) -> None:
        """Keep the items below a position no longer: they are settled."""
        with self._lock:
            try:
                (nbytes,) = self._db.execute(
                    "SELECT total(length(item)) FROM items WHERE position >= ? AND position < ?", (self.kept, position)
                ).fetchone()
                self._db.execute(
                    "UPDATE items SET item = NULL WHERE position >= ? AND position < ?", (self.kept, position)
                )
            except sqlite3.Error:
                return  # it costs room, and is tried again with the next
            self.kept, self.nbytes = position, self.nbytes - int(nbytes)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
