"""What is in the environment of the processes that zpipe starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with `more` on top."""
    env = {**os.environ, "PYTHONUNBUFFERED": "1", **more}
    home = Path(__file__).resolve().parents[2]
    if "site-packages" not in home.parts:  # a checkout that is not installed must be found from any directory
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(home), env.get("PYTHONPATH", ""))))
    return env
