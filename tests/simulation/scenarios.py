"""Pipelines, limits and faults for the simulator, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from zpipe.core.limits import Limits
from zpipe.testing.faults import Faults


@dataclass(frozen=True)
class Step:
    """One stage of a scenario; `kind` is source, map, tag, spread, route, join, join_on, split, a grouping, train,
    teach, bell or sink.

    A route sends to its outputs "a" and "b"; one with `fan` yields so many children, each to one of them.
    """

    name: str
    kind: str
    inputs: tuple[str, ...] = ()
    workers: int = 1
    size: int = 4  # of a group; for a source its items per partition and epoch
    drop: int = 0  # a map drops one in so many
    ordered: bool = False
    checkpoint: int | None = None
    partitions: int = 1
    epochs: int = 1
    grid: int = 0
    uneven: bool = False  # a source whose partitions have `size`, no and three times `size` items, in turn
    fan: int = 0  # children of a split, each time; 0: from 0 to 3
    drop_last: bool = False
    on: str = ""  # of a join of independent sources, with
    within: int = 0
    block: int = 0  # items of a call of a map; a batch groups as they arrive
    wait_s: float = 0.0
    latest: bool = False  # reads no more than the latest of its inputs
    ails: bool = False  # some items fail, now and then or always, or kill their worker: they become dead letters
    retries: int | None = None
    fickle: bool = True  # one that fails may succeed later

    @property
    def is_stacked(self) -> bool:
        """Tell whether a source yields its items by the array, or a map with blocks takes an array."""
        return self.size % 3 == 0 if self.kind == "source" else self.kind == "map" and self.block > 0 == self.block % 2


def linear(r: random.Random) -> list[Step]:
    return [
        source(r),
        Step("a", "map", ("src",), r.randint(1, 3), drop=r.choice((0, 3))),
        Step("sink", "sink", ("a",), r.randint(1, 2)),
    ]


def ordered(r: random.Random) -> list[Step]:
    return [
        source(r),
        Step("a", "map", ("src",), r.randint(1, 3), drop=r.choice((0, 2, 5))),
        Step("sink", "sink", ("a",), ordered=True),
    ]


def split(r: random.Random) -> list[Step]:
    return [
        source(r),
        Step("a", "split", ("src",), r.randint(1, 3)),
        Step("b", "map", ("a",), r.randint(1, 2), drop=r.choice((0, 4))),
        Step("sink", "sink", ("b",), ordered=r.random() < 0.6),
    ]


def batch(r: random.Random) -> list[Step]:
    return [
        source(r),
        Step("a", "map", ("src",), r.randint(1, 3), drop=r.choice((0, 2))),
        Step("g", "batch", ("a",), size=r.randint(1, 7)),
        Step("sink", "sink", ("g",), r.randint(1, 2)),
    ]


def split_batch(r: random.Random) -> list[Step]:
    return [
        source(r),
        Step("a", "map", ("src",), 2),
        Step("b", "split", ("a",), 2),
        Step("g", "batch", ("b",), size=r.randint(2, 6)),
        Step("sink", "sink", ("g",)),
    ]


def train(r: random.Random) -> list[Step]:
    steps = [
        source(r),
        Step("a", "map", ("src",), 2, drop=r.choice((0, 3))),
        Step("s", "shuffle", ("a",), size=r.randint(2, 8)),
        Step("g", "batch", ("s",), size=r.randint(1, 4)),
        Step("fit", "train", ("g",), checkpoint=r.choice((None, 1, 3, 100)), grid=r.choice((0, 2))),
    ]
    return [*steps, Step("sink", "sink", ("fit",), ordered=r.random() < 0.5)]


def learn(r: random.Random) -> list[Step]:
    return [
        source(r),
        Step("fit", "train", ("src",), checkpoint=r.choice((1, 2, 5))),
        Step("sink", "sink", ("fit",), ordered=r.random() < 0.5),
    ]


def diamond(r: random.Random) -> list[Step]:
    steps = [
        source(r),
        Step("a", "map", ("src",), 2),
        Step("b", "split" if r.random() < 0.5 else "map", ("src",), 2),
    ]
    if r.random() < 0.5:
        return [*steps, Step("sink", "sink", ("a", "b"), ordered=True)]
    return [*steps, Step("g", "batch", ("a", "b"), size=3), Step("sink", "sink", ("g",))]


def regroup(r: random.Random) -> list[Step]:
    return [
        source(r),
        Step("a", "map", ("src",), 2, drop=r.choice((0, 4))),
        Step("g", "batch", ("a",), size=r.randint(2, 5)),
        Step("h", "rechunk", ("g",), size=r.randint(1, 6)),
        Step("u", "unbatch", ("h",), 2),
        Step("sink", "sink", ("u",), ordered=True),
    ]


def two_sources(r: random.Random) -> list[Step]:
    other = Step("src2", "source", size=r.randint(1, 12), epochs=r.randint(1, 2))
    return [
        source(r),
        other,
        Step("a", "map", ("src", "src2"), 2),
        Step("g", "batch", ("a",), size=4),
        Step("sink", "sink", ("g",), ordered=True),
    ]


def fan_out(r: random.Random) -> list[Step]:
    return [
        source(r),
        Step("a", "map", ("src",), 2, drop=r.choice((0, 3))),
        Step("g", "batch", ("a",), size=3),
        Step("sink", "sink", ("g",)),
        Step("sink2", "sink", ("a",), 2),
        Step("sink3", "sink", ("a",), ordered=True),
    ]


def epochs(r: random.Random) -> list[Step]:
    return [
        source(r),
        Step("a", "map", ("src",), 2, drop=r.choice((0, 3))),
        Step("fit", r.choice(("teach", "bell")), ("a",), checkpoint=r.choice((None, 1, 3))),
        Step("b", "map", ("fit",), 2, drop=r.choice((0, 3))),
        Step("sink", "sink", ("b",), ordered=r.random() < 0.7),
    ]


def twice(r: random.Random) -> list[Step]:
    """Two stages with hooks in a row, sometimes with something between them or a second arm around them."""
    steps = [source(r), Step("one", r.choice(("train", "teach", "bell")), ("src",), checkpoint=r.choice((None, 1, 4)))]
    above = "one"
    if r.random() < 0.5:
        between = r.choice(("map", "split", "batch", "shuffle", "rechunk"))
        if between == "rechunk":
            steps.append(Step("g", "batch", ("one",), size=2))
            above = "g"
        steps.append(Step("mid", between, (above,), size=r.randint(1, 3)))
        above = "mid"
    inputs = (above, "src") if r.random() < 0.4 else (above,)
    steps.append(Step("two", r.choice(("train", "teach", "bell")), inputs, checkpoint=r.choice((None, 1, 4))))
    return [*steps, Step("sink", "sink", ("two",), ordered=True), Step("log", "sink", ("one",))]


def nothing(r: random.Random) -> list[Step]:
    """A source without items, or a stage that drops them all."""
    empty = r.random() < 0.5
    kind = r.choice(("batch", "shuffle", "train", "teach", "split", "map"))
    return [
        source(r, size=0 if empty else None),
        Step("a", "map", ("src",), r.randint(1, 2), drop=0 if empty else 1),
        Step("g", kind, ("a",), size=3),
        Step("sink", "sink", ("g",), ordered=r.random() < 0.5),
    ]


def uneven(r: random.Random) -> list[Step]:
    """Partitions of which some end early, in one worker or several, below them what needs source order."""
    return [
        Step("src", "source", workers=r.randint(1, 3), size=r.randint(1, 12), partitions=3, epochs=r.randint(1, 3),
             uneven=True),
        Step("a", "map", ("src",), 2, drop=r.choice((0, 2))),
        Step("g", r.choice(("batch", "shuffle", "teach")), ("a",), size=r.randint(2, 9)),
        Step("sink", "sink", ("g",), ordered=r.random() < 0.5),
    ]  # fmt: skip


def drop_last(r: random.Random) -> list[Step]:
    return [
        source(r),
        Step("a", "split" if r.random() < 0.5 else "map", ("src",), 2),
        Step("g", "batch", ("a",), size=r.randint(2, 9), drop_last=True),
        Step("u", "unbatch", ("g",), 2),
        Step("h", "batch", ("u",), size=r.randint(1, 5), drop_last=r.random() < 0.5),
        Step("sink", "sink", ("h",), ordered=r.random() < 0.5),
    ]


def wide(r: random.Random) -> list[Step]:
    """A split with many children, below it what must hold them in order."""
    size = r.randint(1, 3)
    return [
        Step("src", "source", size=size),
        Step("a", "split", ("src",), r.randint(1, 3), fan=200 // size),
        Step("b", r.choice(("map", "batch", "shuffle")), ("a",), size=30),
        Step("sink", "sink", ("b",), ordered=True),
    ]


def nested(r: random.Random) -> list[Step]:
    """Splits of splits, with drops on every level."""
    steps = [
        source(r, size=r.randint(1, 6)),
        Step("a", "split", ("src",), r.randint(1, 3)),
        Step("b", "map", ("a",), r.randint(1, 2), drop=r.choice((0, 3))),
        Step("c", "split", ("b",), r.randint(1, 3)),
        Step("d", "map", ("c",), r.randint(1, 2), drop=r.choice((0, 3))),
    ]
    if r.random() < 0.3:
        steps.append(Step("e", "split", ("d",), 2))
    sinks = [Step("sink", "sink", (steps[-1].name,), ordered=True)]
    if r.random() < 0.3:
        sinks.append(Step("log", "sink", ("b", "d"), ordered=True))
    return [*steps, *sinks]


def rechunks(r: random.Random) -> list[Step]:
    """Batches cut anew twice: a group's rows are spread over saves."""
    return [
        source(r),
        Step("g", "batch", ("src",), size=r.randint(1, 6)),
        Step("h", "rechunk", ("g",), size=r.randint(1, 9)),
        Step("i", "rechunk", ("h",), size=r.randint(1, 9)),
        Step("sink", "sink", ("i",), r.choice((1, 3))),
        Step("log", "sink", ("h",), ordered=True),
    ]


