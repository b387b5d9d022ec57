"""Callables behind stages: their names, finding them by name, and what they are.

Imports users' modules; refuses to call anything in them.
"""

from __future__ import annotations

import contextvars
import functools
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import Parameter
from pathlib import Path
from types import ModuleType
from typing import Any

from zpipe.values import freshness
from zpipe.values.errors import ConfigError
from zpipe.values.faults import did_you_mean
from zpipe.values.stage import BUILT_INS, ENTRY, GATE, GROUPING, PROGRAM, SPLIT

NAME_BYTES_MAX = 255  # of a file, and so of a module
FILE_MODULE = "zpipe-file:"  # prefix of the module name of a file imported by its path
HOOKS = ("warmup", "state", "restore", "epoch_end", "finish", "close", "commit")

# The module that `resolve` is importing now: a pipeline must not be run from there.
importing: contextvars.ContextVar[str] = contextvars.ContextVar("importing", default="")

_in_process: contextvars.ContextVar[bool] = contextvars.ContextVar("in_process", default=False)


@dataclass(frozen=True)
class CallableInfo:
    """What a stage's callable is.

    `form`: "map" (returns), "split" (yields), "group" (built-in), "commit" (class with that hook and no
    __call__), "" (class with neither).  `parameters` are those that args can fill, a function's with the
    item's in front; `call` those of a class's __call__.  None: the signature is unknown.
    """

    form: str
    is_class: bool = False
    hooks: frozenset[str] = frozenset()
    parameters: tuple[Parameter, ...] | None = ()
    call: tuple[Parameter, ...] | None = ()
    can_iterate: bool = False
    is_async: bool = False
    is_built_in: bool = False

    @property
    def takes_input(self) -> bool:
        """Tell whether it can be called with exactly one item."""
        return self.is_built_in or self.form == "commit" or takes_item(self.call if self.is_class else self.parameters)

    @property
    def takes_start(self) -> bool:
        """Tell whether a source can be told at which position to start."""
        found = self.call if self.is_class else self.parameters
        return found is None or any(p.name == "start" for p in found)

    @property
    def yields(self) -> bool:
        """Tell whether it can be a source."""
        return (self.form == "split" or self.can_iterate) and not self.is_built_in


# What runs the `cmd` of a stage: any args are for the program, and whatever its stage reads is one item to it.
A_PROGRAM = CallableInfo("map", True, frozenset(("close",)), parameters=None, call=None)
_START = Parameter("start", Parameter.POSITIONAL_OR_KEYWORD, default=0)
# What needs no code of the user's, by its `run`.
OURS = {
    PROGRAM: A_PROGRAM,
    GATE: CallableInfo("map", True, frozenset(("close",)), call=None),
    ENTRY: CallableInfo("split", True, frozenset(("close",)), call=(_START,), can_iterate=True),
}


@contextmanager
def in_process() -> Iterator[None]:
    """Let `resolve` also find what an interactive session has made: the stages run in this very process."""
    token = _in_process.set(True)
    try:
        yield
    finally:
        _in_process.reset(token)


def takes_item(parameters: tuple[Parameter, ...] | None) -> bool:
    """Tell whether a first positional parameter is there for an item."""
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL)
    return parameters is None or any(p.kind in kinds for p in parameters)


def name_of(obj: Callable[..., Any], folder: Path) -> str:
    """Return "module:name" of a callable, or "file.py:name" (from `folder`) when its file is the program.

    What cannot be imported by name gets a name with "<" in it, which `resolve` refuses.
    """
    module = getattr(obj, "__module__", None) or "builtins"
    name = getattr(obj, "__qualname__", None)
    if inspect.ismethod(obj):
        name = f"<bound method {name}>"
    if not isinstance(name, str):
        name = f"<{type(obj).__name__} object>"
    if module == "__main__" or module.startswith(FILE_MODULE):
        main = sys.modules.get(module)
        spec = getattr(main, "__spec__", None)
        if module == "__main__" and spec is not None and spec.name != "__main__":
            module = spec.name  # python -m package.module
        elif file := getattr(main, "__file__", None):
            module = Path(os.path.relpath(file, folder)).as_posix()
    return f"{module}:{name}"


