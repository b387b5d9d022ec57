"""Whole pipelines in one thread: what users' code meets there, what comes out, and how failures look."""

import json
import os
import pdb
import sqlite3
import traceback
from textwrap import dedent

import pytest

import zpipe as zp
from zpipe.processes import inline
from zpipe.values.pipeline import Pipeline

SOURCE = """
import zpipe as zp
import numpy as np

def numbers(count=10):
    for i in range(count):
        yield i
"""

OUT = """
[stage.out]
run = "zpipe.sinks:jsonl"
args = { path = "out.jsonl" }
"""


@pytest.fixture
def play(tmp_path):
    """Run a pipeline given as the code of its stages and its stages in TOML."""

    def run(code, toml, **options):
        (tmp_path / "stages.py").write_text(SOURCE + dedent(code))
        (tmp_path / "p.toml").write_text(f'schema = 1\nname = "p"\n{dedent(toml)}')
        return inline.run(Pipeline.load(tmp_path / "p.toml"), runs=tmp_path / "runs", **options)

    return run


def chain(*stages, **tables):
    """Write stages that read each other as TOML; a keyword holds more lines for its stage."""
    text, above = "", None
    for stage in stages:
        run = OUT if stage == "out" else f'[stage.{stage}]\nrun = "stages.py:{stage}"\n'
        text += run + (f'from = "{above}"\n' if above else "") + tables.get(stage, "") + "\n"
        above = stage
    return text


def out(report):
    return [json.loads(line) for line in (report.folder / "out.jsonl").read_text().splitlines()]


def test_items_go_from_the_source_to_the_sink(play):
    code = """
    def double(x):
        return 2 * x if x % 5 else None
    """

    report = play(code, chain("numbers", "double", "out"))

    assert out(report) == [2, 4, 6, 8, 12, 14, 16, 18]
    assert (report.ok, report.name, report.state) == (True, "p", "done")
    counts = {s.name: (s.workers, s.taken, s.done, s.dropped, s.out, s.repeats) for s in report.stages}
    assert counts == {
        "numbers": (1, 10, 10, 0, 10, 0),
        "double": (1, 10, 8, 2, 8, 0),
        "out": (1, 8, 8, 0, 0, 0),
    }


def test_every_form_of_stage_takes_part_and_groups_go_by_source_order(play):
    code = """
    def children(x):
        for k in range(x % 3):
            yield {"x": 10 * x + k}

    class Fit:
        def __init__(self, scale):
            self.scale, self.seen = scale, []

        def __call__(self, batch):
            self.seen.append((self.scale * batch["x"]).tolist())

        def finish(self):
            yield {"scale": self.scale, "seen": self.seen}
    """
    toml = chain("numbers", "children", numbers="epochs = 2\nargs = { count = 5 }\n", children="workers = 3\n")
    toml += """
    [stage.batch]
    run = "zpipe.stages:batch"
    from = "children"
    args = { size = 4 }
    [stage.fit]
    run = "stages.py:Fit"
    from = "batch"
    grid = { scale = [1, 2] }
    [stage.out]
    run = "zpipe.sinks:jsonl"
    from = "fit"
    args = { path = "out.jsonl" }
    """

    report = play(code, dedent(toml.replace("\n    ", "\n")))

    assert sorted(out(report), key=lambda row: row["scale"]) == [
        {"scale": 1, "seen": [[10, 20, 21, 40], [10, 20, 21, 40]]},
        {"scale": 2, "seen": [[20, 40, 42, 80], [20, 40, 42, 80]]},
    ]
    assert [s.name for s in report.stages] == [
        "numbers",
        "children",
        "batch",
        "fit/scale=1",
        "fit/scale=2",
        "out",
    ]


