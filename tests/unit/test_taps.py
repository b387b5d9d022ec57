"""What a worker shows to those who look on, and that they cost it nothing when they are gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import zpipe as zp
from zpipe.core.limits import Limits
from zpipe.core.work import Job
from zpipe.core.worker import Worker
from zpipe.processes.caller import Caller
from zpipe.processes.codec import WireCodec
from zpipe.processes.roles import role_of
from zpipe.processes.tapper import read_sample
from zpipe.processes.taps import Taps
from zpipe.transport import sockets
from zpipe.values.context import Current
from zpipe.values.errors import ProtocolError
from zpipe.values.paths import Mark, Run
from zpipe.values.plan import plan
from zpipe.wire import control

CODEC = WireCodec()


def numbers() -> Iterator[int]:
    yield from range(3)


def double(x: int) -> int:
    return 2 * x


def out(x: int) -> None:
    """Take it."""


class Bench:
    """The taps of one worker, and the socket of one who looks on; time by hand."""

    def __init__(self, stage: int) -> None:
        x = zp.stage(double)(zp.stage(numbers))
        its_plan = plan(zp.Pipeline("p", zp.stage(out)(x)))
        plan_of = its_plan.stages[stage]
        self.worker = Worker(1, role_of(its_plan, plan_of, 0, {}, {}), Limits())
        current = Current("double", worker="double-1", lane_names=its_plan.lane_names, run_key=0, run_folder=Path())
        self.caller = Caller(plan_of, double, self.worker, CODEC, time.monotonic, current)
        self.context = sockets.context()
        self.pull, self.endpoints = sockets.bind_pull(
            self.context, host="127.0.0.1", sockets_dir=None, transport="tcp", hwm=10
        )
        self.now_s = 0.0
        self.taps = Taps(self.caller, self.context, lambda: self.now_s)

    def wish(self, **more: Any) -> dict[str, Any]:
        return {"endpoints": self.endpoints, "inputs": False, "output": None, "form": "text", **more}

    def tap(self, **more: Any) -> None:
        """Begin to look on, and wait until the worker's socket is up."""
        self.taps.heed([self.wish(**more)], self.now_s)
        (tap,) = self.taps._on.values()
        assert tap.socket.poll(10_000, sockets.OUT)

    def made(self, run: Run) -> None:
        assert self.worker.tap is not None
        self.worker.tap(run)

    def seen(self, wait_ms: int = 10_000) -> tuple[str, str, str] | None:
        """Return path, output and text of the next sample; `wait_ms` 0 for none, which was never sent."""
        if not self.pull.poll(wait_ms):
            return None
        frames = sockets.receive(self.pull)
        assert frames is not None
        sample = control.decode(frames[0])
        assert (sample["t"], sample["worker"]) == ("SAMPLE", "double-1")
        return sample["path"], sample["output"], sample["item"]


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(getattr(request, "param", 1))
    yield bench
    sockets.end(bench.context)


def items(position: int, *values: Any, marks: bytes | None = None) -> Run:
    return Run(0, position, (), len(values), [None if v is None else CODEC.encode(v) for v in values], marks=marks)


def test_nothing_looks_on_before_it_is_wished_for(bench: Bench) -> None:
    assert (bench.worker.tap, bench.taps.given) == (None, None)
    bench.tap()
    assert bench.taps.given is None
    bench.taps.heed([], 0.0)
    assert (bench.worker.tap, bench.taps.given) == (None, None)


def test_the_first_item_that_is_no_mark_is_shown_and_the_next_after_a_pause(bench: Bench) -> None:
    bench.tap()
    bench.made(items(0, None, 7, 8, marks=bytes([Mark.TOMB, 0, 0])))
    assert bench.seen() == ("numbers:1", "", "7")
    bench.made(items(3, 9))
    bench.now_s = 0.19
    bench.made(items(4, 10))
    bench.now_s = 0.21
    bench.made(items(5, 11))
    assert bench.seen() == ("numbers:5", "", "11")


def test_a_run_of_marks_only_shows_nothing(bench: Bench) -> None:
    bench.tap()
    bench.made(items(0, None, marks=bytes([Mark.FIN])))
    bench.now_s = 0.1
    bench.made(items(1, 5))
    assert bench.seen() == ("numbers:1", "", "5")


def test_one_named_output_is_shown(bench: Bench) -> None:
    bench.tap(output="odd")
    run = items(0, 2, 3)
    assert run.parts is not None
    run.parts[0].output, run.parts[1].output = "even", "odd"
    bench.made(run)
    assert bench.seen() == ("numbers:1", "odd", "3")


def test_what_a_stage_is_given_is_shown_before_it_is_called(bench: Bench) -> None:
    bench.tap(inputs=True, form="json")
    assert (bench.worker.tap is None, bench.taps.given is None) == (True, False)
    job = Job(Job.ITEMS)
    job.add(items(4, [1, b"z"]), 0, 1)
    assert bench.taps.given is not None
    bench.taps.given(Job(Job.FINISH))
    bench.taps.given(job)
    assert bench.seen() == ("numbers:4", "", '[1, {"hex": "7a", "length": 1}]')


@pytest.mark.parametrize("bench", [2], indirect=True)
def test_of_a_sink_what_it_is_given_is_shown(bench: Bench) -> None:
    bench.tap()
    assert (bench.worker.tap is None, bench.taps.given is None) == (True, False)


def test_an_item_of_many_bytes_is_not_taken_apart(bench: Bench) -> None:
    bench.tap()
    bench.made(items(0, "z" * 2_000_000))
    assert bench.seen() == ("numbers:0", "", "an item of 2,000,005 bytes besides its arrays, too large to show")


def test_a_tap_ends_when_the_registry_has_not_named_it_for_long(bench: Bench) -> None:
    bench.tap()
    bench.now_s = 4.9
    bench.made(items(0, 1))
    assert bench.seen() == ("numbers:0", "", "1")
    bench.now_s = 5.1
    bench.made(items(1, 1))
    assert bench.worker.tap is None


def test_a_tap_that_does_not_read_is_not_waited_for(bench: Bench) -> None:
    bench.tap()
    for k in range(10_000):
        bench.now_s = 0.0
        bench.taps.heed([bench.wish()], bench.now_s)
        for tap in bench.taps._on.values():
            tap.due_s = 0.0
        bench.made(items(k, "word " * 15))
    assert bench.seen() == ("numbers:0", "", repr("word " * 15))


def test_an_address_that_cannot_be_dialled_is_passed_over(bench: Bench) -> None:
    bench.taps.heed([bench.wish(endpoints=["ipc:///nowhere/at/all"]), bench.wish(endpoints=[])], 0.0)
    assert bench.taps.given is None


SAMPLE = {"t": "SAMPLE", "worker": "clean-1", "path": "crops:3", "output": "", "item": "[1]"}


def test_a_sample_is_read_as_it_was_sent() -> None:
    assert read_sample(control.encode(SAMPLE), "json") == SAMPLE


@pytest.mark.parametrize(
    "wrong", [{"t": "PS"}, {"path": None}, {"worker": 3}, {"output": []}, {"item": b"x"}, {"item": "{"}]
)
def test_what_is_no_sample_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        read_sample(control.encode({**SAMPLE, **wrong}), "json")
