"""Run the relay at every size by every way, interleaved, and print medians.

python -m tests.bench --rounds 5 --out now.jsonl --compare before.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import report
from tests.bench.peers import WAYS
from tests.bench.relay import HOPS, LOADS, ROLES, Load


def measure(load: Load, way: str) -> report.Row:
    """Run one load by one way.  Raises RuntimeError when its sink did not get every item."""
    others, started_s = _busy_s() - _own_s(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="zb-") as folder:
        WAYS[way](load, Path(folder))
        found = {path.stem: path for path in Path(folder).rglob("*.json") if path.stem in ROLES}
        if len(found) < len(ROLES):
            raise RuntimeError(f"{way} at {load.name}: no times from {sorted(set(ROLES) - found.keys())}")
        times = {role: json.loads(path.read_text()) for role, path in found.items()}
    others = (_busy_s() - _own_s() - others) / (time.monotonic() - started_s)
    if times["sink"]["check"] != load.check():
        raise RuntimeError(f"{way} at {load.name}: the sink read other bytes than were sent")
    seconds = times["sink"]["wall_ns"] / 1e9
    return {
        "load": load.name, "way": way, "nbytes": load.nbytes, "items_s": load.count / seconds,
        "hop_us": 1e6 * seconds / load.count / HOPS,
        "cpu_us": {role: times[role]["cpu_ns"] / 1e3 / load.count for role in ROLES},
        "others": max(0.0, others),
    }  # fmt: skip


def _busy_s() -> float:
    """Return the CPU seconds that the whole machine has spent; 0 where that is not to be had."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, softirq, *_ = map(int, file.readline().split()[1:])
    except OSError:
        return 0.0
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def _read(path: Path) -> list[report.Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> int:
    """Returns 1 when something is slower than in the file compared with."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="append a JSON line per measurement")
    parser.add_argument("--compare", type=Path, help="an earlier --out: name what is over 15 %% slower now")
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS), metavar="LOAD")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    options = parser.parse_args()
    before = _read(options.compare) if options.compare else []
    rows: list[report.Row] = []
    for number in range(options.rounds):
        for load in options.loads:
            for way in options.ways:
                row = {"round": number, "time": time.time(), **measure(LOADS[load], way)}
                rows.append(row)
                print(f"round {number}: {load} {way} {row['items_s']:,.0f}/s", file=sys.stderr)
                if options.out:
                    with options.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    print(report.table(rows))
    slower = report.regressions(rows, before)
    for line in slower:
        print(f"slower: {line}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
