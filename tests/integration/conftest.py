"""What the tests with real processes share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A folder with the stages of `stages.py`, in which nothing may be left running."""
    shutil.copy(Path(__file__).with_name("stages.py"), tmp_path)
    with Place(tmp_path) as place:
        yield place
        assert place.left() == []
