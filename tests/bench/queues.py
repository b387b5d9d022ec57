"""A workload through multiprocessing.Queue, a forked process for each half: python -m tests.bench.queues TASK."""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
from typing import Any

from tests.bench.halves import SINKS, Burn, Task, identity, items
from tests.bench.workloads import WORK


def send_all(task: Task, queues: list[Any]) -> None:
    """Be the source."""
    for item in items(task):
        for queue in queues:
            queue.put(item)
    signal.pause()


def pass_on(task: Task, above: Any, below: Any) -> None:
    """Be a worker of a stage."""
    stage = Burn(task.to_dict()) if task.of.kind == WORK else identity
    while True:
        below.put(stage(above.get()))


def read_all(task: Task, queue: Any, index: int) -> None:
    """Be a sink."""
    sink = SINKS[task.of.kind](task.to_dict(), index)
    while not sink.over:
        sink(queue.get())  # type: ignore[operator]


def main() -> int:
    """Start every process of a task, and end them when the sinks have."""
    task = Task(**json.loads(sys.argv[1]))
    load, context = task.of, multiprocessing.get_context("fork")
    hops = [context.Queue(load.hwm) for _ in range(load.stages + 1 if load.stages else load.sinks)]
    ends = hops[-load.sinks :]
    sinks = [context.Process(target=read_all, args=(task, queue, k)) for k, queue in enumerate(ends)]
    others = [
        context.Process(target=pass_on, args=(task, hops[k], hops[k + 1]))
        for k in range(load.stages)
        for _ in range(load.workers)
    ]
    others.append(context.Process(target=send_all, args=(task, hops[:1] if load.stages else hops)))
    for process in (*sinks, *others):
        process.start()
    for sink in sinks:
        sink.join()
    for process in others:
        process.kill()
        process.join()
    return 1 if any(sink.exitcode for sink in sinks) else 0


if __name__ == "__main__":
    sys.exit(main())
