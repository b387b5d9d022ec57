"""The ready-made sinks: every item once, over repeats and deaths; what JSON cannot hold is refused."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zpipe import sinks
from zpipe.processes.caller import Committed
from zpipe.values import context
from zpipe.values.check import check
from zpipe.values.errors import ConfigError, EncodeError, StageError
from zpipe.values.pipeline import Pipeline

KILLED = 77  # exit status of a child that died where it was told to


@contextmanager
def in_run(folder):
    """Be a stage of the run in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    current = context.Current("sink", worker="sink-1", lane_names={}, run_key=0, run_folder=folder)
    with context.inside(current):
        yield


@pytest.fixture(autouse=True)
def run(tmp_path):
    """The folder of the run that the test is a part of."""
    folder = tmp_path / "run-1"
    with in_run(folder):
        yield folder


class Fresh(sinks.jsonl):
    """A sink that does not wait for others to end."""

    lock_s = 0.0


def items(*numbers, epoch=0):
    return [Committed(f"src:{i}", {"i": i}, epoch) for i in numbers]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows(path, table="items"):
    with sqlite3.connect(path) as db:
        found = db.execute(f'SELECT path, item FROM "{table}" ORDER BY rowid').fetchall()
    db.close()
    return [(name, json.loads(item)) for name, item in found]


# -- both -------------------------------------------------------------------------------------------


@pytest.fixture(params=["jsonl", "sqlite"])
def kind(request):
    """One of the sinks, and how to read back its values."""
    if request.param == "jsonl":
        return Fresh, lines
    return sinks.sqlite, lambda path: [value for _, value in rows(path)]


def test_items_are_in_the_file_in_their_order(kind, run):
    make, read = kind
    sink = make("out/of.file")
    sink.commit(items(3, 1))
    sink.commit(items(2))

    assert read(run / "out" / "of.file") == [{"i": 3}, {"i": 1}, {"i": 2}]


def test_repeats_are_left_out_within_a_call_over_calls_and_over_lives(kind, run):
    make, read = kind
    sink = make("x")
    sink.commit(items(1, 2, 1))
    sink.commit(items(2, 3))
    sink.close()
    sink = make("x")
    sink.commit(items(3, 1, 4))
    sink.commit([])

    assert read(run / "x") == [{"i": 1}, {"i": 2}, {"i": 3}, {"i": 4}]


def test_an_absolute_path_is_taken_as_it_is(kind, tmp_path):
    make, read = kind
    make(str(tmp_path / "elsewhere")).commit(items(1))

    assert read(tmp_path / "elsewhere") == [{"i": 1}]


def test_the_file_of_another_run_is_refused(kind, tmp_path):
    make, read = kind
    path = tmp_path / "shared"
    sink = make(str(path))
    sink.commit(items(1))
    sink.close()

    with in_run(tmp_path / "run-2"), pytest.raises(StageError, match=r"of run /.*/run-1: .*another path"):
        make(str(path))
    assert read(path) == [{"i": 1}]


def test_a_call_with_an_item_that_cannot_be_written_changes_nothing(kind, run):
    make, read = kind
    sink = make("x")
    sink.commit(items(1))
    with pytest.raises(EncodeError):
        sink.commit([*items(2), Committed("src:3", b"raw", 0)])
    sink.commit(items(2))

    assert read(run / "x") == [{"i": 1}, {"i": 2}]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "null"),
        ("ü\n\u2028", '"ü\\n\u2028"'),
        ([1, (2.5, True)], "[1, [2.5, true]]"),
        ({1: {"a": None}}, '{"1": {"a": null}}'),
        (2**63, "9223372036854775808"),
        (np.float32(0.5), "0.5"),
        (np.int8(-3), "-3"),
        (np.bool_(True), "true"),
        (np.arange(6, dtype=np.uint16).reshape(2, 3), "[[0, 1, 2], [3, 4, 5]]"),
        ({"x": np.array(1.5)}, '{"x": 1.5}'),
        (np.zeros(4096, np.uint8), "[" + ", ".join(["0"] * 4096) + "]"),
        (datetime(2024, 2, 29, 12, tzinfo=UTC), '"2024-02-29T12:00:00+00:00"'),
    ],
)
def test_a_value_is_written_as_json(kind, run, value, written):
    make, _ = kind
    make("x").commit([Committed("src:0", value, 0)])

    text = (run / "x").read_text() if make is Fresh else None
    if text is None:
        with sqlite3.connect(run / "x") as db:
            text = db.execute("SELECT item FROM items").fetchone()[0] + "\n"
    assert text == written + "\n"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"raw", "src:7: item is a bytes, which JSON has not: map it"),
        ({"a": [0, {"b": b""}]}, r"item\['a'\]\[1\]\['b'\] is a bytes"),
        ({b"k": 1}, r"item has the key b'k', and keys of JSON are text"),
        (
            np.zeros(4097),
            r"item is an array of 4097 numbers, and a list of JSON may have 4096: .*commit\(items\)",
        ),
        ([np.complex64(1)], r"item\[0\] is a complex64, which JSON has not"),
        (np.array(["2020-01-01"], "M8[s]"), r"item is an array of datetime64\[s\], which JSON has not"),
        ({"loss": float("nan")}, r"item\['loss'\] is nan, which JSON has not: .*nan = 'null'"),
        (np.array([1, -np.inf]), r"item\[1\] is -inf"),
    ],
)
def test_what_json_has_not_is_refused_with_its_place(kind, value, said):
    make, _ = kind
    with pytest.raises(EncodeError, match=said):
        make("x").commit([Committed("src:7", value, 0)])


