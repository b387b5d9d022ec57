"""A sink for JSON lines."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Sequence
from contextlib import suppress

from zpipe.sinks.files import LOOK_S, Item, connect, explained, place, transaction
from zpipe.sinks.jsontext import check_nan, to_json
from zpipe.values.context import run_folder
from zpipe.values.errors import StageError

LOCK_S = 10.0  # for an earlier life of this worker to be gone


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
        self.nan = check_nan(nan)
        self.path = place(path)
        self.index = self.path.with_name(f".{self.path.name}.paths")
        with explained(self.path):
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                self._lock()
                self._db = connect(self.index)
                self._begin()
            except BaseException:
                os.close(self._file)
                raise

    def commit(self, items: Sequence[Item]) -> None:
        """Write the items that are not in the file yet; they are on disk when this returns."""
        lines = [(to_json(item, self.nan) + "\n").encode() for item in items]
        insert = "INSERT INTO paths VALUES (?) ON CONFLICT DO NOTHING"
        with explained(self.path), transaction(self._db) as execute:
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
            if os.fstat(self._file).st_size > end:
                os.ftruncate(self._file, end)  # what a failed call has left
            while rest:
                rest = rest[os.pwrite(self._file, rest, end + len(data) - len(rest)) :]
            os.fsync(self._file)
        except OSError:
            with suppress(OSError):  # the next call looks again
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
        with transaction(self._db) as execute:
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
