"""Pipelines written in Python: wiring, names, order, and the dict and file they become."""

import subprocess
import sys
from pathlib import Path

import pytest

import zpipe as zp

FILE = Path(__file__).name


def numbers(count=3):
    yield from range(count)


def double(x):
    return 2 * x


def add(a, b):
    return a + b


class TrainNet:
    def __init__(self, lr=0.1):
        self.lr = lr

    def __call__(self, x):
        return x


def run_of(name):
    return f"{__name__}:{name}"


def names(pipeline):
    return [spec.name for spec in pipeline.stages]


def test_a_wired_pipeline_becomes_a_dict_without_defaults():
    x = zp.stage(numbers, args={"count": 5}, epochs=3, partitions=1)
    x = zp.stage(double, workers=4, ordered=False)(x)
    x = zp.batch(64)(x)
    fits = zp.stage(TrainNet, name="fit", grid={"lr": (0.1, 0.01)}, gpus=1)(x)

    assert zp.Pipeline("textures", fits).to_dict() == {
        "schema": 1,
        "name": "textures",
        "stage": {
            "numbers": {"run": run_of("numbers"), "args": {"count": 5}, "epochs": 3},
            "double": {"run": run_of("double"), "from": "numbers", "workers": 4},
            "batch": {"run": "zpipe.stages:batch", "from": "double", "args": {"size": 64}},
            "fit": {"run": run_of("TrainNet"), "from": "batch", "grid": {"lr": [0.1, 0.01]}, "gpus": 1},
        },
    }


@pytest.mark.parametrize(
    ("callable_name", "name"),
    [("TrainNet", "train-net"), ("load_csv", "load-csv"), ("HTTPServer", "http-server"), ("_crop2", "crop2")],
)
def test_a_stage_is_named_after_its_callable(callable_name, name):
    assert names(zp.Pipeline("p", zp.stage(f"stages:{callable_name}"))) == [name]


def test_built_ins_of_one_name_are_numbered():
    x = zp.batch(2)(zp.batch(4)(zp.stage(numbers)))

    assert names(zp.Pipeline("p", x)) == ["numbers", "batch", "batch-2"]


def test_a_built_in_keeps_clear_of_a_name_given_by_the_user():
    x = zp.batch(2)(zp.stage(double, name="batch")(zp.stage(numbers)))

    assert names(zp.Pipeline("p", x)) == ["numbers", "batch", "batch-2"]


def test_two_stages_of_one_name_are_a_fault():
    x = zp.stage(double)(zp.stage(double)(zp.stage(numbers)))

    with pytest.raises(
        zp.ConfigError, match="2 stages have the name 'double': give each its own, like name='double-a'"
    ):
        zp.Pipeline("p", x).check()


def test_a_list_is_a_chain():
    chain = zp.Pipeline("p", [zp.stage(numbers), zp.stage(double), zp.batch(2)])

    assert chain == zp.Pipeline("p", zp.batch(2)(zp.stage(double)(zp.stage(numbers))))


def test_a_chain_takes_names_built_ins_and_options():
    chain = zp.Pipeline(
        "p", [zp.stage(numbers, name="src"), zp.stage(double, name="left", workers=2), zp.batch(2, name="pairs"),
              zp.unbatch(), zp.batch(4), zp.batch(8), zp.stage("zpipe.sinks:jsonl", args={"path": "x"})],
    )  # fmt: skip

    chain.check()
    assert {name: table.get("from") for name, table in chain.to_dict()["stage"].items()} == {
        "src": None, "left": "src", "pairs": "left", "unbatch": "pairs", "batch": "unbatch", "batch-2": "batch",
        "jsonl": "batch-2",
    }  # fmt: skip


def test_a_chain_begins_with_a_join_a_merge_or_an_output():
    x = zp.stage(numbers)
    a, b = zp.stage(double, name="a")(x), zp.stage(double, name="b")(x)
    route = zp.split({"odd": 1, "even": 1})(x)
    pipeline = zp.Pipeline(
        "p",
        [zp.stage(add)(a, b), zp.batch(2, name="pairs")],
        [zp.merge(a, b), zp.stage(double, name="merged")],
        [route["odd"], zp.stage(double, name="odd"), zp.batch(2)],
        zp.stage(double, name="even")(route["even"]),
    )

    pipeline.check()
    found = pipeline.to_dict()["stage"]
    assert (found["add"]["join"], found["pairs"]["from"]) == (["a", "b"], "add")
    assert found["merged"]["from"] == ["a", "b"]
    assert (found["odd"]["from"], found["batch"]["from"]) == ("split.odd", "odd")


