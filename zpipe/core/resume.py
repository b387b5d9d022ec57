"""What the next life of a whole run begins with, and what it must not begin with.

Knows the plan and the stored values of the last life; refuses to know files and processes.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from zpipe.core.members import add_counters
from zpipe.core.order import OVER
from zpipe.core.outcomes import Store, Stored
from zpipe.values.plan import Plan


def why_not(plan: Plan, stored: Stored, reaches: Mapping[int, int], saved: Container[int]) -> str | None:
    """Return why a run cannot go on, None when it can; `saved` are the numbers of stages that have saved something.

    `reaches` tell, by lane, which sources have made something.
    """
    sources = {lane for stage in plan.stages if stage.role == "source" for lane in stage.lanes}
    memory = [stage.name for stage in plan.stages if stage.memory]
    if stored.run.get("stopping") and memory and stored.complete >= sources:
        return (
            "it was interrupted and has finished what was under way: "
            f"{', '.join(memory)} {'has' if len(memory) == 1 else 'have'} been told that nothing more comes"
        )
    for stage in plan.stages:
        if stage.loses_state and stage.number in saved:
            return (
                f"what stage {stage.name!r} had accumulated is lost with its worker: "
                "give its class state() and restore(state)"
            )
        begun = stored.watermarks.keys() | reaches.keys()
        if stage.role == "source" and stage.replay == "no" and begun & set(stage.lanes) - stored.complete:
            return (
                f'with replay = "no" source {stage.name!r} cannot make again what was under way: '
                'make it repeatable and use "skip"'
            )
    return None


def reaches_of(plan: Plan, cursors: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """Return how far the sources must have got, by lane, for stages with memory to have saved these cursors."""
    sources = {lane for stage in plan.stages if stage.role == "source" for lane in stage.lanes}
    reaches: dict[int, int] = {}
    for cursor in cursors:
        for lane, (position, *below) in cursor["next"]:
            source = plan.origins[lane]
            if source in sources and position != OVER:
                reaches[source] = max(position + any(below), reaches.get(source, 0))
    return reaches


def begin_again(
    plan: Plan, stored: Stored, reaches: Mapping[int, int], fences: Mapping[int, int]
) -> list[Store]:  # fmt: skip
    """Return what is to be stored before a run goes on with other processes.

    Its watermarks, complete sources and fences stay; its workers and how it ended go.  `reaches` are those that its
    last workers have noted, `fences` by stage the highest that is seen in the run folder: the stored values may be
    older, after a loss of power.
    """
    stores = [Store("run", key, None) for key in ("state", "error", "started_s") if key in stored.run]
    sums = {number: dict(counters) for number, counters in stored.sums.items()}
    for inc, entry in stored.workers.items():
        add_counters(sums.setdefault(entry["stage"], {}), entry.get("counters", {}))
        stores.append(Store("worker", str(inc), None))
    stores += [Store("sums", str(number), counters) for number, counters in sums.items()]
    stores += [Store("drain", f"{stage}:{slot}", None) for stage, slot in stored.draining]
    stores += [Store("wanted", str(number), None) for number in stored.wanted]
    stores += [Store("pinned", str(number), None) for number in stored.pinned]
    stores += [Store("suspects", str(number), None) for number in stored.suspects]  # what they died of may be mended
    for lane, reach in reaches.items():
        if reach > stored.reaches.get(lane, 0):
            stores.append(Store("reach", str(lane), reach))
    for number, fence in fences.items():
        if fence > stored.fences.get((number, 0), 0):
            stores.append(Store("fence", f"{number}:0", fence))
    if stored.run.get("stopping") and not any(stage.memory for stage in plan.stages):
        stores += _unstopped(plan, stored)
    return stores


def _unstopped(plan: Plan, stored: Stored) -> list[Store]:
    """Let sources that were told to stop go on: nobody below has seen the ends that they made.

    Such an end took a position, which the next item takes now.  Where a stage has a memory it has seen them: there
    the run stays one that was told to stop, and finishes what was under way.
    """
    stores = [Store("run", "stopping", None)]
    for stage in plan.stages:
        for lane in stage.lanes if stage.role == "source" else ():
            position, epoch, epoch_start = stored.watermarks.get(lane, (0, 0, 0))
            if lane in stored.complete and epoch < stage.epochs:
                stores.append(Store("complete", str(lane), None))
                stores.append(Store("watermark", str(lane), [position - 1, epoch, epoch_start]))
    return stores
