"""The logs of a run folder: by which names they are found, and how they are followed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from zpipe.processes.logs import follow, logs_of
from zpipe.processes.prepare import prepare
from zpipe.processes.runfolder import RunFolder
from zpipe.values.errors import ConfigError
from zpipe.values.pipeline import Pipeline


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "logstages.py").write_text("def make():\n    yield 1\n\ndef clean(x): ...\n\ndef fit(x, lr): ...\n")
    stages = {
        "make": {"run": "logstages.py:make", "workers": 2, "partitions": 2},
        "clean": {"run": "logstages.py:clean", "from": "make", "workers": 2},
        "fit": {"run": "logstages.py:fit", "from": "clean", "grid": {"lr": [0.1, 0.2]}},
    }
    pipeline = Pipeline.from_dict({"schema": 1, "name": "t", "stage": stages}, folder=tmp_path)
    return prepare(pipeline, runs=tmp_path / "runs", sets=(), seed=None, transport="auto")[1]


FITS = ["fit/lr=0.1-1", "fit/lr=0.2-1"]


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        (None, ["registry", "make-1", "make-2", "clean-1", "clean-2", *FITS]),
        ("clean", ["clean-1", "clean-2"]),
        ("clean-2", ["clean-2"]),
        ("fit", FITS),
        ("fit/lr=0.2", ["fit/lr=0.2-1"]),
        ("fit/lr=0.2-1", ["fit/lr=0.2-1"]),
        ("registry", ["registry"]),
    ],
)
def test_logs_are_found_by_stage_variant_and_worker(folder: RunFolder, name: str | None, workers: list[str]) -> None:
    assert logs_of(folder, name) == {worker: folder.log(worker) for worker in workers}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("claen", "run 't' has no stage or worker 'claen': did you mean 'clean'?"),
        ("make-3", "run 't' has no stage or worker 'make-3': did you mean 'make-2'?"),
        ("zzz", "run 't' has no stage or worker 'zzz': its stages are make, clean, fit"),
    ],
)
def test_an_unknown_name_is_one_line_with_what_may_be_meant(folder: RunFolder, name: str, line: str) -> None:
    with pytest.raises(ConfigError) as error:
        logs_of(folder, name)
    assert str(error.value) == line


def test_a_folder_without_a_plan_is_one_line(tmp_path: Path) -> None:
    empty = RunFolder.create(tmp_path, "t", datetime(2025, 3, 1))
    with pytest.raises(ConfigError, match=r"is no run folder: it has no plan\.json that can be read"):
        logs_of(empty, None)


class Script:
    """A run that lasts as long as there are things to do; one is done whenever the reader waits."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.steps = list(steps)

    def is_over(self) -> bool:
        return not self.steps

    def wait(self) -> None:
        self.steps.pop(0)()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "a.log"


def append(log: Path, text: str) -> Callable[[], object]:
    def write() -> None:
        with open(log, "ab") as file:
            file.write(text.encode("latin-1"))

    return write


def read(log: Path, last: int | None = None, *steps: Callable[[], object]) -> Iterator[tuple[str, str]]:
    script = Script(*steps)
    return follow({"a-1": log, "b-1": log.with_name("b.log")}, last, script.is_over, script.wait)


def test_what_is_there_is_read_one_log_after_the_other(log: Path) -> None:
    log.write_text("one\r\n\ntwo")
    log.with_name("b.log").write_text("three\n")
    assert list(read(log)) == [("a-1", "one"), ("a-1", ""), ("a-1", "two"), ("b-1", "three")]


def test_a_log_that_is_not_there_has_no_lines(log: Path) -> None:
    assert list(read(log)) == []


@pytest.mark.parametrize(("last", "lines"), [(0, []), (1, ["c"]), (2, ["b", "c"]), (9, ["a", "b", "c"])])
def test_the_last_lines(log: Path, last: int, lines: list[str]) -> None:
    log.write_text("a\nb\nc")
    assert [line for _, line in read(log, last)] == lines


def test_what_comes_later_is_followed_and_each_line_is_there_once(log: Path) -> None:
    log.write_text("a\nb\n")
    steps = [append(log, "c\nd\n"), append(log.with_name("b.log"), "e\n"), append(log, "f\n")]
    assert list(read(log, 1, *steps)) == [("a-1", "b"), ("a-1", "c"), ("a-1", "d"), ("b-1", "e"), ("a-1", "f")]


def test_a_line_comes_when_it_is_complete_or_the_run_is_over(log: Path) -> None:
    steps = [append(log, "ab"), append(log, "c"), append(log, "d\nef")]
    assert list(read(log, None, *steps)) == [("a-1", "abcd"), ("a-1", "ef")]


def test_bytes_that_are_no_text_do_no_harm(log: Path) -> None:
    append(log, "a\xffb\n")()
    assert list(read(log)) == [("a-1", "a\N{REPLACEMENT CHARACTER}b")]


def test_workers_that_a_scaled_stage_has_got_have_logs_too(folder: RunFolder) -> None:
    for worker in ("clean-3", "clean-4"):
        folder.log(worker).write_text("here\n")
    assert list(logs_of(folder, "clean")) == ["clean-1", "clean-2", "clean-3", "clean-4"]