def commits(r: random.Random) -> list[Step]:
    """Sinks with several workers each, behind a stage with several."""
    return [
        source(r, size=r.randint(1, 40)),
        Step("a", "split" if r.random() < 0.3 else "map", ("src",), 3),
        Step("sink", "sink", ("a",), 3),
        Step("log", "sink", ("a", "src"), 2),
    ]


def switch(r: random.Random) -> list[Step]:
    """Items that go to one of two outputs, whose readers meet again below."""
    steps = [
        source(r),
        Step("route", "route", ("src",), r.randint(1, 3), fan=r.choice((0, 0, 3))),
        Step("a", "map", ("route.a",), 2, drop=r.choice((0, 3))),
        Step("b", r.choice(("map", "split")), ("route.b",), 2),
        Step("sink", "sink", ("a", "b"), ordered=r.random() < 0.6),
    ]
    if r.random() < 0.5:
        steps.append(Step("g", "batch", ("route.a",) if r.random() < 0.5 else ("route.a", "route.b"), size=3))
        steps.append(Step("log", "sink", ("g",)))
    return steps


def meet(r: random.Random) -> list[Step]:
    """Arms that part at a fork and are joined, with drops on each, below anything."""
    steps = [source(r, size=r.choice((None, 30)))]
    fork = "src"
    above = r.choice(("", "map", "split", "teach", "bell", "batch"))
    if above:
        steps.append(Step("up", above, (fork,), 2 if above in ("map", "split") else 1, size=2, drop=r.choice((0, 3))))
        fork = "up"
    steps.append(Step("a", "map", (fork,), r.randint(1, 3), drop=r.choice((0, 2, 4))))
    steps.append(Step("b", "map", (fork,), r.randint(1, 2), drop=r.choice((0, 0, 3, 1))))
    arms = r.choice((("a", "b"), ("b", "a"), ("a", "b", fork), (fork, "b"), ("b", "i"), ("i", "a")))
    if "i" in arms:  # an arm with a join of its own
        steps.append(Step("c", "map", ("a" if r.random() < 0.5 else fork,), drop=r.choice((0, 3))))
        steps.append(Step("i", "join", r.choice((("a", "c"), ("c", "a")))))
    steps.append(Step("j", "join", arms))
    if r.random() < 0.4:
        steps.append(Step("g", "batch", ("j",), size=3))
    steps.append(Step("sink", "sink", (steps[-1].name,), ordered=r.random() < 0.5))
    return [*steps, *[Step("log", "sink", ("a",))][: r.randint(0, 1)]]


