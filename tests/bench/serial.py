"""A workload in one process, what its stage does in a loop: python -m tests.bench.serial TASK."""

from __future__ import annotations

import json
import sys
import time

from tests.bench.halves import Task, WorkSink
from tests.bench.workloads import burn


def main() -> None:
    task = Task(**json.loads(sys.argv[1]))
    sink, work = WorkSink(task.to_dict()), list(task.of.work(task.seed))
    task.leave("source", began_ns=time.monotonic_ns())
    for item in work:
        sink(burn(item))


if __name__ == "__main__":
    main()
