"""Whom a registry admits: what its file of the admitted says, also while it changes."""

from __future__ import annotations

import sys

from zpipe.transport import keys, sockets
from zpipe.transport.admission import Admission
from zpipe.transport.keys import Keys
from zpipe.values.errors import ConfigError


class Guard:
    """Admits to a context the keys that the file names; `news` is to be asked now and then.  Raises ConfigError."""

    def __init__(self, context: sockets.Context, own: Keys) -> None:
        self.key = own.public
        self.admitted = keys.admitted(own)  # public key -> name
        self._own = own
        self._seen = self._mark()
        self._admission = Admission(context, self.admitted)

    def news(self) -> dict[str, str] | None:
        """Return who is admitted from now on, if that has changed; a file that cannot be read changes nothing."""
        mark = self._mark()
        if mark == self._seen:
            return None
        self._seen = mark
        try:
            admitted = keys.admitted(self._own)
        except ConfigError as error:
            print(f"zpipe: {error}: all stay admitted that were", file=sys.stderr, flush=True)
            return None
        if admitted == self.admitted:
            return None
        self.admitted = admitted
        self._admission.admit(admitted)
        return admitted

    def close(self) -> None:
        """Admit nobody any more."""
        self._admission.close()

    def _mark(self) -> tuple[int, ...]:
        """Return what changes with the file."""
        try:
            found = keys.path_of_admitted(self._own).stat()
        except OSError:
            return ()
        return (found.st_mtime_ns, found.st_size, found.st_ino)
