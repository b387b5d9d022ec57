"""The [[test]] tables of a pipeline: their keys and their check.

A test feeds one stage with items and says what it must make of them.  Refuses to know how that is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zpipe.values.faults import did_you_mean
from zpipe.values.options import not_plain
from zpipe.values.stage import StageSpec
from zpipe.values.stagecheck import Found

KEYS = ("name", "stage", "input", "output")


def title(test: Any, number: int) -> str:
    """Return what a test is called: its name, or its number, from 0, told as people count."""
    name = test.get("name") if isinstance(test, Mapping) else None
    return f"test {name!r}" if isinstance(name, str) else f"test {number + 1}"


def check_tests(tests: Sequence[Any], stages: Sequence[StageSpec]) -> Found:
    """Find tests that cannot be run on these stages."""
    for number, test in enumerate(tests):
        at, what = f"test.{number}", title(test, number)
        if not isinstance(test, Mapping):
            yield at, f"{what} is {test!r}: write a table [[test]] with stage, input and output"
            continue
        for key in test:
            if key not in KEYS:
                yield f"{at}.{key}", f"{what} has the unknown key {key!r}{did_you_mean(str(key), KEYS)}"
        if not isinstance(test.get("name", ""), str):
            yield f"{at}.name", f"{what}: name is {test['name']!r}: write text, or leave it out"
        if bad := _bad_stage(test, stages):
            yield f"{at}.stage", f"{what} {bad}"
        for key in ("input", "output"):
            if key not in test:
                yield at, f"{what} has no {key}: add {key} = [...], the list of items"
            elif not isinstance(test[key], list):
                yield f"{at}.{key}", f"{what}: {key} is {test[key]!r}: write a list of items"
            elif said := not_plain(test[key], key):
                yield f"{at}.{key}", f"{what}: {said}: tests hold numbers, text, true, false, lists and tables"


def _bad_stage(test: Mapping[str, Any], stages: Sequence[StageSpec]) -> str | None:
    if "stage" not in test:
        return "has no stage: add stage = 'NAME'"
    name = test["stage"]
    spec = next((spec for spec in stages if spec.name == name), None)
    if spec is None:
        hint = did_you_mean(name, [spec.name for spec in stages]) if isinstance(name, str) else ""
        return f"is of stage {name!r}, but there is no such stage{hint}"
    return (
        f"is of stage {name!r}, which is a source and takes no items: test a stage with `from`"
        if spec.is_source
        else None
    )
