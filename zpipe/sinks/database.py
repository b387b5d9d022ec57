"""A sink for tables of SQLite."""

from __future__ import annotations

import re
from collections.abc import Sequence

from zpipe.sinks.files import Item, connect, explained, place, transaction
from zpipe.sinks.jsontext import check_nan, to_json
from zpipe.values.context import run_folder
from zpipe.values.errors import ConfigError, StageError


class sqlite:
    """Insert the items into a table: path TEXT PRIMARY KEY, item TEXT, the latter as JSON.

    In: as `jsonl`.  A relative `path` is in the run folder.  Any number of workers and sinks may share a file
    and a table; each call is one transaction, on disk when it returns.
    Holds: nothing.  Errors: StageError when the table is another run's, or busy for 60 s; EncodeError.
    """

    def __init__(self, path: str, table: str = "items", nan: str = "error") -> None:
        if not re.fullmatch(r"(?!sqlite_)[A-Za-z_][A-Za-z0-9_]*", table):
            raise ConfigError(f"the table {table!r} has a bad name: use letters, digits and _, no digit first")
        self.nan = check_nan(nan)
        self.path = place(path)
        self.table = table
        with explained(self.path):
            self._db = connect(self.path)
            self._begin()

    def commit(self, items: Sequence[Item]) -> None:
        """Insert the items that are not in the table yet."""
        rows = [(item.path, to_json(item, self.nan)) for item in items]
        with explained(self.path), transaction(self._db):
            insert = f'INSERT INTO "{self.table}" (path, item) VALUES (?, ?) ON CONFLICT (path) DO NOTHING'
            self._db.executemany(insert, rows)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def _begin(self) -> None:
        run = str(run_folder())
        with transaction(self._db) as execute:
            execute(f'CREATE TABLE IF NOT EXISTS "{self.table}" (path TEXT PRIMARY KEY, item TEXT)')
            execute("CREATE TABLE IF NOT EXISTS zpipe_runs (items TEXT PRIMARY KEY, run TEXT)")
            execute("INSERT INTO zpipe_runs VALUES (?, ?) ON CONFLICT DO NOTHING", (self.table, run))
            (owner,) = execute("SELECT run FROM zpipe_runs WHERE items = ?", (self.table,)).fetchone()
        if owner != run:
            raise StageError(
                f"table {self.table!r} of {self.path} is of run {owner}: give another table or another path"
            )