def test_shuffled_and_cut_anew_all_rows_arrive(play):
    toml = (
        chain("numbers", numbers="args = { count = 300 }\n")
        + """
[stage.shuffle]
run = "zpipe.stages:shuffle"
from = "numbers"
args = { size = 64 }
[stage.batch]
run = "zpipe.stages:batch"
from = "shuffle"
args = { size = 7 }
[stage.rechunk]
run = "zpipe.stages:rechunk"
from = "batch"
args = { size = 50 }
[stage.unbatch]
run = "zpipe.stages:unbatch"
from = "rechunk"
[stage.out]
run = "zpipe.sinks:jsonl"
from = "unbatch"
args = { path = "out.jsonl" }
"""
    )
    first, second = out(play("", toml)), out(play("", toml))

    assert first == second != sorted(first)
    assert sorted(first) == list(range(300))


def test_fan_out_and_merge_give_every_arm_every_item(play):
    code = """
    def left(x):
        return [x, "left"]

    def right(x):
        return [x, "right"]
    """
    toml = """
    [stage.numbers]
    run = "stages.py:numbers"
    args = { count = 3 }
    [stage.left]
    run = "stages.py:left"
    from = "numbers"
    [stage.right]
    run = "stages.py:right"
    from = "numbers"
    [stage.out]
    run = "zpipe.sinks:jsonl"
    from = ["left", "right"]
    ordered = true
    args = { path = "out.jsonl" }
    """

    rows = out(play(code, toml))

    assert sorted(rows) == [[0, "left"], [0, "right"], [1, "left"], [1, "right"], [2, "left"], [2, "right"]]


def test_one_worker_has_all_partitions(play):
    code = """
    def parts():
        item = zp.item()
        for i in range(3):
            yield [item.partition, item.partitions, i]
    """

    report = play(code, chain("parts", "out", parts="partitions = 4\nworkers = 2\n"))

    assert sorted(out(report)) == [[p, 4, i] for p in range(4) for i in range(3)]


def test_a_source_may_be_a_class_that_is_iterable(play):
    code = """
    class Lines:
        def __init__(self, count):
            self.count = count

        def __iter__(self):
            return iter(range(self.count))

        def close(self):
            (zp.run_folder() / "closed").touch()
    """
    toml = chain("lines", "out", lines="args = { count = 3 }\n").replace("stages.py:lines", "stages.py:Lines")

    report = play(code, toml)

    assert out(report) == [0, 1, 2]
    assert (report.folder / "closed").exists()


def test_an_endless_flow_of_large_arrays_stays_in_bounds(play):
    code = """
    def arrays():
        for i in range(60):
            yield {"i": i, "x": np.full(20_000, i, np.float32), "y": np.full(3_000, i, np.float32)}

    def mean(item):
        return [item["i"], float(item["x"].mean()), float(item["y"].mean())]
    """

    assert out(play(code, chain("arrays", "mean", "out"))) == [[i, i, i] for i in range(60)]


# -- as between processes ---------------------------------------------------------------------------


def test_arrays_arrive_read_only(play):
    code = """
    def arrays():
        yield np.zeros(3)

    def change(x):
        x[0] = 1
    """

    with pytest.raises(zp.StageError, match=r"'change' at arrays:0 raised ValueError: .*read-only"):
        play(code, chain("arrays", "change"))


def test_tuples_arrive_as_lists(play):
    code = """
    def pairs():
        yield (1, 2)

    def kind(x):
        return type(x).__name__
    """

    assert out(play(code, chain("pairs", "kind", "out"))) == ["list"]


@pytest.mark.parametrize(("value", "said"), [("{1, 2}", "item is a set"), ("{'x': [print]}", r"item\['x'\]\[0\]")])
def test_an_item_that_cannot_travel_is_one_clear_line(play, value, said):
    code = f"""
    def odd(x):
        return {value}
    """

    with pytest.raises(zp.StageError, match=f"stage 'odd' at numbers:0: {said}.* an item may hold"):
        play(code, chain("numbers", "odd", "out"))


