"""PIPELINE on the command line: a TOML file, or a Python file with a function that returns a pipeline."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path

from zpipe.values.callables import may_be_file, resolve
from zpipe.values.errors import ConfigError, StageError, ZpipeError
from zpipe.values.pipeline import Pipeline

DEFAULT_FUNCTION = "pipeline"


def load(target: str, sets: Sequence[str] = ()) -> Pipeline:
    """Return the pipeline that `target` names, `sets` applied.  Raises ConfigError."""
    if not may_be_file(target):
        raise ConfigError(f"{target!r:.80} is no name of a file")
    path, _, function = target.partition(".py:")
    if function or target.endswith(".py"):
        return _call(Path(f"{path}.py" if function else target), function or DEFAULT_FUNCTION).with_sets(sets)
    if not target.endswith(".toml"):
        raise ConfigError(f"{target!r} is no pipeline: name a .toml file, or file.py:function")
    return Pipeline.load(target, sets)


def _call(file: Path, name: str) -> Pipeline:
    folder = Path.cwd() / file.parent
    make = resolve(f"{file.name}:{name}", folder)
    try:
        made = make()
    except ZpipeError:
        raise
    except Exception as error:
        user = traceback.TracebackException.from_exception(error)
        user.stack = traceback.StackSummary.from_list(user.stack[1:])  # from their code on
        text = "".join(user.format())
        raise StageError(f"{file}:{name}() raised {type(error).__name__}: {error}", text) from error
    if not isinstance(made, Pipeline):
        raise ConfigError(f"{file}:{name}() returned a {type(made).__name__}: it must return a zp.Pipeline")
    return made
