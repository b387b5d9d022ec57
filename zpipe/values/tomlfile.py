"""Pipeline files: TOML text to a plain dict and back, with the line of every key.

Knows variables and `--set`; refuses to know what the keys mean, but for which are a stage's options.

`${NAME:-default}` in a text is replaced by the environment's NAME, or by the default where NAME is unset or
empty; `${NAME}` must be set; `$${` stands for `${`.  A text that is nothing but one variable becomes the TOML
value that this spells (`"${N:-3}"` is the number 3, `"${DATA:-data/}"` stays text); under `env` all is text.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from zpipe.values.errors import ConfigError
from zpipe.values.faults import Fault, did_you_mean
from zpipe.values.options import FIELDS

VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}|\$\{[^}]*\}?")
HEADER = re.compile(r"\s*\[(\[)?\s*([A-Za-z_][^\[\]]*)\]\]?\s*(#.*)?")
PART = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
KEY = re.compile(rf"\s*({PART}(?:\s*\.\s*{PART})*)\s*=")
NESTING_MAX = 64
KEYS_OF_STAGE = frozenset((*FIELDS, "run", "from", "join", "args"))


@dataclass
class Document:
    """What a file holds, variables replaced: `places` map dotted paths to file:line, "" to the file."""

    data: dict[str, Any]
    places: dict[str, str]
    faults: list[Fault] = field(default_factory=list)


def read(path: Path) -> Document:
    """Read a pipeline file; ConfigError when it is not there or is no TOML."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        near = did_you_mean(path.name, _beside(path))
        raise ConfigError(f"{path}: cannot be read: {(e.strerror or str(e)).lower()}{near}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not text in UTF-8, as a pipeline file must be") from None
    except ValueError:
        raise ConfigError(f"{str(path)!r} is no name of a file") from None
    try:
        data = _parse(text)
    except ValueError as e:
        line = re.search(r"\(at line (\d+)", str(e))
        where = f"{path}:{line[1]}" if line else str(path)
        raise ConfigError(f"{where}: is not TOML: {re.sub(r' [(]at .*', '', str(e)).lower()}") from None
    read = Document({}, _lines(text, str(path)))
    read.data = _substitute(data, (), os.environ, read)
    return read


def _beside(path: Path) -> list[str]:
    try:
        return [p.name for p in path.parent.glob("*.toml")]
    except OSError:  # no folder has such a name
        return []


def write(path: Path, data: Mapping[str, Any]) -> None:
    """Write `data` as a pipeline file that reads as the same; ConfigError when TOML cannot hold it."""
    try:
        text = tomli_w.dumps(_escape(data))
    except TypeError as e:
        raise ConfigError(f"{path}: cannot be written: {e}") from None
    path.write_text(text, encoding="utf-8")


def apply_sets(stages: dict[str, Any], sets: Sequence[str], places: dict[str, str]) -> list[Fault]:
    """Change the tables of stages as `sets` say and note them as places; return the faults.

    "stage.key=value" sets the option `key` if there is one, else the arg; "stage.args.key", "stage.env.KEY"
    and "stage.grid.key" reach inside.  The value is TOML, or text where it is no TOML.
    """
    faults = []
    for text in sets:
        where = f"--set {text}"
        left, equals, value = text.partition("=")
        keys = tuple(left.strip().split("."))
        if not equals or len(keys) < 2 or not all(keys):
            faults.append(Fault(where, "is not of the form stage.key=value"))
        elif not isinstance(stages.get(keys[0]), dict):
            inner = [name for name in stages if name.startswith(f"{keys[0]}-")]
            hint = f": it has parts, like {inner[0]!r}" if inner else did_you_mean(keys[0], stages)
            faults.append(Fault(where, f"there is no stage {keys[0]!r}{hint}"))
        else:
            path = keys if keys[1] in KEYS_OF_STAGE else (keys[0], "args", *keys[1:])
            table = stages
            for key in path[:-1]:
                table[key] = dict(table.get(key, {})) if isinstance(table.get(key, {}), dict) else table[key]
                table = table[key]
                if not isinstance(table, dict):
                    faults.append(Fault(where, f"{key!r} holds {table!r} and has nothing inside to set"))
                    break
            else:
                table[path[-1]] = value if path[1] == "env" and len(path) > 2 else toml_value(value.strip())
                places[".".join(("stage", *path))] = where
    return faults


