"""The check: every fault at once, each one line with its place and the way out."""

import re

import pytest

import zpipe as zp
from zpipe.values.callables import describe
from zpipe.values.check import check, find_cycles
from zpipe.values.stagecheck import is_memory


def crops(size, count=10):
    yield size


def seekable(start):
    yield start


def features(image, scale=1):
    return image


def pair(x, y):
    return x


def nothing():
    return 1


def anything(x, **args):
    return x


async def later(x):
    return x


class Train:
    def __init__(self, lr=0.1):
        self.lr = lr

    def __call__(self, x):
        return x

    def state(self):
        return 0

    def restore(self, state):
        pass


class Accumulate:
    def __call__(self, x):
        return None

    def finish(self):
        yield 1


class Half:
    def __call__(self, x):
        return x

    def state(self):
        return 0


class PairUp:
    def __call__(self, x, y):
        return x


class Sink:
    def commit(self, items):
        pass


class Empty:
    pass


class Files:
    def __iter__(self):
        yield 1


class Stateful:
    def __call__(self):
        yield 1

    def finish(self):
        pass


model = Train()

M = __name__
SOURCE = {"run": f"{M}:crops", "args": {"size": 1}}


def pipeline(**stages):
    return zp.Pipeline.from_dict({"schema": 1, "name": "p", "stage": stages}, folder=".")


def faults(**stages):
    return [f"{fault.where}: {fault.text}" for fault in check(pipeline(**stages))]


def one(**table):
    """Return the faults of a source with these entries, in short."""
    return [short(fault, "src") for fault in faults(src={**SOURCE, **table})]


def reader(run, **table):
    """Return the faults of a stage with these entries that reads a source, in short."""
    found = faults(src=SOURCE, x={"run": f"{M}:{run}", "from": "src", **table})
    return [short(fault, "x") for fault in found]


def short(fault, name):
    """Leave out what each fault of the stage `name` says: the stage in front, and this module."""
    found = re.fullmatch(rf"stage\.{name}\.(\S+): (?:stage|source) '{name}'(?:: | )(.*)", fault)
    assert found, fault
    return f"{found[1]}: {found[2]}".replace(M, "M")


def test_a_sound_pipeline_has_no_faults():
    assert (
        faults(
            src={**SOURCE, "partitions": 2, "workers": 2, "epochs": 3},
            files={"run": f"{M}:Files"},
            x={"run": f"{M}:features", "from": ["src", "files"], "workers": "2..4", "args": {"scale": 2}},
            group={"run": "zpipe.stages:batch", "from": "x", "args": {"size": 3}},
            fit={"run": f"{M}:Train", "from": "group", "grid": {"lr": [0.1, 1]}, "checkpoint": 5, "gpus": 1},
            sum={"run": f"{M}:Accumulate", "from": "fit"},
            end={"run": f"{M}:Sink", "from": "sum"},
        )
        == []
    )


def test_every_fault_is_found_at_once(tmp_path):
    (tmp_path / "stages.py").write_text("def crops(size, count=1): yield 1\ndef features(x): return x\n")
    file = tmp_path / "p.toml"
    file.write_text(
        """schema = 1
name = "Textures"
[stage.crops]
run = "stages:crops"
args = { size = 1, cout = 3 }
[stage.features]
run = "stages:featurs"
from = "crop"
workers = 0
[stage.batch]
run = "zpipe.stages:batch"
from = "features"
workers = 2
epochs = 2
"""
    )

    with pytest.raises(zp.ConfigError) as e:
        zp.Pipeline.load(file).check()

    assert e.value.faults == (
        f"{file}:2: the pipeline has the bad name 'Textures': use a-z, 0-9 and -, a letter first",
        f"{file}:8: stage 'features' reads 'crop', but there is no such stage: did you mean 'crops'?",
        f"{file}:5: stage 'crops' (stages:crops) takes no argument 'cout': did you mean 'count'?",
        f"{file}:7: stage 'features': stages has no 'featurs': did you mean 'features'?",
        f"{file}:9: stage 'features': workers must be a whole number, at least 1, not 0",
        f"{file}:14: stage 'batch': epochs is an option of sources, but it reads 'features'",
        f"{file}:10: stage 'batch' (zpipe.stages:batch) needs an argument 'size': give it in args",
        f"{file}:13: stage 'batch' groups items in source order, so it has one worker, not 2: set workers = 1",
    )


