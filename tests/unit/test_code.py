"""The user's code by its digests: which modules count, and what is said of others."""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from zpipe.values.callables import FILE_MODULE, resolve
from zpipe.values.code import difference, imported


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a module of the user's, which is imported as `own_stages`."""
    file = tmp_path / "own_stages.py"
    file.write_text("x = 1\n")
    module = ModuleType("own_stages")
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, "own_stages", module)
    return file


def test_the_users_own_modules_count_and_no_others(own: Path) -> None:
    found = imported(own.parent)
    assert found["own_stages"] == sha256(b"x = 1\n").hexdigest()
    assert np.__name__ not in found and "json" not in found
    assert not [name for name in found if name.partition(".")[0] == "zpipe"]


def test_what_is_the_same_or_new_is_no_difference(own: Path) -> None:
    assert difference(imported(own.parent), own.parent) == ""
    assert difference({}, own.parent) == ""


def test_another_file_is_named_with_both_digests(own: Path) -> None:
    code = imported(own.parent)
    own.write_text("x = 2\n")
    here = sha256(b"x = 2\n").hexdigest()
    assert difference(code, own.parent) == f"{own} (sha256 {here[:12]}, there {code['own_stages'][:12]})"


def test_a_file_that_is_gone_is_not_compared(own: Path) -> None:
    code = imported(own.parent)
    own.unlink()
    assert difference(code, own.parent) == ""


def test_a_file_that_is_imported_by_its_path_goes_by_its_way_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = []
    for checkout in ("a", "b"):
        file = tmp_path / checkout / "parts" / "st.py"
        file.parent.mkdir(parents=True)
        file.write_text(f"name = {checkout!r}\ndef f(x):\n    return x\n")
        monkeypatch.chdir(tmp_path / checkout)
        resolve("parts/st.py:f", tmp_path / checkout)
        codes.append(imported(tmp_path / checkout))
        for name in [name for name in sys.modules if name.startswith(FILE_MODULE)]:
            monkeypatch.delitem(sys.modules, name)
    assert [code["parts/st.py"] for code in codes] == [
        sha256(f"name = {checkout!r}\ndef f(x):\n    return x\n".encode()).hexdigest() for checkout in "ab"
    ]
