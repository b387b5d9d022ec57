"""The lines of `ps`: the run, its stages, workers, edges and sources."""

from __future__ import annotations

from zpipe.core.members import Member, Members, may_scale, planned, sources_of
from zpipe.core.outcomes import Map
from zpipe.core.progress import Progress
from zpipe.values.plan import Plan, StagePlan


def run_line(plan: Plan, progress: Progress, now_s: float) -> Map:
    """Return what there is to say of the run as a whole."""
    started_s = now_s if progress.started_s is None else progress.started_s
    return {
        "name": plan.name,
        "state": progress.state,
        "stopping": progress.stopping,
        "started_s": started_s,
        "age_s": now_s - started_s,
        "error": progress.error["error"],
        "error_worker": progress.error["worker"],
        "detail": progress.error["detail"],
    }


def stage_lines(plan: Plan, members: Members) -> list[Map]:
    """Return the stages with their counters over all lives; what is no sum is of the living."""
    names = {edge.number: plan.stages[edge.from_].name for edge in plan.edges}
    return [_stage_line(stage, members, [names[edge] for edge in stage.inputs]) for stage in plan.stages]


def worker_lines(members: Members, now_s: float, suspect_s: float) -> list[Map]:
    """Return the living workers; one that has been silent for `suspect_s` is marked."""
    return [_worker_line(member, now_s, suspect_s, leaves=members.is_leaving(member)) for member in members]


def edge_lines(plan: Plan, members: Members, now_s: float) -> list[Map]:
    """Return the edges: what was sent over all lives, and what waits now; `beat_age_s` is the senders' mean."""
    edges = dict(members.edges)
    ages_s: dict[int, list[float]] = {edge.number: [] for edge in plan.edges}
    for member in members:
        for number, news in member.edges.items():
            edges[number] += news
        for number in member.stage.outputs:
            ages_s[number].append(max(0.0, now_s - member.seen_s))
    names = {stage.number: stage.name for stage in plan.stages}
    return [
        {
            "edge": edge.number,
            "from": names[edge.from_],
            "to": names[edge.to],
            "outputs": list(edge.outputs),
            "transports": list(edges[edge.number].transports),
            "sent": edges[edge.number].sent,
            "sent_bytes": edges[edge.number].sent_bytes,
            "in_flight": edges[edge.number].in_flight,
            "queued": edges[edge.number].queued,
            "latency": dict(edges[edge.number].latency),
            "beat_age_s": sum(ages_s[edge.number]) / max(1, len(ages_s[edge.number])),
        }
        for edge in plan.edges
    ]


def source_lines(plan: Plan, progress: Progress) -> list[Map]:
    """Return how far each source has come; its position is unknown until a worker tells it."""
    return [
        {
            "source": number,
            "name": str(plan.lane_names[number]),
            "position": progress.positions.get(number),
            "watermark": watermark[0],
            "epoch": watermark[1],
            "complete": number in progress.complete,
        }
        for number, watermark in progress.watermarks.items()
    ]


def _stage_line(stage: StagePlan, members: Members, reads: list[str]) -> Map:
    living = members.of(stage)
    return {
        "name": stage.name,
        "number": stage.number,
        "role": stage.role,
        "reads": reads,
        "scales": may_scale(stage),
        "gate": stage.is_gate,
        "workers": len(living),
        "planned": planned(stage),
        "wanted": members.wanted.get(stage.number),
        "pinned": stage.number in members.pinned,
        "restarts": members.restarts(stage),
        "timeout": stage.timeout,
        "rate": sum(member.rate for member in living),
        "counters": members.totals(stage),
        "calls": dict(members.calls_of(stage)),
    }


def _worker_line(member: Member, now_s: float, suspect_s: float, *, leaves: bool) -> Map:
    silent_s = max(0.0, now_s - member.seen_s)
    state = "drain" if leaves else member.state
    return {
        "worker": member.name,
        "inc": member.inc,
        "stage": member.stage.name,
        "slot": member.slot,
        "pid": member.pid,
        "host": member.host,
        "supervisor": member.supervisor,
        "state": "suspect" if silent_s >= suspect_s else state if member.announced else "away",
        "beat_age_s": silent_s,
        "rate": member.rate,
        "running": member.running,
        "waits": member.waits,
        "listen": dict(member.listen),
        "sources": sources_of(member.stage, member.slot),
        "counters": dict(member.counters),
    }
