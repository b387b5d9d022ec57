"""zpipe graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from zpipe.cli import options, show
from zpipe.cli.load import load
from zpipe.cli.ps import TIMEOUT_S, reach
from zpipe.processes.access import Access
from zpipe.processes.client import Client
from zpipe.processes.prepare import checked
from zpipe.processes.runfolder import live_runs
from zpipe.values import graph as text
from zpipe.values.errors import ConfigError
from zpipe.values.pipeline import Pipeline


@click.command(epilog="Example: zpipe graph pipeline.toml --mermaid > pipeline.mmd\n\nExample: zpipe graph --live")
@click.argument("target", metavar="[PIPELINE]", required=False)
@options.sets
@click.option("--mermaid", is_flag=True, help="Print a Mermaid flowchart instead.")
@click.option("--live", is_flag=True, help="Draw a live run of yours, with its workers and rates.")
@options.registry(required=False, help_text="Which run is --live; else ZPIPE_REGISTRY, else your only live run.")
def graph(
    *, target: str | None, sets: tuple[str, ...], mermaid: bool, live: bool, address: str | None, access: Access
) -> None:
    """Draw PIPELINE: its stages from the sources down, and who reads whom.

    PIPELINE is a .toml file, or file.py:function with a function that returns a zp.Pipeline; file.py alone
    means its function `pipeline`, and nothing pipeline.toml.  With --live it is left out.
    """
    if live and (target or sets):
        raise click.UsageError("--live draws the pipeline of the run itself: leave PIPELINE and --set out")
    if live:
        address, keys = reach(address, access)
        pipeline = _pipeline_of(address)
        with Client(address, keys) as client:
            table = client.request({"t": "PS"}, TIMEOUT_S)
        title, rates = f"{table['name']}: {table['state']}", _rates(table)
    else:
        pipeline, _ = checked(load(options.or_here(target), sets))
        title, rates = pipeline.name, None
    if mermaid:
        click.echo(text.mermaid(pipeline, rates))
    else:
        show.drawing(f"{title}\n\n{text.draw(pipeline, rates)}")


def _rates(table: Mapping[str, Any]) -> dict[str, text.Live]:
    return {row["name"]: text.Live(row["workers"], row["rate"]) for row in table["stages"]}


def _pipeline_of(address: str) -> Pipeline:
    """Return the pipeline that a live run of this user keeps in its folder.  Raises ConfigError."""
    folder = next((run.folder for run in live_runs() if run.address == address), None)
    if folder is None:
        raise ConfigError(
            f"no run of yours that is alive here has the registry {address}, so its pipeline is not at hand: "
            "take an address that `zpipe run` printed, or see it with `zpipe ps --registry`"
        )
    return Pipeline.load(Path(folder) / "pipeline.toml")
