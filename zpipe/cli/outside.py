"""zpipe push, pull and call: a pipeline's gates from the shell."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import click

from zpipe import clients
from zpipe.cli import files, options
from zpipe.cli.ps import reach
from zpipe.processes.access import Access
from zpipe.processes.exits import EXIT_DONE, EXIT_FAILED
from zpipe.transport.keys import Keys
from zpipe.values.errors import CallError, ConfigError

_COUNT = click.IntRange(min=1)
_WHERE = "The run's registry; else ZPIPE_REGISTRY, else your only live run."
_FOLDER = click.Path(path_type=Path, file_okay=False)
_out = click.option(
    "--out", type=_FOLDER, metavar="FOLDER", help="Write a file for each instead, arrays and images too."
)
_connect = click.option("--connect", metavar="ADDR", help="The gate's address for calls, in place of a run's registry.")


def _address(connect: str | None, registry: str | None, access: Access) -> tuple[str, Keys | None]:
    """Return whom to ask, a gate itself or a registry that knows where it is, and the keys to do so."""
    return (connect, access.to(connect)) if connect is not None else reach(registry, access)


@click.command(epilog="Example: zpipe push tweets tweets.jsonl --end")
@click.argument("stage")
@click.argument("sources", metavar="FILE...", nargs=-1, required=True)
@click.option("--name", help="Take nothing twice that was pushed under this name before.")
@click.option("--end", is_flag=True, help="Nothing more comes: let the run end when it has done all.")
@_connect
@options.registry(required=False, help_text=_WHERE)
def push(
    *, stage: str, sources: tuple[str, ...], name: str | None, end: bool, connect: str | None, address: str | None,
    access: Access,
) -> int:  # fmt: skip
    """Put the items of FILEs into the source STAGE: JSON lines, .npz, images, or - for JSON lines from stdin.

    It ends when all of them are on the disk of the run.
    """
    where, keys = _address(connect, address, access)
    items = chain.from_iterable(map(files.read, sources))
    with clients.Client(where, keys) as client:
        count = client.stage(stage).put(items, name=name, end=end)
    click.echo(f"{count} item{'' if count == 1 else 's'} put", err=True)
    return EXIT_DONE


@click.command(epilog="Example: zpipe pull labels -n 10 | jq .label")
@click.argument("stage")
@click.option("-n", "count", type=_COUNT, metavar="N", help="End after N items; else when the run ends.")
@_out
@_connect
@options.registry(required=False, help_text=_WHERE)
def pull(
    *, stage: str, count: int | None, out: Path | None, connect: str | None, address: str | None, access: Access
) -> int:  # fmt: skip
    """Take the items that reach the sink STAGE, and print each as a line of JSON.

    An item is done once it is printed: none is lost where this, or what reads it, is killed.
    """
    where, keys = _address(connect, address, access)
    seen = 0
    for seen, item in enumerate(clients.taken(where, stage, count, keys), 1):
        _show(item, out, seen)
    if count is not None and seen < count:
        raise CallError(f"the run has ended: {seen} of {count} items came to {stage!r}")
    return EXIT_DONE


@click.command(epilog="""Example: zpipe call clean '{"x": 1.0}'""")
@click.argument("stage")
@click.argument("items", metavar="[ITEM]...", nargs=-1)
@click.option("--file", "sources", metavar="FILE", multiple=True, help="Call for each item of it; - is stdin.")
@_out
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, metavar="S",
              help="Seconds to wait for each.")  # fmt: skip
@_connect
@options.registry(required=False, help_text=_WHERE)
def call(
    *, stage: str, items: tuple[str, ...], sources: tuple[str, ...], out: Path | None, timeout: float,
    connect: str | None, address: str | None, access: Access,
) -> int:  # fmt: skip
    """Call STAGE for each ITEM, and print what it makes of it as a line of JSON, in their order.

    An ITEM is a JSON value, @FILE for the first item of a file, or else a text.
    """
    if not items and not sources:
        raise click.UsageError("nothing to call for: give an ITEM, or --file FILE")
    where, keys = _address(connect, address, access)
    failed = 0
    with clients.Client(where, keys) as client:
        service = client.stage(stage)
        given = chain(map(files.value, items), chain.from_iterable(map(files.read, sources)))
        for number, reply in enumerate(service.all(given, timeout=timeout), 1):
            try:
                _show(reply.result, out, number)
            except CallError as error:
                failed += 1
                click.echo(f"zpipe: item {number}: {error}", err=True)
    return EXIT_FAILED if failed else EXIT_DONE


def _show(item: object, out: Path | None, number: int) -> None:
    try:
        click.echo(files.text(item) if out is None else files.write(out, number, item))
    except OSError as error:
        if out is None:
            raise
        raise ConfigError(f"{out}: cannot be written: {(error.strerror or str(error)).lower()}") from None
