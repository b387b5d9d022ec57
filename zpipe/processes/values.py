"""What a registry must not forget, in SQLite in the run folder."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zpipe.core.outcomes import Store
from zpipe.values.errors import SaveError
from zpipe.values.room import lack_of_room

TABLE = "CREATE TABLE IF NOT EXISTS registry (kind TEXT, key TEXT, value TEXT, PRIMARY KEY (kind, key))"


class Values:
    """The registry's values in the run folder: durable against a kill.

    A loss of power may take the last of them, in the order in which they were stored: older watermarks are safe.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._db = sqlite3.connect(path, timeout=5.0, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(TABLE)
        except sqlite3.Error as error:
            way_out = "free some space" if lack_of_room(error) else "choose another run folder"
            raise SaveError(f"cannot open {path}: {error}: {way_out}") from error

    def rows(self) -> list[tuple[str, str, Any]]:
        """Return all values as (kind, key, value).  Raises SaveError."""
        try:
            found = self._db.execute("SELECT kind, key, value FROM registry").fetchall()
            return [(kind, key, json.loads(value)) for kind, key, value in found]
        except (sqlite3.Error, ValueError, TypeError, RecursionError) as error:
            raise SaveError(f"cannot read {self.path}: {error}: start the run anew") from error

    def keep(self, stores: Iterable[Store]) -> None:
        """Store and forget values, all or none.  Raises SaveError."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for store in stores:
                if store.value is None:
                    self._db.execute("DELETE FROM registry WHERE kind = ? AND key = ?", (store.kind, store.key))
                else:
                    row = (store.kind, store.key, json.dumps(store.value))
                    self._db.execute("INSERT OR REPLACE INTO registry VALUES (?, ?, ?)", row)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.rollback()
            raise SaveError(f"cannot write {self.path}: {error}: free some space, the run can go on") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()
