"""zpipe ps."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import click

from zpipe.cli import options, show
from zpipe.processes.access import Access
from zpipe.processes.client import Client
from zpipe.processes.runfolder import LiveRun, live_runs
from zpipe.transport import keys
from zpipe.transport.keys import Keys
from zpipe.values.errors import ConfigError

TIMEOUT_S = 5.0


@click.command(epilog="Example: zpipe ps --registry tcp://127.0.0.1:5570 --json")
@options.registry(required=False, help_text="Whom to ask; else ZPIPE_REGISTRY, else your only live run.")
@options.as_json
def ps(address: str | None, access: Access, as_json: bool) -> None:
    """Show the workers of a run: what each is doing, how fast, and what became of its items."""
    with Client(*reach(address, access)) as client:
        table = client.request({"t": "PS"}, TIMEOUT_S)
    if as_json:
        said = {key: value for key, value in table.items() if key not in ("t", "rid")}
        click.echo(json.dumps(said, indent=1))
    else:
        show.workers(table)


def reach(address: str | None, access: Access) -> tuple[str, Keys | None]:
    """Return where the registry is, this user's only live run's where none is named, and the keys to reach it with.

    A run of this user on this host has noted its keys.  Raises ConfigError.
    """
    address = address or only_run("--registry ADDR or ZPIPE_REGISTRY").address
    run = next((run for run in live_runs() if run.address == address), None)
    if run is not None and access == Access():
        return address, keys.read(Path(run.keys)) if run.keys else None
    return address, access.to(address)


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
