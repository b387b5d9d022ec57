"""Key files: who a host is to the registry, and whom the registry admits.

A folder of keys is made where the registry runs.  In it are `registry.key`, one `NAME.key` for each other host, to be
carried there, and `admitted`, which names their public keys.  Knows files; what the keys do is libzmq's.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from zpipe.values.errors import ConfigError

HOME = "~/.zpipe/keys"
REGISTRY = "registry"  # whose key the registry's own host has; always admitted
ADMITTED = "admitted"
SUFFIX = ".key"
NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")
KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")  # Z85: RFC 32
FIELDS = ("name", "public", "secret", "registry")
LEGEND = "# Who may take part: a name and its public key.  A line that is removed is revoked at once.\n"


@dataclass(frozen=True)
class Keys:
    """One host's name, its pair of keys, and the registry's public key."""

    name: str
    public: str
    secret: str
    registry: str
    path: Path

    def __repr__(self) -> str:
        return f"Keys({self.name!r}, {str(self.path)!r})"  # the secret stays out of logs and tracebacks

    @property
    def is_registry(self) -> bool:
        """Tell whether it is the registry's own."""
        return self.public == self.registry


def read(path: Path) -> Keys:
    """Read a key file, or of a folder the registry's, else its only one.  Raises ConfigError."""
    path = path.expanduser().absolute()
    if path.is_dir():
        path = _only(path)
    try:
        mode, text = path.stat(), path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the key {path}: {_why(error)}: zpipe keys add makes one") from None
    if mode.st_mode & 0o077:
        raise ConfigError(f"{path} can be read by others: chmod 600 {path}")
    found = dict(line.split(maxsplit=1) for line in text.splitlines() if len(line.split()) == 2)
    name, public, secret, registry = (found.get(field, "") for field in FIELDS)
    if not NAME.fullmatch(name) or not all(KEY.fullmatch(key) for key in (public, secret, registry)):
        raise ConfigError(f"{path} is no key of zpipe's: make one with zpipe keys add where the registry runs")
    return Keys(name, public, secret, registry, path)


def find(path: Path | None) -> Keys | None:
    """Return the keys at `path`, else those at home; None where none are.  Raises ConfigError."""
    home = Path(HOME).expanduser()
    return read(path) if path is not None else read(home) if home.is_dir() and any(home.glob(f"*{SUFFIX}")) else None


def admitted(keys: Keys) -> dict[str, str]:
    """Return public key -> name of all whom the registry of these keys admits, itself first.  Raises ConfigError."""
    return {keys.public: keys.name, **{public: name for name, public in _entries(keys.path.parent).items()}}


def path_of_admitted(keys: Keys) -> Path:
    """Return the file that names whom a registry admits."""
    return keys.path.with_name(ADMITTED)


class Folder:
    """The folder of keys where the registry runs; `pair` makes a public key and its secret."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()

    def registry(self) -> Keys:
        """Return the registry's own.  Raises ConfigError."""
        return read(self.path / f"{REGISTRY}{SUFFIX}")

    @property
    def is_made(self) -> bool:
        """Tell whether the registry has a key."""
        return (self.path / f"{REGISTRY}{SUFFIX}").exists()

    def make(self, pair: tuple[str, str]) -> Keys:
        """Make the folder and the registry's key.  Raises ConfigError when it cannot be written."""
        with _explained(self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
        self._write(REGISTRY, pair, pair[0])
        return self.registry()

    def add(self, name: str, pair: tuple[str, str]) -> Path:
        """Make and admit the key of another host; return its file.  Raises ConfigError."""
        if not NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is a bad name for a key: use small letters, digits, '-' and '.'")
        if name == REGISTRY or name in self.names():
            raise ConfigError(f"there is a key {name!r} already: choose another name, or zpipe keys revoke {name}")
        path = self._write(name, pair, self.registry().public)
        self._write_entries({**self.names(), name: pair[0]})
        return path

    def names(self) -> dict[str, str]:
        """Return name -> public key of all others that are admitted.  Raises ConfigError."""
        return _entries(self.path)

    def revoke(self, name: str) -> None:
        """Admit a key no longer; its file, where it is still here, goes too.  Raises ConfigError."""
        names = self.names()
        if name not in names:
            known = ", ".join(names) or "none"
            raise ConfigError(f"no key {name!r} is admitted in {self.path}: there are {known}")
        del names[name]
        self._write_entries(names)
        (self.path / f"{name}{SUFFIX}").unlink(missing_ok=True)

    def _write(self, name: str, pair: tuple[str, str], registry: str) -> Path:
        path = self.path / f"{name}{SUFFIX}"
        text = "".join(f"{field} {value}\n" for field, value in zip(FIELDS, (name, *pair, registry), strict=True))
        with _explained(path), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        return path

    def _write_entries(self, names: dict[str, str]) -> None:
        path = self.path / ADMITTED
        unfinished = path.with_name(f".{ADMITTED}.{os.getpid()}")
        with _explained(path):
            unfinished.write_text(LEGEND + "".join(f"{name} {public}\n" for name, public in names.items()))
            unfinished.replace(path)


class _explained:
    """Turns an OSError into a line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, OSError):
            raise ConfigError(f"cannot write {self._path}: {_why(error)}: name another folder with --keys") from None


def _entries(folder: Path) -> dict[str, str]:
    """Return name -> public key of the file of the admitted, empty where there is none.  Raises ConfigError."""
    path = folder / ADMITTED
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {_why(error)}") from None
    names = {}
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            name, _, key = line.strip().partition(" ")
            if not NAME.fullmatch(name) or not KEY.fullmatch(key.strip()):
                raise ConfigError(f"{path}:{number}: is not a name and a public key: correct or remove the line")
            names[name] = key.strip()
    return names


def _only(folder: Path) -> Path:
    registry = folder / f"{REGISTRY}{SUFFIX}"
    found = [registry] if registry.exists() else sorted(folder.glob(f"*{SUFFIX}"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(f"there is no key in {folder}: make them with zpipe keys")
    raise ConfigError(f"there are {len(found)} keys in {folder}: name one with --keys, e.g. --keys {found[0]}")


def _why(error: Exception) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else "it is no text"
