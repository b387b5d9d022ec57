"""Machine-learning pipelines as message-passing worker processes.

import zpipe as zp
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zpipe.values import errors, freshness  # noqa: F401  freshness: modules may be edited from here on
from zpipe.values.context import Item, empty, item, out, rng, run_folder
from zpipe.values.errors import (
    CallError,
    ConfigError,
    EncodeError,
    NoRoom,
    ProtocolError,
    RegistryError,
    RunError,
    SaveError,
    StageError,
    ZpipeError,
)

if TYPE_CHECKING:
    from zpipe.api import Pipeline
    from zpipe.clients import client, pull, push
    from zpipe.values.stage import batch, latest, merge, rechunk, shuffle, split, stage, unbatch, use

# What writes pipelines comes when it is asked for: a worker that starts in the middle of a run needs none of it.
_LATER = {"Pipeline": "zpipe.api"} | dict.fromkeys(
    ("batch", "latest", "merge", "rechunk", "shuffle", "split", "stage", "unbatch", "use"), "zpipe.values.stage"
)
_LATER |= dict.fromkeys(("client", "pull", "push"), "zpipe.clients")

__all__ = [
    "CallError",
    "ConfigError",
    "EncodeError",
    "Item",
    "NoRoom",
    "Pipeline",
    "ProtocolError",
    "RegistryError",
    "RunError",
    "SaveError",
    "StageError",
    "ZpipeError",
    "batch",
    "client",
    "empty",
    "errors",
    "item",
    "latest",
    "merge",
    "out",
    "pull",
    "push",
    "rechunk",
    "rng",
    "run_folder",
    "shuffle",
    "split",
    "stage",
    "unbatch",
    "use",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
