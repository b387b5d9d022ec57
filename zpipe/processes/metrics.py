"""What a monitor is told of a run, from the registry's tables: metrics, and whether all workers are there.

Knows what each metric means and that a counter never falls; refuses to know HTTP and formats.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from zpipe.core.members import planned
from zpipe.core.progress import COMPLETE, DONE, FAILED, FAILING, INTERRUPTED, RUNNING
from zpipe.values.plan import Plan

STALE_S = 5.0  # a table this old says nothing of the workers
STATES = (RUNNING, COMPLETE, FAILING, DONE, INTERRUPTED, FAILED)
OUTCOMES = ("done", "dropped", "dead")

Labels = tuple[str, ...]
Found = dict[tuple[str, Labels], float]  # by metric and label values, those of `run` left out


@dataclass(frozen=True)
class Metric:
    """One name; its samples bear the label `run` before these labels.  `counter` is where a stage's row has it."""

    name: str
    labels: Labels
    help: str
    counter: str = ""

    @property
    def never_falls(self) -> bool:
        """Tell whether it is a counter, by its name; the others are gauges."""
        return self.name.endswith("_total")


METRICS = (
    Metric("zpipe_run_info", ("name", "state"), "Always 1: which run this is."),
    Metric("zpipe_run_state", ("state",), "1 for the state the run is in, 0 for the others."),
    Metric("zpipe_registry_age_seconds", (), "Age of the registry's last table, of which all the rest is told."),
    Metric("zpipe_stage_planned_workers", ("stage",), "Workers the pipeline asks for."),
    Metric("zpipe_stage_workers", ("stage",), "Workers that are live: ready, and heard of in the last seconds."),
    Metric("zpipe_stage_restarts_total", ("stage",), "Lives that took the place of an earlier one."),
    Metric("zpipe_stage_items_total", ("stage", "outcome"), "Inputs by what became of them: done, dropped, dead."),
    Metric("zpipe_stage_received_items_total", ("stage",), "Inputs finished with, whatever became of them.", "in"),
    Metric("zpipe_stage_out_items_total", ("stage",), "Outputs made.", "out"),
    Metric("zpipe_stage_skipped_items_total", ("stage",), "Outputs that made way for a newer one.", "skipped"),
    Metric("zpipe_stage_repeats_total", ("stage",), "Inputs that arrived again after a death.", "repeats"),
    Metric("zpipe_stage_busy_seconds_total", ("stage",), "Time of its workers spent in calls.", "busy_s"),
    Metric("zpipe_stage_starved_seconds_total", ("stage",), "Time spent waiting for inputs.", "starved_s"),
    Metric("zpipe_stage_blocked_seconds_total", ("stage",), "Time spent waiting for credit from below.", "blocked_s"),
    Metric("zpipe_stage_queued_items", ("stage",), "Inputs that have arrived and wait for their call.", "queued"),
    Metric("zpipe_stage_in_flight_items", ("stage",), "Outputs sent and not yet settled.", "in_flight"),
    Metric("zpipe_stage_retained_bytes", ("stage",), "Bytes of the outputs not yet settled.", "retained_bytes"),
    Metric("zpipe_source_position", ("source",), "The position a source reads next; absent until it is told."),
    Metric("zpipe_source_watermark", ("source",), "Everything of a source below this position is settled."),
    Metric("zpipe_worker_resident_bytes", ("stage", "worker"), "Memory (RSS) of a worker's process."),
)


@dataclass(frozen=True)
class _Seen:
    table: Mapping[str, Any]
    found: Found
    at_s: float


class Metrics:
    """One run as its registry last told it; `planned` are the workers each stage should have.

    A registry that was killed comes back without the counts of living workers until they say HELLO, and for good
    without those of a life that ended meanwhile: a counter stays where it was until the table has caught up.
    Written by one thread and read by any: what is read is replaced as a whole.
    """

    def __init__(self, run: str, planned: Mapping[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        self.run = run
        self._planned = planned
        self._clock = clock
        self._began_s = clock()
        self._seen: _Seen | None = None

    @classmethod
    def of(cls, plan: Plan) -> Metrics:
        """Return those of a run that is about to start."""
        return cls(plan.name, {stage.name: planned(stage) for stage in plan.stages})

    def see(self, table: Mapping[str, Any]) -> None:
        """Take the registry's table in."""
        found = _found(table)
        if self._seen is not None:
            for metric, labels in found.keys() & self._seen.found.keys():
                if metric.endswith("_total"):
                    found[metric, labels] = max(found[metric, labels], self._seen.found[metric, labels])
        self._seen = _Seen(table, found, self._clock())

    def samples(self) -> dict[Metric, dict[Labels, float]]:
        """Return the values of each metric by its label values, that of `run` first."""
        seen = self._seen
        found: Found = dict(seen.found) if seen else {}
        found["zpipe_registry_age_seconds", ()] = self._age_s(seen)
        found.update({("zpipe_stage_planned_workers", (name,)): number for name, number in self._planned.items()})
        out: dict[Metric, dict[Labels, float]] = {metric: {} for metric in METRICS}
        by_name = {metric.name: metric for metric in METRICS}
        for (name, labels), value in found.items():
            out[by_name[name]][(self.run, *labels)] = value
        return out

    def lacking(self) -> list[str]:
        """Return a line for each stage without its workers, and one for a registry that cannot tell."""
        seen = self._seen
        lines = []
        if seen is None:
            lines.append("registry: has not answered yet")
        elif self._age_s(seen) > STALE_S:
            lines.append(f"registry: silent for {self._age_s(seen):.0f} s")
        elif seen.table["recovering"]:
            lines.append("registry: recovering, some workers are not back yet")
        wanted = {row["name"]: row.get("wanted") for row in seen.table["stages"]} if seen else {}
        for name, number in self._planned.items():
            number = wanted.get(name) or number
            live = _live(seen.table["workers"], name) if seen else 0
            if live < number:
                lines.append(f"stage {name}: {live} of {number} workers live")
        return lines

    def _age_s(self, seen: _Seen | None) -> float:
        return max(0.0, self._clock() - (seen.at_s if seen else self._began_s))


def _found(table: Mapping[str, Any]) -> Found:
    found: Found = {("zpipe_run_info", (table["name"], table["state"])): 1}
    for state in STATES:
        found["zpipe_run_state", (state,)] = int(state == table["state"])
    for row in table["stages"]:
        name, counters = row["name"], row["counters"]
        found["zpipe_stage_workers", (name,)] = _live(table["workers"], name)
        found["zpipe_stage_restarts_total", (name,)] = row["restarts"]
        for outcome in OUTCOMES:
            found["zpipe_stage_items_total", (name, outcome)] = counters.get(outcome, 0)
        for metric in METRICS:
            if metric.counter:
                found[metric.name, (name,)] = counters.get(metric.counter, 0)
    for row in table["sources"]:
        found["zpipe_source_watermark", (row["name"],)] = row["watermark"]
        if row["position"] is not None:
            found["zpipe_source_position", (row["name"],)] = row["position"]
    for row in table["workers"]:
        if "rss" in row["counters"]:
            found["zpipe_worker_resident_bytes", (row["stage"], row["worker"])] = row["counters"]["rss"]
    return found


def _live(workers: Iterable[Mapping[str, Any]], stage: str) -> int:
    return sum(row["stage"] == stage and row["state"] == "live" for row in workers)
