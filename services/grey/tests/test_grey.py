"""The C program as a stage: images inline and in frames of their own, under kills, and what is none.  Needs a build."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.real import Place, lines

PROGRAM = Path(__file__).parents[1] / "grey"
SIZES = [(20, 30), (64, 64), (100, 50), (480, 640), (7, 5), (333, 217)]  # from inline to frames of their own
STAGES = """
import numpy as np

SIZES = [(20, 30), (64, 64), (100, 50), (480, 640), (7, 5), (333, 217)]


def photo(k):
    return np.random.default_rng(k).integers(0, 256, (*SIZES[k % len(SIZES)], 3), dtype=np.uint8)


def photos(count, start=0):
    yield from map(photo, range(start, count))


def odd():
    yield from (photo(0), photo(0)[:, :, 0], photo(0).astype(np.float32), "none", np.zeros((2, 2, 4), np.uint8))
    yield photo(3)
"""

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="needs services/grey/grey, which its README builds")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Place(tmp_path) as made:
        (tmp_path / "photos.py").write_text(STAGES)
        shutil.copy(PROGRAM, tmp_path / "grey")
        yield made


def pipeline(place: Place, source: str, *more: str) -> str:
    return place.pipeline(f"""
[stage.photos]
run = "photos:{source}"
[stage.grey]
cmd = ["./grey"]
from = "photos"
args = {{ height = 24, width = 32 }}
{chr(10).join(more)}
[stage.out]
run = "zpipe.sinks:jsonl"
from = "grey"
args = {{ path = "out.jsonl" }}
ordered = true
""")


def photo(k: int) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (*SIZES[k % len(SIZES)], 3), dtype=np.uint8)


def meant(image: np.ndarray, height: int = 24, width: int = 32) -> np.ndarray:
    luma = image.astype(np.int64) @ [299, 587, 114]
    out = np.empty((height, width), np.uint8)
    for y in range(height):
        top, bottom = y * image.shape[0] // height, (y + 1) * image.shape[0] // height
        for x in range(width):
            left, right = x * image.shape[1] // width, (x + 1) * image.shape[1] // width
            block = luma[top : max(bottom, top + 1), left : max(right, left + 1)]
            out[y, x] = (2 * block.sum() + 1000 * block.size) // (2000 * block.size)
    return out


@pytest.mark.parametrize("argv", [(), ("--chaos", "0.5", "--seed", "2")])
def test_every_image_is_shrunk_once(place: Place, argv: tuple[str, ...]) -> None:
    count = 600 if argv else 60
    done = place.run("run", pipeline(place, "photos", "workers = 2"), "--set", f"photos.args.count={count}", *argv)
    assert done.code == 0, done.err
    found = lines(done.folder / "out.jsonl")
    assert len(found) == count
    for k in range(0, count, 37 if argv else 1):
        assert found[k] == meant(photo(k)).tolist(), k


def test_what_is_no_image_is_a_dead_letter_with_the_reason(place: Place) -> None:
    done = place.run("run", pipeline(place, "odd", 'on_error = "dead-letter"'))
    assert done.code == 3, done.err
    assert lines(done.folder / "out.jsonl") == [meant(photo(0)).tolist(), meant(photo(3)).tolist()]
    said = place.run("dead", "ls", "--run", str(done.folder)).out
    for reason in ("other dimensions than 3", "another type than uint8", "no array", "other colours than 3"):
        assert reason in said, said


def test_a_bad_arg_ends_the_run_with_one_line(place: Place) -> None:
    done = place.run("run", pipeline(place, "photos"), "--set", "photos.args.count=3", "--set", "grey.args.width=0")
    assert done.code == 1
    assert "ZPIPE_ARG_WIDTH is '0': give a number of pixels, at least 1" in done.err, done.err
