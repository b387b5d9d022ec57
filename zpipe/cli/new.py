"""zpipe new: a folder with a small project that runs and is tested."""

from __future__ import annotations

from pathlib import Path

import click

from zpipe.values.check import NAME_RULE
from zpipe.values.errors import ConfigError
from zpipe.values.stage import NAME

PIPELINE = """\
schema = 1
name = "NAME"

[stage.points]
run = "stages:points"
args = { count = 1000 }
replay = "seek"

[stage.clean]
run = "stages:clean"
from = "points"
args = { limit = 2.0 }
workers = 2

[stage.batch]
run = "zpipe.stages:batch"
from = "clean"
args = { size = 32 }

[stage.mean]
run = "stages:Mean"
from = "batch"
checkpoint = 10

[stage.results]
run = "zpipe.sinks:jsonl"
from = "mean"
args = { path = "results.jsonl" }

[[test]]
name = "what lies far out is dropped"
stage = "clean"
input = [{ x = 1.0 }, { x = 3.0 }, { x = -2.5 }]
output = [{ x = 1.0 }]

[[test]]
stage = "mean"
input = [{ x = [1.0, 2.0] }, { x = [6.0] }]
output = [{ items = 3, mean = 3.0 }]
"""

STAGES = '''\
"""The stages of NAME."""

import zpipe as zp


def points(count, start=0):
    """Yield random points; `start` lets it begin in the middle, after a death."""
    for _ in range(start, count):
        yield {"x": float(zp.rng().normal())}


def clean(point, limit):
    """Drop what lies far out."""
    return point if abs(point["x"]) < limit else None


class Mean:
    """The mean of all points, from batches of them."""

    def __init__(self):
        self.sum = 0.0
        self.items = 0

    def __call__(self, batch):
        self.sum += float(sum(batch["x"]))
        self.items += len(batch["x"])

    def state(self):
        return {"sum": self.sum, "items": self.items}

    def restore(self, state):
        self.sum, self.items = state["sum"], state["items"]

    def finish(self):
        yield {"items": self.items, "mean": self.sum / max(1, self.items)}
'''

TESTS = '''\
"""The stages of NAME, each on its own."""

from stages import Mean, clean, points
from zpipe.testing import feed, first


def test_points_are_the_same_in_every_run():
    assert first(points, 3, args={"count": 10}) == first(points, 3, args={"count": 10})


def test_what_lies_far_out_is_dropped():
    assert feed(clean, [{"x": 1.0}, {"x": 3.0}], args={"limit": 2.0}) == [{"x": 1.0}]


def test_the_mean_is_that_of_all_points():
    assert feed(Mean, [{"x": [1.0, 2.0]}, {"x": [6.0]}]) == [{"items": 3, "mean": 3.0}]
'''

PYPROJECT = """\
[tool.pytest.ini_options]
pythonpath = ["."]
"""

README = """\
# NAME

A pipeline for zpipe: points are made, cleaned and batched, and their mean is taken.

    zpipe check                         # every fault at once; starts nothing
    zpipe test                          # the [[test]] tables of pipeline.toml
    zpipe run                           # the results are in the run folder, runs/TIME-NAME/results.jsonl
    zpipe try pipeline.toml points -n 3 # one stage on its own
    pytest                              # tests/test_stages.py

`pipeline.toml` says which stages there are and who reads whom; `stages.py` is their code.
"""

FILES = {
    "pipeline.toml": PIPELINE,
    "stages.py": STAGES,
    "tests/test_stages.py": TESTS,
    "README.md": README,
    "pyproject.toml": PYPROJECT,
    ".gitignore": "runs/\n__pycache__/\n",
}


@click.command(epilog="Example: zpipe new flowers")
@click.argument("name", metavar="NAME")
def new(name: str) -> None:
    """Make a folder NAME with a small pipeline that runs, and its tests."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is a bad name for a pipeline: {NAME_RULE}")
    folder = Path(name)
    try:
        folder.mkdir()
        for file, text in FILES.items():
            path = folder / file
            path.parent.mkdir(exist_ok=True)
            path.write_text(text.replace("NAME", name), encoding="utf-8")
    except FileExistsError:
        raise ConfigError(f"{name} is there already, and nothing in it is changed: choose another name") from None
    except OSError as error:
        raise ConfigError(f"cannot make {error.filename}: {(error.strerror or str(error)).lower()}") from None
    click.echo(f"made {name}: cd {name} && zpipe run && zpipe test")
