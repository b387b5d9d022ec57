"""The options of a stage: names, types, defaults and rules.  A new option is one more field of `Options`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

VARIANT_TEXT = re.compile(r"[A-Za-z0-9_.+-]+")
RANGE = re.compile(r"([1-9][0-9]*)\.\.([1-9][0-9]*)")


@dataclass(frozen=True)
class Rule:
    """What a value must be.

    `broken` returns the rule in words when the value breaks it, None when it holds; `shape` is as much of the
    rule as JSON Schema can say, and refuses nothing that the rule takes.
    """

    broken: Callable[[Any], str | None]
    shape: Mapping[str, Any]

    def __call__(self, value: Any) -> str | None:
        return self.broken(value)


def shaped(**shape: Any) -> Callable[[Callable[[Any], str | None]], Rule]:
    """Make a rule of a function, with its shape in JSON Schema."""
    return lambda broken: Rule(broken, shape)


def whole(least: int) -> Rule:
    """Return the rule of a whole number."""

    def rule(value: Any) -> str | None:
        good = isinstance(value, int) and not isinstance(value, bool) and value >= least
        return None if good else f"must be a whole number, at least {least}"

    return Rule(rule, {"type": "integer", "minimum": least})


@shaped(type=["integer", "string"], minimum=1, pattern=f"^{RANGE.pattern}$")
def _workers(value: Any) -> str | None:
    if not isinstance(value, str):
        return whole(1)(value)
    if not (found := RANGE.fullmatch(value)):
        return 'must be a whole number, at least 1, or a range like "1..8"'
    return None if int(found[1]) <= int(found[2]) else 'must be a range with the least first, like "1..8"'


def word(*words: str) -> Rule:
    """Return the rule of a word out of these."""
    text = f"must be one of {', '.join(map(repr, words))}"
    return Rule(lambda value: None if value in words else text, {"enum": list(words)})


@shaped(type="string", pattern="^(path|position|field:.+)$")
def _on(value: Any) -> str | None:
    good = isinstance(value, str) and (value in ("path", "position") or re.fullmatch("field:.+", value))
    return None if good else "must be 'path', 'position' or 'field:NAME'"


@shaped(type="number", minimum=0)
def _seconds(value: Any) -> str | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    return None if good else "must be a number of seconds, at least 0"


@shaped(type="number", exclusiveMinimum=0)
def _timeout(value: Any) -> str | None:
    return "must be a number of seconds, more than 0" if _seconds(value) or not value else None


@shaped(type="boolean")
def switch(value: Any) -> str | None:
    """Return the rule that a value which is neither true nor false breaks."""
    return None if isinstance(value, bool) else "must be true or false"


@shaped(type="object", additionalProperties={"type": "string"})
def _env(value: Any) -> str | None:
    good = isinstance(value, dict) and all(isinstance(x, str) for pair in value.items() for x in pair)
    return None if good else 'must be a table of text, like { OMP_NUM_THREADS = "1" }'


@shaped(type="array", minItems=1, items={"type": "string", "minLength": 1})
def _cmd(value: Any) -> str | None:
    good = isinstance(value, list) and value and all(isinstance(x, str) and x and "\0" not in x for x in value)
    return None if good else 'must be a program and its arguments, like ["node", "worker.js"]'


PORTS = ("push", "pull", "call")
_PORT = {"type": "integer", "minimum": 0, "maximum": 65535}


@shaped(
    type="object",
    properties={**dict.fromkeys(PORTS, _PORT), "host": {"type": "string"}, "lease_s": {"type": "number"}},
    additionalProperties=False,
    anyOf=[{"required": [key]} for key in PORTS],
)
def _listen(value: Any) -> str | None:
    if not isinstance(value, dict) or not any(key in value for key in PORTS):
        return "must be a table of ports, like { call = 6003 }, or { push = 6001, pull = 6002, call = 6003 }"
    for key, x in value.items():
        if key in PORTS:
            if type(x) is not int or not 0 <= x <= 65535:
                return f"has {x!r} for {key}: it is a port, 0 for any that is free"
        elif key == "host":
            if not isinstance(x, str) or not x:
                return f"has {x!r} for host: it is an address of this host, like '127.0.0.1'"
        elif key == "lease_s":
            if _timeout(x):
                return f"has {x!r} for lease_s: it is a number of seconds, more than 0"
        else:
            return f"has {key!r}, which is none of {', '.join(PORTS)}, host and lease_s"
    ports = [value[key] for key in PORTS if value.get(key)]
    if len(set(ports)) < len(ports):
        return "has one port for two of its addresses: give each its own"
    if "push" in value and "pull" not in value:
        return "has push, where work goes out, without pull, where the results come in: give both"
    return None


@shaped(type="array", items={"type": ["integer", "string"]}, uniqueItems=True)
def _devices(value: Any) -> str | None:
    if not isinstance(value, list) or not all(type(x) in (int, str) for x in value):
        return "must be a list of device numbers or ids, like [0, 1]"
    return None if len({str(x) for x in value}) == len(value) else "must name each device once"


_VARIANT = {"type": ["boolean", "number", "string"], "pattern": f"^{VARIANT_TEXT.pattern}$"}


@shaped(type="object", additionalProperties={"type": "array", "minItems": 1, "items": _VARIANT})
def _grid(value: Any) -> str | None:
    if not isinstance(value, dict) or not all(isinstance(values, list) for values in value.values()):
        return "must be a table of lists, like { lr = [0.1, 0.01] }"
    for key, values in value.items():
        if not values:
            return f"has no values for {key!r}: give at least one or leave {key!r} out"
        for x in values:
            if not isinstance(x, bool | int | float | str) or not VARIANT_TEXT.fullmatch(str(x)):
                return f"has {x!r} for {key!r}, but values name variants: numbers, true, false or plain words"
        if len({str(x) for x in values}) < len(values):
            return f"repeats a value of {key!r}: each names a variant of its own"
    return None


def _option(default: Any, rule: Rule, says: str, *, of: str = "") -> Any:
    """Declare an option.

    `says` is what an editor shows, and the table of the pages; `of` is "source" or "reader" (a stage with
    inputs) when only those have it.
    """
    meta = {"rule": rule, "says": says, "of": of}
    if isinstance(default, dict | list):
        return field(default_factory=type(default), hash=False, metadata=meta)
    return field(default=default, metadata=meta)


@dataclass(frozen=True)
class Options:
    """What a stage may be told, beside its callable's own args.

    Values are kept as given, in plain types; `broken` tells which break their rule.
    """

    workers: int | str = _option(
        1,
        _workers,
        'processes; 1 for a stage with memory, at most `partitions` for a source; `"1..8"`: as many as it needs',
    )
    epochs: int = _option(1, whole(1), "how often it is called", of="source")
    partitions: int = _option(1, whole(1), "streams of their own", of="source")
    replay: str = _option("skip", word("seek", "skip", "no"), '`"skip"`, `"seek"` or `"no"`', of="source")
    ordered: bool = _option(False, switch, "inputs in source order", of="reader")
    checkpoint: int | None = _option(
        None, whole(1), "save every so many items; needs `state` and `restore`", of="reader"
    )
    cmd: list[str] | None = _option(
        None, _cmd, 'in place of `run`: a program in any language, like `["node", "worker.js"]`', of="reader"
    )
    listen: dict[str, Any] | None = _option(
        None,
        _listen,
        "a gate: the ports at which workers and clients in any language take part, like `{ call = 6003 }`",
    )
    batch_size: int | None = _option(
        None, whole(1), "most items of one call: it takes a list and returns a list", of="reader"
    )
    stacked: bool = _option(
        False, switch, "a call for a block takes an array (n, ...) of its items; a source yields such arrays"
    )
    max_wait_s: float = _option(0.0, _seconds, "how long a block of `batch_size` waits to fill", of="reader")
    on: str = _option("path", _on, 'of a join: `"path"` below a fork, else `"position"` or `"field:NAME"`', of="reader")
    within: int | None = _option(
        None, whole(0), "of a join on a field: positions of its source that an item waits for a partner", of="reader"
    )
    unmatched: str = _option(
        "drop", word("drop", "stop"), "of a join: what becomes of an item that finds no partner", of="reader"
    )
    retries: int | None = _option(
        None, whole(0), "how often an item that failed is tried again; unset: 3 times if its worker died", of="reader"
    )
    on_error: str = _option(
        "stop",
        word("stop", "skip", "dead-letter"),
        'then the run ends (`"stop"`), or goes on without the item: `"skip"`, or keep it as a `"dead-letter"`',
        of="reader",
    )
    timeout: float | None = _option(
        None, _timeout, "seconds that a call may take, else its worker is killed and it has failed", of="reader"
    )
    grid: dict[str, list[Any]] = _option(
        {}, _grid, "a table of lists: one variant per combination, its values among the args"
    )
    env: dict[str, str] = _option({}, _env, "environment of its workers, set before your code is imported")
    gpus: int = _option(0, whole(0), "checked; without effect so far")
    devices: list[int | str] = _option([], _devices, "checked; without effect so far")

    @property
    def scales_itself(self) -> bool:
        """Tell whether the number of its workers is for the run to find."""
        return isinstance(self.workers, str)

    @property
    def worker_range(self) -> tuple[int, int]:
        """Return the least and the most workers, equal unless it scales itself; of a good value only."""
        least, _, most = str(self.workers).partition("..")
        return int(least), int(most or least)

    def broken(self) -> dict[str, str]:
        """Return the rule in words for each option whose value breaks it."""
        out = {}
        for name, value in self.given().items():
            rule = FIELDS[name].metadata["rule"](value)
            if rule is not None:
                out[name] = f"{rule}, not {value!r}" if rule.startswith("must") else rule
        return out

    def given(self) -> dict[str, Any]:
        """Return the options that differ from their defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if not _same(getattr(self, f.name), f)}


