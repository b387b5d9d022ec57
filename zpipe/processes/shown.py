"""Items for people to look at: one line of text, or JSON; both bounded, whatever the item is.

An array is not copied and not walked through: of a large one every k-th value is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from itertools import islice
from typing import Any

LOOKED_AT = 2**18  # values of an array that min and max are of
DEPTH_MAX = 8
KEY_MAX = 200  # characters of a key of a map


@dataclass
class Room:
    """How much of an item may still be shown, of `values` and of `chars` in texts; the rest is of each of them."""

    values: int
    chars: int
    text: int  # characters of a text
    listed: int  # values of a list
    first: int  # values of an array that is not shown whole

    def cut(self, text: Any) -> Any:
        """Return as much of a text, or of bytes, as there is room for."""
        kept = text[: min(self.text, self.chars)]
        self.chars -= len(kept)
        return kept


def as_text(value: Any) -> str:
    """Write an item as one line: `{'x': float32 (2, 3) 0..5 [0 1 2 3 ...], 'name': 'row 3'}`."""
    return _text(value, Room(values=50, chars=1000, text=80, listed=6, first=4), DEPTH_MAX)


def as_json(value: Any) -> Any:
    """Return an item as JSON can hold it: arrays as lists, what is too large as an object that says what it is.

    Of an array that is its dtype, shape, min, max and first values; of a text, bytes, a list or a map the first
    of it with its length.  What JSON has no number for is a text: "NaN", "Infinity".
    """
    return _json(value, Room(values=2000, chars=100_000, text=10_000, listed=2000, first=8), DEPTH_MAX)


def too_large(nbytes: int) -> str:
    """Say of an item that is not taken apart how large it is."""
    return f"an item of {nbytes:,} bytes besides its arrays, too large to show"


def _text(value: Any, room: Room, depth: int) -> str:
    room.values -= 1
    if _is_array(value):
        low, high, about = _range(value)
        spread = "" if low is None else f" {'about ' if about else ''}{_number(low)}..{_number(high)}"
        first = [_number(x) for x in _first(value, room.first)]
        more = " ..." if value.size > len(first) else ""
        return f"{value.dtype} {tuple(value.shape)}{spread} [{' '.join(first)}{more}]"
    if isinstance(value, str | bytes):
        kept = room.cut(value)
        return f"{kept!r}... {len(value):,} long" if len(kept) < len(value) else repr(kept)
    if isinstance(value, dict):
        entries = [f"{_text(k, room, 0)}: {_text(x, room, depth - 1)}" for k, x in _kept(value.items(), room, depth)]
        return f"{{{_joined(entries, len(value))}}}"
    if isinstance(value, list | tuple):
        shown = [_text(x, room, depth - 1) for x in _kept(islice(value, room.listed), room, depth)]
        return f"[{_joined(shown, len(value))}]"
    return _number(value)


def _joined(shown: list[str], length: int) -> str:
    more = [f"... {length - len(shown):,} more"] if len(shown) < length else []
    return ", ".join(shown + more)


def _json(value: Any, room: Room, depth: int) -> Any:
    room.values -= 1
    if _is_array(value):
        if _lists(value.shape) <= room.values:
            room.values -= value.size
            return _json_list(value.tolist())
        low, high, _ = _range(value)
        first = [_plain(x) for x in _first(value, room.first)]
        return {"dtype": str(value.dtype), "shape": list(value.shape), "min": low, "max": high, "first": first}
    if isinstance(value, str):
        kept = room.cut(value)
        return {"text": kept, "length": len(value)} if len(kept) < len(value) else kept
    if isinstance(value, bytes):
        return {"hex": room.cut(value).hex(), "length": len(value)}
    if isinstance(value, dict):
        entries = {_key(k): _json(x, room, depth - 1) for k, x in _kept(value.items(), room, depth)}
        return entries if len(entries) == len(value) else {"first": entries, "length": len(value)}
    if isinstance(value, list | tuple):
        shown = [_json(x, room, depth - 1) for x in _kept(islice(value, room.listed), room, depth)]
        return shown if len(shown) == len(value) else {"first": shown, "length": len(value)}
    return _plain(value)


def _json_list(value: Any) -> Any:
    return [_json_list(x) for x in value] if isinstance(value, list) else _plain(value)


def _lists(shape: tuple[int, ...]) -> int:
    """Return how many values an array of this shape is as lists; an empty one may be many empty lists."""
    return math.prod(max(1, length) for length in shape)


def _kept(values: Iterable[Any], room: Room, depth: int) -> Iterator[Any]:
    """Yield as many values as there is room for, none below the deepest level."""
    for value in values:
        if room.values <= 0 or depth == 0:
            return
        yield value


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array_interface__") and value.shape != ()


def _first(array: Any, count: int) -> list[Any]:
    return list(array.reshape(-1)[:count].tolist())


def _range(array: Any) -> tuple[Any, Any, bool]:
    """Return the least and the largest value, None without one, and whether only some were looked at."""
    if not array.size or array.dtype.kind == "c":
        return None, None, False
    step = -(-array.size // LOOKED_AT)
    some = array.reshape(-1)[::step]
    return _plain(some.min()), _plain(some.max()), step > 1


def _number(value: Any) -> str:
    value = _plain(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """Return a value that is no container as JSON has it."""
    if hasattr(value, "dtype"):
        value = value.item() if value.dtype.kind not in "mM" else _time(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return value.isoformat() if isinstance(value, date) else str(value)[:KEY_MAX]


def _time(value: Any) -> str:
    try:
        return str(value)
    except ValueError:  # a moment without a unit
        return f"{value.view('i8')} of no unit"


def _key(key: Any) -> str:
    return (key if isinstance(key, str) else str(key))[:KEY_MAX]
