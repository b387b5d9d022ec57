"""The registry's machine: admission, rosters, watermarks, the end, restarts, strange requests."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from zpipe.core.outcomes import Action, Down, Ended, Push, Reply, Store, Stored
from zpipe.core.registry import Registry
from zpipe.values.plan import EdgePlan, Plan, StagePlan
from zpipe.wire import control as wire

CROPS, CLEAN, BATCH, OUT = 0, 1, 2, 3


def stage(number: int, name: str, role: str, **more: Any) -> StagePlan:
    fields: dict[str, Any] = {
        "number": number,
        "name": name,
        "stage": name.partition("/")[0],
        "role": role,
        "run": f"stages:{name}",
        "args": {},
        "env": {},
        "workers": 1,
        "form": "source" if role == "source" else "map",
        "hooks": (),
        "memory": False,
        "splits": False,
        "inputs": (),
        "outputs": (),
        "lanes": (0, 1),
        "depths": (),
        "hook_lane": None,
        "hooks_above": (),
    }
    return StagePlan(**{**fields, **more})


def make_plan() -> Plan:
    """crops (2 partitions, 2 workers) -> clean (3) -> batch (memory) -> out"""
    stages = (
        stage(CROPS, "crops", "source", workers=2, partitions=2, outputs=(0,)),
        stage(CLEAN, "clean", "transform", workers=3, inputs=(0,), outputs=(1,)),
        stage(BATCH, "batch", "transform", memory=True, inputs=(1,), outputs=(2,)),
        stage(OUT, "out", "sink", inputs=(2,)),
    )
    edges = (EdgePlan(0, 0, 1, True), EdgePlan(1, 1, 2, True), EdgePlan(2, 2, 3, False))
    return Plan("textures", "/tmp", stages, edges, {0: "crops[0]", 1: "crops[1]"}, {0: 0, 1: 1})


class Bench:
    """A registry on a table: time by hand, stores in a dict that outlives it."""

    def __init__(self, plan: Plan | None = None) -> None:
        self.plan = plan or make_plan()
        self.now_s = 100.0
        self.rows: dict[tuple[str, str], Any] = {}
        self.pushed: list[Push] = []
        self.ended: list[Ended] = []
        self.epoch = 0
        self.starts_workers = False
        self.key = ""  # that the connection of the next request has proven
        self.restart()

    def restart(self) -> None:
        self.epoch += 1
        stored = Stored.from_rows([(*key, value) for key, value in self.rows.items()])
        self.registry = Registry(
            self.plan, run_key=7, epoch=self.epoch, stored=stored, welcome={"run_folder": "/r"},
            starts_workers=self.starts_workers,
        )  # fmt: skip

    def take(self, actions: list[Action]) -> list[dict[str, Any]]:
        replies = []
        for action in actions:
            if isinstance(action, Store):
                if action.value is None:
                    self.rows.pop((action.kind, action.key), None)
                else:
                    self.rows[action.kind, action.key] = action.value
            elif isinstance(action, Reply):
                replies.append(wire.decode(wire.encode(action.message)))
            elif isinstance(action, Push):
                self.pushed.append(action)
            elif isinstance(action, Ended):
                self.ended.append(action)
        return replies

    def say(self, message: dict[str, Any], peer: bytes = b"") -> dict[str, Any]:
        self.pushed.clear()
        peer = peer or int(message.get("inc") or 0).to_bytes(8, "big")
        (reply,) = self.take(self.registry.step(self.now_s, peer, {"rid": 5, **message}, self.key))
        assert reply["rid"] == 5
        return reply

    def hello(self, stage: str, inc: int, **more: Any) -> dict[str, Any]:
        who = {"inc": inc, "stage": stage, "slot": None, "pid": 1000 + inc, "host": "h", "proto": [1, 0]}
        return self.say({"t": "HELLO", **who, **more})

    def beat(self, inc: int, ver: int = 0, state: str = "live", **more: Any) -> dict[str, Any]:
        news: dict[str, Any] = {
            "inbox": [f"ipc:///{inc}"],
            "acks": [f"ipc:///a{inc}"],
            "counters": {},
            "running": None,
        }
        return self.say({"t": "BEAT", "inc": inc, "epoch": self.epoch, "ver": ver, "state": state, **news, **more})

    def join(self, stage: str, inc: int, **more: Any) -> dict[str, Any]:
        welcome = self.hello(stage, inc, **more)
        assert welcome["t"] == "WELCOME", welcome
        self.beat(inc)
        return welcome

    def tick(self, after_s: float = 0.0) -> None:
        self.pushed.clear()
        self.now_s += after_s
        self.take(self.registry.tick(self.now_s))

    def table(self) -> dict[str, Any]:
        return self.say({"t": "PS"}, b"cli")

    def told(self) -> dict[int, dict[str, Any]]:
        return {int.from_bytes(push.peer, "big"): push.message for push in self.pushed}

    def complete(self, inc: int, *sources: int, at: int = 10) -> dict[str, Any]:
        return self.beat(inc, sources={n: [at, 0, 0, True] for n in sources})


@pytest.fixture
def bench() -> Bench:
    return Bench()


def peers(message: dict[str, Any]) -> list[str]:
    return [peer["worker"] for peer in message["roster"]["peers"]]


def refused(reply: dict[str, Any], code: int, *words: str) -> None:
    assert (reply["t"], reply["code"]) == ("ERR", code)
    for word in words:
        assert word in reply["text"]


# admission


def test_a_welcome_says_who_the_worker_is(bench: Bench) -> None:
    welcome = bench.hello("clean", 11)
    assert (welcome["worker"], welcome["slot"], welcome["stage_number"], welcome["fence"]) == (
        "clean-1",
        0,
        CLEAN,
        1,
    )
    assert (welcome["run_key"], welcome["epoch"], welcome["run_folder"], welcome["ver"]) == (7, 1, "/r", 0)
    assert (welcome["t"], welcome["proto"]) == ("WELCOME", [1, 0])
    assert Plan.from_dict(welcome["plan"]) == bench.plan


def test_workers_take_the_lowest_free_slot_or_the_one_given(bench: Bench) -> None:
    assert bench.hello("clean", 11, slot=1)["worker"] == "clean-2"
    assert bench.hello("clean", 12)["worker"] == "clean-1"
    assert bench.hello("clean", 13)["worker"] == "clean-3"


def test_a_stage_without_memory_takes_more_workers_than_planned(bench: Bench) -> None:
    names = [bench.hello("clean", inc)["worker"] for inc in range(11, 16)]
    assert names[-1] == "clean-5"


def test_partitions_belong_to_the_slots_of_their_source(bench: Bench) -> None:
    assert bench.hello("crops", 1)["partitions"] == [0]
    assert bench.hello("crops", 2)["partitions"] == [1]
    one = Bench(Plan("p", "/", (stage(0, "s", "source", partitions=2),), (), {0: "s[0]", 1: "s[1]"}, {0: 0, 1: 1}))
    assert one.hello("s", 1)["partitions"] == [0, 1]


def test_an_extra_worker_of_a_source_is_refused(bench: Bench) -> None:
    bench.hello("crops", 1)
    bench.hello("crops", 2)
    refused(bench.hello("crops", 3), 409, "source 'crops'", "2 partitions")


def test_a_second_worker_of_a_stage_with_memory_is_refused(bench: Bench) -> None:
    bench.hello("batch", 1)
    refused(bench.hello("batch", 2), 409, "'batch'", "has a memory", "batch-1 (pid 1001 on h)")


def test_a_stage_with_memory_has_its_first_slot_only(bench: Bench) -> None:
    refused(bench.hello("batch", 1, slot=1), 409, "'batch'", "has a memory")


def test_a_life_in_the_place_of_one_that_nobody_knows_takes_the_lowest_free_slot(bench: Bench) -> None:
    assert bench.hello("clean", 1, replaces=99)["slot"] == 0


def test_a_held_slot_is_refused_and_names_its_holder(bench: Bench) -> None:
    bench.hello("clean", 1, slot=0)
    refused(bench.hello("clean", 2, slot=0), 409, "slot 0", "clean-1 (pid 1001 on h)")


def test_an_unknown_stage_is_refused_with_what_may_have_been_meant(bench: Bench) -> None:
    refused(bench.hello("claen", 1), 404, "'claen'", "did you mean 'clean'?")
    refused(bench.hello("zzz", 1), 404, "'zzz'", "there are crops, clean, batch, out")


def test_the_base_name_of_variants_is_refused_with_their_names() -> None:
    fits = tuple(stage(k + 1, f"fit/lr={lr}", "sink") for k, lr in enumerate((0.1, 0.2)))
    bench = Bench(Plan("p", "/", (stage(0, "s", "source"), *fits), (), {0: "s"}, {0: 0}))
    refused(bench.hello("fit", 1), 404, "has variants: name one of fit/lr=0.1, fit/lr=0.2")
    assert bench.hello("fit/lr=0.2", 1)["worker"] == "fit/lr=0.2-1"


def test_another_major_version_is_refused_with_both_versions(bench: Bench) -> None:
    refused(bench.hello("clean", 1, proto=[2, 3]), 426, "1.0", "2.3")
    assert bench.hello("clean", 1, proto=[1, 9])["t"] == "WELCOME"


def test_of_a_new_life_only_its_beats_are_believed(bench: Bench) -> None:
    bench.hello("clean", 1, state="live", inbox=["ipc:///1"])
    assert [row["state"] for row in bench.table()["workers"]] == ["joining"]


def test_a_repeated_hello_is_answered_alike(bench: Bench) -> None:
    assert bench.hello("clean", 1) == bench.hello("clean", 1)
    assert len(bench.table()["workers"]) == 1


def test_a_new_life_that_names_the_old_one_takes_its_slot_and_name(bench: Bench) -> None:
    bench.join("clean", 1)
    bench.join("clean", 2)
    welcome = bench.hello("clean", 3, replaces=1)
    assert (welcome["worker"], welcome["fence"]) == ("clean-1", 2)
    refused(bench.beat(1), 410, "clean-1", "replaced")


def test_a_supervisor_starts_a_next_life_in_its_slot(bench: Bench) -> None:
    bench.join("clean", 1, slot=0, supervisor="h:1")
    refused(bench.hello("clean", 2, slot=0, supervisor="h:2"), 409, "held")
    assert bench.hello("clean", 3, slot=0, supervisor="h:1")["fence"] == 2


def test_a_reported_death_frees_the_slot_at_once(bench: Bench) -> None:
    bench.join("clean", 1, slot=2)
    bench.say({"t": "DIED", "inc": 1, "worker": "clean-3", "signal": 9})
    assert bench.hello("clean", 2, slot=2)["worker"] == "clean-3"
    refused(bench.beat(1), 410, "clean-3 died")


def test_a_life_that_replaces_a_reported_death_keeps_its_slot(bench: Bench) -> None:
    bench.join("clean", 1, slot=2)
    bench.say({"t": "DIED", "inc": 1})
    assert bench.hello("clean", 2, replaces=1)["worker"] == "clean-3"


def test_a_death_is_found_by_its_process(bench: Bench) -> None:
    bench.join("clean", 1)
    assert bench.say({"t": "DIED", "pid": 1001, "host": "elsewhere", "worker": "clean-1"})["t"] == "OK"
    assert [row["inc"] for row in bench.table()["workers"]] == [1]
    bench.say({"t": "DIED", "pid": 1001, "host": "h", "worker": "clean-1", "exit": 1})
    assert bench.table()["workers"] == []


def test_a_next_life_of_a_source_hears_how_far_earlier_ones_have_got(bench: Bench) -> None:
    bench.join("crops", 1, slot=0)
    bench.beat(1, sources={0: [4, 0, 0, False, 9]})
    bench.say({"t": "DIED", "inc": 1, "reach": {"0": 12, "7": 3}})
    bench.restart()
    assert bench.hello("crops", 2, slot=0)["reach"] == {0: 12}
    bench.say({"t": "DIED", "inc": 2, "reach": {0: 5}})
    assert bench.hello("crops", 3, slot=0)["reach"] == {0: 12}


def test_how_far_a_source_has_got_is_stored_when_it_is_news(bench: Bench) -> None:
    stores = []
    for reach in (0, 1, 1):
        actions = bench.registry.step(bench.now_s, b"s", {"t": "DIED", "pid": 9, "reach": {1: reach}})
        stores.append([a for a in actions if isinstance(a, Store) and a.kind == "reach"])
    assert stores == [[], [Store("reach", "1", 1)], []]
    assert [bench.hello("crops", inc)["reach"] for inc in (1, 2)] == [{0: 0}, {1: 1}]


def test_the_dead_may_have_read_as_many_sources_as_there_may_be(bench: Bench) -> None:
    assert bench.say({"t": "DIED", "pid": 9, "reach": dict(enumerate(range(4096)))})["t"] == "OK"


def test_how_far_a_source_has_got_is_at_least_what_it_told_itself(bench: Bench) -> None:
    bench.join("crops", 1, slot=0)
    bench.beat(1, sources={0: [4, 0, 0, False, 9]})
    bench.say({"t": "DIED", "inc": 1})
    assert bench.hello("crops", 2, slot=0)["reach"] == {0: 9}


def test_a_life_that_begins_after_a_stop_is_told_so_at_once(bench: Bench) -> None:
    assert bench.hello("crops", 1, slot=0)["desired"] == "run"
    bench.say({"t": "STOP"}, b"cli")
    assert bench.hello("crops", 2, slot=1)["desired"] == "drain"
    assert bench.hello("clean", 3)["desired"] == "run"


def test_a_hello_that_arrives_after_the_death_of_its_sender_is_refused(bench: Bench) -> None:
    bench.say({"t": "DIED", "inc": 1, "worker": "clean-1"})
    bench.say({"t": "DIED", "pid": 1002, "host": "h", "worker": "clean-2"})
    refused(bench.hello("clean", 1), 410, "died")
    refused(bench.hello("clean", 2), 410, "1002")
    assert bench.hello("clean", 3)["t"] == "WELCOME"


def test_a_death_is_found_by_the_name_of_its_worker(bench: Bench) -> None:
    bench.join("clean", 1)
    bench.join("clean", 2)
    bench.say({"t": "DIED", "worker": "clean-2"})
    assert [row["inc"] for row in bench.table()["workers"]] == [1]


def test_the_dead_are_told_what_became_of_them(bench: Bench) -> None:
    bench.join("clean", 1)
    bench.say({"t": "BYE", "inc": 1})
    bench.say({"t": "DIED", "inc": 2, "worker": "clean-7"})
    bench.say({"t": "DIED", "inc": 3})
    refused(bench.beat(1), 410, "clean-1 has left: let it end")
    refused(bench.hello("clean", 2), 410, "clean-7 died: let it end")
    refused(bench.hello("clean", 3), 410, "a worker died: let it end")


def test_only_so_many_of_the_dead_are_remembered_the_latest(bench: Bench) -> None:
    for inc in range(1, 4098):
        bench.say({"t": "DIED", "inc": inc})
        bench.say({"t": "DIED", "pid": inc, "host": "far"})
    assert bench.hello("clean", 1)["t"] == "WELCOME"
    refused(bench.hello("clean", 2), 410)
    assert bench.hello("clean", 5001, pid=1, host="far")["t"] == "WELCOME"
    refused(bench.hello("clean", 5002, pid=2, host="far"), 410)


def test_the_place_of_a_life_is_forgotten_with_it(bench: Bench) -> None:
    bench.join("clean", 1, slot=2)
    for inc in range(1, 4098):
        bench.say({"t": "DIED", "inc": inc})
    assert bench.hello("clean", 5001, replaces=1)["slot"] == 0


# rosters


def test_only_live_workers_are_in_rosters(bench: Bench) -> None:
    bench.join("crops", 1)
    bench.hello("clean", 11)
    assert peers(bench.beat(1)) == []
    assert "roster" not in bench.beat(11, state="joining")
    assert peers(bench.beat(11)) == ["crops-1"]
    assert peers(bench.beat(1)) == ["clean-1"]
    bench.beat(11, state="drain")
    assert peers(bench.beat(1)) == ["clean-1"]


def test_a_roster_holds_both_sides_of_a_workers_edges_and_nobody_else(bench: Bench) -> None:
    for inc, name in enumerate(("crops", "clean", "clean", "batch", "out"), start=1):
        bench.join(name, inc)
    assert peers(bench.beat(1)) == ["clean-1", "clean-2"]
    assert peers(bench.beat(2)) == ["crops-1", "batch-1"]
    assert peers(bench.beat(4)) == ["clean-1", "clean-2", "out-1"]
    assert bench.beat(5)["roster"]["peers"] == [
        {"inc": 4, "stage_number": BATCH, "worker": "batch-1", "inbox": ["ipc:///4"], "acks": ["ipc:///a4"]}
    ]


def test_a_change_is_pushed_to_those_whom_it_concerns(bench: Bench) -> None:
    bench.join("crops", 1)
    bench.join("out", 5)
    bench.hello("clean", 2)
    reply = bench.beat(2)
    assert peers(reply) == ["crops-1"]
    assert list(bench.told()) == [1]
    assert peers(bench.told()[1]) == ["clean-1"]
    bench.say({"t": "DIED", "inc": 2})
    assert list(bench.told()) == [1]
    assert peers(bench.told()[1]) == []


def test_a_long_roster_waits_until_more_has_changed(bench: Bench) -> None:
    bench.join("crops", 1)
    for inc in range(2, 36):
        bench.join("clean", inc)
    assert 1 not in bench.told()  # it was told of the 33rd just now
    bench.tick(0.1)
    assert 1 not in bench.told()
    bench.tick(0.1)
    assert len(peers(bench.told()[1])) == 34
    bench.tick(0.2)
    assert bench.told() == {}
    bench.say({"t": "DIED", "inc": 2})
    assert len(peers(bench.told()[1])) == 33  # one change goes at once
    bench.say({"t": "DIED", "inc": 3})
    assert 1 not in bench.told()
    assert len(peers(bench.beat(1))) == 32  # who asks is told
    bench.tick(0.2)
    assert bench.told() == {}


def wide() -> Bench:
    """A source, and two stages of as many workers as come."""
    stages = (
        stage(0, "crops", "source", outputs=(0,)),
        stage(1, "clean", "transform", inputs=(0,), outputs=(1,)),
        stage(2, "out", "sink", inputs=(1,)),
    )
    edges = (EdgePlan(0, 0, 1, False), EdgePlan(1, 1, 2, False))
    return Bench(Plan("wide", "/tmp", stages, edges, {0: "crops"}, {0: 0}))


def test_where_many_would_be_linked_to_many_each_gets_some() -> None:
    bench, each = wide(), 120
    bench.join("crops", 1)
    for k in range(each):
        bench.join("clean", 1000 + k)
        bench.join("out", 2000 + k)
    rosters = {inc: peers(bench.beat(inc)) for k in range(each) for inc in (1000 + k, 2000 + k)}
    assert all("crops-1" in rosters[1000 + k] for k in range(each))
    assert len(peers(bench.beat(1))) == each
    counts = [sum(name != "crops-1" for name in found) for found in rosters.values()]
    assert min(counts) >= 32 and sum(counts) / len(counts) < 80
    bench.tick(1.0)
    bench.told()
    bench.say({"t": "DIED", "inc": 2000})
    concerned = set(rosters[2000])
    told = bench.told()
    assert concerned <= {f"clean-{inc - 999}" for inc in told if 1000 <= inc < 2000}
    assert len(told) < 2 * len(concerned)


def test_the_end_of_a_worker_that_was_in_no_roster_is_pushed_to_nobody(bench: Bench) -> None:
    bench.join("crops", 1)
    bench.hello("clean", 2)
    bench.say({"t": "DIED", "inc": 2})
    assert bench.told() == {}


def test_versions_rise_with_each_change_and_a_known_one_is_not_repeated(bench: Bench) -> None:
    bench.join("crops", 1)
    first = bench.beat(1)["ver"]
    assert "roster" not in bench.beat(1, ver=first)
    bench.join("clean", 2)
    second = bench.beat(1, ver=first)
    assert second["ver"] > first
    assert "roster" in second


def test_a_state_names_the_life_of_the_registry(bench: Bench) -> None:
    bench.join("clean", 1)
    state = bench.beat(1)
    assert (state["t"], state["epoch"]) == ("STATE", 1)


def test_a_moved_inbox_is_a_change(bench: Bench) -> None:
    bench.join("crops", 1)
    bench.join("clean", 2)
    bench.beat(2, inbox=["tcp://127.0.0.1:9"])
    assert bench.told()[1]["roster"]["peers"][0]["inbox"] == ["tcp://127.0.0.1:9"]
    bench.beat(2, inbox=["tcp://127.0.0.1:9"])
    assert bench.told() == {}


def test_a_worker_never_goes_back_to_an_earlier_state(bench: Bench) -> None:
    bench.join("clean", 1)
    bench.beat(1, state="joining")
    assert bench.table()["workers"][0]["state"] == "live"


# strangers


def test_a_stranger_is_told_to_say_hello(bench: Bench) -> None:
    refused(bench.beat(1), 404, "HELLO")
    refused(bench.say({"t": "FAILED", "inc": 1, "error": "x"}), 404)


# sources and the end


def test_watermarks_are_stored_before_anyone_hears_of_them(bench: Bench) -> None:
    bench.join("crops", 1)
    message = {
        "t": "BEAT",
        "inc": 1,
        "epoch": 1,
        "ver": 0,
        "state": "live",
        "sources": {0: [42, 1, 40, False]},
    }
    actions = bench.registry.step(bench.now_s, b"1", message)
    assert actions[0] == Store("watermark", "0", [42, 1, 40])
    assert isinstance(actions[1], Reply)
    assert actions[1].message["watermarks"] == {0: [42, 1, 40], 1: [0, 0, 0]}


def test_what_is_known_of_a_source_is_not_stored_again(bench: Bench) -> None:
    bench.join("crops", 1)
    message = {"t": "BEAT", "inc": 1, "ver": 0, "state": "live", "sources": {0: [42, 1, 40, True]}}
    stores = [
        [action for action in bench.registry.step(bench.now_s, b"1", message) if isinstance(action, Store)]
        for _ in range(2)
    ]
    assert stores == [[Store("watermark", "0", [42, 1, 40]), Store("complete", "0", True)], []]


def test_a_watermark_never_falls(bench: Bench) -> None:
    bench.join("crops", 1)
    bench.beat(1, sources={0: [42, 1, 40, False]})
    assert bench.beat(1, sources={0: [41, 1, 40, False]})["watermarks"][0] == [42, 1, 40]


def test_only_the_owner_of_a_source_tells_how_far_it_is(bench: Bench) -> None:
    bench.join("crops", 1)
    assert bench.beat(1, sources={1: [42, 0, 0, True]})["watermarks"][1] == [0, 0, 0]


def test_the_next_life_of_a_source_begins_at_its_watermark(bench: Bench) -> None:
    bench.join("crops", 1)
    bench.join("crops", 2)
    bench.beat(2, sources={1: [42, 1, 40, True]})
    welcome = bench.hello("crops", 3, replaces=2)
    assert (welcome["watermarks"], welcome["complete"]) == ({1: [42, 1, 40]}, [1])


def test_a_run_whose_sources_are_complete_is_done_when_everyone_has_left(bench: Bench) -> None:
    bench.join("crops", 1)
    bench.join("crops", 2)
    bench.join("out", 5)
    assert bench.complete(1, 0)["desired"] == "run"
    assert bench.complete(2, 1)["desired"] == "exit"
    assert {inc: state["desired"] for inc, state in bench.told().items()} == {1: "exit", 5: "exit"}
    assert bench.table()["state"] == "complete"
    for inc in (1, 2):
        bench.say({"t": "BYE", "inc": inc, "counters": {}})
    assert bench.ended == []
    bench.say({"t": "DIED", "inc": 5})
    assert bench.ended == [Ended("done", "")]
    assert bench.table()["state"] == "done"


def test_the_end_of_a_run_is_told_once(bench: Bench) -> None:
    bench.say({"t": "FAIL", "why": "gave up"}, b"cli")
    bench.tick(5.0)
    bench.say({"t": "FAIL", "why": "again"}, b"cli")
    assert bench.ended == [Ended("failed", "gave up")]


def test_nobody_joins_a_run_that_is_over(bench: Bench) -> None:
    bench.join("crops", 1)
    bench.join("crops", 2)
    bench.complete(1, 0)
    bench.complete(2, 1)
    refused(bench.hello("clean", 3), 409, "complete")


def test_a_stopped_run_drains_its_sources_and_is_interrupted(bench: Bench) -> None:
    for inc, name in ((1, "crops"), (2, "crops"), (3, "clean")):
        bench.join(name, inc)
    bench.say({"t": "STOP"}, b"cli")
    assert {inc: state["desired"] for inc, state in bench.told().items()} == {
        1: "drain",
        2: "drain",
        3: "run",
    }
    bench.say({"t": "STOP"}, b"cli")
    assert bench.told() == {}  # everyone knows
    bench.complete(1, 0)
    assert bench.complete(2, 1)["desired"] == "exit"
    for inc in (1, 2, 3):
        bench.say({"t": "BYE", "inc": inc})
    assert bench.ended == [Ended("interrupted", "")]


def test_a_run_that_is_complete_when_it_is_told_to_stop_is_done(bench: Bench) -> None:
    for inc in (1, 2):
        bench.join("crops", inc)
        bench.complete(inc, inc - 1)
    bench.say({"t": "STOP"}, b"cli")
    for inc in (1, 2):
        bench.say({"t": "BYE", "inc": inc})
    assert bench.ended == [Ended("done", "")]


def test_the_first_failure_ends_the_run_and_is_the_one_that_is_kept(bench: Bench) -> None:
    bench.join("crops", 1)
    bench.join("clean", 2)
    bench.say({"t": "FAILED", "inc": 2, "worker": "clean-1", "error": "ValueError: no", "detail": "line 3"})
    assert bench.told()[1]["desired"] == "exit"
    bench.say({"t": "FAIL", "why": "gave up"}, b"cli")
    assert bench.told() == {}  # everyone knows
    bench.say({"t": "BYE", "inc": 1})
    bench.say({"t": "BYE", "inc": 2})
    assert bench.ended == [Ended("failed", "ValueError: no")]
    table = bench.table()
    assert (table["state"], table["error"], table["detail"]) == ("failed", "ValueError: no", "line 3")
    assert table["error_worker"] == "clean-1"


@pytest.mark.parametrize(
    ("message", "worker"), [({"t": "FAIL", "why": "no"}, ""), ({"t": "FAILED", "inc": 2, "error": "no"}, "clean-1")]
)
def test_a_failure_without_details_has_none(bench: Bench, message: dict[str, Any], worker: str) -> None:
    bench.join("clean", 2)
    bench.say(message)
    table = bench.table()
    assert (table["state"], table["error"], table["error_worker"], table["detail"]) == ("failing", "no", worker, "")


@pytest.mark.parametrize(
    "message", [{"t": "FAIL", "why": "x" * 70_000}, {"t": "FAILED", "inc": 2, "error": "x" * 70_000}]
)
def test_the_text_of_a_failure_is_cut_where_it_is_endless(bench: Bench, message: dict[str, Any]) -> None:
    bench.join("clean", 2)
    bench.say({**message, "detail": "y" * 70_000})
    table = bench.table()
    assert (len(table["error"]), len(table["detail"])) == (65536, 65536 if message["t"] == "FAILED" else 0)


def test_a_failed_run_waits_two_seconds_for_its_workers(bench: Bench) -> None:
    bench.join("clean", 2)
    bench.say({"t": "FAIL", "why": "gave up"}, b"cli")
    bench.tick(1.9)
    assert bench.ended == []
    bench.tick(0.1)
    assert bench.ended == [Ended("failed", "gave up")]


def test_what_is_only_told_is_answered_with_ok(bench: Bench) -> None:
    bench.join("clean", 1)
    for message in ({"t": "STOP"}, {"t": "FAILED", "inc": 1, "error": "x"}, {"t": "FAIL", "why": "y"},
                    {"t": "BYE", "inc": 1}, {"t": "DIED", "inc": 1}):  # fmt: skip
        assert bench.say(message) == {"t": "OK", "rid": 5}


def test_down_is_answered_and_then_obeyed(bench: Bench) -> None:
    actions = bench.registry.step(1.0, b"cli", {"t": "DOWN", "rid": 1})
    assert actions[-2:] == [Reply(b"cli", {"t": "OK", "rid": 1}), Down()]


# the table


def test_counters_of_ended_lives_stay_in_the_stages_sums(bench: Bench) -> None:
    bench.join("clean", 1)
    bench.join("clean", 2)
    bench.beat(1, counters={"in": 5, "done": 4, "dropped": 1, "queued": 9})
    bench.beat(2, counters={"in": 3, "done": 3, "queued": 2})
    bench.say({"t": "DIED", "inc": 1})
    bench.join("clean", 3, slot=0)
    row = bench.table()["stages"][CLEAN]
    assert (row["workers"], row["restarts"]) == (2, 1)
    assert {name: row["counters"][name] for name in ("in", "done", "dropped", "queued")} == {
        "in": 8,
        "done": 7,
        "dropped": 1,
        "queued": 2,
    }


def test_the_counters_of_all_ended_lives_are_added_up(bench: Bench) -> None:
    for inc in (1, 2):
        bench.join("clean", inc)
        bench.say({"t": "BYE", "inc": inc, "counters": {"done": 4, "busy_s": 0.5}})
    (row,) = [row for row in bench.table()["stages"] if row["name"] == "clean"]
    assert row["counters"] == {
        "in": 0, "done": 8, "dropped": 0, "dead": 0, "out": 0, "skipped": 0, "errors": 0, "repeats": 0,
        "busy_s": 1.0, "starved_s": 0, "blocked_s": 0,
    }  # fmt: skip


def test_a_goodbye_brings_the_last_counters(bench: Bench) -> None:
    bench.join("clean", 1)
    bench.beat(1, counters={"done": 4})
    bench.say({"t": "BYE", "inc": 1, "counters": {"done": 6}})
    bench.say({"t": "BYE", "inc": 1, "counters": {"done": 6}})
    assert bench.table()["stages"][CLEAN]["counters"]["done"] == 6


def test_the_table_shows_a_workers_running_item_and_rate(bench: Bench) -> None:
    bench.join("clean", 1)
    for done in (0, 10, 20):
        bench.beat(1, counters={"done": done}, running={"path": "crops:7", "age_s": 31.5})
        bench.now_s += 1.0
    (row,) = bench.table()["workers"]
    assert (row["worker"], row["stage"], row["pid"], row["host"]) == ("clean-1", "clean", 1001, "h")
    assert row["running"] == {"path": "crops:7", "age_s": 31.5}
    assert (row["rate"], row["beat_age_s"]) == (10.0, 1.0)


def test_the_table_shows_the_run(bench: Bench) -> None:
    bench.tick()
    bench.now_s += 7.5
    table = bench.table()
    assert {name: table[name] for name in table if name not in ("stages", "workers", "edges", "sources")} == {
        "t": "TABLE", "rid": 5, "run": "textures", "name": "textures", "recovering": False, "state": "running",
        "stopping": False, "started_s": 100.0, "age_s": 7.5, "error": "", "error_worker": "", "detail": "",
            "declared_dead": [],
    }  # fmt: skip


def test_the_table_shows_the_stages(bench: Bench) -> None:
    for inc in (1, 2):
        bench.hello("clean", inc)
    for done in (0, 10):
        for inc in (1, 2):
            bench.beat(inc, counters={"done": done})
        bench.now_s += 1.0
    rows = [{name: value for name, value in row.items() if name != "counters"} for row in bench.table()["stages"]]
    assert rows[:2] == [
        {
            "name": "crops", "number": 0, "role": "source", "reads": [], "scales": False, "gate": False,
            "workers": 0, "planned": 2,
            "wanted": None, "pinned": False, "restarts": 0, "timeout": None, "rate": 0, "calls": {},
        },
        {
            "name": "clean", "number": 1, "role": "transform", "reads": ["crops"], "scales": True, "gate": False,
            "workers": 2,
            "planned": 3, "wanted": None, "pinned": False, "restarts": 0, "timeout": None, "rate": 20.0, "calls": {},
        },
    ]  # fmt: skip


def test_the_table_shows_the_workers(bench: Bench) -> None:
    bench.join("crops", 2, slot=1, supervisor="h:1")
    bench.beat(2, counters={"done": 3})
    assert bench.table()["workers"] == [
        {
            "worker": "crops-2", "inc": 2, "stage": "crops", "slot": 1, "pid": 1002, "host": "h",
            "supervisor": "h:1", "state": "live", "beat_age_s": 0.0, "rate": 0.0, "running": None, "waits": "",
            "listen": {}, "sources": [1], "counters": {"done": 3},
        }
    ]  # fmt: skip


def test_calls_add_up_over_workers_and_lives(bench: Bench) -> None:
    for inc, calls in ((1, {30: 4}), (2, {30: 1, "41": 2})):
        bench.join("clean", inc)
        bench.beat(inc, calls=calls)
    bench.say({"t": "DIED", "inc": 1})
    bench.join("clean", 3)
    bench.beat(3, calls={0: 7})
    assert bench.table()["stages"][CLEAN]["calls"] == {0: 7, 30: 5, 41: 2}


def test_the_table_shows_the_edges(bench: Bench) -> None:
    bench.join("clean", 1)
    bench.join("clean", 2)
    bench.join("batch", 3)
    bench.beat(1, edges={1: {"sent": 5, "sent_bytes": 50, "in_flight": 4, "latency": {20: 1}, "transports": ["tcp"]}})
    bench.say({"t": "DIED", "inc": 1})
    bench.now_s += 2.0
    bench.beat(2, edges={1: {"sent": 1, "sent_bytes": 9, "in_flight": 2, "latency": {20: 2}, "transports": ["ipc"]}})
    bench.beat(3, edges={1: {"queued": 3}, 2: {"sent": 1}, 0: {"sent": 1000}, 77: {"sent": 1}})
    bench.now_s += 0.5
    empty, row, _ = bench.table()["edges"]
    assert row == {
        "edge": 1, "from": "clean", "to": "batch", "outputs": [""], "transports": ["ipc"], "sent": 6,
        "sent_bytes": 59, "in_flight": 2, "queued": 3, "latency": {20: 3}, "beat_age_s": 0.5,
    }  # fmt: skip
    assert (empty["sent"], empty["transports"], empty["latency"], empty["beat_age_s"]) == (0, [], {}, 0.0)


def test_beats_that_follow_each_other_closely_are_one_measurement_of_the_rate(bench: Bench) -> None:
    bench.now_s = 0.0
    bench.hello("clean", 1)
    rates = []
    for bench.now_s, done in ((0.0, 0), (0.4, 4), (0.6, 1000), (0.8, 12)):
        bench.beat(1, counters={"done": done})
        rates.append(bench.table()["workers"][0]["rate"])
    assert rates == [0.0, 10.0, 10.0, 15.0]


def test_a_rate_is_what_was_done_from_beat_to_beat_however_little(bench: Bench) -> None:
    bench.hello("clean", 1)
    bench.beat(1, counters={"done": 5})
    bench.now_s += 4.0
    bench.beat(1, counters={"done": 7})
    assert bench.table()["workers"][0]["rate"] == 0.5


def test_the_table_shows_how_far_each_source_is(bench: Bench) -> None:
    bench.join("crops", 1)
    bench.beat(1, sources={0: [42, 1, 40, False, 50]})
    assert bench.table()["sources"][0] == {
        "source": 0,
        "name": "crops[0]",
        "position": 50,
        "watermark": 42,
        "epoch": 1,
        "complete": False,
    }


# restarts of the registry


def back(bench: Bench, stage: str, inc: int, worker: str, **more: Any) -> dict[str, Any]:
    news = {"state": "live", "inbox": [f"ipc:///{inc}"], "acks": [], "counters": {"done": 3}}
    return bench.hello(stage, inc, worker=worker, **{**news, **more})


def test_after_a_restart_workers_are_asked_for_a_hello_and_keep_their_names(bench: Bench) -> None:
    bench.join("clean", 1, slot=2)
    bench.restart()
    refused(bench.beat(1), 404, "HELLO")
    welcome = back(bench, "clean", 1, "clean-3")
    assert (welcome["worker"], welcome["fence"], welcome["epoch"]) == ("clean-3", 1, 2)
    row = bench.table()["workers"][0]
    assert (row["state"], row["counters"]) == ("live", {"done": 3})


def test_a_life_that_comes_back_without_news_is_welcome(bench: Bench) -> None:
    bench.join("clean", 1)
    bench.restart()
    assert bench.hello("clean", 1, worker="clean-1")["worker"] == "clean-1"


def test_a_supervisor_starts_a_next_life_in_its_slot_after_a_restart_too(bench: Bench) -> None:
    bench.join("clean", 1, slot=0, supervisor="h:1")
    bench.restart()
    refused(bench.hello("clean", 2, slot=0, supervisor="h:2"), 409, "clean-1 (pid 1001 on h)")
    assert bench.hello("clean", 3, slot=0, supervisor="h:1")["fence"] == 2


def test_a_run_keeps_its_beginning_over_a_restart(bench: Bench) -> None:
    bench.tick()
    bench.now_s += 60.0
    bench.restart()
    table = bench.table()
    assert (table["started_s"], table["age_s"]) == (100.0, 60.0)


def test_a_beginning_that_is_still_to_come_is_of_a_clock_that_was_set_back(bench: Bench) -> None:
    bench.tick()
    bench.now_s = 5.0
    bench.restart()
    table = bench.table()
    assert (table["started_s"], table["age_s"]) == (5.0, 0.0)


def test_a_failed_run_waits_two_seconds_from_the_restart_for_its_workers(bench: Bench) -> None:
    bench.join("clean", 1)
    bench.say({"t": "FAIL", "why": "gave up"}, b"cli")
    bench.now_s += 1.0
    bench.restart()
    assert back(bench, "clean", 1, "clean-1")["t"] == "WELCOME"
    bench.tick(1.9)
    assert bench.ended == []
    bench.tick(0.1)
    assert bench.ended == [Ended("failed", "gave up")]


def test_rosters_only_add_until_all_are_back(bench: Bench) -> None:
    for inc, name in ((1, "crops"), (2, "clean"), (3, "clean")):
        bench.join(name, inc)
    bench.restart()
    back(bench, "crops", 1, "crops-1")
    back(bench, "clean", 2, "clean-1")
    state = bench.beat(1)
    assert (peers(state), state["roster"]["only_adds"]) == (["clean-1"], True)
    back(bench, "clean", 3, "clean-2")
    state = bench.told()[1]
    assert (peers(state), state["roster"]["only_adds"]) == (["clean-1", "clean-2"], False)


def test_recovery_ends_after_two_seconds_without_those_who_are_away(bench: Bench) -> None:
    bench.join("crops", 1)
    bench.join("clean", 2)
    bench.restart()
    back(bench, "crops", 1, "crops-1")
    bench.tick(1.9)
    assert not any("roster" in state for state in bench.told().values())
    bench.beat(1)
    bench.tick(0.1)
    assert bench.told()[1]["roster"] == {"only_adds": False, "peers": []}
    assert [row["state"] for row in bench.table()["workers"]] == ["live", "away"]
    assert back(bench, "clean", 2, "clean-1")["t"] == "WELCOME"


def test_a_recovering_registry_decides_nothing(bench: Bench) -> None:
    for inc, name in ((1, "crops"), (2, "crops"), (3, "clean")):
        bench.join(name, inc)
    bench.complete(1, 0)
    bench.restart()
    back(bench, "crops", 2, "crops-2", sources={1: [9, 0, 0, True]})
    assert bench.table()["state"] == "running"
    bench.tick(2.0)
    assert bench.table()["state"] == "complete"


def test_a_death_during_recovery_is_no_longer_waited_for(bench: Bench) -> None:
    bench.join("crops", 1)
    bench.join("clean", 2)
    bench.restart()
    back(bench, "crops", 1, "crops-1")
    bench.say({"t": "DIED", "pid": 1002, "host": "h", "worker": "clean-1"})
    assert bench.table()["recovering"] is False


def test_a_life_declared_dead_does_not_come_back_after_a_restart(bench: Bench) -> None:
    bench.join("batch", 1)
    bench.say({"t": "DIED", "inc": 1})
    bench.restart()
    refused(back(bench, "batch", 1, "batch-1"), 410, "batch-1")


def test_everything_that_must_not_be_forgotten_survives_a_restart(bench: Bench) -> None:
    bench.join("crops", 1, slot=0)
    bench.beat(1, sources={0: [42, 1, 40, True]}, counters={"out": 50})
    bench.say({"t": "DIED", "inc": 1})
    bench.say({"t": "STOP"}, b"cli")
    bench.restart()
    table = bench.table()
    assert (table["stopping"], table["stages"][CROPS]["counters"]["out"]) == (True, 50)
    assert table["sources"][0]["complete"] is True
    welcome = bench.hello("crops", 2, slot=0)
    assert (welcome["watermarks"], welcome["fence"]) == ({0: [42, 1, 40]}, 2)


def test_a_run_that_had_ended_has_still_ended_after_a_restart(bench: Bench) -> None:
    bench.say({"t": "FAIL", "why": "gave up"}, b"cli")
    assert bench.ended == [Ended("failed", "gave up")]
    bench.ended.clear()
    bench.restart()
    bench.tick()
    assert bench.ended == [Ended("failed", "gave up")]


# whatever may be sent


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({}, 400),
        ({"t": 3}, 400),
        ({"t": "SING"}, 501),
        ({"t": "HELLO"}, 400),
        ({"t": "HELLO", "proto": [1, 0], "inc": 0, "stage": "clean", "pid": 1, "host": "h"}, 400),
        ({"t": "HELLO", "proto": [1, 0], "inc": True, "stage": "clean", "pid": 1, "host": "h"}, 400),
        ({"t": "HELLO", "proto": [1, 0], "inc": 2**64, "stage": "clean", "pid": 1, "host": "h"}, 400),
        ({"t": "HELLO", "proto": [1, 0], "inc": 9, "stage": ["clean"], "pid": 1, "host": "h"}, 400),
        ({"t": "HELLO", "proto": [1, 0], "inc": 9, "stage": "clean", "slot": -1, "pid": 1, "host": "h"}, 400),
        ({"t": "BEAT", "inc": 1, "ver": 0}, 400),
        ({"t": "BEAT", "inc": 1, "ver": 0, "state": ["live"]}, 400),
        ({"t": "BEAT", "inc": 1, "ver": -1, "state": "live"}, 400),
        ({"t": "BEAT", "inc": 1, "ver": 0, "state": "live", "inbox": "tcp://x:1"}, 400),
        ({"t": "BEAT", "inc": 1, "ver": 0, "state": "live", "counters": {"done": "many"}}, 400),
        ({"t": "BEAT", "inc": 1, "ver": 0, "state": "live", "counters": {"done": float("nan")}}, 400),
        ({"t": "BEAT", "inc": 1, "ver": 0, "state": "live", "running": {"path": 3}}, 400),
        ({"t": "BEAT", "inc": 1, "ver": 0, "state": "live", "sources": {0: [1, 2]}}, 400),
        ({"t": "BEAT", "inc": 1, "ver": 0, "state": "live", "sources": {"zero": [1, 0, 0, True]}}, 400),
        ({"t": "DIED"}, 400),
        ({"t": "DIED", "inc": "one"}, 400),
        ({"t": "DIED", "inc": 1, "reach": [4]}, 400),
        ({"t": "DIED", "inc": 1, "reach": {0: -1}}, 400),
        ({"t": "DIED", "inc": 1, "reach": dict(enumerate(range(4097)))}, 400),
        ({"t": "FAILED", "inc": 1, "error": 3}, 400),
        ({"t": "FAIL"}, 400),
        ({"t": "BYE"}, 400),
        ({"t": "BYE", "inc": 1, "counters": [3]}, 400),
    ],
)
def test_a_malformed_request_is_refused_and_changes_nothing(bench: Bench, message: dict[str, Any], code: int) -> None:
    bench.join("crops", 1)
    rows, table = dict(bench.rows), bench.table()
    (reply,) = bench.take(bench.registry.step(bench.now_s, b"x", message))
    refused(reply, code)
    assert reply["text"]
    assert (bench.rows, bench.table()) == (rows, table)


@pytest.mark.parametrize(
    "news",
    [
        {"inbox": ["x"] * 65},
        {"inbox": ["x" * 1025]},
        {"inbox": [b"x"]},
        {"counters": {f"c{k}": 0 for k in range(65)}},
        {"counters": {"x" * 1025: 0}},
        {"counters": {"done": 1e30}},
        {"counters": {"done": 2**53 + 1}},
        {"running": 3},
        {"running": {"path": "p", "age_s": "old"}},
        {"sources": [1]},
        {"sources": {k: [1, 0, 0, True] for k in range(4097)}},
        {"sources": {"1234567890": [1, 0, 0, True]}},
        {"sources": {0: [-1, 0, 0, True]}},
        {"sources": {0: [1, 0, 0, 1]}},
        {"sources": {0: [1, 0, 0, True, -1]}},
        {"calls": [3]},
        {"calls": {128: 1}},
        {"calls": {-1: 1}},
        {"calls": {"x": 1}},
        {"calls": dict.fromkeys(range(129), 1)},
        {"calls": {3: -1}},
        {"calls": {3: 1.5}},
        {"calls": {3: 2**53 + 1}},
        {"edges": [1]},
        {"edges": {k: {} for k in range(4097)}},
        {"edges": {"one": {}}},
        {"edges": {0: 5}},
        {"edges": {0: {"sent": -1}}},
        {"edges": {0: {"sent": 2**53 + 1}}},
        {"edges": {0: {"queued": True}}},
        {"edges": {0: {"sent_bytes": "many"}}},
        {"edges": {0: {"latency": {128: 1}}}},
        {"edges": {0: {"transports": "ipc"}}},
        {"edges": {0: {"transports": ["x" * 17]}}},
        {"edges": {0: {"transports": ["ipc"] * 9}}},
        {"edges": {0: {"transports": [b"ipc"]}}},
        {"edges": {0: {"transports": ["\x1b[2J"]}}},
        {"edges": {0: {"transports": ["ipc\n"]}}},
    ],
)
def test_news_that_cannot_be_believed_are_refused_and_change_nothing(bench: Bench, news: dict[str, Any]) -> None:
    bench.join("crops", 1)
    rows, table = dict(bench.rows), bench.table()
    reply = bench.beat(1, **news)
    refused(reply, 400)
    assert reply["text"]
    assert (bench.rows, bench.table()) == (rows, table)


@pytest.mark.parametrize(
    "news",
    [
        {"inbox": ["x"] * 64},
        {"inbox": ["x" * 1024]},
        {"counters": {f"c{k}": 0 for k in range(64)}},
        {"counters": {"x" * 1024: 0}},
        {"counters": {"done": 2**53}},
        {"sources": {k: [1, 0, 0, True] for k in range(4096)}},
        {"calls": dict.fromkeys(range(128), 2**53)},
        {"edges": {k: {"sent": 2**53, "latency": {127: 2**53}} for k in range(4096)}},
        {"edges": {0: {"transports": ["x" * 16] * 8}}},
    ],
)
def test_news_may_be_as_large_as_their_limits(bench: Bench, news: dict[str, Any]) -> None:
    bench.join("crops", 1)
    assert bench.beat(1, **news)["t"] == "STATE"


def test_what_adds_up_over_workers_still_travels(bench: Bench) -> None:
    most = 2**53
    for inc in range(1, 100):
        bench.join("clean", inc)
        edges = {1: {"sent": most, "sent_bytes": most, "latency": {1: most}}}
        bench.beat(inc, counters={"done": most}, calls={1: most}, edges=edges)
    assert bench.table()["edges"][1]["sent"] == 99 * most


def test_the_largest_id_is_that_of_a_life(bench: Bench) -> None:
    assert bench.hello("clean", 2**64 - 1, pid=1)["t"] == "WELCOME"


def test_the_number_of_a_source_may_be_a_text(bench: Bench) -> None:
    bench.join("crops", 1)
    assert bench.beat(1, sources={"0": [42, 1, 40, False]})["watermarks"][0] == [42, 1, 40]


def test_a_refusal_names_the_source_whose_news_it_cannot_read(bench: Bench) -> None:
    bench.join("crops", 1)
    refused(bench.beat(1, sources={0: [1, 2]}), 400, "source 0 has [1, 2]")


@pytest.mark.parametrize("seed", range(20))
def test_no_message_however_strange_is_an_exception(seed: int) -> None:
    dice = random.Random(seed)
    bench = Bench()
    verbs = ("HELLO", "BEAT", "FAILED", "DIED", "BYE", "FAIL", "STOP", "PS", "DOWN", "X", None, 1)
    values: tuple[Any, ...] = (
        None,
        0,
        1,
        2,
        -1,
        2**63,
        True,
        1.5,
        "",
        "clean",
        "crops",
        "live",
        b"x",
        [],
        [1, 0],
        {},
        {0: [1, 0, 0, True]},
        {0: 2**53},
        {0: {"sent": 2**53, "latency": {0: 2**53}}},
    )
    fields = [
        *("rid", "inc", "stage", "slot", "pid", "host", "proto", "supervisor", "replaces", "worker", "epoch"),
        *("ver", "state", "inbox", "acks", "counters", "running", "sources", "error", "detail", "why"),
        *("calls", "edges"),
    ]
    sane = {
        "proto": [1, 0],
        "stage": "clean",
        "pid": 1,
        "host": "h",
        "ver": 0,
        "state": "live",
        "error": "e",
        "why": "w",
    }
    for _ in range(500):
        message = {**sane, "inc": dice.randrange(1, 6)} if dice.random() < 0.7 else {}
        message["t"] = dice.choice(verbs)
        for name in dice.sample(fields, dice.randrange(4)):
            message[name] = dice.choice(values)
        bench.now_s += dice.random()
        replies = bench.take(bench.registry.step(bench.now_s, b"x", message))
        assert len(replies) == 1
        bench.tick()


def test_an_answer_repeats_the_number_of_its_request_where_that_is_one(bench: Bench) -> None:
    rids = []
    for rid in (7, "seven", None, [7], {"n": 7}):
        (reply,) = bench.take(bench.registry.step(bench.now_s, b"cli", {"t": "PS", "rid": rid}))
        rids.append(reply["rid"])
    assert rids == [7, "seven", None, None, None]


def test_the_same_requests_give_the_same_actions() -> None:
    def play() -> list[Action]:
        bench = Bench()
        actions: list[Action] = []
        for inc, name in ((9, "out"), (3, "clean"), (7, "crops"), (5, "batch"), (1, "clean")):
            who = {"inc": inc, "stage": name, "pid": inc, "host": "h", "proto": [1, 0]}
            actions += bench.registry.step(1.0, b"%d" % inc, {"t": "HELLO", **who})
            actions += bench.registry.step(1.5, b"%d" % inc, {"t": "BEAT", "inc": inc, "ver": 0, "state": "live"})
        return actions + bench.registry.tick(30.0)

    assert play() == play()


# -- draining -------------------------------------------------------------------------------------------


def drain(bench: Bench, worker: str) -> dict[str, Any]:
    return bench.say({"t": "DRAIN", "worker": worker}, b"cli")


def states(bench: Bench) -> dict[str, str]:
    return {row["worker"]: row["state"] for row in bench.table()["workers"]}


def test_a_worker_is_told_to_leave_while_another_of_its_stage_stays(bench: Bench) -> None:
    bench.join("clean", 11)
    bench.join("clean", 12)
    assert drain(bench, "clean-2")["t"] == "OK"
    assert {inc: told["desired"] for inc, told in bench.told().items()} == {12: "drain"}
    assert (bench.beat(11)["desired"], bench.beat(12)["desired"]) == ("run", "drain")
    assert states(bench) == {"clean-1": "live", "clean-2": "drain"}
    refused(drain(bench, "clean-1"), 409, "clean-1 is the last worker of stage 'clean' that stays: start another first")


def test_a_worker_that_was_to_leave_stays_while_it_is_the_only_one(bench: Bench) -> None:
    bench.join("clean", 11, slot=0)
    bench.join("clean", 12, slot=1)
    drain(bench, "clean-2")
    bench.say({"t": "DIED", "inc": 11})
    assert bench.beat(12)["desired"] == "run"
    bench.join("clean", 13, slot=0)
    assert bench.beat(12)["desired"] == "drain"


def test_the_next_life_of_a_worker_that_was_to_leave_leaves_too(bench: Bench) -> None:
    bench.join("clean", 11, slot=0)
    bench.join("clean", 12, slot=1)
    drain(bench, "clean-2")
    bench.say({"t": "DIED", "inc": 12})
    assert bench.join("clean", 13, slot=1)["desired"] == "drain"
    bench.restart()
    assert bench.join("clean", 11, slot=0, worker="clean-1")["desired"] == "run"
    assert bench.join("clean", 13, slot=1, worker="clean-2")["desired"] == "drain"


def test_who_comes_after_one_that_has_left_stays(bench: Bench) -> None:
    bench.join("clean", 11)
    bench.join("clean", 12)
    drain(bench, "clean-2")
    bench.say({"t": "BYE", "inc": 12, "counters": {}})
    assert states(bench) == {"clean-1": "live"}
    assert not [key for key in bench.rows if key[0] == "drain"]
    assert bench.join("clean", 13)["desired"] == "run"


def test_a_new_worker_in_the_place_of_one_that_died_before_it_left_stays(bench: Bench) -> None:
    bench.join("clean", 11)
    bench.join("clean", 12)
    drain(bench, "clean-2")
    bench.say({"t": "DIED", "inc": 12})
    assert bench.join("clean", 13)["desired"] == "run"


def test_whoever_the_run_needs_cannot_leave(bench: Bench) -> None:
    bench.join("crops", 11)
    bench.join("batch", 12)
    refused(drain(bench, "crops-1"), 409, "crops-1 is of a source and owns its partitions")
    refused(drain(bench, "batch-1"), 409, "stage 'batch' has a memory and one worker")
    refused(drain(bench, "bach-1"), 404, "worker 'bach-1' is unknown: did you mean 'batch-1'?")
    refused(bench.say({"t": "DRAIN"}, b"cli"), 400)


def test_the_place_of_the_dead_is_kept_for_their_next_life(bench: Bench) -> None:
    bench.join("clean", 11, slot=0)
    bench.join("clean", 12, slot=1)
    bench.say({"t": "DIED", "inc": 12})
    assert bench.join("clean", 13)["worker"] == "clean-3"
    assert bench.join("clean", 14, slot=1)["worker"] == "clean-2"
    assert bench.join("clean", 15)["worker"] == "clean-4"


def test_a_stage_that_takes_no_more_workers_gives_the_place_of_the_dead_to_whoever_comes(bench: Bench) -> None:
    bench.join("batch", 11)
    bench.say({"t": "DIED", "inc": 11})
    assert bench.join("batch", 12)["worker"] == "batch-1"


# -- scaling --------------------------------------------------------------------------------------------


def scale(bench: Bench, stage: str, workers: Any) -> dict[str, Any]:
    return bench.say({"t": "SCALE", "stage": stage, "workers": workers}, b"cli")


@pytest.fixture
def scaling(bench: Bench) -> Bench:
    """A registry whose launcher starts workers."""
    bench.starts_workers = True
    bench.restart()
    return bench


def test_who_joins_before_the_workers_of_the_run_are_there_takes_no_place_of_theirs(scaling: Bench) -> None:
    assert scaling.join("clean", 11)["worker"] == "clean-4"
    refused(scaling.hello("batch", 12), 409, "has a memory and takes one worker, which the run starts itself")
    refused(scaling.hello("crops", 13), 409, "it takes 2")
    for inc, (stage, slot) in enumerate([("clean", 0), ("clean", 2), ("batch", 0), ("crops", 1)], 20):
        assert scaling.join(stage, inc, slot=slot)["worker"] == f"{stage}-{slot + 1}"
    refused(scaling.hello("crops", 14), 409, "it takes 2")


def wanted(bench: Bench) -> dict[str, int]:
    return {row["name"]: row["wanted"] for row in bench.table()["stages"] if row["wanted"] is not None}


def test_a_stage_is_scaled_up_by_word_to_its_launcher_and_down_by_word_to_its_workers(scaling: Bench) -> None:
    for inc in (11, 12, 13):
        scaling.join("clean", inc)
    assert wanted(scaling) == {}
    assert scale(scaling, "clean", 5)["t"] == "OK"
    assert wanted(scaling) == {"clean": 5}
    scale(scaling, "clean", 1)
    assert {inc: told["desired"] for inc, told in scaling.told().items()} == {11: "run", 12: "drain", 13: "drain"}
    scale(scaling, "clean", 2)
    assert {inc: told["desired"] for inc, told in scaling.told().items()} == {11: "run", 12: "run", 13: "drain"}
    scaling.restart()
    assert wanted(scaling) == {"clean": 2}


def test_what_cannot_be_scaled_says_why(scaling: Bench) -> None:
    refused(scale(scaling, "crops", 3), 409, "'crops' is a source, whose workers own its partitions")
    refused(scale(scaling, "batch", 2), 409, "stage 'batch' has a memory, and so one worker")
    refused(scale(scaling, "claen", 2), 404, "did you mean 'clean'?")
    refused(scale(scaling, "clean", 0), 400, "stage 'clean' needs a worker: 0 would stop the run")
    refused(scale(scaling, "clean", "2"), 400)


def auto(bench: Bench, workers: int) -> dict[str, Any]:
    return bench.say({"t": "SCALE", "stage": "clean", "workers": workers, "auto": True}, b"launcher")


def test_a_stage_that_was_scaled_by_hand_does_not_scale_itself_any_more(scaling: Bench) -> None:
    assert auto(scaling, 4)["t"] == "OK"
    assert not any(row["pinned"] for row in scaling.table()["stages"])
    scale(scaling, "clean", 2)
    refused(auto(scaling, 5), 409, "stage 'clean' was scaled by hand")
    scaling.restart()
    refused(auto(scaling, 5), 409)
    assert [row["name"] for row in scaling.table()["stages"] if row["pinned"]] == ["clean"]
    assert wanted(scaling) == {"clean": 2}
    assert scale(scaling, "clean", 6)["t"] == "OK"


def test_where_nobody_starts_workers_a_range_bounds_how_many_may_join() -> None:
    made = make_plan()
    stages = [replace(made.stages[CLEAN], workers=1, workers_max=2) if s.name == "clean" else s for s in made.stages]
    bench = Bench(replace(made, stages=tuple(stages)))
    bench.join("clean", 11)
    bench.join("clean", 12)
    refused(bench.hello("clean", 13), 409, "stage 'clean' has workers = '1..2' and takes no more")
    bench.say({"t": "DIED", "inc": 12})
    bench.join("clean", 14, slot=1)
    bench.starts_workers = True
    bench.restart()
    bench.join("clean", 15)


def test_nobody_starts_workers_for_a_registry_alone(bench: Bench) -> None:
    refused(scale(bench, "clean", 2), 409, "nobody starts workers for this run", "zpipe worker clean", "zpipe drain")


def test_a_rate_counts_what_was_dropped_too(bench: Bench) -> None:
    bench.hello("clean", 1)
    for n in (0, 10):
        bench.beat(1, counters={"done": n, "dropped": 3 * n, "dead": n})
        bench.now_s += 1.0
    assert [row["rate"] for row in bench.table()["workers"]] == [50.0]


def test_who_is_wanted_anew_stays_though_one_of_its_place_died_before_it_could_leave(scaling: Bench) -> None:
    scaling.join("clean", 11, slot=0)
    scaling.join("clean", 12, slot=1)
    scale(scaling, "clean", 1)
    scaling.say({"t": "DIED", "inc": 12})
    scale(scaling, "clean", 2)
    assert scaling.join("clean", 13, slot=1)["desired"] == "run"


# -- taps -----------------------------------------------------------------------------------------------

WISH = {"endpoints": ["tcp://127.0.0.1:5"], "inputs": False, "output": None, "form": "text"}


def tap(bench: Bench, stage: str = "clean", **more: Any) -> dict[str, Any]:
    return bench.say({"t": "TAP", "stage": stage, **WISH, **more}, b"cli")


def test_the_workers_of_a_tapped_stage_are_told_at_once_and_while_it_is_renewed(bench: Bench) -> None:
    for name, inc in (("crops", 1), ("clean", 11), ("clean", 12)):
        bench.join(name, inc)
    answer = tap(bench)
    assert (answer["t"], answer["state"]) == ("OK", "running")
    assert {inc: told["taps"] for inc, told in bench.told().items()} == {11: [WISH], 12: [WISH]}
    bench.now_s += 2.0
    tap(bench)
    assert bench.told() == {}
    bench.tick(2.9)
    assert bench.beat(11)["taps"] == [WISH]
    assert bench.beat(1)["taps"] == []
    bench.tick(0.2)
    assert bench.beat(11)["taps"] == []


def test_a_tap_that_is_over_is_told_to_the_workers_at_once(bench: Bench) -> None:
    bench.join("clean", 11)
    tap(bench)
    other = {"endpoints": ["tcp://127.0.0.1:6"]}
    tap(bench, **other)
    assert tap(bench, over=True)["t"] == "OK"
    assert bench.told()[11]["taps"] == [{**WISH, **other}]
    tap(bench, over=True)
    assert bench.told() == {}


def test_a_registry_that_was_restarted_hears_of_a_tap_when_it_is_renewed(bench: Bench) -> None:
    bench.join("clean", 11)
    tap(bench)
    bench.restart()
    bench.join("clean", 11, worker="clean-1", slot=0)
    assert bench.beat(11)["taps"] == []
    tap(bench)
    assert bench.told()[11]["taps"] == [WISH]


def test_what_cannot_be_tapped_says_why(bench: Bench) -> None:
    refused(tap(bench, "claen"), 404, "did you mean 'clean'?")
    refused(tap(bench, "crops", inputs=True), 409, "'crops' is a source and is given nothing")
    refused(tap(bench, output="spam"), 404, "stage 'clean' has no named output 'spam' that is read: it has none")
    refused(tap(bench, endpoints=[]), 400, "TAP names no endpoint")
    for strange in ({"endpoints": 7}, {"inputs": 1}, {"form": "xml"}, {"output": 3}):
        refused(tap(bench, **strange), 400)
    for port in range(16):
        assert tap(bench, endpoints=[f"tcp://127.0.0.1:{port + 1}"])["t"] == "OK"
    refused(tap(bench, endpoints=["tcp://127.0.0.1:99"]), 409, "16 taps are on")


def test_a_tap_names_one_of_the_outputs_that_are_read() -> None:
    stages = (
        stage(0, "route", "source", outputs=(0,)),
        stage(1, "out", "sink", inputs=(0,)),
    )
    bench = Bench(Plan("p", "/tmp", stages, (EdgePlan(0, 0, 1, False, (), ("spam", "")),), {0: "route"}, {0: 0}))
    assert tap(bench, "route", output="spam")["t"] == "OK"
    refused(tap(bench, "route", output="spim"), 404, "did you mean 'spam'?")
    refused(tap(bench, "route", output="other"), 404, "there are spam")


def test_more_workers_than_any_stage_may_have_are_refused_at_once() -> None:
    bench = Bench()
    bench.starts_workers = True
    bench.restart()
    (reply,) = bench.take(
        bench.registry.step(bench.now_s, b"cli", {"t": "SCALE", "stage": "clean", "workers": 2**64 - 1})
    )
    assert (reply["code"], reply["text"]) == (
        400,
        "stage 'clean' cannot have 18446744073709551615 workers: 4096 are the most",
    )
