"""A show of every shape at once under kills; as `python -m tests.shows.shapes DATABASE COUNT`, who reads what is left.

The reader knows what the numbers must have become, and shares nothing with the run.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

from tests.real import ROOT, Place, rows
from tests.shows.flow import Shown, ended, stage_place

COUNT = 10_000
KILLS = 30
GOOD = "all as expected"
TABLES = ("joined", "odd", "even", "slow", "fast")


def shapes(count: int = COUNT) -> Iterator[Shown]:
    """A diamond whose one arm drops every seventh, a switch, a weighted split, a slow and a fast sink: exact."""
    with stage_place() as place:
        pipeline = place.pipeline(stages(count))
        inline = ended(place.run("run", pipeline, "--inline"))
        killed = ended(place.start("run", pipeline, "--chaos", "0.25", "--seed", "1").wait(600))
        kills = sum(json.loads((killed.folder / "report.json").read_text())["kills"].values())
        equal = all(rows(killed.folder / "out.db", t) == rows(inline.folder / "out.db", t) for t in expected(1))
        said = _read(place, f"{killed.folder}/out.db", count)
    yield Shown(f"{count} items, {kills} kills (at least {KILLS}): {said}", said == GOOD and kills >= KILLS)
    yield Shown(f"{'the same' if equal else 'OTHER'} rows and paths as inline", equal)


def stages(count: int) -> str:
    """Return the pipeline's stages."""

    def stage(name: str, run: str, above: str, more: str = "") -> str:
        return f'[stage.{name}]\nrun = "{run}"\n{above}\n{more}\n'

    def sink(table: str, above: str, more: str = "") -> str:
        args = f'args = {{ path = "out.db", table = "{table}" }}\n{more}'
        return stage(table, "zpipe.sinks:sqlite", above, args)

    return "".join(
        (
            stage("numbers", "stages:numbers", f"args = {{ count = {count // 2} }}", "partitions = 2\nworkers = 2"),
            stage("double", "stages:double", 'from = "numbers"', "workers = 2"),
            stage("sevenths", "stages:unless_seventh", 'from = "numbers"', "workers = 2"),
            stage("add", "stages:add", 'join = ["double", "sevenths"]', "workers = 2"),
            sink("joined", 'from = "add"'),
            stage("route", "stages:route", 'from = "numbers"', "workers = 2"),
            sink("odd", 'from = "route.odd"'),
            sink("even", 'from = ["route", "route.six"]'),
            stage("split", "zpipe.stages:split", 'from = "numbers"', "args = { weights = { train = 9, test = 1 } }"),
            stage("train", "stages:nap", 'from = "split.train"', "args = { nap_s = 0.001 }"),
            sink("slow", 'from = "train"'),
            sink("fast", 'from = "split.test"'),
        )
    )


def expected(count: int) -> dict[str, Counter[str]]:
    """Return what each table must hold, but for those of the split."""
    numbers = [k for k in range(count // 2) for _ in range(2)]  # two partitions make the same ones
    return {
        "joined": Counter(json.dumps([2 * k, -k]) for k in numbers if k % 7),
        "odd": Counter(json.dumps(k) for k in numbers if k % 2),
        "even": Counter(json.dumps(k) for k in numbers if k % 2 == 0),
    }


def faults(database: str, count: int) -> list[str]:
    """Return what is wrong, one line each."""
    out = []
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        read = {table: connection.execute(f"SELECT item FROM {table}") for table in TABLES}
        held = {table: Counter(json.dumps(json.loads(item)) for (item,) in found) for table, found in read.items()}
    for table, wanted in expected(count).items():
        if held[table] != wanted:
            out.append(f"{table}: {(wanted - held[table]).total()} missing, {(held[table] - wanted).total()} too many")
    parts = Counter(json.loads(item)["k"] for item in held["slow"].elements())
    parts.update(json.loads(item) for item in held["fast"].elements())
    if parts != Counter(dict.fromkeys(range(count // 2), 2)):
        out.append(f"split: {parts.total()} items of {count}")
    if not 0.05 < held["fast"].total() / count < 0.15:
        out.append(f"split: {held['fast'].total()} of {count} to the tenth")
    return out


def _read(place: Place, database: str, count: int) -> str:
    argv = (sys.executable, "-m", "tests.shows.shapes", database, str(count))
    return subprocess.run(argv, cwd=ROOT, env=place.env, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    print("; ".join(faults(sys.argv[1], int(sys.argv[2]))) or GOOD)
