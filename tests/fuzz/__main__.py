"""`python -m tests.fuzz [--minutes M] [TARGET...]`: the coverage-guided fuzzer, all targets without a name.

Needs `pip install -e '.[test,fuzz]'`.  The corpus of a target grows in `.fuzz/TARGET/corpus` from run to run; what
came out that may not is in `.fuzz/TARGET/findings`.  `--play FILE` plays one input again, without the fuzzer.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from tests.fuzz.targets import TARGETS

KEPT = Path(".fuzz")
INPUT_MAX = 4096  # bytes
INPUT_S = 20  # that one input may take
MEMORY_MIB = 2048  # of a fuzzer
PULSE = re.compile(r"^#(\d+)\s.*?cov: (\d+).*?corp: (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """What came of one target: `findings` by file, each with its last line."""

    name: str
    executions: int
    coverage: int
    corpus: int
    findings: Mapping[Path, str]

    def __str__(self) -> str:
        return (
            f"{self.name:10} {self.executions:10,} executions, coverage {self.coverage}, corpus {self.corpus}, "
            f"{len(self.findings)} findings"
        )


def fuzz(name: str, minutes: float, seed: int) -> Outcome:
    """Fuzz one target in a process of its own."""
    folder = KEPT / name
    corpus, findings = folder / "corpus", folder / "findings"
    shutil.rmtree(findings, ignore_errors=True)
    for part in (corpus, findings):
        part.mkdir(parents=True, exist_ok=True)
    for data in TARGETS[name].seeds():
        (corpus / blake2b(data, digest_size=8).hexdigest()).write_bytes(data)
    options = {
        "max_total_time": int(60 * minutes), "seed": seed, "max_len": INPUT_MAX, "timeout": INPUT_S,
        "rss_limit_mb": MEMORY_MIB, "artifact_prefix": f"{findings}/", "print_final_stats": 1,
    }  # fmt: skip
    argv = [sys.executable, "-m", "tests.fuzz.guided", name, str(findings), str(corpus)]
    done = subprocess.run(
        [*argv, *(f"-{option}={value}" for option, value in options.items())],
        check=False, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    said = done.stdout + done.stderr
    (folder / "log").write_text(said, encoding="utf-8")
    found = {path: _last_line(path) for path in sorted(findings.iterdir()) if path.suffix != ".txt"}
    if done.returncode != 0 and not found:
        found = {folder / "log": f"the fuzzer ended with {done.returncode}"}
    pulses = PULSE.findall(said) or [("0", "0", "0")]
    return Outcome(name, *(int(number) for number in pulses[-1]), findings=found)


def _last_line(path: Path) -> str:
    text = path.with_suffix(".txt")
    lines = text.read_text(encoding="utf-8").strip().splitlines() if text.exists() else []
    return lines[-1] if lines else "too slow, too large, or the end of the process"


def _outcomes(names: list[str], options: argparse.Namespace) -> Iterator[Outcome]:
    with ThreadPoolExecutor(options.jobs) as pool:
        yield from pool.map(lambda name: fuzz(name, options.minutes, options.seed), names)


def main() -> int:
    """Fuzz targets; 1 when there are findings."""
    about = "\n".join(f"  {name:10} {target.about}" for name, target in TARGETS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=f"{__doc__}\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--minutes", type=float, default=5.0, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
    parser.add_argument("--play", type=Path, metavar="FILE", help="play one input of the target")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"there is no target {', '.join(sorted(unknown))}: choose from {', '.join(TARGETS)}")
    if options.play:
        if len(options.targets) != 1:
            parser.error("--play needs the one target that is to read the file")
        TARGETS[options.targets[0]].play(options.play.read_bytes())
        return 0
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed: pip install -e '.[test,fuzz]'")
    findings = 0
    for outcome in _outcomes(options.targets or list(TARGETS), options):
        print(outcome, flush=True)
        for path, line in outcome.findings.items():
            print(f"{'':10} {path}: {line}", flush=True)
        findings += len(outcome.findings)
    return int(findings > 0)


if __name__ == "__main__":
    sys.exit(main())