def test_nan_can_be_written_as_null(kind, run):
    make, read = kind
    nan = float("nan")
    make("x", nan="null").commit([Committed("src:0", {"a": nan, "b": np.array([nan, 1]), "c": np.float32("inf")}, 0)])

    assert read(run / "x") == [{"a": None, "b": [None, 1], "c": None}]


def test_another_word_for_nan_is_refused(kind):
    with pytest.raises(ConfigError, match="nan is 'skip': it must be 'error' or 'null'"):
        kind[0]("x", nan="skip")


def test_a_place_that_cannot_be_written_is_one_clear_line(kind, run):
    (run / "file").touch()

    with pytest.raises(StageError, match=r"cannot write .*file/x"):
        kind[0]("file/x")


DELIVERIES = st.lists(st.tuples(st.lists(st.integers(0, 12), max_size=6), st.booleans()), max_size=12)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DELIVERIES)
def test_whatever_is_delivered_again_each_item_is_there_once(kind, tmp_path_factory, deliveries):
    make, read = kind
    folder = tmp_path_factory.mktemp("run")
    wanted = []
    with in_run(folder):
        sink = make("x")
        for numbers, reopened in deliveries:
            if reopened:
                sink.close()
                sink = make("x")
            sink.commit(items(*numbers))
            wanted += [i for i in dict.fromkeys(numbers) if i not in wanted]
        sink.close()

    assert read(folder / "x") == [{"i": i} for i in wanted]


@pytest.mark.parametrize("name", ["jsonl", "sqlite"])
def test_check_accepts_the_sinks_and_knows_their_arguments(tmp_path, name):
    def faults(args):
        (tmp_path / "stages.py").write_text("def numbers():\n    yield 1\n")
        (tmp_path / "p.toml").write_text(
            f"""
            schema = 1
            name = "p"
            [stage.numbers]
            run = "stages.py:numbers"
            [stage.out]
            run = "zpipe.sinks:{name}"
            from = "numbers"
            args = {args}
            """
        )
        return [fault.text for fault in check(Pipeline.load(tmp_path / "p.toml"))]

    assert faults('{ path = "x" }') == []
    (missing,) = faults("{ }")
    (unknown,) = faults('{ path = "x", pat = "y" }')
    assert "needs an argument 'path'" in missing
    assert "no argument 'pat': did you mean 'path'?" in unknown


# -- lines ------------------------------------------------------------------------------------------


def test_what_a_kill_left_behind_the_last_commit_goes(run):
    sink = Fresh("x")
    sink.commit(items(1))
    sink.close()
    with open(run / "x", "ab") as file:
        file.write(b'{"i": 2}\n{"i"')

    sink = Fresh("x")
    assert lines(run / "x") == [{"i": 1}]
    sink.commit(items(2, 3))
    assert lines(run / "x") == [{"i": 1}, {"i": 2}, {"i": 3}]


def test_a_second_writer_is_refused(run):
    first = Fresh("x")
    with pytest.raises(StageError, match="x is being written by another worker: give the sink workers = 1"):
        Fresh("x")
    first.close()

    Fresh("x").close()


