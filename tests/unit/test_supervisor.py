"""The supervisor with tiny programs in place of workers."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from zpipe.processes.blame import SIZE, Blame, Noted, running_since_s
from zpipe.processes.supervisor import (
    Death,
    Program,
    Restarts,
    Slot,
    Supervisor,
    describe_status,
    last_line,
)
from zpipe.values.context import Current
from zpipe.values.errors import RunError
from zpipe.values.paths import Again, Run

DEADLINE_S = 30.0
FOREVER = "import signal; print('up', flush=True); signal.pause()"


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    with Supervisor() as supervisor:
        yield supervisor


def program(name: str, code: str, *, log: Path | None = None, blame: Path | None = None) -> Program:
    return Program(name, (sys.executable, "-I", "-c", code), os.environ, log, blame)


def next_death(supervisor: Supervisor) -> Death:
    for _ in range(1000):
        if deaths := supervisor.step(DEADLINE_S):
            return deaths[0]
    raise AssertionError("no death")


def wait_for_line(supervisor: Supervisor, slot: Slot) -> str:
    while not (line := last_line(slot.program.log)):
        assert not supervisor.step(0.01)
    return line


def test_an_exit_is_noticed_with_its_code(supervisor: Supervisor) -> None:
    slot = supervisor.add(program("a-0", "raise SystemExit(7)"))
    death = next_death(supervisor)
    assert (death.slot, death.status, death.how) == (slot, 7, "exited 7")
    assert slot.ended


def test_a_killed_worker_is_noticed_with_its_signal(supervisor: Supervisor) -> None:
    supervisor.add(program("a-0", "import os; os.kill(os.getpid(), 9)"))
    assert next_death(supervisor).how == "killed by SIGKILL"


def test_only_the_dead_one_is_reported(supervisor: Supervisor, tmp_path: Path) -> None:
    first = supervisor.add(program("a-0", FOREVER, log=tmp_path / "a-0"))
    second = supervisor.add(program("a-1", FOREVER, log=tmp_path / "a-1"))
    wait_for_line(supervisor, first)
    wait_for_line(supervisor, second)
    supervisor.kill(second)
    assert next_death(supervisor).slot is second
    assert first.pid is not None
    assert second.pid is None


def test_a_restarted_program_has_a_new_life_with_its_extra_arguments(supervisor: Supervisor, tmp_path: Path) -> None:
    slot = supervisor.add(program("a-0", "import sys; print(sys.argv[1:])", log=tmp_path / "log"))
    next_death(supervisor)
    supervisor.restart(slot, 0.0, ["--replaces", "5"])
    next_death(supervisor)
    assert last_line(tmp_path / "log") == "['--replaces', '5']"
    assert slot.lives == 2


def test_a_program_of_its_own_group_dies_with_its_leader(supervisor: Supervisor, tmp_path: Path) -> None:
    code = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-I", "-c", {FOREVER!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
"""
    slot = supervisor.add(program("a-0", code, log=tmp_path / "log"))
    next_death(supervisor)
    grandchild = os.pidfd_open(int(last_line(slot.program.log)))
    assert select.select([grandchild], [], [], DEADLINE_S)[0]  # readable when it has died
    os.close(grandchild)


def test_closing_ends_what_ignores_sigterm(tmp_path: Path) -> None:
    code = f"import signal; signal.signal(15, signal.SIG_IGN); {FOREVER}"
    supervisor = Supervisor()
    slot = supervisor.add(program("a-0", code, log=tmp_path / "log"))
    wait_for_line(supervisor, slot)
    supervisor.close(grace_s=0.01)
    assert slot.ended


def test_closing_gives_a_chance_to_end_well(tmp_path: Path) -> None:
    code = (
        "import signal, sys\n"
        "signal.signal(15, lambda *_: (print('bye', flush=True), sys.exit()))\n"
        "print('up', flush=True)\nsignal.pause()"
    )
    supervisor = Supervisor()
    slot = supervisor.add(program("a-0", code, log=tmp_path / "log"))
    wait_for_line(supervisor, slot)
    supervisor.close(grace_s=DEADLINE_S)
    assert last_line(tmp_path / "log") == "bye"


def test_a_readable_descriptor_ends_the_wait(supervisor: Supervisor) -> None:
    slot = supervisor.add(program("a-0", FOREVER))
    read, write = os.pipe()
    os.write(write, b"x")
    assert supervisor.step(DEADLINE_S, read) == []
    assert slot.pid is not None
    os.close(read)
    os.close(write)


def test_a_program_that_is_not_there_is_one_clear_line(supervisor: Supervisor) -> None:
    supervisor.add(Program("a-0", ("/no/such/python",), {}))
    with pytest.raises(RunError, match="a-0: cannot start /no/such/python: No such file or directory"):
        supervisor.step(0)


