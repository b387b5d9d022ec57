"""zpipe run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Unpack

import click

from zpipe.cli import options
from zpipe.cli.live import Live
from zpipe.cli.load import load
from zpipe.processes import launcher
from zpipe.processes.exits import EXIT_DEAD_LETTERS, EXIT_INTERRUPTED
from zpipe.processes.report import INTERRUPTED, Report
from zpipe.processes.resume import AlreadyDone

_ITEMS = click.IntRange(min=1)
_SECONDS = click.FloatRange(min=0, min_open=True)


EXAMPLES = """\b
Example: zpipe run pipeline.toml --set clean.workers=4 --chaos 2
Example: zpipe run pipeline.toml || zpipe run pipeline.toml --resume"""


@click.command(cls=options.Resuming, epilog=EXAMPLES)
@options.pipeline
@options.resume
@click.option("--inline", is_flag=True, help="Run all in this one thread, for a debugger.")
@click.option("--chaos", type=_SECONDS, metavar="SECONDS", help="Kill a random worker this often.")
@click.option("--limit", type=_ITEMS, metavar="N", help="Make at most N items of each source per epoch.")
@click.option("--until", metavar="STAGE", help="Leave out all stages but STAGE and those above it.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Choose what --chaos kills.")
@options.bind
@options.launching
@options.trace
@options.as_json
def run(
    *,
    target: str,
    sets: tuple[str, ...],
    inline: bool,
    chaos: float | None,
    limit: int | None,
    until: str | None,
    seed: int | None,
    resume: str | None,
    trace: Path | None,
    bind: str,
    as_json: bool,
    **launch: Unpack[options.Launch],
) -> int:
    """Run PIPELINE on this machine until it ends, and print its report.

    PIPELINE is a .toml file, or file.py:function with a function that returns a zp.Pipeline; file.py alone
    means its function `pipeline`.  Without it, pipeline.toml of this folder is taken.
    Ctrl-C once finishes what is under way, twice stops, three times kills.
    A run that failed, was stopped or was killed goes on with --resume.
    """
    pipeline = load(target, sets)
    if inline:
        if chaos is not None:
            raise click.UsageError("--chaos kills worker processes and --inline has none: leave one out")
        if launch["metrics"] is not None:
            raise click.UsageError("--metrics tells what a registry knows and --inline has none: leave one out")
        if bind != launcher.ANY_PORT:
            raise click.UsageError("--bind is where workers reach a registry and --inline has none: leave one out")
        if resume is not None:
            raise click.UsageError("--resume needs a run of processes and --inline keeps nothing: leave one out")
        from zpipe.processes import inline as in_thread

        report = in_thread.run(
            pipeline, seed=seed, runs=launch["runs"], limit=limit, until=until, events=launch["events"], trace=trace
        )
    else:
        try:
            with Live() as live:
                report = launcher.run(
                    pipeline, chaos=chaos, seed=seed, limit=limit, until=until, trace=trace, progress=live.progress,
                    on_event=live.event, resume=options.which(resume), bind=bind, **launch,
                )  # fmt: skip
        except AlreadyDone as done:
            click.echo(str(done))
            return 0
    return finish(report, as_json=as_json)


def finish(report: Report, *, as_json: bool) -> int:
    """Print a report and return the exit code."""
    from zpipe.cli import show  # and rich with it, which nobody has needed so far

    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=1))
    else:
        show.report(report)
    if report.state == INTERRUPTED:
        return EXIT_INTERRUPTED
    return EXIT_DEAD_LETTERS if report.dead else 0
