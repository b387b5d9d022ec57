"""The user's own code that this process has imported, by the digests of its files: two processes can compare.

Knows modules by their names and files.  Installed packages, Python's own library, zpipe and what is imported only
later are not covered.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

INSTALLED = ("site-packages", "dist-packages")
SHOWN = 12  # digits of a digest in a message


def imported() -> dict[str, str]:
    """Return the sha256 of the file of each module, by its name."""
    return {name: digest for name, _, digest in _modules()}


def difference(code: Mapping[str, str]) -> str:
    """Say which modules are not the ones of the same names in `code`, "" when all are; one that it has not is new."""
    found = [
        f"{path} (sha256 {digest[:SHOWN]}, there {code[name][:SHOWN]})"
        for name, path, digest in _modules()
        if code.get(name, digest) != digest
    ]
    return ", ".join(found)


def _modules() -> Iterator[tuple[str, Path, str]]:
    library = Path(sysconfig.get_path("stdlib"))
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py") or name.partition(".")[0] in ("zpipe", "__main__"):
            continue
        path = Path(file)
        if path.is_file() and not path.is_relative_to(library) and not set(INSTALLED) & set(path.parts):
            yield name, path, sha256(path.read_bytes()).hexdigest()
