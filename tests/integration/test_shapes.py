"""Shapes beyond the chain: named outputs, weighted splits, joins; inline, over sockets, and under kills."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_runs import balanced, both, chain
from tests.real import Place, lines, rows

SWITCH = """
[stage.numbers]
run = "stages:numbers"
args = { count = 30 }
[stage.route]
run = "stages:route"
from = "numbers"
workers = 2
[stage.odd]
run = "stages:negate"
from = "route.odd"
[stage.rest]
run = "stages:double"
from = "route"
[stage.met]
run = "zpipe.sinks:jsonl"
from = ["odd", "rest", "route.six"]
args = { path = "met.jsonl" }
ordered = true
[stage.few]
run = "zpipe.sinks:jsonl"
from = ["route.odd", "route.six"]
args = { path = "few.jsonl" }
ordered = true
"""


def routed(x: int) -> int:
    return -x if x % 2 else x if x % 3 == 0 else 2 * x


def sink(name: str, above: str) -> str:
    return (
        f'[stage.{name}]\nrun = "zpipe.sinks:jsonl"\nfrom = "{above}"\n'
        f'args = {{ path = "{name}.jsonl" }}\nordered = true\n'
    )


def test_a_switch_sends_each_item_to_the_readers_of_its_output(place: Place) -> None:
    folder = both(place, SWITCH)
    assert lines(folder / "met.jsonl") == [routed(x) for x in range(30)]
    assert lines(folder / "few.jsonl") == [x for x in range(30) if x % 2 or x % 3 == 0]


def test_children_of_one_item_go_to_several_outputs(place: Place) -> None:
    stages = chain("numbers", "sort_children") + sink("first", "sort-children.first") + sink(
        "later", "sort-children.later"
    )  # fmt: skip
    folder = both(place, stages)
    children = [[x, k] for x in range(10) for k in range(x % 4)]
    assert lines(folder / "first.jsonl") == [child for child in children if child[1] == 0]
    assert lines(folder / "later.jsonl") == [child for child in children if child[1] > 0]


def test_what_finish_makes_goes_to_a_named_output_too(place: Place) -> None:
    folder = both(place, chain("numbers", "Tally") + sink("item", "tally.item") + sink("sums", "tally.sums"))
    assert lines(folder / "item.jsonl") == [1, 3, 5, 7, 9]
    assert lines(folder / "sums.jsonl") == [[5, 5]]


def test_a_split_sends_by_weight_and_the_same_in_every_run(place: Place) -> None:
    stages = chain("numbers", numbers="args = { count = 400 }") + (
        '[stage.split]\nrun = "zpipe.stages:split"\nfrom = "numbers"\nworkers = 2\n'
        "args = { weights = { train = 3, test = 1 } }\n"
    )
    folder = both(place, stages + sink("train", "split.train") + sink("test", "split.test"))
    train, test = lines(folder / "train.jsonl"), lines(folder / "test.jsonl")
    assert sorted(train + test) == list(range(400))
    assert 250 < len(train) < 350


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("astray", "goes to output 'od', which no stage reads: did you mean 'odd'?"),
        ("unnamed", "goes to no output, but only named ones of 'unnamed' are read: return zp.out('odd', ...)"),
    ],
)
@pytest.mark.parametrize("how", [(), ("--inline",)])
def test_an_item_for_an_output_that_nobody_reads_stops_the_run(
    place: Place, stage: str, said: str, how: tuple[str, ...]
) -> None:
    done = place.run("run", place.pipeline(chain("numbers", stage) + sink("odd", f"{stage}.odd")), *how)
    assert done.code == 1
    assert [line for line in done.faults if line == f"stage {stage!r} at numbers:3: the item {said}"], done.err


def test_an_item_for_an_output_of_a_stage_without_named_ones_stops_the_run(place: Place) -> None:
    done = place.run("run", place.pipeline(chain("numbers", "astray", "out")))
    assert done.code == 1
    said = "stage 'astray' at numbers:0: the item goes to output 'odd', which no stage reads: "
    assert done.faults[-1] == f"{said}let a stage read 'astray.odd'"


def test_a_switch_is_exact_under_kills(place: Place) -> None:
    stages = SWITCH.replace("stages:numbers", "stages:slowly").replace("count = 30", "count = 3000")
    met, few = stages.split("[stage.few]")
    few = few.replace("jsonl", "sqlite", 1).replace("few.jsonl", "few.db")
    done = place.run("run", place.pipeline(f"{met}[stage.few]{few}"), "--chaos", "0.3", "--seed", "3")
    assert done.code == 0, done.err
    assert lines(done.folder / "met.jsonl") == [routed(x) for x in range(3000)]
    assert sorted(x for _, x in rows(done.folder / "few.db")) == [x for x in range(3000) if x % 2 or x % 3 == 0]
    assert sum(_report(done.folder)["kills"].values()) > 0
    balanced(done.folder)


def _report(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "report.json").read_text()))


DIAMOND = """
[stage.numbers]
run = "stages:numbers"
args = { count = 30 }
partitions = 1
[stage.left]
run = "stages:double"
from = "numbers"
workers = 2
[stage.right]
run = "stages:unless_seventh"
from = "numbers"
[stage.both]
run = "stages:add"
join = ["right", "left"]
args = { scale = 10 }
workers = 2
[stage.out]
run = "zpipe.sinks:jsonl"
from = "both"
args = { path = "out.jsonl" }
ordered = true
"""


def diamond(count: int) -> list[list[int]]:
    return [[-x, 2 * x, 10 * x] for x in range(count) if x % 7]


def test_arms_are_joined_and_what_one_dropped_is_dropped(place: Place) -> None:
    folder = both(place, DIAMOND)
    assert lines(folder / "out.jsonl") == diamond(30)
    counted = {s["name"]: (s["in"], s["done"], s["dropped"], s["out"]) for s in _report(folder)["stages"]}
    assert counted["both-join"] == (55, 50, 5, 25)
    assert counted["both"] == (25, 25, 0, 25)


def test_an_item_without_a_partner_may_stop_the_run(place: Place) -> None:
    stages = DIAMOND.replace("scale = 10 }", 'scale = 10 }\nunmatched = "stop"')
    done = place.run("run", place.pipeline(stages))
    assert done.code == 1
    assert "of one arm found no partner: another arm dropped it" in done.faults[-1]


def test_a_diamond_is_exact_under_kills(place: Place) -> None:
    stages = DIAMOND.replace("stages:numbers", "stages:slowly").replace("count = 30", "count = 2000")
    done = place.run("run", place.pipeline(stages), "--chaos", "0.3", "--seed", "5")
    assert done.code == 0, done.err
    assert lines(done.folder / "out.jsonl") == diamond(2000)
    assert sum(_report(done.folder)["kills"].values()) > 0
    balanced(done.folder)


@pytest.mark.parametrize("how", [(), ("--inline",)])
def test_what_goes_to_an_output_whose_readers_are_cut_off_is_dropped(place: Place, how: tuple[str, ...]) -> None:
    stages = SWITCH.partition("[stage.met]")[0] + sink("out", "odd") + sink("six", "route.six")
    done = place.run("run", place.pipeline(stages), "--until", "out", *how)
    assert done.code == 0, done.err
    assert lines(done.folder / "out.jsonl") == [-x for x in range(30) if x % 2]
    balanced(done.folder)


def test_a_pipeline_may_be_cut_below_a_split(place: Place) -> None:
    stages = chain("numbers") + (
        '[stage.split]\nrun = "zpipe.stages:split"\nfrom = "numbers"\nargs = { weights = { a = 1, b = 1 } }\n'
    )
    pipeline = place.pipeline(stages + sink("one", "split.a") + sink("two", "split.b"))
    whole, cut = place.run("run", pipeline), place.run("run", pipeline, "--until", "two")
    assert (whole.code, cut.code) == (0, 0), cut.err
    assert lines(cut.folder / "two.jsonl") == lines(whole.folder / "two.jsonl")
    assert not (cut.folder / "one.jsonl").exists()


POSITIONS = """
[stage.numbers]
run = "stages:numbers"
args = { count = 30 }
epochs = 2
[stage.others]
run = "stages:numbers"
args = { count = 33 }
epochs = 2
[stage.left]
run = "stages:double"
from = "numbers"
workers = 2
[stage.right]
run = "stages:unless_seventh"
from = "others"
[stage.both]
run = "stages:add"
join = ["right", "left"]
on = "position"
workers = 2
[stage.out]
run = "zpipe.sinks:jsonl"
from = "both"
args = { path = "out.jsonl" }
ordered = true
"""


def test_independent_sources_are_joined_on_the_position_in_each_epoch(place: Place) -> None:
    folder = both(place, POSITIONS)
    assert lines(folder / "out.jsonl") == 2 * [[-x, 2 * x, x] for x in range(30) if x % 7]
    counted = {s["name"]: (s["in"], s["done"], s["dropped"], s["out"]) for s in _report(folder)["stages"]}
    assert counted["both-join"] == (60 + 56, 2 * 50, 16, 50)


FIELDS = """
[stage.numbers]
run = "stages:numbers"
args = { count = 1000 }
[stage.others]
run = "stages:numbers"
args = { count = 1000 }
[stage.left]
run = "stages:tagged"
from = "numbers"
args = { count = 1000, skip = 3 }
workers = 2
[stage.right]
run = "stages:tagged"
from = "others"
args = { count = 1009 }
[stage.both]
run = "stages:values"
join = ["left", "right"]
on = "field:id"
within = 2000
workers = 2
[stage.out]
run = "zpipe.sinks:sqlite"
from = "both"
args = { path = "out.db" }
"""


def pairs(count: int) -> list[list[int]]:
    left = {x * 7 % count: x for x in range(count) if x % 3}
    right = {x * 7 % (count + 9): x for x in range(count)}
    return sorted([name, left[name], right[name]] for name in left.keys() & right.keys())


def test_independent_sources_are_joined_on_a_field(place: Place) -> None:
    folder = both(place, FIELDS)
    assert sorted(x for _, x in rows(folder / "out.db")) == pairs(1000)


def test_a_join_of_sources_is_exact_under_kills(place: Place) -> None:
    stages = FIELDS.replace("skip = 3", "skip = 3, slow_s = 0.002").replace("1000", "3000").replace("1009", "3009")
    done = place.run("run", place.pipeline(stages), "--set", "both.within=3000", "--chaos", "0.3", "--seed", "5")
    assert done.code == 0, done.err
    assert sorted(x for _, x in rows(done.folder / "out.db")) == pairs(3000)
    assert sum(_report(done.folder)["kills"].values()) > 0
    balanced(done.folder)


BLOCKS = """
[stage.numbers]
run = "stages:numbers"
args = { count = 300 }
[stage.doubles]
run = "stages:doubles"
from = "numbers"
batch_size = 10
workers = 2
[stage.sums]
run = "stages:sums"
join = ["numbers", "doubles"]
batch_size = 4
max_wait_s = 0.001
[stage.out]
run = "zpipe.sinks:jsonl"
from = "sums"
args = { path = "out.jsonl" }
ordered = true
"""


def thrice(count: int) -> list[int]:
    return [3 * x for x in range(count) if x % 14 != 7]


def test_a_call_takes_a_block_and_every_item_keeps_its_path(place: Place) -> None:
    folder = both(place, BLOCKS)
    assert lines(folder / "out.jsonl") == thrice(300)
    counted = {s["name"]: (s["in"], s["done"], s["dropped"]) for s in _report(folder)["stages"]}
    assert counted["doubles"] == (300, 279, 21)


def test_a_block_waits_no_longer_than_it_may_for_items_that_do_not_come(place: Place) -> None:
    done = place.run("run", place.pipeline(BLOCKS.replace("300", "3")), "--set", "doubles.max_wait_s=0.01")
    assert done.code == 0, done.err
    assert lines(done.folder / "out.jsonl") == thrice(3)


def test_blocks_are_exact_under_kills(place: Place) -> None:
    stages = BLOCKS.replace("stages:numbers", "stages:slowly").replace("count = 300", "count = 3000")
    done = place.run("run", place.pipeline(stages), "--chaos", "0.3", "--seed", "9")
    assert done.code == 0, done.err
    assert lines(done.folder / "out.jsonl") == thrice(3000)
    assert sum(_report(done.folder)["kills"].values()) > 0


@pytest.mark.parametrize("how", [(), ("--inline",)])
def test_a_block_with_too_few_outputs_stops_the_run(place: Place, how: tuple[str, ...]) -> None:
    done = place.run("run", place.pipeline(BLOCKS.replace("stages:doubles", "stages:short")), *how)
    assert done.code == 1
    where = r"stage 'doubles' at numbers>doubles:\d+( and \d+ more items)?"
    said = re.search(where + r": returned \d outputs: return one for each item", done.err)
    assert said, done.err


ARRIVAL = """
[stage.numbers]
run = "stages:numbers"
args = { count = 1000 }
[stage.batch]
run = "zpipe.stages:batch"
from = "numbers"
args = { size = 32, order = "arrival" }
max_wait_s = 0.01
workers = 2
[stage.plain]
run = "stages:plain"
from = "batch"
[stage.out]
run = "zpipe.sinks:jsonl"
from = "plain"
args = { path = "out.jsonl" }
"""


@pytest.mark.parametrize("how", [(), ("--inline",)])
def test_groups_of_arrival_hold_every_item_once(place: Place, how: tuple[str, ...]) -> None:
    done = place.run("run", place.pipeline(ARRIVAL), *how)
    assert done.code == 0, done.err
    groups = lines(done.folder / "out.jsonl")
    assert sorted(x for group in groups for x in group) == list(range(1000))
    assert max(map(len, groups)) == 32 and len(groups) < 200


LATEST = """
[stage.numbers]
run = "stages:numbers"
args = { count = 20000 }
[stage.double]
run = "stages:double"
from = "numbers"
workers = 2
[stage.all]
run = "zpipe.sinks:jsonl"
from = "double"
args = { path = "all.jsonl" }
[stage.stall]
run = "stages:stall"
from = { stage = "double", keep = "latest" }
args = { file = "all.jsonl", size = 20000 }
[stage.last]
run = "zpipe.sinks:jsonl"
from = "stall"
args = { path = "last.jsonl" }
"""


def test_a_stalled_reader_of_the_latest_holds_up_nobody_and_gets_the_last_item(place: Place) -> None:
    done = place.run("run", place.pipeline(LATEST))
    assert done.code == 0, done.err
    assert sorted(lines(done.folder / "all.jsonl")) == [2 * x for x in range(20000)]
    last = lines(done.folder / "last.jsonl")
    assert 39998 in last and len(last) < 20
    assert len(last) == len(set(last)) and set(last) <= set(range(0, 40000, 2))
    counted = {stage["name"]: stage for stage in _report(done.folder)["stages"]}
    assert counted["double"]["skipped"] == 20000 - len(last) == 20000 - counted["stall"]["in"]
    assert f"skipped: {20000 - len(last):,} outputs of double, for readers that keep only the latest" in done.out
    balanced(done.folder)


def test_inline_a_reader_of_the_latest_gets_every_item(place: Place) -> None:
    done = place.run("run", place.pipeline(LATEST.replace("20000", "300")), "--set", "stall.size=0", "--inline")
    assert done.code == 0, done.err
    assert lines(done.folder / "last.jsonl") == [2 * x for x in range(300)]


def test_a_stalled_reader_of_the_latest_gets_the_last_item_under_kills(place: Place) -> None:
    stages = LATEST.replace("stages:numbers", "stages:slowly").replace("20000", "3000")
    done = place.run("run", place.pipeline(stages), "--chaos", "0.3", "--seed", "7")
    assert done.code == 0, done.err
    assert sorted(lines(done.folder / "all.jsonl")) == [2 * x for x in range(3000)]
    last = lines(done.folder / "last.jsonl")
    assert 5998 in last and len(last) == len(set(last)) < 1000
    assert sum(_report(done.folder)["kills"].values()) > 0
