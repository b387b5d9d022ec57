"""What the commands show while something lasts: a table that lives on a terminal, and lines."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from zpipe.processes.events import Event

if TYPE_CHECKING:
    from rich.live import Live as RichLive

QUIET = ("killed", "died")  # events worth a line on a terminal only
HIDDEN = ("joined", "restarted", "left", "ended")  # and those that are for who reads the file of events
LOUD = ("warning", "dead", "stopping")


class Live:
    """A live table of stages on stderr while a run lasts; without a terminal only what matters is printed.

    rich is imported where there is a terminal only: a run does not wait for it.
    """

    def __init__(self) -> None:
        self._live: RichLive | None = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live as RichLive

            self._live = RichLive(console=Console(stderr=True), transient=True, auto_refresh=False)

    def __enter__(self) -> Live:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def progress(self, table: Mapping[str, Any]) -> None:
        """Show the registry's table."""
        if self._live is not None:
            from zpipe.cli.show import stages_table

            self._live.update(stages_table(table), refresh=True)

    def event(self, happened: Event) -> None:
        """Print one line, above the live table where there is one."""
        if self._live is None:
            if happened.kind not in QUIET:
                event(happened)
        elif _is_shown(happened):
            from rich.text import Text

            style = "yellow" if happened.kind in LOUD else "dim"
            self._live.console.print(Text(happened.text, style=style), soft_wrap=True)


def event(happened: Event) -> None:
    """Print one line of what happens on stderr."""
    if _is_shown(happened):
        click.echo(f"zpipe: {happened.text}" if happened.kind in LOUD else happened.text, err=True)


def _is_shown(happened: Event) -> bool:
    """Tell whether it is worth a line; of a last death the error that ends the run will tell."""
    return happened.kind not in HIDDEN and bool(happened.data.get("again", True))
