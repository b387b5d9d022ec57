"""zpipe test."""

from __future__ import annotations

from typing import Any

import click

from zpipe.cli import options
from zpipe.cli.load import load
from zpipe.processes.exits import EXIT_FAILED
from zpipe.processes.prepare import checked
from zpipe.testing.bench import play
from zpipe.testing.compare import same, simple
from zpipe.values.errors import ConfigError, StageError
from zpipe.values.pipeline import Pipeline
from zpipe.values.testtables import title


@click.command(epilog="Example: zpipe test pipeline.toml")
@options.pipeline
def test(target: str, sets: tuple[str, ...]) -> int:
    """Run the [[test]] tables of PIPELINE, and tell for each whether it holds.

    A test feeds one stage, alone and in this process, with the items of `input`; what it makes must be the
    items of `output`: floats to nine digits, all else exactly, arrays as nested lists.
    """
    pipeline, _ = checked(load(target, sets))
    if not pipeline.tests:
        raise ConfigError(f"pipeline {pipeline.name!r} has no tests: add tables [[test]] with stage, input and output")
    failed = 0
    for number, table in enumerate(pipeline.tests):
        said = _fault(pipeline, table)
        failed += said is not None
        what = f"{title(table, number)} of {table['stage']}"
        click.echo(f"ok      {what}" if said is None else f"FAILED  {what}: {said}")
    return EXIT_FAILED if failed else 0


def _fault(pipeline: Pipeline, table: dict[str, Any]) -> str | None:
    """Run a test and return what is wrong, in one line; None when it holds."""
    got: list[Any] = []
    try:
        play(pipeline, table["stage"], got.append, inputs=table["input"])
    except StageError as error:
        return str(error)
    expected, found = table["output"], simple(got)
    return None if same(expected, found) else f"expected {expected!r}, got {found!r}"
