"""Users' modules that were edited since they were imported, as in a notebook: forgotten, so that they come in anew.

Knows modules by their files; refuses to know what is in them.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from weakref import WeakKeyDictionary

Stamp = tuple[int, int]  # of a file: its time in ns, its bytes

CLOCK_NS = 20_000_000  # how far a file's time may lie behind the clock
INSTALLED = ("site-packages", "dist-packages")

_began_ns = time.time_ns()  # a file that has not changed since cannot differ from what was imported of it
_stamps: WeakKeyDictionary[ModuleType, Stamp] = WeakKeyDictionary()  # of the files as they were imported


def forget_edited(folders: Iterable[Path]) -> None:
    """Forget all modules of a folder when one of them was edited: others may hold names of it.

    Python's own cache of compiled code goes by whole seconds; what it has of an edited file is removed, also for
    the processes that are started from here.
    """
    for folder in folders:
        found = list(_modules(folder))
        edited = [path for _, module, path in found if _is_edited(module, path)]
        if edited:
            for name, _, _ in found:
                sys.modules.pop(name, None)
            for path in edited:
                with suppress(OSError, NotImplementedError):
                    os.unlink(importlib.util.cache_from_source(path))
            importlib.invalidate_caches()


def note(folders: Iterable[Path], since_ns: int) -> None:
    """Note the files of modules as they are, but for those written since that time: what was imported may be older."""
    for folder in folders:
        for _, module, path in _modules(folder):
            stamp = _stamp(path)
            if stamp is not None and stamp[0] < since_ns - CLOCK_NS:
                _stamps.setdefault(module, stamp)


def users_modules(below: str = "") -> Iterator[tuple[str, ModuleType, str]]:
    """Yield the modules that are neither installed nor Python's own nor zpipe's, with their names and files.

    `below` is what their paths begin with.
    """
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if not isinstance(path, str) or not path.startswith(below) or not path.endswith(".py"):
            continue
        top = name.partition(".")[0]
        if top in ("__main__", "zpipe") or top in sys.stdlib_module_names or any(x in path for x in INSTALLED):
            continue
        yield name, module, path


def _modules(folder: Path) -> Iterator[tuple[str, ModuleType, str]]:
    return users_modules(os.path.join(folder, ""))


def _is_edited(module: ModuleType, path: str) -> bool:
    stamp = _stamp(path)
    if stamp is None:
        return False
    known = _stamps.get(module)
    return stamp[0] > _began_ns if known is None else stamp != known


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
