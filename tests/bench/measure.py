"""Runs one workload by one way, proves that everything has arrived, and returns the numbers as a row."""

from __future__ import annotations

import os
import random
import resource
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil

from tests.bench.halves import RELEASE, STRUCK, UNDER_WAY, Task
from tests.bench.report import Row
from tests.bench.ways import Way
from tests.bench.workloads import FIRST, PACED, STREAM, Load
from tests.real import Command, Place, wait_until

LIMIT_S = 120.0
REST_S = 0.7  # from the first item until memory is measured
WORKER = "zpipe.processes.worker"


def measure(load: Load, way: Way, seed: int, *, kill: bool = False) -> Row:
    """Run a load by a way; `kill` a worker meanwhile, drawn by `seed`, and take no times.

    Raises RuntimeError when a sink has not read exactly what was sent.
    """
    others_s, started_s = _busy_s() - _own_s(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="zb-") as name, Place(Path(name)) as place:
        task = Task(load.name, way.count(load), seed, name, kill)
        start = way.start(task)
        began_ns = time.monotonic_ns()
        command = Command(start.argv, place.folder, {**place.env, **start.env})
        meanwhile = _kill(task, command, place) if kill else _rest(task, command, place)
        done = command.wait(LIMIT_S)
        if done.code:
            raise RuntimeError(f"{way.name} at {load.name} ended with {done.code}: {done.err[-2000:]}")
        try:
            sinks = [task.left(f"sink-{k}") for k in range(load.sinks)]
            _check(task, sinks)
            source = {} if kill or load.kind in (PACED, FIRST) else task.left("source")
        except (FileNotFoundError, ValueError) as error:
            raise RuntimeError(f"{way.name} at {load.name}: {error}") from None
    found = meanwhile if kill else {**numbers(task.of, source, sinks, began_ns), **meanwhile}
    others = (_busy_s() - _own_s() - others_s) / (time.monotonic() - started_s)
    return {
        "load": load.name, "way": way.name, "base": way.base, "seed": seed, "kill": kill, "numbers": found,
        "others": max(0.0, others),
    }  # fmt: skip


def _check(task: Task, sinks: list[dict[str, Any]]) -> None:
    load = task.of
    if task.kill and load.kind == STREAM:
        count, check = load.count, load.check_of_first(load.count)
    else:
        count, check = load.total, load.check(task.seed)
    for k, sink in enumerate(sinks):
        if (sink["count"], sink["check"]) != (count, check):
            raise ValueError(f"sink {k} read {sink['count']} items of {count}, check {sink['check']} for {check}")


def numbers(
    load: Load, source: Mapping[str, Any], sinks: list[dict[str, Any]], began_ns: int
) -> dict[str, float]:  # fmt: skip
    """Return what a workload is measured by, from what its processes have left."""
    if load.kind == STREAM:
        rate = min(1e9 * sink["items"] / sink["wall_ns"] for sink in sinks)
        return {"items_s": rate, "gb_s": rate * load.nbytes / 1e9, "source_us": source["cpu_ns"] / 1e3 / load.count}
    if load.kind == PACED:
        return {"p50_us": median(sinks[0]["way_us"]), "p99_us": quantiles(sinks[0]["way_us"], n=100)[-1]}
    if load.kind == FIRST:
        return {"start_s": (sinks[0]["ended_ns"] - began_ns) / 1e9}
    return {"seconds": (max(sink["ended_ns"] for sink in sinks) - source["began_ns"]) / 1e9}


def _rest(task: Task, command: Command, place: Place) -> dict[str, float]:
    """Let a load of which only the first item counts come to rest, and add up the memory of all its processes."""
    if task.of.kind != FIRST:
        return {}
    wait_until(lambda: task.is_there("sink-0.json") or command.ends_within(0.002), LIMIT_S)
    time.sleep(REST_S)
    pss_bytes = []
    for process in place.processes():
        with suppress(psutil.Error):
            pss_bytes.append(process.memory_full_info().pss)
    task.touch(RELEASE)
    return {"pss_mb": sum(pss_bytes) / 1e6, "processes": len(pss_bytes)}


def _kill(task: Task, command: Command, place: Place) -> dict[str, Any]:
    """Kill one worker, drawn by the seed, while items are on their way."""
    names = [f"{UNDER_WAY}-{k}" for k in range(task.of.sinks)]
    wait_until(lambda: all(map(task.is_there, names)) or command.ends_within(0.002), LIMIT_S)
    workers = {}
    for process in place.processes():
        with suppress(psutil.Error):
            words = process.cmdline()
            if WORKER in words:
                workers[f"{words[words.index(WORKER) + 1]} {words[words.index('--slot') + 1]}"] = process
    if workers:  # else the command has failed, and says why
        victim = random.Random(f"{task.seed} {task.load}").choice(sorted(workers))
        workers[victim].kill()
        task.touch(STRUCK)
        return {"killed": victim}
    return {}


def _busy_s() -> float:
    """Return the CPU seconds that the whole machine has spent; 0 where that is not to be had."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, softirq, *_ = map(int, file.readline().split()[1:])
    except OSError:
        return 0.0
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)
