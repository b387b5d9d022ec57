"""Run every workload by every way, interleaved, and print medians.

python -m tests.bench --rounds 15 --out now.jsonl --compare before.jsonl --plot now.png
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import report
from tests.bench.measure import measure
from tests.bench.ways import WAYS, Way
from tests.bench.workloads import EIGHT, LOADS, OUTSIDE, STREAM, WORK, Load

KILL_EVERY = 5  # rounds
PROGRAMS = "G"  # in --only: the loads for programs outside
KILLED = "zpipe"  # the way that has to bear it


def plan(number: int, loads: list[Load], ways: list[Way], *, kill: bool) -> Iterator[tuple[Load, Way, bool]]:
    """Return what a round consists of: a load by all its ways, then, in some rounds, with a worker killed."""
    for load in loads:
        for way in ways:
            if load.name in way.loads:
                yield load, way, False
        if kill and number % KILL_EVERY == 0 and load.kind in (STREAM, WORK):
            yield load, WAYS[KILLED], True


def selected(names: list[str]) -> list[Load]:
    """Return the loads of these names; W4 are W4x1 and W4x2, W1 is also W1-bytes, and G all for programs outside."""
    families = {name: PROGRAMS if name in OUTSIDE else name[:2] for name in LOADS}
    return [load for load in LOADS.values() if {load.name, families[load.name]} & set(names)]


def read(path: Path) -> list[report.Row]:
    """Read the rows that an --out has written."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(options: argparse.Namespace) -> list[report.Row]:
    """Run all rounds and return their rows."""
    rows: list[report.Row] = []
    loads, ways = selected(options.only), [WAYS[name] for name in options.ways]
    for number in range(options.rounds):
        for load, way, kill in plan(number, loads, ways, kill=options.kill):
            row = {"round": number, "time": time.time(), **measure(load, way, number, kill=kill)}
            rows.append(row)
            shown = ", ".join(
                f"{name} {value if isinstance(value, str) else f'{value:,.6g}'}"
                for name, value in row["numbers"].items()
            )
            print(f"round {number}: {load.name} {way.name}{' killed' if kill else ''}: {shown}", file=sys.stderr)
            if options.out:
                with options.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    return rows


def main() -> int:
    """Returns 1 when something is worse than in the file compared with."""
    names = sorted({name[:2] for name in EIGHT} | set(LOADS) | {PROGRAMS})
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="+", choices=names, default=list(EIGHT), metavar="LOAD")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    parser.add_argument("--kill", action="store_true", help="in every 5th round run zpipe with a worker killed too")
    parser.add_argument("--out", type=Path, help="append a JSON line per measurement")
    parser.add_argument("--compare", type=Path, help="an earlier --out: name what is worse now")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the ratios; needs matplotlib")
    parser.add_argument(
        "--others",
        type=float,
        default=float("inf"),
        metavar="CORES",
        help="leave out of the table what was measured while others used more of the machine",
    )
    parser.add_argument("--read", type=Path, metavar="OUT", help="run nothing: show the rows of an --out")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started ends with it
    before = read(options.compare) if options.compare else []
    rows = read(options.read) if options.read else run(options)
    rows, before = ([row for row in some if row["others"] <= options.others] for some in (rows, before))
    print(report.table(rows))
    if options.plot:
        from tests.bench.plot import draw

        draw(rows, options.plot)
    worse = report.regressions(rows, before)
    for line in worse:
        print(f"worse: {line}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