def test_faults_of_a_python_pipeline_name_the_line_of_the_stage():
    x = zp.stage(crops, args={"size": 1, "cout": 2})

    with pytest.raises(zp.ConfigError, match=r"^test_check.py:\d+: stage 'crops' .*did you mean 'count'"):
        zp.Pipeline("p", x).check()


def test_a_cycle_is_named_along_its_items():
    table = {"run": f"{M}:features"}
    cyclic = {
        "src": SOURCE,
        "a": {**table, "from": ["src", "c"]},
        "b": {**table, "from": "a"},
        "c": {**table, "from": "b"},
        "after": {**table, "from": "c"},
    }

    assert faults(**cyclic) == [
        "stage.a.from: stages form a cycle, a -> b -> c -> a: items only go forward, so cut one `from`"
    ]


def test_each_cycle_is_found_once():
    table = {"run": "m:f"}
    cyclic = pipeline(a={**table, "from": "b"}, b={**table, "from": "a"}, c={**table, "from": ["c", "a"]})

    assert find_cycles(cyclic) == [["a", "b", "a"], ["c", "c"]]


def test_a_pipeline_of_readers_has_no_source():
    assert "stage: pipeline 'p' has no source: one stage must read no other" in faults(
        x={"run": f"{M}:features", "from": "x"}
    )


def test_a_pipeline_without_stages_is_a_fault():
    assert faults() == ["stage: pipeline 'p' has no stages: add at least a source"]


@pytest.mark.parametrize("name", [None, 5, "Textures", "1st", "a_b", ""])
def test_a_pipeline_needs_a_good_name(name):
    bad = zp.Pipeline.from_dict({"schema": 1, "name": name, "stage": {"src": SOURCE}})

    assert [fault.where for fault in check(bad)] == ["name"]


def test_a_stage_needs_a_good_name():
    bad = "stage 'My_stage' has a bad name: use a-z, 0-9 and -, a letter first"
    assert faults(My_stage=SOURCE) == [f"stage.My_stage: {bad}"]


def test_any_stage_of_yours_may_have_named_outputs():
    assert reader("features", **{"from": "src.spam"}) == []
    assert reader("features", **{"from": ["src.spam", "src.ham", "src"]}) == []


def test_an_output_has_a_name_like_a_stage():
    bad = "from: reads 'src.Spam', but 'Spam' is no name of an output: use a-z, 0-9 and -, a letter first"
    assert reader("features", **{"from": "src.Spam"}) == [bad]


def test_an_output_of_no_stage_is_a_fault():
    bad = "from: reads 'scr.spam', but there is no such stage: did you mean 'src'?"
    assert reader("features", **{"from": "scr.spam"}) == [bad]


BATCH_OF_TWO = {"run": "zpipe.stages:batch", "from": "src", "args": {"size": 2}}


def joined(run, *arms, **more):
    """Return the faults of a stage that joins arms below `src`; `more` are further stages."""
    x = {"run": f"{M}:{run}", "join": list(arms)}
    return [fault.removeprefix("stage.x.") for fault in faults(src=SOURCE, x=x, **more)]


def reading(run, above):
    return {"run": run if ":" in run else f"{M}:{run}", "from": above}


A, B = reading("features", "src"), reading("features", "src")


def test_arms_that_part_at_a_fork_may_be_joined():
    assert joined("pair", "a", "b", a=A, b=B) == []
    assert joined("pair", "src", "a", a=A) == []
    assert joined("pair", "c", "b", a=A, b=B, c=reading("features", "a")) == []


