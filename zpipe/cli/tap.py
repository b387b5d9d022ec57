"""zpipe tap."""

from __future__ import annotations

import json
from typing import Any

import click

from zpipe.cli import options
from zpipe.cli.ps import reach
from zpipe.processes.access import Access
from zpipe.processes.runfolder import live_runs
from zpipe.processes.tapper import Tapper
from zpipe.values.errors import RunError

_ITEMS = click.IntRange(min=1)


@click.command(epilog="Example: zpipe tap clean -n 3")
@click.argument("stage")
@click.option("-n", "count", type=_ITEMS, metavar="N", help="End after N items; else go on until Ctrl-C.")
@click.option("--inputs", is_flag=True, help="Show what the stage is given, not what it makes.")
@click.option("--output", metavar="NAME", help="Show what goes to this named output only.")
@options.registry(required=False, help_text="Whom to ask; else ZPIPE_REGISTRY, else your only live run.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def tap(
    *, stage: str, count: int | None, inputs: bool, output: str | None, address: str | None, access: Access,
    as_json: bool,
) -> None:  # fmt: skip
    """Show items as they pass STAGE of a live run, with path and worker: what it makes, of a sink what it is given.

    A few items a second of each worker are shown, large values cut; the run goes on as it does without.
    """
    if inputs and output is not None:
        raise click.UsageError("--output is of what a stage makes, and --inputs shows what it is given: leave one out")
    address, keys = reach(address, access)
    is_ours = _is_live(address)
    seen = 0
    with Tapper(address, stage, keys=keys, inputs=inputs, output=output, form="json" if as_json else "text") as tapper:
        for sample in tapper.samples(lambda: is_ours and not _is_live(address)):
            click.echo(_json(sample) if as_json else _line(sample))
            seen += 1
            if seen == count:
                return
    items = f"{seen} of {count} items" if count else f"{seen} item{'' if seen == 1 else 's'}"
    said = f"the run has ended: {items} of {stage!r} seen"
    if count:
        raise RunError(said)
    click.echo(said, err=True)


def _line(sample: dict[str, Any]) -> str:
    to = f" to {sample['output']}" if sample["output"] else ""
    return f"{sample['path']}  {sample['worker']}{to}  {sample['item']}"


def _json(sample: dict[str, Any]) -> str:
    output = {"output": sample["output"]} if sample["output"] else {}
    found = {"path": sample["path"], "worker": sample["worker"], **output, "item": json.loads(sample["item"])}
    return json.dumps(found, ensure_ascii=False)


def _is_live(address: str) -> bool:
    return any(run.address == address for run in live_runs())
