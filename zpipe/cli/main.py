"""The group of commands, and what becomes of an error: one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from zpipe.cli.check import check
from zpipe.cli.dead import dead
from zpipe.cli.drain import down, drain, scale
from zpipe.cli.graph import graph
from zpipe.cli.keys import keys
from zpipe.cli.logs import logs
from zpipe.cli.new import new
from zpipe.cli.ps import ps
from zpipe.cli.registry import registry
from zpipe.cli.run import run
from zpipe.cli.schema import schema
from zpipe.cli.tap import tap
from zpipe.cli.test import test
from zpipe.cli.top import top
from zpipe.cli.try_ import try_
from zpipe.cli.up import up
from zpipe.cli.worker import worker
from zpipe.processes.exits import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from zpipe.processes.runfolder import zpipe_version
from zpipe.values.errors import ConfigError, RunError, StageError, ZpipeError


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Example: zpipe new flowers && cd flowers && zpipe run",
)
@click.version_option(zpipe_version(), prog_name="zpipe")
def cli() -> None:
    """Run pipelines of worker processes over ZeroMQ."""


COMMANDS = (
    *(new, run, check, graph, test, try_, up, registry, worker, scale, drain, down),
    *(ps, top, tap, logs, dead, keys, schema),
)
for command in COMMANDS:
    cli.add_command(command)


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