@pytest.mark.parametrize(
    ("arms", "more", "fault"),
    [
        (("a", "other"), {"a": A, "other": SOURCE}, "join: stage 'x' joins arms that come from different sources: "
         "their items can never meet on their paths: join on = 'position' or on = 'field:NAME'"),
        (("a", "b"), {"a": A, "b": BATCH_OF_TWO}, "join: stage 'x': 'b' on the way from the fork groups items: "
         "group below the join"),
        (("a", "b"), {"a": A, "b": reading("zpipe.stages:unbatch", "src")}, "join: stage 'x': 'b' on the way from the "
         "fork makes many of one: split above the fork, or below"),
        (("a", "b"), {"a": A, "b": {**B, "grid": {"scale": [1, 2]}}}, "join: stage 'x': 'b' on the way from the fork "
         "is a grid: each of its variants is an arm of its own"),
        (("c", "b"), {"a": A, "b": B, "c": reading("features", ["a", "src"])}, "join: stage 'x': 'c' on the way from "
         "the fork merges several stages: merge above the fork"),
        (("a.one", "a.two"), {"a": A}, "join: stage 'x' joins 'a.one' and 'a.two': an item goes to one output of a "
         "stage only"),
        (("a", "b"), {"a": A, "b": B, "x-join": reading("features", "src")}, "join: stage 'x' joins, for which a stage "
         "'x-join' is made: rename the one of that name"),
        (("a", "scr"), {"a": A}, "join: stage 'x' reads 'scr', but there is no such stage: did you mean 'src'?"),
    ],
)  # fmt: skip
def test_arms_that_cannot_meet_are_a_fault(arms, more, fault):
    assert joined("pair", *arms, **more)[:1] == [fault]


def test_a_callable_takes_an_item_of_each_arm():
    assert joined("features", "a", "b", "src", a=A, b=B) == [
        f"run: stage 'x' ({M}:features) takes 2 items, but joins 3: give it a parameter for each"
    ]
    assert joined("pair", "a", "b", a=A, b=B) == []


@pytest.mark.parametrize(("key", "value"), [("unmatched", "stop"), ("on", "position"), ("within", 3)])
def test_options_of_joins_are_for_joins(key, value):
    assert reader("features", **{key: value}) == [f"{key}: {key} is an option of joins: leave it out"]


def joined_on(on, *, within=None, **stages):
    x = {"run": f"{M}:pair", "join": ["a", "b"], "on": on, **({} if within is None else {"within": within})}
    return faults(**{"src": SOURCE, "other": SOURCE, "a": A, "b": reading("features", "other"), **stages}, x=x)


def test_independent_sources_may_be_joined_on_the_position_or_on_a_field():
    assert joined_on("position") == []
    assert joined_on("field:id", within=10) == []
    assert joined_on("field:id", within=10, b=reading("zpipe.stages:unbatch", "other")) == []
    assert joined_on("position", b={"run": f"{M}:pair", "join": ["other", "a"], "on": "position"}) == []


GRID = {**reading("features", "other"), "grid": {"scale": [1, 2]}}


@pytest.mark.parametrize(
    ("on", "stages", "fault"),
    [
        ("place", {}, "on: stage 'x': on must be 'path', 'position' or 'field:NAME', not 'place'"),
        ("position", {"within": 3}, "within: stage 'x': within is for joins on a field: leave it out"),
        ("field:id", {}, "within: stage 'x' joins on a field: say how many positions an item may wait for a partner, "
         "like within = 1000"),
        ("position", {"b": reading("features", ["other", "src"])}, "join: stage 'x' joins on the position, but 'b' "
         "above it merges several stages: do that below, or join on a field"),
        ("position", {"b": {**BATCH_OF_TWO, "from": "other"}}, "join: stage 'x' joins on the position, but 'b' above "
         "it groups items: do that below, or join on a field"),
        ("position", {"b": {"run": f"{M}:pair", "join": ["other", "src"], "on": "field:id", "within": 1}},
         "join: stage 'x' joins on the position, but 'b' above it joins on a field, which leaves positions out: do "
         "that below, or join on a field"),
        ("position", {"other": {**SOURCE, "partitions": 2}}, "join: stage 'x' joins on the position, but its arms "
         "have 1 and 2 partitions: give their sources the same number"),
        ("field:id", {"within": 3, "b": GRID}, "join: stage 'x' joins on a field, but 'b' above it is a grid: each "
         "variant would find each partner"),
        ("field:id", {"within": 3, "b": reading("Accumulate", "other")}, "join: stage 'x' joins on a field, but 'b' "
         "above it has finish() or epoch_end(), whose items stand at no position of a source: do that below"),
    ],
)  # fmt: skip
def test_sources_that_cannot_be_joined_are_a_fault(on, stages, fault):
    assert joined_on(on, **stages) == [f"stage.x.{fault}"]


