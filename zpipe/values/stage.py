"""Stages as users write them in Python, and the frozen specification each becomes.

Knows how stages are named and wired; refuses to know whether a callable exists or what it does.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from zpipe.values.errors import ConfigError
from zpipe.values.options import Options, Rule, plain, shaped, switch, whole, word

NAME = re.compile(r"[a-z][a-z0-9-]*")
BATCH, SPLIT = "zpipe.stages:batch", "zpipe.stages:split"
PROGRAM = "zpipe.processes.foreign:Program"  # what runs the `cmd` of a stage
GATE = "zpipe.processes.gate:Gate"  # of a stage with `listen` and no code of its own,
ENTRY = "zpipe.processes.entry:Entry"  # and of a source
ANY = "*"  # read in place of a name: what goes to any named output, with its name
# What the plan puts above a stage that joins: for arms that part at a fork, and for others.
JOIN, JOIN_ON = "zpipe.joins:join", "zpipe.joins:join_on"
GROUPING = frozenset((BATCH, "zpipe.stages:shuffle", "zpipe.stages:rechunk", JOIN, JOIN_ON))


@shaped(type="object", minProperties=1, additionalProperties={"type": "number", "exclusiveMinimum": 0})
def _weights(value: Any) -> str | None:
    good = isinstance(value, dict) and value and all(NAME.fullmatch(str(name)) for name in value)
    if good and all(isinstance(x, int | float) and not isinstance(x, bool) and x > 0 for x in value.values()):
        return None
    return "must be a table of names and weights above 0, like { train = 9, test = 1 }"


# The args of each built-in: its rule and its default, `...` where it must be given.
BUILT_INS: dict[str, dict[str, tuple[Rule, Any]]] = {
    BATCH: {"size": (whole(1), ...), "drop_last": (switch, False), "order": (word("source", "arrival"), "source")},
    "zpipe.stages:unbatch": {},
    "zpipe.stages:shuffle": {"size": (whole(1), ...), "seed": (whole(0), 0)},
    "zpipe.stages:rechunk": {"size": (whole(1), ...)},
    SPLIT: {"weights": (_weights, ...)},
}

_declared = itertools.count()  # stages keep the order in which the user wrote them


@dataclass(frozen=True)
class StageSpec:
    """One stage of a pipeline, checked or not.

    `run` is "module:name" or "file.py:name"; `inputs` are names of stages, or of their outputs like "route.spam",
    several are merged, or joined when it `joins`; `latest` are those of which only the latest item is kept while the
    stage is busy; `extra` are options that do not exist, kept for the check.
    """

    name: str
    run: str
    inputs: tuple[str, ...] = ()
    args: Mapping[str, Any] = field(default_factory=dict, hash=False)
    options: Options = field(default_factory=Options)
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    joins: bool = False
    latest: tuple[str, ...] = ()

    @property
    def above(self) -> tuple[str, ...]:
        """Return the names of the stages that it reads, each once."""
        return tuple(dict.fromkeys(read.partition(".")[0] for read in self.inputs))

    def outputs_of(self, above: str) -> tuple[str, ...]:
        """Return which outputs of the stage `above` it reads; "" is what goes to no named one."""
        reads = (read.partition(".") for read in self.inputs)
        return tuple(name for stage, _, name in reads if stage == above)

    def keeps(self, above: str) -> str:
        """Return what it keeps of the stage `above`, "all" or "latest"."""
        return "latest" if any(read.partition(".")[0] == above for read in self.latest) else "all"

    @property
    def code(self) -> str:
        """Return what its code is called: its `run`, or the command line of its program."""
        if self.run in (GATE, ENTRY):
            return "workers outside" if self.run == GATE else "clients outside"
        return " ".join(self.options.cmd or ()) if self.run == PROGRAM else self.run

    @property
    def is_gate(self) -> bool:
        """Tell whether workers outside take part in it."""
        return bool(self.options.listen) and bool(self.inputs)

    @property
    def is_source(self) -> bool:
        """Tell whether the stage reads no other stage."""
        return not self.inputs

    @property
    def is_grouping(self) -> bool:
        """Tell whether the stage is a built-in that groups items in source order."""
        return self.run in GROUPING and not self.groups_arrivals

    @property
    def groups_arrivals(self) -> bool:
        """Tell whether the stage is a built-in that groups items as they come."""
        return self.run == BATCH and self.args.get("order") == "arrival"

    def to_dict(self) -> dict[str, Any]:
        """Return the stage's table in a pipeline file, defaults left out."""
        out: dict[str, Any] = {} if self.run in (PROGRAM, GATE, ENTRY) else {"run": self.run}
        if self.joins:
            out["join"] = list(self.inputs)
        elif self.inputs:
            reads = [{"stage": read, "keep": "latest"} if read in self.latest else read for read in self.inputs]
            out["from"] = reads[0] if len(reads) == 1 else reads
        if self.args:
            out["args"] = plain(self.args)
        return {**out, **plain(self.options.given()), **plain(self.extra)}


