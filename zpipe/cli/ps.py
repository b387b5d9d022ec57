"""zpipe ps."""

from __future__ import annotations

import json
from datetime import datetime

import click

from zpipe.cli import options, show
from zpipe.processes.client import Client
from zpipe.processes.runfolder import LiveRun, live_runs
from zpipe.values.errors import ConfigError

TIMEOUT_S = 5.0


@click.command(epilog="Example: zpipe ps --registry tcp://127.0.0.1:5570 --json")
@options.registry(required=False, help_text="Whom to ask; else ZPIPE_REGISTRY, else your only live run.")
@options.as_json
def ps(address: str | None, as_json: bool) -> None:
    """Show the workers of a run: what each is doing, how fast, and what became of its items."""
    with Client(address or only_run("--registry ADDR or ZPIPE_REGISTRY").address) as client:
        table = client.request({"t": "PS"}, TIMEOUT_S)
    if as_json:
        said = {key: value for key, value in table.items() if key not in ("t", "rid")}
        click.echo(json.dumps(said, indent=1))
    else:
        show.workers(table)


def only_run(how: str) -> LiveRun:
    """Return this user's only live run; `how` another is named.  Raises ConfigError when there is none, or several."""
    runs = live_runs()
    if len(runs) == 1:
        return runs[0]
    if not runs:
        raise ConfigError(f"no run of yours is alive here: name one with {how}")
    lines = [
        f"  {run.service or run.name}  started {_clock(run.started)}  --registry {run.address}  ({run.folder})"
        for run in runs
    ]
    raise ConfigError(f"{len(runs)} runs of yours are alive: choose one with --registry ADDR", *lines)


def _clock(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s):%Y-%m-%d %H:%M:%S}"
