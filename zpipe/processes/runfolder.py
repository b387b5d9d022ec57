"""The folder of one run, its directory of sockets, and the notes by which this user's live runs are found."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from zpipe.values.errors import ConfigError

DATABASE = "run.db"  # what the registry must not forget
LAUNCHER = "launcher"  # whose log is beside those of the workers when it has no terminal
IPC_PATH_MAX = 107  # bytes, of which a socket's own name takes up to:
IPC_NAME_MAX = 48
PID_MAX = 2**31 - 1
MOMENT_MAX = 2.0**37  # in unix seconds: the year 6325
SOCKETS_PREFIX = "zpipe-"
LOCK = ".lock"
LOCK_LOOK_S = 0.05  # how often to look whether all have gone, where nothing tells


class RunFolder:
    """`runs/<time>-<name>/`: what ran, as whom, what it said and what came of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logs = path / "logs"
        self.saves = path / "saves"
        self.blame = path / "blame"
        self.dead = path / "dead"  # there once an item was given up
        self.trace = path / "trace"  # there while a run is traced
        self.lock: int | None = None  # what `hold` has opened

    @classmethod
    def create(cls, runs: str | os.PathLike[str], name: str, now: datetime) -> RunFolder:
        """Make a new folder; a second run of the same second gets `-2` behind its name."""
        stem = f"{now:%Y%m%d-%H%M%S}-{name}"
        for path in _numbered(Path(runs).absolute() / stem):
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise ConfigError(
                    f"cannot make the run folder {path}: {error.strerror}: choose another with --runs"
                ) from error
            break
        folder = cls(path)
        for part in (folder.logs, folder.saves, folder.blame):
            part.mkdir()
        return folder

    def hold(self, wait_s: float = 0.0) -> int:
        """Have the folder to oneself, and return the lock: whoever it is handed on to has the folder too.

        Raises ConfigError when others have it for longer than `wait_s`.  Where there are no locks, nobody has.
        """
        if self.lock is None:
            self.lock = _locked(self.path / LOCK, wait_s)
        return self.lock

    def release(self) -> None:
        """Let go of the folder; those that were handed the lock keep it."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    def log(self, worker: str) -> Path:
        """Return where a worker's stdout and stderr go."""
        return self.logs / f"{_file_name(worker)}.log"

    def blame_file(self, worker: str) -> Path:
        """Return where a worker notes what it is about to run."""
        return self.blame / _file_name(worker)

    def trace_file(self, worker: str) -> Path:
        """Return where a worker writes down its calls."""
        return self.trace / _file_name(worker)

    def write(self, name: str, content: str | Mapping[str, Any]) -> None:
        """Write a text, or a map as JSON, whole or not at all."""
        text = content if isinstance(content, str) else json.dumps(content, indent=1, default=str) + "\n"
        unfinished = self.path / f".{name}.tmp"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(self.path / name)


