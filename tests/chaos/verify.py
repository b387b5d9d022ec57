"""Read what a chaos run has left: `python -m tests.chaos.verify DATABASE COUNT`; exit 0 when all is there, once.

Knows what the numbers must have become; shares nothing with the library or the run.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections import Counter

SIZE = 16  # of a batch


def faults(database: str, count: int) -> list[str]:
    """Return what is wrong with the table, one line each."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        batches = [json.loads(item) for (item,) in connection.execute("SELECT item FROM items")]
    found = Counter((n, k) for batch in batches for n, k in batch)
    expected = {(n, k) for n in range(count) for k in range(n % 3 + 1)}
    lost, strange = sorted(expected - found.keys()), sorted(found.keys() - expected)
    twice = sorted(item for item, times in found.items() if times > 1)
    out = [f"{len(items)} {what}: {items[:5]}" for what, items in (("lost", lost), ("twice", twice),
           ("never sent", strange)) if items]  # fmt: skip
    sizes = Counter(map(len, batches))
    full, rest = divmod(len(expected), SIZE)
    if sizes != Counter({SIZE: full}) + Counter({rest: int(rest > 0)}):
        out.append(f"batches of sizes {dict(sizes)}, not {full} of {SIZE} and one of {rest}")
    return out


if __name__ == "__main__":
    wrong = faults(sys.argv[1], int(sys.argv[2]))
    print("\n".join(wrong) or "the expected set, each once")
    sys.exit(bool(wrong))
