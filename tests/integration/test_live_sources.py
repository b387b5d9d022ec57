"""Sources that wait for their next item: what they have made arrives, and everybody else goes on meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

from tests.integration.test_ending import process_of
from tests.real import Bell, Command, Place, lines, wait_until

STAGES = """
import os
from pathlib import Path
import numpy as np
import zpipe as zp
from stages import ring

def numbers(count=10, start=0):
    '''As many at once, and then what comes out of a pipe, which must be opened at its other end first.'''
    yield from range(start, count)
    with open("more") as more:
        yield from map(int, more)

def halves(count=10, start=0):
    '''Two partitions, of which the second waits at its end.'''
    part = zp.item().partition
    for k in range(start, count):
        yield 2 * k + part
    if part:
        yield from numbers(0)

def forks(count=10, start=0):
    '''Each in a process of its own, and that while somebody stands in for this one.'''
    for k in range(start, count):
        arrays = [zp.empty(100_000) for _ in range(20)]
        pid = os.fork()
        if pid == 0:
            os._exit(int(zp.empty(100_000).size != arrays[0].size) or k)
        arrays[0][:] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        yield arrays[0]
    yield from map(np.array, numbers(0))

def last(array):
    return int(array.flat[-1])

def held(x, bell, at):
    '''Stand at one item until there is a file `load`.'''
    if x == at and not Path("load").exists():
        ring(bell)
        open("never").close()
    return x
"""


def start(place: Place, stages: str) -> tuple[Command, Path]:
    """Start a run of these stages and a sink; return it and the file of the sink."""
    for pipe in ("more", "never"):
        os.mkfifo(place.folder / pipe)
    (place.folder / "live.py").write_text(STAGES)
    above = stages.rpartition("[stage.")[2].partition("]")[0]
    sink = f'[stage.out]\nrun = "zpipe.sinks:jsonl"\nfrom = "{above}"\nargs = {{ path = "out.jsonl" }}\n'
    run = place.start("run", place.pipeline(stages + sink))
    return run, Path(run.says("registry tcp://").rpartition("run folder ")[2]) / "out.jsonl"


def arrived(file: Path) -> list[int]:
    """Return what is there in whole lines, sorted."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return sorted(map(int, text.rpartition("\n")[0].splitlines()))


def give(place: Place, *numbers: int) -> None:
    """Let these come, and the end behind them."""
    with open(place.folder / "more", "w", encoding="utf-8") as more:
        more.writelines(f"{number}\n" for number in numbers)


def test_a_burst_arrives_while_the_source_waits_for_more(place: Place) -> None:
    run, out = start(place, '[stage.numbers]\nrun = "live:numbers"\nreplay = "seek"\n')
    wait_until(lambda: arrived(out) == list(range(10)))
    give(place, 10, 11)
    assert run.wait().code == 0
    assert lines(out) == list(range(12))


def test_what_a_killed_worker_had_is_sent_again_while_the_source_waits(place: Place) -> None:
    bell = Bell(place.folder / "bell")
    run, out = start(
        place,
        '[stage.numbers]\nrun = "live:numbers"\nreplay = "seek"\n'
        '[stage.held]\nrun = "live:held"\nfrom = "numbers"\nargs = { bell = "bell", at = 3 }\n',
    )
    bell.wait()
    (place.folder / "load").touch()
    process_of(place, "held").kill()
    wait_until(lambda: arrived(out) == list(range(10)))
    give(place)
    assert run.wait().code == 0
    assert arrived(out) == list(range(10))


def test_down_ends_a_run_whose_source_waits(place: Place) -> None:
    run, out = start(place, '[stage.numbers]\nrun = "live:numbers"\nreplay = "seek"\n')
    wait_until(lambda: arrived(out) == list(range(10)))
    assert place.run("down").code == 0
    assert run.wait().code == 130
    assert lines(out) == list(range(10))
    left = [event for event in lines(out.parent / "events.jsonl") if event["kind"] == "left"]
    assert {event["worker"]: event["data"]["status"] for event in left} == {"numbers-1": 0, "out-1": 0}


def test_down_ends_all_partitions_of_a_worker_that_waits_in_one(place: Place) -> None:
    run, out = start(place, '[stage.halves]\nrun = "live:halves"\nreplay = "seek"\npartitions = 2\n')
    odd = list(range(1, 20, 2))
    wait_until(lambda: [x for x in arrived(out) if x % 2] == odd)
    assert place.run("down").code == 0
    assert run.wait().code == 130
    found = arrived(out)  # the even ones as far as they were made when the other partition began to wait
    assert found == sorted(odd + list(range(0, 2 * (len(found) - 10), 2)))


def test_a_source_that_waits_may_have_forked_and_asked_for_arrays(place: Place) -> None:
    run, out = start(
        place,
        '[stage.forks]\nrun = "live:forks"\nreplay = "seek"\n[stage.last]\nrun = "live:last"\nfrom = "forks"\n',
    )
    wait_until(lambda: arrived(out) == list(range(10)))
    give(place, 10)
    assert run.wait().code == 0
    assert lines(out) == list(range(11))
