"""The tables of a pipeline file, read into stage specifications; whatever is misshapen becomes a fault."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zpipe.values.faults import Fault, did_you_mean
from zpipe.values.options import FIELDS, LATER, READER_ONLY, SOURCE_ONLY, Options, plain, sort_options
from zpipe.values.stage import BUILT_INS, ENTRY, GATE, PROGRAM, StageSpec

KEEPS = ("all", "latest")
SCHEMA = 1
TOP = ("schema", "name", "insecure", "defaults", "stage", "test")


class Reader:
    """Read tables into specifications; `faults` grows."""

    def __init__(self, places: Mapping[str, str], faults: Iterable[Fault] = ()) -> None:
        self.places = places
        self.faults = list(faults)

    def fault(self, path: str, text: str) -> None:
        """Note a fault at a dotted path."""
        self.faults.append(Fault(place(path, self.places), text))

    def defaults(self, table: Any, names: Sequence[str]) -> dict[str, Any]:
        """Return the usable entries of [defaults]; `names` are those of the stages.

        A stage only gets the defaults it can have: a source no `ordered`, a reader no `epochs`.
        """
        if not isinstance(table, Mapping):
            self.fault("defaults", f"defaults is {table!r}: write a table [defaults] of options")
            return {}
        out = {}
        for key, value in table.items():
            text = _bad_default(key, plain(value), names)
            if text:
                self.fault(f"defaults.{key}", text)
            else:
                out[key] = plain(value)
        return out

    def stage(self, name: str, table: Any, defaults: Mapping[str, Any]) -> StageSpec:
        """Return the stage that `table` describes, `defaults` filled in where it can have them."""
        at = f"stage.{name}"
        if not isinstance(table, Mapping):
            self.fault(at, f"stage {name!r} is {table!r}: write a table [stage.{name}]")
            return StageSpec(name, "")
        raw: dict[str, Any] = {key: plain(value) for key, value in table.items()}
        if "use" in raw:  # it is a fault already
            return StageSpec(name, "", self._inputs(name, "from", raw.get("from", raw.get("join")))[0])
        run, above, args = raw.pop("run", ""), raw.pop("from", None), raw.pop("args", {})
        joined = raw.pop("join", None)
        if not isinstance(run, str):
            self.fault(f"{at}.run", f"stage {name!r}: run is {run!r}: write 'module:name' or 'file.py:name'")
            run = ""
        elif not run and "cmd" in raw:
            run = PROGRAM
        elif run in ("", GATE, ENTRY) and "listen" in raw:
            run = ENTRY if above is None and joined is None else GATE
        elif run not in ("", PROGRAM) and "cmd" in raw:
            self.fault(f"{at}.cmd", f"stage {name!r} has run and cmd: leave one of them out")
        elif not run:
            self.fault(at, f"stage {name!r} has no run: add run = 'module:name' or 'file.py:name'")
        if not isinstance(args, dict):
            self.fault(f"{at}.args", f"stage {name!r}: args is {args!r}: write a table, like {{ size = 64 }}")
            args = {}
        for key, (_, default) in BUILT_INS.get(run, {}).items():
            if type(args.get(key)) is type(default) and args[key] == default:
                del args[key]  # so that twins are equal
        if joined is not None and above is not None:
            self.fault(f"{at}.join", f"stage {name!r} has join and from: join its inputs, or merge them with from")
        elif joined is not None and (not isinstance(joined, list) or len(joined) < 2):
            self.fault(f"{at}.join", f"stage {name!r}: join is {joined!r}: name two stages or more, like ['a', 'b']")
            joined = [joined] if isinstance(joined, str) else ["?"]
        options, extra = sort_options(fill(raw, defaults, is_source=above is None and joined is None))
        inputs, latest = self._inputs(name, "from", above) if joined is None else self._inputs(name, "join", joined)
        joins = joined is not None and bool(inputs)
        return StageSpec(name, run, inputs, args, options, extra, joins=joins, latest=latest)

    def tests(self, tables: Any) -> tuple[Any, ...]:
        """Return the [[test]] tables as they are written."""
        if isinstance(found := plain(tables), list):
            return tuple(found)
        self.fault("test", f"test is {tables!r}: write a table per test, [[test]]")
        return ()

    def _inputs(self, name: str, key: str, above: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return what a stage reads, and of which it keeps only the latest."""
        at = f"stage.{name}.{key}"
        entries = above if isinstance(above, list) else [] if above is None else [above]
        inputs, latest = [], []
        if above == []:
            self.fault(at, f"stage {name!r}: from is empty: name a stage, or leave it out for a source")
        for entry in entries:
            edge = entry if isinstance(entry, dict) else {"stage": entry}
            for option in sorted(edge.keys() - {"stage", "keep"}):
                hint = did_you_mean(option, ("keep",)) or ": leave it out"
                self.fault(at, f"stage {name!r}: there is no edge option {option!r}{hint}")
            read, keep = edge.get("stage"), edge.get("keep", "all")
            if keep not in KEEPS:
                self.fault(at, f"stage {name!r}: keep is {keep!r}: write 'all' or 'latest'")
            elif keep == "latest" and key == "join":
                self.fault(at, f"stage {name!r}: a join needs every item of {read!r}: leave keep out")
            if isinstance(read, str):
                inputs.append(read)
                latest += [read] if keep == "latest" else []
            else:
                self.fault(at, f"stage {name!r}: {key} holds {entry!r}: name a stage or a list of stages")
        return tuple(inputs), tuple(latest)


