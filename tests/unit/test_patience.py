"""What a full disk holds up goes on when there is room: which errors, how long, and what happens meanwhile."""

from __future__ import annotations

import errno
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.smalldisk import small_disk
from tests.unit.test_caller import Clock, Codec
from tests.unit.test_registry import stage
from tests.unit.test_worker import Bench, run
from zpipe.core.memory import Save
from zpipe.core.outcomes import Store
from zpipe.core.work import Job
from zpipe.processes.blame import Blame
from zpipe.processes.caller import Caller
from zpipe.processes.patience import Patience
from zpipe.processes.saves import Saves
from zpipe.processes.values import Values
from zpipe.values.context import Current
from zpipe.values.errors import NoRoom, SaveError, StageError
from zpipe.values.paths import Run
from zpipe.values.room import lack_of_room

FULL = OSError(errno.ENOSPC, "No space left on device", "/d/x")
CURSOR = {"epoch": 0, "next": [[0, [5]]], "resting": [], "ended": [], "closing": [], "turn": None}


def from_(cause: Exception, error: Exception) -> Exception:
    """Return an error that was raised from another."""
    error.__cause__ = cause
    return error


def sqlite_error(number: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = number
    return error


# -- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FULL, "[Errno 28] No space left on device: '/d/x'"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "[Errno 122] Disk quota exceeded"),
        (OSError(errno.EIO, "Input/output error"), "[Errno 5] Input/output error"),
        (sqlite_error(13), "database or disk is full"),
        (sqlite_error(10 | 4 << 8), "database or disk is full"),
        (NoRoom("cannot write\nx"), "cannot write x"),
        (from_(FULL, SaveError("cannot write x")), "cannot write x"),
        (from_(from_(FULL, ValueError("y")), StageError("x")), "x"),
        (from_(FULL, ValueError("y")), "[Errno 28] No space left on device: '/d/x'"),
        (OSError(errno.EACCES, "Permission denied"), ""),
        (sqlite_error(5), ""),
        (StageError("x"), ""),
        (ValueError("No space left on device"), ""),
    ],
)
def test_which_errors_lack_room(error: Exception, said: str) -> None:
    assert lack_of_room(error) == said


