"""The objects behind stages, built where they are called, their warmup and close, and users' tracebacks.

Knows how a stage's code comes to life; what it is called with is the caller's.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zpipe.values import context
from zpipe.values.callables import form_of, resolve
from zpipe.values.errors import ConfigError, StageError, ZpipeError
from zpipe.values.plan import StagePlan

OURS = str(Path(__file__).resolve().parents[1])
MACHINERY = ("<frozen importlib", importlib.__file__)  # frames between an import statement and the module


def build(stage: StagePlan, folder: Path) -> Any:
    """Return what a worker calls for `stage`: a function with its args bound, or an instance of a class.

    A source's is called as target() or target(start=n) and returns an iterable.  `folder` is searched for the
    code first.  Raises StageError with the user's traceback when importing or __init__ fails.
    """
    if stage.is_gate:
        from zpipe.processes.gate import Gate

        return Gate()
    if stage.listen:
        from zpipe.processes.entry import open_entry

        return open_entry(stage.name, context.run_folder())
    if stage.cmd:
        return _program(stage, folder)
    try:
        found = resolve(stage.run, folder)
    except ConfigError as error:
        raise StageError(f"stage {stage.name!r}: {error}", user_traceback(error)) from error
    return make(stage, found)


def _program(stage: StagePlan, folder: Path) -> Any:
    from zpipe.processes.foreign import Program  # and sockets: few need it

    try:
        made = Program(stage.cmd, folder, stage.args, together=stage.block > 0)
        made.wait()
    except StageError as error:
        raise StageError(f"stage {stage.name!r}: {error}", error.detail) from error
    return made


def make(stage: StagePlan, found: Any) -> Any:
    """Do what `build` does for a stage whose callable has been found."""
    if not inspect.isclass(found):
        return functools.partial(found, **stage.args) if stage.args else found
    try:
        made = found(**stage.args)
    except (Exception, SystemExit) as error:
        raise _raised(stage, "__init__", error) from error
    return _Iterated(made) if stage.role == "source" and form_of(found).form != "split" else made


def call_hook(stage: StagePlan, target: Any, name: str) -> None:
    """Call the hook `name` of a target that has it.  Raises StageError."""
    if name not in stage.hooks:
        return
    try:
        getattr(target, name)()
    except (Exception, SystemExit) as error:
        raise _raised(stage, name, error) from error


class _Iterated:
    """A source that is iterable instead of callable; its hooks shine through."""

    def __init__(self, made: Any) -> None:
        self._made = made

    def __call__(self) -> Any:
        return iter(self._made)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made, name)


def _raised(stage: StagePlan, where: str, error: BaseException) -> StageError:
    what = "failed" if isinstance(error, ZpipeError) else f"raised {type(error).__name__}"
    text = " ".join(str(error).split())
    return StageError(f"stage {stage.name!r} {what} in {where}: {text}", user_traceback(error))


def user_traceback(error: BaseException) -> str:
    """Return the traceback of `error` without our frames, "" when none of the user's is in it.

    Our errors stand for what they were raised from.
    """
    report = traceback.TracebackException.from_exception(users_own(error))
    for part in _chain(report):
        part.stack = traceback.StackSummary.from_list([f for f in part.stack if not _is_ours(f.filename)])
    if report.stack:
        return "".join(report.format())
    return "".join(report.format_exception_only()) if report.exc_type is SyntaxError else ""


def users_own(error: BaseException) -> BaseException:
    """Return what the user's code raised, behind the errors of ours that were raised from it."""
    while isinstance(error, ZpipeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _chain(report: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    yield report
    for further in (report.__cause__, report.__context__, *(report.exceptions or ())):
        if further is not None:
            yield from _chain(further)


def _is_ours(filename: str) -> bool:
    return filename.startswith((OURS + "/", *MACHINERY))
