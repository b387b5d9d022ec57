"""Shows of one stage that is served by workers in Python, C and Node at once, each of which is killed."""

from __future__ import annotations

import json
import shlex
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from tests.outside import LANGUAGES, MODULES, command, compiled, environment
from tests.real import Command, Done, Place, rows, wait_until
from tests.shows.flow import Shown, ended, stage_place
from tests.shows.memory import NotHere

COUNT = 30_000
SKEWED = 3000
TAKE = 16  # so that whoever is killed holds some
FAST_MS, SLOW_MS = 1, 50
SLOW_MAX = 0.05  # of all items, to one who is 50 times slower
SLOW = "node"
DATABASE = "out.db"
RUN_S = 120.0
SQUARE = {
    "gate": 'from = "numbers"\nlisten = { call = 0, lease_s = 1.0 }',
    "cmd": f'from = "numbers"\ncmd = ["sh", "choose.sh"]\nworkers = {len(LANGUAGES)}',
}


def languages(count: int = COUNT, skewed: int = SKEWED) -> Iterator[Shown]:
    """Workers in three languages share a stage, and each is killed; one that is 50 times slower gets 5 % at most."""
    if not (shutil.which("node") and MODULES.exists() and shutil.which("cc")):
        raise NotHere("there is no C compiler, or no Node with its modules: npm install in services/tokenize")
    for kind, serve in (("gate", at_gate), ("cmd", as_cmd)):
        yield _all(f"{kind}: {', '.join(LANGUAGES)}, each killed once", count, serve(count, kill=True))
        yield _few(kind, skewed, serve(skewed, kill=False))
    yield _all("gate: three shells with zpipe worker, one of them killed", count, from_shells(count))


def at_gate(count: int, *, kill: bool) -> Counter[str]:
    """Serve a gate by a worker of each language, started from outside; returns who did how many items."""
    with stage_place() as place:
        compiled(place.folder)
        run = place.start("run", place.pipeline(_stages("gate", count)))
        address = address_of(place, "square")

        def start(language: str) -> Command:
            env = environment(_pace(language, kill=kill), address)
            return Command(command(language, place.folder), place.folder, {**place.env, **env})

        workers = {language: start(language) for language in LANGUAGES}
        for number, language in enumerate(LANGUAGES if kill else (), 1):
            _wait_for(place, number * count // (len(LANGUAGES) + 1), run)
            workers[language].process.kill()
            workers[language].process.wait()
            workers[language] = start(language)
        done = ended(run.wait(RUN_S))
        for worker in workers.values():
            ended(worker.wait())
        return _checked(done, count)


def as_cmd(count: int, *, kill: bool) -> Counter[str]:
    """Serve a stage by a `cmd` that is another language in each worker; as `at_gate`."""
    with stage_place() as place:
        compiled(place.folder)
        (place.folder / "choose.sh").write_text(_choice(place.folder, kill=kill))
        run = place.start("run", place.pipeline(_stages("cmd", count)), **environment({}))
        for number, language in enumerate(LANGUAGES if kill else (), 1):
            _wait_for(place, number * count // (len(LANGUAGES) + 1), run)
            _kill(place, command(language, place.folder)[-1])
        return _checked(ended(run.wait(RUN_S)), count)


def from_shells(count: int) -> Counter[str]:
    """Serve a gate by a `zpipe worker` in each of three shells, one of which is killed; as `at_gate`."""
    with stage_place() as place:
        run = place.start("run", place.pipeline(_stages("gate", count)))
        address = address_of(place, "square")
        shells = [place.start("worker", "stages.py:squared", "--connect", address) for _ in range(3)]
        _wait_for(place, count // 3, run)
        shells[0].process.kill()
        done = ended(run.wait(RUN_S))
        for shell in shells[1:]:
            ended(shell.wait())
        return _checked(done, count)


def address_of(place: Place, stage: str) -> str:
    """Return where the gate of a stage answers, once it is open."""
    found: list[str] = []

    def look() -> bool:
        for file in place.folder.glob(f"runs/*/gates/{stage}.json"):
            with suppress(ValueError):
                found.append(json.loads(file.read_text())["call"])
        return bool(found)

    wait_until(look)
    return found[0]


def _stages(kind: str, count: int) -> str:
    return (
        f'[stage.numbers]\nrun = "stages:numbers"\nreplay = "seek"\nargs = {{ count = {count} }}\n'
        f"[stage.square]\n{SQUARE[kind]}\n"
        f'[stage.squares]\nrun = "zpipe.sinks:sqlite"\nfrom = "square"\nargs = {{ path = "{DATABASE}" }}\n'
    )


def _pace(language: str, *, kill: bool) -> dict[str, float]:
    return {"take": TAKE} if kill else {"nap_ms": SLOW_MS if language == SLOW else FAST_MS}


def _choice(folder: Path, *, kill: bool) -> str:
    """Return a shell's script that becomes the worker of a language, by the number of zpipe's own."""
    cases = []
    for number, language in enumerate(LANGUAGES, 1):
        words = [f"{name}={value}" for name, value in environment(_pace(language, kill=kill)).items()]
        cases.append(f"*-{number}) exec env {shlex.join((*words, *command(language, folder)))} ;;")
    return "\n".join(('case "$ZPIPE_WORKER" in', *cases, "esac", ""))


def _wait_for(place: Place, count: int, run: Command) -> None:
    """Wait until so many items are at the sink, or the run has ended."""
    wait_until(lambda: _count(place) >= count or run.ends_within(0.01), RUN_S)


def _count(place: Place) -> int:
    for file in place.folder.glob(f"runs/*/{DATABASE}"):
        with suppress(sqlite3.Error), sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
            return int(database.execute("SELECT count(*) FROM items").fetchone()[0])
    return 0


def _kill(place: Place, program: str) -> None:
    """Kill the processes of a program, once there is one."""
    killed: list[int] = []

    def kill() -> bool:
        for process in place.processes():
            with suppress(psutil.NoSuchProcess):
                if program in process.cmdline():
                    process.kill()
                    killed.append(process.pid)
        return bool(killed)

    wait_until(kill)


def _checked(done: Done, count: int) -> Counter[str]:
    """Return who did how many.  Raises RuntimeError when it is not every square once."""
    items = [item for _, item in rows(done.folder / DATABASE)]
    if sorted(x for x, _, _ in items) != list(range(count)):
        raise RuntimeError(f"{len(items)} squares at the sink, {len({x for x, _, _ in items})} of them distinct")
    if wrong := [(x, square) for x, square, _ in items if square != x * x]:
        raise RuntimeError(f"{len(wrong)} squares are wrong, {wrong[0]} among them")
    return Counter(who for _, _, who in items)


def _all(what: str, count: int, by: Counter[str]) -> Shown:
    shares = ", ".join(f"{n:,} by {who}" for who, n in sorted(by.items()))
    return Shown(f"{what}: {count:,} squares, each once and right: {shares}", by.total() == count and len(by) == 3)


def _few(kind: str, count: int, by: Counter[str]) -> Shown:
    share = by[SLOW] / count
    return Shown(
        f"{kind}: {SLOW} takes {SLOW_MS} ms and the others {FAST_MS} ms: it did {by[SLOW]} of {count:,}, "
        f"{100 * share:.1f} % (at most {100 * SLOW_MAX:.0f})",
        share <= SLOW_MAX and by.total() == count,
    )
