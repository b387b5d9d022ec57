"""Dead letters as files: what is kept, what is refused, and paths of items that go again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zpipe.processes.letters import Letter, Letters, decode, encode
from zpipe.processes.retry import claimed
from zpipe.processes.runfolder import RunFolder
from zpipe.processes.trouble import Doomed
from zpipe.values.errors import ConfigError, ProtocolError, SaveError
from zpipe.values.paths import Again, Run
from zpipe.wire.body import encode_item


def letter(path: str = "crops:17.3", value: Any = 1, stage: str = "fit/lr=0.1", **more: Any) -> Letter:
    fields: dict[str, Any] = {"error": "raised ValueError: no", "detail": "Traceback", "worker": "fit-1", "tries": 2}
    return Letter(stage, path, deaths=0, time=5.0, run=Run(0, 17, (3,), 1, [encode_item(value)]), **{**fields, **more})


def test_a_letter_is_read_as_it_was_written(tmp_path: Path) -> None:
    letters = Letters(tmp_path / "dead")
    wrote = letter(value={"x": np.arange(100_000.0), "name": "n"})
    letters.keep(wrote)
    (found,) = letters.read()
    assert found.facts() == wrote.facts()
    assert found.value["name"] == "n"
    assert np.array_equal(found.value["x"], np.arange(100_000.0))
    assert (letters.stages(), letters.paths("fit/lr=0.1")) == (["fit/lr=0.1"], {"crops:17.3"})


def test_an_item_that_is_given_up_twice_is_one_letter(tmp_path: Path) -> None:
    letters = Letters(tmp_path / "dead")
    letters.keep(letter(tries=1))
    letters.keep(letter(tries=4))
    assert [found.tries for found in letters.read()] == [4]


def test_what_another_process_writes_is_seen(tmp_path: Path) -> None:
    mine, others = Letters(tmp_path / "dead"), Letters(tmp_path / "dead")
    assert "crops:1" not in mine.known("a")
    for n in range(1200):
        others.keep(letter(f"crops:{n}", stage="a"))
        if n % 100 == 0 or n > 1190:
            assert f"crops:{n}" in mine.known("a")
    assert mine.count("a") == 1200
    assert "crops:1200" not in mine.known("a")


def test_letters_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    letters = Letters(tmp_path / "dead")
    for path in ("crops:10", "crops:9", "crops:9.2", "boxes:30"):
        letters.keep(letter(path))
    assert [found.path for found in letters.read()] == ["boxes:30", "crops:9", "crops:9.2", "crops:10"]


def test_a_letter_that_is_removed_is_gone(tmp_path: Path) -> None:
    letters = Letters(tmp_path / "dead")
    letters.keep(letter())
    letters.remove("fit/lr=0.1", "crops:17.3")
    letters.remove("fit/lr=0.1", "crops:17.3")
    assert list(letters.read()) == [] == letters.stages()


@pytest.mark.parametrize(
    "path", ["numbers>left:500#ab12", "crops[1]:3", "a>fit/lr=0.1,width=64:7.0.2", "träume:1", "a/../../b:1"]
)
def test_any_path_is_the_name_of_a_file(tmp_path: Path, path: str) -> None:
    letters = Letters(tmp_path / "dead")
    letters.keep(letter(path))
    assert letters.paths("fit/lr=0.1") == {path}
    assert os.listdir(tmp_path) == ["dead"]


def test_a_file_that_was_altered_or_cut_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = encode(letter())
    for length in range(len(whole)):
        with pytest.raises(ProtocolError):
            decode(whole[:length])
    for at in range(len(whole)):
        with pytest.raises(ProtocolError):
            decode(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    letters = Letters(tmp_path / "dead")
    letters.keep(letter())
    (file,) = (tmp_path / "dead").rglob("*.letter")
    file.write_bytes(whole[:-1])
    with pytest.raises(SaveError, match=r"cannot be read \(it was altered, or cut off\): move it away"):
        list(letters.read())


def test_letters_of_a_run_that_somebody_has_do_not_go_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with claimed(run), pytest.raises(ConfigError, match="is still under way"), claimed(RunFolder(tmp_path)):
        pass
    with claimed(RunFolder(tmp_path)):
        assert run.lock is None


def test_an_item_that_a_worker_died_of_once_is_said_to_have_died_once() -> None:
    doomed = Doomed(1, "killed by SIGSEGV\nFatal Python error")
    assert str(doomed) == "its worker died once while running it, the last time: killed by SIGSEGV"
    assert doomed.detail == "Fatal Python error"


def test_items_that_go_again_have_the_paths_that_they_had() -> None:
    paths, epochs = ["a>left:500.3#ab", "a:2"], [4, 0]
    names = {0: Again("dead-fit", "", paths, epochs), 1: Again("dead-fit", ">out", ["a:500.3", "a:2"], epochs)}
    assert Run(0, 0, (), 2, None).text(names, 0) == "a>left:500.3#ab"
    assert Run(0, 0, (), 2, None).text(names, 1) == "a:2"
    assert Run(0, 1, (4, 0), 3, None).text(names, 2) == "a:2.4.2"
    assert Run(1, 0, (7,), 1, None, digest=0xCD).text(names) == "a>out:500.3.7#cd"
    assert Run(1, 2, (), 1, None).text(names) == "dead-fit>out:2"
    assert [Run(1, 0, (), 3, None, epoch=9).epoch_of(names, k) for k in range(3)] == [4, 0, 9]
