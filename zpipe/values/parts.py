"""Parts: a pipeline file that stands as one stage of another, and a stage that another file defines; both by `use`.

Works on tables as they are written: afterwards there are stages only, under plain names, and no other file is needed.
Refuses to know what the options of a stage mean.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zpipe.values import tomlfile
from zpipe.values.errors import ConfigError
from zpipe.values.faults import Fault, did_you_mean
from zpipe.values.rows import (
    MERGED,
    WIRING,
    entries_of,
    given_as,
    is_table,
    laid,
    moved,
    read_of,
    reading,
    reads_of,
    split_use,
)  # fmt: skip
from zpipe.values.stage import NAME
from zpipe.values.tables import Reader, fill, place, read_top

INPUT = "input"  # in a part: what `from` names where the part is used
Row = tuple[str, Any]
Chain = tuple[tuple[str, str], ...]  # the files, or stages of files, that lead to a use


@dataclass
class Level:
    """The stages of one file under the names that they have in it, those of its parts among them.

    `parts` are the files that stand as stages of it; `places` map dotted paths to file:line.
    """

    folder: Path
    tests: Any
    places: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    parts: dict[str, Level] = field(default_factory=dict)

    @property
    def ends(self) -> list[str]:
        """Return the stages that no other stage of it reads."""
        read = {text.partition(".")[0] for _, table in self.rows for text in reads_of(table)}
        return [name for name, _ in self.rows if name not in read]

    def find(self, read: str) -> list[str]:
        """Return what `read` names: a stage, an output of one, or of its end; "" names its end, or all of them."""
        base, _, rest = read.partition(".")
        if base in self.parts:
            return [f"{base}-{name}" for name in self.parts[base].find(rest)]
        if base in dict(self.rows):
            return [read]
        return [f"{end}.{read}" if read else end for end in self.ends]


def expand(
    rows: Sequence[Row], tests: Any, folder: Path, places: Mapping[str, str]
) -> tuple[list[Row], Any, dict[str, str], list[Fault]]:
    """Return stages, tests and places with every `use` replaced by what it names, and the faults of that.

    A `use` that cannot be replaced stays, so that who reads it is not at fault too.
    """
    level = Level(folder, tests, dict(places))
    found = _Expansion()
    found.fill(level, rows, ((os.path.realpath(places[""]), ""),) if "" in places else ())
    return level.rows, level.tests, level.places, found.faults


class _Bad(Exception):
    """A use that cannot be replaced; its fault is noted."""


class _Expansion:
    """All that one `expand` finds, however deep."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._documents: dict[str, tomlfile.Document] = {}

    def fill(self, level: Level, rows: Sequence[Row], chain: Chain) -> None:
        """Put the stages of a file into its level, those of its parts in their place."""
        written: list[Row] = []
        for name, table in rows:
            if is_table(table) and "use" in table:
                try:
                    table, its_chain = self._define(level, name, table, chain, is_source=_is_source(table))
                    if "use" in table:
                        level.parts[name] = self._part(level, name, table, its_chain)
                except _Bad:
                    table = {key: table[key] for key in ("use", *WIRING) if key in table}
            written.append((name, table))
        own = {name for name, _ in rows if name not in level.parts}
        for name, table in written:
            if name in level.parts:
                self._put_in(level, name, table, own)
            else:
                level.rows.append((name, self._rewired(level, name, table)))

    def _fault(self, level: Level, path: str, text: str) -> None:
        self.faults.append(Fault(place(path, level.places), text))

    def _bad(self, level: Level, path: str, text: str) -> _Bad:
        self._fault(level, path, text)
        return _Bad()

    def _define(
        self, level: Level, name: str, table: Mapping[str, Any], chain: Chain, *, is_source: bool
    ) -> tuple[dict[str, Any], Chain]:
        """Return the table of a stage with the definition that it uses; a `use` that is left names a whole file."""
        at, stage = f"stage.{name}", f"stage {name!r}"
        use = table["use"]
        if "run" in table:
            raise self._bad(level, f"{at}.use", f"{stage} has run and use: leave one of them out")
        file, other = split_use(use) if isinstance(use, str) else ("", "")
        if not file:
            raise self._bad(level, f"{at}.use", f"{stage}: use is {use!r}: write 'file.toml' or 'file.toml:stage'")
        if not other:
            return dict(table), chain
        path = level.folder / file
        chain = self._follow(level, name, path, other, chain)
        document = self._file(level, name, path)
        stages = _stages(document)
        if not is_table(stages.get(other)):
            hint = did_you_mean(other, stages) or f": it has {', '.join(stages) or 'none'}"
            raise self._bad(level, f"{at}.use", f"{stage}: {path} has no stage {other!r}{hint}")
        there = Level(path.parent, [], dict(document.places))
        found = {key: value for key, value in stages[other].items() if key not in WIRING}
        if "use" in found:
            found, chain = self._define(there, other, found, chain, is_source=is_source)
        found = _filled(found, document.data["defaults"], is_source=is_source)
        own = {key: value for key, value in table.items() if key != "use"}
        for key, value in found.items():
            was, now = f"stage.{other}.{key}", f"{at}.{key}"
            if key not in own:
                _carry(there.places, was, level.places, now)
            elif key in MERGED and is_table(value) and is_table(own[key]):
                for inner in value.keys() - own[key].keys():
                    _carry(there.places, f"{was}.{inner}", level.places, f"{now}.{inner}")
        return laid(moved(found, there.folder, level.folder), own), chain

    def _part(self, level: Level, name: str, table: Mapping[str, Any], chain: Chain) -> Level:
        """Return the stages of the file that stands as a stage, what its user says about them laid over."""
        at, stage = f"stage.{name}", f"stage {name!r}"
        path = level.folder / table["use"]
        chain = self._follow(level, name, path, "", chain)
        document = self._file(level, name, path)
        if "join" in table:
            text = f"{stage} is the whole of {path}, which reads one input: name it in from, or join below or above"
            raise self._bad(level, f"{at}.join", text)
        part = Level(path.parent, document.data.get("test", []), dict(document.places))
        stages = _stages(document)
        reads = any(text.partition(".")[0] == INPUT for row in stages.values() for text in reads_of(row))
        reads = reads and INPUT not in stages
        if not stages:
            raise self._bad(level, f"{at}.use", f"{stage}: {path} has no stages")
        if reads and "from" not in table:
            raise self._bad(level, at, f"{stage}: {path} reads 'input': say with from what that is here")
        if "from" in table and not reads:
            text = f"{stage}: no stage of {path} reads from outside: write from = 'input' there, or leave from out"
            raise self._bad(level, f"{at}.from", text)
        for key, value in table.items():
            if key not in ("use", "from"):
                self._lay_over(level, name, key, value, part, stages)
        self.fill(part, list(stages.items()), chain)
        defaults = document.data["defaults"]
        part.rows = [
            (inner, _filled(row, defaults, is_source=_is_source(row)) if is_table(row) else row)
            for inner, row in part.rows
        ]
        return part

    def _lay_over(
        self, level: Level, name: str, key: str, value: Any, part: Level, stages: dict[str, Any]
    ) -> None:  # fmt: skip
        """Lay over `stages` what the user of a part says of them: a key, and its value by stage."""
        at, stage = f"stage.{name}.{key}", f"stage {name!r}"
        if not is_table(value):
            way_out = f"say it by stage, like {key}.{next(iter(stages))} = ..."
            self._fault(level, at, f"{stage} is a whole file, but {key} is {value!r}: {way_out}")
            return
        for inner, said in value.items():
            if not is_table(stages.get(inner)):
                self._fault(level, f"{at}.{inner}", f"{stage} has no stage {inner!r}{did_you_mean(inner, stages)}")
                continue
            stages[inner] = laid(stages[inner], {key: said})
            was, now = f"{at}.{inner}", f"stage.{inner}.{key}"
            if key in MERGED and is_table(said):
                for arg in said:
                    _carry(level.places, f"{was}.{arg}", part.places, f"{now}.{arg}")
            else:
                _carry(level.places, was, part.places, now)

    def _put_in(self, level: Level, name: str, table: Mapping[str, Any], own: set[str]) -> None:
        """Put the stages and tests of a part into the level of the file that uses it."""
        part = level.parts[name]
        given = entries_of(self._rewired(level, name, {"from": table["from"]})["from"]) if "from" in table else []
        for inner, row in part.rows:
            full, at = f"{name}-{inner}", f"stage.{inner}"
            if full in own:
                text = f"stage {full!r} has the name that {inner!r} of {table['use']} gets as a part of {name!r}"
                self._fault(level, f"stage.{full}", f"{text}: rename one of them")
                continue
            _carry(part.places, at, level.places, f"stage.{full}")
            if is_table(row):
                row = self._wired(level, name, full, row, given)
                row = moved(row, part.folder, level.folder)
            level.rows.append((full, row))
        if isinstance(level.tests, list):
            for number, test in enumerate(part.tests if isinstance(part.tests, list) else [part.tests]):
                _carry(part.places, f"test.{number}", level.places, f"test.{len(level.tests)}")
                is_named = is_table(test) and isinstance(test.get("stage"), str)
                level.tests = [*level.tests, {**test, "stage": f"{name}-{test['stage']}"} if is_named else test]

    def _wired(self, level: Level, name: str, full: str, row: Mapping[str, Any], given: list[Any]) -> dict[str, Any]:
        """Return a stage of a part that reads the others under their full names, and what is given for `input`."""
        names = dict(level.parts[name].rows)
        out = dict(row)
        for key in WIRING:
            if key not in row:
                continue
            entries: list[Any] = []
            for entry in entries_of(row[key]):
                base, dot, output = read_of(entry).partition(".")
                if base in names:
                    entries.append(reading(entry, f"{name}-{base}{dot}{output}"))
                elif base != INPUT:
                    entries.append(entry)
                else:
                    entries += [given_as(x, entry) for x in given]
                    level.places[f"stage.{full}.{key}"] = place(f"stage.{name}.from", level.places)
                    if key == "join" and len(given) > 1:
                        text = f"stage {full!r} joins 'input', for which {name!r} reads {len(given)} stages"
                        self._fault(level, f"stage.{name}.from", f"{text}: merge them in a stage above")
                    if dot:
                        text = f"stage {full!r} reads {read_of(entry)!r}, but an output is named where input is given"
                        self._fault(level, f"stage.{full}", f"{text}: write 'input'")
            out[key] = entries
        return out

    def _rewired(self, level: Level, name: str, table: Any) -> Any:
        """Return a stage's table in which what it reads of parts has the name of the stage that is meant."""
        if not is_table(table):
            return table
        out = dict(table)
        for key in WIRING:
            if not any(read.partition(".")[0] in level.parts for read in reads_of({key: table.get(key)})):
                continue
            entries = []
            for entry in entries_of(table[key]):
                read = read_of(entry)
                base = read.partition(".")[0]
                found = level.find(read) if base in level.parts else [read]
                if len(found) > 1:
                    text = f"stage {name!r} reads {read!r}, which has {len(found)} ends: read one, like {found[0]!r}"
                    self._fault(level, f"stage.{name}.{key}", text)
                entries.append(reading(entry, found[0]) if read and found else entry)
            out[key] = entries
        return out

    def _follow(self, level: Level, name: str, path: Path, stage: str, chain: Chain) -> Chain:
        """Return the chain with one link more.  Raises _Bad where it closes."""
        link = (os.path.realpath(path), stage)
        if link in chain:
            trail = " -> ".join(_link(x) for x in (*chain[chain.index(link) :], link))
            text = f"stage {name!r}: what it uses comes back to itself, {trail}: cut one use"
            raise self._bad(level, f"stage.{name}.use", text)
        return (*chain, link)

    def _file(self, level: Level, name: str, path: Path) -> tomlfile.Document:
        """Return a file, read once; its own faults are noted."""
        key = os.path.realpath(path)
        if key not in self._documents:
            try:
                document = tomlfile.read(path)
            except ConfigError as error:
                raise self._bad(level, f"stage.{name}.use", f"stage {name!r}: {error}") from None
            self._documents[key] = document
            self.faults += [*document.faults, *read_top(document.data, document.places)]
            if not isinstance(document.data.get("name"), str) or not NAME.fullmatch(document.data["name"]):
                self.faults.append(Fault(place("name", document.places), "the pipeline has no name: add name = 'NAME'"))
            reader = Reader(document.places)
            defaults = document.data.get("defaults", {})
            document.data["defaults"] = reader.defaults(defaults, list(_stages(document)))
            self.faults += reader.faults
        return self._documents[key]


def _stages(document: tomlfile.Document) -> dict[str, Any]:
    stages = document.data.get("stage", {})
    return dict(stages) if is_table(stages) else {}


def _is_source(table: Mapping[str, Any]) -> bool:
    return not any(key in table for key in WIRING)


def _filled(table: dict[str, Any], defaults: Mapping[str, Any], *, is_source: bool) -> dict[str, Any]:
    """Return a stage with defaults; a whole file has none of its own."""
    return table if "use" in table else fill(table, defaults, is_source=is_source)


def _carry(places: Mapping[str, str], path: str, to: dict[str, str], at: str) -> None:
    """Note the place of a path, and of all below it, under another path."""
    to[at] = place(path, places)
    for key, where in places.items():
        if key.startswith(f"{path}."):
            to[at + key[len(path) :]] = where


def _link(link: tuple[str, str]) -> str:
    file, stage = link
    return f"{Path(file).name}:{stage}" if stage else Path(file).name
