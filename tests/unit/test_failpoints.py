"""Deaths at chosen moments: who is armed, when it happens, and that it happens once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

HITS = """
import sys
from pathlib import Path
from zpipe.processes import failpoints
failpoints.arm(sys.argv[1], Path(sys.argv[2]))
for at in range(3):
    failpoints.hit("saved")
    print(at, flush=True)
"""


def start(stage: str, folder: Path, points: str) -> subprocess.Popen[str]:
    """Start a process of a stage that comes by its point three times."""
    return subprocess.Popen(
        [sys.executable, "-c", HITS, stage, str(folder)], stdout=subprocess.PIPE, text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "ZPIPE_FAILPOINTS": points},
    )  # fmt: skip


def ends(stage: str, folder: Path, points: str) -> tuple[int, str]:
    """Return how it ends, and how far it came."""
    process = start(stage, folder, points)
    said, _ = process.communicate()
    return process.returncode, said


def test_the_nth_hit_kills_and_the_next_life_lives(tmp_path: Path) -> None:
    points = "sink=committed@1,fit=saved@2"
    assert ends("fit", tmp_path, points) == (-signal.SIGKILL, "0\n")
    assert ends("fit", tmp_path, points) == (0, "0\n1\n2\n")


def test_of_two_that_are_armed_one_dies(tmp_path: Path) -> None:
    both = [start("fit", tmp_path, "fit=saved@3") for _ in range(2)]
    for process in both:
        process.communicate()
    assert sorted(process.returncode for process in both) == [-signal.SIGKILL, 0]


def test_another_stage_lives(tmp_path: Path) -> None:
    assert ends("sink", tmp_path, "fit=saved@1") == (0, "0\n1\n2\n")


def test_a_point_may_stop_instead(tmp_path: Path) -> None:
    process = start("fit", tmp_path, "fit=saved@2:stop")
    stopped = os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    assert stopped is not None
    assert stopped.si_status == signal.SIGSTOP
    assert (tmp_path / ".failpoint-fit-saved-2").read_text() == f"{process.pid}\n"
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate()
    assert (process.returncode, said) == (0, "0\n1\n2\n")
