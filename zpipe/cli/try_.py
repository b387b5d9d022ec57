"""zpipe try."""

from __future__ import annotations

import json
import re
import sys
from datetime import date
from typing import Any

import click

from zpipe.cli import options
from zpipe.cli.load import load
from zpipe.processes.prepare import checked
from zpipe.testing.bench import FIRST, play
from zpipe.testing.compare import simple
from zpipe.values.errors import ConfigError, EncodeError

SPACE = re.compile(r"\s*")


@click.command("try", epilog="Example: zpipe try pipeline.toml clean < item.json")
@click.argument("target", metavar="PIPELINE")
@click.argument("stage", metavar="STAGE")
@click.option(
    "-n", "count", type=click.IntRange(min=1), metavar="N", help=f"How many items of a source; {FIRST} if not given."
)
@options.sets
def try_(target: str, stage: str, count: int | None, sets: tuple[str, ...]) -> None:
    """Run one stage of PIPELINE on the JSON values on stdin, and print what it makes of them, one a line.

    Each value on stdin is an item.  Arrays are printed as lists, times as text.  Of a source the first items are
    printed, and nothing is read.
    """
    pipeline, _ = checked(load(target, sets))
    spec = pipeline.stage(stage)
    if count is not None and not spec.is_source:
        raise click.UsageError(f"-n is for sources, and {stage!r} reads {spec.inputs[0]!r}: leave it out")
    inputs = [] if spec.is_source else items(_read())
    got: list[Any] = []
    try:
        play(pipeline, stage, got.append, inputs=inputs, count=count or FIRST)
    finally:
        for number, item in enumerate(got):
            click.echo(_line(item, f"output {number + 1} of stage {stage!r}"))


def _read() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        raise ConfigError("stdin is not text in UTF-8: give each item as a JSON value") from None


def items(text: str, place: str = "stdin", example: str = "echo '[1, 2]' | zpipe try ...") -> list[Any]:
    """Return the JSON values that the `text` of a `place` holds one after the other.  Raises ConfigError."""
    found = []
    at = _skip(text, 0)
    while at < len(text):
        try:
            value, end = json.JSONDecoder().raw_decode(text, at)
        except json.JSONDecodeError as error:
            said = f"{place}:{error.lineno}: is not JSON: {error.msg.lower()} at column {error.colno}"
            raise ConfigError(f"{said}: give each item as a JSON value") from None
        except RecursionError:
            line = text.count("\n", 0, at) + 1
            raise ConfigError(f"{place}:{line}: a value nests too deeply to be read") from None
        found.append(value)
        at = _skip(text, end)
    if not found:
        raise ConfigError(f"{place} holds no item: give each item as a JSON value, like {example}")
    return found


def _skip(text: str, at: int) -> int:
    """Return where the next value begins."""
    found = SPACE.match(text, at)
    assert found
    return found.end()


def _line(item: Any, what: str) -> str:
    try:
        return json.dumps(simple(item), ensure_ascii=False, default=_text)
    except TypeError as error:
        raise EncodeError(f"{what} cannot be shown: {error}") from None


def _text(value: Any) -> str:
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"it holds {type(value).__name__}, which JSON has not")