def test_pauses_grow_and_begin_anew_after_a_success() -> None:
    patience = Patience()
    assert [patience.pause_s(FULL) for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert patience.lack == "[Errno 28] No space left on device: '/d/x'"
    patience.over()
    assert (patience.lack, patience.pause_s(FULL)) == ("", 0.1)
    assert Patience().pause_s(ValueError("x")) is None


# -- sinks ------------------------------------------------------------------------------------------


class Disk:
    """Fails as often as it is told."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.written: list[Any] = []

    def write(self, *values: Any) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.written += values


class Sink:
    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    def commit(self, items: list[Any]) -> None:
        self.disk.write(*(item.value for item in items))


FORMS: dict[str, tuple[Callable[[Disk], Any], dict[str, Any]]] = {
    "commit": (Sink, {"hooks": ("commit",)}),
    "function": (lambda disk: disk.write, {}),
    "blocks": (lambda disk: lambda items: disk.write(*items), {"block": 4}),
}


@pytest.fixture(params=list(FORMS))
def sink(request: pytest.FixtureRequest) -> Callable[[Disk], tuple[Bench, Caller, Job]]:
    """A sink of each form, with three items to write to a disk."""

    def make(disk: Disk) -> tuple[Bench, Caller, Job]:
        target, plan = FORMS[request.param]
        bench, clock = Bench(outputs={}), Clock()
        made = stage(1, "out", "sink", inputs=(3,), outputs=(), **plan)
        current = Current("out", worker="out-1", lane_names={0: "numbers"}, run_key=0, run_folder=Path())
        caller = Caller(made, target(disk), bench.worker, Codec([1.0, 2.0, 3.0]), clock, current)
        bench.hear(run(0, 3))
        job = bench.worker.take(64)
        assert job is not None
        return bench, caller, job

    return make


def test_a_sink_whose_disk_is_full_is_called_again_and_nothing_is_acknowledged_before(
    sink: Callable[[Disk], tuple[Bench, Caller, Job]],
) -> None:
    disk = Disk(FULL, sqlite_error(13), NoRoom("full"))
    bench, caller, job = sink(disk)
    clock = caller.clock
    assert isinstance(clock, Clock)
    steps, lacks = caller.perform(job), []
    for _ in steps:
        bench.worker.flush()
        assert not any(action[0] == "ack" and action[1].base > 1 for action in bench.worker.actions)
        assert disk.written == []
        lacks.append(caller.patience.lack)
        clock.now_s = caller.due_s

    assert disk.written == [1.0, 2.0, 3.0]
    assert len(lacks) >= 2 and all(lacks)
    assert caller.patience.lack == ""
    assert bench.worker.counters.done == 3


def test_any_other_failure_after_a_wait_ends_the_run(sink: Callable[[Disk], tuple[Bench, Caller, Job]]) -> None:
    _, caller, job = sink(Disk(FULL, FULL, ValueError("broken")))
    clock = caller.clock
    assert isinstance(clock, Clock)
    with pytest.raises(StageError, match=r"stage 'out' at numbers:0.* raised ValueError: broken"):
        for _ in caller.perform(job):
            clock.now_s = caller.due_s


def test_a_stage_that_is_no_sink_is_not_waited_for() -> None:
    bench = Bench()
    made = stage(1, "slow", "transform", inputs=(3,), outputs=(4,))
    current = Current("slow", worker="slow-1", lane_names={0: "numbers"}, run_key=0, run_folder=Path())
    caller = Caller(made, Disk(FULL).write, bench.worker, Codec([1.0]), Clock(), current)
    bench.hear(run(0, 1))
    job = bench.worker.take(64)
    assert job is not None
    with pytest.raises(StageError, match="No space left on device"):
        list(caller.perform(job))


# -- a real disk ------------------------------------------------------------------------------------


def test_a_save_goes_to_a_disk_that_has_room_again_and_the_last_one_stays_until_then(tmp_path: Path) -> None:
    with small_disk(tmp_path / "d", "256k") as disk:
        saves = Saves(disk.path, "fit", 1)
        saves.claim()
        saves.write(Save(CURSOR, [1, None], []))
        disk.fill()
        with pytest.raises(SaveError) as raised:
            saves.write(Save(CURSOR, [2, None], []))
        assert "No space left on device" in lack_of_room(raised.value)
        assert saves.read() == Save(CURSOR, [1, None], [])
        disk.free()
        saves.write(Save(CURSOR, [2, None], []))
        assert saves.read() == Save(CURSOR, [2, None], [])


def test_values_go_to_a_disk_that_has_room_again(tmp_path: Path) -> None:
    with small_disk(tmp_path / "d", "512k") as disk, closing(Values(disk.path / "run.db")) as values:
        values.keep([Store("run", "k", 1)])
        disk.fill()
        with pytest.raises(SaveError) as raised:
            for size in range(100):  # the log of the database has some room of its own
                values.keep([Store("run", "big", "x" * 1000 * size)])
        assert lack_of_room(raised.value)
        assert ("run", "k", 1) in values.rows()
        disk.free()
        values.keep([Store("run", "k", 2)])
        assert ("run", "k", 2) in values.rows()


def test_a_worker_without_room_for_its_notes_goes_on_without(tmp_path: Path) -> None:
    current = Current("out", worker="out-1", lane_names={0: "numbers"}, run_key=0, run_folder=Path())
    with small_disk(tmp_path / "d", "64k") as disk:
        disk.fill()
        blame = Blame(disk.path / "out-1", current)
        blame.note(Run(0, 0, (), 3, None), 1)
        assert blame.map is None


def test_lines_that_a_log_has_no_room_for_are_lost_and_later_ones_are_not(tmp_path: Path) -> None:
    code = """
        import sys
        from zpipe.processes.output import lose_lines
        lose_lines()
        for line in sys.stdin:
            print(line.strip() * 5000, flush=True)
            print(line.strip(), file=sys.stderr)
            open(sys.argv[1], "w").write(line)
    """
    with small_disk(tmp_path / "d", "64k") as disk, open(disk.path / "log", "ab") as log:
        told = tmp_path / "told"
        argv = [sys.executable, "-c", textwrap.dedent(code), str(told)]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True)
        assert process.stdin is not None
        for k in range(20):
            process.stdin.write(f"{k % 10}\n")
        process.stdin.close()
        assert process.wait(60) == 0
        assert told.read_text() == "9\n"
        assert 0 < (disk.path / "log").stat().st_size <= 65536
