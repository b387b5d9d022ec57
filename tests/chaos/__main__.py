"""`python -m tests.chaos --runs 50 --seed 1`: one line for each run, exit 1 when any has a fault."""

from __future__ import annotations

import argparse
import sys

from tests.chaos.chaos import play


def main() -> int:
    """Play the runs of consecutive seeds."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; each further one has the next")
    parser.add_argument("--count", type=int, default=20_000, help="numbers to send")
    args = parser.parse_args()
    bad = []
    for seed in range(args.seed, args.seed + args.runs):
        outcome = play(seed, count=args.count)
        print(outcome, flush=True)
        if outcome.faults:
            bad.append(seed)
    print(f"{args.runs - len(bad)} of {args.runs} runs OK" + (f", seeds with faults: {bad}" if bad else ""))
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
