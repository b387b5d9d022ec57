"""Machine-learning pipelines as message-passing worker processes.

import zpipe as zp
"""

from zpipe.api import Pipeline
from zpipe.values import errors
from zpipe.values.context import Item, item, rng, run_folder
from zpipe.values.errors import (
    ConfigError,
    EncodeError,
    ProtocolError,
    RegistryError,
    RunError,
    SaveError,
    StageError,
    ZpipeError,
)
from zpipe.values.stage import batch, merge, rechunk, shuffle, stage, unbatch

__all__ = [
    "ConfigError",
    "EncodeError",
    "Item",
    "Pipeline",
    "ProtocolError",
    "RegistryError",
    "RunError",
    "SaveError",
    "StageError",
    "ZpipeError",
    "batch",
    "errors",
    "item",
    "merge",
    "rechunk",
    "rng",
    "run_folder",
    "shuffle",
    "stage",
    "unbatch",
]
