"""The pipeline: its file, what `--set` changes in it, and the text that names a file on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

from tests.fuzz.target import CUT, folder, target
from zpipe.cli.load import load
from zpipe.values.check import check
from zpipe.values.errors import ConfigError
from zpipe.values.pipeline import Pipeline

ROOT = Path(__file__).parents[2]
STAGES = """
import zpipe as zp
def numbers():
    yield from range(3)

def double(x):
    return 2 * x

class Train:
    def __init__(self, lr=0.1): pass
    def __call__(self, x): pass
    def state(self): pass
    def restore(self, state): pass

def pipeline():
    return zp.Pipeline("t", zp.stage(double)(zp.stage(numbers)))
"""
FILE = b"""schema = 1
name = "t"
[defaults]
retries = 3
env = { A = "${HOME:-x}" }
[stage.numbers]
run = "fuzzed:numbers"
epochs = 2
partitions = 2
[stage.double]
run = "fuzzed:double"
from = "numbers"
workers = "1..4"
[stage.batch]
run = "zpipe.stages:batch"
from = "double"
args = { size = 4 }
[stage.fit]
run = "fuzzed:Train"
from = [{ stage = "batch", keep = "latest" }]
grid = { lr = [0.1, 0.2] }
[[test]]
name = "two"
stage = "double"
input = [1, 2]
output = [2, 4]
"""


def pipelines() -> Iterator[bytes]:
    """Yield the pipeline files that the project has, and one with much in it."""
    yield FILE
    for path in sorted((*ROOT.glob("compose/*/*.toml"), *ROOT.glob("tests/chaos/*.toml"))):
        yield path.read_bytes()


@target(seeds=pipelines, errors=(ConfigError,))
def pipeline(data: bytes) -> None:
    """A pipeline file: read, checked, written, and read as the same."""
    (folder() / "fuzzed.py").write_text(STAGES, encoding="utf-8")
    path = folder() / "fuzzed.toml"
    path.write_bytes(data.replace(b"use", b"us"))  # a file that uses another is read once more for it
    read = Pipeline.load(path)
    check(read)
    read.save(path)
    assert Pipeline.load(path) == read


@target(
    seeds=lambda: [CUT.join((b"double.workers=3", b"fit.lr=[1]")), b"fit.grid.lr=[1, 2]", b"double.env.A=7", b"x"],
    errors=(ConfigError,),
)
def sets(data: bytes) -> None:
    """What `--set` says."""
    path = folder() / "fuzzed.toml"
    (folder() / "fuzzed.py").write_text(STAGES, encoding="utf-8")
    path.write_bytes(FILE)
    check(Pipeline.load(path, [text.decode("utf-8", "replace") for text in data.split(CUT)]))


@target(seeds=lambda: [b"p.toml", b"fuzzed.py:pipeline", b"fuzzed.py", b"x:y"], errors=(ConfigError,))
def named(data: bytes) -> None:
    """The text that names a pipeline."""
    (folder() / "fuzzed.py").write_text(STAGES, encoding="utf-8")
    with chdir(folder()):
        load(data.decode("utf-8", "replace"))
