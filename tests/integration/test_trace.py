"""`--trace` on real runs: the format to the letter, who ran what, and what becomes of it when things go wrong."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_ending import flowing
from tests.integration.test_runs import chain, out_of
from tests.real import Place, lines, wait_until
from zpipe.processes.values import Values

KEYS = {
    "M": {"args"},
    "X": {"cat", "dur", "args"},
    "i": {"cat", "s", "args"},
    "C": {"args"},
}


class Trace:
    """The events of a trace, checked to the letter, by the name of their row."""

    def __init__(self, path: Path) -> None:
        self.events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        for event in self.events:
            assert set(event) == {"ph", "name", "ts", "pid", "tid"} | KEYS[event["ph"]], event
            assert all(type(event[key]) is int for key in ("ts", "pid", "tid")), event
            assert event["name"] and event["ts"] >= 0
        names = [(event["pid"], event["args"]["name"]) for event in self.events if event["name"] == "process_name"]
        self.rows = dict(names)
        assert len(self.rows) == len(names) == len(set(self.rows.values()))
        assert {event["pid"] for event in self.events} == set(self.rows)
        self.spans: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for event in self.events:
            if event["ph"] == "X":
                assert type(event["dur"]) is int and event["dur"] >= 0
                self.spans[self.rows[event["pid"]]].append(event)
        for spans in self.spans.values():
            for before, after in pairwise(spans):
                assert before["ts"] + before["dur"] <= after["ts"], (before, after)

    def of(self, stage: str, cat: str = "call") -> list[dict[str, Any]]:
        """Return what is in the rows of a stage's workers."""
        return [e for spans in self.spans.values() for e in spans if e["args"]["stage"] == stage and e["cat"] == cat]

    def items(self, stage: str) -> int:
        return sum(event["args"]["items"] for event in self.of(stage))

    def busy_s(self, stage: str) -> float:
        return float(sum(event["args"]["busy_ms"] for event in self.of(stage))) / 1000

    def instants(self) -> Counter[str]:
        return Counter(event["name"] for event in self.events if event["ph"] == "i")


def busy_s(folder: Path) -> dict[int, float]:
    """Return the seconds in calls, as the registry summed them up, by the number of the stage."""
    with closing(Values(folder / "run.db")) as values:
        return {int(key): value["busy_s"] for kind, key, value in values.rows() if kind == "sums"}


SHAPES = chain(
    "numbers", "thrice", "jitter_pair", "Sum", "batch", "out", numbers="args = { count = 400 }",
    batch="args = { size = 8 }",
).replace('run = "stages:jitter_pair"', 'run = "more:jitter_pair"\nworkers = 2')  # fmt: skip
MORE = """
import time
def jitter_pair(x):
    time.sleep(0.002)
    return x[0]
"""


@pytest.mark.parametrize("inline", [(), ("--inline",)])
def test_every_item_is_in_the_row_of_who_ran_it(place: Place, inline: tuple[str, ...]) -> None:
    (place.folder / "more.py").write_text(MORE)
    done = place.run("run", place.pipeline(SHAPES), "--trace", "t.json", *inline)
    assert done.code == 0, done.err
    trace = Trace(place.folder / "t.json")
    workers = ["numbers-1", "thrice-1", "jitter-pair-1", "sum-1", "batch-1", "out-1"]
    assert set(trace.rows.values()) == {"run t", *workers, *([] if inline else ["jitter-pair-2"])}
    taken = {stage["name"]: stage for stage in json.loads((done.folder / "report.json").read_text())["stages"]}
    for stage in ("numbers", "thrice", "jitter-pair", "sum", "batch", "out"):
        # A stage with memory is called for what its hooks and those above yield too, which are items as well.
        assert trace.items(stage) == taken[stage]["in"], stage
    assert [event["name"] for event in trace.of("sum", "hook")] == ["epoch_end", "finish"]
    assert trace.of("thrice")[0]["args"]["path"] == "numbers:0"
    alone = [event for event in trace.of("jitter-pair") if event["args"]["items"] == 1]
    assert {event["name"] for event in alone} == {event["args"]["path"] for event in alone}
    for event in trace.of("jitter-pair"):
        assert event["args"]["busy_ms"] >= 2 * event["args"]["items"]
        assert event["dur"] == pytest.approx(1000 * event["args"]["busy_ms"], abs=2) or "runs" in event["args"]
    assert trace.busy_s("jitter-pair") >= 0.002 * trace.items("jitter-pair")
    if not inline:
        assert trace.of("batch", "save") or trace.of("sum", "save")
        assert len(trace.of("jitter-pair", "start")) == 2
        for number, stage in enumerate(("numbers", "thrice", "jitter-pair", "sum", "batch", "out")):
            assert trace.busy_s(stage) == pytest.approx(busy_s(done.folder)[number], rel=0.1, abs=0.002), stage
    assert not (done.folder / "trace").exists()


