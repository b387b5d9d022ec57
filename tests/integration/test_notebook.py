"""A notebook that runs, stops, edits and runs again in one kernel: what runs is what the file says, nothing is left."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.real import DEADLINE_S, Bell, Place

pytest.importorskip("ipykernel")
KernelManager = pytest.importorskip("jupyter_client").KernelManager

STAGES = """%%writefile mine.py
import zpipe as zp
from stages import slowly, stroke

def numbers(count):
    yield from range(count)

def scale(x, by{k}):
    {how} by{k} * x

def bad(x):
    raise ValueError("round {k}")
"""
RUN = """
import json, zpipe as zp, mine
x = zp.stage(mine.numbers, args={{"count": 5}})
x = zp.stage(mine.scale, args={{"by{k}": {k}}}, workers=2)(x)
report = zp.Pipeline("t", zp.stage("zpipe.sinks:jsonl", args={{"path": "out.jsonl"}}, ordered=True)(x)).run({how})
print(json.dumps([report.ok, report.state, str(report.folder)]))
"""
FLOW = """
import json, zpipe as zp, mine
x = zp.stage(mine.slowly, replay="seek")
report = zp.Pipeline("t", [x, zp.stage(mine.stroke, args={{"bell": "bell{k}"}}), zp.batch(10)]).run()
print(json.dumps([report.ok, report.state, str(report.folder)]))
"""
FAIL = """
import zpipe as zp, mine
zp.Pipeline("t", [zp.stage(mine.numbers, args={"count": 5}), zp.stage(mine.bad)]).run()
"""
KINDS = ("run", "interrupt", "inline", "run", "fail")


class Cell:
    """One cell that runs: what it prints, and how it ends."""

    def __init__(self, client: Any, code: str) -> None:
        self._client = client
        self._id = client.execute(code)
        self.printed = self.warned = ""
        self.shown: list[str] = []  # what its displays showed, one after the other
        self.displays = 0

    def wait(self) -> Any:
        """Wait for its end; return its reply.  Raises queue.Empty."""
        end_s = time.monotonic() + DEADLINE_S
        while True:
            message = self._client.get_iopub_msg(timeout=max(0.0, end_s - time.monotonic()))
            if message["parent_header"].get("msg_id") != self._id:
                continue
            content = message["content"]
            if message["msg_type"] == "stream" and content["name"] == "stdout":
                self.printed += content["text"]
            elif message["msg_type"] == "stream":
                self.warned += content["text"]
            elif message["msg_type"] in ("display_data", "update_display_data"):
                self.displays += message["msg_type"] == "display_data"
                self.shown.append(content["data"]["text/plain"])
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                break
        while True:
            reply = self._client.get_shell_msg(timeout=max(0.0, end_s - time.monotonic()))
            if reply["parent_header"].get("msg_id") == self._id:
                return reply["content"]


class Kernel:
    """A kernel in the folder of a place."""

    def __init__(self, place: Place) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(place.folder), env=place.env)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=DEADLINE_S)
        self.process = psutil.Process(self.manager.provisioner.process.pid)
        self._place = place

    def start(self, code: str) -> Cell:
        """Start a cell."""
        return Cell(self.client, code)

    def run(self, code: str) -> tuple[Any, str]:
        """Run a cell; return its reply and what it printed."""
        cell = self.start(code)
        return cell.wait(), cell.printed

    def held(self) -> dict[str, Any]:
        """Return what it holds of the system, beside memory."""
        return {
            "processes": [p.pid for p in self._place.processes()],
            "ports": sorted(c.laddr.port for c in self.process.net_connections("inet") if c.status == "LISTEN"),
            "files": [str(p) for p in self._place.runtime.rglob("*") if not p.is_dir()],
            "memory": sorted(path.name for path in Path("/dev/shm").iterdir() if "zpipe" in path.name),
            "threads": self.process.num_threads(),
            "fds": self.process.num_fds(),
        }

    def stop(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        folder = tmp_path / name.lower()
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
        place.env[name] = str(folder)
    kernel = Kernel(place)
    try:
        yield kernel
    finally:
        kernel.stop()


def lines(folder: str) -> list[Any]:
    return [json.loads(line) for line in (Path(folder) / "out.jsonl").read_text().splitlines()]


def test_twenty_rounds_of_edit_and_run_leave_nothing_behind(place: Place, kernel: Kernel) -> None:
    held = []
    for k in range(1, 21):
        kind = KINDS[k % len(KINDS)]
        # A function becomes a generator and its argument another: a check by the code of before would refuse it.
        reply, _ = kernel.run(STAGES.format(k=k, how="yield" if k % 2 else "return"))
        assert reply["status"] == "ok", reply
        if kind == "interrupt":
            bell = Bell(place.folder / f"bell{k}")
            cell = kernel.start(FLOW.format(k=k))
            bell.wait(3)
            kernel.manager.interrupt_kernel()
            reply = cell.wait()
            assert reply["status"] == "ok", reply
            assert json.loads(cell.printed)[:2] == [False, "interrupted"]
            assert "interrupted: finishing what is under way" in cell.warned
        elif kind == "fail":
            reply, _ = kernel.run(FAIL)
            assert reply["ename"] == "RunError", reply
            assert f"raised ValueError: round {k}" in reply["evalue"]
            assert "mine.py" in reply["traceback"][-1]  # where in the user's code
        else:
            reply, printed = kernel.run(RUN.format(k=k, how="inline=True" if kind == "inline" else ""))
            assert reply["status"] == "ok", reply
            ok, _, folder = json.loads(printed)
            assert ok
            assert lines(folder) == [k * x for x in range(5)]
        held.append(kernel.held())
    assert held[-1]["processes"] == [kernel.process.pid]
    settled = held[len(KINDS)]  # once all kinds have been there
    assert [round for round in held[len(KINDS) :] if round != settled] == []


def test_what_a_notebook_defines_itself_runs_inline_only_and_the_line_tells_the_way_out(kernel: Kernel) -> None:
    define = 'import zpipe as zp\ndef numbers():\n    yield from range(3)\ndef show(x):\n    print("item", x)\n'
    run = 'pipeline = zp.Pipeline("t", [zp.stage(numbers), zp.stage(show)])\npipeline.run({})'

    reply, _ = kernel.run(define + run.format(""))
    assert reply["ename"] == "ConfigError"
    first, second = reply["evalue"].splitlines()
    assert first.startswith("cell:6: stage 'numbers': ")
    assert "numbers was made in an interactive session, where no worker can import it: put it in a file" in first
    assert "%%writefile stages.py" in second
    reply, printed = kernel.run(define + run.format("inline=True"))
    assert (reply["status"], printed) == ("ok", "item 0\nitem 1\nitem 2\n")


def test_nothing_is_left_of_a_run_whose_kernel_is_killed(place: Place, kernel: Kernel) -> None:
    bell = Bell(place.folder / "bell1")
    kernel.run(STAGES.format(k=1, how="return"))
    kernel.start(FLOW.format(k=1))
    bell.wait(3)
    kernel.process.kill()

    assert place.left() == []


def test_a_run_in_a_thread_of_a_notebook_has_no_signals_and_ends_all_the_same(kernel: Kernel) -> None:
    kernel.run(STAGES.format(k=7, how="return"))
    code = RUN.format(k=7, how="").replace("\n", "\n    ")
    reply, printed = kernel.run(
        f"import threading\ndef work():{code}\nthread = threading.Thread(target=work)\nthread.start()\nthread.join()"
    )

    assert reply["status"] == "ok", reply
    assert lines(json.loads(printed)[2]) == [7 * x for x in range(5)]


def test_progress_is_one_output_that_changes_and_holds_no_control_codes(place: Place, kernel: Kernel) -> None:
    kernel.run(STAGES.format(k=3, how="return"))
    cell = kernel.start(RUN.format(k=3, how=""))
    cell.wait()

    assert cell.displays == 1
    assert cell.warned == ""
    assert "\x1b" not in "".join(cell.shown)
    title, *table, folder = cell.shown[-1].splitlines()
    assert title.startswith("t: done in ")
    assert [row.split()[:5] for row in table if row.split()[:1] == ["scale"]] == [["scale", "2", "5", "0", "5"]]
    assert folder == f"run folder: {json.loads(cell.printed)[2]}"
    quiet = kernel.start(RUN.format(k=3, how="progress=False"))
    quiet.wait()
    assert (quiet.displays, json.loads(quiet.printed)[0]) == (0, True)
