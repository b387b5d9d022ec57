"""zpipe registry."""

from __future__ import annotations

from typing import Unpack

import click

from zpipe.cli import options
from zpipe.cli.live import Live
from zpipe.cli.load import load
from zpipe.cli.run import finish
from zpipe.processes import launcher


@click.command(epilog="Example: zpipe registry pipeline.toml --bind tcp://127.0.0.1:5570")
@options.pipeline
@options.bind
@options.launching
@options.as_json
def registry(*, target: str, sets: tuple[str, ...], bind: str, as_json: bool, **launch: Unpack[options.Launch]) -> int:
    """Serve PIPELINE to workers that join with `zpipe worker`, until the run ends.

    It prints its address, starts no worker, and is started again when it dies.
    """
    pipeline = load(target, sets)
    with Live() as live:
        report = launcher.run(
            pipeline, bind=bind, with_workers=False, progress=live.progress, on_event=live.event, **launch
        )
    return finish(report, as_json=as_json)