class Stage:
    """A stage as written in Python: a template until called with its upstream, a source if it never is."""

    __slots__ = ("run", "name", "args", "options", "inputs", "joins", "place", "declared")

    def __init__(
        self,
        run: str | Callable[..., Any],
        name: str | None,
        args: Mapping[str, Any],
        options: Mapping[str, Any],
        inputs: tuple[Read, ...] = (),
        *,
        joins: bool = False,
    ) -> None:
        self.run = run
        self.name = name
        self.args = MappingProxyType(plain(args))
        self.options = MappingProxyType(plain(options))
        self.inputs = inputs
        self.joins = joins
        path, line = caller()
        self.place = f"{path.name}:{line}"
        self.declared = next(_declared)

    def __getitem__(self, output: str) -> Named:
        """Return the named output of this stage, for a stage that reads it: `zp.stage(f)(route["spam"])`."""
        return Named(self, output)

    def __call__(self, *upstream: Read | Merge) -> Stage:
        """Return this stage reading `upstream`: several are joined, the callable gets an item of each.

        Without any it is a source.
        """
        if not upstream:
            return self
        if self.inputs:
            raise ConfigError(f"{_here()}: {self!r} already reads {self.inputs[0]!r}: make another zp.stage(...)")
        joins = len(upstream) > 1
        if joins and any(isinstance(x, Merge) for x in upstream):
            raise ConfigError(f"{_here()}: {self!r} joins a merge: join single stages, and merge above or below them")
        if joins and any(isinstance(x, Latest) for x in upstream):
            raise ConfigError(f"{_here()}: {self!r} joins what zp.latest gives: a join needs every item of its inputs")
        return type(self)(self.run, self.name, self.args, self.options, _flat(upstream), joins=joins)

    def __repr__(self) -> str:
        return f"stage {self.name or default_name(self.run)!r}"


class Use(Stage):
    """A stage that a file defines, or a whole file of stages: its `run` says which."""

    __slots__ = ()


class Named:
    """A named output of a stage."""

    __slots__ = ("stage", "output")

    def __init__(self, stage: Stage, output: str) -> None:
        self.stage = stage
        self.output = output

    def __repr__(self) -> str:
        return f"output {self.output!r} of {self.stage!r}"


class Latest:
    """A stage, or an output of one, of which only the latest item is kept while its reader is busy."""

    __slots__ = ("read",)

    def __init__(self, read: Stage | Named) -> None:
        self.read = read

    def __repr__(self) -> str:
        return f"the latest of {self.read!r}"


Read = Stage | Named | Latest


class Merge:
    """Several stages, or outputs of stages, read as one, their items interleaved."""

    __slots__ = ("inputs",)

    def __init__(self, inputs: tuple[Read, ...]) -> None:
        self.inputs = inputs


def stage(
    run: str | Callable[..., Any] = "",
    *,
    name: str | None = None,
    args: Mapping[str, Any] | None = None,
    **options: Any,
) -> Stage:
    """Make a stage of a callable or of "module:name"; `args` are its own, options those of `Options`.

    With the option `cmd` it is of a program in any language, and has no callable; with `listen` and neither of them
    it is for those outside: a source for their items, any other stage for their work.
    """
    if not run and options.get("cmd"):
        run, name = PROGRAM, name or _name_of_program(options["cmd"])
    elif not run and options.get("listen"):
        run, name = GATE, name or "gate"
    if not isinstance(run, str) and not callable(run):
        raise ConfigError(f"{_here()}: {run!r} is no callable: give a function, a class or 'module:name'")
    if args is not None and not isinstance(args, Mapping):
        raise ConfigError(f"{_here()}: args is {args!r}: give a map, like args={{'size': 64}}")
    return Stage(run, name, args or {}, options)


