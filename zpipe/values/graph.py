"""A pipeline as text: a drawing of its graph, a Mermaid flowchart, and a summary of its stages.

Knows the pipeline and, where told, how its stages fare in a run; refuses to know where the text goes.

The drawing reads downwards.  A column is an edge on its way to the stage that reads it: columns part where several
stages read one, and join where one reads several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zpipe.values.callables import CallableInfo, describe
from zpipe.values.pipeline import Pipeline
from zpipe.values.plan import has_memory, variant_name, variants
from zpipe.values.stage import StageSpec

VARIANTS_DRAWN = 12  # of one grid; the others are counted
ASCII = str.maketrans("●│├─╮╯┬┴", "*||-\\/++")  # for where there are no such characters
SHAPES = {"source": '(["{}"])', "transform": '["{}"]', "sink": '[("{}")]'}  # of Mermaid

Columns = list[str | None]  # each: the stage that it leads to
Row = tuple[str, tuple[str, ...]]  # columns and cells; one cell is a note


@dataclass(frozen=True)
class Live:
    """How a stage, or a variant of one, fares in a run: its living workers, and items per second."""

    workers: int
    rate: float


def draw(pipeline: Pipeline, live: Mapping[str, Live] | None = None) -> str:
    """Draw a checked pipeline; `live` has each stage and variant by its full name."""
    columns: Columns = []
    rows: list[Row] = []
    for spec in pipeline.stages:
        arriving = [i for i, to in enumerate(columns) if to == spec.name]
        if len(arriving) > 1:
            note = f"{'joins' if spec.joins else 'merges'} {_and(_reads(spec))}{_on(spec)}"
            rows.append((_bridge(columns, arriving, "┴╯"), (note,)))
        elif rows and len(rows[-1][1]) != 1:
            rows.append((_bridge(columns), (_reads(spec)[0],) if spec.latest else ()))
        for i in arriving[1:]:
            columns[i] = None
        at = arriving[0] if arriving else _free(columns, 0)
        below = [reader.name for reader in pipeline.readers(spec.name)]
        columns[at] = spec.name
        rows.append((_bridge(columns, [at], "●"), _cells(pipeline, spec, live)))
        columns[at] = below[0] if below else None
        rows += [(_bridge(columns), cells) for cells in _variant_cells(spec, live)]
        leaving = [at]
        for name in below[1:]:
            leaving.append(_free(columns, at + 1))
            columns[leaving[-1]] = name
        if len(leaving) > 1:
            rows.append((_bridge(columns, leaving, "┬╮"), (_sends(pipeline, spec),)))
    return "\n".join([*_lines(rows), "", totals(pipeline, live)])


def mermaid(pipeline: Pipeline, live: Mapping[str, Live] | None = None) -> str:
    """Return a checked pipeline as a Mermaid flowchart, the variants of a grid as one node."""
    lines = ["flowchart LR"]
    for spec in pipeline.stages:
        points = _names(spec)
        workers, rate = _fares(points, spec, live)
        says = [
            spec.name,
            amount(len(points), "variant") if len(points) > 1 else "",
            workers if workers != amount(len(points), "worker") else "",
            rate,
        ]
        label = "<br/>".join(filter(None, says))
        lines.append(f"    {_node(spec.name)}{SHAPES[pipeline.role(spec)].format(label)}")
    for spec in pipeline.stages:
        for above in spec.above:
            says = [output for output in spec.outputs_of(above) if output]
            says += ["the latest"] if spec.keeps(above) == "latest" else []
            label = f"|{', '.join(says)}|" if says else ""
            lines.append(f"    {_node(above)} -->{label} {_node(spec.name)}")
    return "\n".join(lines)


def summary(pipeline: Pipeline) -> str:
    """Return a table of a checked pipeline, one stage a line.  Imports its callables."""
    rows = [("stage", "role", "run", "reads", "workers", "remembers")]
    for spec in pipeline.stages:
        n = len(_names(spec))
        rows.append(
            (
                f"{spec.name} ({n} variants)" if n > 1 else spec.name,
                pipeline.role(spec),
                spec.code,
                ", ".join(_reads(spec)),
                _span(*_planned(spec)),
                remembers(spec, describe(spec.run, pipeline.folder)),
            )
        )
    head, *body = _aligned(rows, right=(4,))
    rule = "-" * max(map(len, (head, *body)))
    return "\n".join([f"pipeline {pipeline.name}", "", head, rule, *body, rule, totals(pipeline)])


def _reads(spec: StageSpec) -> list[str]:
    return [f"the latest of {read}" if read in spec.latest else read for read in spec.inputs]


def _on(spec: StageSpec) -> str:
    """Say on what a stage joins, nothing of arms that part at a fork."""
    kind, _, name = spec.options.on.partition(":")
    return {"position": " on the position", "field": f" on {name}"}.get(kind, "") if spec.joins else ""


def _sends(pipeline: Pipeline, spec: StageSpec) -> str:
    """Say who gets what of a stage that several read."""
    readers = pipeline.readers(spec.name)
    if pipeline.outputs(spec.name) <= {""}:
        return f"every item to {_and([reader.name for reader in readers])}"
    sent = [(reader.outputs_of(spec.name), reader.name) for reader in readers]
    return ", ".join(f"{_and([output or 'the rest' for output in outputs])} to {name}" for outputs, name in sent)


def remembers(spec: StageSpec, info: CallableInfo) -> str:
    """Say what a stage keeps across items, nothing for one without memory."""
    if not has_memory(spec, info):
        return ""
    if spec.is_grouping:
        size = max({**spec.args, **variant}["size"] for variant in variants(spec))
        return f"up to {size} {'rows' if spec.run.endswith(':rechunk') else 'items'}"
    if "state" in info.hooks:
        every = spec.options.checkpoint
        return f"its state, saved every {amount(every, 'item')}" if every else "its state"
    return "its state, never saved" if "finish" in info.hooks else "its place in source order"


def totals(pipeline: Pipeline, live: Mapping[str, Live] | None = None) -> str:
    """Count stages and workers."""
    points = [len(_names(spec)) for spec in pipeline.stages]
    if live is None:
        workers = range_of([_planned(spec) for spec in pipeline.stages])
    else:
        workers = amount(sum(x.workers for x in live.values()), "worker")
    more = f" ({sum(points)} with each variant)" if sum(points) > len(points) else ""
    return f"{amount(len(points), 'stage')}{more}, {workers}"


def amount(n: int, thing: str) -> str:
    """Write `1 worker`, `2 workers`."""
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


def range_of(ranges: Sequence[tuple[int, int]]) -> str:
    """Write how many workers stages have together, `4 workers`, or `4..11 workers` where some scale themselves."""
    least, most = (sum(numbers) for numbers in zip(*ranges, strict=True))
    return amount(least, "worker") if least == most else f"{_span(least, most)} workers"


def _planned(spec: StageSpec) -> tuple[int, int]:
    """Return the least and the most workers of all variants of a stage."""
    n = len(_names(spec))
    least, most = spec.options.worker_range
    return n * least, n * most


def _span(least: int, most: int) -> str:
    return str(least) if least == most else f"{least}..{most}"


def _cells(pipeline: Pipeline, spec: StageSpec, live: Mapping[str, Live] | None) -> tuple[str, ...]:
    workers, rate = _fares(_names(spec), spec, live)
    return spec.name, pipeline.role(spec), workers, rate, spec.code


def _variant_cells(spec: StageSpec, live: Mapping[str, Live] | None) -> list[tuple[str, ...]]:
    points = _names(spec)
    if len(points) == 1 and not spec.options.grid:
        return []
    rows: list[tuple[str, ...]] = []
    for name in points:
        workers, rate = _fares([name], spec, live)
        rows.append((name.removeprefix(spec.name), "variant", workers, rate, ""))
    more = len(rows) - VARIANTS_DRAWN
    if more <= 1:
        return rows  # the line that counts one more has room for it
    return [*rows[:VARIANTS_DRAWN], (f"and {more} more", "variants", "", "", "")]


def _fares(names: Sequence[str], spec: StageSpec, live: Mapping[str, Live] | None) -> tuple[str, str]:
    """Return the workers of variants of a stage, and their rate together."""
    if live is None:
        return range_of([spec.options.worker_range] * len(names)), ""
    here = [live[name] for name in names if name in live]
    return amount(sum(x.workers for x in here), "worker"), f"{sum(x.rate for x in here):,.0f} in/s"


def _names(spec: StageSpec) -> list[str]:
    return [variant_name(spec.name, variant) for variant in variants(spec)]


def _node(name: str) -> str:
    return f"s_{name.replace('-', '_')}"  # `end`, a plain name for a stage, is a word of Mermaid


def _and(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _free(columns: Columns, least: int) -> int:
    """Return the first free column from `least` on, a new one where there is none."""
    for i in range(least, len(columns)):
        if columns[i] is None:
            return i
    columns.append(None)
    return len(columns) - 1


def _bridge(columns: Columns, ends: Sequence[int] = (), signs: str = "") -> str:
    """Return a row of columns: `ends` are one sign, or the first is a trunk and the others its branches."""
    out = ""
    for i, to in enumerate(columns):
        inside = len(ends) > 1 and ends[0] <= i < ends[-1]
        if i not in ends:
            sign = "│" if to else "─" if inside else " "
        elif len(ends) == 1:
            sign = signs
        else:
            sign = "├" if i == ends[0] else signs[1] if i == ends[-1] else signs[0]
        out += sign + ("─" if inside else " ")
    return out.rstrip()


def _lines(rows: Sequence[Row]) -> list[str]:
    wide = max((len(columns) for columns, _ in rows), default=0)
    full = [cells for _, cells in rows if len(cells) > 1]
    texts = iter(_aligned(full, right=(3,)))
    lines = []
    for columns, cells in rows:
        text = next(texts) if len(cells) > 1 else "".join(cells)
        lines.append(f"{columns:{wide}} {text}".rstrip())
    return lines


def _aligned(rows: Sequence[tuple[str, ...]], right: tuple[int, ...]) -> list[str]:
    """Return lines of cells below each other, empty columns left out; those of numbers end below each other."""
    columns = []
    for i, cells in enumerate(zip(*rows, strict=True)):
        if width := max(map(len, cells)):
            columns.append([cell.rjust(width) if i in right else cell.ljust(width) for cell in cells])
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
