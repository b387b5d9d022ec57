"""The pipeline as a frozen value: its stages in order, as a dict, and as a file.

Knows the shape of a pipeline file and takes any content; what is wrong with it is kept for the check.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from zpipe.values import tomlfile
from zpipe.values.callables import name_of
from zpipe.values.errors import ConfigError
from zpipe.values.faults import Fault, did_you_mean
from zpipe.values.options import plain
from zpipe.values.parts import expand
from zpipe.values.stage import Latest, Merge, Named, Read, Stage, StageSpec, Use, caller, default_name
from zpipe.values.tables import SCHEMA, Reader, place, read_top


class Pipeline:
    """A DAG of stages under a name.  Pipelines are equal when `to_dict` is.

    `stages` are in topological order, as declared where that leaves a choice.  An `insecure` one runs without keys
    where others reach it.  `tests` are tables as written, with name, stage, input and output.  `folder` is where files
    and modules are looked for first.  `faults` are those found while reading; `places` map dotted paths to file:line;
    `unread` are the outputs of a stage whose readers `until` has cut off: what goes there is dropped;
    `sets` are the changes that were applied.
    """

    name: str
    stages: tuple[StageSpec, ...]
    insecure: bool
    tests: tuple[Any, ...]
    folder: Path
    faults: tuple[Fault, ...]
    places: Mapping[str, str]
    unread: Mapping[str, frozenset[str]]
    sets: tuple[str, ...]

    def __init__(
        self,
        name: str,
        *sinks: Stage | Sequence[Stage],
        defaults: Mapping[str, Any] | None = None,
        tests: Sequence[Mapping[str, Any]] = (),
        folder: str | os.PathLike[str] | None = None,
        insecure: bool = False,
    ) -> None:
        """Take the stages that end the pipeline and all above them; a list of stages is a chain."""
        path, line = caller()
        home = Path(folder) if folder is not None else path.parent if path.exists() else Path.cwd()
        ends = [_chain(x) if isinstance(x, list | tuple) else x for x in sinks]
        for x in ends:
            if not isinstance(x, Stage):
                raise ConfigError(f"{path.name}:{line}: {x!r} is not a stage: give Pipeline the stages at its end")
        nodes = _walk(x for x in ends if isinstance(x, Stage))
        names = _names(nodes)
        rows = []
        places = dict.fromkeys(("name", "test"), f"{path.name}:{line}")
        for node in nodes:
            run = node.run if isinstance(node.run, str) else name_of(node.run, home)
            table = {**node.options, "use" if isinstance(node, Use) else "run": run, "args": dict(node.args)}
            if node.inputs:
                table["join" if node.joins else "from"] = [_read(x, names) for x in node.inputs]
            rows.append((names[node], table))
            places.setdefault(f"stage.{names[node]}", node.place)
        self._fill(name, rows, defaults or {}, tests, home, [], places, insecure=insecure)
        self.sets = ()

    def _fill(
        self,
        name: Any,
        rows: Sequence[tuple[str, Any]],
        defaults: Any,
        tests: Any,
        folder: Path,
        faults: Iterable[Fault],
        places: Mapping[str, str],
        sets: Sequence[str] = (),
        *,
        insecure: Any = False,
    ) -> None:
        rows, tests, at, found = expand(rows, tests, folder, places)
        tables = dict(rows)
        reader = Reader(at, [*faults, *found, *tomlfile.apply_sets(tables, sets, at)])
        if sets:
            rows = list(tables.items())
        usable = reader.defaults(defaults, [stage for stage, _ in rows])
        specs = [reader.stage(stage, table, usable) for stage, table in rows]
        self.name = name
        self.insecure = insecure is True
        self.stages = _topological(specs)
        self.tests = reader.tests(tests)
        self.folder = Path(os.path.abspath(folder))
        self.faults = tuple(reader.faults)
        self.places = MappingProxyType(at)
        self.unread = MappingProxyType({})

    def __setattr__(self, key: str, value: object) -> None:
        if key in self.__dict__:
            raise AttributeError(f"a pipeline is frozen: {key} cannot change")
        super().__setattr__(key, value)

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        *,
        folder: str | os.PathLike[str] = ".",
        faults: Iterable[Fault] = (),
        places: Mapping[str, str] | None = None,
        sets: Sequence[str] = (),
        earlier: Sequence[str] = (),
    ) -> Self:
        """Return the pipeline that `data`, shaped like a pipeline file, describes, `sets` applied.

        In `data` the `earlier` ones are applied already.
        """
        places = places or {}
        faults = [*faults, *read_top(data, places)]
        stages = data.get("stage", {})
        rows = list(stages.items()) if isinstance(stages, Mapping) else []
        defaults, tests = data.get("defaults", {}), data.get("test", [])
        self = cls.__new__(cls)
        insecure = data.get("insecure", False)
        self._fill(data.get("name"), rows, defaults, tests, Path(folder), faults, places, sets, insecure=insecure)
        self.sets = (*earlier, *sets)
        return self

    @classmethod
    def load(cls, path: str | os.PathLike[str], sets: Sequence[str] = ()) -> Self:
        """Return the pipeline of a TOML file, `sets` (like "features.workers=8") applied.

        Raises ConfigError when the file is not there or is no TOML; other faults are kept for the check.
        """
        read = tomlfile.read(Path(path))
        return cls.from_dict(read.data, folder=Path(path).parent, faults=read.faults, places=read.places, sets=sets)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the pipeline as a TOML file that loads as an equal one."""
        tomlfile.write(Path(path), self.to_dict())

    def with_sets(self, sets: Sequence[str]) -> Self:
        """Return the pipeline with `sets` (like "features.workers=8") applied."""
        if not sets:
            return self
        return self.from_dict(
            self.to_dict(), folder=self.folder, faults=self.faults, places=self.places, sets=sets,
            earlier=self.sets,
        )  # fmt: skip

    def until(self, name: str) -> Self:
        """Return the pipeline that ends with the stage `name`: it and all above it.  Raises ConfigError."""
        kept: set[str] = set()
        todo = [self.stage(name)]
        while todo:
            spec = todo.pop()
            if spec.name not in kept:
                kept.add(spec.name)
                todo.extend(above for above in self.stages if above.name in spec.above)
        cut = type(self).__new__(type(self))
        cut.name, cut.folder, cut.faults, cut.places = self.name, self.folder, self.faults, self.places
        cut.insecure = self.insecure
        cut.sets = self.sets
        cut.stages = tuple(spec for spec in self.stages if spec.name in kept)
        cut.tests = tuple(test for test in self.tests if isinstance(test, Mapping) and test.get("stage") in kept)
        cut.unread = MappingProxyType({stage: self.outputs(stage) - cut.outputs(stage) for stage in kept})
        return cut

    def to_dict(self) -> dict[str, Any]:
        """Return the pipeline in the shape of its file, defaults left out."""
        stages = {spec.name: spec.to_dict() for spec in self.stages}
        tests = {"test": plain(self.tests)} if self.tests else {}
        insecure = {"insecure": True} if self.insecure else {}
        return {"schema": SCHEMA, "name": self.name, **insecure, "stage": stages, **tests}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pipeline) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.name, tuple(spec.name for spec in self.stages)))

    def __repr__(self) -> str:
        return f"Pipeline({self.name!r}, {' '.join(spec.name for spec in self.stages)})"

    def stage(self, name: str) -> StageSpec:
        """Return the stage of that name; ConfigError when there is none."""
        for spec in self.stages:
            if spec.name == name:
                return spec
        hint = did_you_mean(name, [spec.name for spec in self.stages])
        raise ConfigError(f"pipeline {self.name!r} has no stage {name!r}{hint}")

    def readers(self, name: str) -> tuple[StageSpec, ...]:
        """Return the stages that read the stage `name`."""
        return tuple(spec for spec in self.stages if name in spec.above)

    def outputs(self, name: str) -> frozenset[str]:
        """Return which outputs of the stage `name` others read; "" is what goes to no named one."""
        return frozenset(output for reader in self.readers(name) for output in reader.outputs_of(name))

    def role(self, spec: StageSpec) -> str:
        """Return "source", "transform" or "sink"; a stage that nobody reads is a sink."""
        if spec.is_source:
            return "source"
        return "transform" if self.readers(spec.name) else "sink"

    def place(self, path: str) -> str:
        """Return file:line of a dotted path like "stage.crops.workers", or the path where that is unknown."""
        return place(path, self.places)


