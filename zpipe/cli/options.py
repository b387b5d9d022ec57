"""Arguments and options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast

import click

from zpipe.processes.access import KEYS, Access
from zpipe.processes.launcher import ANY_PORT
from zpipe.transport.keys import HOME
from zpipe.transport.sockets import TRANSPORTS, check_endpoint
from zpipe.values.errors import ConfigError
from zpipe.values.tomlfile import toml_value

Command = TypeVar("Command", bound=Callable[..., Any])

HERE = "pipeline.toml"

_FOLDER = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, dir_okay=False)


class Launch(TypedDict):
    """What `launching` adds, as the launcher takes it."""

    access: Access
    events: Path | None
    runs: Path
    transport: str
    metrics: str | None


def pipeline(command: Command) -> Command:
    """Give a command the argument PIPELINE, which is `pipeline.toml` where it is left out, and the option --set."""
    target = click.argument(
        "target", metavar="[PIPELINE]", required=False, callback=lambda _context, _parameter, value: or_here(value)
    )  # fmt: skip
    return target(sets(command))


def sets(command: Command) -> Command:
    """Give a command the option --set."""
    help_text = "Change a value, e.g. features.workers=8; may be repeated."
    return click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help=help_text)(command)


def or_here(value: str | None) -> str:
    """Return the PIPELINE that was named, else `pipeline.toml`.  Raises ConfigError when there is none here."""
    if value is None and not Path(HERE).is_file():
        raise ConfigError(f"there is no {HERE} here: name a PIPELINE, a .toml file or file.py:function")
    return HERE if value is None else value


def launching(command: Command) -> Command:
    """Give a command that starts a run --events, --runs, --transport, --metrics, --keys and --insecure."""
    says = "Write what happens to this file too, one JSON object a line; see docs/events.md."
    events = click.option("--events", type=_FILE, metavar="FILE", help=says)
    runs = click.option("--runs", type=_FOLDER, default="runs", show_default=True, help="Where run folders go.")
    help_text = "What items travel over; auto is ipc on one machine and tcp between them."
    transport = click.option(
        "--transport", type=click.Choice(TRANSPORTS), default="auto", show_default=True, help=help_text
    )
    help_text = "Serve Prometheus /metrics and /readyz here, e.g. 127.0.0.1:9464; port 0 is any free one."
    metrics = click.option("--metrics", metavar="ADDR", help=help_text)
    return events(runs(transport(metrics(access(command)))))


def access(command: Command) -> Command:
    """Give a command --keys and --insecure, which it takes as `access`."""

    @functools.wraps(command)
    def with_access(*args: Any, path: Path | None, insecure: bool, **options: Any) -> Any:
        return command(*args, access=Access(path, insecure), **options)

    help_text = f"The keys for other hosts, a file or a folder; else {KEYS}, else {HOME}."
    path = click.option("--keys", "path", type=click.Path(path_type=Path), metavar="PATH", help=help_text)
    insecure = click.option("--insecure", is_flag=True, help="Speak with other hosts without keys.")
    return path(insecure(cast(Command, with_access)))


def which(resume: str | None) -> str | bool:
    """Return what --resume means to the launcher."""
    return False if resume is None else resume or True


class Resuming(click.Command):
    """A command whose --resume may stand before PIPELINE without a RUN_FOLDER."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave a PIPELINE behind --resume alone."""
        words = zip_longest(args, args[1:], fillvalue="")
        return super().parse_args(ctx, [f"{a}=" if a == "--resume" and _is_pipeline(b) else a for a, b in words])


def _is_pipeline(word: str) -> bool:
    return word.endswith((".toml", ".py")) or ".py:" in word


def resume(command: Command) -> Command:
    """Give a command --resume, for a `Resuming` one: None without it, "" without RUN_FOLDER."""
    help_text = "Go on with the last run of PIPELINE, or with that of RUN_FOLDER, where it was left."
    return click.option("--resume", is_flag=False, flag_value="", metavar="[RUN_FOLDER]", help=help_text)(command)


def bind(command: Command) -> Command:
    """Give a command --bind."""

    def checked(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
        check_endpoint(value)
        return value

    return click.option(
        "--bind", default=ANY_PORT, show_default=True, metavar="ADDR", callback=checked, help="Where workers reach it."
    )(command)


def trace(command: Command) -> Command:
    """Give a command --trace."""
    help_text = "Write who ran which item when to this file, for Perfetto and other viewers of Chrome's traces."
    return click.option("--trace", type=_FILE, metavar="FILE", help=help_text)(command)


def registry(*, required: bool, help_text: str) -> Callable[[Command], Command]:
    """Return what gives a command --registry, which ZPIPE_REGISTRY stands in for, --keys and --insecure."""
    option = click.option(
        "--registry", "address", required=required, envvar="ZPIPE_REGISTRY", metavar="ADDR", help=help_text
    )
    return lambda command: option(access(command))


def as_json(command: Command) -> Command:
    """Give a command --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)


def arg(text: str) -> tuple[str, Any]:
    """Return the name and the value of an --arg KEY=VALUE.  Raises UsageError."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise click.UsageError(f"--arg {text} is not of the form KEY=VALUE")
    return key, toml_value(value)