def toml_value(text: str) -> Any:
    """Return the value that `text` spells in TOML, or `text` itself where it is none (dates stay text)."""
    try:
        value = _parse(f"x = {text}")
    except ValueError:
        return text
    if len(value) != 1 or not isinstance(value["x"], bool | int | float | str | list | dict):
        return text
    return value["x"]


def _parse(text: str) -> dict[str, Any]:
    """Return what TOML text holds.  Raises ValueError, for what nests too deep to be handled too."""
    too_deep = f"it nests deeper than {NESTING_MAX}"
    try:
        data = tomllib.loads(text)
    except RecursionError:
        raise ValueError(too_deep) from None
    level: list[Any] = [data]
    for _ in range(NESTING_MAX + 1):
        if not level:
            return data
        level = [x for value in level if isinstance(value, dict | list) for x in _inner(value)]
    raise ValueError(too_deep)


def _inner(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _substitute(value: Any, path: tuple[str, ...], environ: Mapping[str, str], read: Document) -> Any:
    if isinstance(value, dict):
        return {key: _substitute(x, (*path, key), environ, read) for key, x in value.items()}
    if isinstance(value, list):
        at = [(*path, str(i)) if isinstance(x, dict) else path for i, x in enumerate(value)]
        return [_substitute(x, k, environ, read) for x, k in zip(value, at, strict=True)]
    if not isinstance(value, str) or "${" not in value:
        return value

    def replacement(found: re.Match[str]) -> str:
        name, has_default, default = found.groups()
        if found[0] == "$${":
            return "${"
        if name is None:
            fault(f"{found[0]!r} is no variable: write ${{NAME:-default}}, or $${{ for a plain ${{")
        elif has_default:
            return environ.get(name) or str(default)
        elif name in environ:
            return environ[name]
        else:
            fault(f"the environment has no {name}: set it, or write ${{{name}:-default}}")
        return found[0]

    def fault(text: str) -> None:
        dotted = ".".join(path)
        while dotted not in read.places and "." in dotted:
            dotted = dotted.rpartition(".")[0]
        read.faults.append(Fault(read.places.get(dotted, ".".join(path)), f"{'.'.join(path)}: {text}"))

    whole = VARIABLE.fullmatch(value)
    text = VARIABLE.sub(replacement, value)
    is_env = path[:2] == ("defaults", "env") or (path[:1] == ("stage",) and path[2:3] == ("env",))
    return toml_value(text) if whole and whole[1] and not is_env else text


def _escape(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _escape(x) for key, x in value.items()}
    if isinstance(value, list):
        return [_escape(x) for x in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


def _lines(text: str, file: str) -> dict[str, str]:
    """Map each dotted key to file:line; a scan of lines, so long texts may add keys that are none."""
    out = {"": file}
    table = ""
    counts: Counter[str] = Counter()  # of the tables of a list, [[test]]
    for number, line in enumerate(text.splitlines(), 1):
        if header := HEADER.fullmatch(line):
            table = _dotted(header[2])
            out.setdefault(table, f"{file}:{number}")
            if header[1]:
                counts[table] += 1
                table = f"{table}.{counts[table] - 1}"
                out[table] = f"{file}:{number}"
        elif key := KEY.match(line):
            parts = f"{table}.{_dotted(key[1])}".strip(".").split(".")
            for n in range(table.count(".") + 2 if table else 1, len(parts) + 1):
                out.setdefault(".".join(parts[:n]), f"{file}:{number}")
    return out


def _dotted(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))
