"""The group of commands, and what becomes of an error: one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from zpipe.processes.exits import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from zpipe.values.errors import ConfigError, RunError, StageError, ZpipeError

COMMANDS = {
    "new": "new", "run": "run", "check": "check", "graph": "graph", "test": "test", "try": "try_", "up": "up",
    "registry": "registry", "worker": "worker", "scale": "drain", "drain": "drain", "down": "drain", "ps": "ps",
    "top": "top", "tap": "tap", "logs": "logs", "dead": "dead", "keys": "keys", "schema": "schema",
    "conform": "conform", "push": "outside", "pull": "outside", "call": "outside",
}  # fmt: skip


class Commands(click.Group):
    """The commands by name, each imported when it is asked for: nobody waits for what the others need."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = import_module(f"zpipe.cli.{COMMANDS[name]}")
        command: click.Command = getattr(module, "try_" if name == "try" else name)
        return command


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Example: zpipe new flowers && cd flowers && zpipe run",
)
@click.version_option(package_name="zpipe", prog_name="zpipe")
def cli() -> None:
    """Run pipelines of worker processes over ZeroMQ."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 failed, 2 usage, 3 done with dead letters, 130 interrupted."""
    try:
        code = cli.main(argv, prog_name="zpipe", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = EXIT_USAGE
    except click.ClickException as error:
        code = _complain(error.format_message(), code=EXIT_USAGE)
    except ConfigError as error:
        code = _complain(*error.faults, code=EXIT_USAGE)
    except (StageError, RunError) as error:
        code = _complain(str(error), detail=error.detail, code=EXIT_FAILED)
    except ZpipeError as error:
        code = _complain(str(error), code=EXIT_FAILED)
    except (KeyboardInterrupt, click.Abort):
        code = _complain("interrupted", code=EXIT_INTERRUPTED)
    except BrokenPipeError:
        code = EXIT_FAILED  # whoever read our output has gone
        sys.stdout = None
    sys.exit(code if isinstance(code, int) else 0)


def _complain(*lines: str, code: int, detail: str = "") -> int:
    if detail:
        click.echo(detail.rstrip(), err=True)
    for line in lines:
        click.echo(f"zpipe: {line}", err=True)
    return code
