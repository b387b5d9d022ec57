"""Events: the kinds and their page, the files they are written to, and which of them are shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.smalldisk import small_disk
from zpipe.cli import live
from zpipe.processes.events import KINDS, Event, EventLog, happened, tell
from zpipe.values.errors import ConfigError

PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text(encoding="utf-8")
WARNING = Event(1.5, "warning", "clean", "clean-1", "clean-1 is slow")
DATA = {"pid": 7, "status": -9, "running": "", "again": True}


def test_the_page_tells_of_each_kind_and_its_data_in_order() -> None:
    table = PAGE.partition("| kind | when | data |\n")[2].partition("\n\n")[0].splitlines()[1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    written = {kind.strip("`"): tuple(re.findall(r"`(\w+)`", data)) for kind, _, data in cells}
    assert list(written.items()) == list(KINDS.items())


def test_the_page_tells_of_each_key() -> None:
    table = PAGE.partition("| key | |\n")[2].partition("\n\n")[0].splitlines()[1:]
    assert [line.split("`")[1] for line in table] == list(json.loads(WARNING.line()))


def test_an_event_is_one_line_of_json() -> None:
    line = Event(1.5, "left", "clean", "clean-1", "clean-1\nleft", {"status": 0}).line()
    assert line.index("\n") == len(line) - 1
    assert json.loads(line) == {
        "t": 1.5, "kind": "left", "stage": "clean", "worker": "clean-1", "text": "clean-1\nleft", "data": {"status": 0},
    }  # fmt: skip


def test_an_event_carries_what_its_kind_says() -> None:
    with pytest.raises(AssertionError, match="left carries"):
        happened("left", "clean-1 left")


def test_each_event_is_in_the_file_at_once(tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text("of another run\n")
    with EventLog(tmp_path / "e.jsonl") as log:
        log.open(tmp_path / "f.jsonl")
        log.write(WARNING)
        assert (tmp_path / "e.jsonl").read_text() == (tmp_path / "f.jsonl").read_text() == WARNING.line()


def test_a_file_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write events to .*/no/e: No such file or directory: name a file"):
        EventLog(tmp_path / "no" / "e").__enter__()


def test_a_file_of_a_run_that_goes_on_is_refused_and_kept(tmp_path: Path) -> None:
    with EventLog(tmp_path / "e.jsonl") as first:
        first.write(WARNING)
        with pytest.raises(ConfigError, match=r"/e.jsonl is being written by another run: name another file, or end"):
            EventLog(tmp_path / "e.jsonl").__enter__()
        assert (tmp_path / "e.jsonl").read_text() == WARNING.line()
    with EventLog(tmp_path / "e.jsonl"):
        assert (tmp_path / "e.jsonl").read_text() == ""


def test_the_file_of_a_resumed_run_goes_on_behind_its_last_whole_line(tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text(WARNING.line() + '{"t": 17')
    with EventLog() as log:
        log.open(tmp_path / "e.jsonl", adds=True)
        log.write(WARNING)
    assert (tmp_path / "e.jsonl").read_text() == 2 * WARNING.line()


def test_what_cannot_be_written_is_told_once_and_the_other_file_has_it_all(tmp_path: Path) -> None:
    heard: list[Event] = []
    with EventLog("/dev/full") as log:
        log.open(tmp_path / "e.jsonl")
        tell(WARNING, log, heard.append)
        tell(WARNING, log, heard.append)
    failure = "cannot write events to /dev/full: No space left on device: the run goes on without it"
    assert [event.text for event in heard] == [WARNING.text, failure, WARNING.text]
    texts = [json.loads(line)["text"] for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert texts == [WARNING.text, failure, WARNING.text]


def test_events_wait_for_room_and_are_written_then(tmp_path: Path) -> None:
    heard: list[Event] = []
    with small_disk(tmp_path / "d", "64k") as disk, EventLog(disk.path / "e.jsonl") as log:
        tell(WARNING, log, heard.append)
        disk.fill()
        for _ in range(60):  # more than is left of the page that the file has
            tell(happened("warning", "x" * 100), log, heard.append)
        disk.free()
        tell(WARNING, log, heard.append)
        texts = [json.loads(line)["text"] for line in (disk.path / "e.jsonl").read_text().splitlines()]
    assert len(heard) == 63
    assert sum("No space left on device: the run goes on without it" in event.text for event in heard) == 1
    assert texts[-1] == WARNING.text


def test_an_event_that_cannot_be_shown_for_want_of_room_ends_nothing(tmp_path: Path) -> None:
    def show_it(event: Event) -> None:
        raise OSError(28, "No space left on device")

    with EventLog(tmp_path / "e.jsonl") as log:
        tell(WARNING, log, show_it)
    assert (tmp_path / "e.jsonl").read_text() == WARNING.line()


@pytest.mark.parametrize(
    ("kind", "data", "line"),
    [
        ("started", {"name": "t", "address": "a", "folder": "f"}, "words\n"),
        ("resumed", {"times": 1, "changed": ["stages"], "stops": False}, "words\n"),
        ("chaos", {"every_s": 1.0, "seed": 3}, "words\n"),
        ("joined", {"pid": 7, "host": "h"}, ""),
        ("killed", DATA, "words\n"),
        ("died", DATA, "words\n"),
        ("died", {**DATA, "again": False}, ""),
        ("restarted", {"life": 2}, ""),
        ("left", {"status": 0}, ""),
        ("scaled", {"before": 1, "after": 2, "why": "busy"}, "words\n"),
        ("warning", {}, "zpipe: words\n"),
        ("stopping", {}, "zpipe: words\n"),
        ("ended", {"state": "done", "error": "", "seconds": 1.0}, ""),
    ],
)
def test_what_is_shown(kind: str, data: dict[str, object], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    live.event(happened(kind, "words", **data))
    assert capsys.readouterr().err == line


def test_deaths_are_for_terminals_only(capsys: pytest.CaptureFixture[str]) -> None:
    with live.Live() as shown:
        shown.event(happened("killed", "clean-1 killed by SIGKILL", **DATA))
        shown.event(WARNING)
    assert capsys.readouterr().err == "zpipe: clean-1 is slow\n"