def test_a_death_comes_with_what_was_running(supervisor: Supervisor, tmp_path: Path) -> None:
    blame = tmp_path / "blame"
    note(blame, Run(0, 12, (3,), 2, None), 1)
    supervisor.add(program("a-0", "import os; os.abort()", blame=blame))
    death = next_death(supervisor)
    assert (death.running, death.how) == ("crops:12.4", "killed by SIGABRT")


def note(path: Path, run: Run, index: int) -> Blame:
    """Note an item as a worker does."""
    current = Current("clean", worker="clean-1", lane_names={0: "crops"}, run_key=0, run_folder=path.parent)
    blame = Blame(path, current)
    blame.note(run, index)
    return blame


def test_the_note_names_the_item_with_its_digest(tmp_path: Path) -> None:
    note(tmp_path / "blame", Run(0, 7, (), 9, None, digest=0xAB), 5)
    assert Noted(tmp_path / "blame").items == (("crops:12#ab", 1),)


def test_how_far_a_source_has_got_is_told_with_its_death(supervisor: Supervisor, tmp_path: Path) -> None:
    current = Current("crops", worker="crops-1", lane_names={}, run_key=0, run_folder=tmp_path)
    blame = Blame(tmp_path / "blame", current, (3, 5, 8))
    blame.note_reach(5, 2**40)
    blame.note_reach(3, 12)
    supervisor.add(program("a-0", "import os; os.abort()", blame=tmp_path / "blame"))
    assert next_death(supervisor).reaches == {3: 12, 5: 2**40}


def test_a_life_without_notes_is_not_taken_for_the_one_before_it(supervisor: Supervisor, tmp_path: Path) -> None:
    blame = note(tmp_path / "blame", Run(0, 12, (3,), 2, None), 1)
    blame.settled[0] = 1
    slot = supervisor.add(program("a-0", "import os; os.abort()", blame=tmp_path / "blame"))
    first = next_death(supervisor)
    supervisor.restart(slot, 0.0)
    second = next_death(supervisor)
    assert [(death.running, death.settled) for death in (first, second)] == [("crops:12.4", True), ("", False)]


def test_a_note_that_was_cut_short_tells_what_is_whole(tmp_path: Path) -> None:
    (tmp_path / "blame").write_bytes(bytes(SIZE) + (3).to_bytes(8, "little") + (12).to_bytes(8, "little") + b"\5")
    assert Noted(tmp_path / "blame").reaches == {3: 12}
    assert Noted(tmp_path / "none").reaches == {}


def test_a_call_that_has_returned_is_not_blamed(tmp_path: Path) -> None:
    note(tmp_path / "blame", Run(0, 7, (), 9, None), 5).clear()
    assert Noted(tmp_path / "blame").items == ()


def test_nothing_noted_is_an_empty_blame(tmp_path: Path) -> None:
    assert Noted(tmp_path / "none").items == ()
    (tmp_path / "empty").write_bytes(bytes(64))
    assert Noted(tmp_path / "empty").items == ()


def test_of_a_call_for_several_items_all_are_noted(tmp_path: Path) -> None:
    blame = note(tmp_path / "blame", Run(0, 7, (), 9, None), 5)
    other = Run(0, 30, (4,), 2, None, digest=0xAB)
    blame.note_all([(blame.run_at_hand, 1), (blame.run_at_hand, 2), (other, 1)])
    assert Noted(tmp_path / "blame").items == (("crops:8", 2), ("crops:30.5#ab", 1))
    blame.note_all([(other, 0)])
    assert Noted(tmp_path / "blame").items == (("crops:30.4#ab", 1),)


def test_of_very_many_items_the_first_are_noted(tmp_path: Path) -> None:
    blame = note(tmp_path / "blame", Run(0, 7, (), 1, None), 0)
    blame.note_all([(Run(0, 3 * k, (), 1, None), 0) for k in range(5000)])
    items = Noted(tmp_path / "blame").items
    assert items[:2] == (("crops:0", 1), ("crops:3", 1))
    assert 1000 < len(items) < 5000


def test_what_waits_between_two_calls_is_not_blamed(tmp_path: Path) -> None:
    blame = note(tmp_path / "blame", Run(0, 7, (), 9, None), 5)
    running = blame.pause()
    assert Noted(tmp_path / "blame").items == ()
    blame.resume(running)
    assert Noted(tmp_path / "blame").items == (("crops:12", 1),)


