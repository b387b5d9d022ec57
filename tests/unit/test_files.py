"""Items in files, as the shell puts them in and takes them out."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from zpipe.cli import files
from zpipe.values.errors import ConfigError


def test_a_line_of_json_is_an_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text('{"a": [1, null]}\n\n"text"\n')
    assert list(files.read(str(file))) == [{"a": [1, None]}, "text"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"1\n2")))
    assert list(files.read("-")) == [1, 2]


def test_arrays_and_images_come_back_as_they_were(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    arrays = {"x": np.linspace(0, 1, 7), "n": np.int32([[1, 2]])}
    for item in (image, image[:, :, 0], arrays, np.float32([1.5, 2.5])):
        path = files.write(tmp_path / "out", 3, item)
        assert path.suffix == (".png" if isinstance(item, np.ndarray) and item.dtype == np.uint8 else ".npz")
        (again,) = files.read(str(path))
        wanted = item if isinstance(item, dict) else {"array": item} if path.suffix == ".npz" else item
        np.testing.assert_equal(again, wanted)
    np.save(tmp_path / "one.npy", image)
    np.testing.assert_equal(next(files.read(str(tmp_path / "one.npy"))), image)
    np.testing.assert_equal(files.value(f"@{tmp_path / 'one.npy'}"), image)


def test_what_is_neither_is_a_file_of_json(tmp_path: Path) -> None:
    path = files.write(tmp_path, 1, {"label": "cat", "p": [0.5, float("nan")], "raw": b"\1"})
    assert (path.name, json.loads(path.read_text())) == (
        "000001.json",
        {"label": "cat", "p": [0.5, None], "raw": "AQ=="},
    )


@pytest.mark.parametrize(("word", "item"), [("3", 3), ('"3"', "3"), ("a word", "a word"), ("[1, true]", [1, True])])
def test_a_word_is_json_or_a_text(word: str, item: object) -> None:
    assert files.value(word) == item


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("items.jsonl", b"1\n{x}\n", r"items.jsonl:2: is no JSON: .*: put one value on each line"),
        ("items.csv", b"1", r"items.csv: what is in it is not known by its name: use .jsonl"),
        ("items.npz", b"nonsense", r"items.npz: holds no arrays"),
        ("photo.png", b"nonsense", r"photo.png: is no image"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        list(files.read(str(tmp_path / name)))
    with pytest.raises(ConfigError, match="cannot be read: no such file"):
        list(files.read(str(tmp_path / "none.jsonl")))
