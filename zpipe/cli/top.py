"""zpipe top."""

from __future__ import annotations

import json
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from zpipe.cli import options, toptable
from zpipe.cli.ps import TIMEOUT_S, reach
from zpipe.cli.show import WIDE
from zpipe.core.look import Looker
from zpipe.core.progress import OVER
from zpipe.processes.access import Access
from zpipe.processes.client import Client
from zpipe.processes.report import read_report
from zpipe.processes.runfolder import LiveRun, live_runs
from zpipe.transport.wake import Wake
from zpipe.values.errors import ConfigError, RegistryError

ONCE_S = 3.0  # between the two looks of --once: workers tell once a second what they did
ASK_S = 1.0  # for an answer of a registry that has answered before
REPORT_S = 2.0  # from the end of a launcher to its report
FIND_S = 0.05  # how often to look for it meanwhile

_SECONDS = click.FloatRange(min=0.1)

Look = dict[str, Any]


@click.command(epilog="Example: zpipe top --once")
@options.registry(required=False, help_text="Whom to ask; else ZPIPE_REGISTRY, else your only live run.")
@click.option("--every", type=_SECONDS, default=1.0, show_default=True, metavar="SECONDS", help="Look this often.")
@click.option("--once", is_flag=True, help=f"Print one look, of {ONCE_S:g} s or more, and end.")
@options.as_json
def top(*, address: str | None, access: Access, every: float, once: bool, as_json: bool) -> None:
    """Watch a run: how fast its stages and edges are, where items wait, and which stage is the bottleneck.

    It ends with the run, or with Ctrl-C.  With --json each look is one JSON object, on a line of its own.
    """
    address, keys = reach(address, access)
    run = next((run for run in live_runs() if run.address == address), None)
    screen = _Json() if as_json else _Screen(moves=not once)
    try:
        with Client(address, keys) as client, screen:
            for look in _looks(client, run, max(every, ONCE_S) if once else every, screen.wait):
                screen.draw(look)
                if once and look["span_s"]:
                    return
        screen.end(_ending(run, look))
    except KeyboardInterrupt:
        pass  # the way out


def _looks(client: Client, run: LiveRun | None, every_s: float, wait: Callable[[float], None]) -> Iterator[Look]:
    """Yield a look at once and then so often, until the run has ended; its registry may come and go meanwhile."""
    looker = Looker()
    look = looker.see(client.request({"t": "PS"}, TIMEOUT_S))
    heard_s = time.monotonic()
    yield look
    while look["state"] not in OVER:
        wait(every_s)
        try:
            look = looker.see(client.request({"t": "PS"}, ASK_S))
        except RegistryError:
            if run is not None and run not in live_runs():
                return
            look["registry_silent_s"] = time.monotonic() - heard_s
        else:
            heard_s = time.monotonic()
        yield look


def _ending(run: LiveRun | None, look: Look) -> dict[str, Any]:
    """Return how a run has ended, from its report if it is one of this user's here."""
    if run is None:
        return {"run": look["run"], "state": look["state"], "seconds": look["age_s"], "error": ""}
    report, live_s = Path(run.folder) / "report.json", time.monotonic()
    while not report.exists():
        if run in live_runs():
            live_s = time.monotonic()
        elif time.monotonic() - live_s > REPORT_S:
            error = f"its launcher is gone and left no report in {run.folder}"
            return {"run": look["run"], "state": None, "seconds": look["age_s"], "error": error}
        time.sleep(FIND_S)
    found = read_report(report)
    return {"run": found["name"], **{key: found[key] for key in ("state", "seconds", "error")}}


class _Json:
    """One object a line."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def draw(self, look: Look) -> None:
        if look["span_s"]:
            click.echo(json.dumps(look))

    def end(self, ending: dict[str, Any]) -> None:
        click.echo(json.dumps(ending))


class _Screen:
    """A terminal that is drawn anew with each look, and when its size changes; elsewhere looks follow each other.

    Raises ConfigError when the terminal is too small.
    """

    def __init__(self, *, moves: bool) -> None:
        self._console = Console()
        self._moves = moves and self._console.is_terminal and not self._console.is_dumb_terminal
        if self._console.is_terminal and (why := self._too_small()):
            raise ConfigError(why)
        self._live = Live(console=self._console, screen=True, auto_refresh=False)
        self._resized = Wake()
        self._look: Look | None = None

    def __enter__(self) -> None:
        if self._moves:
            handlers = {signal.SIGWINCH: lambda *_: self._resized.set(), signal.SIGTERM: signal.default_int_handler}
            self._before = {which: signal.signal(which, handler) for which, handler in handlers.items()}
            self._live.start()

    def __exit__(self, *_: object) -> None:
        if self._moves:
            self._live.stop()
            for which, handler in self._before.items():
                signal.signal(which, handler)
            if self._look is not None:
                self._print()  # what is left when the terminal is as it was before
        self._resized.close()

    def wait(self, seconds: float) -> None:
        """Wait, and draw anew whenever the size changes."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            if select.select([self._resized], [], [], left_s)[0]:
                self._resized.clear()
                self._redraw()

    def draw(self, look: Look) -> None:
        """Show a look; where looks follow each other, only one that tells of some time."""
        self._look = look
        if self._moves:
            self._redraw()
        elif look["span_s"]:
            self._print()

    def end(self, ending: dict[str, Any]) -> None:
        """Print how the run has ended."""
        state = f"{ending['state']} in {ending['seconds']:.1f} s" if ending["state"] else "ended"
        click.echo(": ".join(filter(None, (ending["run"], state, ending["error"]))))

    def _redraw(self) -> None:
        text = self._too_small() or self._text(self._console.height)
        self._live.update(Text(text, overflow="fold"), refresh=True)

    def _print(self) -> None:
        click.echo(f"{self._text(None)}\n")

    def _text(self, rows: int | None) -> str:
        assert self._look is not None
        columns = self._console.width if self._console.is_terminal else WIDE
        ascii_only = self._console.options.ascii_only
        return "\n".join(toptable.lines(self._look, columns, rows, ascii_only=ascii_only))

    def _too_small(self) -> str | None:
        return toptable.too_small(self._console.width, self._console.height if self._moves else toptable.LINES_MIN)
