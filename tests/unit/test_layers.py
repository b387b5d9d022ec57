"""Imports go down, and each third-party package has one door; read from the source, nothing is run."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import zpipe

ROOT = Path(__file__).parents[2]
LAYERS = (
    {"values"},
    {"wire"},
    {"core"},
    {"transport"},
    {"stages", "sinks", "joins"},
    {"processes"},
    {"api", "clients", "cli", "notebook", "testing", "zpipe", "__main__"},
)
DOORS = {
    "zmq": {"zpipe.transport.sockets"},
    "msgpack": {"zpipe.wire.body"},
    "numpy": {
        *("zpipe.values.context", "zpipe.wire.arrays", "zpipe.wire.uniform", "zpipe.transport.shared"),
        *("zpipe.values.stacks", "zpipe.stages", "zpipe.sinks.arrays", "zpipe.testing.shared"),
        "zpipe.cli.files",
    },
    "PIL": {"zpipe.cli.files"},
    "pyarrow": {"zpipe.sinks.tables"},
    "tomllib": {"zpipe.values.tomlfile"},
    "tomli_w": {"zpipe.values.tomlfile"},
    "prometheus_client": {"zpipe.processes.scrape"},
    "click": {"zpipe.cli"},  # any module below it
    "rich": {"zpipe.cli"},
    "IPython": {"zpipe.notebook"},
}
OUTSIDE_WORLD = {
    *("time", "datetime", "random", "secrets", "uuid", "os", "pathlib", "socket", "select", "selectors"),
    *("threading", "subprocess", "asyncio", "multiprocessing", "signal", "logging", "sqlite3", "tempfile"),
}
UNSAFE_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}


@dataclass(frozen=True)
class Import:
    """That `module` imports `name`; `lazily` inside of a function or for type checkers only."""

    module: str
    name: str
    line: int
    lazily: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.name}"


def modules(package: str) -> dict[str, Path]:
    """Return the dotted names of a package's modules, tests left out."""
    out = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if "tests" not in parts:
            out[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return out


def imports(module: str, path: Path) -> Iterator[Import]:
    """Yield what a module imports; `from package import module` counts as the module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    eager = {id(node) for node in _outside_functions(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno} is a relative import"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in OURS else str(node.module) for name in found]
        else:
            continue
        for name in dict.fromkeys(names):
            yield Import(module, name, node.lineno, id(node) not in eager)


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        type_checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        if not type_checking and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _outside_functions(child)


OURS = modules("zpipe")
FOUND = [found for module, path in OURS.items() for found in imports(module, path)]


def layer(name: str) -> int:
    """Return the number of a module's layer, the lowest 0."""
    parts = name.split(".")
    own = parts[1] if len(parts) > 1 else parts[0]
    return next(number for number, names in enumerate(LAYERS) if own in names)


def is_behind(module: str, doors: set[str]) -> bool:
    return any(module == door or module.startswith(f"{door}.") for door in doors)


def test_every_module_has_a_layer() -> None:
    known = set().union(*LAYERS)
    assert {name.split(".")[1] if "." in name else name for name in OURS} <= known


def test_imports_go_down() -> None:
    upward = [f for f in FOUND if f.name in OURS and layer(f.name) > layer(f.module)]
    assert [str(found) for found in upward] == []


def test_no_import_goes_in_a_circle() -> None:
    graph = {module: {f.name for f in FOUND if f.module == module and not f.lazily} for module in OURS}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_each_third_party_package_comes_in_by_its_door() -> None:
    outside = [f for f in FOUND if f.name in DOORS or f.name.split(".")[0] in DOORS]
    wrong = [f for f in outside if not is_behind(f.module, DOORS[f.name.split(".")[0]])]
    assert [str(found) for found in wrong] == []


def test_there_is_no_other_third_party_package() -> None:
    tops = {found.name.split(".")[0] for found in FOUND}
    assert tops - set(sys.stdlib_module_names) - set(DOORS) == {"zpipe"}


def test_numpy_is_loaded_by_those_who_need_it_only() -> None:
    """A worker whose items hold no arrays starts faster and stays smaller without it."""
    assert [str(f) for f in FOUND if f.name.split(".")[0] == "numpy" and not f.lazily] == []


def test_the_core_knows_no_socket_no_clock_and_no_chance() -> None:
    wrong = [f for f in FOUND if layer(f.module) == 2 and f.name.split(".")[0] in OUTSIDE_WORLD]
    assert [str(found) for found in wrong] == []


def test_nothing_unpickles_or_evaluates() -> None:
    assert [str(f) for f in FOUND if f.name.split(".")[0] in UNSAFE_MODULES] == []
    calls = [
        f"{module}:{node.lineno} calls {node.func.id}"
        for module, path in OURS.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in UNSAFE_CALLS
    ]
    assert calls == []


def test_services_use_public_names_only() -> None:
    wrong = []
    for module, path in modules("services").items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        wrong += [str(f) for f in imports(module, path) if f.name.startswith("zpipe.")]
        wrong += [
            f"{module}:{node.lineno} uses zp.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("zp", "zpipe")
            and node.attr not in zpipe.__all__
        ]
    assert wrong == []
