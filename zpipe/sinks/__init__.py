"""Ready-made sinks: each item once however often it comes and whatever is killed.

Items are known by their paths, which are unique within a run only: what another run wrote is refused.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zpipe.sinks.arrays import npz
    from zpipe.sinks.database import sqlite
    from zpipe.sinks.lines import jsonl
    from zpipe.sinks.tables import parquet

# Each comes when it is asked for: some import what the others do not need.
_MODULES = {"jsonl": "lines", "npz": "arrays", "parquet": "tables", "sqlite": "database"}

__all__ = ["jsonl", "npz", "parquet", "sqlite"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