def test_runs_of_one_name_and_second_in_two_places_are_two(tmp_path, kind):
    make, _ = kind
    path = tmp_path / "shared"
    with in_run(tmp_path / "a" / "20250301-090507-t"):
        make(str(path)).close()
    with in_run(tmp_path / "b" / "20250301-090507-t"), pytest.raises(StageError, match=r"of run /.*/a/20250301"):
        make(str(path))


def test_a_refused_file_is_free_for_others(tmp_path):
    path = tmp_path / "shared"
    Fresh(str(path)).close()
    with in_run(tmp_path / "run-2"), pytest.raises(StageError, match=r"of run /.*/run-1: "):
        Fresh(str(path))

    Fresh(str(path)).close()


def test_a_file_that_was_there_is_refused_and_kept(run):
    (run / "x").write_text("mine\n")

    for _ in range(2):
        with pytest.raises(StageError, match="is there already: move it away"):
            Fresh("x")
    assert (run / "x").read_text() == "mine\n"


def test_an_empty_file_that_was_there_is_used(run):
    (run / "x").touch()
    Fresh("x").commit(items(1))

    assert lines(run / "x") == [{"i": 1}]


def test_a_file_that_was_cut_from_outside_is_refused(run):
    sink = Fresh("x")
    sink.commit(items(1))
    sink.close()
    os.truncate(run / "x", 3)

    with pytest.raises(StageError, match=r"has 3 bytes where \.x\.paths knows of 9"):
        Fresh("x")


def test_a_full_disk_is_one_clear_line_and_leaves_whole_lines(run, monkeypatch):
    sink = Fresh("x")
    sink.commit(items(1))
    pwrite = os.pwrite

    def full(file, data, at):
        if at > 9:
            raise OSError(28, "No space left on device")
        return pwrite(file, bytes(data)[:4], at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StageError, match="x: No space left on device: make room"):
        sink.commit(items(2))
    assert lines(run / "x") == [{"i": 1}]

    monkeypatch.undo()
    sink.commit(items(2))
    assert lines(run / "x") == [{"i": 1}, {"i": 2}]


def test_a_write_that_takes_a_part_goes_on(run, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, bytes(data)[:3], at))
    Fresh("x").commit(items(1, 2))

    assert lines(run / "x") == [{"i": 1}, {"i": 2}]


# -- tables -----------------------------------------------------------------------------------------


def test_a_row_has_the_path_and_the_item_as_json(run):
    sinks.sqlite("x.db", table="results").commit([Committed("crops[1]:12.3#9af3", {"a": [1]}, 0)])

    assert rows(run / "x.db", "results") == [("crops[1]:12.3#9af3", {"a": [1]})]


def test_several_sinks_share_a_table(run):
    first, second = sinks.sqlite("x"), sinks.sqlite("x")
    first.commit(items(1))
    second.commit(items(2, 1))
    first.commit(items(2, 3))

    assert [path for path, _ in rows(run / "x")] == ["src:1", "src:2", "src:3"]


def test_a_table_of_another_run_may_be_beside(tmp_path):
    path = tmp_path / "shared"
    sinks.sqlite(str(path)).commit(items(1))
    with in_run(tmp_path / "run-2"):
        sinks.sqlite(str(path), table="second").commit(items(1))

    assert len(rows(path)) == len(rows(path, "second")) == 1


@pytest.mark.parametrize("table", ["", "a b", '"', "1st", "sqlite_x", "a;b"])
def test_a_bad_name_of_a_table_is_refused(table):
    with pytest.raises(ConfigError, match="has a bad name: use letters"):
        sinks.sqlite("x", table=table)


def test_a_table_without_our_key_is_refused(run):
    with sqlite3.connect(run / "x") as db:
        db.execute("CREATE TABLE items (path TEXT, item TEXT)")

    with pytest.raises(StageError, match=r"cannot write .*x: ON CONFLICT clause does not match"):
        sinks.sqlite("x").commit(items(1))


def test_a_file_that_is_no_database_is_refused(run):
    (run / "x").write_text("no database, but long enough to be read as the header of one " * 4)

    with pytest.raises(StageError, match=r"cannot write .*x: file is not a database"):
        sinks.sqlite("x")


# -- deaths -----------------------------------------------------------------------------------------

