"""What the registry's machine asks for, and what it needs to go on after a restart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from zpipe.core.requests import Watermark

Map: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """Answer a request."""

    peer: bytes
    message: Map


@dataclass(frozen=True)
class Push:
    """Tell a worker without being asked."""

    peer: bytes
    message: Map


@dataclass(frozen=True)
class Store:
    """Keep a value under (kind, key) before anything is sent that follows from it; None forgets it."""

    kind: str
    key: str
    value: Any


@dataclass(frozen=True)
class Ended:
    """The run is over: done, interrupted or failed."""

    state: str
    why: str


@dataclass(frozen=True)
class Down:
    """The registry was told to leave, once everything before this is sent."""


Action: TypeAlias = Reply | Push | Store | Ended | Down


@dataclass
class Stored:
    """What the stored values of an earlier registry of the same run amount to."""

    run: Map = field(default_factory=dict)
    watermarks: dict[int, Watermark] = field(default_factory=dict)
    complete: set[int] = field(default_factory=set)
    reaches: dict[int, int] = field(default_factory=dict)
    workers: dict[int, Map] = field(default_factory=dict)  # by inc
    fences: dict[tuple[int, int], int] = field(default_factory=dict)
    draining: set[tuple[int, int]] = field(default_factory=set)  # stage, slot
    wanted: dict[int, int] = field(default_factory=dict)  # stage -> workers
    pinned: set[int] = field(default_factory=set)
    suspects: dict[int, dict[str, tuple[int, str]]] = field(default_factory=dict)  # by stage
    sums: dict[int, dict[str, int | float]] = field(default_factory=dict)

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[str, str, Any]]) -> Stored:
        """Read what Store actions have left, as (kind, key, value); kinds of others are passed over."""
        stored = cls()
        for kind, key, value in sorted(rows, key=lambda row: row[:2]):
            if kind == "run":
                stored.run[key] = value
            elif kind == "watermark":
                stored.watermarks[int(key)] = (value[0], value[1], value[2])
            elif kind == "complete":
                stored.complete.add(int(key))
            elif kind == "reach":
                stored.reaches[int(key)] = value
            elif kind == "worker":
                stored.workers[int(key)] = value
            elif kind == "fence":
                stage, _, slot = key.partition(":")
                stored.fences[int(stage), int(slot)] = value
            elif kind == "drain":
                stage, _, slot = key.partition(":")
                stored.draining.add((int(stage), int(slot)))
            elif kind == "wanted":
                stored.wanted[int(key)] = value
            elif kind == "pinned":
                stored.pinned.add(int(key))
            elif kind == "suspects":
                stored.suspects[int(key)] = {path: (deaths, how) for path, deaths, how in value}
            elif kind == "sums":
                stored.sums[int(key)] = value
        return stored