def describe_run(pipeline_text: str, code_folder: Path, **more: Any) -> dict[str, Any]:
    """Return what meta.json says: which pipeline and code, on which machine, with which seed."""
    return {
        "pipeline_sha256": hashlib.sha256(pipeline_text.encode()).hexdigest(),
        "code": code_version(code_folder),
        "zpipe": zpipe_version(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "host": socket.gethostname(),
        "platform": platform.platform(),
        **more,
    }


def code_version(folder: Path) -> dict[str, Any] | None:
    """Return the git commit of the pipeline's folder and whether files differ from it; None outside git."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def zpipe_version() -> str:
    """Return the installed version, `0+unknown` when run from a bare checkout."""
    try:
        return metadata.version("zpipe")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def make_sockets_dir() -> Path:
    """Make a private directory whose socket paths stay within what ipc allows."""
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):
        if base and os.access(base, os.W_OK) and len(os.fsencode(base)) + 16 + IPC_NAME_MAX <= IPC_PATH_MAX:
            return Path(tempfile.mkdtemp(prefix=SOCKETS_PREFIX, dir=base))
    raise ConfigError("no directory for sockets: XDG_RUNTIME_DIR and /tmp are missing or not writable")


def host_id() -> str:
    """Return what tells this host from others: containers that share its kernel are the same host."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def is_shared(path: Path, host: str | None) -> bool:
    """Tell whether a folder that is named by a process on `host` is here, and ours; None: on this one."""
    return host in (None, host_id()) and _is_ours(path)


def remove_sockets_dir(path: Path) -> None:
    """Remove the directory and the sockets that killed workers left in it; no other directory."""
    if path.name.startswith(SOCKETS_PREFIX):
        shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class LiveRun:
    """Where a run of this user can be reached, and when it started in unix seconds."""

    name: str
    address: str
    pid: int
    folder: str
    started: float = 0.0
    service: str = ""  # the name that it has as a service, "" unless it is one
    keys: str = ""  # the file of the keys with which it is reached, "" without


def announce(run: LiveRun) -> Path:
    """Note a live run where `live_runs` finds it; the caller removes the file at its end."""
    path = private_folder("runs") / f"{run.pid}-{run.name}-{secrets.token_hex(4)}.json"
    path.write_text(json.dumps({**asdict(run), "life": _life(run.pid)}), encoding="utf-8")
    return path


def private_folder(name: str) -> Path:
    """Return a folder of this user, made if need be, for what lasts no longer than the system is up."""
    folder = _live_folder().with_name(name)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_ours(folder.parent):
        raise ConfigError(f"{folder.parent} belongs to another user: set XDG_RUNTIME_DIR to a directory of yours")
    folder.parent.chmod(0o700)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def live_runs() -> list[LiveRun]:
    """Return this user's live runs, oldest first; notes of dead ones are removed."""
    found = []
    folder = _live_folder()
    for path in folder.glob("*.json") if _is_ours(folder.parent) else ():
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
            life, run = note.pop("life"), LiveRun(**note)
            _check_note(run)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # being written or removed at this moment, or none of ours
        if life and life == _life(run.pid):
            found.append(run)
        else:
            path.unlink(missing_ok=True)
    return sorted(found, key=lambda run: (run.started, run.folder))


def _check_note(run: LiveRun) -> None:
    """Raise ValueError for what `announce` cannot have written."""
    texts = (run.name, run.address, run.folder, run.service)
    is_pid = type(run.pid) is int and 0 < run.pid <= PID_MAX
    is_moment = type(run.started) in (int, float) and 0 <= run.started <= MOMENT_MAX
    if not (is_pid and is_moment and all(type(text) is str for text in texts)):
        raise ValueError(f"{run} is no note of a run")


def _live_folder() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base or tempfile.gettempdir()) / f"zpipe-{os.getuid()}" / "runs"


def _is_ours(folder: Path) -> bool:
    """Tell whether a folder is there and this user's; a link to one is not."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _life(pid: int) -> str:
    """Return what tells a process from others that have borne its pid, "" when it has ended.

    After a restart of a container the pids are the same again; an ended process keeps its own until it is waited for.
    """
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]  # its start, in ticks since the boot: proc(5)
    except OSError:
        pass  # it has ended, or there is no /proc
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return ""
    return "alive"


def _locked(path: Path, wait_s: float) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                os.close(lock)
                who = ", ".join(_who_has(path)) or "the processes of another user or host"
                raise ConfigError(f"run {path.parent} is still under way: end {who} first") from None
        except OSError:
            return lock
        time.sleep(LOCK_LOOK_S)


def _who_has(path: Path) -> list[str]:
    """Name the processes of this user that have a file open, where the system tells."""
    found = []
    for opened in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(os.readlink(file) == str(path) for file in opened.iterdir()):
                command = (opened.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                found.append(f"pid {opened.parent.name} ({command.strip():.80})")
        except OSError:
            continue  # another user's, or it has ended
    return found


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    for number in range(2, 1000):
        yield path.with_name(f"{path.name}-{number}")
    raise ConfigError(f"{path} and 999 of its names are taken: choose another folder with --runs")


def _file_name(worker: str) -> str:
    return worker.replace("/", "@")  # a variant, fit/lr=0.1-1, is one file and not a folder


def _git(folder: Path, *args: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *args],
            check=False,
            capture_output=True,
            text=True,
            timeout=5,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
