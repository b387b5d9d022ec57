"""zpipe drain, zpipe scale, zpipe down."""

from __future__ import annotations

import click

from zpipe.cli import options
from zpipe.cli.ps import TIMEOUT_S, only_run
from zpipe.processes.client import Client

HELP = "Whom to tell; else ZPIPE_REGISTRY, else your only live run."


@click.command(epilog="Example: zpipe drain clean-2")
@click.argument("worker")
@options.registry(required=False, help_text=HELP)
def drain(worker: str, address: str | None) -> None:
    """Let WORKER finish what it has, take nothing new, and leave; the run goes on without it.

    One that is the last of its stage, remembers, or is of a source cannot leave.
    """
    _tell({"t": "DRAIN", "worker": worker}, address)
    click.echo(f"{worker} leaves when it has finished what it has")


@click.command(epilog="Example: zpipe scale clean=4")
@click.argument("stages", metavar="STAGE=N...", nargs=-1, required=True)
@options.registry(required=False, help_text=HELP)
def scale(stages: tuple[str, ...], address: str | None) -> None:
    """Give STAGE N workers: `zpipe run` starts what is missing, and what is too many finishes and leaves.

    Sources and stages that remember keep the workers they have.
    """
    wanted = [(stage, int(n)) for stage, n in map(_stage_and_number, stages)]
    for stage, n in wanted:
        _tell({"t": "SCALE", "stage": stage, "workers": n}, address)
        click.echo(f"{stage} gets {n} worker{'s' if n > 1 else ''}")


def _stage_and_number(text: str) -> tuple[str, str]:
    stage, _, n = text.rpartition("=")
    if not stage or not n.isascii() or not n.isdigit():
        raise click.UsageError(f"{text!r} is not of the form STAGE=N, like clean=4")
    return stage, n


@click.command(epilog="Example: zpipe down --registry tcp://127.0.0.1:5570")
@options.registry(required=False, help_text=HELP)
def down(address: str | None) -> None:
    """End a run as the first Ctrl-C does: its sources stop, and what is under way is finished."""
    _tell({"t": "STOP"}, address)
    click.echo("the run ends when what is under way is finished")


def _tell(message: dict[str, str | int], address: str | None) -> None:
    with Client(address or only_run("--registry ADDR or ZPIPE_REGISTRY").address) as client:
        client.request(message, TIMEOUT_S)
