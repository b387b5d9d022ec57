"""One worker in three languages, as anyone writes it from part A of docs/protocol.md; knows nothing of zpipe.

Of a number it makes [number, its square, the language]; what is no number it hands on as it is, its frames too.
`take` is how many items it asks for at a time, `nap_ms` how long a number takes it; both are 1 and 0 without a word.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.real import ROOT

FOLDER = Path(__file__).parent
MODULES = ROOT / "services" / "tokenize" / "node_modules"
LANGUAGES = ("python", "c", "node")


def compiled(folder: Path) -> Path:
    """Compile the worker in C into a folder.  Raises RuntimeError where that cannot be done."""
    made = folder / "worker-c"
    argv = ("cc", "-O2", "-Wall", "-Wextra", "-o", str(made), str(FOLDER / "worker.c"), "-lzmq", "-lmsgpackc")
    try:
        done = subprocess.run(argv, capture_output=True, text=True)
    except OSError as error:
        raise RuntimeError(f"there is no compiler for C: {error}") from None
    if done.returncode:
        raise RuntimeError(f"the worker in C cannot be compiled: {done.stderr.strip()}")
    return made


def command(language: str, folder: Path) -> tuple[str, ...]:
    """Return how the worker of a language is started, whose binary in C is in `folder`."""
    if language == "c":
        return (str(folder / "worker-c"),)
    if language == "node":
        return ("node", str(FOLDER / "worker.cjs"))
    return (sys.executable, str(FOLDER / "worker.py"))


def environment(args: Mapping[str, float], address: str = "") -> Mapping[str, str]:
    """Return what a worker finds in its environment, whoever starts it."""
    own = {f"ZPIPE_ARG_{name.upper()}": str(value) for name, value in args.items()}
    return {"NODE_PATH": str(MODULES), **({"ZPIPE_CALL": address} if address else {}), **own}
