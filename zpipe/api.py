"""The Python way in: the pipeline with its verbs.  Loads the machinery of processes only when one runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from zpipe.values import callables, graph, pipeline
from zpipe.values.check import check
from zpipe.values.errors import ConfigError, RunError, ZpipeError

if TYPE_CHECKING:
    from zpipe.notebook import Live
    from zpipe.processes.report import Report


class Pipeline(pipeline.Pipeline):
    """A pipeline to check and run."""

    def check(self) -> None:
        """Check the pipeline and start nothing.  Raises ConfigError with every fault, one a line."""
        if faults := check(self):
            raise ConfigError(*map(str, faults))

    def summary(self) -> str:
        """Return a table of the stages: role, callable, what each reads, workers, and what it remembers.

        Raises ConfigError with every fault.
        """
        self.check()
        return graph.summary(self)

    def run(
        self,
        *,
        inline: bool = False,
        sets: Sequence[str] = (),
        chaos: float | None = None,
        seed: int | None = None,
        limit: int | None = None,
        until: str | None = None,
        resume: str | os.PathLike[str] | bool = False,
        events: str | os.PathLike[str] | None = None,
        folder: str | os.PathLike[str] = "runs",
        metrics: str | None = None,
        trace: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> Report:
        """Run to the end and return the report.

        In one process per worker on this machine, or `inline` in this very thread, for a debugger.  `sets`
        are changes like "features.workers=8"; `chaos` kills a random worker every so many seconds, chosen
        by `seed`; of each source `limit` items are made per epoch; the stages below `until` are left out;
        `resume` goes on with the last run of this pipeline in `folder`, or with the one whose folder it names;
        `events` is a file for a copy of the run's events; `folder` is where the folder of the run is made;
        `metrics` is an address such as "127.0.0.1:9464" at which Prometheus may read how the run goes; `trace` is a
        file for who ran which item when, for a viewer of traces.
        In a notebook the output of the cell shows how the stages get on, unless `progress` is false.
        Raises ConfigError with every fault, RunError when the run failed.
        """
        by = os.environ.get("ZPIPE_WORKER") or callables.importing.get()
        if by:
            raise ConfigError(
                f"run() of pipeline {self.name!r} was reached while {by!r} imports this file: "
                'put it below `if __name__ == "__main__":`'
            )
        if inline:
            if chaos is not None:
                raise ConfigError("an inline run has no workers to kill: leave out chaos or inline")
            if resume:
                raise ConfigError("an inline run keeps nothing to go on with: leave out resume or inline")
            if metrics is not None:
                raise ConfigError("an inline run has no registry to tell metrics: leave out metrics or inline")
            from zpipe.processes import inline as in_thread

            return in_thread.run(
                self, sets=sets, seed=seed, runs=folder, limit=limit, until=until, events=events,
                trace=trace,
            )  # fmt: skip
        from zpipe.processes import launcher
        from zpipe.processes.resume import AlreadyDone

        live = _live() if progress else None
        try:
            report = launcher.run(
                self, sets=sets, chaos=chaos, seed=seed, runs=folder, limit=limit, until=until, events=events,
                resume=resume, metrics=metrics, trace=trace, progress=live.progress if live else None,
            )  # fmt: skip
        except AlreadyDone as done:
            return done.report
        except ZpipeError as error:
            if isinstance(error, RunError) and error.detail:
                error.add_note(error.detail.rstrip().rpartition("\n")[0])  # the last line the error has itself
            raise error.with_traceback(None) from None  # the line says it all: where we noticed helps nobody
        if live:
            live.report(report)
        return report


def _live() -> Live | None:
    """Return what shows a run in the kernel of a notebook, None elsewhere."""
    ipython = sys.modules.get("IPython")
    if ipython is None or not hasattr(ipython.get_ipython(), "kernel"):
        return None
    from zpipe.notebook import Live

    return Live()
