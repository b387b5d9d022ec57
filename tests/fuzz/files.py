"""What is read in a run folder and beside it: saves, the registry's values, plans, blame, notes and traces."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from tests.fuzz.target import CUT, Draw, folder, target
from tests.unit.test_registry import make_plan
from zpipe.core.memory import Save
from zpipe.processes.blame import Blame, Noted, describe, running_since_s
from zpipe.processes.letters import _BEGINNING as LETTER
from zpipe.processes.letters import MAGIC as LETTER_MAGIC
from zpipe.processes.letters import VERSION as LETTER_VERSION
from zpipe.processes.letters import Letter
from zpipe.processes.letters import decode as decode_letter
from zpipe.processes.letters import encode as encode_letter
from zpipe.processes.logs import logs_of
from zpipe.processes.registry import _machine, _read_plan
from zpipe.processes.report import Report, read_report
from zpipe.processes.runfolder import LiveRun, RunFolder, announce, live_runs
from zpipe.processes.saves import MAGIC, VERSION, Saves, _sections
from zpipe.processes.tracefile import TraceFile
from zpipe.processes.values import TABLE, Values
from zpipe.values.context import Current
from zpipe.values.errors import ConfigError, ProtocolError, RegistryError, RunError, SaveError
from zpipe.values.paths import Mark, Run
from zpipe.wire.body import decode_state, encode_item, encode_state

KINDS = (
    "run", "watermark", "complete", "reach", "worker", "fence", "drain", "wanted", "pinned", "suspects", "sums",
    "other",
)  # fmt: skip
CURSOR = {"epoch": 1, "next": [[0, [3]], [1, [5, 0]]], "resting": [1], "ended": [], "closing": [[0, 3]], "turn": 0}


def _written(name: str, data: bytes) -> Path:
    path = folder() / name
    path.write_bytes(data)
    return path


def saves() -> Iterator[bytes]:
    """Yield the sections of saves."""
    state = encode_state({"w": np.arange(2000.0), "n": 5})
    runs = [
        (3, Run(0, 4, (), 3, [encode_item(1), None, encode_item({"b": 2})], epoch=1, marks=bytes([0, Mark.TOMB, 0]))),
        (4, Run(1, 0, (2,), 1, [encode_item([1.5, "x"])])),
    ]
    for save in (Save(CURSOR, [7, state], runs), Save(CURSOR, [0, None], []), Save(CURSOR, [0, None], runs)):
        yield CUT.join(bytes(section) for section in _sections(save))


@target(seeds=saves, errors=(SaveError, ProtocolError))
def sections(data: bytes) -> None:
    """A save of any sections, each with the length and the sum that belong to it."""
    _read_save(_whole(data))


def _whole(sections: bytes) -> bytes:
    whole = bytearray(struct.pack(">6sH", MAGIC, VERSION))
    for section in sections.split(CUT):
        whole += struct.pack(">Q", len(section)) + section + struct.pack(">I", crc32(section))
    return bytes(whole)


@target(seeds=lambda: map(_whole, saves()), errors=(SaveError, ProtocolError), is_bounded=True)
def save(data: bytes) -> None:
    """A save of any bytes."""
    _read_save(data)


def _read_save(data: bytes) -> None:
    _written("fit.1.save", data)
    saves = Saves(folder(), "fit", 1)
    saves.claim()
    found = saves.read()
    assert found is not None
    position, part = found.state
    assert type(position) is int
    if part is not None:
        decode_state(part)
    assert all(run.n == len(run.parts or ()) for _, run in found.outs)


@target(seeds=lambda: [b"", *(bytes((k * m) % 253 for k in range(200)) for m in (1, 5, 91))], errors=(SaveError,))
def values(data: bytes) -> None:
    """Any values in the registry's table; a registry that begins with them lives."""
    draw = Draw(data)
    path = folder() / "run.db"
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as db:
        db.execute(TABLE)
        while draw:
            key = draw.one(("0", "1", "0:0", "1:0", "7", "state", "error", "started_s", "stopping", None, "x", ":"))
            row = (draw.one((*KINDS, None)), key, _stored(draw))
            db.execute("INSERT OR REPLACE INTO registry VALUES (?, ?, ?)", row)
    db.close()
    _begin(path)


def _stored(draw: Draw) -> object:
    kind = draw.byte()
    if kind > 240:
        return draw.one((None, draw.bytes(8), draw.bytes(8).decode("latin-1"), "[" * 50_000, "9" * 5000))
    right: tuple[Any, ...] = (
        True, 1, 2, [5, 0, 0], "running", {"done": 3}, {"worker": "", "error": "e", "detail": ""},
        {"stage": draw.byte() % 5, "slot": 0, "fence": 1, "pid": 4, "host": "h", "supervisor": None}, draw.value(),
    )  # fmt: skip
    return json.dumps(draw.one(right), default=repr)


@target(seeds=lambda: [b"SQLite format 3\0" + bytes(100), b""], errors=(SaveError,))
def database(data: bytes) -> None:
    """A run.db of any bytes."""
    for path in folder().glob("run.db*"):
        path.unlink()
    _begin(_written("run.db", data))


