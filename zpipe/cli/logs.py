"""zpipe logs."""

from __future__ import annotations

import time
from pathlib import Path

import click

from zpipe.cli.ps import only_run
from zpipe.processes.logs import follow, logs_of
from zpipe.processes.runfolder import RunFolder, live_runs
from zpipe.values.errors import ConfigError

LOOK_S = 0.2  # how often to look for what is new

_FOLDER = click.Path(path_type=Path)
_LINES = click.IntRange(min=0)


@click.command(epilog="Example: zpipe logs clean -n 20 -f")
@click.argument("name", metavar="[STAGE|WORKER]", required=False)
@click.option("-f", "follows", is_flag=True, help="Go on with what is written, until the run ends.")
@click.option("-n", "last", type=_LINES, metavar="LINES", help="Begin with the last lines of each worker; else all.")
@click.option("--run", "folder", type=_FOLDER, metavar="FOLDER", help="A run folder; else that of your only live run.")
@click.option("--registry", "address", envvar="ZPIPE_REGISTRY", metavar="ADDR", help="Choose a live run.")
def logs(name: str | None, follows: bool, last: int | None, folder: Path | None, address: str | None) -> None:
    """Print what the workers of a run have written: of STAGE, of one WORKER, or of all and the registry.

    A service's own log, what happens in it, is that of `launcher`.
    Workers that were started with `zpipe worker` write into the terminal where that was.
    """
    run_folder = folder or Path(_live_folder(address))
    found = logs_of(RunFolder(run_folder), name)
    width = max(map(len, found)) if len(found) > 1 else 0
    is_over = (lambda: not _is_live(run_folder)) if follows else (lambda: True)
    for worker, line in follow(found, last, is_over, lambda: time.sleep(LOOK_S)):
        click.echo(f"{worker:{width}} | {line}" if width else line)


def _live_folder(address: str | None) -> str:
    if address is None:
        return only_run("--run FOLDER").folder
    for run in live_runs():
        if run.address == address:
            return run.folder
    raise ConfigError(f"no run of yours has its registry at {address} here: name its folder with --run FOLDER")


def _is_live(folder: Path) -> bool:
    return any(Path(run.folder).resolve() == folder.resolve() for run in live_runs())
