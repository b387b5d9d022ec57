"""The drawing of a pipeline shows its edges and no others; Mermaid and the summary say the same."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import zpipe as zp
from zpipe.values.graph import ASCII, Live, draw, mermaid

M = __name__


def numbers(count=3):
    yield from range(count)


def double(x, by=2):
    return by * x


class Train:
    def __init__(self, lr):
        self.lr = lr

    def __call__(self, x):
        return None

    def state(self):
        return 0

    def restore(self, state):
        pass

    def finish(self):
        yield self.lr


class Last:
    def __call__(self, x):
        return None

    def finish(self):
        yield 1


def wired(**edges):
    """Return a pipeline of these stages; each names what it reads."""
    stages = {name: {"run": "m:f", **({"from": above} if above else {})} for name, above in edges.items()}
    return zp.Pipeline.from_dict({"schema": 1, "name": "p", "stage": stages})


def textures():
    x = zp.stage(numbers)
    x = zp.stage(double, workers=2)(x)
    x = zp.batch(64)(zp.shuffle(256)(x))
    fits = zp.stage(Train, name="fit", grid={"lr": [0.1, 0.01]}, checkpoint=8)(x)
    best = zp.stage(Last)(fits)
    return zp.Pipeline("textures", best, zp.stage(double, name="end", ordered=True)(zp.merge(x, fits)))


def traced(drawing):
    """Follow the columns of a drawing downwards and return the edges that they show."""
    edges = set()
    carried = {}  # column -> the stages whose items it carries
    for line in drawing.splitlines():
        signs = list(itertools.takewhile(lambda sign: sign in "●│├─╮╯┬┴ ", line[::2]))
        after = {i: set(carried[i]) for i, sign in enumerate(signs) if sign in "│├"}
        trunk = signs.index("├") if "├" in signs else None
        for i, sign in enumerate(signs):
            if sign in "╮┬╯┴":
                assert set(line[2 * trunk + 1 : 2 * i : 2]) == {"─"}, line
            if sign in "╮┬":
                after[i] = set(carried[trunk])
            elif sign in "╯┴":
                after[trunk] |= carried[i]
            elif sign == "●":
                name = line[2 * len(signs) :].split()[0]
                edges |= {(above, name) for above in carried.get(i, ())}
                after[i] = {name}
        carried = after
    return edges


@st.composite
def dags(draw_):
    size = draw_(st.integers(1, 9))
    names = [f"n{i}" for i in range(size)]
    return {
        name: draw_(st.lists(st.sampled_from(names[:i]), unique=True, max_size=2)) if i else []
        for i, name in enumerate(names)
    }


@given(dags())
@example({"a": [], "b": ["a"], "c": ["a"], "d": ["c"], "e": ["c"]})
@example({"a": [], "b": ["a"], "c": ["a"], "d": ["a", "b", "c"]})
def test_a_drawing_shows_the_edges_and_no_others(edges):
    assert traced(draw(wired(**edges))) == {(above, name) for name, reads in edges.items() for above in reads}


def test_a_line_of_stages_is_drawn_downwards():
    assert draw(wired(a=[], b=["a"])).splitlines() == [
        "● a  source  1 worker  m:f",
        "│",
        "● b  sink    1 worker  m:f",
        "",
        "2 stages, 2 workers",
    ]


def test_columns_part_cross_and_join():
    drawing = draw(wired(a=[], b=["a"], c=["a"], d=["a"], e=["b", "d"], f=["c"], g=["e", "f"]))

    assert [line.partition("  transform")[0].partition("  so")[0] for line in drawing.splitlines()[:12]] == [
        "●     a",
        "├─┬─╮ every item to b, c and d",
        "● │ │ b",
        "│ │ │",
        "│ ● │ c",
        "│ │ │",
        "│ │ ● d",
        "├─│─╯ merges b and d",
        "● │   e",
        "│ │",
        "│ ●   f",
        "├─╯   merges e and f",
    ]


def test_a_drawing_says_on_what_is_joined_and_what_is_left_out():
    a, b = zp.stage("m:f", name="a"), zp.stage("m:f", name="b")
    pair = zp.stage("m:f", name="pair", on="field:user", within=9)(a, b)
    drawing = draw(zp.Pipeline("p", zp.stage("m:f", name="watch")(zp.latest(pair)))).splitlines()
    assert "├─╯ joins a and b on user" in drawing
    assert "│   the latest of pair" in drawing


def test_what_does_not_hang_together_is_drawn_apart():
    lines = draw(wired(a=[], b=["a"], c=[])).splitlines()

    assert [line[:4].rstrip() for line in lines[:5]] == ["● a", "│", "● b", "", "● c"]


def test_each_variant_of_a_grid_has_a_line():
    x = zp.stage(numbers)
    drawing = draw(zp.Pipeline("p", zp.stage(Train, grid={"lr": [0.1, 1]}, checkpoint=2)(x)))

    assert [line.split("  ")[0] for line in drawing.splitlines()[2:5]] == ["● train", "", ""]
    assert [line.split() for line in drawing.splitlines()[2:5]] == [
        ["●", "train", "sink", "2", "workers", f"{M}:Train"],
        ["/lr=0.1", "variant", "1", "worker"],
        ["/lr=1", "variant", "1", "worker"],
    ]
    assert drawing.splitlines()[-1] == "2 stages (3 with each variant), 3 workers"


@pytest.mark.parametrize(("count", "last"), [(12, "/by=11"), (13, "/by=12"), (14, "and 2 more")])
def test_variants_past_a_dozen_are_counted(count, last):
    x = zp.stage(double, grid={"by": list(range(count))})(zp.stage(numbers))

    assert draw(zp.Pipeline("p", x)).splitlines()[-3].strip().startswith(f"{last} ")


def test_a_live_drawing_has_the_workers_that_live_and_their_rates():
    x = zp.stage(double, workers=4)(zp.stage(numbers))
    x = zp.stage(Train, grid={"lr": [0.1, 1]})(x)
    live = {
        "numbers": Live(1, 1234.5),
        "double": Live(3, 1200.0),
        "train/lr=0.1": Live(1, 7.0),
        "train/lr=1": Live(0, 0.0),
    }

    rows = [line.split() for line in draw(zp.Pipeline("p", x), live).splitlines()]

    assert rows[0][:7] == ["●", "numbers", "source", "1", "worker", "1,234", "in/s"]
    assert rows[2][:7] == ["●", "double", "transform", "3", "workers", "1,200", "in/s"]
    assert rows[4][:7] == ["●", "train", "sink", "1", "worker", "7", "in/s"]
    assert rows[6] == ["/lr=1", "variant", "0", "workers", "0", "in/s"]
    assert " ".join(rows[-1]) == "3 stages (4 with each variant), 5 workers"


def test_a_mermaid_flowchart_has_a_node_per_stage():
    assert mermaid(textures()).splitlines() == [
        "flowchart LR",
        '    s_numbers(["numbers"])',
        '    s_double["double<br/>2 workers"]',
        '    s_shuffle["shuffle"]',
        '    s_batch["batch"]',
        '    s_fit["fit<br/>2 variants"]',
        '    s_last[("last")]',
        '    s_end[("end")]',
        "    s_numbers --> s_double",
        "    s_double --> s_shuffle",
        "    s_shuffle --> s_batch",
        "    s_batch --> s_fit",
        "    s_fit --> s_last",
        "    s_batch --> s_end",
        "    s_fit --> s_end",
    ]


def test_a_live_flowchart_has_rates():
    x = zp.stage(double, workers=4)(zp.stage(numbers, grid={"count": [1, 2]}))
    live = {"numbers/count=1": Live(1, 10.0), "numbers/count=2": Live(1, 20.0), "double": Live(3, 1200.0)}

    assert mermaid(zp.Pipeline("p", x), live).splitlines()[1:3] == [
        '    s_numbers(["numbers<br/>2 variants<br/>30 in/s"])',
        '    s_double[("double<br/>3 workers<br/>1,200 in/s")]',
    ]


def test_a_summary_has_a_line_per_stage():
    lines = [line.replace(M, "M").rstrip() for line in textures().summary().splitlines()]

    assert lines[0] == "pipeline textures"
    assert [line.split() for line in lines[2:3]] == [["stage", "role", "run", "reads", "workers", "remembers"]]
    assert [" ".join(line.split()) for line in lines[4:11]] == [
        "numbers source M:numbers 1",
        "double transform M:double numbers 2",
        "shuffle transform zpipe.stages:shuffle double 1 up to 256 items",
        "batch transform zpipe.stages:batch shuffle 1 up to 64 items",
        "fit (2 variants) transform M:Train batch 2 its state, saved every 8 items",
        "last sink M:Last fit 1 its state, never saved",
        "end sink M:double batch, fit 1 its place in source order",
    ]
    assert lines[-1] == "7 stages (8 with each variant), 9 workers"


def test_a_range_of_workers_is_shown_as_one():
    x = zp.stage(double, workers="1..4")(zp.stage(numbers))
    pipeline = zp.Pipeline("p", zp.stage(double, name="end", workers=2)(x))
    rows = [" ".join(line.split()) for line in pipeline.summary().splitlines()[4:]]

    assert [row.rpartition(" ")[2] for row in rows[:3]] == ["1", "1..4", "2"]
    assert rows[-1] == "3 stages, 4..7 workers"
    assert "1..4 workers" in draw(pipeline)
    assert '    s_double["double<br/>1..4 workers"]' in mermaid(pipeline).splitlines()
    assert "double<br/>3 workers<br/>" in mermaid(pipeline, {"double": Live(3, 1.0)})


def test_the_columns_of_a_summary_stand_below_each_other():
    head, _, *rows = textures().summary().splitlines()[2:11]

    for title, cells in (("role", {"source", "transform", "sink"}), ("reads", {"", "numbers", "double", "shuffle"})):
        at = head.index(title)
        assert cells <= {row[at:].split("  ")[0].strip() for row in rows}


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        (zp.rechunk(9), "up to 9 rows"),
        (zp.stage("zpipe.stages:batch", grid={"size": [4, 8]}), "up to 8 items"),
        (zp.stage(Train, args={"lr": 1}), "its state"),
        (zp.stage(Train, args={"lr": 1}, checkpoint=1), "its state, saved every 1 item"),
    ],
)
def test_a_summary_says_what_a_stage_remembers(stage, says):
    text = zp.Pipeline("p", stage(zp.stage(numbers))).summary()

    assert text.splitlines()[5].split("  ")[-1] == says


def test_a_faulty_pipeline_has_no_summary():
    with pytest.raises(zp.ConfigError, match="workers must be a whole number"):
        zp.Pipeline("p", zp.stage(numbers, workers=0)).summary()


def test_every_sign_of_a_drawing_has_one_in_ascii():
    drawing = draw(wired(a=[], b=["a"], c=["a"], d=["a"], e=["b", "c", "d"]))

    assert not drawing.isascii()
    assert drawing.translate(ASCII).isascii()
