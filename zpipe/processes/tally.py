"""What is remembered of a run: the registry's last table, and the memory of processes here."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from zpipe.processes.report import ProcessReport, StageReport, read_memory, stage_report, taken
from zpipe.processes.supervisor import Slot
from zpipe.values.plan import Plan

MEASURE_S = 1.0  # PSS costs its process some work


class Tally:
    """Counts as the registry last told them, and memory as measured here."""

    def __init__(self) -> None:
        self._stages: dict[str, Mapping[str, Any]] = {}
        self._workers: dict[str, Mapping[str, Any]] = {}  # by worker, the last life heard of
        self._here: dict[int, Mapping[str, Any]] = {}  # by pid, those of this host
        self._gone: set[int] = set()
        self._most: Counter[str] = Counter()  # workers of a stage at once
        self._rss: Counter[str] = Counter()
        self._pss: Counter[str] = Counter()
        self._measured_s = float("-inf")

    def see(self, table: Mapping[str, Any]) -> None:
        """Take the registry's table in."""
        host = socket.gethostname()
        for row in table["stages"]:
            self._stages[row["name"]] = row
            self._most[row["name"]] = max(row["workers"], self._most[row["name"]])
        for row in table["workers"]:
            self._workers[row["worker"]] = row
            self._rss[row["worker"]] = max(int(row["counters"].get("rss", 0)), self._rss[row["worker"]])
        rows = {row["pid"]: row for row in table["workers"] if row["host"] == host}
        self._here.update(rows)
        self._gone = self._here.keys() - rows.keys()

    def settled(self, pid: int | None = None) -> int:
        """Return how many inputs a process of this host, or the whole run, has settled as far as is known."""
        if pid is not None:
            return _settled(self._here.get(pid, {}))
        return sum(_settled(row) for row in self._stages.values())

    def inc(self, pid: int) -> dict[str, int]:
        """Return the id of a life of this host as a field, nothing when it is not known."""
        return {"inc": self._here[pid]["inc"]} if pid in self._here else {}

    def is_gone(self, pid: int) -> bool:
        """Tell whether the registry knew a process of this host and knows it no longer."""
        return pid in self._gone

    def forget(self, pid: int) -> None:
        """Forget a process that has ended: its number may be given to another."""
        self._here.pop(pid, None)
        self._gone.discard(pid)

    def measure(self, slots: Iterable[Slot], now_s: float) -> None:
        """Look at the memory of living processes, now and then."""
        if now_s - self._measured_s < MEASURE_S:
            return
        self._measured_s = now_s
        for slot in slots:
            if slot.pid:
                rss, pss = read_memory(slot.pid)
                self._rss[slot.name] = max(rss, self._rss[slot.name])
                self._pss[slot.name] = max(pss, self._pss[slot.name])

    def stages(
        self, plan: Plan, started: Counter[str], seconds: float, earlier: Mapping[str, int]
    ) -> tuple[StageReport, ...]:  # fmt: skip
        """Return the lines of the report, in the order of the pipeline.

        `started` are workers by stage, `earlier` the inputs that were taken before these seconds began.
        """
        reports = []
        for stage in plan.stages:
            row = self._stages.get(stage.name, {})
            workers = max(self._most[stage.name], started[stage.name])
            restarts = int(row.get("restarts", 0))
            before = earlier.get(stage.name, 0)
            reports.append(stage_report(stage.name, workers, restarts, row.get("counters", {}), seconds, before))
        return tuple(reports)

    def processes(self, slots: Mapping[str, Slot]) -> tuple[ProcessReport, ...]:
        """Return the processes of the report, the registry first, then also those that joined."""
        reports = []
        for name in [*slots, *sorted(self._workers.keys() - slots.keys())]:
            stage = str(self._workers.get(name, {}).get("stage", ""))
            lives = slots[name].lives if name in slots else 1
            reports.append(ProcessReport(name, stage, lives, self._rss[name], self._pss[name]))
        return tuple(reports)


def _settled(row: Mapping[str, Any]) -> int:
    return taken(row.get("counters", {}))
