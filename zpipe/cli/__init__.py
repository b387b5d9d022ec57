"""The command line; the door of click and rich."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line: what a run's processes are forked from starts while the rest is imported here."""
    if sys.argv[1:2] == ["run"] and not {"--inline", "--help", "-h"} & set(sys.argv):
        from zpipe.processes.forkserver import prepare

        prepare()
    from zpipe.cli.main import main

    main()


__all__ = ["main"]
