"""A stage on its own: fed with items as a run would feed it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import zpipe as zp
from zpipe.testing import feed, first
from zpipe.testing.compare import same, simple

FILE = Path(__file__).name


def double(x, factor=2):
    return factor * x if x else None


def children(x):
    for k in range(x):
        yield None if k == 1 else 10 * x + k


def where(x):
    return [zp.item().path, float(zp.rng().random())]


def numbers(count=3):
    for k in range(count):
        yield [k, zp.item().epoch, zp.item().partitions]


def endless(start=0):
    while True:
        yield start
        start += 1


def breaks():
    yield 1
    yield 2
    raise AssertionError("asked for more than was wanted")


class Sum:
    def __init__(self, factor=1):
        self.factor = factor
        self.sum = 0
        self.calls = ["init"]

    def warmup(self):
        self.calls.append("warmup")

    def __call__(self, x):
        self.sum += self.factor * x

    def epoch_end(self, n):
        return {"epoch": n, "calls": self.calls}

    def finish(self):
        yield self.sum


class Broken:
    def __init__(self):
        raise OSError("no such model")

    def __call__(self, x):
        return x


class Table:
    def __init__(self, path):
        self.path = zp.run_folder() / path

    def commit(self, items):
        with open(self.path, "a") as file:
            file.writelines(f"{item.path} {item.value}\n" for item in items)

    def close(self):
        with open(self.path, "a") as file:
            file.write("closed\n")


@pytest.mark.parametrize("stage", [double, zp.stage(double), zp.stage(double)(zp.stage(numbers)), f"{FILE}:double"])
def test_every_way_to_name_a_stage_gives_its_outputs_and_none_drops(stage):
    assert feed(stage, [1, 0, 2]) == [2, 4]


def test_args_are_passed_and_come_before_those_of_the_stage():
    assert feed(double, [1], args={"factor": 3}) == [3]
    assert feed(zp.stage(double, args={"factor": 3}), [1]) == [3]
    assert feed(zp.stage(double, args={"factor": 3}), [1], args={"factor": 4}) == [4]


def test_what_has_no_name_to_import_can_be_fed():
    assert feed(lambda x: x + 1, [1]) == [2]


def test_inputs_are_whatever_one_can_iterate_over():
    assert feed(double, (x for x in (1, 2))) == [2, 4]
    assert feed(double, ()) == []
    with pytest.raises(zp.ConfigError, match=r"^inputs is 5: give a list of items"):
        feed(double, 5)


def test_a_generator_splits():
    assert feed(children, [3, 0, 1]) == [30, 32, 10]


def test_the_hooks_of_a_class_are_called_and_what_they_make_comes_after():
    assert feed(Sum, [1, 2, 3]) == [{"epoch": 0, "calls": ["init", "warmup"]}, 6]


def test_the_outputs_of_all_variants_are_there():
    got = feed(zp.stage(Sum, grid={"factor": [1, 10]}), [1, 2])

    assert sorted(x for x in got if isinstance(x, int)) == [3, 30]


def test_groups_flush_their_rest():
    got = feed(zp.batch(3), [1, 2, 3, 4])

    assert [x.tolist() for x in got] == [[1, 2, 3], [4]]
    assert feed(zp.unbatch(), [["a", "b"], ["c"]]) == ["a", "b", "c"]
    assert sorted(feed(zp.shuffle(4), range(6))) == [0, 1, 2, 3, 4, 5]


def test_items_are_numbered_and_draw_the_same_numbers_each_time():
    got = feed(where, "ab")

    assert [path for path, _ in got] == ["inputs:0", "inputs:1"]
    assert got[0][1] != got[1][1]
    assert feed(where, "ab") == got


def test_a_stage_may_have_the_name_of_its_inputs():
    assert [path for path, _ in feed(zp.stage(where, name="inputs"), "a")] == ["items:0"]


def test_items_arrive_as_they_do_between_processes():
    given = np.zeros(3)
    (arrived,) = feed(lambda x: [type(x["t"]).__name__, x["a"].flags.writeable], [{"t": (1, 2), "a": given}])
    (left,) = feed(lambda x: (x, x), [1])

    assert (arrived, left) == (["list", False], [1, 1])
    with pytest.raises(zp.StageError, match=r"stage 'raises' at inputs:0 raised ValueError: .*read-only"):
        feed(zp.stage(Writes, name="raises"), [given])


class Writes:
    def __call__(self, a):
        a += 1


def test_what_users_code_raises_is_the_cause():
    with pytest.raises(zp.StageError, match=r"^stage 'double' at inputs:1 raised TypeError: ") as caught:
        feed(double, [1, {"a": 1}])
    assert type(caught.value.__cause__) is TypeError

    with pytest.raises(zp.StageError, match=r"^stage 'broken' raised OSError in __init__: no such model") as caught:
        feed(Broken, [1])
    assert type(caught.value.__cause__) is OSError


def test_an_output_that_cannot_travel_is_an_encode_error():
    with pytest.raises(zp.EncodeError, match=r"^stage 'lambda' at inputs:0: item is a set"):
        feed(lambda x: {x}, [1])


def test_an_input_that_cannot_travel_is_an_encode_error():
    with pytest.raises(zp.EncodeError, match=r"^stage 'inputs' at inputs:1: item\['a'\] is a object"):
        feed(double, [1, {"a": object()}])


def test_a_sink_commits_into_the_folder_given(tmp_path):
    assert feed(Table, ["a", "b"], args={"path": "t"}, folder=tmp_path / "new") == []
    assert (tmp_path / "new" / "t").read_text() == "inputs:0 a\ninputs:1 b\nclosed\n"


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    (folder,) = feed(lambda x: str(zp.run_folder()), [1])

    assert Path(folder).parent == tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("stage", "options", "said"),
    [
        (double, {"args": {"facto": 1}}, "takes no argument 'facto': did you mean 'factor'?"),
        (zp.stage(double, wokers=2), {}, "there is no option 'wokers': did you mean 'workers'?"),
        (numbers, {"args": {"count": 1}}, "'count' is where the item goes"),
        (f"{FILE}:doubel", {}, "did you mean 'double'?"),
        ("zpipe.stages:bacth", {}, "did you mean 'zpipe.stages:batch'?"),
        (7, {}, "7 is no stage: give a zp.stage(...), a function, a class or 'module:name'"),
    ],
)
def test_what_a_check_would_find_is_found(stage, options, said):
    with pytest.raises(zp.ConfigError) as caught:
        feed(stage, [1], **options)
    assert said in str(caught.value)


def test_the_first_items_of_a_source_are_taken_and_no_more():
    assert first(endless) == [0, 1, 2, 3, 4]
    assert first(breaks, 2) == [1, 2]
    assert first(numbers, 9, args={"count": 1}) == [[0, 0, 1]]


def test_the_first_items_go_on_into_the_next_epoch_in_one_partition():
    source = zp.stage(numbers, args={"count": 2}, epochs=10**9, partitions=3, workers=2)

    assert first(source, 3) == [[0, 0, 1], [1, 0, 1], [0, 1, 1]]


def test_what_is_no_source_has_no_first_items():
    with pytest.raises(zp.ConfigError, match=r"stage 'double' .* does not yield"):
        first(double)
    with pytest.raises(zp.ConfigError, match=r"^count must be a whole number, at least 1, not 0"):
        first(endless, 0)


@pytest.mark.parametrize(
    ("expected", "got", "is_same"),
    [
        ([1, "a", None], [1, "a", None], True),
        ([1], [1, 2], False),
        ([1], [2], False),
        ({"a": [0.3]}, {"a": [0.1 + 0.2]}, True),
        (0.3, 0.300001, False),
        (2, 2.0, True),
        (2.0, 2, True),
        (1, True, False),
        (True, 1.0, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ([1], {"a": 1}, False),
        (float("nan"), float("nan"), True),
        (1.0, "1.0", False),
        ([[1.0, 2.0], [3.0, 4.0]], np.array([[1.0, 2.0], [3.0, 4.0]]), True),
        ({"n": 3, "t": [1, 2]}, {"n": np.int64(3), "t": (1, 2)}, True),
    ],
)
def test_a_test_compares_floats_to_nine_digits_and_all_else_exactly(expected, got, is_same):
    assert same(expected, simple(got)) is is_same


# -- shapes ---------------------------------------------------------------------------------------------


def route(x):
    return zp.out("odd", x) if x % 2 else x


def route_children(x):
    for k in range(x):
        yield zp.out("first" if k == 0 else "later", np.array([x, k]))


def add(a, b, scale=1):
    return scale * (a + b)


def test_what_goes_to_a_named_output_says_so():
    assert feed(route, [1, 2, 3]) == [zp.out("odd", 1), 2, zp.out("odd", 3)]
    assert simple(feed(route_children, [2])) == [
        {"output": "first", "value": [2, 0]},
        {"output": "later", "value": [2, 1]},
    ]


def test_a_split_by_weight_may_be_fed():
    sent = feed(zp.split({"a": 1, "b": 1}), range(40))
    assert [each.value for each in sent] == list(range(40))
    assert {each.name for each in sent} == {"a", "b"}


def test_a_stage_that_joins_is_fed_with_lists():
    x = zp.stage(numbers)
    both = zp.stage(add, args={"scale": 10})(zp.stage(double, name="a")(x), zp.stage(double, name="b")(x))
    assert feed(both, [[1, 2], [3, 4]]) == [30, 70]


def test_a_stage_that_a_file_defines_is_fed(tmp_path):
    (tmp_path / "shapes.py").write_text("def scale(x, by):\n    return by * x\n")
    (tmp_path / "text.toml").write_text(
        'schema = 1\nname = "text"\n[stage.scale]\nrun = "shapes:scale"\nfrom = "input"\nargs = { by = 3 }\n'
        '[stage.again]\nrun = "shapes:scale"\nfrom = "scale"\nargs = { by = 5 }\n'
    )

    assert feed(zp.use(f"{tmp_path}/text.toml:scale"), [1, 2]) == [3, 6]
    assert feed(zp.use(f"{tmp_path}/text.toml:scale"), [1, 2], args={"by": 4}) == [4, 8]
    with pytest.raises(zp.ConfigError, match=rf"^{FILE}:\d+: .*text.toml is a whole file: feed its stages one by one"):
        feed(zp.use(tmp_path / "text.toml"), [1])
    with pytest.raises(zp.ConfigError, match=rf"^{FILE}:\d+: .* has no stage 'scael': did you mean 'scale'"):
        feed(zp.use(f"{tmp_path}/text.toml:scael"), [1])
