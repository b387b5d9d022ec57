"""Items as JSON; what JSON has not is refused with its place."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

from zpipe.sinks.files import Item
from zpipe.values.errors import ConfigError, EncodeError

ARRAY_MAX = 4096  # numbers of an array that is written as a list


def check_nan(nan: str) -> str:
    """Return what is to become of nan.  Raises ConfigError."""
    if nan not in ("error", "null"):
        raise ConfigError(f"nan is {nan!r}: it must be 'error' or 'null'")
    return nan


def to_json(item: Item, nan: str) -> str:
    """Return an item as JSON in one line.  Raises EncodeError."""
    try:
        return text_of(item.value, nan)
    except EncodeError as error:
        raise EncodeError(f"cannot write {item.path}: {error}") from None


def text_of(value: Any, nan: str) -> str:
    """Return a value as JSON in one line; `nan` is as `check_nan` wants it.  Raises EncodeError."""
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError):
        return _encode(_plain(value, "item", nan))  # once more, slowly, to find out what and where


def _plain(value: Any, place: str, nan: str) -> Any:
    """Return `value` in the types of JSON.  Raises EncodeError naming the place that has none."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str | int):
                raise EncodeError(f"{place} has the key {key!r:.40}, and keys of JSON are text: map them to text first")
        return {key: _plain(x, f"{place}[{key!r:.40}]", nan) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x, f"{place}[{i}]", nan) for i, x in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        if nan == "null":
            return None
        raise EncodeError(f"{place} is {value}, which JSON has not: send None instead, or set nan = 'null'")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    try:
        return _plain(_simple(value), place, nan)
    except TypeError as error:
        raise EncodeError(f"{place} is {error}") from None


def _simple(value: Any) -> Any:
    """Return lists and numbers for those of numpy, text for times.  Raises TypeError."""
    if isinstance(value, datetime):
        return value.isoformat()
    kind = f"a {type(value).__name__}"
    if hasattr(value, "dtype"):
        if value.size > ARRAY_MAX:
            what = f"an array of {value.size} numbers, and a list of JSON may have {ARRAY_MAX}"
            raise TypeError(f"{what}: map it to fewer, or write a sink of your own with commit(items)")
        if value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
            return value.tolist()
        kind = f"an array of {value.dtype}" if value.ndim else f"a {value.dtype}"
    raise TypeError(f"{kind}, which JSON has not: map it to text, numbers or lists first")


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_simple).encode