CHILD = """
import os, sys
from pathlib import Path
from zpipe import sinks
from zpipe.processes.caller import Committed
from zpipe.values import context

kind, folder, point = sys.argv[1:4]
context.enter(context.Current("sink", worker="sink-1", lane_names={}, run_key=0, run_folder=Path(folder)))

def die(*_):
    os._exit(77)

class Database:
    def __init__(self, db):
        self.db = db
    def __getattr__(self, name):
        return getattr(self.db, name)
    def execute(self, statement, *args):
        if point == f"before {statement.split()[0]}":
            die()
        made = self.db.execute(statement, *args)
        if point == f"after {statement.split()[0]}":
            die()
        return made
    def executemany(self, *args):
        made = self.db.executemany(*args)
        if point == "after INSERT":
            die()
        return made

def torn(file, data, at, pwrite=os.pwrite):
    pwrite(file, bytes(data)[: len(data) - 3], at)
    die()

def synced(file, fsync=os.fsync):
    fsync(file)
    die()

def commit(sink, *numbers):
    sink.commit([Committed(f"src:{i}", {"i": i}, 0) for i in numbers])

sink = getattr(sinks, kind)("x")
if point == "never":
    for i in range(1 << 40):
        commit(sink, 2 * i, 2 * i + 1, i)
        print(2 * i + 1, flush=True)
commit(sink, 0, 1)
sink._db = Database(sink._db)
if point == "in write":
    os.pwrite = torn
if point == "before fsync":
    os.fsync = die
if point == "after fsync":
    os.fsync = synced
commit(sink, 1, 2, 3)
"""

POINTS = {
    "jsonl": [
        "before BEGIN", "after BEGIN", "after INSERT", "in write", "before fsync", "after fsync",
        "before UPDATE", "after UPDATE", "before COMMIT", "after COMMIT",
    ],
    "sqlite": ["before BEGIN", "after BEGIN", "after INSERT", "before COMMIT", "after COMMIT"],
}  # fmt: skip


def child(name, folder, point, **options):
    folder.mkdir(exist_ok=True)
    argv = [sys.executable, "-c", textwrap.dedent(CHILD), name, str(folder), point]
    root = Path(sinks.__file__).parents[2]
    return subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(root)}, **options)


def read(name, path):
    return [value["i"] for value in (lines(path) if name == "jsonl" else [value for _, value in rows(path)])]


@pytest.mark.parametrize(("name", "point"), [(name, point) for name, points in POINTS.items() for point in points])
def test_a_death_at_any_point_of_a_commit_loses_and_repeats_nothing(run, name, point):
    assert child(name, run, point).wait(60) == KILLED

    sink = getattr(sinks, name)("x")
    assert read(name, run / "x") == ([0, 1, 2, 3] if point == "after COMMIT" else [0, 1])
    sink.commit(items(1, 2, 3))
    sink.commit(items(0, 3, 4))

    assert read(name, run / "x") == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["jsonl", "sqlite"])
def test_a_writer_killed_in_full_swing_has_all_that_it_confirmed_once(run, name):
    confirmed = -1
    for _ in range(3):
        process = child(name, run, "never", stdout=subprocess.PIPE, text=True)
        for _ in range(20):
            confirmed = max(confirmed, int(process.stdout.readline()))
        process.send_signal(signal.SIGKILL)
        confirmed = max([confirmed, *map(int, process.stdout.read().split("\n")[:-1])])
        process.wait(60)
        process.stdout.close()

    getattr(sinks, name)("x").close()
    found = read(name, run / "x")
    assert found == list(range(len(found)))
    assert len(found) > confirmed


def test_eight_processes_write_one_database_at_once(run):
    code = textwrap.dedent("""
        import sys
        from pathlib import Path
        from zpipe import sinks
        from zpipe.processes.caller import Committed
        from zpipe.values import context
        folder, k = Path(sys.argv[1]), int(sys.argv[2])
        context.enter(context.Current("sink", worker="sink-1", lane_names={}, run_key=0, run_folder=folder))
        sink = sinks.sqlite("x")
        for i in range(20):
            sink.commit([Committed(f"src:{n}", n, 0) for n in range(10 * i + k, 10 * i + k + 10)])
    """)
    env = {**os.environ, "PYTHONPATH": str(Path(sinks.__file__).parents[2])}
    started = [subprocess.Popen([sys.executable, "-c", code, str(run), str(k)], env=env) for k in range(8)]

    assert [process.wait(120) for process in started] == [0] * 8
    assert sorted(value for _, value in rows(run / "x")) == list(range(207))