def latest(*reads):
    return [{"stage": read, "keep": "latest"} for read in reads]


def test_a_stage_may_keep_only_the_latest():
    x, y = reading("features", latest("src")), reading("features", "x")
    assert faults(src=SOURCE, x=x, y=y, z=reading("features", [*latest("x"), "src"])) == []
    both = reading("features", latest("route.a", "route.b"))
    assert faults(src=SOURCE, route=reading("features", "src"), x=both) == []


@pytest.mark.parametrize(
    ("stages", "fault"),
    [
        ({"x": {**reading("features", latest("src")), "ordered": True}},
         "stage 'x' keeps only the latest of 'src', but it remembers across items and needs source order"),
        ({"x": reading("features", latest("src")), "y": reading("Accumulate", "x")},
         "stage 'x' keeps only the latest of 'src', but 'y' remembers across items and needs source order"),
        ({"x": reading("features", latest("src")), "y": {"run": f"{M}:pair", "join": ["src", "x"]}},
         "stage 'x' keeps only the latest of 'src', but 'y' joins and needs source order"),
        ({"x": reading("features", [*latest("src.a"), "src.b"])},
         "stage 'x' keeps only the latest of one output of 'src': keep that of all, or of none"),
        ({"x": {**BATCH_OF_TWO, "args": {"size": 2, "order": "arrival"}}, "y": reading("Train", "x")},
         "stage 'x' groups items as they come, but 'y' remembers across items and needs source order"),
        ({"x": {"run": f"{M}:pair", "join": [*latest("src"), "y"]}, "y": reading("features", "src")},
         "stage 'x': a join needs every item of 'src': leave keep out"),
    ],
)  # fmt: skip
def test_what_needs_source_order_cannot_be_below_what_has_none(stages, fault):
    assert fault in [text.partition(": ")[2] for text in faults(src=SOURCE, **stages)]


ARRIVAL = {**BATCH_OF_TWO, "args": {"size": 2, "order": "arrival"}}


def test_a_call_may_take_a_block_of_items():
    assert reader("features", batch_size=8, max_wait_s=0.5) == []
    assert faults(src=SOURCE, x={**ARRIVAL, "max_wait_s": 1, "workers": 2}) == []
    assert joined("pair", "a", "b", a=A, b=B) == []


@pytest.mark.parametrize(
    ("stage", "fault"),
    [
        ({**reading("Train", "src"), "batch_size": 8},
         "batch_size: stage 'x' has state() and so remembers, for which blocks of arrival are never the same: leave "
         "batch_size out, or put zp.batch above"),
        ({**reading("zpipe.stages:unbatch", "src"), "batch_size": 8},
         "batch_size: stage 'x' (zpipe.stages:unbatch) takes one item at a time: leave batch_size out, or put zp.batch "
         "above"),
        ({**reading("zpipe.sinks:sqlite", "src"), "args": {"path": "x"}, "batch_size": 8},
         "batch_size: stage 'x' commits blocks by itself: leave batch_size out, or put zp.batch above"),
        ({**reading("crops", "src"), "batch_size": 8},
         "batch_size: stage 'x' yields, but a block of items needs a list with an output for each: leave batch_size "
         "out, or put zp.batch above"),
        ({**reading("features", "src"), "max_wait_s": 1.5},
         "max_wait_s: stage 'x': max_wait_s is how long a block waits to fill: give it a batch_size"),
        ({**reading("features", "src"), "stacked": True},
         "stacked: stage 'x': stacked is for the items of a block: give it a batch_size"),
        ({**reading("features", "src"), "batch_size": 2, "max_wait_s": -1},
         "max_wait_s: stage 'x': max_wait_s must be a number of seconds, at least 0, not -1"),
        ({**BATCH_OF_TWO, "max_wait_s": 1},
         "max_wait_s: stage 'x': max_wait_s is for groups in the order of arrival: set order = 'arrival' in args"),
        ({**ARRIVAL, "args": {"size": 2, "order": "arrival", "drop_last": True}},
         "args.drop_last: stage 'x': in the order of arrival any group may be the last: leave drop_last out"),
    ],
)  # fmt: skip
def test_a_block_of_items_must_make_sense(stage, fault):
    assert faults(src=SOURCE, x=stage) == [f"stage.x.{fault}"]


