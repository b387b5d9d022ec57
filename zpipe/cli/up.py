"""zpipe up."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import click

from zpipe.cli import live, options
from zpipe.cli.load import load
from zpipe.cli.run import finish
from zpipe.processes.access import Access
from zpipe.processes.events import Event
from zpipe.processes.prepare import prepare
from zpipe.processes.resume import AlreadyDone
from zpipe.processes.resume import resume as resumed
from zpipe.processes.service import Background, Service, claimed, was_ended
from zpipe.values.check import NAME_RULE
from zpipe.values.errors import ConfigError
from zpipe.values.pipeline import Pipeline
from zpipe.values.stage import NAME

TIMEOUT_S = 120.0
NEXT = "look: zpipe ps, zpipe top, zpipe logs -f; change: zpipe scale STAGE=N; end: zpipe down"


@click.command(cls=options.Resuming, epilog="Example: zpipe up pipeline.toml --set points.count=1000000000 --wait")
@options.pipeline
@options.resume
@click.option("--name", metavar="NAME", help="The service's name, one service each; else the pipeline's.")
@click.option("--wait", "waits", is_flag=True, help="Wait until all workers of each stage are live.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
    help=f"With --wait: end it again when it takes longer.  [default: {TIMEOUT_S:g}]",
)  # fmt: skip
@click.option("--foreground", is_flag=True, help="Stay here until it ends, for systemd and containers.")
@options.bind
@options.launching
def up(
    *, target: str, sets: tuple[str, ...], resume: str | None, name: str | None,
    waits: bool, timeout_s: float | None, foreground: bool,
    bind: str, **launch: Unpack[options.Launch],
) -> int:  # fmt: skip
    """Run PIPELINE as a service: in the background, its workers started again for ever, until `zpipe down`.

    A worker that keeps dying is waited for longer each time, up to 30 s.  The service itself is not started again when
    it is killed: let systemd or a container do that, with --foreground.  There SIGTERM once finishes what is
    under way, twice stops.
    """
    if foreground and waits:
        raise click.UsageError("--wait returns when the service is there and --foreground when it ends: leave one out")
    if timeout_s is not None and not waits:
        raise click.UsageError("--timeout is how long --wait waits: add --wait, or leave it out")
    pipeline = load(target, sets)
    name = pipeline.name if name is None else name
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is a bad name for a service: {NAME_RULE}")
    launch["access"] = launch["access"].of(pipeline)
    launch["access"].at(bind)  # before anything is made
    with claimed(name) as lock:
        try:
            service = _prepared(name, pipeline, options.which(resume), bind=bind, **launch)
        except AlreadyDone as done:
            click.echo(str(done))
            return 0
        if foreground:
            return _in_foreground(service)
        service.folder.release()  # the process in the background takes it
        with Background(service, lock, _show) as background:
            address = background.wait_until_found()
            if waits:
                background.wait_until_warm(address, TIMEOUT_S if timeout_s is None else timeout_s)
            background.leave()
    click.echo(f"{name}: registry {address}, run folder {service.folder.path}")
    click.echo("it has ended: all its sources are done" if background.has_ended else NEXT)
    return 0


def _prepared(
    name: str,
    pipeline: Pipeline,
    resume: str | bool,
    *,
    bind: str,
    access: Access,
    events: Path | None,
    runs: Path,
    transport: str,
    metrics: str | None,
) -> Service:
    if resume:
        plan, folder = resumed(pipeline, resume, runs=runs)
    else:
        plan, folder = prepare(pipeline, runs=runs, sets=(), seed=None, transport=transport)
    return Service(name, plan, folder, transport, bind, access, metrics, events)


def _in_foreground(service: Service) -> int:
    with live.Live() as shown:
        report = service.run(shown.event, shown.progress)
    code = finish(report, as_json=False)
    return 0 if was_ended(report) else code


def _show(event: Event) -> None:
    if event.kind != "started":  # that is said in the end
        live.event(event)
