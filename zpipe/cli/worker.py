"""zpipe worker."""

from __future__ import annotations

import click

from zpipe.cli import live, options
from zpipe.processes.access import Access
from zpipe.processes.parent import Parent

_COUNT = click.IntRange(min=1)


@click.command(epilog="Example: zpipe worker clean --registry tcp://127.0.0.1:5570 -n 2")
@click.argument("stage")
@options.registry(required=True, help_text="The registry to join; else ZPIPE_REGISTRY.")
@click.option("-n", "workers", type=_COUNT, default=1, show_default=True, help="How many to start.")
@click.option("--host", default="", metavar="IP", help="Where others reach it; else as it reaches the registry.")
@click.option("--any-code", is_flag=True, help="Join although the stage's code here is not the run's.")
def worker(*, stage: str, address: str, access: Access, workers: int, host: str, any_code: bool) -> int:
    """Start workers of STAGE that join the run of a registry, and keep them alive until it ends.

    The registry hands over callable, args, env and neighbours; only the code to import must be here.
    A variant of a grid is named in full, fit/lr=0.1.
    """
    return Parent(
        stage, address, workers, on_event=live.event, access=access, host=host, any_code=any_code
    ).run()  # fmt: skip
