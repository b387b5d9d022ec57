"""`python -m tests.chaos [runs|resume|matrix|soak] ...`: real processes under faults, by a seed; exit 1 when any shows.

runs    pipeline.toml, every role killed at counts of committed rows: one line for each run
resume  pipeline.toml, every process killed at once, and the run resumed until it is done
matrix  matrix.toml: targets, faults and moments, a table
soak    matrix.toml for long, with a kill every 10 s and a pause every 60 s
"""

from __future__ import annotations

import argparse
import sys

from tests.chaos import chaos, matrix, resume, soak


def runs(args: argparse.Namespace) -> bool:
    """Play the runs of consecutive seeds."""
    play = {"runs": chaos.play, "resume": resume.play}[args.verb]
    more = {} if args.count is None else {"count": args.count}
    bad = []
    for seed in range(args.seed, args.seed + args.runs):
        outcome = play(seed, **more)
        print(outcome, flush=True)
        if outcome.faults:
            bad.append(seed)
    print(f"{args.runs - len(bad)} of {args.runs} runs OK" + (f", seeds with faults: {bad}" if bad else ""))
    return not bad


def main() -> int:
    """Play what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in ("runs", "resume"):
        verb = verbs.add_parser(name)
        verb.add_argument("--runs", "--times", type=int, default=1)
        verb.add_argument("--seed", type=int, default=1, help="of the first run; each further one has the next")
        verb.add_argument("--count", type=int, help="numbers to send")
        verb.set_defaults(play=runs)
    verb = verbs.add_parser("matrix")
    verb.add_argument("--seed", type=int, default=1)
    verb.add_argument("--only", nargs="+", default=(), metavar="CELL", help="e.g. middle/kill/steady, */stop-5/*")
    verb.add_argument("--some", type=int, help="so many of the short cells, drawn by the seed")
    verb.add_argument("--quick", action="store_true", help="fewer kills in those that kill again and again")
    verb.set_defaults(play=lambda args: matrix.run(args.only, some=args.some, seed=args.seed, quick=args.quick))
    verb = verbs.add_parser("soak")
    verb.add_argument("--seed", type=int, default=1)
    verb.add_argument("--minutes", type=float, default=30.0)
    verb.set_defaults(play=lambda args: soak.run(args.minutes, seed=args.seed))
    args = parser.parse_args()
    return int(not args.play(args))


if __name__ == "__main__":
    sys.exit(main())