def resolve(run: str, folder: Path) -> Any:
    """Import "module:name" or "file.py:name" and return it; ConfigError, one line, when that fails.

    `folder` is searched first, then the working directory; both stay at the front of `sys.path`.  A folder in front
    of the name, "parts/module:name", is one from `folder`: it is searched in its stead.  A module that was edited
    since its import is imported anew.
    """
    head, _, name = run.rpartition(":")
    if not head or not name:
        raise ConfigError(f"run is {run!r}: write 'module:name' or 'file.py:name'")
    if not may_be_file(head) or "\0" in name:
        raise ConfigError(f"run is {run!r:.80}: no file and no module has such a name")
    if "<" in name or (head == "__main__" and not _in_process.get()):
        raise ConfigError(_not_importable(head, name))
    if head == "__main__":
        module = sys.modules[head]
    else:
        module = _import_file(head, folder) if head.endswith(".py") else _import_module(head, folder)
    obj: Any = module
    for part in name.split("."):
        if not hasattr(obj, part):
            public = sorted(k for k, v in vars(obj).items() if callable(v) and not k.startswith("_"))
            hint = did_you_mean(part, public) or f": it has {', '.join(public) or 'no public callable'}"
            raise ConfigError(f"{head} has no {name!r}{hint}")
        obj = getattr(obj, part)
    if not callable(obj):
        raise ConfigError(f"{run} is a {type(obj).__name__}: name a function or a class")
    return obj


def missing_program(cmd: Sequence[str], folder: Path) -> str:
    """Say why a program cannot be started from a folder, "" when it can."""
    head = cmd[0]
    found = shutil.which(folder / head) if os.sep in head else shutil.which(head)
    return "" if found else f"there is no program {head!r}: install it, or name its path from the pipeline's folder"


def may_be_file(path: str) -> bool:
    """Tell whether a file can have this path: without NUL, no part longer than names may be."""
    return "\0" not in path and all(len(os.fsencode(part)) <= NAME_BYTES_MAX for part in path.split("/"))


def describe(run: str, folder: Path) -> CallableInfo:
    """Describe the callable behind a stage's `run`, a built-in without importing it; errors as `resolve`."""
    if run in OURS:
        return OURS[run]
    if not run.startswith("zpipe.stages:"):
        return form_of(resolve(run, folder))
    if run not in BUILT_INS:
        raise ConfigError(f"there is no built-in {run!r}{did_you_mean(run, BUILT_INS)}")
    kind = Parameter.KEYWORD_ONLY
    found = tuple(
        Parameter(name, kind) if default is ... else Parameter(name, kind, default=default)
        for name, (_, default) in BUILT_INS[run].items()
    )
    form = "group" if run in GROUPING else "map" if run == SPLIT else "split"
    return CallableInfo(form, parameters=found, is_built_in=True)


def form_of(obj: Any) -> CallableInfo:
    """Describe a function or a class."""
    bare = inspect.unwrap(obj)
    if inspect.isclass(obj):
        call = inspect.unwrap(obj.__call__) if _defines(obj, "__call__") else None
        form = "map" if call else "commit" if "commit" in _hooks(obj) else ""
        return CallableInfo(
            "split" if inspect.isgeneratorfunction(call) else form,
            is_class=True,
            hooks=_hooks(obj),
            parameters=_parameters(obj),
            call=_parameters(call, skip=1) if call else (),
            can_iterate=_defines(obj, "__iter__"),
            is_async=_is_async(call),
        )
    is_function = inspect.isroutine(bare)
    called = bare if is_function or isinstance(bare, functools.partial) else inspect.unwrap(type(bare).__call__)
    return CallableInfo(
        "split" if inspect.isgeneratorfunction(called) else "map",
        hooks=frozenset() if is_function else _hooks(type(bare)),
        parameters=_parameters(obj),
        is_async=_is_async(called),
    )


def _hooks(cls: type) -> frozenset[str]:
    return frozenset(name for name in HOOKS if callable(getattr(cls, name, None)))


def _defines(cls: type, name: str) -> bool:
    return any(name in vars(base) for base in cls.__mro__ if base is not object)


def _is_async(obj: Any) -> bool:
    return inspect.iscoroutinefunction(obj) or inspect.isasyncgenfunction(obj)


def _parameters(obj: Any, skip: int = 0) -> tuple[Parameter, ...] | None:
    try:
        return tuple(inspect.signature(obj).parameters.values())[skip:]
    except (ValueError, TypeError):
        return None


