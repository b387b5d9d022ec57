"""A look at a run as lines of text, made to fit: columns and rows are left out, the least important first."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size

COLUMNS_MIN, LINES_MIN = 60, 8  # of a terminal
STAGE_MIN, EDGE_MIN = 12, 25  # columns for their names, where there is no room for all of them
GAP = "  "
BAR = 10  # characters of a bar
BLOCKS, ASCII_BLOCKS = "█▒·", "#=."  # busy, blocked, starved
ADVICE_LINES = 2
UNKNOWN = "-"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """`rank` 0 is always there; of the others the highest go first."""

    title: str
    rank: int
    cell: Callable[[Row], str]


def lines(look: Row, columns: int, rows: int | None, *, ascii_only: bool = False) -> list[str]:
    """Return a look as lines of at most so many columns, and at most so many lines when `rows` is given."""
    head = [_cut(_head(look), columns)]
    foot = _advice(look, columns)
    stages = _table(
        ["stage", *(row["name"] for row in look["stages"])],
        [_bar_column(ascii_only), *STAGE_COLUMNS], look["stages"], columns, STAGE_MIN,
    )  # fmt: skip
    edges = _table(["edge", *map(_edge_name, look["edges"])], EDGE_COLUMNS, look["edges"], columns, EDGE_MIN)
    if rows is not None:
        left = rows - len(head) - 1 - (len(foot) + 1 if foot else 0)
        stages = _shortened(stages, left, "stages")
        edges = _shortened(edges, left - len(stages) - 1, "edges")
    return [line for block in (head, stages, edges, foot) if block for line in ("", *block)][1:]


def too_small(columns: int, rows: int) -> str | None:
    """Return what is wrong with a terminal that is too small for any table, None for one that is not."""
    for size, needed, what, way_out in (
        (columns, COLUMNS_MIN, "columns wide", "wider"),
        (rows, LINES_MIN, "lines high", "higher"),
    ):
        if size < needed:
            return f"the terminal is {size} {what}: zpipe top needs {needed}; make it {way_out}, or zpipe top --json"
    return None


def _head(look: Row) -> str:
    silent_s = look["registry_silent_s"]
    parts = [
        look["run"],
        look["state"],
        duration(look["age_s"]),
        f"settled {look['settled']:,} of {look['made']:,} made",
        f"registry silent for {silent_s:.0f} s" if silent_s else "",
    ]
    return GAP.join(filter(None, parts))


def _advice(look: Row, columns: int) -> list[str]:
    line = look["advice"]["line"] if look["advice"] else "no advice yet: the run fills up"
    return textwrap.wrap(line, columns, max_lines=ADVICE_LINES, placeholder=" ...")


def _table(
    names: Sequence[str], columns: Sequence[Column], rows: Sequence[Row], width: int, names_min: int
) -> list[str]:
    """Return a line of titles and one for each row; the names come first, and get what the columns leave them."""
    if not rows:
        return []
    cells = {column.title: [column.title, *map(column.cell, rows)] for column in columns}
    widths = {title: max(map(len, texts)) for title, texts in cells.items()}
    longest = max(map(cell_len, names))
    room = width - min(longest, names_min)
    chosen = set()
    for column in sorted(columns, key=lambda column: column.rank):
        room -= len(GAP) + widths[column.title]
        if room < 0 and column.rank:
            break
        chosen.add(column.title)
    kept = [column.title for column in columns if column.title in chosen]
    room = width - sum(len(GAP) + widths[title] for title in kept)
    out = []
    for i, text in enumerate(names):
        out.append(GAP.join([_cut(text, room, pad=min(longest, room)), *(cells[t][i].rjust(widths[t]) for t in kept)]))
    return out


def _shortened(block: list[str], most: int, things: str) -> list[str]:
    """Return a table that takes at most so many lines: nothing, where not even one row has room."""
    if len(block) <= most:
        return block
    shown = most - 2  # the titles, and the line that counts the others
    return [*block[: shown + 1], f"and {len(block) - 1 - shown} more {things}"] if shown > 0 else []


def _edge_name(row: Row) -> str:
    named = [output for output in row["outputs"] if output]
    return f"{row['from']}{'.' + '|'.join(named) if named else ''} -> {row['to']}"


def _workers(row: Row) -> str:
    return f"{row['workers']}" if row["workers"] == row["wanted"] else f"{row['workers']} of {row['wanted']}"


def _bar_column(ascii_only: bool) -> Column:
    return Column("time", 9, lambda row: _bar(row, ASCII_BLOCKS if ascii_only else BLOCKS))


def _bar(row: Row, blocks: str) -> str:
    if row["busy"] is None:
        return UNKNOWN
    busy: int = round(BAR * row["busy"])
    blocked: int = min(BAR - busy, round(BAR * row["blocked"]))
    return blocks[0] * busy + blocks[1] * blocked + blocks[2] * (BAR - busy - blocked)


def _share(key: str) -> Callable[[Row], str]:
    return lambda row: UNKNOWN if row[key] is None else f"{100 * row[key]:.0f}"


def _count(key: str) -> Callable[[Row], str]:
    return lambda row: f"{row[key]:,}"


def _time(key: str) -> Callable[[Row], str]:
    return lambda row: short_time(row[key])


def _rate(row: Row) -> str:
    rate = row["rate"]
    return UNKNOWN if rate is None else f"{rate:.1f}" if rate < 10 else f"{rate:,.0f}"


def _bytes(row: Row) -> str:
    if row["bytes_s"] is None:
        return UNKNOWN
    size: float = row["bytes_s"]
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            break
        size /= 1000
    return f"{size:.1f} {unit}" if size < 10 and unit != "B" else f"{size:,.0f} {unit}"


def short_time(seconds: float | None) -> str:
    """Write a time with two digits that count, as `850 us`, `1.2 ms` or `12 s`."""
    if seconds is None:
        return UNKNOWN
    unit, scale = ("s", 1.0) if seconds >= 0.995 else ("ms", 1e3) if seconds >= 0.995e-3 else ("us", 1e6)
    value = float(f"{seconds * scale:.2g}")
    return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"


def duration(seconds: float) -> str:
    """Write an age as `12 s`, `3 min 4 s` or `2 h 5 min`."""
    minutes, s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {s} s" if minutes else f"{s} s"


def _cut(text: str, columns: int, pad: int = 0) -> str:
    """Cut a text where a column ends, and fill it up to `pad`."""
    if cell_len(text) > columns:
        text = set_cell_size(text, columns - 1) + "~"
    return text + " " * (pad - cell_len(text))


STAGE_COLUMNS = (
    Column("workers", 0, _workers),
    Column("in/s", 0, _rate),
    Column("busy %", 0, _share("busy")),
    Column("starved %", 4, _share("starved")),
    Column("blocked %", 3, _share("blocked")),
    Column("queued", 0, _count("queued")),
    Column("in flight", 6, _count("in_flight")),
    Column("p50", 1, _time("p50_s")),
    Column("p95", 2, _time("p95_s")),
    Column("p99", 5, _time("p99_s")),
)
EDGE_COLUMNS = (
    Column("over", 4, lambda row: ",".join(row["transports"]) or UNKNOWN),
    Column("items/s", 0, _rate),
    Column("bytes/s", 2, _bytes),
    Column("queued", 0, _count("queued")),
    Column("in flight", 3, _count("in_flight")),
    Column("p50", 1, _time("p50_s")),
    Column("p95", 5, _time("p95_s")),
)