def test_what_a_stage_may_ask_is_there(play):
    code = """
    class Ask:
        def __init__(self, k):
            self.started = zp.run_folder().name

        def __call__(self, x):
            item = zp.item()
            return [item.path, item.position, item.epoch, item.attempt, dict(item.variant), item.worker,
                    self.started == zp.run_folder().name]
    """
    toml = chain("numbers", "ask", "out", numbers="args = { count = 2 }\nepochs = 2\n", ask="grid = { k = [7] }\n")

    report = play(code, toml.replace("stages.py:ask", "stages.py:Ask"))

    # The end of the first epoch takes a position of its own.
    assert out(report) == [
        ["numbers:0", 0, 0, 0, {"k": 7}, "ask/k=7-1", True],
        ["numbers:1", 1, 0, 0, {"k": 7}, "ask/k=7-1", True],
        ["numbers:3", 3, 1, 0, {"k": 7}, "ask/k=7-1", True],
        ["numbers:4", 4, 1, 0, {"k": 7}, "ask/k=7-1", True],
    ]


def test_random_numbers_are_the_same_in_every_run(play):
    code = """
    def draws(count):
        for _ in range(count):
            yield zp.rng().random()

    def more(x):
        return [x, zp.rng().random()]
    """
    toml = chain("draws", "more", "out", draws="args = { count = 5 }\n")

    first, again = (out(play(code, toml)) for _ in range(2))

    assert first == again
    assert len({x for row in first for x in row}) == 10


def test_the_environment_of_a_stage_is_in_force_in_its_code_only(play, monkeypatch):
    monkeypatch.setenv("ZP_TEST", "outer")
    code = """
    import os

    def first(x):
        return [os.environ["ZP_TEST"], os.environ.get("ZP_MORE")]

    def second(x):
        return [*x, os.environ["ZP_TEST"], os.environ.get("ZP_MORE")]
    """
    env = 'env = { ZP_TEST = "inner", ZP_MORE = "x" }\n'

    report = play(code, chain("numbers", "first", "second", "out", numbers="args = { count = 1 }\n", first=env))

    assert out(report) == [["inner", "x", "outer", None]]
    assert os.environ["ZP_TEST"] == "outer"


def test_hooks_are_called_in_their_order(play):
    code = """
    class Fit:
        def __init__(self):
            self.said = ["init"]

        def warmup(self):
            self.said.append("warmup")

        def __call__(self, x):
            self.said.append(x)

        def epoch_end(self, n):
            self.said.append(f"epoch {n}")

        def finish(self):
            self.said.append("finish")
            return self.said

        def close(self):
            (zp.run_folder() / "closed").touch()
    """
    toml = chain("numbers", "fit", "out", numbers="args = { count = 2 }\nepochs = 2\n")

    report = play(code, toml.replace("stages.py:fit", "stages.py:Fit"))

    assert out(report) == [["init", "warmup", 0, 1, "epoch 0", 0, 1, "epoch 1", "finish"]]
    assert (report.folder / "closed").exists()


def test_a_sink_that_commits_gets_paths(play):
    toml = (
        chain("numbers", numbers="args = { count = 3 }\n")
        + """
[stage.out]
run = "zpipe.sinks:sqlite"
from = "numbers"
args = { path = "out.db" }
"""
    )
    report = play("", toml)

    with sqlite3.connect(report.folder / "out.db") as db:
        assert db.execute("SELECT path, item FROM items ORDER BY path").fetchall() == [
            ("numbers:0", "0"), ("numbers:1", "1"), ("numbers:2", "2"),
        ]  # fmt: skip


def test_the_run_folder_holds_what_ran_and_what_it_said(play):
    report = play("", chain("numbers", "out"), sets=["numbers.count=4"])

    assert {"pipeline.toml", "plan.json", "meta.json", "report.json"} <= {p.name for p in report.folder.iterdir()}
    assert json.loads((report.folder / "report.json").read_text()) == json.loads(json.dumps(report.to_dict()))
    assert json.loads((report.folder / "meta.json").read_text())["sets"] == ["numbers.count=4"]
    assert len(out(report)) == 4


def test_a_pipeline_in_python_runs_inline_too(tmp_path):
    (tmp_path / "stages.py").write_text(SOURCE)
    numbers = zp.stage("stages.py:numbers")
    sink = zp.stage("zpipe.sinks:jsonl", args={"path": "out.jsonl"})(numbers)

    report = zp.Pipeline("p", sink, folder=tmp_path).run(inline=True, folder=tmp_path / "runs")

    assert out(report) == list(range(10))


