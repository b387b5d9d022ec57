"""zpipe keys."""

from __future__ import annotations

import os
from pathlib import Path

import click

from zpipe.processes.access import KEYS
from zpipe.transport.keys import HOME, REGISTRY, SUFFIX, Folder
from zpipe.transport.sockets import make_pair

_NEXT = (
    "bring {path} to that host, as {home}/{name}.key or any file that {env} names, readable by its owner alone; "
    "then remove it here"
)


@click.group(invoke_without_command=True, epilog="Example: zpipe keys --keys mine")
@click.option(
    "--keys", "path", type=click.Path(path_type=Path), metavar="FOLDER",
    help=f"The folder of keys where the registry runs; else {KEYS}, else {HOME}.",
)  # fmt: skip
@click.pass_context
def keys(context: click.Context, path: Path | None) -> None:
    """Make and revoke the keys with which hosts take part in runs; by itself: make the registry's, list all.

    A registry that others can reach needs keys.  Each other host, be it for workers or for looking on, gets one with
    `add`; `revoke` cuts it off, from running runs too.
    """
    path = path or Path(os.environ.get(KEYS) or HOME)
    folder = Folder(path.parent if path.suffix == SUFFIX else path)
    context.obj = folder
    if context.invoked_subcommand is None:
        _make(folder)
        names = {REGISTRY: folder.registry().public, **folder.names()}
        width = max(map(len, names))
        for name, public in names.items():
            click.echo(f"{name:{width}}  {public}")


def _make(folder: Folder) -> None:
    """Make the registry's key where it has none."""
    if not folder.is_made:
        click.echo(f"{REGISTRY}: made {folder.make(make_pair()).path}: it stays on the host of the registry")


@keys.command(epilog="Example: zpipe keys add gpu-2")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.pass_obj
def add(folder: Folder, names: tuple[str, ...]) -> None:
    """Make the key of another host, which every registry of these keys admits from now on."""
    _make(folder)
    for name in names:
        made = folder.add(name, make_pair())
        click.echo(f"{name}: {_NEXT.format(path=made, home=HOME, name=name, env=KEYS)}")


@keys.command(epilog="Example: zpipe keys revoke gpu-2")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.pass_obj
def revoke(folder: Folder, names: tuple[str, ...]) -> None:
    """Admit a host no longer: its workers leave every run that is under way, what they held goes to others."""
    for name in names:
        folder.revoke(name)
        click.echo(f"{name}: is admitted no longer")
