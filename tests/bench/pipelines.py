"""The workloads as zpipe pipelines, written as anyone writes them."""

from __future__ import annotations

from typing import Any

import zpipe as zp
from tests.bench.halves import SINKS, BlockSink, Burn, ExactSink, Task, identity, source
from tests.bench.workloads import WORK

BLOCK = 512  # most items of one call


def pipeline(task: Task, *, blocks: bool = False) -> zp.Pipeline:
    """Return the pipeline of a task; its stage and its sink take `blocks` of items where that is asked for."""
    load, args = task.of, {"task": task.to_dict()}
    options: dict[str, Any] = {"batch_size": BLOCK} if blocks else {}
    x = zp.stage(source, args=args)
    for k in range(load.stages):
        name, workers = f"stage-{k}", load.workers
        if load.kind == WORK:
            x = zp.stage(Burn, name=name, args=args, workers=workers)(x)
        else:
            x = zp.stage(identity, name=name, workers=workers, **options)(x)
    sink: Any = ExactSink if task.kill else BlockSink if blocks else SINKS[load.kind]
    ends = [zp.stage(sink, name=f"sink-{k}", args={**args, "index": k}, **options)(x) for k in range(load.sinks)]
    return zp.Pipeline("relay", *ends)
