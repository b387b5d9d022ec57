"""zpipe schema."""

from __future__ import annotations

import json

import click

from zpipe.values.schema import schema as of_pipelines


@click.command(epilog="Example: zpipe schema > pipeline.schema.json")
def schema() -> None:
    """Print the JSON Schema of pipeline files, for an editor that completes and underlines.

    With Even Better TOML or taplo, write `#:schema ./pipeline.schema.json` into the first line of the file.
    """
    click.echo(json.dumps(of_pipelines(), indent=1))
