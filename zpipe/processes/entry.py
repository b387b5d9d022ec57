"""The gate of a source: items come in from outside, are put on disk, and go on as those of any source.

A thread takes them in, whatever the rest of the worker does; what `replay` is to other sources the journal is here.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from zpipe.processes.doors import Doors, Heard, Refusals
from zpipe.processes.journal import Journal
from zpipe.processes.patience import Patience
from zpipe.processes.runfolder import DATABASE
from zpipe.transport.waiting import Waiter
from zpipe.transport.wake import Wake
from zpipe.values.errors import EncodeError, ProtocolError, SaveError, StageError, ZpipeError
from zpipe.wire.body import JOINED_MAX, decode_message, encode_message
from zpipe.wire.outside import KEY, VERSION, Asked, Message, read, read_any, tag_of

BURST = 1000  # messages that go to the disk together
READ_ITEMS = 256  # taken from the journal at once
KEPT_MAX = 4 << 30  # bytes in the journal that are not settled, beyond which those who put have to wait
LOOK_MS = 100
LEAVE_S = 1.0  # for what was said last to be on its way
FORGET_S = 1.0  # between two times that what is settled is let go


class Entry:
    """The code of a source with `listen`: called with the position to begin at, it yields what has been put."""

    def __init__(self, stage: str, folder: Path) -> None:
        self.stage = stage
        self.journal = Journal(folder / "journal" / f"{stage}.sqlite")
        self.stopping = False  # nothing more is taken in, since the run is to end
        self.settled = 0  # positions of the source that are, as the registry has stored
        self._folder = folder
        self._forget_s = 0.0  # not before
        self._made = 0  # the position of what is yielded next
        self._log = Refusals(stage)
        self._arrived = threading.Condition()
        self._error: ZpipeError | None = None
        self._ending = False
        self._wake = Wake()
        self._thread: threading.Thread | None = None

    @property
    def refused(self) -> int:
        """Return how much was refused of what was said."""
        return self._log.count

    def open(self, doors: Doors, poller: Waiter) -> None:
        """Begin to take in what is said at the doors; `poller` waits for them."""
        self._doors, self._poller = doors, poller
        poller.register(self._wake.fileno())
        self._thread = threading.Thread(target=self._serve, name="zpipe-entry", daemon=True)
        self._thread.start()

    def __call__(self, start: int = 0) -> Iterator[Any]:
        """Yield the items from a position on, until it was said that no more come."""
        position = self._made = start
        while True:
            over = self.journal.over  # first: what it is the end of is there then
            found = self.journal.read(position, READ_ITEMS)
            for item in found:
                position = self._made = position + 1
                yield decode_message([item])
            if found:
                continue
            if over:
                return
            with self._arrived:
                if self._error is not None:
                    raise self._error
                if self.journal.end == position and self.journal.over == over:
                    self._arrived.wait(1.0)

    def close(self) -> None:
        """Take in nothing more."""
        self._ending = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(LEAVE_S)
        self.journal.close()

    def _forget(self) -> None:
        """Let go of what is settled, once no loss of power can make the registry forget that it is.

        Its database is synced now and then only; a sync of the same file by any process will do.
        """
        settled = min(self.settled, self._made)  # the marks at the end have positions of the source, too
        if settled <= self.journal.kept or time.monotonic() < self._forget_s:
            return
        self._forget_s = time.monotonic() + FORGET_S
        for name in (DATABASE, f"{DATABASE}-wal"):
            with suppress(FileNotFoundError), open(self._folder / name, "rb") as file:
                os.fsync(file.fileno())
        self.journal.forget(settled)

    def _serve(self) -> None:
        patience = Patience()
        try:
            while not self._ending:
                self._forget()
                if self.journal.nbytes > KEPT_MAX:
                    time.sleep(LOOK_MS / 1000)
                elif heard := self._doors.heard(BURST):
                    self._take_in(heard, patience)
                else:
                    self._poller.wait(LOOK_MS)
        except Exception as error:
            with self._arrived:
                self._error = error if isinstance(error, ZpipeError) else SaveError(f"nothing is taken in: {error!r}")
                self._arrived.notify_all()
        self._doors.close(linger_ms=int(1000 * LEAVE_S) // 2)

    def _take_in(self, heard: list[Heard], patience: Patience) -> None:
        """Put what was said on the disk, together, and answer then."""
        entries: list[tuple[str | None, bytes]] = []
        answers: list[tuple[Heard, Message]] = []
        over = False
        for message in heard:
            try:
                asked = self._read(message, over=over)
                new = [(id_, _encoded(item)) for id_, item in asked.put]
                new += [(None, _encoded(item)) for item in asked.items]
            except (ProtocolError, EncodeError) as error:
                self._log.refuse(message.address, str(error))
                answers.append((message, {**tag_of(message.frames), "error": str(error)}))
                continue
            entries += new
            over = over or asked.end
            answers.append((message, self._answer(asked)))
        while (entries or over) and not self._ending:
            try:
                self.journal.add(entries, over=over)
            except ZpipeError as error:
                pause_s = patience.pause_s(error)
                if pause_s is None:
                    raise
                self._log.say(f"{error}: whoever puts has to wait")
                time.sleep(pause_s)
            else:
                patience.over()
                break
        else:
            if entries or over:
                return  # it ends, and nobody is told what is not there
        with self._arrived:
            self._arrived.notify_all()
        for message, answer in answers:
            if message.peer is not None:
                self._doors.answer(message.peer, encode_message({KEY: VERSION, **answer}, raw=False))

    def _read(self, message: Heard, *, over: bool) -> Asked:
        asked = read_any(message.frames) if message.peer is None else read(message.frames)
        if asked.stage and asked.stage != self.stage:
            raise ProtocolError(f"this is the gate of stage {self.stage!r}, not of {asked.stage!r}")
        if asked.take is not None or asked.call or asked.done or asked.failed or asked.busy:
            raise ProtocolError(f"stage {self.stage!r} is a source: items are put here, not taken")
        is_over = over or self.journal.over
        if (self.stopping or is_over) and (asked.items or not self.journal.knows([id_ for id_, _ in asked.put])):
            why = "was told that nothing more comes" if is_over else "stops: put it again when the run was resumed"
            raise ProtocolError(f"stage {self.stage!r} {why}")
        return asked

    def _answer(self, asked: Asked) -> Message:
        answer: Message = {"tag": asked.tag} if asked.tag else {}
        if asked.put:
            answer["stored"] = [id_ for id_, _ in asked.put]
        if asked.stage is not None:
            answer |= {"stage": self.stage, "role": "source", **self._doors.endpoints}
        return answer


def _encoded(item: Any) -> bytes:
    (frame,) = encode_message(item, raw=False)
    if len(frame) > JOINED_MAX:
        decode_message([frame])  # what would not be read is not taken in
    return bytes(frame)


def open_entry(stage: str, folder: Path) -> Entry:
    """Return the code of a source with `listen`.  Raises StageError."""
    try:
        return Entry(stage, folder)
    except ZpipeError as error:
        raise StageError(f"stage {stage!r}: {error}") from error
