"""Items in files: JSON lines, arrays of numpy, and images, read from and written to.

Knows the formats by the ends of their names; `-` is JSON lines by the terminal's way.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zpipe.sinks.jsontext import text_of
from zpipe.values.errors import ConfigError

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
LINES = (".jsonl", ".ndjson", ".json")
KINDS = f"{', '.join((*LINES, '.npz', '.npy', *IMAGES))} or - for JSON lines"


def read(file: str) -> Iterator[Any]:
    """Yield the items of a file: a JSON value a line, the arrays of an .npz by name in one map, an image as an array.

    Raises ConfigError with the file and the line.
    """
    path = Path(file)
    suffix = path.suffix.lower()
    try:
        if file == "-":
            yield from _lines("stdin", sys.stdin.buffer)
        elif suffix in LINES:
            with open(path, "rb") as lines:
                yield from _lines(file, lines)
        elif suffix in (".npz", ".npy"):
            yield _arrays(path)
        elif suffix in IMAGES:
            yield _image(path)
        else:
            raise ConfigError(f"{file}: what is in it is not known by its name: use {KINDS}")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {(error.strerror or str(error)).lower()}") from None


def write(folder: Path, number: int, item: Any) -> Path:
    """Write an item into a file of its own, and return that: an image, arrays, or else JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = item if isinstance(item, Mapping) and item and all(map(is_array, item.values())) else None
    if is_array(item) and item.dtype.str[1:] == "u1" and item.ndim in (2, 3) and item.shape[2:] in ((), (3,), (4,)):
        path = folder / f"{number:06d}.png"
        _pillow().fromarray(item).save(path)
    elif is_array(item) or arrays is not None:
        import numpy as np

        path = folder / f"{number:06d}.npz"
        np.savez(path, **(arrays or {"array": item}))
    else:
        path = folder / f"{number:06d}.json"
        path.write_text(text(item) + "\n", encoding="utf-8")
    return path


def text(item: Any) -> str:
    """Return an item as one line of JSON; arrays as nested lists, bytes in Base64, what is not finite as null."""
    return text_of(_without_bytes(item), "null")


def value(word: str) -> Any:
    """Return the item that a word of a command line stands for: @FILE's first, a JSON value, or else the text."""
    if word.startswith("@"):
        return next(read(word[1:]))
    try:
        return json.loads(word)
    except ValueError:
        return word


def is_array(item: Any) -> bool:
    """Tell whether an item is an array of numpy."""
    return hasattr(item, "__array_interface__")


def _without_bytes(item: Any) -> Any:
    """Return an item with its bytes in Base64."""
    if isinstance(item, bytes | bytearray | memoryview):
        return base64.b64encode(item).decode()
    if isinstance(item, Mapping):
        return {key: _without_bytes(x) for key, x in item.items()}
    return [_without_bytes(x) for x in item] if isinstance(item, list | tuple) else item


def _lines(name: str, lines: Any) -> Iterator[Any]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{name}:{number}: is no JSON: {error}: put one value on each line") from None


def _arrays(path: Path) -> Any:
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            return {name: found[name] for name in found.files}
    except ValueError as error:
        raise ConfigError(f"{path}: holds no arrays of numbers: {error}") from None


def _image(path: Path) -> Any:
    import numpy as np

    pillow = _pillow()
    try:
        with pillow.open(path) as image:
            return np.asarray(image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB"))
    except (pillow.UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise ConfigError(f"{path}: is no image that can be read: {error}") from None


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise ConfigError("images take Pillow: pip install 'zpipe[images]'") from None
    return Image