@pytest.mark.parametrize("tail", ["x", "named", "merge"])
def test_what_stands_later_in_a_chain_is_a_stage(tail):
    x = zp.stage(numbers)
    later = {"x": 3, "named": x["odd"], "merge": zp.merge(x)}[tail]

    with pytest.raises(zp.ConfigError, match="in a list given to Pipeline is not a stage"):
        zp.Pipeline("p", [zp.stage(numbers), later])


def test_a_chain_is_no_single_output():
    with pytest.raises(zp.ConfigError, match=rf"{FILE}:\d+: output 'odd' of stage 'numbers' is not a stage"):
        zp.Pipeline("p", [zp.stage(numbers)["odd"]])


def test_a_list_of_ends_is_refused_with_the_way_out():
    x = zp.stage(numbers)

    with pytest.raises(zp.ConfigError, match=r"give several ends as Pipeline\(name, a, b\)"):
        zp.Pipeline("p", [zp.stage(double, name="a")(x), zp.stage(double, name="b")(x)])


def test_a_source_read_twice_is_one_stage():
    x = zp.stage(numbers)
    pipeline = zp.Pipeline("p", zp.stage(double, name="a")(x), zp.stage(double, name="b")(x))

    assert names(pipeline) == ["numbers", "a", "b"]
    assert [spec.name for spec in pipeline.readers("numbers")] == ["a", "b"]


def test_merged_stages_are_a_list_in_from():
    a, b, c = (zp.stage(numbers, name=name) for name in "abc")
    pipeline = zp.Pipeline("p", zp.stage(double)(zp.merge(zp.merge(a, b), c)))

    assert pipeline.stage("double").inputs == ("a", "b", "c")
    assert pipeline.to_dict()["stage"]["double"]["from"] == ["a", "b", "c"]


def test_a_named_output_is_read_by_its_name():
    route = zp.stage(double, name="route")(zp.stage(numbers))
    spam = zp.stage(double, name="spam")(route["spam"])
    rest = zp.stage(double, name="rest")(zp.merge(route["ham"], route))
    pipeline = zp.Pipeline("p", spam, rest)

    assert pipeline.stage("spam").inputs == ("route.spam",)
    assert pipeline.stage("rest").to_dict()["from"] == ["route.ham", "route"]
    assert [spec.name for spec in pipeline.readers("route")] == ["spam", "rest"]
    assert pipeline.stage("rest").above == ("route",)
    assert pipeline.stage("rest").outputs_of("route") == ("ham", "")
    assert zp.Pipeline.from_dict(pipeline.to_dict(), folder=pipeline.folder) == pipeline
    assert names(pipeline) == ["numbers", "route", "spam", "rest"]


def test_of_a_stage_or_an_output_only_the_latest_may_be_read():
    route = zp.stage(double, name="route")(zp.stage(numbers))
    one = zp.stage(double, name="one")(zp.latest(route["spam"]))
    two = zp.stage(double, name="two")(zp.merge(zp.latest(route), one))
    pipeline = zp.Pipeline("p", two)

    assert pipeline.to_dict()["stage"]["one"]["from"] == {"stage": "route.spam", "keep": "latest"}
    assert pipeline.to_dict()["stage"]["two"]["from"] == [{"stage": "route", "keep": "latest"}, "one"]
    assert (pipeline.stage("one").latest, pipeline.stage("two").latest) == (("route.spam",), ("route",))
    assert zp.Pipeline.from_dict(pipeline.to_dict(), folder=pipeline.folder) == pipeline
    assert names(pipeline) == ["numbers", "route", "one", "two"]


def test_a_join_and_an_output_that_is_no_stage_have_no_latest():
    x = zp.stage(numbers)
    with pytest.raises(zp.ConfigError, match="a join needs every item of its inputs"):
        zp.stage(double, name="both")(x, zp.latest(zp.stage(double)(x)))
    with pytest.raises(zp.ConfigError, match=r"'numbers' is not a stage: give zp.latest a stage, or an output of one"):
        zp.latest("numbers")