def test_a_program_asks_for_a_trace_too(place: Place) -> None:
    (place.folder / "both.py").write_text(
        "import zpipe as zp\n"
        "from stages import double, numbers\n"
        "if __name__ == '__main__':\n"
        "    p = zp.Pipeline('t', zp.stage(double)(zp.stage(numbers)))\n"
        "    p.run(trace='real.json')\n"
        "    p.run(trace='inline.json', inline=True)\n"
    )
    done = place.start_python("both.py").wait()
    assert done.code == 0, done.err
    for name in ("real.json", "inline.json"):
        assert Trace(place.folder / name).items("double") == 10


def test_kills_are_seen_and_what_was_done_before_is_kept(place: Place) -> None:
    run = flowing(place, "--chaos", "0.4", "--seed", "5", "--trace", "t.json")
    events = next(place.folder.glob("runs/*/events.jsonl"))
    wait_until(lambda: sum(event["kind"] == "killed" for event in lines(events)) >= 3)
    run.interrupt()
    done = run.wait()
    assert done.code == 130, done.err
    trace = Trace(place.folder / "t.json")
    kinds = Counter(event["kind"] for event in lines(events))
    for kind in ("started", "joined", "killed", "restarted", "stopping"):
        assert trace.instants()[kind] == kinds[kind], kind
    found = lines(done.folder / "out.jsonl")
    assert found == [2 * k for k in range(len(found))]
    assert trace.items("out") > 0


def test_scaling_and_leaving_are_seen(place: Place) -> None:
    run = flowing(place, "--trace", "t.json")
    events = next(place.folder.glob("runs/*/events.jsonl"))
    place.run("scale", "double=3")
    wait_until(lambda: [e for e in lines(events) if e["kind"] == "joined" and e["worker"] == "double-3"])
    place.run("scale", "double=1")
    wait_until(lambda: sum(event["kind"] == "left" for event in lines(events)) == 2)
    run.interrupt()
    run.wait()
    scaled = [(event["stage"], event["data"]) for event in lines(events) if event["kind"] == "scaled"]
    assert [(stage, data["after"], data["why"]) for stage, data in scaled] == [
        ("double", 3, "by hand"),
        ("double", 1, "by hand"),
    ]
    draining = [e["worker"] for e in lines(events) if e["kind"] == "draining"]
    assert {"double-2", "double-3"}.issuperset(draining)  # one that leaves between two looks was not seen to
    trace = Trace(place.folder / "t.json")
    assert (trace.instants()["scaled"], trace.instants()["draining"]) == (2, len(draining))
    assert "double-3" in trace.rows.values()


def test_a_run_that_fails_has_a_trace_with_the_call_that_failed(place: Place) -> None:
    for more in ((), ("--inline",)):
        done = place.run("run", place.pipeline(chain("numbers", "plain")), "--trace", "t.json", *more)
        assert done.code == 1
        (failed,) = Trace(place.folder / "t.json").of("plain")
        assert (failed["name"], failed["args"]["items"]) == ("numbers:0", 1)


@pytest.mark.parametrize(("file", "why"), [("no/t.json", "No such file or directory"), ("/dev/full", "No space left")])
def test_a_trace_that_cannot_be_written_starts_nothing(place: Place, file: str, why: str) -> None:
    for more in ((), ("--inline",)):
        done = place.run("run", place.pipeline(chain("numbers", "out")), "--trace", file, *more)
        assert done.code == 2
        assert [fault.partition(f": {why}")[0] for fault in done.faults] == [f"cannot write a trace to {file}"]
    assert not (place.folder / "runs").exists()


FULL = """
import resource
class Full:
    def __init__(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    def __call__(self, x):
        return x
"""


def test_a_worker_whose_disk_is_full_goes_on_without_the_trace(place: Place) -> None:
    (place.folder / "full.py").write_text(FULL)
    stages = chain("slowly", "Full", "double", "out", slowly="args = { count = 500 }")
    done = place.run("run", place.pipeline(stages.replace("stages:Full", "full:Full")), "--trace", "t.json")
    assert done.code == 0, done.err
    log = done.folder / "logs" / "full-1.log"
    assert done.faults == [f"the trace lacks calls of full-1: {log} says why"]
    assert log.read_text().count("goes on without the trace") == 1
    assert out_of(done.folder)["out.jsonl"] == [2 * k for k in range(500)]
    trace = Trace(place.folder / "t.json")
    assert trace.items("double") == 500
    assert trace.items("full") < 500
    assert [e["text"] for e in lines(done.folder / "events.jsonl") if e["kind"] == "warning"] == done.faults


def test_an_existing_trace_is_replaced_and_a_run_that_is_refused_leaves_an_empty_one(place: Place) -> None:
    (place.folder / "t.json").write_text("of another run")
    assert place.run("run", place.pipeline('[stage.a]\nrun = "stages:nothing"'), "--trace", "t.json").code == 2
    assert json.loads((place.folder / "t.json").read_text()) == []