SPLIT = {"run": "zpipe.stages:split", "from": "src", "args": {"weights": {"train": 9, "test": 1}}}


def test_a_group_has_no_named_outputs():
    text = "stage 'x' reads 'g.spam', but zpipe.stages:batch has no named outputs: read 'g'"
    assert faults(src=SOURCE, g=BATCH_OF_TWO, x={"run": f"{M}:features", "from": "g.spam"}) == [f"stage.x.from: {text}"]


def test_a_split_is_read_by_its_outputs():
    x, y = ({"run": f"{M}:features", "from": f"s.{name}"} for name in ("train", "test"))
    assert faults(src=SOURCE, s=SPLIT, x=x, y=y) == []
    assert faults(src=SOURCE, s=SPLIT, x=x) == [
        "stage.s.args.weights: stage 's' sends items to output 'test', which no stage reads: let one read 's.test'"
    ]
    assert faults(src=SOURCE, s=SPLIT, x=x, y=y, z={"run": f"{M}:features", "from": ["s.tset", "s"]}) == [
        "stage.z.from: stage 'z' reads 's.tset', but 'tset' is none of its outputs: did you mean 'test'?",
        "stage.z.from: stage 'z' reads 's', but it sends to named outputs only: it has train, test",
    ]


@pytest.mark.parametrize("weights", [{}, {"a": 0}, {"a": True}, {"A": 1}, 3, ["a"]])
def test_a_split_needs_names_and_weights(weights):
    s = {**SPLIT, "args": {"weights": weights}}
    rule = "must be a table of names and weights above 0, like { train = 9, test = 1 }"
    found = faults(src=SOURCE, s=s)
    assert f"stage.s.args.weights: stage 's' (zpipe.stages:split): weights {rule}, not {weights!r}" in found


def test_a_stage_read_twice_is_a_fault():
    assert reader("features", **{"from": ["src", "src"]}) == ["from: reads 'src' more than once: name it once"]


