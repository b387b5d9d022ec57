"""zpipe drain, zpipe scale, zpipe down."""

from __future__ import annotations

import time
from pathlib import Path

import click

from zpipe.cli import options
from zpipe.cli.ps import TIMEOUT_S, reach
from zpipe.core.progress import FAILED, OVER
from zpipe.processes.access import Access
from zpipe.processes.client import Client
from zpipe.processes.report import read_report
from zpipe.processes.runfolder import live_runs
from zpipe.values.errors import RegistryError, RunError

HELP = "Whom to tell; else ZPIPE_REGISTRY, else your only live run."
LOOK_S = 0.1


@click.command(epilog="Example: zpipe drain clean-2")
@click.argument("worker")
@options.registry(required=False, help_text=HELP)
def drain(worker: str, address: str | None, access: Access) -> None:
    """Let WORKER finish what it has, take nothing new, and leave; the run goes on without it.

    One that is the last of its stage, remembers, or is of a source cannot leave.
    """
    _tell({"t": "DRAIN", "worker": worker}, address, access)
    click.echo(f"{worker} leaves when it has finished what it has")


@click.command(epilog="Example: zpipe scale clean=4")
@click.argument("stages", metavar="STAGE=N...", nargs=-1, required=True)
@options.registry(required=False, help_text=HELP)
def scale(stages: tuple[str, ...], address: str | None, access: Access) -> None:
    """Give STAGE N workers: `zpipe run` starts what is missing, and what is too many finishes and leaves.

    Sources and stages that remember keep the workers they have.
    """
    wanted = [(stage, int(n)) for stage, n in map(_stage_and_number, stages)]
    for stage, n in wanted:
        _tell({"t": "SCALE", "stage": stage, "workers": n}, address, access)
        click.echo(f"{stage} gets {n} worker{'s' if n > 1 else ''}")


def _stage_and_number(text: str) -> tuple[str, str]:
    stage, _, n = text.rpartition("=")
    if not stage or not n.isascii() or not n.isdigit():
        raise click.UsageError(f"{text!r} is not of the form STAGE=N, like clean=4")
    return stage, n


@click.command(epilog="Example: zpipe down --registry tcp://127.0.0.1:5570")
@options.registry(required=False, help_text=HELP)
@click.option("--now", is_flag=True, help="Stop it without finishing what is under way.")
def down(address: str | None, access: Access, now: bool) -> None:
    """End a run or a service as the first Ctrl-C does, and wait for its end.

    Its sources stop, and what is under way is finished.  Ctrl-C here ends the waiting only.
    """
    address, keys = reach(address, access)
    mine = [run for run in live_runs() if run.address == address]
    with Client(address, keys) as client:
        if now:
            client.request({"t": "FAIL", "why": "stopped by zpipe down --now"}, TIMEOUT_S)
            click.echo("the run stops")
        else:
            client.request({"t": "STOP"}, TIMEOUT_S)
            click.echo("the run ends when what is under way is finished")
        while set(mine) & set(live_runs()) if mine else _answers(client):
            time.sleep(LOOK_S)  # nothing tells that it is over
    for report in (Path(run.folder) / "report.json" for run in mine):
        if report.exists() and not now and (said := read_report(report))["state"] == FAILED:
            raise RunError(said["error"], said["detail"])


def _answers(client: Client) -> bool:
    """Tell whether a run that is none of this user's here is still under way."""
    try:
        return client.request({"t": "PS"}, TIMEOUT_S)["state"] not in OVER
    except RegistryError:
        return False


def _tell(message: dict[str, str | int], address: str | None, access: Access) -> None:
    with Client(*reach(address, access)) as client:
        client.request(message, TIMEOUT_S)