# -- failures ---------------------------------------------------------------------------------------

FAILING = """
def helper(x):
    return 1 / (3 - x)

def fails(x):
    return helper(x)
"""


def state_of(tmp_path):
    (folder,) = (tmp_path / "runs").iterdir()
    return json.loads((folder / "report.json").read_text())


def test_what_the_users_code_raises_is_one_line_with_its_own_traceback(play, tmp_path):
    with pytest.raises(zp.StageError) as caught:
        play(FAILING, chain("numbers", "fails", "out"))

    error = caught.value
    assert str(error) == "stage 'fails' at numbers:3 raised ZeroDivisionError: division by zero"
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert error.detail.startswith("Traceback (most recent call last):\n")
    assert error.detail.endswith("ZeroDivisionError: division by zero\n")
    assert error.detail.count("File ") == error.detail.count("stages.py") == 2
    saved = state_of(tmp_path)
    assert (saved["state"], saved["error"], saved["detail"]) == ("failed", str(error), error.detail)


def test_a_post_mortem_begins_in_the_users_code(play):
    with pytest.raises(zp.StageError) as caught:
        play(FAILING, chain("numbers", "fails", "out"))

    frame = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)][-1]
    assert (frame.f_code.co_name, frame.f_locals["x"]) == ("helper", 3)
    assert pdb.Pdb().get_stack(None, caught.value.__traceback__)[0][-1][0] is frame


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def __init__(self): raise OSError('no model')", "raised OSError in __init__: no model"),
        ("def __init__(self): import sys; sys.exit(3)", "raised SystemExit in __init__: 3"),
        ("def warmup(self): self.model", "raised AttributeError in warmup: 'Stage' object has no attribute"),
        (
            "def warmup(self): zp.item()",
            r"failed in warmup: stage 'stage' calls zp.item\(\) before its first item",
        ),
        ("def finish(self): raise OSError('two\\nlines')", "raised OSError in finish"),
        ("def close(self): raise OSError('late')", "raised OSError in close: late"),
    ],
)
def test_a_hook_that_raises_is_named(play, tmp_path, code, said):
    toml = chain("numbers", "stage").replace("stages.py:stage", "stages.py:Stage")

    with pytest.raises(zp.StageError, match=f"stage 'stage' {said}") as caught:
        play(f"class Stage:\n    {code}\n    def __call__(self, x): pass\n", toml)

    assert "stages.py" in caught.value.detail
    assert state_of(tmp_path)["state"] == "failed"


def test_after_a_failure_all_are_closed_and_the_first_error_is_told(play, tmp_path):
    code = """
    class Closes:
        def __call__(self, x):
            return x

        def close(self):
            (zp.run_folder() / "closed").touch()
            raise OSError("close")

    def fails(x):
        raise ValueError("first")
    """
    toml = chain("numbers", "closes", "fails").replace("stages.py:closes", "stages.py:Closes")

    with pytest.raises(zp.StageError, match="raised ValueError: first"):
        play(code, toml)
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "closed").exists()


def test_ctrl_c_ends_the_run(play, tmp_path):
    code = """
    def stops(x):
        raise KeyboardInterrupt
    """

    with pytest.raises(KeyboardInterrupt):
        play(code, chain("numbers", "stops"))
    assert state_of(tmp_path)["state"] == "interrupted"


def test_nothing_is_in_force_after_a_failure(play):
    with pytest.raises(zp.StageError):
        play(FAILING, chain("numbers", "fails"))

    with pytest.raises(zp.ConfigError, match="outside of a running stage"):
        zp.item()


def test_faults_of_the_pipeline_are_all_told_and_nothing_starts(play, tmp_path):
    with pytest.raises(zp.ConfigError) as caught:
        play("", chain("numbers", "missing", "out", numbers="workres = 2\n"))

    assert len(caught.value.faults) == 2
    assert not (tmp_path / "runs").exists()
