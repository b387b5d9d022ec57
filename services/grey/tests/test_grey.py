"""The C program as a stage and at gates: images inline and in frames of their own, under kills, and what is none.

Needs a C compiler, libzmq and msgpack-c.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped,unused-ignore]
import numpy as np
import pytest

from tests.gates import Worker, gate_at, kill_gate, wait_for_lines
from tests.real import ROOT, Command, Place, lines

HERE = Path(__file__).parents[1]
HEADERS = ("-include", "msgpack.h", "-include", "zmq.h")
SIZES = [(20, 30), (64, 64), (100, 50), (480, 640), (7, 5), (333, 217)]  # from inline to frames of their own
STAGES = """
import numpy as np

SIZES = [(20, 30), (64, 64), (100, 50), (480, 640), (7, 5), (333, 217)]


def photo(k):
    return np.random.default_rng(k).integers(0, 256, (*SIZES[k % len(SIZES)], 3), dtype=np.uint8)


def photos(count, start=0):
    yield from map(photo, range(start, count))


def held(count):
    yield from photos(count // 2)
    open("go").close()
    yield from photos(count, count // 2)


def odd():
    yield from (photo(0), photo(0)[:, :, 0], photo(0).astype(np.float32), "none", np.zeros((2, 2, 4), np.uint8))
    yield photo(3)
"""

CMD = 'cmd = ["./grey"]'
GATE = "listen = { call = 0 }"
ARGS = "args = { height = 24, width = 32 }"


def built(folder: Path, name: str, *sources: str) -> Path:
    """Build a program from sources of the service; skips where that cannot be."""
    can = shutil.which("cc") and not subprocess.run(["cc", "-fsyntax-only", *HEADERS, "-x", "c", os.devnull]).returncode
    if not can:
        pytest.skip("needs a C compiler, libzmq3-dev and libmsgpack-dev")
    files = [str(HERE / source) for source in sources]
    argv = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(folder / name), *files, "-lzmq", "-lmsgpackc"]
    subprocess.run(argv, check=True)
    return folder / name


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("grey"), "grey", "grey.c", "gate.c")


@pytest.fixture
def place(tmp_path: Path, program: Path) -> Iterator[Place]:
    with Place(tmp_path) as made:
        (tmp_path / "photos.py").write_text(STAGES)
        shutil.copy(program, tmp_path / "grey")
        yield made


def pipeline(place: Place, source: str, *more: str) -> str:
    return place.pipeline(f"""
[stage.photos]
run = "photos:{source}"
[stage.grey]
from = "photos"
{chr(10).join(more)}
[stage.out]
run = "zpipe.sinks:jsonl"
from = "grey"
args = {{ path = "out.jsonl" }}
ordered = true
""")


def work_at_gate(place: Place, workers: int = 1) -> list[Command]:
    argv = ("./grey", gate_at(place, "grey"))
    env = {**place.env, "ZPIPE_ARG_HEIGHT": "24", "ZPIPE_ARG_WIDTH": "32"}
    return [Command(argv, place.folder, env) for _ in range(workers)]


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
    done = place.run(
        "run", pipeline(place, "photos", CMD, ARGS, "workers = 2"), "--set", f"photos.args.count={count}", *argv
    )
    assert done.code == 0, done.err
    found = lines(done.folder / "out.jsonl")
    assert len(found) == count
    for k in range(0, count, 37 if argv else 1):
        assert found[k] == meant(photo(k)).tolist(), k


class TestWorker(Worker):
    item = {"nd": True, "type": "|u1", "kind": "", "shape": [2, 2, 3], "data": bytes(12)}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def _argv(self, program: Path) -> None:
        self.argv = (str(program),)


def test_workers_at_a_gate_shrink_every_image_once_and_end_with_it(place: Place) -> None:
    run = place.start("run", pipeline(place, "photos", GATE), "--set", "photos.args.count=60")
    workers = work_at_gate(place, 2)
    done = run.wait()
    assert done.code == 0, done.err
    assert lines(done.folder / "out.jsonl") == [meant(photo(k)).tolist() for k in range(60)]
    assert [worker.wait().code for worker in workers] == [0, 0]


def test_a_gate_that_is_killed_loses_and_doubles_nothing(place: Place) -> None:
    os.mkfifo(place.folder / "go")
    run = place.start("run", pipeline(place, "held", GATE), "--set", "photos.args.count=600")
    (worker,) = work_at_gate(place)
    wait_for_lines(place, "out.jsonl", 10)
    kill_gate(place, "grey")
    (place.folder / "go").write_text("")
    done = run.wait()
    assert done.code == 0, done.err
    found = lines(done.folder / "out.jsonl")
    assert len(found) == 600
    for k in range(0, 600, 37):
        assert found[k] == meant(photo(k)).tolist(), k
    assert worker.wait().code == 0


@pytest.mark.parametrize("at", [CMD, f"{CMD}\n{GATE}"], ids=["cmd", "gate"])
def test_what_is_no_image_is_a_dead_letter_with_the_reason(place: Place, at: str) -> None:
    done = place.run("run", pipeline(place, "odd", at, ARGS, 'on_error = "dead-letter"'))
    assert done.code == 3, done.err
    assert lines(done.folder / "out.jsonl") == [meant(photo(0)).tolist(), meant(photo(3)).tolist()]
    said = place.run("dead", "ls", "--run", str(done.folder)).out
    for reason in ("other dimensions than 3", "another type than uint8", "no array", "other colours than 3"):
        assert reason in said, said


def test_a_bad_arg_ends_the_run_with_one_line(place: Place) -> None:
    done = place.run(
        "run", pipeline(place, "photos", CMD, ARGS), "--set", "photos.args.count=3", "--set", "grey.args.width=0"
    )
    assert done.code == 1
    assert "ZPIPE_ARG_WIDTH is '0': give a number of pixels, at least 1" in done.err, done.err


def test_the_client_calls_a_stage_of_any_kind(place: Place, tmp_path: Path) -> None:
    program = built(tmp_path, "call", "call.c", "gate.c")
    (place.folder / "words.py").write_text(
        "import time\nimport numpy as np\n\ndef told(text):\n"
        "    if text == 'ouch':\n        raise ValueError('it hurts')\n"
        "    if text == 'slow':\n        time.sleep(6)\n"
        "    return {'upper': text.upper(), 'n': [len(text), None]} if text else np.zeros((300, 400), np.float32)\n"
    )
    service = (
        "[stage.texts]\nlisten = { call = 0 }\n"
        '[stage.told]\nrun = "words:told"\nfrom = "texts"\nlisten = { call = 0 }\n'
    )
    run = place.start("run", place.pipeline(service))
    argv = (str(program), gate_at(place, "told"), "word", "", "ouch", "slow")
    done = Command(argv, place.folder, place.env).wait()
    assert done.code == 1, done.err
    assert done.out.splitlines() == [
        '{"upper": "WORD", "n": [4, nil]}', "<array <f4 300 400>", 'call: "raised ValueError: it hurts"',
        '{"upper": "SLOW", "n": [4, nil]}',
    ]  # fmt: skip
    run.interrupt()
    assert run.wait().code == 130


def test_the_golden_vectors_are_read_as_they_are_meant(tmp_path: Path) -> None:
    program = built(tmp_path, "vectors", "tests/vectors.c", "gate.c")
    vectors = json.loads((ROOT / "tests/conformance/outside.json").read_text(encoding="utf-8"))["messages"]
    vectors = [vector for vector in vectors if "meaning" in vector or vector["by"] == "any"]
    frames = "".join(",".join(vector["frames"]) + "\n" for vector in vectors)
    done = subprocess.run([program], input=frames, capture_output=True, text=True, check=True)
    for vector, line in zip(vectors, done.stdout.splitlines(), strict=True):
        found = json.loads(line)
        if "meaning" in vector:
            assert found == without_moments(vector["meaning"]), vector["name"]
        else:
            assert list(found) == ["refused"], vector["name"]


def without_moments(meaning: Any) -> Any:
    """Return a meaning with the extensions of msgpack that moments are."""
    if isinstance(meaning, list):
        return [without_moments(value) for value in meaning]
    if not isinstance(meaning, dict):
        return meaning
    if "time" in meaning:
        packed = msgpack.packb(datetime.fromisoformat(meaning["time"]), datetime=True)
        return {"ext": -1, "hex": packed[2:].hex()}
    return {key: without_moments(value) for key, value in meaning.items()}
