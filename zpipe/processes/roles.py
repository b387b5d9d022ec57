"""What the machine of a worker needs to know of its stage, taken from the plan."""

from __future__ import annotations

from collections.abc import Mapping

from zpipe.core.source import Position
from zpipe.core.worker import Role
from zpipe.values.plan import Plan, StagePlan


def role_of(
    plan: Plan,
    stage: StagePlan,
    slot: int,
    watermarks: Mapping[int, tuple[Position, bool]],
    reaches: Mapping[int, int],
) -> Role:
    """Return the role of a worker in slot `slot` of `stage`; a source begins at the watermarks."""
    partitions = None
    if stage.role == "source":
        own = [source for k, source in enumerate(stage.lanes) if k % stage.workers == slot]
        partitions = {source: watermarks.get(source, (Position(), False)) for source in own}
    return Role(
        inputs=stage.inputs,
        outputs=[plan.edges[number] for number in stage.outputs],
        unread=stage.unread,
        latest={number for number in stage.inputs if plan.edges[number].keep == "latest"},
        memory=stage.memory,
        commits="commit" in stage.hooks,
        block=stage.block,
        gate=stage.is_gate,
        stacked=stage.stacked,
        wait_s=stage.wait_s,
        depths=stage.depth_map(),
        lanes=stage.lanes,
        hooks=stage.hooks_above,
        kept=stage.kept,
        origins=plan.origins,
        partitions=partitions,
        reaches=reaches,
        epochs=stage.epochs,
    )