def apart(r: random.Random) -> list[Step]:
    """Two sources that are joined on the position or on a field, with drops on each arm."""
    by_field = r.random() < 0.6
    one = source(r, size=r.choice((None, 25)))
    partitions = r.randint(1, 3) if by_field else one.partitions
    steps = [
        one,
        Step("src2", "source", size=r.randint(0, 25), partitions=partitions, epochs=r.choice((1, 1, 2))),
        Step("a", "tag" if by_field else "map", ("src",), r.randint(1, 3), drop=r.choice((0, 2, 4))),
        Step("b", "tag" if by_field else "map", ("src2",), r.randint(1, 2), drop=r.choice((0, 0, 3))),
    ]
    arms = r.choice((("a", "b"), ("b", "a")))
    if by_field and r.random() < 0.5:
        steps.append(Step("c", "spread", ("a",), r.randint(1, 2)))
        arms = r.choice((("c", "b"), ("b", "c"), ("a", "b", "c")))
    on, within = ("field:id", r.choice((0, 1, 3, 100))) if by_field else ("position", 0)
    steps.append(Step("j", "join_on", arms, on=on, within=within))
    if r.random() < 0.4:
        steps.append(Step("g", "batch", ("j",), size=3))
    steps.append(Step("sink", "sink", (steps[-1].name,), ordered=r.random() < 0.5))
    return [*steps, *[Step("log", "sink", ("a",))][: r.randint(0, 1)]]


