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
TABLES = ("joined", "odd", "even", "train", "test", "slow", "fast", "paired", "matched", "watched")
STEPS = 7, 11  # by which the ids of the two sides of a join count


def shapes(count: int = COUNT) -> Iterator[Shown]:
    """Diamond, switch, split, joins of two sources, a slow and a fast sink, a stalled latest branch: exact."""
    with stage_place() as place:
        pipeline = place.pipeline(stages(count))
        inline = ended(place.run("run", pipeline, "--inline", "--set", "stalled.stall_s=0"))
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

    def sink(table: str, above: str, run: str = "zpipe.sinks:sqlite") -> str:
        return stage(table, run, above, f'args = {{ path = "out.db", table = "{table}" }}')

    n = count // 2
    left, right = (f"args = {{ count = {n}, step = {step} }}" for step in STEPS)
    source = f"args = {{ count = {n} }}", "partitions = 2\nworkers = 2"
    return "".join(
        (
            stage("numbers", "stages:numbers", *source),
            stage("others", "stages:numbers", *source),
            stage("double", "stages:double", 'from = "numbers"', "workers = 2"),
            stage("sevenths", "stages:unless_seventh", 'from = "numbers"', "workers = 2"),
            stage("add", "stages:add", 'join = ["double", "sevenths"]', "workers = 2"),
            sink("joined", 'from = "add"'),
            stage("route", "stages:route", 'from = "numbers"', "workers = 2"),
            sink("odd", 'from = "route.odd"'),
            sink("even", 'from = ["route", "route.six"]'),
            stage("split", "zpipe.stages:split", 'from = "numbers"', "args = { weights = { train = 9, test = 1 } }"),
            stage("nap", "stages:nap", 'from = "split.train"', "args = { nap_s = 0.001 }"),
            sink("train", 'from = "nap"'),
            sink("test", 'from = "split.test"'),
            sink("slow", 'from = "double"', run="stages:slow_sqlite"),
            sink("fast", 'from = "double"'),
            stage("pair", "stages:add", 'join = ["sevenths", "others"]', 'on = "position"'),
            sink("paired", 'from = "pair"'),
            stage("left", "stages:named", 'from = "numbers"', left),
            stage("right", "stages:named", 'from = "others"', right),
            stage("match", "stages:values", 'join = ["left", "right"]', f'on = "field:id"\nwithin = {n}'),
            sink("matched", 'from = "match"'),
            stage("stalled", "stages:stalled", 'from = { stage = "double", keep = "latest" }'),
            sink("watched", 'from = "stalled"'),
        )
    )


def expected(count: int) -> dict[str, Counter[str]]:
    """Return what each table must hold, but for those of the split and of the stalled branch."""
    numbers = [k for k in range(count // 2) for _ in range(2)]  # two partitions make the same ones
    doubles = Counter(json.dumps(2 * k) for k in numbers)
    left, right = ({k * step % (count // 2): k for k in range(count // 2)} for step in STEPS)
    return {
        "joined": Counter(json.dumps([2 * k, -k]) for k in numbers if k % 7),
        "odd": Counter(json.dumps(k) for k in numbers if k % 2),
        "even": Counter(json.dumps(k) for k in numbers if k % 2 == 0),
        "slow": doubles,
        "fast": doubles,
        "paired": Counter(json.dumps([-k, k]) for k in numbers if k % 7),
        "matched": Counter(json.dumps([name, left[name], right[name]]) for name in numbers),
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
    parts = Counter(json.loads(item)["k"] for item in held["train"].elements())
    parts.update(json.loads(item) for item in held["test"].elements())
    if parts != Counter(dict.fromkeys(range(count // 2), 2)):
        out.append(f"split: {parts.total()} items of {count}")
    if not 0.05 < held["test"].total() / count < 0.15:
        out.append(f"split: {held['test'].total()} of {count} to the tenth")
    watched, last = held["watched"], json.dumps(2 * (count // 2 - 1))
    if watched - expected(count)["fast"] or watched[last] != 2 or watched.total() > count / 10:
        out.append(f"latest: {watched.total()} items, the last of each partition {watched[last]} times")
    return out


def _read(place: Place, database: str, count: int) -> str:
    argv = (sys.executable, "-m", "tests.shows.shapes", database, str(count))
    return subprocess.run(argv, cwd=ROOT, env=place.env, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    print("; ".join(faults(sys.argv[1], int(sys.argv[2]))) or GOOD)
