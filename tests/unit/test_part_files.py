"""The sinks of part files, npz and Parquet: each item once, whole files, over repeats, deaths and full disks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.smalldisk import small_disk
from zpipe import sinks
from zpipe.processes.caller import Committed
from zpipe.sinks import parts
from zpipe.values import context
from zpipe.values.errors import ConfigError, EncodeError, NoRoom, StageError

ROOT = Path(__file__).parents[2]
KINDS = ["npz", "parquet"]


@contextmanager
def in_run(folder: Path, worker: str = "sink-1") -> Iterator[None]:
    """Be a worker of the run in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with context.inside(context.Current("sink", worker=worker, lane_names={}, run_key=0, run_folder=folder)):
        yield


@pytest.fixture(autouse=True)
def run(tmp_path: Path) -> Iterator[Path]:
    """The folder of the run that the test is a part of."""
    with in_run(tmp_path / "run-1"):
        yield tmp_path / "run-1"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """One of the sinks."""
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return str(request.param)


def make(kind: str, path: str | Path = "x", **args: Any) -> Any:
    return getattr(sinks, kind)(str(path), **args)


def items(*numbers: int) -> list[Committed]:
    return [Committed(f"src:{i}", {"i": i, "x": np.full(2, i, np.float32)}, 0) for i in numbers]


def files(folder: Path) -> list[Path]:
    """Return what a reader is to find: all that is not hidden."""
    return sorted(path for path in folder.iterdir() if path.name[0] != ".")


def read(kind: str, folder: Path) -> list[int]:
    """Read a folder as a user would, and return the numbers of its items, sorted; each must be under its path."""
    if kind == "npz":
        pairs = []
        for file in files(folder):
            with np.load(file) as arrays:
                pairs += [(name.partition("/")[0], int(arrays[name])) for name in arrays.files if name.endswith("/i")]
                assert all(arrays[f"{path}/x"].tolist() == [i, i] for path, i in pairs if f"{path}/x" in arrays)
    else:
        import pyarrow.parquet as pq

        rows = pq.read_table(folder).to_pylist() if files(folder) else []
        assert all(row["x"] == [row["i"], row["i"]] for row in rows)
        pairs = [(row["zpipe_path"], row["i"]) for row in rows]
    assert all(path == f"src:{i}" for path, i in pairs)
    return sorted(i for _, i in pairs)


# -- once -------------------------------------------------------------------------------------------


def test_repeats_are_left_out_within_a_call_over_calls_and_over_lives(kind: str, run: Path) -> None:
    sink = make(kind, "out/of/x")
    sink.commit(items(1, 2, 1))
    sink.commit([])
    sink.commit(items(2, 3))
    sink.close()
    sink = make(kind, "out/of/x")
    sink.commit(items(3, 1, 4))

    assert read(kind, run / "out" / "of" / "x") == [1, 2, 3, 4]
    assert len(files(run / "out" / "of" / "x")) == 1


def test_workers_share_a_folder_and_one_knows_what_another_has_written(kind: str, run: Path) -> None:
    writers = []
    for k in range(3):
        with in_run(run, f"sink-{k}"):
            writers.append(make(kind))
    for k in range(12):
        writers[k % 3].commit(items(k, k + 1))
    with in_run(run, "sink-7"):  # another life of the run, with other workers
        make(kind).commit(items(*range(15)))

    assert read(kind, run / "x") == list(range(15))
    assert len(files(run / "x")) == 4


