"""What the commands print: the report, the tables of stages, workers and letters, drawings."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from zpipe.processes.letters import Letter
from zpipe.processes.report import Report
from zpipe.values.graph import ASCII

REPORT_COLUMNS = (
    "stage", "workers", "in", "done", "dropped", "dead", "out", "repeats", "restarts", "in/s", "busy %",
    "starved %", "blocked %", "RSS MiB", "PSS MiB",
)  # fmt: skip
WORKER_COLUMNS = (
    "worker", "pid", "host", "state", "in/s", "in", "done", "dropped", "dead", "out", "repeats", "queued",
    "in flight", "running", "age",
)  # fmt: skip
LETTER_COLUMNS = ("stage", "path", "tries", "deaths", "failed with")
LEFT = ("host", "state", "running", "path", "failed with")
MIB = 1024 * 1024
WIDE = 160  # columns of a table that goes into a file or a pipe


def stages_table(table: Mapping[str, Any]) -> Table:
    """Return the progress of each stage."""
    out = _table("stage", "workers", "done", "in/s")
    for row in table["stages"]:
        out.add_row(row["name"], str(row["workers"]), f"{count(row, 'done'):,}", f"{row['rate']:,.0f}")
    return out


def short_report(report: Report) -> Table:
    """Return what became of the items of each stage, for where there is little room."""
    out = _table("stage", "workers", "in", "dropped", "out", "in/s", "busy %")
    for stage in report.stages:
        counts = (stage.taken, stage.dropped, stage.out)
        out.add_row(
            stage.name, str(stage.workers), *(f"{n:,}" for n in counts), f"{stage.rate:,.0f}", f"{100 * stage.busy:.0f}"
        )  # fmt: skip
    return out


def text_of(table: Table) -> str:
    """Return a table as lines without control codes."""
    text = io.StringIO()
    Console(file=text, width=WIDE, force_jupyter=False, force_terminal=False, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().strip("\n").splitlines())


def report(report: Report) -> None:
    """Print the report of a run on stdout."""
    console = _stdout()
    out = _table(*REPORT_COLUMNS)
    for stage in report.stages:
        mine = [process for process in report.processes if process.stage == stage.name]
        counts = (
            stage.taken,
            stage.done,
            stage.dropped,
            stage.dead,
            stage.out,
            stage.repeats,
            stage.restarts,
        )
        out.add_row(
            stage.name, str(stage.workers), *(f"{n:,}" for n in counts), f"{stage.rate:,.0f}",
            *(f"{100 * share:.0f}" for share in (stage.busy, stage.starved, stage.blocked)),
            _mib(max((process.rss_bytes for process in mine), default=0)),
            _mib(max((process.pss_bytes for process in mine), default=0)),
        )  # fmt: skip
    console.print(out)
    kills = ", ".join(f"{role} {n}" for role, n in sorted(report.kills.items()))
    lines = [
        f"{report.state} in {report.seconds:.1f} s",
        report.bottleneck_line,
        f"largest process: {report.largest_line}",
        *(
            f"skipped: {stage.skipped:,} outputs of {stage.name}, for readers that keep only the latest"
            for stage in report.stages
            if stage.skipped
        ),
        *(
            f"errors: {stage.errors:,} items of {stage.name} were skipped: its logs in the run folder say why"
            for stage in report.stages
            if stage.errors
        ),
        f"dead letters: {report.dead:,}: see zpipe dead ls, after a fix zpipe dead retry" if report.dead else "",
        _resumed(report.resumed),
        f"chaos: seed {report.seed}, {sum(report.kills.values())} kills ({kills})" if report.kills else "",
        f"run folder: {report.folder}",
    ]
    for line in filter(None, lines):
        console.print(Text(line), soft_wrap=True)


def _resumed(times: int) -> str:
    often = "once" if times == 1 else f"{times} times"
    return f"resumed {often}: counts are of all its lives, time and rates of the last" if times else ""


def workers(table: Mapping[str, Any]) -> None:
    """Print the table of workers on stdout."""
    console = _stdout()
    console.print(Text(f"{table['name']}: {table['state']}"), soft_wrap=True)
    out = _table(*WORKER_COLUMNS)
    for row in table["workers"]:
        call = row["running"] or {}
        out.add_row(
            row["worker"], str(row["pid"]), row["host"], row["state"], f"{row['rate']:,.0f}",
            *(f"{count(row, key):,}" for key in ("in", "done", "dropped", "dead", "out", "repeats", "queued",
            "in_flight")), call.get("path", ""), f"{call['age_s']:.1f} s" if call else "",
        )  # fmt: skip
    console.print(out)


def letters(found: Iterable[Letter]) -> None:
    """Print the table of dead letters on stdout."""
    console = _stdout()
    out = _table(*LETTER_COLUMNS)
    for letter in found:
        row = (letter.stage, letter.path, str(letter.tries), str(letter.deaths), letter.error)
        out.add_row(*map(Text, row))
    console.print(out)


def drawing(text: str) -> None:
    """Print a drawing on stdout, its lines cut where a terminal ends."""
    console = Console()
    if console.options.ascii_only:
        text = text.translate(ASCII)
    for line in text.splitlines():
        console.print(Text(line), no_wrap=True, overflow="ellipsis", soft_wrap=not console.is_terminal)


def count(row: Mapping[str, Any], key: str) -> int:
    """Return a counter of a stage or a worker."""
    return int(row["counters"].get(key, 0))


def _table(first: str, *others: str) -> Table:
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    out.add_column(first, no_wrap=True)
    for title in others:
        out.add_column(title, justify="left" if title in LEFT else "right", no_wrap=True)
    return out


def _stdout() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDE)


def _mib(size: int) -> str:
    return f"{size / MIB:.0f}" if size else ""