def blocks(r: random.Random) -> list[Step]:
    """Calls for several items at once, which may wait for more; below, what needs source order, or arms that meet."""
    steps = [
        source(r, size=r.choice((None, 30))),
        Step("a", "map", ("src",), 2, drop=r.choice((0, 3))),
        Step("b", "map", ("a",), r.randint(1, 3), drop=r.choice((0, 2)), block=r.randint(1, 9),
             wait_s=r.choice((0.0, 0.01, 0.1))),
        Step("sink", "sink", ("b",), ordered=r.random() < 0.6),
    ]  # fmt: skip
    return [*steps, *[Step("j", "join", ("a", "b")), Step("log", "sink", ("j",))][: r.choice((0, 2))]]


def gathered(r: random.Random) -> list[Step]:
    """Groups in the order of arrival."""
    return [
        source(r, size=r.choice((None, 30))),
        Step("a", "map", ("src",), r.randint(1, 2), drop=r.choice((0, 3))),
        Step("g", "batch", ("a",), r.randint(1, 3), block=r.randint(1, 7), wait_s=r.choice((0.0, 0.01, 0.1))),
        Step("b", "map", ("g",), 2),
        Step("sink", "sink", ("b",), r.randint(1, 2)),
    ]


def newest(r: random.Random) -> list[Step]:
    """Readers that get no more than the latest items, beside one that gets them all."""
    kind = r.choice(("map", "map", "split", "train", "teach"))
    return [
        source(r, size=r.choice((None, 40))),
        Step("a", kind, ("src",), r.randint(1, 3) if kind in ("map", "split") else 1, drop=r.choice((0, 3)),
             checkpoint=r.choice((None, 1, 3)) if kind in ("train", "teach") else None),
        Step("sink", "sink", ("a",), ordered=r.random() < 0.5),
        Step("b", "map", ("a",), r.randint(1, 3), latest=True),
        Step("late", "sink", ("b",), r.randint(1, 2)),
        Step("last", "sink", ("a",), r.randint(1, 2), latest=True),
    ]  # fmt: skip


def ailing(r: random.Random) -> list[Step]:
    """Items that fail for a while or always, or that kill their worker, at stages of any form, above order or groups.

    Above groups none fails for a while only: who is in which would depend on which of two lives called it last.
    """
    form = r.choice(("map", "map", "split", "block", "sink"))
    retries = r.choice((None, 0, 1, 3))
    steps = [source(r, size=r.choice((None, 25))), Step("a", "map", ("src",), 2, drop=r.choice((0, 3)))]
    if form == "sink":
        return [*steps, Step("sink", "sink", ("a",), r.randint(1, 3), ails=True, retries=retries)]
    block = r.randint(2, 6) if form == "block" else 0
    kind, ordered = "map" if block else form, not block and r.random() < 0.3
    workers = 1 if ordered else r.randint(1, 3)
    groups = form != "split" and r.random() < 0.4
    ails: dict[str, Any] = {"ails": True, "retries": retries, "fickle": not groups}
    steps.append(Step("b", kind, ("a",), workers, ordered=ordered, block=block, **ails))
    if r.random() < 0.4:
        steps.append(Step("c", "map", ("b",), r.randint(1, 2), **ails))
    if groups:
        steps.append(Step("g", "batch", (steps[-1].name,), size=3))
    return [*steps, Step("sink", "sink", (steps[-1].name,), ordered=r.random() < 0.6)]