def test_a_split_is_a_built_in():
    parts = zp.split({"train": 9, "test": 1})(zp.stage(numbers))
    pipeline = zp.Pipeline("p", zp.stage(double)(parts["train"]), zp.stage(double, name="other")(parts["test"]))

    assert pipeline.to_dict()["stage"]["split"] == {
        "run": "zpipe.stages:split", "from": "numbers", "args": {"weights": {"train": 9, "test": 1}},
    }  # fmt: skip
    assert pipeline.to_dict()["stage"]["other"]["from"] == "split.test"


def test_several_stages_are_joined():
    x = zp.stage(numbers)
    a, b = zp.stage(double, name="a")(x), zp.stage(double, name="b")(x)
    pipeline = zp.Pipeline("p", zp.stage(double, name="both")(a, b["odd"]))

    assert pipeline.to_dict()["stage"]["both"]["join"] == ["a", "b.odd"]
    assert (pipeline.stage("both").inputs, pipeline.stage("both").joins) == (("a", "b.odd"), True)
    assert zp.Pipeline.from_dict(pipeline.to_dict(), folder=pipeline.folder) == pipeline


def test_a_merge_is_no_arm_of_a_join():
    a, b = (zp.stage(numbers, name=name) for name in "ab")
    with pytest.raises(zp.ConfigError, match=rf"{FILE}:\d+: stage 'double' joins a merge: join single stages"):
        zp.stage(double)(a, zp.merge(a, b))


def test_a_wired_stage_cannot_be_wired_again():
    x = zp.stage(numbers)

    with pytest.raises(zp.ConfigError, match="stage 'double' already reads stage 'numbers'"):
        zp.stage(double)(x)(x)


def test_what_is_no_callable_is_refused():
    with pytest.raises(zp.ConfigError, match="3 is no callable: give a function, a class or 'module:name'"):
        zp.stage(3)


def test_what_is_no_stage_cannot_be_read():
    with pytest.raises(zp.ConfigError, match="is not a stage"):
        zp.stage(double)(numbers)


def test_stages_stand_in_the_order_they_were_written_in():
    x = zp.stage(numbers)
    left, right = zp.stage(double, name="left")(x), zp.stage(double, name="right")(x)
    end = zp.stage(double, name="end")(zp.merge(right, left))

    assert names(zp.Pipeline("p", end)) == ["numbers", "left", "right", "end"]


def test_stages_of_a_file_are_put_behind_their_inputs():
    pipeline = zp.Pipeline.from_dict(
        {"schema": 1, "name": "p", "stage": {
            "c": {"run": "m:c", "from": ["b", "a"]}, "b": {"run": "m:b", "from": "z"},
            "a": {"run": "m:a"}, "z": {"run": "m:z"}}}
    )  # fmt: skip

    assert names(pipeline) == ["a", "z", "b", "c"]


def test_roles_follow_from_the_edges():
    pipeline = zp.Pipeline("p", [zp.stage(numbers), zp.stage(double), zp.stage("zpipe.sinks:jsonl")])

    assert [pipeline.role(spec) for spec in pipeline.stages] == ["source", "transform", "sink"]


def test_a_dict_makes_an_equal_pipeline():
    pipeline = zp.Pipeline("p", zp.shuffle(100, seed=3)(zp.stage(numbers, replay="no", env={"A": "1"})))

    assert zp.Pipeline.from_dict(pipeline.to_dict()) == pipeline


def test_a_saved_pipeline_loads_as_an_equal_one(tmp_path):
    pipeline = zp.Pipeline("p", [zp.stage(numbers, args={"text": 'a "${b}" $${c}\n'}), zp.rechunk(8), zp.unbatch()])

    pipeline.save(tmp_path / "p.toml")

    assert zp.Pipeline.load(tmp_path / "p.toml") == pipeline


def test_defaults_of_built_ins_make_no_difference():
    table = {"run": "zpipe.stages:batch", "from": "numbers", "args": {"size": 2, "drop_last": False}}
    data = {"schema": 1, "name": "p", "stage": {"numbers": {"run": run_of("numbers")}, "batch": table}}

    assert zp.Pipeline.from_dict(data) == zp.Pipeline("p", [zp.stage(numbers), zp.batch(2)])


def test_the_folder_is_that_of_the_calling_file_and_no_part_of_equality(tmp_path):
    here, there = zp.Pipeline("p", zp.stage(numbers)), zp.Pipeline("p", zp.stage(numbers), folder=tmp_path)

    assert here.folder == Path(__file__).parent
    assert there.folder == tmp_path
    assert here == there


