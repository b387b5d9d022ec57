"""The plan: what a pipeline becomes when everything in it is numbered."""

import json

import zpipe as zp
from zpipe.values.plan import Plan, plan


def numbers():
    yield 1


def double(x):
    return 2 * x


def add(a, b):
    return a + b


def diamond():
    x = zp.stage(numbers, partitions=2)
    left, right = zp.stage(double, name="left")(x), zp.stage(double, name="right")(x)
    return plan(zp.Pipeline("p", zp.stage(add, workers=3)(right, left)))


def test_a_plan_bears_the_name_of_its_pipeline_and_travels_as_plain_data():
    made = diamond()
    assert made.name == "p"
    assert Plan.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_above_a_stage_that_joins_stands_what_joins_for_it():
    made = diamond()
    assert [stage.name for stage in made.stages] == ["numbers", "left", "right", "add-join", "add"]
    join, add = made.stages[3:]
    assert (join.run, join.workers, join.memory, join.spread) == ("zpipe.joins:join", 1, True, False)
    assert (add.workers, add.memory, add.spread) == (3, False, True)


def test_a_stage_with_a_range_of_workers_begins_with_the_least(tmp_path):
    joined = zp.stage(add, workers="2..5")(zp.stage(double, name="left")(x := zp.stage(numbers)), x)
    pipeline = zp.Pipeline("p", zp.stage(double, name="end", workers=3)(joined))
    pipeline.save(tmp_path / "p.toml")
    assert zp.Pipeline.load(tmp_path / "p.toml").to_dict() == pipeline.to_dict()
    made = plan(pipeline)
    found = [(stage.name, stage.workers, stage.workers_max) for stage in made.stages[2:]]
    assert found == [("add-join", 1, None), ("add", 2, 5), ("end", 3, None)]


def test_a_join_knows_the_lanes_of_its_arms_and_goes_on_with_those_that_come_first():
    made = diamond()
    names = {name: lane for lane, name in made.lane_names.items()}
    left, right = ([names[f"numbers[{k}]>{arm}"] for k in range(2)] for arm in ("left", "right"))
    join, add = made.stages[3:]
    assert join.args == {"arms": [right, left], "hooks": [], "unmatched": "drop"}
    assert (sorted(join.lanes), list(join.kept), list(add.lanes)) == (sorted(left + right), left, left)


def test_an_edge_knows_which_outputs_are_read_along_it():
    route = zp.stage(double, name="route")(zp.stage(numbers))
    one = zp.stage(double, name="one")(route["a"])
    two = zp.stage(double, name="two")(zp.merge(route["b"], route))
    made = plan(zp.Pipeline("p", one, two))
    assert {(edge.from_, edge.to): edge.outputs for edge in made.edges} == {
        (0, 1): ("",),
        (1, 2): ("a",),
        (1, 3): ("b", ""),
    }
    assert len(made.stages[3].inputs) == 1
