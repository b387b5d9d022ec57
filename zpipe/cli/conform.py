"""zpipe conform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from zpipe.cli import options
from zpipe.cli.try_ import items as parsed
from zpipe.processes import conform as tried
from zpipe.processes.atgate import NO_ITEM
from zpipe.processes.exits import EXIT_FAILED
from zpipe.values.callables import missing_program
from zpipe.wire.body import decode_message, encode_message

ITEMS: tuple[Any, ...] = ("a text", 7, None, {"text": "a text"}, [1.5, True], b"bytes")
SIDES = (2, 160)  # of square images that it is given: one inline, one in a frame of its own where those are taken


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Example: zpipe conform --items items.json ./worker",
)
@click.option("--items", "file", type=click.File("r", encoding="utf-8"), metavar="FILE|-",
              help="What it is given: JSON values; if not given, values of many types.")  # fmt: skip
@click.option("--arg", "args", multiple=True, metavar="KEY=VALUE", help="One of its args; may be repeated.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True,
              metavar="SECONDS", help="How long it may take for one item.")  # fmt: skip
@click.option("--gate", "at_gate", is_flag=True, help="Play a gate to it, at a tcp address, not the `cmd` of a stage.")
@click.option("--slow", metavar="ITEM", help="With --gate: JSON, an item that takes longer than a lease of 2 s.")
@click.option("--only", multiple=True, type=click.Choice(list(tried.AT_GATES)), metavar="RULE",
              help="Try this rule, and not all; may be repeated.")  # fmt: skip
@click.argument("cmd", nargs=-1, required=True, type=click.UNPROCESSED)
def conform(
    *, file: Any, args: tuple[str, ...], timeout: float, at_gate: bool, slow: str | None, only: tuple[str, ...],
    cmd: tuple[str, ...],
) -> int:  # fmt: skip
    """Tell whether CMD, a program for the `cmd` of a stage or for a gate, keeps Part A of docs/protocol.md.

    It is started a few times, given items, and told that there are no more.  An item may fail, but not end it.
    Exit 1 when a rule is broken that MUST be kept.
    """
    if fault := missing_program(cmd, Path.cwd()):
        raise click.UsageError(fault)
    given = dict(map(options.arg, args))
    items = parsed(file.read(), file.name, "[1, 2]") if file is not None else [*ITEMS, *map(_image, SIDES)]
    for_gates = [f"--only {rule}" for rule in only if rule not in tried.RULES] + ["--slow"] * (slow is not None)
    if for_gates and not at_gate:
        raise click.UsageError(f"{for_gates[0]} is of what gates ask for: give --gate too")
    long = parsed(slow, "--slow", "7")[0] if slow is not None else NO_ITEM
    verdicts = tried.conform(
        cmd, Path.cwd(), items, given, timeout_s=timeout, at_gate=at_gate, slow=long, only=frozenset(only)
    )
    for found in verdicts:
        must = "SHOULD" if found.rule in tried.SHOULD else "MUST"
        word = {True: "ok", False: "BROKEN", None: "not tried"}[found.holds]
        section = tried.SECTIONS.get(found.rule, "A")
        click.echo(f"{word:9}  {found.rule:8}  {section:7}  {must:6}  {tried.AT_GATES[found.rule]}")
        if found.seen:
            click.echo(f"{'':9}  {'':8}  {'':7}  {'':6}  {found.seen}")
    broken = [found.rule for found in verdicts if found.holds is False]
    return EXIT_FAILED if set(broken) - tried.SHOULD else 0


def _image(side: int) -> Any:
    form = {"nd": True, "type": "|u1", "kind": b"", "shape": [side, side, 3], "data": bytes(3 * side**2)}
    return decode_message(encode_message(form, raw=False))
