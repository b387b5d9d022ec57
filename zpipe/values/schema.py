"""The JSON Schema of pipeline files, for editors; made from the tables that the check itself goes by.

Knows the shape of a file and of each value; refuses to know callables, names that others refer to, and all that
needs a look at two places at once.  It takes whatever the check takes, unless a variable stands for `schema`, for
the defaults, for a whole stage or for the file of a part; the check finds more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zpipe.values.options import FIELDS, READER_ONLY, SOURCE_ONLY, default_of
from zpipe.values.stage import BUILT_INS, NAME
from zpipe.values.tables import KEEPS, SCHEMA

Shape = dict[str, Any]

TEXT: Shape = {"type": "string"}
VARIABLE = r"\$\{"
NAMED = f"^{NAME.pattern}$"


def schema() -> Shape:
    """Return the schema, JSON Schema draft 2020-12."""
    name = _or_variable({**TEXT, "pattern": NAMED})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "a pipeline of zpipe",
        "type": "object",
        "properties": {
            "schema": {"const": SCHEMA, "description": "the version of this form"},
            "name": {**name, "description": "a-z, 0-9 and -, a letter first"},
            "insecure": {
                **_or_variable({"type": "boolean"}),
                "description": "off this machine: no keys, everyone is let in who reaches the run",
            },
            "defaults": {
                "description": "options for every stage that can have them",
                "type": "object",
                "properties": _options(),
                "additionalProperties": False,
            },
            "stage": {
                "description": "the stages by name",
                "type": "object",
                "minProperties": 1,
                "patternProperties": {
                    NAMED: {
                        "if": {"properties": {"use": {**TEXT, "pattern": r"\.toml$"}}, "required": ["use"]},
                        "then": {"$ref": "#/$defs/part"},
                        "else": {"$ref": "#/$defs/stage"},
                    }
                },
                "additionalProperties": False,
            },
            "test": {"description": "what stages must make of items", "type": "array", "items": _test()},
        },
        "required": ["schema", "name", "stage"],
        "additionalProperties": False,
        "$defs": {"stage": _stage(), "part": _part()},
    }


def _stage() -> Shape:
    run = _or_variable({**TEXT, "pattern": "^.+:.+$"})
    use = _or_variable({**TEXT, "pattern": r"^.+\.toml:.+$"})
    above, entry = _above()
    return {
        "type": "object",
        "properties": {
            "run": {**run, "description": "'module:name' or 'file.py:name'"},
            "use": {**use, "description": "'file.toml:stage', what that file says of that stage"},
            "from": {**above, "description": "the stage that it reads, or a list: their items are merged"},
            "join": {"type": "array", "minItems": 2, "items": entry, "description": "the stages that it joins"},
            "args": {**_or_variable({"type": "object"}), "description": "args of its callable, by name"},
            **_options(),
        },
        "oneOf": [
            *({"required": [key]} for key in ("run", "use", "cmd")),
            {"required": ["listen"], "not": {"anyOf": [{"required": [key]} for key in ("run", "use", "cmd")]}},
        ],
        "additionalProperties": False,
        "not": {"required": ["from", "join"]},
        "if": {"anyOf": [{"required": ["from"]}, {"required": ["join"]}]},
        "then": _not_for(SOURCE_ONLY),
        "else": _not_for(READER_ONLY),
        "allOf": [_built_in(run, args) for run, args in BUILT_INS.items()],
    }


def _part() -> Shape:
    by_stage = {"type": "object"}
    return {
        "type": "object",
        "properties": {
            "use": {**TEXT, "description": "'file.toml', whose stages stand here together"},
            "from": {**_above()[0], "description": "what 'input' stands for in that file"},
            "args": {**by_stage, "additionalProperties": by_stage, "description": "args of its stages, by stage"},
            **{name: {**by_stage, "description": f"{name} of its stages, by stage"} for name in FIELDS},
        },
        "additionalProperties": False,
    }


def _above() -> tuple[Shape, Shape]:
    """Return the shapes of `from` and of an entry of it."""
    keep = {"enum": list(KEEPS), "description": "latest: the newest item takes the place of what waits"}
    table = {"properties": {"stage": TEXT, "keep": keep}, "required": ["stage"], "additionalProperties": False}
    entry = {"type": ["string", "object"], **table}
    return {"type": ["string", "array", "object"], "minItems": 1, "items": entry, **table}, entry


def _test() -> Shape:
    items: Shape = {"type": "array"}
    return {
        "type": "object",
        "properties": {"name": TEXT, "stage": TEXT, "input": items, "output": items},
        "required": ["stage", "input", "output"],
        "additionalProperties": False,
    }


def _options() -> Shape:
    return {
        name: {**_or_variable(field.metadata["rule"].shape), "description": field.metadata["says"]}
        for name, field in FIELDS.items()
    }


def _not_for(names: frozenset[str]) -> Shape:
    """Refuse options that are for other stages; their default, written out, does no harm."""
    return {"properties": {name: _or_variable({"enum": [default_of(FIELDS[name])]}) for name in sorted(names)}}


def _built_in(run: str, args: Mapping[str, Any]) -> Shape:
    shapes = {name: _or_variable(rule.shape) for name, (rule, _) in args.items()}
    table = _or_variable({"type": "object", "properties": shapes, "additionalProperties": False})
    return {
        "if": {"properties": {"run": {"const": run}}, "required": ["run"]},
        "then": {"properties": {"args": table}},
    }


def _or_variable(shape: Mapping[str, Any]) -> Shape:
    """Allow a text with `${NAME}` in place of the value, and of those inside of it."""
    if "enum" in shape:
        return {"anyOf": [dict(shape), {**TEXT, "pattern": VARIABLE}]}
    out = dict(shape)
    for key in ("items", "additionalProperties"):
        if isinstance(inner := shape.get(key), Mapping):
            out[key] = _or_variable(inner)
    types = [shape["type"]] if isinstance(shape["type"], str) else shape["type"]
    if "string" not in types:
        return {**out, "type": [*types, "string"], "pattern": VARIABLE}
    return {**out, "pattern": f"{shape['pattern']}|{VARIABLE}"} if "pattern" in shape else out
