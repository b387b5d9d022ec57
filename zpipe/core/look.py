"""A look at a run: what its stages and edges do now, from the tables of the last seconds; plain data, for JSON.

Knows the registry's tables; refuses to know how a look is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zpipe.core.advice import Advice, Looks, StageLook, Table, advise
from zpipe.core.histogram import Histogram, percentile
from zpipe.core.outcomes import Map

STAGE_SHARES = {"p50_s": 0.5, "p95_s": 0.95, "p99_s": 0.99}  # of the times of calls
EDGE_SHARES = {"p50_s": 0.5, "p95_s": 0.95}  # of the times from sending until consumed
ADVICE = ("bottlenecks", "more", "next", "line")


class Looker:
    """Looks at one run: takes the registry's tables, and tells what happened between them."""

    def __init__(self) -> None:
        self._looks = Looks()

    def see(self, table: Table) -> Map:
        """Take a table in and return the look at the run; `span_s` is 0 for the first, and rates are None.

        A rate is None as long as it is not known, and so are percentiles of nothing.
        """
        advice = self._looks.see(table)
        return look(self._looks.before or table, table, advice)


def look(before: Table, table: Table, advice: Advice | None) -> Map:
    """Return what two tables of one run tell; without `advice` it is too early for any."""
    stages = (advice or advise(before, table)).stages
    earlier = {row["name"]: row for row in before["stages"]}
    edges = {row["edge"]: row for row in before["edges"]}
    span_s = table["age_s"] - before["age_s"]
    return {
        "run": table["name"],
        "state": table["state"],
        "age_s": table["age_s"],
        "span_s": span_s,
        "registry_silent_s": 0.0,
        "settled": sum(row["watermark"] for row in table["sources"]),
        "made": sum(max(row["position"] or 0, row["watermark"]) for row in table["sources"]),
        "stages": [
            _stage(row, earlier[row["name"]], stage) for row, stage in zip(table["stages"], stages, strict=True)
        ],
        "edges": [_edge(row, edges[row["edge"]], span_s) for row in table["edges"]],
        "advice": advice and {name: getattr(advice, name) for name in ADVICE},
    }


def _stage(row: Mapping[str, Any], before: Mapping[str, Any], stage: StageLook) -> Map:
    calls = _since(before["calls"], row["calls"])
    is_known = stage.busy + stage.starved + stage.blocked > 0
    return {
        "name": row["name"],
        "role": row["role"],
        "workers": row["workers"],
        "wanted": row["wanted"] or row["planned"],
        "rate": stage.rate if is_known else None,
        **{name: getattr(stage, name) if is_known else None for name in ("busy", "starved", "blocked")},
        "queued": stage.queued,
        "in_flight": int(row["counters"].get("in_flight", 0)),
        "calls": calls.total(),
        **{name: percentile(calls, share) for name, share in STAGE_SHARES.items()},
    }


def _edge(row: Mapping[str, Any], before: Mapping[str, Any], span_s: float) -> Map:
    latency = _since(before["latency"], row["latency"])
    told_s = span_s - row["beat_age_s"] + before["beat_age_s"]  # between the beats that the counts are of
    return {
        "from": row["from"],
        "to": row["to"],
        "outputs": row["outputs"],
        "transports": row["transports"],
        "rate": _rate(row["sent"] - before["sent"], told_s),
        "bytes_s": _rate(row["sent_bytes"] - before["sent_bytes"], told_s),
        "queued": row["queued"],
        "in_flight": row["in_flight"],
        **{name: percentile(latency, share) for name, share in EDGE_SHARES.items()},
    }


def _since(before: Mapping[int, int], now: Mapping[int, int]) -> Histogram:
    """Return what was counted since; nothing where a registry that was started again has lost counts."""
    return Histogram(now) - Histogram(before)


def _rate(count: int, seconds: float) -> float | None:
    return max(0, count) / seconds if seconds > 0 else None