def _topological(specs: Sequence[StageSpec]) -> tuple[StageSpec, ...]:
    """Order stages after their inputs, the first declared first; those on a cycle come last, as declared."""
    first = {spec.name: i for i, spec in reversed(list(enumerate(specs)))}
    waits = [{first[x] for x in spec.above if x in first} for spec in specs]
    below: list[list[int]] = [[] for _ in specs]
    for i, above in enumerate(waits):
        for j in above:
            below[j].append(i)
    ready = [i for i, above in enumerate(waits) if not above]
    order: list[int] = []
    while ready:
        order.append(i := heapq.heappop(ready))
        for j in below[i]:
            waits[j].discard(i)
            if not waits[j]:
                heapq.heappush(ready, j)
    stuck = sorted(set(range(len(specs))) - set(order))
    return tuple(specs[i] for i in [*order, *stuck])


def _chain(stages: Sequence[Read | Merge]) -> Read | Merge | None:
    end: Read | Merge | None = None
    for x in stages:
        if not isinstance(x, Stage) and (end is not None or not isinstance(x, Named | Latest | Merge)):
            raise ConfigError(f"{x!r} in a list given to Pipeline is not a stage")
        if end is None:
            end = x
            continue
        assert isinstance(x, Stage)
        if x.inputs:
            raise ConfigError(
                f"{x.place}: {x!r} already reads a stage, but a list given to Pipeline is a chain: "
                "give several ends as Pipeline(name, a, b)"
            )
        end = x(end)
    return end


def _walk(ends: Iterable[Stage]) -> list[Stage]:
    seen: set[Stage] = set()
    todo = list(ends)
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo.extend(_stage_of(x) for x in node.inputs)
    return sorted(seen, key=lambda node: node.declared)


def _stage_of(read: Read) -> Stage:
    if isinstance(read, Latest):
        return _stage_of(read.read)
    return read.stage if isinstance(read, Named) else read


def _read(read: Read, names: Mapping[Stage, str]) -> str | dict[str, str]:
    if isinstance(read, Latest):
        return {"stage": _name(read.read, names), "keep": "latest"}
    return _name(read, names)


def _name(read: Stage | Named, names: Mapping[Stage, str]) -> str:
    return f"{names[read.stage]}.{read.output}" if isinstance(read, Named) else names[read]


def _names(nodes: Sequence[Stage]) -> dict[Stage, str]:
    """Name the nodes; a built-in without a name of its own gets a number where its name is taken."""
    names = {node: node.name if node.name is not None else default_name(node.run) for node in nodes}
    free = [node for node in nodes if node.name is None and _is_built_in(node)]
    taken = {names[node] for node in nodes if node not in free}
    for node in free:
        base, n = names[node], 1
        while names[node] in taken:
            n += 1
            names[node] = f"{base}-{n}"
        taken.add(names[node])
    return names


def _is_built_in(node: Stage) -> bool:
    return isinstance(node.run, str) and node.run.startswith("zpipe.")
