"""The tables of stages as they are written: what they read, one laid over another, one named from another folder.

Knows the keys that wire a stage or name its code, and that `args` and `env` hold keys of their own; no other key.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

WIRING = ("from", "join")
MERGED = ("args", "env")  # key by key; of all other keys the nearer one counts


def split_use(use: str) -> tuple[str, str]:
    """Return the file and the stage of a `use`, "" for the whole; two "" when it is neither."""
    file, _, stage = use.rpartition(":")
    if use.endswith(".toml"):
        return use, ""
    return (file, stage) if file.endswith(".toml") and stage else ("", "")


def is_table(value: Any) -> bool:
    """Tell whether it is one."""
    return isinstance(value, Mapping)


def entries_of(value: Any) -> list[Any]:
    """Return what `from` or `join` lists; one alone is a list too."""
    return list(value) if isinstance(value, list | tuple) else [value]


def read_of(entry: Any) -> str:
    """Return what an entry of `from` or `join` reads, "" for one that is misshapen."""
    read = entry.get("stage") if isinstance(entry, Mapping) else entry
    return read if isinstance(read, str) else ""


def reads_of(table: Any) -> Iterator[str]:
    """Yield all that a stage reads."""
    if is_table(table):
        for key in WIRING:
            yield from filter(None, map(read_of, entries_of(table.get(key))))


def reading(entry: Any, read: str) -> Any:
    """Return an entry that reads something else."""
    return {**entry, "stage": read} if isinstance(entry, Mapping) else read


def given_as(given: Any, entry: Any) -> Any:
    """Return what is given for `input`, the edge options that the part has for it on top."""
    if not isinstance(entry, Mapping):
        return given
    return {**(given if isinstance(given, Mapping) else {}), **entry, "stage": read_of(given)}


def laid(table: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table with another laid over; that of a part is laid over stage by stage."""
    is_part = "use" in table and not split_use(str(table["use"]))[1]
    out = dict(table)
    for key, value in over.items():
        old = out.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and (is_part or key in MERGED):
            value = _merged(old, value) if is_part else {**old, **value}
        out[key] = value
    return out


def _merged(old: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {key for key in over if isinstance(old.get(key), Mapping) and isinstance(over[key], Mapping)}
    return {**old, **over, **{key: _merged(old[key], over[key]) for key in both}}


def moved(table: Mapping[str, Any], was: Path, now: Path) -> dict[str, Any]:
    """Return a stage's table with its callable, or its part, named from another folder."""
    way = Path(os.path.relpath(was, now)).as_posix()
    out = dict(table)
    for key in ("run", "use"):
        value = table.get(key)
        head, colon, name = value.rpartition(":") if isinstance(value, str) else ("", "", "")
        if key == "use" and isinstance(value, str) and not os.path.isabs(value):
            out[key] = posixpath.normpath(posixpath.join(way, value))
        elif head and way != "." and _is_there(head, was):
            out[key] = posixpath.normpath(posixpath.join(way, head)) + colon + name
    if isinstance(cmd := table.get("cmd"), list):
        out["cmd"] = [_from(word, was, way) for word in cmd]
    return out


def _from(word: Any, was: Path, way: str) -> Any:
    """Return a word of a `cmd` from another folder, where it names a file."""
    is_file = isinstance(word, str) and not os.path.isabs(word) and (was / word).is_file()
    return posixpath.normpath(posixpath.join(way, word)) if is_file else word


def _is_there(head: str, folder: Path) -> bool:
    """Tell whether a callable is named from its folder; other modules are found wherever the pipeline is."""
    if head.startswith("zpipe."):
        return False
    top = folder / head.split(".")[0]
    return "/" in head or head.endswith(".py") or top.with_suffix(".py").exists() or top.is_dir()