def _begin(path: Path) -> None:
    stored = Values(path)
    try:
        options: dict[str, Any] = {"sockets_dir": None, "transport": "tcp", "starts_workers": False}
        machine = _machine(make_plan(), stored.rows(), stored, run_folder=path.parent, **options)
        hello = {"inc": 77, "proto": [1, 0], "stage": "clean", "pid": 9, "host": "h", "supervisor": "s"}
        actions = machine.step(10.0, b"a", {"t": "HELLO", **hello})
        for later_s in (10.5, 13.0, 30.0):
            actions += machine.step(later_s, b"a", {"t": "BEAT", "inc": 77, "ver": 0, "state": "live"})
            actions += machine.tick(later_s)
            actions += machine.step(later_s, b"a", {"t": "PS"})
    finally:
        stored.close()


def plans() -> Iterator[bytes]:
    """Yield a plan as the launcher writes it."""
    yield json.dumps(make_plan().to_dict()).encode()


@target(seeds=plans, errors=(RegistryError, ConfigError))
def plan(data: bytes) -> None:
    """The plan in a run folder."""
    path = _written("plan.json", data)
    try:
        logs_of(RunFolder(folder()), "clean")
    finally:
        _read_plan(path)


def blames() -> Iterator[bytes]:
    """Yield notes of workers about to call an item, and of sources."""
    current = Current("fit", worker="fit-1", lane_names={0: "crops"}, run_key=0, run_folder=Path())
    deep = Run(0, 9, (2**32 - 1,) * 200, 1, None)
    for run, lanes in ((Run(0, 4, (), 3, None), ()), (Run(0, 9, (2, 1), 1, None, digest=77), (0, 1)), (deep, ())):
        path = folder() / "blamed"
        blame = Blame(path, current, lanes)
        blame.note(run, 0)
        for lane in lanes:
            blame.note_reach(lane, 12)
        yield path.read_bytes()


@target(seeds=blames, is_bounded=True)
def blame(data: bytes) -> None:
    """What a worker noted before it died: whatever is there, its supervisor goes on."""
    path = _written("blamed", data)
    noted = Noted(path)
    assert isinstance(describe(noted.items), str)
    assert all(n > 0 for _, n in noted.items)
    assert all(reach > 0 for reach in noted.reaches.values())
    assert isinstance(noted.has_settled, bool)
    running_since_s(path)


def letters() -> Iterator[bytes]:
    """Yield what dead letters hold behind their sum."""
    for value in (1, {"x": np.arange(6.0), "name": "n"}, np.zeros(2000)):
        run = Run(0, 17, (3,), 1, [encode_item(value)])
        yield encode_letter(Letter("fit", "crops:17.3", "raised", "Traceback", "fit-1", 1, 0, run, 5.0))[12:]


def _letter(data: bytes) -> bytes:
    return LETTER.pack(LETTER_MAGIC, LETTER_VERSION, crc32(data)) + data


@target(seeds=letters, errors=(ProtocolError,))
def contents(data: bytes) -> None:
    """A dead letter of any contents, with the sum that belongs to them."""
    _ = decode_letter(_letter(data)).value


@target(seeds=lambda: map(_letter, letters()), errors=(ProtocolError,), is_bounded=True)
def letter(data: bytes) -> None:
    """A dead letter of any bytes."""
    _ = decode_letter(data).value


def notes() -> Iterator[bytes]:
    """Yield the note of a live run."""
    os.environ["XDG_RUNTIME_DIR"] = str(folder())
    path = announce(LiveRun("t", "tcp://127.0.0.1:1", os.getpid(), "/r", 1.0))
    written = path.read_bytes()
    path.unlink()
    yield written


@target(seeds=notes)
def note(data: bytes) -> None:
    """Notes of live runs: one that cannot be read is passed over."""
    os.environ["XDG_RUNTIME_DIR"] = str(folder())
    runs = folder() / f"zpipe-{os.getuid()}" / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    for k, text in enumerate(data.split(CUT)):
        (runs / f"{k}.json").write_bytes(text)
    for run in live_runs():
        assert f"{run.name} {run.address} {run.folder} {run.service} {datetime.fromtimestamp(run.started)} {run.pid:d}"
    for path in runs.iterdir():
        path.unlink()


def reports() -> Iterator[bytes]:
    """Yield a report.json."""
    yield json.dumps(Report("t", "failed", Path("/r"), 1.5, error="no", detail="Traceback").to_dict()).encode()


@target(seeds=reports, errors=(RunError,))
def report(data: bytes) -> None:
    """The report in a run folder, as `top`, `down` and `up` read it."""
    found = read_report(_written("report.json", data))
    assert f"{found['name']} {found['state']} {found['seconds']:.1f}"
    assert isinstance(found["error"] + found["detail"], str)


TRACED = (
    b'\n{"worker": "fit-1", "stage": "fit"}\n["call", "crops:3", 10, 20, 1, 1, 15]\n["save", "save", 30, 5, 0, 1, 0]\n'
)


@target(seeds=lambda: [TRACED, TRACED[:70]])
def trace(data: bytes) -> None:
    """What workers have written for a trace: what is not understood is left out."""
    place = RunFolder(folder())
    _clear(place.trace)
    with TraceFile(folder() / "trace.json") as file:
        file.begin(place, make_plan())
        place.trace_file("fit-1").write_bytes(data)
        file.end()
    events = json.loads((folder() / "trace.json").read_text(encoding="utf-8"))
    assert all(type(event["ts"]) in (int, float) for event in events)


def _clear(path: Path) -> None:
    if path.exists():
        for part in path.iterdir():
            part.unlink()
        path.rmdir()
