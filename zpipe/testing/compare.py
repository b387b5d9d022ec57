"""Whether what came out of a stage is what a test says; knows no stage."""

from __future__ import annotations

import math
from typing import Any

from zpipe.values.context import Output

REL_TOL = 1e-9  # of floats


def simple(value: Any) -> Any:
    """Return `value` with its arrays, and tuples, as nested lists; what goes to a named output is a dict."""
    if isinstance(value, Output):
        return {"output": value.name, "value": simple(value.value)}
    if isinstance(value, dict):
        return {key: simple(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [simple(x) for x in value]
    return value.tolist() if hasattr(value, "dtype") else value


def same(expected: Any, got: Any) -> bool:
    """Compare values as `simple` returns them: all exactly, but floats to nine digits; nan is nan."""
    if isinstance(expected, dict):
        both = isinstance(got, dict) and expected.keys() == got.keys()
        return both and all(same(x, got[key]) for key, x in expected.items())
    if isinstance(expected, list):
        both = isinstance(got, list) and len(expected) == len(got)
        return both and all(same(x, y) for x, y in zip(expected, got, strict=True))
    if isinstance(expected, bool) or isinstance(got, bool):
        return expected is got
    if isinstance(expected, float) or isinstance(got, float):
        both = isinstance(expected, int | float) and isinstance(got, int | float)
        return both and (math.isclose(expected, got, rel_tol=REL_TOL) or (expected != expected and got != got))
    return bool(expected == got)
