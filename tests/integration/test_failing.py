"""Items that fail: retried, skipped, kept as dead letters, or the end of the run; by errors, and by deaths."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real import Done, Place, lines, rows

SOURCE = '[stage.numbers]\nrun = "failing:numbers"\n'
OUT = '[stage.out]\nrun = "zpipe.sinks:jsonl"\nargs = { path = "out.jsonl" }\n'


@pytest.fixture
def ill(place: Place) -> Iterator[Place]:
    """A folder with the stages of `failing.py`."""
    shutil.copy(Path(__file__).with_name("failing.py"), place.folder)
    yield place


def pipeline(place: Place, stage: str, *, run: str = "breaks", args: str = "", ordered: bool = True) -> str:
    """Write a pipeline with one stage whose items fail."""
    order = "ordered = true\n" if ordered else ""
    return place.pipeline(
        f'{SOURCE}[stage.ill]\nrun = "failing:{run}"\nfrom = "numbers"\nargs = {{ {args} }}\n{stage}\n'
        f'{OUT}{order}from = "ill"\n'
    )  # fmt: skip


def stage_of(done: Done, name: str = "ill") -> dict[str, Any]:
    report = json.loads((done.folder / "report.json").read_text())
    return next(stage for stage in report["stages"] if stage["name"] == name)


def letters(place: Place, *argv: str) -> list[dict[str, Any]]:
    done = place.run("dead", "ls", "--json", *argv)
    return list(json.loads(done.out)) if done.code == 0 else []


@pytest.mark.parametrize("inline", [(), ("--inline",)])
def test_what_fails_for_a_while_is_tried_again(ill: Place, inline: tuple[str, ...]) -> None:
    done = ill.run("run", pipeline(ill, "retries = 3\nworkers = 2", args="at = [3, 50], until = 3"), *inline)
    assert done.code == 0, done.err
    assert lines(done.folder / "out.jsonl") == list(range(100))


@pytest.mark.parametrize("inline", [(), ("--inline",)])
def test_what_fails_for_good_is_a_dead_letter_and_the_rest_goes_on(ill: Place, inline: tuple[str, ...]) -> None:
    file = pipeline(ill, 'retries = 2\non_error = "dead-letter"', args="at = [3, 50]")
    done = ill.run("run", file, *inline)
    assert done.code == 3, done.err
    assert lines(done.folder / "out.jsonl") == [x for x in range(100) if x not in (3, 50)]
    assert {key: stage_of(done)[key] for key in ("in", "done", "dead")} == {"in": 100, "done": 98, "dead": 2}
    assert "dead letters: 2" in done.out
    found = letters(ill)
    assert [(row["path"], row["tries"], row["error"]) for row in found] == [
        ("numbers:3", 3, "raised ValueError: cannot take 3"),
        ("numbers:50", 3, "raised ValueError: cannot take 50"),
    ]
    assert 'raise ValueError(f"cannot take {what}")' in found[0]["detail"]


@pytest.mark.parametrize("inline", [(), ("--inline",)])
def test_what_is_skipped_is_counted_and_said(ill: Place, inline: tuple[str, ...]) -> None:
    done = ill.run("run", pipeline(ill, 'on_error = "skip"', args="at = [3, 50]"), *inline)
    assert done.code == 0, done.err
    assert lines(done.folder / "out.jsonl") == [x for x in range(100) if x not in (3, 50)]
    assert {key: stage_of(done)[key] for key in ("in", "dropped", "errors")} == {"in": 100, "dropped": 2, "errors": 2}
    assert "errors: 2 items of ill were skipped" in done.out


@pytest.mark.parametrize("inline", [(), ("--inline",)])
def test_by_default_the_first_error_ends_the_run(ill: Place, inline: tuple[str, ...]) -> None:
    done = ill.run("run", pipeline(ill, "", args="at = [3]"), *inline)
    assert (done.code, done.faults[-1]) == (1, "stage 'ill' at numbers:3 raised ValueError: cannot take 3")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("segfault", "killed by SIGSEGV"),
        ("exit", "exited 7"),
        ("kill", "killed by SIGKILL"),
        ("hang", "took longer than timeout = 0.5 s"),
    ],
)
def test_an_item_that_kills_its_workers_is_blamed_alone(ill: Place, how: str, said: str) -> None:
    options = 'retries = 1\non_error = "dead-letter"\nworkers = 3\ntimeout = 0.5'
    done = ill.run("run", pipeline(ill, options, args=f'at = [40], how = "{how}"'))
    assert done.code == 3, done.err
    assert lines(done.folder / "out.jsonl") == [x for x in range(100) if x != 40]
    (found,) = letters(ill)
    deaths = found["deaths"]  # one more where a worker had it at hand before it heard of the others
    assert (found["path"], found["tries"]) == ("numbers:40", 0) and deaths in (2, 3)
    assert found["error"] == f"its worker died {deaths} times while running it, the last time: {said}"
    assert "about to break" in found["detail"]
    assert how in ("exit", "kill") or "in _break" in found["detail"]  # where it crashed, or was stopped


def test_by_default_an_item_may_kill_four_workers_and_then_ends_the_run(ill: Place) -> None:
    done = ill.run("run", pipeline(ill, "workers = 2", args='at = [40], how = "segfault"'))
    assert done.code == 1
    assert done.faults[-1] == (
        "stage 'ill' at numbers:40: its worker died 4 times while running it, the last time: killed by SIGSEGV: "
        'mend its code, or set on_error = "dead-letter" to go on without such items'
    )
    assert "about to break" in done.err


def test_leaving_by_sys_exit_is_an_error_like_others(ill: Place) -> None:
    file = pipeline(ill, 'on_error = "dead-letter"', args='at = [3], how = "sys.exit"')
    assert ill.run("run", file).code == 3
    assert [row["error"] for row in letters(ill)] == ["raised SystemExit: 7"]


@pytest.mark.parametrize("how", ["raise", "segfault"])
def test_of_a_block_the_one_that_fails_is_given_up(ill: Place, how: str) -> None:
    options = 'batch_size = 16\non_error = "dead-letter"\nretries = 0\nworkers = 2'
    done = ill.run("run", pipeline(ill, options, run="breaks_in_blocks", args=f'at = [40], how = "{how}"'))
    assert done.code == 3, done.err
    assert lines(done.folder / "out.jsonl") == [10 * x for x in range(100) if x != 40]
    assert [row["path"] for row in letters(ill)] == ["numbers:40"]


@pytest.mark.parametrize("how", ["raise", "segfault"])
def test_of_a_split_nothing_more_comes_and_order_goes_on(ill: Place, how: str) -> None:
    options = 'on_error = "dead-letter"\nretries = 1\nworkers = 2'
    done = ill.run("run", pipeline(ill, options, run="parts", args=f'at = [40], how = "{how}"'))
    assert done.code == 3, done.err
    found = [pair for pair in lines(done.folder / "out.jsonl") if pair[0] != 40]
    assert found == [[x, i] for x in range(100) if x != 40 for i in (0, 1)]
    assert [row["path"] for row in letters(ill)] == ["numbers:40"]


def test_of_what_a_sink_refuses_the_rest_is_committed(ill: Place) -> None:
    file = ill.pipeline(
        f'{SOURCE}[stage.table]\nrun = "failing:Table"\nargs = {{ at = [3, 50] }}\nfrom = "numbers"\n'
        'on_error = "dead-letter"\nretries = 1\n'
    )
    done = ill.run("run", file)
    assert done.code == 3, done.err
    rows = (done.folder / "table.txt").read_text().split()[1::2]
    assert sorted(map(int, rows)) == [x for x in range(100) if x not in (3, 50)]
    assert [(row["path"], row["error"]) for row in letters(ill)] == [
        ("numbers:3", "raised ValueError: not [3]"),
        ("numbers:50", "raised ValueError: not [50]"),
    ]


def test_a_dead_letter_is_shown_with_its_item_and_where_it_failed(ill: Place) -> None:
    done = ill.run("run", pipeline(ill, 'on_error = "dead-letter"', args="at = [3, 50]"))
    assert "ill: numbers:3 is a dead letter: raised ValueError: cannot take 3" in done.err
    listed = ill.run("dead", "ls")
    assert listed.folder == done.folder
    shown = ill.run("dead", "show", "numbers:50").out.splitlines()
    assert shown[1:3] == ["tries 1, deaths 0: raised ValueError: cannot take 50", "item: 50"]
    assert shown[-1] == "ValueError: cannot take 50"
    assert json.loads(ill.run("dead", "show", "numbers:50", "--json").out)["item"] == 50


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (("show", "numbers:5"), "there is no dead letter 'numbers:5': did you mean 'numbers:50'?"),
        (("ls", "--stage", "il"), "has no dead letters of 'il': did you mean 'ill'?"),
        (("ls", "--run", "nowhere"), "nowhere is no run folder: name one with --run FOLDER"),
        (("ls", "--runs", "empty"), "no run in empty has dead letters"),
    ],
)
def test_what_is_not_there_is_one_line(ill: Place, argv: tuple[str, ...], line: str) -> None:
    ill.run("run", pipeline(ill, 'on_error = "dead-letter"', args="at = [50]"))
    done = ill.run("dead", *argv)
    assert (done.code, len(done.faults)) == (2, 1)
    assert line in done.faults[0]


def joined(place: Place, how: str) -> str:
    """Write a pipeline in which the items of two arms meet at the stage that fails."""
    return place.pipeline(
        f'{SOURCE}args = {{ count = 1000 }}\n[stage.left]\nrun = "failing:same"\nfrom = "numbers"\n'
        '[stage.right]\nrun = "failing:same"\nfrom = "numbers"\n'
        f'[stage.ill]\nrun = "failing:both"\njoin = ["left", "right"]\nargs = {{ at = [500], how = "{how}" }}\n'
        f'workers = 4\nretries = 2\non_error = "dead-letter"\n{OUT}from = "ill"\n'
    )  # fmt: skip


def test_of_a_thousand_joined_items_one_kills_its_workers_and_is_delivered_after_the_fix(ill: Place) -> None:
    done = ill.run("run", joined(ill, "segfault"))
    assert done.code == 3, done.err
    out = done.folder / "out.jsonl"
    assert sorted(lines(out)) == [[x, x] for x in range(1000) if x != 500]
    ((path, deaths),) = [(row["path"], row["deaths"]) for row in letters(ill)]
    assert path == "numbers>left:500"
    assert deaths in (3, 4)  # a worker that gets it before it hears of the third dies of it too

    again = ill.run("dead", "retry")
    assert again.code == 3
    assert "0 of 1 dead letters delivered, 1 left" in again.out

    (ill.folder / "fixed").touch()
    again = ill.run("dead", "retry")
    assert again.code == 0, again.err
    assert "1 of 1 dead letters delivered, 0 left" in again.out
    assert lines(out)[999:] == [[500, 500]]
    assert ill.run("dead", "ls").code == 2


@pytest.mark.parametrize("run", ["breaks", "parts"])
def test_what_goes_again_and_again_is_committed_once(ill: Place, run: str) -> None:
    done = ill.run("run", pipeline(ill, 'on_error = "dead-letter"', run=run, args="at = [3, 50]"))
    kept = {file: file.read_bytes() for file in done.folder.rglob("*.letter")}
    assert len(kept) == 2
    (ill.folder / "fixed").touch()
    assert ill.run("dead", "retry", "numbers:50").code == 3
    for file, data in kept.items():  # as if a retry had been killed before it forgot what it had delivered
        file.write_bytes(data)
    assert ill.run("dead", "retry").code == 0
    found = lines(done.folder / "out.jsonl")
    everything = [[x, i] for x in range(100) for i in (0, 1)] if run == "parts" else list(range(100))
    assert sorted(found) == everything


def test_items_that_go_again_are_what_they_would_have_been(ill: Place) -> None:
    """Of a grid, below a split, over two epochs, to two outputs: paths, epochs and random numbers are the same."""
    file = ill.pipeline(
        f'{SOURCE}args = {{ count = 20 }}\nepochs = 2\n[stage.parts]\nrun = "failing:parts"\nfrom = "numbers"\n'
        '[stage.ill]\nrun = "failing:Scores"\nfrom = "parts"\nargs = { at = [5, 8] }\ngrid = { k = [1, 2] }\n'
        'on_error = "dead-letter"\n'
        '[stage.odd]\nrun = "zpipe.sinks:sqlite"\nfrom = "ill.odd"\nargs = { path = "out.db", table = "odd" }\n'
        '[stage.all]\nrun = "zpipe.sinks:sqlite"\nfrom = ["ill.odd", "ill.even"]\nworkers = 2\n'
        'args = { path = "out.db", table = "every" }\n'
    )
    done = ill.run("run", file)
    assert done.code == 3, done.err
    assert len(letters(ill)) == 8
    (ill.folder / "fixed").touch()
    again = ill.run("dead", "retry")
    assert again.code == 0, again.err
    assert "8 of 8 dead letters delivered" in again.out
    whole = ill.run("run", file)
    assert whole.code == 0, whole.err
    for table in ("odd", "every"):
        assert rows(done.folder / "out.db", table) == rows(whole.folder / "out.db", table)


def test_letters_above_what_has_ended_with_its_state_do_not_go_again(ill: Place) -> None:
    (ill.folder / "fit.py").write_text(
        "class Fit:\n    n = 0\n    def __call__(self, x): self.n += 1\n    def state(self): return self.n\n"
        "    def restore(self, n): self.n = n\n    def finish(self): yield self.n\n"
    )
    file = ill.pipeline(
        f'{SOURCE}[stage.ill]\nrun = "failing:breaks"\nfrom = "numbers"\nargs = {{ at = [3] }}\n'
        f'on_error = "dead-letter"\n[stage.fit]\nrun = "fit:Fit"\nfrom = "ill"\n{OUT}from = "fit"\n'
    )
    assert ill.run("run", file).code == 3
    done = ill.run("dead", "retry")
    assert (done.code, done.faults) == (2, [
        "letters of 'ill' cannot go again: 'fit' has finish() and has ended with what it knew: run the pipeline again"
    ])  # fmt: skip


def test_letters_above_a_join_do_not_go_again(ill: Place) -> None:
    file = ill.pipeline(
        f'{SOURCE}[stage.ill]\nrun = "failing:breaks"\nfrom = "numbers"\nargs = {{ at = [3] }}\n'
        'on_error = "dead-letter"\n[stage.right]\nrun = "failing:same"\nfrom = "numbers"\n'
        f'[stage.both]\nrun = "failing:both"\njoin = ["ill", "right"]\n{OUT}from = "both"\n'
    )
    assert ill.run("run", file).code == 3
    done = ill.run("dead", "retry")
    assert (done.code, len(done.faults)) == (2, 1)
    assert "'both-join' joins 'ill' and 'right'" in done.faults[0]


def test_under_kills_each_item_is_done_or_a_dead_letter(ill: Place) -> None:
    options = 'on_error = "dead-letter"\nretries = 1\nworkers = 3'
    file = pipeline(ill, options, args='at = [3, 40, 41, 77], how = "segfault"')
    done = ill.run("run", file, "--chaos", "0.3", "--seed", "5", "--set", "numbers.args.count=2000")
    assert done.code == 3, done.err
    assert lines(done.folder / "out.jsonl") == [x for x in range(2000) if x not in (3, 40, 41, 77)]
    assert [row["path"] for row in letters(ill)] == [f"numbers:{x}" for x in (3, 40, 41, 77)]
