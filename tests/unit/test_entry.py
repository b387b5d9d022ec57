"""The journal of a gate into a pipeline, and what is let go of it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from zpipe.processes.entry import Entry
from zpipe.processes.journal import Journal
from zpipe.processes.runfolder import DATABASE
from zpipe.values.errors import SaveError
from zpipe.wire.body import encode_message


def packed(*items: object) -> list[tuple[str | None, bytes]]:
    return [(str(item), bytes(encode_message(item, raw=False)[0])) for item in items]


def test_an_id_is_taken_in_once_whoever_opens_the_file(tmp_path: Path) -> None:
    path = tmp_path / "journal" / "x.sqlite"
    journal = Journal(path)
    journal.add([("a", b"1"), ("b", b"2"), ("a", b"3"), (None, b"4"), (None, b"4")])
    journal.close()
    again = Journal(path)
    again.add([("b", b"5"), ("c", b"6")], over=True)
    assert again.read(0, 9) == [b"1", b"2", b"4", b"4", b"6"]
    assert (again.end, again.over, again.nbytes) == (5, True, 5)
    assert again.knows(["a", "c"]) and not again.knows(["a", "d"]) and again.knows([])
    assert Journal(path).over


def test_two_who_have_one_journal_lose_nothing(tmp_path: Path) -> None:
    one, other = Journal(tmp_path / "x.sqlite"), Journal(tmp_path / "x.sqlite")
    one.add([("a", b"1")])
    other.add([("b", b"2")])
    one.add([("c", b"3")])
    assert one.read(0, 9) == [b"1", b"2", b"3"]


def test_what_is_kept_is_counted_right_while_another_thread_lets_go(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "x.sqlite")
    over = threading.Event()

    def let_go() -> None:
        while not over.is_set():
            journal.forget(journal.end)

    thread = threading.Thread(target=let_go)
    thread.start()
    for k in range(300):
        journal.add([(str(k), b"x" * 100)])
    over.set()
    thread.join()
    journal.forget(journal.end)
    assert journal.nbytes == 0


def test_what_is_kept_no_more_is_not_taken_for_an_item(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "x.sqlite")
    journal.add([("a", b"1"), ("b", b"2")])
    journal.forget(1)
    assert journal.read(1, 9) == [b"2"]
    with pytest.raises(SaveError, match="does not keep the items from position 0 on any more"):
        journal.read(0, 9)


def test_nothing_is_let_go_that_was_not_yielded_though_marks_have_positions_too(tmp_path: Path) -> None:
    entry = Entry("x", tmp_path)
    entry.journal.add(packed(0, 1, 2))
    items = entry()
    assert [next(items), next(items)] == [0, 1]
    entry.settled = 3  # two items and the mark at the end of a source that was told to stop
    entry._forget()
    assert list(zip(range(2, 3), entry(2), strict=False)) == [(2, 2)]
    with pytest.raises(SaveError):
        next(entry(1))


def test_the_registry_must_not_forget_what_the_journal_lets_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / DATABASE, tmp_path / f"{DATABASE}-wal"]
    for file in files:
        file.touch()
    entry = Entry("x", tmp_path)
    entry.journal.add(packed(0))
    next(entry())
    done: list[object] = []
    monkeypatch.setattr("zpipe.processes.entry.os.fsync", lambda fd: done.append(os.readlink(f"/proc/self/fd/{fd}")))
    monkeypatch.setattr(entry.journal, "forget", done.append)
    entry.settled = 1
    entry._forget()
    assert done == [*map(str, files), 1]
