"""zpipe worker."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from zpipe.cli import live, options
from zpipe.processes.access import Access

_COUNT = click.IntRange(min=1)


@click.command(epilog="Example: zpipe worker clean --registry tcp://127.0.0.1:5570 -n 2")
@click.argument("stage")
@options.registry(required=False, help_text="The registry to join; else ZPIPE_REGISTRY.")
@click.option(
    "--connect", metavar="ADDR", help="The address of a gate, in place of a registry; STAGE is then mylib:clean."
)
@click.option("--arg", "args", multiple=True, metavar="KEY=VALUE", help="With --connect: an arg of its callable.")
@click.option("-n", "workers", type=_COUNT, default=1, show_default=True, help="How many to start.")
@click.option("--host", default="", metavar="IP", help="Where others reach it; else as it reaches the registry.")
@click.option("--any-code", is_flag=True, help="Join although the stage's code here is not the run's.")
def worker(
    *, stage: str, address: str | None, connect: str | None, args: tuple[str, ...], access: Access, workers: int,
    host: str, any_code: bool,
) -> int:  # fmt: skip
    """Start workers of STAGE that join the run of a registry, and keep them alive until it ends.

    The registry hands over callable, args, env and neighbours; only the code to import must be here.
    A variant of a grid is named in full, fit/lr=0.1.  With --connect STAGE is a callable, and works for the gate at
    that address: neither a file nor a registry is needed.
    """
    if connect is not None:
        return _at_gate(stage, connect, args, access, workers)
    if address is None:
        raise click.UsageError("whom to join: give --registry ADDR, or the address of a gate with --connect")
    from zpipe.processes.parent import Parent

    return Parent(
        stage, address, workers, on_event=live.event, access=access, host=host, any_code=any_code
    ).run()  # fmt: skip


def _at_gate(run: str, address: str, texts: tuple[str, ...], access: Access, workers: int) -> int:
    from zpipe.processes import hands, taker

    if ":" not in run:
        raise click.UsageError(f"{run!r} is no callable: with --connect STAGE is module:name or file.py:name")
    args, keys = dict(map(options.arg, texts)), access.to(address)
    if workers == 1:
        return taker.work(run, address, Path.cwd(), args, keys=keys)
    words = [word for text in texts for word in ("--arg", text)]
    argv = [sys.executable, "-m", "zpipe", "worker", run, "--connect", address, *access.argv(), *words]
    return hands.keep(argv, workers)
