"""zpipe dead: the items that a run has given up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import click

from zpipe.cli import options, show
from zpipe.cli.live import Live
from zpipe.cli.load import load
from zpipe.processes import retry as again
from zpipe.processes.exits import EXIT_DEAD_LETTERS, EXIT_INTERRUPTED
from zpipe.processes.letters import Letter, Letters
from zpipe.processes.report import INTERRUPTED
from zpipe.processes.runfolder import RunFolder
from zpipe.processes.shown import as_json as in_json
from zpipe.processes.shown import as_text
from zpipe.values.errors import ConfigError
from zpipe.values.faults import did_you_mean

_FOLDER = click.Path(path_type=Path)


def _choosing(command: options.Command) -> options.Command:
    """Give a command --run and --runs, and --stage."""
    run = click.option(
        "--run", "folder", type=_FOLDER, metavar="FOLDER", help="A run folder; else the newest with any."
    )
    runs = click.option("--runs", type=_FOLDER, default="runs", show_default=True, help="Where run folders are.")
    stage = click.option("--stage", metavar="STAGE", help="Only what this stage has given up.")
    return run(runs(stage(command)))


@click.group(epilog="Example: zpipe dead ls --stage clean")
def dead() -> None:
    """See the items that a run has given up, and send them again."""


@dead.command(epilog="Example: zpipe dead ls --stage clean")
@_choosing
@options.as_json
def ls(folder: Path | None, runs: Path, stage: str | None, as_json: bool) -> None:
    """List the dead letters of a run: stage, path, tries and deaths, and what each failed with."""
    run = _run(folder, runs)
    found = list(_letters(run, stage))
    if as_json:
        click.echo(json.dumps([letter.facts() for letter in found], indent=1))
        return
    show.letters(found)
    click.echo(f"run folder: {run.path}")


@dead.command(name="show", epilog="Example: zpipe dead show points:17")
@click.argument("path")
@_choosing
@options.as_json
def show_(path: str, folder: Path | None, runs: Path, stage: str | None, as_json: bool) -> None:
    """Show one dead letter: the item, and the traceback or the last lines of the worker that died of it."""
    run = _run(folder, runs)
    for letter in _of_paths(list(_letters(run, stage)), (path,)):
        if as_json:
            click.echo(json.dumps({**letter.facts(), "item": in_json(letter.value)}, indent=1))
            continue
        for line in _lines(letter):
            click.echo(line)


@dead.command(epilog="Example: zpipe dead retry --stage clean")
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@_choosing
@click.option(
    "--pipeline", "target", metavar="PIPELINE", help="Another pipeline than the run's own, of the same stages."
)
def retry(paths: tuple[str, ...], folder: Path | None, runs: Path, stage: str | None, target: str | None) -> int:
    """Send dead letters through their stage and those below it again, with the code as it is now.

    All of them, or those of PATH.  What a sink has of them already is not committed again; a letter is kept until
    its item is delivered.
    """
    run = _run(folder, runs)
    with again.claimed(run):
        found = _of_paths(list(_letters(run, stage)), paths) if paths else list(_letters(run, stage))
        for name in dict.fromkeys(letter.stage for letter in found):
            mine = [letter.path for letter in found if letter.stage == name]
            pipeline = load(target) if target else None
            with Live() as live:
                report = again.retry(run, name, mine, pipeline, progress=live.progress, on_event=live.event)
            show.report(report)
            if report.state == INTERRUPTED:
                return EXIT_INTERRUPTED
    left = sum(Letters(run.dead).count(name) for name in Letters(run.dead).stages())
    gone = len(found) - sum(letter.path in Letters(run.dead).paths(letter.stage) for letter in found)
    click.echo(f"{gone} of {len(found)} dead letters delivered, {left} left in {run.path}")
    return EXIT_DEAD_LETTERS if left else 0


def _run(folder: Path | None, runs: Path) -> RunFolder:
    """Return the run that is meant.  Raises ConfigError when it has no dead letters."""
    if folder is not None:
        if not (folder / "plan.json").exists():
            raise ConfigError(f"{folder} is no run folder: name one with --run FOLDER")
        if not Letters(RunFolder(folder).dead).stages():
            raise ConfigError(f"the run of {folder} has no dead letters")
        return RunFolder(folder.absolute())
    for path in sorted(runs.glob("*/plan.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        run = RunFolder(path.parent.absolute())
        if Letters(run.dead).stages():
            return run
    raise ConfigError(f"no run in {runs} has dead letters: name its folder with --run, or where runs are with --runs")


def _letters(run: RunFolder, stage: str | None) -> Iterator[Letter]:
    letters = Letters(run.dead)
    if stage is not None and stage not in letters.stages():
        hint = did_you_mean(stage, letters.stages()) or f": there are some of {', '.join(letters.stages())}"
        raise ConfigError(f"the run of {run.path} has no dead letters of {stage!r}{hint}")
    return letters.read(stage)


def _of_paths(letters: list[Letter], paths: tuple[str, ...]) -> list[Letter]:
    known = [letter.path for letter in letters]
    for path in paths:
        if path not in known:
            raise ConfigError(f"there is no dead letter {path!r}{did_you_mean(path, known) or ': see zpipe dead ls'}")
    return [letter for letter in letters if letter.path in paths]


def _lines(letter: Letter) -> Iterator[str]:
    when = datetime.fromtimestamp(letter.time).astimezone().isoformat(sep=" ", timespec="seconds")
    yield f"{letter.stage} gave up {letter.path} at {when} ({letter.worker})"
    yield f"tries {letter.tries}, deaths {letter.deaths}: {letter.error}"
    yield f"item: {as_text(letter.value)}"
    if letter.detail:
        yield letter.detail.rstrip()
