"""What a stage may ask while it runs: the item at hand, random numbers seeded by it, the run folder.

One thread runs all user code, so one `Current` is in force.  Whoever calls the code sets `run` and `index`;
all else is worked out when asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from zpipe.values.errors import ConfigError
from zpipe.values.paths import Again, LaneNames, Run

if TYPE_CHECKING:
    from numpy.random import Generator


@dataclass(frozen=True)
class Item:
    """The item at hand.

    `path` is unique in a run and the same in every replay; `position` counts over all epochs of a partition;
    `partition` and `partitions` are those of the item's source.
    """

    path: str
    position: int
    epoch: int
    attempt: int
    variant: Mapping[str, Any]
    worker: str
    partition: int
    partitions: int


@dataclass(frozen=True, slots=True)
class Output:
    """What a stage returns or yields to send `value` to the readers of its output `name` only."""

    name: str
    value: Any


class Current:
    """What the code of one stage is called for: the item of `run` at `index`; no run before the first.

    In a call for a block of items `block` has (run, index) of each.
    `lane_names` are those of the plan, `crops[1]` for the second partition of crops.
    """

    __slots__ = ("_rng", "_rng_of", "block", "index", "run", "run_folder", "run_key", "lane_names", "stage",
                 "tries", "variant", "worker")  # fmt: skip

    def __init__(
        self,
        stage: str,
        *,
        worker: str,
        lane_names: LaneNames,
        run_key: int,
        run_folder: Path | None,
        variant: Mapping[str, Any] | None = None,
    ) -> None:
        self.stage = stage
        self.worker = worker
        self.lane_names = lane_names
        self.run_key = run_key
        self.run_folder = run_folder
        self.variant = MappingProxyType(dict(variant or {}))
        self.run: Run | None = None
        self.index = 0
        self.tries = 0  # of the call at hand that have failed
        self.block: Sequence[tuple[Run, int]] | None = None
        self._rng: Generator | None = None
        self._rng_of: tuple[Any, ...] = ()

    def item(self, k: int | None = None) -> Item:
        """Return a view of the item at hand, of a block the `k`-th; ConfigError when there is none."""
        run, index = self._at("item", k)
        if run is None:
            raise ConfigError(f"stage {self.stage!r} calls zp.item() before its first item: call it in __call__")
        path, position = run.text(self.lane_names, index), run.path(index)[1]
        lane = self.lane_names.get(run.lane, str(run.lane))
        if isinstance(lane, Again):
            lane, _, numbers = path.rpartition(":")
            position = int(numbers.partition("#")[0].partition(".")[0])
        name, _, partition = lane.partition(">")[0].partition("[")
        names = [str(other) for other in self.lane_names.values()]
        siblings = sum(other.partition("[")[0] == name for other in names if ">" not in other)
        return Item(
            path=path,
            position=position,
            epoch=run.epoch_of(self.lane_names, index),
            attempt=run.attempt + self.tries,
            variant=self.variant,
            worker=self.worker,
            partition=int(partition.rstrip("]") or 0),
            partitions=max(1, siblings),
        )

    def _at(self, name: str, k: int | None) -> tuple[Run | None, int]:
        if self.block is None and k is None:
            return self.run, self.index
        if self.block is None:
            raise ConfigError(f"zp.{name}({k}): stage {self.stage!r} is given one item at a time: leave {k} out")
        if k is None or not 0 <= k < len(self.block):
            what = f"zp.{name}({'' if k is None else k}): stage {self.stage!r} is given a block of {len(self.block)}"
            raise ConfigError(f"{what}: say which of them, zp.{name}(0) for the first")
        return self.block[k]

    def rng(self, k: int | None = None) -> Generator:
        """Return the generator of the item at hand, or of the stage before the first; one object per item.

        Philox, keyed by BLAKE2b-128 over the run's key, the stage and the item's path.
        """
        run, index = self._at("rng", k)
        at = () if run is None else (run, run.path(index), run.digest)
        if self._rng is None or at != self._rng_of:
            import numpy as np  # only for those who ask

            path = "" if run is None else run.text(self.lane_names, index)
            name = f"{self.run_key}\0{self.stage}\0{path}".encode()
            key = blake2b(name, digest_size=16).digest()
            self._rng, self._rng_of = np.random.Generator(np.random.Philox(_key_class()(key))), at
        return self._rng


@cache
def _key_class() -> type:
    """Return a seed that is the key itself: `Philox(key=...)` draws, and drops, entropy of the system each time."""
    from numpy import frombuffer, uint64
    from numpy.random.bit_generator import ISeedSequence

    class Key(ISeedSequence):
        def __init__(self, key: bytes) -> None:
            self.words = frombuffer(key, ">u8")[::-1].astype(uint64)  # the low word first

        def generate_state(self, n_words: int, dtype: Any = None) -> Any:
            return self.words

    return Key


_current: Current | None = None
_allocate: Callable[[int], Any] | None = None


def allocate_by(allocate: Callable[[int], Any] | None) -> None:
    """Have `empty` ask for uint8 (nbytes,), or None without room; None ends that."""
    global _allocate
    _allocate = allocate


def empty(shape: int | Sequence[int], dtype: Any = float) -> Any:
    """Return a new array of `shape` and `dtype`, not filled, which the stages below read where it is.

    An array made in another way is copied once, into memory that processes of one host share, when a stage returns
    it; this one is there already.  Where none is shared, it is an array like any other.  Do not write to it any more
    once it was returned: it becomes read-only then.
    """
    import numpy as np

    dtype = np.dtype(dtype)
    size = (shape,) if isinstance(shape, int) else tuple(shape)
    allocate = _allocate  # another thread may end it meanwhile
    root = None if allocate is None or dtype.hasobject else allocate(math.prod(size) * dtype.itemsize)
    return np.empty(size, dtype) if root is None else np.ndarray(size, dtype, root)


def enter(current: Current | None) -> Current | None:
    """Put `current` in force and return the one before, to be put back."""
    global _current
    before, _current = _current, current
    return before


@contextmanager
def inside(current: Current) -> Iterator[Current]:
    """Have `current` in force inside of a `with`."""
    before = enter(current)
    try:
        yield current
    finally:
        enter(before)


def out(name: str, value: Any) -> Output:
    """Send `value` to the output `name` of the stage: return or yield what this returns.

    The stages that read `STAGE.name` get it, and nobody else does.
    """
    return Output(name, value)


def item(k: int | None = None) -> Item:
    """Return a view of the item that the stage is called for; in a call for a block of items, of its `k`-th.

    Raises ConfigError outside of a running stage.
    """
    return _the("item").item(k)


def rng(k: int | None = None) -> Generator:
    """Return a random generator seeded by the run's key, the stage and the path of the item at hand.

    In a call for a block of items that of its `k`-th.  The same item gets the same numbers in every replay, on any
    worker; ask for it anew with each item.  Raises ConfigError outside of a running stage.
    """
    return _the("rng").rng(k)


def run_folder() -> Path:
    """Return the folder of the run, for what a stage leaves there.

    Raises ConfigError outside of a running stage, and on a host that has not this folder.
    """
    current = _the("run_folder")
    if current.run_folder is None:
        raise ConfigError(
            f"stage {current.stage!r} uses the run folder, which is not on this host: start its worker where the "
            "registry is, or give it an absolute path"
        )
    return current.run_folder


def worker_name() -> str:
    """Return the name of this worker, `clean-3`.  Raises ConfigError outside of a running stage."""
    return _the("worker_name").worker


def _the(name: str) -> Current:
    if _current is None:
        raise ConfigError(f"zp.{name}() is called outside of a running stage: call it in the stage's own code")
    return _current
