"""How a run goes, shown in a notebook: one output of the cell, which changes in place.

The only module that imports IPython, which is there already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zpipe.cli import show
from zpipe.processes.report import Report


class Live:
    """The stages of a run while it lasts, and what became of them."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._text = ""

    def progress(self, table: Mapping[str, Any]) -> None:
        """Show the registry's table."""
        self._show(f"{table['name']}: {table['state']}", show.text_of(show.stages_table(table)))

    def report(self, report: Report) -> None:
        """Show what the run has come to."""
        title = f"{report.name}: {report.state} in {report.seconds:.1f} s, {report.bottleneck_line}"
        self._show(title, show.text_of(show.short_report(report)), f"run folder: {report.folder}")

    def _show(self, *parts: str) -> None:
        text = "\n".join(parts)
        if text == self._text:
            return
        self._text = text
        data = {"text/plain": text}
        if self._handle is None:
            from IPython.display import display

            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
