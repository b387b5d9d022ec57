"""The workloads as zpipe pipelines, written as anyone writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import zpipe as zp
from tests.bench.halves import SINKS, BlockSink, Burn, ExactSink, Task, identity, rows, source
from tests.bench.workloads import WORK

BLOCK, STACKED = 512, 4096  # most items of one call: in a list, and in an array


def pipeline(task: Task, *, blocks: bool = False, stage: Mapping[str, Any] | None = None) -> zp.Pipeline:
    """Return the pipeline of a task; its stage and its sink take `blocks` of items where that is asked for.

    Where items are arrays so does the source, and a block is one array.  `stage` is more of what the stages are, with
    a `cmd` in place of the function.
    """
    load, args = task.of, {"task": task.to_dict()}
    options: dict[str, Any] = {"batch_size": BLOCK} if blocks else {}
    x = zp.stage(source, args=args)
    if blocks and load.is_array:
        options = {"batch_size": STACKED, "stacked": True}
        x = zp.stage(rows, name="source", args=args, stacked=True)
    for k in range(load.stages):
        name, workers = f"stage-{k}", load.workers
        if load.kind == WORK:
            x = zp.stage(Burn, name=name, args=args, workers=workers)(x)
        else:
            whole = {"name": name, "workers": workers, **options, **(stage or {})}
            x = zp.stage("" if "cmd" in whole else identity, **whole)(x)
    sink: Any = ExactSink if task.kill else BlockSink if blocks else SINKS[load.kind]
    ends = [zp.stage(sink, name=f"sink-{k}", args={**args, "index": k}, **options)(x) for k in range(load.sinks)]
    return zp.Pipeline("relay", *ends)
