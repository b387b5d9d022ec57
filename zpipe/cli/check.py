"""zpipe check."""

from __future__ import annotations

import click

from zpipe.cli import options
from zpipe.cli.load import load
from zpipe.processes.prepare import checked
from zpipe.values.graph import amount, range_of


@click.command(epilog="Example: zpipe check pipeline.toml --set clean.workers=8")
@options.pipeline
def check(target: str, sets: tuple[str, ...]) -> None:
    """Find every fault of PIPELINE at once, and start nothing.

    PIPELINE is a .toml file, or file.py:function with a function that returns a zp.Pipeline; file.py alone
    means its function `pipeline`.  Without it, pipeline.toml of this folder is taken.
    """
    _, plan = checked(load(target, sets))
    workers = range_of([(stage.workers, stage.workers_max or stage.workers) for stage in plan.stages])
    click.echo(f"ok: {amount(len(plan.stages), 'stage')}, {workers}")
