"""What the sinks share: where their files are, their databases, and when all of it is on the disk."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from zpipe.values.context import run_folder
from zpipe.values.durable import sync_folder
from zpipe.values.errors import NoRoom, StageError
from zpipe.values.room import lack_of_room

BUSY_S = 60.0  # for other workers to finish what they write to the same database
LOOK_S = 0.05  # how often to look, where nothing tells


class Item(Protocol):
    """What a sink is given to commit."""

    @property
    def path(self) -> str: ...
    @property
    def value(self) -> Any: ...


def place(path: str) -> Path:
    """Return where a sink writes, a relative path in the run folder; the folder of that is made."""
    found = run_folder() / path
    with explained(found):
        make_folder(found.parent)
    return found


def make_folder(folder: Path) -> None:
    """Make a folder that survives a loss of power, and those that it is in."""
    if not folder.exists():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def connect(path: Path) -> sqlite3.Connection:
    """Open a database whose commits are on the disk when they return; it is made if it is not there."""
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    deadline_s = time.monotonic() + BUSY_S
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")  # does not heed the timeout while another one asks the same
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline_s:
                raise
        time.sleep(LOOK_S)
    db.execute("PRAGMA synchronous=FULL")
    sync_folder(path.parent)
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[Any]:
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
def explained(path: Path) -> Iterator[None]:
    """Say of what goes wrong with the files of a sink which they are.  Raises StageError, NoRoom."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        kind = NoRoom if lack_of_room(error) else StageError
        said = error if isinstance(error, sqlite3.Error) else error.strerror
        raise kind(f"cannot write {path}: {said}: make room, or give the sink another path") from error
