"""Large arrays in memory that the processes of a run share: what travels, what is kept, and what a death leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real import Place, lines

STAGES = """
import mmap
import time
import numpy as np
import zpipe as zp
from zpipe.transport.shared import root_of

def images(count=200, side=300, start=0):
    for n in range(start, count):
        image = zp.empty((side, side), np.uint8)
        image[:] = n % 251
        time.sleep(0.001)  # memory is shared some hundredths of a second after the links are up
        yield {"n": n, "image": image}

def check(item):
    assert (item["image"] == item["n"] % 251).all(), item["n"]
    return item

def same(item):
    return check(item)

def halves(item):
    check(item)
    yield {"n": item["n"], "image": item["image"][:150]}
    yield {"n": item["n"], "image": item["image"][150:]}

class Keeps:
    '''Holds every tenth image, and looks at them all each time.'''
    def __init__(self):
        self.kept = []
    def __call__(self, item):
        if item["n"] % 10 == 0:
            self.kept.append(item)
        if isinstance(root_of(item["image"]).base, mmap.mmap):
            (zp.run_folder() / "shared").touch()
        for kept in self.kept:
            check(kept)
        return item

def number(item):
    check(item)
    return item["n"]

def mean(batch):
    for n, image in zip(batch["n"], batch["image"]):
        check({"n": n, "image": image})
    return [int(n) for n in batch["n"]]
"""
CHAIN = """
[stage.images]
run = "shared:images"
replay = "seek"
[stage.same]
run = "shared:same"
from = "images"
workers = 2
[stage.halves]
run = "shared:halves"
from = "same"
[stage.keeps]
run = "shared:Keeps"
from = "halves"
[stage.batch]
run = "zpipe.stages:batch"
from = "keeps"
args = { size = 7 }
[stage.mean]
run = "shared:mean"
from = "batch"
[stage.out]
run = "zpipe.sinks:jsonl"
from = "mean"
ordered = true
args = { path = "out.jsonl" }
"""


@pytest.fixture
def images(place: Place) -> Place:
    (place.folder / "shared.py").write_text(STAGES)
    return place


def numbers(folder: Path) -> list[int]:
    return [n for batch in lines(folder / "out.jsonl") for n in batch]


def test_images_stay_where_they_were_made(images: Place) -> None:
    done = images.run("run", images.pipeline(CHAIN))
    assert done.code == 0, done.err
    assert numbers(done.folder) == sorted([*range(200), *range(200)])
    assert (done.folder / "shared").exists()  # three stages below where they were made


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_tear_nothing_and_leave_nothing(images: Place, seed: int) -> None:
    done = images.run("run", images.pipeline(CHAIN), "--set", "images.count=600", "--chaos", "0.5", "--seed", str(seed))
    assert done.code == 0, done.err
    assert numbers(done.folder) == sorted([*range(600), *range(600)])
    assert (done.folder / "shared").exists()
