"""What a run returns: per stage what came in and what became of it, where time went, and the bottleneck."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from zpipe.processes.letters import Letters
from zpipe.values.errors import RunError

MIB = 1024 * 1024
COUNTS = ("done", "dropped", "dead", "out", "skipped", "errors", "repeats")
DONE, FAILED, INTERRUPTED = "done", "failed", "interrupted"


@dataclass(frozen=True)
class StageReport:
    """One stage: `taken` = done + dropped + dead; out and repeats are columns of their own.

    `skipped` are outputs in whose place a reader that keeps only the latest got a newer one, `errors` those of the
    dropped inputs that failed, at a stage with on_error = "skip".  The shares are of the
    workers' time and add up to 1 once anything was measured; rate is inputs a second.
    """

    name: str
    workers: int = 0
    done: int = 0
    dropped: int = 0
    dead: int = 0
    out: int = 0
    skipped: int = 0
    errors: int = 0
    repeats: int = 0
    restarts: int = 0
    rate: float = 0.0
    busy: float = 0.0
    starved: float = 0.0
    blocked: float = 0.0

    @property
    def taken(self) -> int:
        """Return how many inputs were taken and finished with."""
        return self.done + self.dropped + self.dead

    def to_dict(self) -> dict[str, Any]:
        """Return the columns, `in` among them."""
        columns = asdict(self)
        return {"name": columns.pop("name"), "workers": columns.pop("workers"), "in": self.taken, **columns}


@dataclass(frozen=True)
class ProcessReport:
    """The lives of one process and the most memory that any of them held; 0 where it was not measured."""

    name: str
    stage: str
    lives: int = 1
    rss_bytes: int = 0
    pss_bytes: int = 0


@dataclass(frozen=True)
class Report:
    """The whole run; `error` and `detail` say why it failed, `kills` counts chaos by role.

    Of a run that was `resumed`, so often, the counts are of all its lives, `seconds` and rates of the last.
    """

    name: str
    state: str
    folder: Path
    seconds: float
    stages: tuple[StageReport, ...] = ()
    processes: tuple[ProcessReport, ...] = ()
    error: str = ""
    detail: str = ""
    seed: int | None = None
    kills: Mapping[str, int] = field(default_factory=dict)
    resumed: int = 0

    @property
    def ok(self) -> bool:
        """Return whether the run ended by itself, every item accounted for."""
        return self.state == DONE

    @property
    def dead(self) -> int:
        """Return how many items were given up."""
        return sum(stage.dead for stage in self.stages)

    @property
    def bottleneck(self) -> str | None:
        """Return the stage whose workers were busy the largest share of their time; None when none worked."""
        busiest = max(self.stages, key=lambda stage: stage.busy, default=None)
        return busiest.name if busiest and busiest.busy > 0 else None

    @property
    def bottleneck_line(self) -> str:
        """Return `bottleneck: features (busy 97 %)`."""
        busy = {stage.name: stage.busy for stage in self.stages}
        name = self.bottleneck
        return f"bottleneck: {name} (busy {100 * busy[name]:.0f} %)" if name else "bottleneck: none, nothing ran"

    @property
    def largest_line(self) -> str:
        """Return `features-2 (RSS 83 MiB, PSS 61 MiB)`, the process that held the most memory."""
        largest = max(self.processes, key=lambda process: process.rss_bytes, default=None)
        if largest is None:
            return "none was measured"
        return f"{largest.name} (RSS {largest.rss_bytes // MIB} MiB, PSS {largest.pss_bytes // MIB} MiB)"

    def to_dict(self) -> dict[str, Any]:
        """Return what report.json holds."""
        return {
            "name": self.name,
            "state": self.state,
            "ok": self.ok,
            "error": self.error,
            "detail": self.detail,
            "folder": str(self.folder),
            "seconds": round(self.seconds, 3),
            "bottleneck": self.bottleneck,
            "stages": [stage.to_dict() for stage in self.stages],
            "processes": [asdict(process) for process in self.processes],
            "seed": self.seed,
            "kills": dict(self.kills),
            "resumed": self.resumed,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """Return the report that `to_dict` wrote.  Raises KeyError and TypeError when it is none."""
        stages = (StageReport(**{k: v for k, v in stage.items() if k != "in"}) for stage in data["stages"])
        processes = (ProcessReport(**process) for process in data["processes"])
        rest = {key: value for key, value in data.items() if key not in ("ok", "bottleneck")}
        return cls(**{**rest, "folder": Path(rest["folder"]), "stages": tuple(stages), "processes": tuple(processes)})


def read_report(path: Path) -> dict[str, Any]:
    """Return a report.json: name, state, error and detail are texts, seconds a number.  Raises RunError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    texts = ("name", "state", "error", "detail")
    if (
        not isinstance(found, dict)
        or not all(isinstance(found.get(name), str) for name in texts)
        or type(found.get("seconds")) not in (int, float)
    ):
        raise RunError(f"{path} is no report of a run")
    return found


def taken(counters: Mapping[str, Any]) -> int:
    """Return how many inputs were finished with, whatever became of them."""
    return sum(int(counters.get(key, 0)) for key in ("done", "dropped", "dead"))


def stage_report(
    name: str, workers: int, restarts: int, counters: Mapping[str, Any], seconds: float, earlier: int = 0
) -> StageReport:  # fmt: skip
    """Make a stage's line from its counters, summed over all lives of all its workers.

    `earlier` inputs were taken before these seconds began, by a run that was resumed.
    """
    counts = {key: int(counters.get(key, 0)) for key in COUNTS}
    spent_s = [float(counters.get(f"{key}_s", 0.0)) for key in ("busy", "starved", "blocked")]
    busy, starved, blocked = (x / sum(spent_s) if any(spent_s) else 0.0 for x in spent_s)
    return StageReport(
        name=name,
        workers=workers,
        restarts=restarts,
        rate=max(0, taken(counts) - earlier) / seconds if seconds > 0 else 0.0,
        busy=busy,
        starved=starved,
        blocked=blocked,
        **counts,
    )


def with_letters(stages: Iterable[StageReport], letters: Letters) -> tuple[StageReport, ...]:
    """Return the lines with the dead as they are on disk: what a worker has counted since it last told dies with it."""
    return tuple(replace(stage, dead=letters.count(stage.name)) for stage in stages)


def read_memory(pid: int) -> tuple[int, int]:
    """Return the peak RSS and the present PSS of a process in bytes; 0 where the system does not tell."""
    rss = _kib(f"/proc/{pid}/status", "VmHWM:")
    pss = _kib(f"/proc/{pid}/smaps_rollup", "Pss:")
    return rss * 1024, pss * 1024


def _kib(path: str, key: str) -> int:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(key):
                    return int(line.split()[1])
    except OSError:
        pass  # it has ended, or there is no /proc here
    return 0