SOURCE_FAULTS = [
    ({"worker": 2}, "worker: there is no option 'worker': did you mean 'workers'?"),
    ({"count": 2}, "count: 'count' is an argument of M:crops, not an option: put it in args"),
    ({"image": "a"}, "image: option 'image' is not supported by this version: leave it out"),
    ({"retries": 2}, "retries: retries is an option of stages with inputs, but it is a source"),
    ({"workers": True}, "workers: workers must be a whole number, at least 1, not True"),
    ({"workers": 1.0}, "workers: workers must be a whole number, at least 1, not 1.0"),
    ({"workers": "0..4"}, "workers: workers must be a whole number, at least 1, or a range like \"1..8\", not '0..4'"),
    ({"workers": "two"}, "workers: workers must be a whole number, at least 1, or a range like \"1..8\", not 'two'"),
    ({"workers": "8..1"}, "workers: workers must be a range with the least first, like \"1..8\", not '8..1'"),
    ({"epochs": 0}, "epochs: epochs must be a whole number, at least 1, not 0"),
    ({"replay": "yes"}, "replay: replay must be one of 'seek', 'skip', 'no', not 'yes'"),
    (
        {"env": {"A": 1}},
        "env: env must be a table of text, like { OMP_NUM_THREADS = \"1\" }, not {'A': 1}",
    ),
    (
        {"grid": {"count": []}},
        "grid: grid has no values for 'count': give at least one or leave 'count' out",
    ),
    (
        {"grid": {"count": [1, "1"]}},
        "grid: grid repeats a value of 'count': each names a variant of its own",
    ),
    (
        {"grid": {"count": ["a/b"]}},
        "grid: grid has 'a/b' for 'count', but values name variants: numbers, true, false or plain words",
    ),
    (
        {"grid": {"count": 3}},
        "grid: grid must be a table of lists, like { lr = [0.1, 0.01] }, not {'count': 3}",
    ),
    ({"grid": {"cuont": [3]}}, "grid.cuont: (M:crops) takes no argument 'cuont': did you mean 'count'?"),
    (
        {"grid": {"size": [3]}},
        "grid.size: (M:crops): 'size' is in args and in grid: leave it in one of them",
    ),
    ({"devices": [0, 0]}, "devices: devices must name each device once, not [0, 0]"),
    (
        {"devices": [0], "gpus": 2},
        "gpus: wants 2 gpus for each worker from 1 devices: lower gpus or add devices",
    ),
    ({"ordered": True}, "ordered: ordered is an option of stages with inputs, but it is a source"),
    (
        {"workers": "1..2", "partitions": 2},
        "workers: has workers = '1..2', but the workers of a source own its partitions: set a number",
    ),
    (
        {"workers": 3, "partitions": 2},
        "workers: has 3 workers for 2 partitions: raise partitions or lower workers",
    ),
    (
        {"replay": "seek"},
        "replay: (M:crops): replay = 'seek' needs a parameter `start`, the position to begin at: "
        "add it, or use replay = 'skip'",
    ),
    (
        {"args": {}},
        "args: (M:crops) needs an argument 'size': give it in args, or name the stage's input in `from`",
    ),
    (
        {"args": {"size": None}},
        "args.size: (M:crops): args.size is a NoneType: args hold numbers, text, true, false, lists and tables",
    ),
    (
        {"args": {"size": 1, "workers": 2}},
        "args.workers: (M:crops) takes no argument 'workers': it is an option, write it beside args",
    ),
    (
        {"args": {"size": 1, "zzz": 2}},
        "args.zzz: (M:crops) takes no argument 'zzz': it takes size, count",
    ),
    (
        {"run": f"{M}:features", "args": {}},
        "run: (M:features) reads no stage, so it is a source, but does not yield: "
        "name its input in `from`, or make it a generator",
    ),
    (
        {"run": f"{M}:seekable", "args": {}},
        "args: (M:seekable) needs an argument 'start': set replay = 'seek', or give it a default",
    ),
    (
        {"run": f"{M}:Stateful", "args": {}},
        "run: (M:Stateful) has finish(), which is never called on a source: rename it or leave it out",
    ),
    (
        {"run": "zpipe.stages:unbatch", "args": {}},
        "run: (zpipe.stages:unbatch) reads no stage, but has nothing to send of its own: name its input in `from`",
    ),
]


@pytest.mark.parametrize(("table", "fault"), SOURCE_FAULTS)
def test_a_fault_of_a_source_is_one_line(table, fault):
    assert one(**table) == [fault]


def test_a_seekable_source_gets_its_start():
    assert one(run=f"{M}:seekable", args={}, replay="seek") == []


READER_FAULTS = [
    (
        "nothing",
        {},
        "run: (M:nothing) takes no item, but reads 'src': give it a first parameter for the item",
    ),
    (
        "pair",
        {},
        "args: (M:pair) needs an argument 'y': give it in args (a stage takes one item of each stage that it joins)",
    ),
    (
        "pair",
        {"args": {"x": 1, "y": 1}},
        "args.x: (M:pair): 'x' is where the item goes: leave it out of args",
    ),
    ("PairUp", {}, "run: (M:PairUp): __call__ wants also y, but gets one item: args go to __init__"),
    ("Empty", {}, "run: (M:Empty) has no __call__: add __call__(item), or commit(items) for a sink"),
    ("later", {}, "run: (M:later) is async, but stages are called one item at a time: use a plain def"),
    (
        "model",
        {},
        "run: (M:model) is an object made at import: name its class, which is built in the worker",
    ),
    ("Train", {"args": {"lrr": 1}}, "args.lrr: (M:Train) takes no argument 'lrr': did you mean 'lr'?"),
    (
        "Train",
        {"workers": 2},
        "workers: has state() and so remembers, so it has one worker, not 2: set workers = 1",
    ),
    (
        "Accumulate",
        {"workers": 2},
        "workers: has finish() and so remembers, so it has one worker, not 2: set workers = 1",
    ),
    (
        "features",
        {"workers": 2, "ordered": True},
        "workers: is ordered, so it has one worker, not 2: set workers = 1",
    ),
    (
        "features",
        {"workers": "1..4", "ordered": True},
        "workers: is ordered, so it has one worker, not 1..4: set workers = 1",
    ),
    (
        "features",
        {"workers": "1..4", "grid": {"scale": [1, 2]}},
        "workers: has workers = '1..4' and a grid, whose variants do not scale by themselves: "
        "set a number, for each of them",
    ),
    (
        "features",
        {"checkpoint": 5},
        "checkpoint: has checkpoint, but its callable is no class with state() and restore(state): "
        "add both, or leave checkpoint out",
    ),
    ("Half", {}, "run: (M:Half) has state() but no restore(): a save needs both"),
    ("features", {"partitions": 2}, "partitions: partitions is an option of sources, but it reads 'src'"),
    ("featurs", {}, "run: M has no 'featurs': did you mean 'features'?"),
]