def fill(table: Mapping[str, Any], defaults: Mapping[str, Any], *, is_source: bool) -> dict[str, Any]:
    """Return a stage's table with the defaults that it can have where it says nothing itself."""
    unfit = READER_ONLY if is_source else SOURCE_ONLY
    out = dict(table)
    for key, value in defaults.items():
        if key == "env" and isinstance(out.get("env", {}), dict):
            out["env"] = {**value, **out.get("env", {})}
        elif key not in unfit:
            out.setdefault(key, value)
    return out


def read_top(data: Mapping[str, Any], places: Mapping[str, str]) -> list[Fault]:
    """Return what is wrong with the outermost keys of a pipeline file."""
    faults = []
    if type(data.get("schema")) is not int or data.get("schema") != SCHEMA:
        said = f"schema is {data['schema']!r}" if "schema" in data else "schema is missing"
        faults.append(Fault(place("schema", places), f"{said}: this version reads schema = {SCHEMA}"))
    faults += [
        Fault(place(key, places), f"unknown key {key!r}{did_you_mean(key, TOP)}") for key in data if key not in TOP
    ]
    if not isinstance(data.get("insecure", False), bool):
        text = f"insecure is {data['insecure']!r}: true lets in everyone who reaches the run, false asks for keys"
        faults.append(Fault(place("insecure", places), text))
    if not isinstance(data.get("stage", {}), Mapping):
        text = f"stage is {data['stage']!r}: write a table per stage, [stage.NAME]"
        faults.append(Fault(place("stage", places), text))
    return faults


def place(path: str, places: Mapping[str, str]) -> str:
    """Return the place of `path`, of the nearest table around it or of the file, else `path` itself."""
    at = path
    while at not in places and "." in at:
        at = at.rpartition(".")[0]
    return places.get(at) or places.get("", path)


def _bad_default(key: str, value: Any, names: Sequence[str]) -> str | None:
    if key in FIELDS:
        rule = Options(**{key: value}).broken().get(key)
        return rule and f"the default {key} {rule}"
    if key in names:
        return f"{key!r} is a stage, but defaults hold options for all stages: write [stage.{key}]"
    if key in LATER:
        return f"option {key!r} is not supported by this version: leave it out"
    return f"there is no option {key!r}{did_you_mean(key, FIELDS)}"
