"""Which errors say that a disk takes nothing at the moment: against those, waiting helps."""

from __future__ import annotations

import errno

from zpipe.values.errors import NoRoom, ZpipeError

NUMBERS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO))
SQLITE_NUMBERS = frozenset((10, 13))  # SQLITE_IOERR, SQLITE_FULL


def lack_of_room(error: BaseException) -> str:
    """Return in one line what an error says of a disk that takes nothing, "" when it says anything else."""
    cause: BaseException | None = error
    while cause is not None and not _says_so(cause):
        cause = cause.__cause__
    if cause is None:
        return ""
    return " ".join(str(error if isinstance(error, ZpipeError) else cause).split())


def _says_so(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in NUMBERS
    number = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, NoRoom) or (isinstance(number, int) and number & 0xFF in SQLITE_NUMBERS)