@pytest.mark.parametrize(("run", "table", "fault"), READER_FAULTS)
def test_a_fault_of_a_stage_with_inputs_is_one_line(run, table, fault):
    assert reader(run, **table) == [fault]


def test_a_committing_class_that_is_read_is_a_fault():
    found = faults(src=SOURCE, s={"run": f"{M}:Sink", "from": "src"}, x={"run": f"{M}:features", "from": "s"})

    assert found == [
        f"stage.s.run: stage 's' ({M}:Sink) has commit(), which only sinks have, but another stage reads it: "
        "rename commit"
    ]


def test_a_callable_with_keywords_takes_any_argument():
    assert reader("anything", args={"whatever": 1}) == []


def test_an_argument_of_the_grid_needs_no_value_in_args():
    assert faults(src={"run": f"{M}:crops", "grid": {"size": [1, 2]}}) == []


def test_args_of_built_ins_are_checked():
    found = faults(
        src=SOURCE,
        a={"run": "zpipe.stages:batch", "from": "src", "args": {"size": 0, "drop": True}},
        b={"run": "zpipe.stages:shuffle", "from": "src", "args": {"seed": 1}},
    )

    assert found == [
        "stage.a.args.size: stage 'a' (zpipe.stages:batch): size must be a whole number, at least 1, not 0",
        "stage.a.args.drop: stage 'a' (zpipe.stages:batch) takes no argument 'drop': did you mean 'drop_last'?",
        "stage.b.args: stage 'b' (zpipe.stages:shuffle) needs an argument 'size': give it in args",
    ]


def test_lambdas_inner_functions_and_objects_are_refused_with_the_way_out():
    def inner(x):
        return x

    x = zp.stage(crops, args={"size": 1})
    refused = zp.Pipeline(
        "p",
        zp.stage(lambda x: x, name="a")(x),
        zp.stage(inner, name="b")(x),
        zp.stage(Train(), name="c")(x),
        zp.stage(model.state, name="d")(x),
    )

    assert [fault.text.replace(M, "M") for fault in check(refused)] == [
        "stage 'a': a lambda of M has no name to import in a worker: write def at the top level of a module",
        "stage 'b': 'inner' of M sits inside a function, where no worker can import it: move it to top level",
        "stage 'c': a Train object of M has no name to import: give a function or a class, and its args",
        "stage 'd': a bound method Train.state of M has no name to import: give a function or a class, and its args",
    ]


@pytest.mark.parametrize(
    ("run", "table", "remembers"),
    [
        (f"{M}:features", {}, False),
        (f"{M}:features", {"ordered": True}, True),
        (f"{M}:Train", {}, True),
        (f"{M}:Accumulate", {}, True),
        ("zpipe.stages:shuffle", {}, True),
        ("zpipe.stages:unbatch", {}, False),
    ],
)
def test_memory_follows_from_options_and_hooks(run, table, remembers):
    p = pipeline(src=SOURCE, x={"run": run, "from": "src", **table})

    assert is_memory(p.stage("x"), describe(run, p.folder)) is remembers
