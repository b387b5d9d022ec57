"""Faults of a pipeline: where, what, and the way out.  Knows nothing of what is checked."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One fault: `where` is file:line or a dotted path, `text` names the thing, the rule and the way out."""

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `: did you mean 'x'?` for the known word nearest to `word`, or nothing."""
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f": did you mean {near[0]!r}?" if near else ""


def one_of(words: Iterable[str]) -> str:
    """Write words as `a, b or c`."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