def _name_of_program(cmd: Any) -> str:
    """Return the name of the last file among a program and its arguments: `worker` of ["node", "src/worker.js"]."""
    words = [str(word) for word in cmd if not str(word).startswith("-")] if isinstance(cmd, list | tuple) else []
    return default_name(os.path.basename(words[-1] if words else "program").partition(".")[0])


def use(
    file: str | os.PathLike[str], *, name: str | None = None, args: Mapping[str, Any] | None = None, **options: Any
) -> Stage:
    """Make a stage of what "text.toml:lemmatize" defines, or of all stages of "text.toml", named after the file.

    What is given here counts for more than what the file says.  Of a whole file it is given by stage:
    `args={"tokenize": {"lang": "de"}}, workers={"tokenize": 8}`.
    """
    text = os.fspath(file)
    return Use(text, name or default_name(text.removesuffix(".toml").rpartition("/")[2]), args or {}, options)


def batch(size: int, *, drop_last: bool = False, order: str = "source", **options: Any) -> Stage:
    """Group `size` items in source order; the last group of the run may be shorter unless `drop_last`.

    In the `order` "arrival" items are grouped as they come, by any number of workers, and a group that is not full
    goes on after `max_wait_s`.
    """
    return _built_in("batch", options, size=size, drop_last=drop_last, order=order)


def unbatch(**options: Any) -> Stage:
    """Send the members of each group one by one."""
    return _built_in("unbatch", options)


def shuffle(size: int, *, seed: int = 0, **options: Any) -> Stage:
    """Permute each block of `size` items, the same way in every run of that seed."""
    return _built_in("shuffle", options, size=size, seed=seed)


def rechunk(size: int, **options: Any) -> Stage:
    """Regroup the members of arriving groups into groups of `size`."""
    return _built_in("rechunk", options, size=size)


def split(weights: Mapping[str, float], **options: Any) -> Stage:
    """Send each item to one of the outputs that `weights` names, as often as they weigh; by chance, the same each run.

    `zp.split({"train": 9, "test": 1})` sends nine of ten items to its output `train`.
    """
    return _built_in("split", options, weights=weights)


def latest(read: Stage | Named) -> Latest:
    """Read a stage without ever holding it up: of the items that come while the reader is busy only the latest is kept.

    The others are skipped, and counted; the last item of a run always arrives.
    """
    if not isinstance(read, Stage | Named):
        raise ConfigError(f"{_here()}: {read!r} is not a stage: give zp.latest a stage, or an output of one")
    return Latest(read)


def merge(*inputs: Read | Merge) -> Merge:
    """Read several stages as one; their items interleave."""
    if not inputs:
        raise ConfigError(f"{_here()}: zp.merge() needs at least one stage")
    return Merge(_flat(inputs))


def default_name(run: str | Callable[..., Any]) -> str:
    """Return a stage's name by its callable: `TrainNet` and `train_net` are both train-net."""
    if isinstance(run, str):
        text = run.rpartition(":")[2]
    else:
        text = getattr(run, "__qualname__", type(run).__name__)
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", text.rpartition(".")[2])
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "stage"


def caller() -> tuple[Path, int]:
    """Return the file and line of the nearest caller outside this package; a notebook's file is its cell."""
    frame = sys._getframe(1)
    while frame.f_back is not None and f"{frame.f_globals.get('__name__')}.".startswith("zpipe."):
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    return Path("cell") if path.parent.name.startswith("ipykernel_") else path, frame.f_lineno


def _built_in(name: str, options: dict[str, Any], **args: Any) -> Stage:
    return Stage(f"zpipe.stages:{name}", options.pop("name", None), args, options)


def _flat(upstream: tuple[Read | Merge, ...]) -> tuple[Read, ...]:
    out: list[Read] = []
    for x in upstream:
        if not isinstance(x, Stage | Named | Latest | Merge):
            raise ConfigError(f"{_here()}: {x!r} is not a stage: wire zp.stage(...) to the result of another")
        out.extend(x.inputs if isinstance(x, Merge) else (x,))
    return tuple(out)


def _here() -> str:
    path, line = caller()
    return f"{path.name}:{line}"