def outside(r: random.Random) -> list[Step]:
    """A stage whose items are done by workers outside, above order, or groups where none ails.

    Chance may make a dead letter of any: who is in which group would depend on that.
    """
    ails: dict[str, Any] = {}
    if r.random() < 0.4:
        ails = {"ails": True, "retries": r.choice((None, 0, 1, 3)), "fickle": False}
    steps = [
        source(r, size=r.choice((None, 25))),
        Step("a", "map", ("src",), 2, drop=r.choice((0, 3))),
        Step("b", "gate", ("a",), drop=r.choice((0, 3)), **ails),
    ]
    if r.random() < 0.4 and not ails:
        steps.append(Step("g", "batch", ("b",), size=3))
    elif r.random() < 0.3:
        steps.append(Step("c", "gate", ("b",)))
    return [*steps, Step("sink", "sink", (steps[-1].name,), ordered=r.random() < 0.6)]


SCENARIOS: tuple[Callable[[random.Random], list[Step]], ...] = (
    linear,
    ordered,
    split,
    batch,
    split_batch,
    train,
    learn,
    diamond,
    regroup,
    two_sources,
    fan_out,
    epochs,
    twice,
    nothing,
    uneven,
    drop_last,
    wide,
    nested,
    rechunks,
    commits,
    switch,
    meet,
    apart,
    blocks,
    gathered,
    newest,
    ailing,
    outside,
)


def source(r: random.Random, size: int | None = None) -> Step:
    partitions = r.choice((1, 1, 2, 3))
    return Step(
        "src",
        "source",
        workers=r.randint(1, partitions),
        size=r.randint(1, 14) if size is None else size,
        partitions=partitions,
        epochs=r.choice((1, 1, 2)),
    )


def limits(r: random.Random) -> Limits:
    """Draw limits, most of them tight: 2 to 8 items."""
    drawn = Limits(
        frame_items=r.choice((1, 2, 4, 64)),
        commit_items=r.choice((1, 3, 256)),
        window_max=r.choice((1, 4, 64)),
        flight_s=r.choice((0.0, 0.01)),
        source_items=r.choice((2, 3, 5, 8, 64)),
        source_bytes=r.choice((200, 500, 10**6)),
        budget_bytes=r.choice((100, 400, 10**6)),
        held_bytes=r.choice((0, 300, 10**9)),
        held_items=r.choice((0, 2)),
        recent=r.choice((1, 1024)),
    )
    return replace(drawn, stacked_items=drawn.source_items)


def faults(r: random.Random) -> Faults:
    """Draw what goes wrong, but not the loss of power of a run that is told to stop: see what is not promised."""
    stop_s, power = r.choice((None, None, None, 0.02 + 0.3 * r.random())), r.choice((0.0, 0.5))
    return Faults(
        kills=r.choice((0.0, 5.0, 20.0, 60.0)),
        mid_action=r.choice((0.0, 0.5, 1.0)),
        massacres=r.choice((0.0, 0.0, 2.0, 6.0)),
        pauses=r.choice((0.0, 0.0, 8.0)),
        pause_s=r.choice((0.05, 2.0)),
        cuts=r.choice((0.0, 5.0, 30.0)),
        losses=r.choice((0.0, 0.0, 20.0)),
        registry_kills=r.choice((0.0, 0.0, 3.0)),
        omissions=r.choice((0.0, 0.0, 8.0)),
        zombies=r.choice((0.0, 0.0, 8.0)),
        late=r.choice((0.0, 0.9)),
        stop_s=stop_s,
        until_s=r.choice((0.5, 1.0, 3.0)),
        held_up=r.choice((0.0, 0.0, 0.1)),
        in_call=r.choice((0.0, 0.0, 0.0, 0.03)),
        full=r.choice((0.0, 0.0, 0.1, 0.5)),
        drains=r.choice((0.0, 0.0, 10.0)),
        one_ways=r.choice((0.0, 0.0, 8.0)),
        one_way_s=r.choice((0.3, 3.0)),
        delay_s=r.choice((0.0, 0.0, 0.0, 0.2)),
        repeats=r.choice((0.0, 0.0, 0.3)),
        registry_every_s=r.choice((0.0, 0.0, 0.0, 0.7)),
        blackouts=r.choice((0.0, 0.0, 2.0, 8.0)),
        power=power if stop_s is None else 0.0,
        outside=r.choice((0.0, 0.05, 0.3)),
    )