def _not_importable(head: str, name: str) -> str:
    if head == "__main__":
        way_out = "put it in a file (in a notebook: %%writefile stages.py) and import it from there, or run inline"
        return f"{name} was made in an interactive session, where no worker can import it: {way_out}"
    if "<lambda>" in name:
        return f"a lambda of {head} has no name to import in a worker: write def at the top level of a module"
    if "<locals>" in name:
        inner = name.rpartition(".")[2]
        return f"{inner!r} of {head} sits inside a function, where no worker can import it: move it to top level"
    return f"a {name.strip('<>')} of {head} has no name to import: give a function or a class, and its args"


def _import_file(head: str, folder: Path) -> ModuleType:
    tried = [base / head for base in (folder, Path.cwd())]
    path = next((p for p in tried if p.is_file()), None)
    if path is None:
        near = did_you_mean(Path(head).name, [p.name for p in tried[0].parent.glob("*.py")])
        raise ConfigError(f"there is no file {head} in {_places(folder)}{near}")
    main = getattr(sys.modules["__main__"], "__file__", None)
    if main is not None and os.path.exists(main) and os.path.samefile(main, path):
        return sys.modules["__main__"]
    name = FILE_MODULE + os.path.realpath(path)

    def load() -> ModuleType:
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)  # before it runs: dataclasses look it up
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module

    return _import(head, path.parent, load)


def _import_module(head: str, folder: Path) -> ModuleType:
    way, _, head = head.rpartition("/")
    folder = Path(os.path.normpath(folder / way))
    if not all(part.isidentifier() for part in head.split(".")):
        raise ConfigError(f"{head!r} is not a module name: write 'module:name' or 'file.py:name'")
    return _import(head, folder, lambda: importlib.import_module(head))


def _import(head: str, folder: Path, load: Callable[[], ModuleType]) -> ModuleType:
    _put_first(folder)
    _make_way(head.split(".")[0], folder)
    places = dict.fromkeys((folder, Path.cwd()))
    freshness.forget_edited(places)
    token = importing.set(head)
    began_ns = time.time_ns()
    try:
        module = load()
        freshness.note(places, began_ns)
        return module
    except ConfigError:
        raise
    except ModuleNotFoundError as e:
        if e.name is not None and (head == e.name or head.startswith(e.name + ".")):
            files = [p.stem for base in (folder, Path.cwd()) for p in base.glob("*.py")]
            near = did_you_mean(head, files) if "." not in head else ""
            raise ConfigError(f"there is no module {head!r} in {_places(folder)} or installed{near}") from e
        raise ConfigError(_import_failed(head, e)) from e
    except (Exception, SystemExit) as e:
        raise ConfigError(_import_failed(head, e)) from e
    finally:
        importing.reset(token)


def _import_failed(head: str, e: BaseException) -> str:
    ours = ("importlib", __file__)
    own = [f for f in traceback.extract_tb(e.__traceback__) if not any(x in f.filename for x in ours)]
    at = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    if isinstance(e, SyntaxError):
        at = f" ({e.filename}:{e.lineno})"
    text = e.msg if isinstance(e, SyntaxError) else str(e)
    return f"importing {head} failed: {type(e).__name__}: {' '.join(text.split())}{at}"


def _put_first(folder: Path) -> None:
    wanted = [str(folder), str(Path.cwd())]
    if sys.path[: len(wanted)] != wanted:
        sys.path[:] = [*dict.fromkeys(wanted), *(p for p in sys.path if p not in wanted)]
        importlib.invalidate_caches()


def _make_way(top: str, folder: Path) -> None:
    """Forget a module of the same name that came from another pipeline's folder."""
    loaded = getattr(getattr(sys.modules.get(top), "__spec__", None), "origin", None)
    wanted = importlib.machinery.PathFinder.find_spec(top, [str(folder)])
    if loaded and wanted and wanted.origin and os.path.realpath(loaded) != os.path.realpath(wanted.origin):
        for name in [name for name in sys.modules if name == top or name.startswith(top + ".")]:
            del sys.modules[name]


def _places(folder: Path) -> str:
    return " or ".join(dict.fromkeys((str(folder), str(Path.cwd()))))
