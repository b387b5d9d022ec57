"""The run folder, the sockets directory and the notes of live runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from zpipe.processes.runfolder import (
    IPC_NAME_MAX,
    IPC_PATH_MAX,
    LiveRun,
    RunFolder,
    announce,
    code_version,
    describe_run,
    live_runs,
    make_sockets_dir,
    remove_sockets_dir,
)
from zpipe.values.errors import ConfigError

NOW = datetime(2025, 3, 1, 9, 5, 7)


def test_a_run_folder_is_named_by_time_and_pipeline(tmp_path: Path) -> None:
    assert RunFolder.create(tmp_path, "textures", NOW).path == tmp_path / "20250301-090507-textures"


def test_runs_of_the_same_second_are_numbered(tmp_path: Path) -> None:
    names = [RunFolder.create(tmp_path, "t", NOW).path.name for _ in range(3)]
    assert names == ["20250301-090507-t", "20250301-090507-t-2", "20250301-090507-t-3"]


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(
        ConfigError, match=r"cannot make the run folder .*: Not a directory: choose another with --runs"
    ):
        RunFolder.create(tmp_path / "runs", "t", NOW)


def test_a_map_is_written_as_json_and_leaves_nothing_unfinished(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "t", NOW)
    folder.write("meta.json", {"seed": 3})
    assert json.loads((folder.path / "meta.json").read_text()) == {"seed": 3}
    assert sorted(p.name for p in folder.path.iterdir()) == ["blame", "logs", "meta.json", "saves"]


def test_a_variant_logs_into_one_file(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "t", NOW)
    assert folder.log("fit/lr=0.1-0") == folder.logs / "fit@lr=0.1-0.log"


def test_the_sockets_directory_is_private_and_its_paths_short() -> None:
    path = make_sockets_dir()
    assert path.stat().st_mode & 0o777 == 0o700
    assert len(os.fsencode(path)) + 1 + IPC_NAME_MAX <= IPC_PATH_MAX
    remove_sockets_dir(path)
    assert not path.exists()


def test_a_long_runtime_directory_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    path = make_sockets_dir()
    remove_sockets_dir(path)
    assert long not in path.parents


def test_a_live_run_is_found_until_its_process_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-I", "-c", ""])
    ended.wait()
    mine = LiveRun("t", "tcp://127.0.0.1:5570", os.getpid(), "/runs/t")
    announce(mine)
    gone = announce(LiveRun("u", "tcp://127.0.0.1:5571", ended.pid, "/runs/u"))
    assert live_runs() == [mine]
    assert not gone.exists()


def test_two_runs_of_one_process_and_name_are_both_found_the_older_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    later = LiveRun("t", "tcp://127.0.0.1:5571", os.getpid(), "/a/t", 2.0)
    first = LiveRun("t", "tcp://127.0.0.1:5570", os.getpid(), "/b/t", 1.0)
    note = announce(later)
    announce(first)
    assert live_runs() == [first, later]
    note.unlink()
    assert live_runs() == [first]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="what tells processes of one pid apart is read there")
def test_a_run_is_over_when_its_pid_is_a_zombies_or_another_process_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with subprocess.Popen([sys.executable, "-I", "-c", "input()"], stdin=subprocess.PIPE) as process:
        announce(LiveRun("t", "tcp://127.0.0.1:5570", process.pid, "/runs/t"))
        assert len(live_runs()) == 1
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert live_runs() == []
    note = announce(LiveRun("t", "tcp://127.0.0.1:5570", os.getpid(), "/runs/t"))
    note.write_text(json.dumps({**json.loads(note.read_text()), "life": "1"}))
    assert live_runs() == []


def test_no_run_is_live_where_none_was_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert live_runs() == []


def test_the_code_version_outside_git_is_none(tmp_path: Path) -> None:
    assert code_version(tmp_path) is None


def test_the_code_version_tells_commit_and_changes(tmp_path: Path) -> None:
    def git(*args: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@t"]
        return subprocess.run(["git", *who, *args], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    git("init")
    (tmp_path / "stages.py").write_text("a = 1\n")
    git("add", ".")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD").strip()
    assert code_version(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "stages.py").write_text("a = 2\n")
    assert code_version(tmp_path) == {"commit": commit, "dirty": True}


def test_meta_tells_the_hash_of_the_pipeline_and_what_it_is_given(tmp_path: Path) -> None:
    meta = describe_run("name = 't'\n", tmp_path, seed=7)
    assert meta["pipeline_sha256"] == "371e63815370ebb1425129da11c73e04bd467b3b69ff06593610a5f3dfa2ef44"
    assert meta["seed"] == 7


NOTE = {"name": "t", "address": "tcp://a:1", "pid": 1, "folder": "/r", "started": 1.0, "service": "", "life": "7"}


@pytest.mark.parametrize(
    "text",
    [
        *(json.dumps({**NOTE, "pid": pid}) for pid in ("1", 1.5, None, 0, -1, 2**40, True)),
        *(json.dumps({**NOTE, "started": moment}) for moment in ("now", 1e300, float("nan"), None)),
        *(json.dumps({**NOTE, name: 5}) for name in ("name", "address", "folder", "service")),
        "[]", "7", "{}", "[" * 100_000, "",
    ],
)  # fmt: skip
def test_what_is_no_note_of_a_run_is_passed_over(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = announce(LiveRun("t", "tcp://127.0.0.1:1", os.getpid(), "/r"))
    path.with_name("none.json").write_text(text)
    assert [run.folder for run in live_runs()] == ["/r"]