FIELDS = {f.name: f for f in fields(Options)}
SOURCE_ONLY = frozenset(name for name, f in FIELDS.items() if f.metadata["of"] == "source")
READER_ONLY = frozenset(name for name, f in FIELDS.items() if f.metadata["of"] == "reader")

# Words of pipelines that this version refuses with a line of their own instead of a "did you mean".
LATER = frozenset(("python", "image", "restart", "outputs"))


def default_of(f: Any) -> Any:
    """Return the default of a field of `Options`."""
    return f.default_factory() if f.default is MISSING else f.default


def _same(value: Any, f: Any) -> bool:
    default = default_of(f)
    return type(value) is type(default) and bool(value == default)


def sort_options(raw: Mapping[str, Any]) -> tuple[Options, dict[str, Any]]:
    """Return the options that exist, typed, and what is left over."""
    known = {key: value for key, value in raw.items() if key in FIELDS}
    return Options(**known), {key: value for key, value in raw.items() if key not in FIELDS}


def plain(value: Any) -> Any:
    """Return `value` in the types that TOML has where that loses nothing: tuples as lists, paths as text."""
    if isinstance(value, Mapping):
        return {key: plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [plain(x) for x in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def not_plain(value: Any, path: str) -> str | None:
    """Return the first place in `value` that TOML cannot hold, with its type; None when all is plain."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                return f"{path} has the key {key!r} ({type(key).__name__})"
        return next((bad for k, x in value.items() if (bad := not_plain(x, f"{path}.{k}"))), None)
    if isinstance(value, list):
        return next((bad for i, x in enumerate(value) if (bad := not_plain(x, f"{path}[{i}]"))), None)
    if type(value) is int:
        return None if -(2**63) <= value < 2**63 else f"{path} is past 64 bits"
    return None if type(value) in (bool, float, str) else f"{path} is a {type(value).__name__}"