def test_items_that_go_again_are_noted_by_the_paths_that_they_had(tmp_path: Path) -> None:
    names = {0: Again("dead-fit", "", ["crops:30", "crops:4.2"], [0, 0])}
    current = Current("fit", worker="fit-1", lane_names=names, run_key=0, run_folder=tmp_path)
    blame, run = Blame(tmp_path / "blame", current), Run(0, 0, (), 2, None)
    for k, path in enumerate(["crops:30", "crops:4.2"]):
        blame.note(run, k)
        assert Noted(tmp_path / "blame").items == ((path, 1),)
    blame.note_all([(run, 0), (run, 1)])
    assert Noted(tmp_path / "blame").items == (("crops:30", 1), ("crops:4.2", 1))


def test_a_call_that_takes_too_long_is_ended_and_says_where(supervisor: Supervisor, tmp_path: Path) -> None:
    current = Current("clean", worker="clean-1", lane_names={0: "crops"}, run_key=0, run_folder=tmp_path)
    blame = Blame(tmp_path / "blame", current, timed=True)
    blame.note(Run(0, 7, (), 1, None), 0)
    code = "import faulthandler; faulthandler.enable()\nwhile True: pass"
    hanging = program("a-0", code, log=tmp_path / "log", blame=tmp_path / "blame")
    supervisor.add(replace(hanging, timeout_s=0.01))
    death = next_death(supervisor)
    assert (death.running, death.how) == ("crops:7", "took longer than timeout = 0.01 s")


def test_a_call_is_timed_from_its_beginning(tmp_path: Path) -> None:
    current = Current("clean", worker="clean-1", lane_names={0: "crops"}, run_key=0, run_folder=tmp_path)
    assert running_since_s(tmp_path / "blame") is None
    blame = Blame(tmp_path / "blame", current, timed=True)
    assert running_since_s(tmp_path / "blame") is None
    blame.note(Run(0, 7, (), 3, None), 0)
    first = running_since_s(tmp_path / "blame")
    blame.note(Run(0, 7, (), 3, None), 1)
    second = running_since_s(tmp_path / "blame")
    assert first is not None and second is not None and second > first
    running = blame.pause()
    assert running_since_s(tmp_path / "blame") is None
    blame.resume(running)
    assert (running_since_s(tmp_path / "blame") or 0.0) > second


def test_the_last_lines_are_those_of_the_present_life(supervisor: Supervisor, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("of an earlier life\n")
    supervisor.add(program("a-0", "print('one'); print('two'); raise SystemExit(7)", log=log))
    assert next_death(supervisor).said == "one\ntwo"


def test_a_path_longer_than_the_notes_is_cut_and_does_not_hold_up_the_supervisor(tmp_path: Path) -> None:
    current = Current("fit", worker="fit-1", lane_names={0: "crops"}, run_key=0, run_folder=tmp_path)
    Blame(tmp_path / "blame", current).note(Run(0, 9, (2**32 - 1,) * 2000, 1, None), 0)
    ((path, _),) = Noted(tmp_path / "blame").items
    assert path.startswith("crops:9.4294967295.4294967295.")


def test_the_first_restart_is_at_once_and_the_fifth_death_is_the_last() -> None:
    restarts = Restarts()
    assert [restarts.died(0) for _ in range(5)] == [0.0, 0.1, 0.2, 0.4, None]


def test_a_service_is_never_given_up_and_waits_for_30_s_at_most() -> None:
    restarts = Restarts(forever=True)
    assert [restarts.died(0) for _ in range(12)] == [
        0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0,
    ]  # fmt: skip
    assert {restarts.died(0) for _ in range(5000)} == {30.0}
    assert restarts.deaths == 5012
    assert [restarts.died(1), restarts.died(1)] == [0.0, 0.1]


def test_what_a_supervisor_starts_for_ever_is_never_given_up() -> None:
    with Supervisor(forever=True) as supervisor:
        slot = supervisor.add(program("a-0", "raise SystemExit(7)"))
        assert [slot.restarts.died(0) for _ in range(6)][-1] == 1.6


def test_progress_starts_the_count_again() -> None:
    restarts = Restarts()
    assert [restarts.died(n) for n in (0, 0, 0, 0, 3, 3, 4)] == [0.0, 0.1, 0.2, 0.4, 0.0, 0.1, 0.0]


def test_progress_that_falls_is_none() -> None:
    restarts = Restarts()
    assert [restarts.died(n) for n in (9, 2, 2)] == [0.0, 0.1, 0.2]


def test_a_status_is_told_in_words() -> None:
    assert describe_status(-signal.SIGSEGV) == "killed by SIGSEGV"
    assert describe_status(-signal.SIGRTMIN - 1) == "killed by signal 35"
    assert describe_status(3) == "exited 3"
