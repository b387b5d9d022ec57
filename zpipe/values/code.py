"""The user's own code that this process has imported, by the digests of its files: two processes can compare.

Knows modules by their names, files that were imported by their paths by what these are below the pipeline's folder or
the working directory.  Installed packages, Python's own library, zpipe and what is imported only later are not covered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

from zpipe.values.callables import FILE_MODULE
from zpipe.values.freshness import users_modules

SHOWN = 12  # digits of a digest in a message


def imported(folder: Path) -> dict[str, str]:
    """Return the sha256 of the file of each module, by its name; `folder` is the pipeline's."""
    return {name: digest for name, _, digest in _modules(folder)}


def difference(code: Mapping[str, str], folder: Path) -> str:
    """Say which modules are not the ones of the same names in `code`, "" when all are; one that it has not is new."""
    found = [
        f"{path} (sha256 {digest[:SHOWN]}, there {code[name][:SHOWN]})"
        for name, path, digest in _modules(folder)
        if code.get(name, digest) != digest
    ]
    return ", ".join(found)


def _modules(folder: Path) -> Iterator[tuple[str, Path, str]]:
    for name, file in sorted((name, file) for name, _, file in users_modules()):
        path = Path(file)
        if path.is_file():
            yield _name(name, path, folder), path, sha256(path.read_bytes()).hexdigest()


def _name(module: str, path: Path, folder: Path) -> str:
    if not module.startswith(FILE_MODULE):
        return module
    bases = (folder, Path.cwd())
    return next((path.relative_to(base).as_posix() for base in bases if path.is_relative_to(base)), path.as_posix())
