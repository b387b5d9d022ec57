"""The page of bounds says what the code holds."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from zpipe.core.limits import Limits, RegistryLimits

PAGE = (Path(__file__).parents[2] / "docs" / "delivery.md").read_text(encoding="utf-8")
NAMED = [
    (limits, field.name)
    for limits in (Limits(), RegistryLimits())
    for field in fields(limits)
    if f"`{field.name}`" in PAGE
]


def written(name: str, value: float) -> str:
    """Return the value as the page writes it."""
    if name.endswith("_s"):
        return f"{value:g} s" if value >= 0.1 else f"{value * 1000:g} ms"
    if name.endswith("_bytes"):
        return f"{value // 2**20} MiB" if value >= 2**20 else f"{value // 1024} KiB"
    return f"{value}"


def test_the_page_names_the_limits() -> None:
    assert len(NAMED) >= 15


@pytest.mark.parametrize(("limits", "name"), NAMED, ids=[name for _, name in NAMED])
def test_a_bound_on_the_page_is_the_one_in_the_code(limits: object, name: str) -> None:
    row = next(line for line in PAGE.splitlines() if f"`{name}`" in line and line.startswith("|"))
    assert re.search(rf"(?<![\d.]){re.escape(written(name, getattr(limits, name)))}\b", row), row
