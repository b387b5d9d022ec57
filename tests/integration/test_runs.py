"""Small pipelines run for real: a registry, a process for each worker, and sockets between them.

What comes out is written out here, and is also what the same pipeline gives inline.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.real import Place, lines, rows, wait_until

OUT = '{ path = "out.jsonl" }'


def chain(*stages: str, **tables: str) -> str:
    """Write stages that read each other as TOML; a keyword holds more lines for its stage, out is ordered."""
    text, above = "", ""
    for stage in stages:
        built_in = stage in ("batch", "unbatch", "shuffle", "rechunk")
        run = f"zpipe.stages:{stage}" if built_in else f"stages:{stage}"
        if stage == "out":
            run, more = "zpipe.sinks:jsonl", f"args = {OUT}\nordered = true"
        else:
            more = ""
        name = stage.lower().replace("_", "-")
        text += f'[stage.{name}]\nrun = "{run}"\n{more}\n{tables.get(stage, "")}\n'
        text += f'from = "{above}"\n' if above else ""
        above = name
    return text


def out_of(folder: Path) -> dict[str, Any]:
    """Return what the sinks of a run have written, by file."""
    files = {path.name: lines(path) for path in folder.glob("*.jsonl") if path.name != "events.jsonl"}
    tables = {path.name: rows(path) for path in folder.glob("*.db") if path.name != "run.db"}
    return {**files, **tables}


def both(place: Place, stages: str) -> Path:
    """Run a pipeline inline and for real; return the folder of the latter."""
    pipeline = place.pipeline(stages)
    inline, real = place.run("run", pipeline, "--inline"), place.run("run", pipeline)
    assert (inline.code, inline.err) == (0, "")
    assert real.code == 0, real.err
    assert out_of(real.folder) == out_of(inline.folder)
    assert any(out_of(real.folder).values())
    balanced(real.folder)
    return real.folder


def balanced(folder: Path) -> None:
    """Check that every stage has accounted for what it took."""
    report = json.loads((folder / "report.json").read_text())
    assert report["ok"]
    for stage in report["stages"]:
        assert stage["in"] == stage["done"] + stage["dropped"] + stage["dead"], stage


PIPELINES = {
    "a chain": (
        chain("numbers", "double", "out", numbers="args = { count = 6 }"),
        [0, 2, 4, 6, 8, 10],
    ),
    "dropped items": (
        chain("numbers", "odd", "out", odd="workers = 2"),
        [1, 3, 5, 7, 9],
    ),
    "one to many": (
        chain("numbers", "thrice", "out", numbers="args = { count = 7 }", thrice="workers = 2"),
        [[1, 0], [2, 0], [2, 1], [3, 0], [3, 1], [3, 2], [5, 0], [6, 0], [6, 1]],
    ),
    "an ordered sink behind workers that take random times": (
        chain("numbers", "jitter", "out", numbers="args = { count = 100 }", jitter="workers = 3"),
        list(range(100)),
    ),
    "batches of numbers": (
        chain("numbers", "batch", "plain", "out", batch="args = { size = 4 }"),
        [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]],
    ),
    "batches without their rest": (
        chain("numbers", "jitter", "batch", "unbatch", "out", jitter="workers = 2",
              batch="args = { size = 4, drop_last = true }"),
        [0, 1, 2, 3, 4, 5, 6, 7],
    ),
    "batches of dicts": (
        chain("rows", "batch", "flat", "out", rows="args = { count = 2 }", batch="args = { size = 2 }"),
        [{"x": ["float32", [[[0.0] * 3] * 2, [[1.0] * 3] * 2]], "name": ["row 0", "row 1"]}],
    ),
    "batches cut anew": (
        chain("numbers", "batch", "rechunk", "unbatch", "out", batch="args = { size = 3 }",
              rechunk="args = { size = 4 }"),
        list(range(10)),
    ),
    "two partitions with two epochs": (
        chain("halves", "double", "out", halves="args = { count = 5 }\npartitions = 2\nworkers = 2\nepochs = 2"),
        [0, 2, 4, 6, 8, 0, 2, 4, 6, 8],
    ),
    "epochs in one source": (
        chain("numbers", "out", numbers='args = { count = 3 }\nepochs = 3\nreplay = "seek"'),
        [0, 1, 2] * 3,
    ),
    "a class that adds up": (
        chain("numbers", "Sum", "out", numbers="args = { count = 3 }\nepochs = 2", Sum="checkpoint = 2"),
        None,
    ),
    "what a stage knows of its item": (
        chain("halves", "draw", "out", halves="args = { count = 6 }\npartitions = 2\nepochs = 2",
              draw="workers = 2"),
        None,
    ),
    "shuffled blocks": (
        chain("numbers", "jitter", "shuffle", "out", numbers="args = { count = 20 }", jitter="workers = 2",
              shuffle="args = { size = 8, seed = 5 }"),
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PIPELINES)
def test_the_processes_give_what_one_thread_gives(place: Place, what: str) -> None:
    stages, expected = PIPELINES[what]
    folder = both(place, stages)
    if expected is not None:
        assert lines(folder / "out.jsonl") == expected


def test_every_block_is_shuffled_within_itself(place: Place) -> None:
    folder = both(place, PIPELINES["shuffled blocks"][0])
    found = lines(folder / "out.jsonl")
    assert [sorted(found[:8]), sorted(found[8:16]), sorted(found[16:])] == [
        list(range(8)),
        list(range(8, 16)),
        list(range(16, 20)),
    ]
    assert found != list(range(20))


def test_each_reader_of_a_stage_gets_every_item_and_a_sink_may_read_several(place: Place) -> None:
    folder = both(
        place,
        chain("numbers", "double", numbers="args = { count = 4 }")
        + """
        [stage.negate]
        run = "stages:negate"
        from = "numbers"
        workers = 2
        [stage.both]
        run = "zpipe.sinks:jsonl"
        from = ["double", "negate"]
        args = { path = "both.jsonl" }
        ordered = true
        [stage.table]
        run = "zpipe.sinks:sqlite"
        from = "double"
        workers = 2
        args = { path = "out.db" }
        """,
    )
    assert sorted(lines(folder / "both.jsonl")) == [-3, -2, -1, 0, 0, 2, 4, 6]
    assert [item for _, item in rows(folder / "out.db")] == [0, 2, 4, 6]


def test_each_variant_of_a_grid_gets_every_item(place: Place) -> None:
    folder = both(
        place,
        chain("numbers", "scale", numbers="args = { count = 3 }", scale="grid = { by = [1, 10] }")
        + '[stage.out]\nrun = "zpipe.sinks:sqlite"\nfrom = "scale"\nargs = { path = "out.db" }',
    )
    assert sorted(item for _, item in rows(folder / "out.db")) == [
        [1, 0],
        [1, 1],
        [1, 2],
        [10, 0],
        [10, 10],
        [10, 20],
    ]


def test_sums_are_told_at_the_end_of_each_epoch_and_of_the_run(place: Place) -> None:
    folder = both(place, PIPELINES["a class that adds up"][0])
    found = lines(folder / "out.jsonl")
    assert [line for line in found if line[0] == "item"] == [["item", x] for x in (0, 1, 3, 3, 4, 6)]
    assert [line for line in found if line[0] == "epoch"] == [["epoch", 0, 3], ["epoch", 1, 6]]
    assert [line for line in found if line[0] == "sum"] == [["sum", 6]]
    assert found[-1] == ["sum", 6]


def test_hooks_are_called_once_and_in_order(place: Place) -> None:
    folder = both(place, chain("numbers", "Logged", "out", numbers="args = { count = 2 }"))
    hooks = (folder / "hooks.txt").read_text().splitlines()
    assert hooks == ["init", "warmup", "call 0", "call 1", "close"]


def test_a_sink_of_its_own_making_is_given_paths_and_epochs(place: Place) -> None:
    done = place.run("run", place.pipeline(chain("numbers", "Files", numbers="args = { count = 2 }\nepochs = 2")))
    assert done.code == 0, done.err
    found = {path.name: path.read_text() for path in done.folder.glob("numbers:*.txt")}
    # The end of an epoch takes a position of its own.
    assert found == {
        "numbers:0.txt": "0 0",
        "numbers:1.txt": "0 1",
        "numbers:3.txt": "1 0",
        "numbers:4.txt": "1 1",
    }


def test_a_class_that_saves_its_state_goes_on_after_a_death(place: Place) -> None:
    stages = chain("numbers", "Steady", "out", numbers="args = { count = 1000 }", Steady="checkpoint = 100")
    done = place.run("run", place.pipeline(stages))
    assert done.code == 0, done.err
    assert lines(done.folder / "out.jsonl") == [sum(range(1000))]
    balanced(done.folder)


def test_the_pipeline_in_python_gives_what_its_file_gives(place: Place) -> None:
    code = """
    import zpipe as zp
    from stages import numbers, thrice

    def pipeline():
        x = zp.stage(numbers, args={"count": 7})
        x = zp.stage(thrice, workers=2)(x)
        x = zp.stage("zpipe.sinks:jsonl", name="out", args={"path": "out.jsonl"}, ordered=True)(x)
        return zp.Pipeline("t", x)

    if __name__ == "__main__":
        print(f"run folder: {pipeline().run().folder}")
    """
    (place.folder / "p.py").write_text("\n".join(line[4:] for line in code.splitlines()))
    program = place.start_python("p.py").wait()
    assert program.code == 0, program.err
    command = place.run("run", "p.py")
    file = place.run("run", place.pipeline(PIPELINES["one to many"][0]))
    assert out_of(program.folder) == out_of(command.folder) == out_of(file.folder) != {}


def test_items_travel_over_tcp_alone(place: Place) -> None:
    stages = chain("rows", "batch", "flat", "out", rows="args = { count = 40 }", batch="args = { size = 40 }")
    pipeline = place.pipeline(stages)
    tcp, inline = place.run("run", pipeline, "--transport", "tcp"), place.run("run", pipeline, "--inline")
    assert tcp.code == 0, tcp.err
    assert out_of(tcp.folder) == out_of(inline.folder)


def test_workers_join_a_registry_by_its_address(place: Place) -> None:
    pipeline = place.pipeline(chain("numbers", "double", "out", numbers="args = { count = 500 }"))
    registry = place.start("registry", pipeline)
    address = registry.says("registry tcp://").split()[2].rstrip(",")
    workers = [place.start("worker", stage, "--registry", address) for stage in ("out", "double")]
    workers.append(place.start("worker", "double", "--registry", address, "-n", "2"))
    wait_until(lambda: [row["state"] for row in place.ps()["workers"]] == ["live"] * 4)  # or all may be over before
    workers.append(place.start("worker", "numbers", "--registry", address))
    done = registry.wait()
    assert done.code == 0, done.err
    assert [worker.wait().code for worker in workers] == [0, 0, 0, 0]
    assert lines(done.folder / "out.jsonl") == [2 * k for k in range(500)]