def test_a_pipeline_is_frozen():
    pipeline = zp.Pipeline("p", zp.stage(numbers))

    with pytest.raises(AttributeError, match="frozen"):
        pipeline.name = "q"


def test_paths_and_tuples_in_args_become_text_and_lists():
    pipeline = zp.Pipeline("p", zp.stage(numbers, args={"path": Path("data"), "shape": (2, 3)}))

    assert dict(pipeline.stage("numbers").args) == {"path": "data", "shape": [2, 3]}


def test_defaults_reach_the_stages_that_have_the_option():
    pipeline = zp.Pipeline(
        "p",
        [zp.stage(numbers), zp.stage(double, env={"B": "2"})],
        defaults={"epochs": 2, "env": {"A": "1", "B": "1"}},
    )

    assert pipeline.stage("numbers").options.epochs == 2
    assert pipeline.stage("double").options.given() == {"env": {"A": "1", "B": "2"}}


def test_sets_give_a_changed_pipeline_and_leave_the_first():
    pipeline = zp.Pipeline("p", [zp.stage(numbers), zp.stage(double)])

    changed = pipeline.with_sets(["double.workers=8", "numbers.count=100"])

    assert changed.stage("double").options.workers == 8
    assert dict(changed.stage("numbers").args) == {"count": 100}
    assert pipeline.stage("double").options.workers == 1


def diamond():
    x = zp.stage(numbers)
    left, right = zp.stage(double, name="left")(x), zp.stage(double, name="right")(x)
    end = zp.stage(double, name="end")(zp.merge(left, right))
    return zp.Pipeline(
        "p", zp.stage(double, name="last")(end), zp.stage(double, name="other")(zp.stage(numbers, name="n"))
    )


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("numbers", ["numbers"]),
        ("right", ["numbers", "right"]),
        ("end", ["numbers", "left", "right", "end"]),
        ("other", ["n", "other"]),
    ],
)
def test_a_pipeline_is_cut_below_a_stage(name, kept):
    pipeline = diamond()

    cut = pipeline.until(name)

    assert names(cut) == kept
    assert (cut.name, cut.folder, dict(cut.places)) == ("p", pipeline.folder, dict(pipeline.places))
    assert type(cut) is type(pipeline)
    assert len(names(pipeline)) == 7


def test_a_cut_stage_is_a_sink_and_the_rest_is_as_it_was():
    pipeline = diamond()

    cut = pipeline.until("right")

    assert [cut.role(spec) for spec in cut.stages] == ["source", "sink"]
    assert cut.stages == tuple(pipeline.stage(name) for name in ("numbers", "right"))
    cut.check()


def test_a_pipeline_cannot_be_cut_below_what_it_has_not():
    with pytest.raises(zp.ConfigError, match=r"pipeline 'p' has no stage 'rigth': did you mean 'right'\?"):
        diamond().until("rigth")


def test_faults_below_the_cut_do_not_matter():
    pipeline = zp.Pipeline("p", [zp.stage(numbers), zp.stage(double), zp.stage("m:nothing")])

    pipeline.until("double").check()
    with pytest.raises(zp.ConfigError, match="'m'"):
        pipeline.check()


def test_a_cycle_is_still_found_in_what_is_left():
    stages = {"a": {"run": "m:a", "from": "b"}, "b": {"run": "m:b", "from": "a"}, "c": {"run": "m:c", "from": "b"}}

    cut = zp.Pipeline.from_dict({"schema": 1, "name": "p", "stage": stages}).until("b")

    assert names(cut) == ["a", "b"]


@pytest.mark.parametrize("limit", [0, -1, 2.0, True, "3"])
@pytest.mark.parametrize("inline", [True, False])
def test_a_limit_is_a_whole_number_of_items(tmp_path, limit, inline):
    with pytest.raises(zp.ConfigError, match=f"limit is {limit!r}: give a whole number of items, at least 1"):
        zp.Pipeline("p", zp.stage(numbers)).run(limit=limit, inline=inline, folder=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_run_is_refused_in_a_worker(monkeypatch):
    monkeypatch.setenv("ZPIPE_WORKER", "clean-1")

    with pytest.raises(zp.ConfigError, match=r"run.. of pipeline 'p' was reached while 'clean-1' imports this file"):
        zp.Pipeline("p", zp.stage(numbers)).run()


def test_importing_zpipe_loads_neither_zmq_nor_numpy():
    code = "import zpipe, sys; print({'zmq', 'numpy', 'msgpack', 'click', 'rich'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout == "set()\n"