def test_a_part_that_is_large_enough_stays_and_another_follows(
    kind: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("arrays", "tables"):
        monkeypatch.setattr(f"zpipe.sinks.{module}.PART_BYTES", 2000)
    sink = make(kind)
    seen: dict[str, bytes] = {}
    for k in range(0, 400, 4):
        sink.commit(items(*range(k, k + 4)))
        *old, _ = files(run / "x")
        assert all(seen.setdefault(path.name, path.read_bytes()) == path.read_bytes() for path in old)
        if k == 200:
            sink.close()
            sink = make(kind)

    assert read(kind, run / "x") == list(range(400))
    assert 3 < len(files(run / "x")) < 100


def test_a_call_larger_than_a_part_goes_into_several(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zpipe.sinks.arrays.PART_BYTES", 2000)
    sink = make("npz")
    sink.commit(items(*range(50)))
    sink.commit(items(*range(60)))

    assert read("npz", run / "x") == list(range(60))
    assert len(files(run / "x")) > 5


DELIVERIES = st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 12), max_size=6), st.booleans()), max_size=9)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DELIVERIES)
def test_whatever_is_delivered_to_whom_again_each_item_is_there_once(
    kind: str, tmp_path_factory: pytest.TempPathFactory, deliveries: list[tuple[int, list[int], bool]]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    writers: dict[int, Any] = {}
    for writer, numbers, dies in deliveries:
        with in_run(folder, f"sink-{writer}"):
            if writer not in writers:
                writers[writer] = make(kind)
            writers[writer].commit(items(*numbers))
        if dies:
            writers.pop(writer).close()
    for sink in writers.values():
        sink.close()

    wanted = sorted({i for _, numbers, _ in deliveries for i in numbers})
    assert not wanted or read(kind, folder / "x") == wanted


# -- whose it is ------------------------------------------------------------------------------------


def test_a_folder_of_another_run_or_kind_or_user_is_refused(kind: str, run: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    make(kind, tmp_path / "shared").commit(items(1))
    with in_run(tmp_path / "run-2"), pytest.raises(StageError, match=r"shared is of run .*run-1: move it away"):
        make(kind, tmp_path / "shared")
    with pytest.raises(StageError, match=r"shared holds (npz|parquet) files: give each sink a folder of its own"):
        make("npz" if kind == "parquet" else "parquet", tmp_path / "shared")
    (run / "mine").mkdir()
    (run / "mine" / "notes.txt").touch()
    with pytest.raises(StageError, match="mine is there already: move it away"):
        make(kind, "mine")


def test_a_part_that_was_removed_from_outside_is_one_clear_line(kind: str, run: Path) -> None:
    sink = make(kind)
    sink.commit(items(1))
    files(run / "x")[0].unlink()
    with pytest.raises(StageError, match=r"part-001-000001\.\w+ was removed from outside: start the run anew"):
        sink.commit(items(2))


# -- deaths -----------------------------------------------------------------------------------------


class Death(BaseException):
    """The process has died here: nothing of it is heard of again."""


class Database:
    """The index, where a process may die before a statement or after it."""

    def __init__(self, db: Any, watch: Callable[[str, Any], Any]) -> None:
        self.db = db
        self.execute = lambda statement, *args: watch(statement.split()[0], db.execute)(statement, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)


def die(sink: Any, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit items 1, 2 and 3, and die at a point of that."""
    calls: Counter[str] = Counter()

    def watch(name: str, call: Any) -> Any:
        def watched(*args: Any, **more: Any) -> Any:
            calls[name] += 1
            if point == f"before {name} {calls[name]}":
                raise Death
            made = call(*args, **more)
            if point == f"after {name} {calls[name]}":
                raise Death
            return made

        return watched

    db = sink._parts._db
    sink._parts._db = Database(db, watch)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", watch("fsync", os.fsync))
        patch.setattr(os, "replace", watch("replace", os.replace))
        with pytest.raises(Death):
            sink.commit(items(1, 2, 3))
    db.close()  # as the end of the process does, without a word


POINTS = [
    f"{when} {name} {count}"
    for name, count in [("BEGIN", 1), ("INSERT", 1), ("fsync", 1), ("replace", 1), ("fsync", 2), ("UPDATE", 1),
                        ("COMMIT", 1)]
    for when in ("before", "after")
]  # fmt: skip


STEPS_OF_TWO = ["fsync 1", "replace 1", "fsync 2", "fsync 3", "replace 2", "fsync 4", "UPDATE 1", "COMMIT 1"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("worker", ["sink-1", "sink-2"])
def test_a_death_between_any_two_steps_of_a_commit_loses_and_repeats_nothing(
    kind: str, run: Path, point: str, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next life goes on, or another worker gets first what the dead one had not acknowledged."""
    sink = make(kind)
    sink.commit(items(0, 1))
    die(sink, point, monkeypatch)

    renamed = POINTS.index("after replace 1") <= POINTS.index(point)
    assert read(kind, run / "x") == ([0, 1, 2, 3] if renamed else [0, 1])
    with in_run(run, worker):
        sink = make(kind)
    sink.commit(items(1, 2, 3))
    make(kind).commit(items(0, 3, 4, 5))

    assert read(kind, run / "x") == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("point", [f"{when} {step}" for when in ("before", "after") for step in STEPS_OF_TWO])
def test_a_death_in_a_call_that_fills_several_parts_loses_and_repeats_nothing(
    run: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zpipe.sinks.arrays.PART_BYTES", 1)
    sink = make("npz")
    sink.commit(items(0, 1))
    die(sink, point, monkeypatch)

    found = read("npz", run / "x")
    assert found == [0, 1, 2, 3][: len(found)]
    with in_run(run, "sink-2"):
        make("npz").commit(items(1, 2, 3))
    make("npz").commit(items(0, 3, 4, 5))
    assert read("npz", run / "x") == [0, 1, 2, 3, 4, 5]


CHILD = """
import sys
from pathlib import Path
from tests.unit.test_part_files import in_run, items, make

with in_run(Path(sys.argv[2])):
    sink = make(sys.argv[1])
    for i in range(1 << 40):
        sink.commit(items(2 * i, 2 * i + 1, i))
        print(2 * i + 1, flush=True)
"""


def test_a_writer_killed_in_full_swing_has_all_that_it_confirmed_once(kind: str, run: Path) -> None:
    confirmed = -1
    for _ in range(2):
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        process = subprocess.Popen([sys.executable, "-c", CHILD, kind, str(run)], env=env, stdout=-1, text=True)
        assert process.stdout is not None
        for _ in range(10):
            confirmed = max(confirmed, int(process.stdout.readline()))
        process.kill()
        confirmed = max([confirmed, *map(int, process.stdout.read().split("\n")[:-1])])
        process.wait(60)
        process.stdout.close()
        found = read(kind, run / "x")
        assert found == list(range(len(found)))
        assert len(found) > confirmed


def test_what_the_index_has_lost_with_the_power_is_found_in_the_parts(
    kind: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("arrays", "tables"):
        monkeypatch.setattr(f"zpipe.sinks.{module}.PART_BYTES", 2000)
    sink = make(kind)
    sink.commit(items(0))
    sink.close()
    before = (run / "x" / parts.INDEX).read_bytes()
    sink = make(kind)
    for k in range(1, 100):
        sink.commit(items(k))
    sink.close()
    (run / "x" / parts.INDEX).write_bytes(before)
    sink = make(kind)
    sink.commit(items(*range(101)))

    assert read(kind, run / "x") == list(range(101))


def test_a_life_that_was_held_up_writes_nothing_over_what_its_next_one_has_written(kind: str, run: Path) -> None:
    old, new = make(kind), make(kind)
    old.commit(items(1))
    new.commit(items(1, 2))
    old.commit(items(2, 3))
    new.commit(items(4))

    assert read(kind, run / "x") == [1, 2, 3, 4]


# -- disks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_changes_nothing_and_the_call_can_be_made_again(
    kind: str, run: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    sink = make(kind)
    sink.commit(items(1))

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    for _ in range(2):
        with pytest.raises(NoRoom, match=f"cannot write .*x: {os.strerror(number)}: make room"):
            sink.commit(items(2))
    assert read(kind, run / "x") == [1]
    monkeypatch.undo()
    sink.commit(items(2, 3))
    assert read(kind, run / "x") == [1, 2, 3]


def test_a_full_disk_leaves_whole_files_and_takes_the_call_when_it_has_room(kind: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "d", "512k") as disk, in_run(disk.path / "run"):
        sink = make(kind)
        done = 0
        with pytest.raises(NoRoom):
            while True:
                sink.commit(items(*range(done, done + 200)))
                done += 200
        assert read(kind, disk.path / "run" / "x") == list(range(done))
        disk.grow("16m")
        sink.commit(items(*range(done, done + 200)))
        assert read(kind, disk.path / "run" / "x") == list(range(done + 200))
        sink.close()


# -- values of npz ----------------------------------------------------------------------------------


def stored(run: Path, value: Any) -> dict[str, Any]:
    make("npz").commit([Committed("src:0", value, 0)])
    with np.load(files(run / "x")[0]) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=">u2").reshape(1, 2, 3), np.zeros((0, 3), np.float16), np.array(1.5), np.complex64(1j),
        np.array(["2020-01-01"], "M8[s]"), np.array(["a", "ü"]), np.asfortranarray(np.eye(3)), np.bool_(True),
        np.array([(1, 2.5)], [("a", "i4"), ("b", "f8")]),
    ],
)  # fmt: skip
def test_an_array_comes_back_from_npz_as_it_was(run: Path, value: Any) -> None:
    (found,) = stored(run, value).items()
    assert found[0] == "src:0"
    assert (found[1].dtype, found[1].shape) == (value.dtype, value.shape)
    assert np.array_equal(found[1], value)


def test_maps_become_names_in_npz(run: Path) -> None:
    found = stored(run, {"a": {"b": 1, "c": "text"}, "d": np.ones(2)})
    assert {name: value.tolist() for name, value in found.items()} == {
        "src:0/a/b": 1, "src:0/a/c": "text", "src:0/d": [1.0, 1.0],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "src:7: item is a NoneType, which is no array"),
        ({"a": [1]}, r"item\['a'\] is a list, which is no array"),
        ({"a": b"x"}, r"item\['a'\] is a bytes"),
        ({}, "item is an empty map"),
        ({"a": {}}, r"item\['a'\] is an empty map"),
        ({"a/b": 1}, "item has the key 'a/b': names of arrays are text without '/'"),
        ({1: 1}, "item has the key 1"),
        (2**70, "item is a number beyond 64 bits"),
        ("a\0", "item is text with a NUL at its end"),
        (np.array([object()]), "item is an array of object, which a npz file cannot hold"),
    ],
)
def test_what_npz_cannot_hold_is_refused_with_its_place_and_changes_nothing(run: Path, value: Any, said: str) -> None:
    sink = make("npz")
    sink.commit(items(1))
    with pytest.raises(EncodeError, match=said):
        sink.commit([*items(2), Committed("src:7", value, 0)])
    sink.commit(items(2))
    assert read("npz", run / "x") == [1, 2]


