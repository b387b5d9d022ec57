"""One target under the coverage-guided fuzzer, in a process of its own that `python -m tests.fuzz` starts.

What comes out that may not is written to the folder of findings, once for each place it comes from; then it goes on.
"""

from __future__ import annotations

import sys
import traceback
from hashlib import blake2b
from pathlib import Path

import atheris  # type: ignore[import-not-found,unused-ignore]

with atheris.instrument_imports(include=["zpipe"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz until the limit that libFuzzer's own options, behind the folder, set."""
    program, name, findings, *options = sys.argv
    chosen, seen = TARGETS[name], set[str]()

    def play(data: bytes) -> None:
        try:
            chosen.play(data)
        except Exception as error:
            stack = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in stack if "/zpipe/" in frame.filename] or stack
            place = f"{type(error).__name__} at {ours[-1].filename}:{ours[-1].lineno}"
            if place not in seen:
                seen.add(place)
                path = Path(findings) / blake2b(place.encode(), digest_size=6).hexdigest()
                path.write_bytes(data)
                path.with_suffix(".txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")

    atheris.Setup([program, *options], play)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
