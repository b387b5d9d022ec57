"""zpipe registry."""

from __future__ import annotations

from pathlib import Path

import click

from zpipe.cli import options, show
from zpipe.cli.load import load
from zpipe.cli.run import finish
from zpipe.processes import launcher
from zpipe.processes.launcher import ANY_PORT
from zpipe.transport.sockets import check_endpoint


@click.command(epilog="Example: zpipe registry pipeline.toml --bind tcp://127.0.0.1:5570")
@options.pipeline
@click.option("--bind", default=ANY_PORT, show_default=True, metavar="ADDR", help="Where workers reach it.")
@options.events
@options.run_folder
@options.metrics
@options.as_json
def registry(
    *,
    target: str,
    sets: tuple[str, ...],
    bind: str,
    events: Path | None,
    runs: Path,
    transport: str,
    metrics: str | None,
    as_json: bool,
) -> int:
    """Serve PIPELINE to workers that join with `zpipe worker`, until the run ends.

    It prints its address, starts no worker, and is started again when it dies.
    """
    check_endpoint(bind)
    pipeline = load(target, sets)
    with show.Live() as live:
        report = launcher.run(
            pipeline, runs=runs, transport=transport, bind=bind, with_workers=False, metrics=metrics, events=events,
            progress=live.progress, on_event=live.event,
        )  # fmt: skip
    return finish(report, as_json=as_json)
