"""zpipe registry."""

from __future__ import annotations

from pathlib import Path

import click

from zpipe.cli import options, show
from zpipe.cli.load import load
from zpipe.cli.run import finish
from zpipe.processes.launcher import ANY_PORT, Launcher
from zpipe.processes.prepare import prepare
from zpipe.processes.report import FAILED
from zpipe.transport.sockets import check_endpoint
from zpipe.values.errors import RunError


@click.command(epilog="Example: zpipe registry pipeline.toml --bind tcp://127.0.0.1:5570")
@options.pipeline
@click.option("--bind", default=ANY_PORT, show_default=True, metavar="ADDR", help="Where workers reach it.")
@options.run_folder
@options.as_json
def registry(*, target: str, sets: tuple[str, ...], bind: str, runs: Path, transport: str, as_json: bool) -> int:
    """Serve PIPELINE to workers that join with `zpipe worker`, until the run ends.

    It prints its address, starts no worker, and is started again when it dies.
    """
    check_endpoint(bind)
    plan, folder = prepare(load(target, sets), runs=runs, sets=(), seed=None, transport=transport)
    with show.Live() as live:
        report = Launcher(
            plan,
            folder,
            transport=transport,
            bind=bind,
            with_workers=False,
            progress=live.progress,
            on_event=live.event,
        ).run()
    if report.state == FAILED:
        raise RunError(report.error, report.detail)
    return finish(report, as_json=as_json)
