"""What the processes of a workload do, whatever their items travel through: make, pass on, read, and leave word.

They agree through files in the folder of their task: `warm-0` and the like that something has come about,
`sink-0.json` what was counted and when.  Knows nothing of sockets, queues or zpipe.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import cycle, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.workloads import FIRST, FLAG, LOADS, PACED, STREAM, WORK, Load, burn, number

FILL_S = 0.002  # between fillers
PACE_S = 0.003  # between the items of a paced load
BLOCK = 1000  # items of an array, of those that are made by the array
REST_S = 0.005  # between those that keep a pipeline going of which only the first counts
UNDER_WAY, STRUCK, RELEASE = "under-way", "struck", "release"


@dataclass(frozen=True)
class Task:
    """A load with `count` measured items in a folder; `kill` where a process will be killed and all must be counted."""

    load: str
    count: int
    seed: int
    folder: str
    kill: bool = False

    @property
    def of(self) -> Load:
        return LOADS[self.load].of(self.count)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def touch(self, name: str) -> None:
        """Say that something has come about."""
        (Path(self.folder) / name).touch()

    def is_there(self, name: str) -> bool:
        return os.path.exists(f"{self.folder}/{name}")

    def leave(self, name: str, **numbers: Any) -> None:
        """Write numbers to `NAME.json`, all at once."""
        path = Path(self.folder) / f"{name}.json"
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(numbers))
        os.replace(draft, path)

    def left(self, name: str) -> dict[str, Any]:
        """Read what was left.  Raises FileNotFoundError."""
        return dict(json.loads((Path(self.folder) / f"{name}.json").read_text()))


# -- making ---------------------------------------------------------------------------------------------


def items(task: Task) -> Iterator[Any]:
    """Make the items of a task."""
    make = {STREAM: _stream, WORK: _work, PACED: _paced, FIRST: _first}[task.of.kind]
    return _again(task) if task.kill else make(task)


def source(task: Mapping[str, Any]) -> Iterator[Any]:
    """Make the items of a task, as a stage.
    Out: uint8, or bytes
    """
    yield from items(Task(**task))


def rows(task: Mapping[str, Any]) -> Iterator[Any]:
    """Make the items of a stream by the array, as a stage.
    Out: uint8 (n, ...)
    """
    yield from _stream(Task(**task), by=BLOCK)


def _stream(task: Task, by: int = 1) -> Iterator[Any]:
    """Make the items of a stream one by one, or in arrays of so many, each made anew."""
    load, payloads = task.of, cycle(task.of.payloads())
    if by > 1:
        rows = np.stack(list(islice(payloads, by)))
        payloads = (rows.copy() for _ in repeat(None))
    yield from islice(payloads, load.warm // by)
    began = time.process_time_ns()
    yield from islice(payloads, load.count // by)
    task.leave("source", cpu_ns=time.process_time_ns() - began)
    yield from islice(payloads, load.warm // by)
    while "BENCH_UNGUARDED" in os.environ and not task.is_there("sink-0.json"):
        time.sleep(REST_S)  # without the guarantee the run would end before what was sent has arrived


def _work(task: Task) -> Iterator[Any]:
    load = task.of
    work = list(load.work(task.seed))
    yield from _fillers(task, FILL_S)
    task.leave("source", began_ns=time.monotonic_ns())
    yield from work


def _paced(task: Task) -> Iterator[Any]:
    load = task.of
    yield from _fillers(task, PACE_S)
    for k in range(load.count):
        time.sleep(PACE_S)
        item = load.filler()
        item[FLAG], item[-1] = 1, number(k)
        item[:FLAG] = np.frombuffer(time.monotonic_ns().to_bytes(FLAG, "little"), np.uint8)
        yield item


def _first(task: Task) -> Iterator[Any]:
    payload, released = task.of.payloads()[0], False
    while not released:
        released = task.is_there(RELEASE)  # looked at before, so that the last one finds the sink released
        yield payload
        time.sleep(REST_S)


def _fillers(task: Task, pace_s: float) -> Iterator[Any]:
    """Keep everybody going until all take part: a source that only waited might hold back what it has made."""
    load = task.of
    joined = load.workers if load.kind == WORK else 0
    filler = load.filler()
    while not task.is_there("warm-0") or len(list(Path(task.folder).glob("joined-*"))) < joined:
        yield filler
        time.sleep(pace_s)


def _again(task: Task) -> Iterator[Any]:
    """Make the same items in every life, the second half of them after the kill."""
    load = task.of
    made = load.work(task.seed) if load.kind == WORK else islice(cycle(load.payloads()), load.count)
    yield from islice(made, load.count // 2)
    while not task.is_there(STRUCK):
        time.sleep(FILL_S)
    yield from made


# -- passing on -----------------------------------------------------------------------------------------


def identity(item: Any) -> Any:
    """Hand an item, or a block of items, on as it is."""
    return item


class Burn:
    """Work on each item as long as it costs.
    In, out: uint8 (64,)      Holds: nothing.
    """

    def __init__(self, task: Mapping[str, Any]) -> None:
        self._task = Task(**task)
        self._joined = False

    def __call__(self, item: Any) -> Any:
        if not self._joined:
            self._joined = True
            self._task.touch(f"joined-{os.getpid()}")
        return burn(item)


# -- reading --------------------------------------------------------------------------------------------


class Sink:
    """Counts the items of a task and adds up their probes; `over` once there is nothing more to come."""

    def __init__(self, task: Mapping[str, Any], index: int = 0) -> None:
        self.task = Task(**task)
        self.load = self.task.of
        self.index = index
        self.count = 0
        self.check = 0
        self.over = False
        self._probe = self.load.probe

    def _end(self, **numbers: Any) -> None:
        self.task.leave(f"sink-{self.index}", count=self.count, check=self.check, **numbers)
        self.over = True


class StreamSink(Sink):
    """Read each item, and take the time of those between the first and the last ones.
    In: uint8, or bytes      Holds: nothing.
    """

    def __init__(self, task: Mapping[str, Any], index: int = 0) -> None:
        super().__init__(task, index)
        load = self.load
        self._bounds = [load.warm, load.warm + load.count, load.total]
        self._bound = self._bounds[0]
        self._marks: list[tuple[int, int]] = []

    def __call__(self, item: Any) -> None:
        self.check += self._probe(item)
        self.count += 1
        if self.count >= self._bound:
            self._mark()

    def _mark(self) -> None:
        self._marks.append((self.count, time.monotonic_ns()))
        if len(self._marks) == len(self._bounds):
            (a, begin_ns), (b, end_ns), _ = self._marks
            self._end(items=b - a, wall_ns=end_ns - begin_ns)
        else:
            self._bound = self._bounds[len(self._marks)]


class BlockSink(StreamSink):
    """Do what StreamSink does with a list of items at a time, or with the rows of an array.
    In: uint8 (n, 64), or bytes      Holds: nothing.
    """

    def __call__(self, block: Any) -> None:
        is_array = isinstance(block, np.ndarray)
        self.check += int(block[:, [0, -1]].sum(dtype=np.uint64)) if is_array else sum(map(self._probe, block))
        self.count += len(block)
        if self.count >= self._bound:
            self._mark()


class WorkSink(Sink):
    """Read each item that counts, and take the time of the last.
    In: uint8 (64,)      Holds: nothing.
    """

    def __init__(self, task: Mapping[str, Any], index: int = 0) -> None:
        super().__init__(task, index)
        self._fillers = 0

    def __call__(self, item: Any) -> None:
        now_ns = time.monotonic_ns()
        if not item[FLAG]:
            self._fillers += 1
            if self._fillers == self.load.warm:
                self.task.touch(f"warm-{self.index}")
            return
        self.count += 1
        self._take(item, now_ns)
        if self.count == self.load.count:
            self._last(now_ns)

    def _take(self, item: Any, now_ns: int) -> None:
        self.check += self._probe(item)

    def _last(self, now_ns: int) -> None:
        self._end(ended_ns=now_ns)


class PacedSink(WorkSink):
    """Take the time that each item has been on its way.
    In: uint8 (1000,), when it was made in its first 8 bytes      Holds: a number for each item.
    """

    def __init__(self, task: Mapping[str, Any], index: int = 0) -> None:
        super().__init__(task, index)
        self._way_us: list[float] = []

    def _take(self, item: Any, now_ns: int) -> None:
        self._way_us.append((now_ns - int.from_bytes(item[:FLAG].tobytes(), "little")) / 1e3)
        self.check += int(item[-1])

    def _last(self, now_ns: int) -> None:
        self._end(way_us=self._way_us)


class FirstSink(Sink):
    """Take the time of the first item.
    In: uint8      Holds: nothing.
    """

    def __call__(self, item: Any) -> None:
        if not self.count:
            now_ns = time.monotonic_ns()
            self.count, self.check = 1, self._probe(item)
            self._end(ended_ns=now_ns)
        self.over = self.task.is_there(RELEASE)


class ExactSink(Sink):
    """Count each item once, whoever is killed, and say when the kill may come.
    In: uint8, or bytes      Holds: two numbers.
    """

    def __call__(self, item: Any) -> None:
        self.count += 1
        self.check += self._probe(item)
        if self.count == self.load.count // 4:
            self.task.touch(f"{UNDER_WAY}-{self.index}")

    def state(self) -> list[int]:
        return [self.count, self.check]

    def restore(self, state: list[int]) -> None:
        self.count, self.check = state

    def finish(self) -> None:
        self._end()


SINKS: dict[str, type[Sink]] = {STREAM: StreamSink, WORK: WorkSink, PACED: PacedSink, FIRST: FirstSink}