# -- values of parquet ------------------------------------------------------------------------------


def column(run: Path, *values: Any, **args: Any) -> Any:
    """Write values in calls of their own, and return their column."""
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    sink = make("parquet", **args)
    for k, value in enumerate(values):
        sink.commit([Committed(f"src:{k}", {"v": value}, 0)])
    return pq.read_table(run / "x")["v"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None, -3], "int64"),
        ([1.5, 2], "double"),
        (["a", "ü\0"], "string"),
        ([b"", b"\0x"], "binary"),
        ([True, False], "bool"),
        ([[1], [], [2, 3]], "list<element: int64>"),
        ([{"a": 1}, {"a": None}], "struct<a: int64>"),
    ],
)
def test_plain_values_come_back_from_parquet(run: Path, values: list[Any], kind: str) -> None:
    found = column(run, *values)
    assert str(found.type) == kind
    assert found.to_pylist() == values


def test_arrays_keep_their_dtype_and_shape_in_parquet(run: Path) -> None:
    vectors = column(run, np.arange(3, dtype=np.uint16), None, np.zeros(0, np.uint16))
    assert str(vectors.type) == "list<element: uint16>"
    assert vectors.to_pylist() == [[0, 1, 2], None, []]


def test_arrays_of_more_dimensions_are_tensors_in_parquet(run: Path) -> None:
    images = [np.arange(6, dtype=np.float32).reshape(2, 3) + k for k in range(2)]
    found = column(run, *images).combine_chunks().to_numpy_ndarray()
    assert found.dtype == np.float32
    assert np.array_equal(found, images)


