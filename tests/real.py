"""Real `zpipe` commands in a folder of their own: started, waited for by events, looked for afterwards."""

from __future__ import annotations

import compileall
import json
import os
import secrets
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
DEADLINE_S = 120.0  # for what takes a second on an idle machine
LOOK_S = 0.01  # how often to look at what a living process has printed
MARK = "ZPIPE_TEST_MARK"  # in the environment of all that a place has started

compileall.compile_dir(ROOT / "zpipe", quiet=1)  # as pip does it, also where Python may not write bytecode by itself


@dataclass(frozen=True)
class Done:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def folder(self) -> Path:
        """Return the run folder that the command named."""
        return Path((self.out + self.err).rpartition("run folder: ")[2].partition("\n")[0])

    @property
    def faults(self) -> list[str]:
        """Return the lines of stderr that are complaints."""
        return [line.removeprefix("zpipe: ") for line in self.err.splitlines() if line.startswith("zpipe: ")]


class Command:
    """One command under way, its output in files."""

    def __init__(self, argv: tuple[str, ...], folder: Path, env: dict[str, str]) -> None:
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
        self.process = subprocess.Popen(
            argv, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=self._files[0], stderr=self._files[1]
        )

    def wait(self, deadline_s: float = DEADLINE_S) -> Done:
        """Wait for the end.  Raises TimeoutExpired with what was printed so far on stderr."""
        try:
            code = self.process.wait(deadline_s)
        except subprocess.TimeoutExpired as error:
            error.add_note(self.printed(1))
            raise
        return Done(code, self.printed(0), self.printed(1))

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def ends_within(self, timeout_s: float) -> bool:
        """Wait for the end and tell whether it came."""
        fd = os.pidfd_open(self.process.pid) if self.process.poll() is None else None
        if fd is not None:
            select.select([fd], [], [], timeout_s)
            os.close(fd)
        return self.process.poll() is not None

    def says(self, words: str, deadline_s: float = DEADLINE_S) -> str:
        """Wait until a line on stderr holds these words, and return it.  Raises TimeoutError."""
        end_s = time.monotonic() + deadline_s
        over = False
        while not (found := [line for line in self.printed(1).splitlines() if words in line]):
            if over or time.monotonic() > end_s:
                raise TimeoutError(f"{words!r} was not said: {self.printed(1)}")
            over = self.ends_within(LOOK_S)
        return found[0]

    def printed(self, which: int) -> str:
        """Return what was printed so far on stdout (0) or stderr (1)."""
        return os.pread(self._files[which].fileno(), 2**24, 0).decode()


class Place:
    """A folder with stages and pipelines; `with` ends what was started in it and is still there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = secrets.token_hex(8)
        # Not below `folder`, whose path may be longer than the paths of sockets can be.
        self.runtime = Path(tempfile.mkdtemp(prefix="zt-", dir="/tmp"))
        self.env = {
            **os.environ, MARK: self.mark, "XDG_RUNTIME_DIR": str(self.runtime), "PYTHONPATH": str(ROOT),
            "PYTHONFAULTHANDLER": "1",
        }  # fmt: skip
        self.env.pop("ZPIPE_REGISTRY", None)
        self._shared = set(_shared_memory())

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(self.runtime, ignore_errors=True)

    def pipeline(self, stages: str, name: str = "t") -> str:
        """Write a pipeline file and return its name."""
        (self.folder / f"{name}.toml").write_text(f'schema = 1\nname = "{name}"\n{stages}')
        return f"{name}.toml"

    def start(self, *argv: str, **env: str) -> Command:
        """Start `zpipe ARGV...`."""
        return Command((sys.executable, "-m", "zpipe", *argv), self.folder, {**self.env, **env})

    def start_python(self, file: str) -> Command:
        """Start a Python program of the folder."""
        return Command((sys.executable, file), self.folder, self.env)

    def run(self, *argv: str, **env: str) -> Done:
        """Run `zpipe ARGV...` to its end."""
        return self.start(*argv, **env).wait()

    def ps(self) -> dict[str, Any]:
        """Return what `zpipe ps --json` prints; an empty run while none can be reached."""
        done = self.run("ps", "--json")
        return dict(json.loads(done.out)) if done.code == 0 else {"stages": [], "workers": []}

    def processes(self) -> list[psutil.Process]:
        """Return the living processes that were started from here, and what they have started."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def left(self, deadline_s: float = 10.0) -> list[str]:
        """Wait for every process to end; return those that have not, and the files of sockets and memory.

        Notes of live runs and locks may stay: the next that looks for them finds nobody behind them.
        """
        end_s = time.monotonic() + deadline_s
        while (living := self.processes()) and (left_s := end_s - time.monotonic()) > 0:
            wait_for_ends(living, left_s)
        names = [" ".join(process.cmdline()) for process in living]
        kept = (".json", ".lock")
        files = [str(path) for path in self.runtime.rglob("*") if not path.is_dir() and path.suffix not in kept]
        return names + files + sorted(set(_shared_memory()) - self._shared)


class Bell:
    """A named pipe on which stages strike, so that a test knows where they are."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def wait(self, strokes: int = 1, deadline_s: float = DEADLINE_S) -> None:
        """Wait for so many strokes.  Raises TimeoutError."""
        end_s = time.monotonic() + deadline_s
        while strokes > 0:
            if not select.select([self._fd], [], [], max(0.0, end_s - time.monotonic()))[0]:
                raise TimeoutError(f"{strokes} strokes are missing after {deadline_s} s")
            strokes -= len(os.read(self._fd, strokes))


def wait_until(true: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Ask again and again, where nothing tells.  Raises TimeoutError."""
    end_s = time.monotonic() + deadline_s
    while not true():
        if time.monotonic() > end_s:
            raise TimeoutError(f"not so within {deadline_s} s")


def wait_for_ends(processes: Iterable[psutil.Process], timeout_s: float) -> None:
    """Wait until one of these has ended, or the time."""
    poll, opened = select.poll(), []
    try:
        for process in processes:
            with suppress(ProcessLookupError):
                opened.append(os.pidfd_open(process.pid))
                poll.register(opened[-1], select.POLLIN)
        if opened:
            poll.poll(timeout_s * 1000)
    finally:
        for fd in opened:
            os.close(fd)


def rows(database: Path, table: str = "items") -> list[tuple[str, Any]]:
    """Return path and item of all rows that a `zpipe.sinks:sqlite` has written, sorted by path."""
    with sqlite3.connect(database) as connection:
        found = connection.execute(f"SELECT path, item FROM {table} ORDER BY path").fetchall()
    return [(path, json.loads(item)) for path, item in found]


def lines(file: Path) -> list[Any]:
    """Return the items of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _shared_memory() -> list[str]:
    return [f"/dev/shm/{name}" for name in os.listdir("/dev/shm") if "zpipe" in name]