def test_a_value_that_is_no_map_has_a_column_of_its_own(run: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    make("parquet").commit([Committed("src:0", 5, 0)])
    assert pq.read_table(run / "x").to_pylist() == [{"zpipe_path": "src:0", "value": 5}]


def test_a_column_that_begins_with_none_has_the_type_that_it_is_given(run: Path) -> None:
    assert str(column(run, None, "a", types={"v": "string"}).type) == "string"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([None], r"src:0: item\['v'\] is None in all of the first items: say its type, types = \{ v = 'string' \}"),
        ([1, "a"], r"src:1: item\['v'\] is a str"),
        ([1, 1.5], r"src:1: item\['v'\] is a float: the first items have int64"),
        ([1, True], r"src:1: item\['v'\] is a bool: the first items have int64"),
        ([[1], [1.5]], r"src:1: item\['v'\] is a list"),
        ([{"a": 1}, {"a": 1, "b": 2}], r"src:1: item\['v'\] is a dict"),
        ([np.float64(1), np.float32(1)], r"src:1: item\['v'\] is float32 \(\): the first items have doubles"),
        ([1, 2**70], r"src:1: item\['v'\] is a int"),
        ([np.zeros(2), np.zeros(2, "f4")], r"src:1: item\['v'\] is float32 \(2,\): the first items have doubles of"),
        ([np.zeros((2, 3)), np.zeros((3, 2))], r"item\['v'\] is float64 \(3, 2\): the first items have doubles of sha"),
        ([np.zeros((2, 3)), [[1]]], r"src:1: item\['v'\] is a list: the first items have arrays of shape \(2, 3\)"),
        ([np.complex64(1)], r"item\['v'\] is complex64 \(\): numbers of complex64 are not for Parquet"),
        ([object()], r"src:0: item\['v'\] is a object"),
    ],
)  # fmt: skip
def test_what_parquet_cannot_hold_is_refused_with_its_place(run: Path, values: list[Any], said: str) -> None:
    with pytest.raises(EncodeError, match=said):
        column(run, *values)


def test_a_key_that_came_later_is_refused(run: Path) -> None:
    pytest.importorskip("pyarrow")
    sink = make("parquet")
    sink.commit(items(1))
    with pytest.raises(EncodeError, match="src:2: item has 'y', for which the first items have made no column"):
        sink.commit([Committed("src:2", {"i": 2, "y": 1}, 0)])
    with pytest.raises(EncodeError, match="src:3: item has the key 'zpipe_path'"):
        sink.commit([Committed("src:3", {"zpipe_path": 2}, 0)])
    sink.commit(items(2))
    assert read("parquet", run / "x") == [1, 2]


def test_a_type_that_there_is_not_is_refused() -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(ConfigError, match="the column 'v' has the type 'text', which there is not: use one of Arrow's"):
        make("parquet", types={"v": "text"})


def test_without_pyarrow_parquet_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from zpipe.sinks import tables

    monkeypatch.setattr(tables, "pa", None)
    make_it: Callable[[], Any] = lambda: make("parquet")  # noqa: E731
    with pytest.raises(ConfigError, match=r"the sink parquet needs pyarrow: pip install 'zpipe\[parquet\]'"):
        make_it()
