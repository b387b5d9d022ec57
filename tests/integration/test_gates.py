"""Gates with real processes: workers and clients outside, at the addresses of a stage, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

import zpipe as zp
from tests.integration.test_runs import balanced
from tests.real import Command, Place, lines, wait_until
from zpipe.core.limits import Limits

WORK = """
import sys, time
from pathlib import Path

def square(x):
    return x * x

def loud(x, by=1):
    if x == "ouch":
        raise ValueError("it hurts")
    return x * by

def held(x):
    Path("held").touch()
    while Path("hold").exists():
        time.sleep(0.01)
    return x

class Warm:
    def __init__(self, add=0):
        self.add = add
    def warmup(self):
        print("warm", file=sys.stderr, flush=True)
    def __call__(self, x):
        return x + self.add
    def close(self):
        Path("closed").touch()
"""


def stream(gate: str, *, count: int = 200, sink: str = "") -> str:
    """Return a pipeline of numbers that pass a stage `work` with a gate."""
    return f"""
[stage.numbers]
run = "stages:numbers"
args = {{ count = {count} }}
[stage.work]
from = "numbers"
{gate}
[stage.out]
run = "zpipe.sinks:jsonl"
from = "work"
args = {{ path = "out.jsonl" }}
{sink}
"""


CALL = "listen = { call = 0 }"
ALL = "listen = { push = 0, pull = 0, call = 0, lease_s = 0.5 }"
ENTRY = """
[stage.entry]
listen = { pull = 0, call = 0 }
[stage.out]
run = "zpipe.sinks:jsonl"
from = "entry"
args = { path = "out.jsonl" }
ordered = true
"""


@pytest.fixture
def work(place: Place) -> Place:
    """A place with a module of what workers outside do."""
    (place.folder / "work.py").write_text(WORK)
    return place


def folder_of(place: Place) -> Path:
    (found,) = (place.folder / "runs").iterdir()
    return found


def gate_of(place: Place, stage: str = "work", kind: str = "call") -> str:
    """Return where a gate of the run is, once it is there."""
    found: list[str] = []

    def is_there() -> bool:
        rows = place.ps()["workers"]
        found[:] = [w["listen"][kind] for w in rows if w["stage"] == stage and w["listen"] and w["state"] == "live"]
        return bool(found)

    wait_until(is_there)
    return found[0]


def wait_for(place: Place, n: int) -> None:
    """Wait until so many workers are at the gate."""
    wait_until(lambda: [w["counters"].get("outside") for w in place.ps()["workers"] if w["stage"] == "work"] == [n])


@contextmanager
def outside(place: Place, run: str, address: str, *argv: str) -> Iterator[Command]:
    """Have a worker outside, which ends by itself."""
    worker = place.start("worker", run, "--connect", address, *argv)
    yield worker
    assert worker.wait().code == 0


class Taker:
    """A worker of a few lines, that does only what it is told to."""

    def __init__(self, address: str, kind: int = zmq.REQ) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(kind)
        self.socket.setsockopt(zmq.RCVTIMEO, 20_000)
        self.socket.connect(address)

    def __enter__(self) -> Taker:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.destroy(linger=0)

    def ask(self, **said: Any) -> dict[str, Any]:
        return self.ask_raw(msgpack.packb({"zpipe": 1, **said}))

    def ask_raw(self, *frames: bytes) -> dict[str, Any]:
        self.socket.send_multipart(frames)
        answer: dict[str, Any] = msgpack.unpackb(self.socket.recv())
        return answer

    def take(self, n: int = 1, **said: Any) -> list[list[Any]]:
        """Return items, once there are some."""
        while not (items := self.ask(take=n, **said).get("items")):
            said = {}
        found: list[list[Any]] = items
        return found

    def work(self, call: Callable[[Any], Any], items: Sequence[list[Any]] = ()) -> None:
        """Do all that comes, until there is no more."""
        while True:
            done = [[token, call(x)] for token, x in items]
            answer = self.ask(take=3, done=done)
            if answer.get("over"):
                return
            items = answer["items"]


def end(run: Command, place: Place, want: Any) -> str:
    """Wait for the end of a run whose sink has numbers; returns the log of the gate."""
    done = run.wait()
    assert done.code == 0, done.err
    assert sorted(lines(done.folder / "out.jsonl")) == want
    balanced(done.folder)
    return log_of(place)


def log_of(place: Place, stage: str = "work") -> str:
    return (folder_of(place) / "logs" / f"{stage}-1.log").read_text()


SQUARES = sorted(x * x for x in range(200))


def test_workers_of_all_kinds_share_a_stage(work: Place) -> None:
    run = work.start("run", work.pipeline(stream(ALL.replace(", lease_s = 0.5", ""))))
    call, push = gate_of(work), gate_of(work, kind="push")
    with outside(work, "work:square", call), outside(work, "work.py:square", push), Taker(call) as taker:
        items = taker.take()
        wait_for(work, 3)
        taker.work(lambda x: x * x, items)
        end(run, work, SQUARES)


def test_a_gate_has_workers_of_its_own_and_others_may_join(work: Place) -> None:
    (work.folder / "hold").touch()
    run = work.start("run", work.pipeline(stream(f'run = "work:held"\nworkers = 2\n{CALL}')))
    address = gate_of(work)
    with Taker(address) as taker:
        items = taker.take()
        with outside(work, "work:held", address, "-n", "2"):
            wait_for(work, 5)
            (work.folder / "hold").unlink()
            taker.work(lambda x: x, items)
            end(run, work, list(range(200)))


def test_a_class_is_made_warm_and_closed(work: Place) -> None:
    run = work.start("run", work.pipeline(stream(CALL)))
    with outside(work, "work:Warm", gate_of(work), "--arg", "add=7") as worker:
        worker.says("warm")
        end(run, work, [x + 7 for x in range(200)])
    assert (work.folder / "closed").exists()


def test_a_worker_that_is_killed_loses_nothing(work: Place) -> None:
    run = work.start("run", work.pipeline(stream(ALL)))
    address = gate_of(work)
    (work.folder / "hold").touch()
    killed = work.start("worker", "work:held", "--connect", address)
    wait_until((work.folder / "held").exists)
    killed.process.kill()
    killed.wait()
    (work.folder / "hold").unlink()
    with outside(work, "work:square", address):
        log = end(run, work, SQUARES)
    assert "says nothing: it is given to others" in log


def test_a_gate_that_is_killed_is_back_at_its_address_and_loses_nothing(work: Place) -> None:
    run = work.start("run", work.pipeline(stream(CALL)))
    address = gate_of(work)
    with Taker(address) as taker:
        items = taker.take(3)
        (pid,) = (w["pid"] for w in work.ps()["workers"] if w["stage"] == "work")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: [w["pid"] for w in work.ps()["workers"] if w["stage"] == "work"] not in ([], [pid]))
        assert gate_of(work) == address
        refused = taker.ask(done=[[token, "of the life before"] for token, _ in items])["refused"]
        assert [why for _, why in refused] == ["this token was not given out"] * len(items)
        taker.work(lambda x: x * x)
        end(run, work, SQUARES)


def test_a_worker_of_its_own_that_dies_of_an_item_is_started_anew_and_the_item_given_up(work: Place) -> None:
    (work.folder / "work.py").write_text("import os\ndef f(x):\n    return os._exit(3) if x == 5 else x\n")
    gate = f'run = "work:f"\nretries = 1\non_error = "skip"\n{CALL}'
    run = work.start("run", work.pipeline(stream(gate)))
    log = end(run, work, [x for x in range(200) if x != 5])
    assert "its worker work#1 exited 3 and is started anew" in log
    assert "stage 'work' at numbers:5: 2 leases of 5 s ran out without a result: skipped" in log


def test_an_item_that_fails_is_tried_again_and_becomes_a_dead_letter(work: Place) -> None:
    run = work.start("run", work.pipeline(stream(f'retries = 2\non_error = "dead-letter"\n{CALL}', count=3)))
    with Taker(gate_of(work)) as taker:
        tries = 0
        items = taker.take(3)
        while items:
            failed = [[token, "no luck"] for token, x in items if x == 1]
            tries += len(failed)
            answer = taker.ask(take=1, failed=failed, done=[[token, x] for token, x in items if x != 1])
            items = answer.get("items") or ([] if answer.get("over") else taker.take()) if tries < 3 else []
        assert tries == 3
        done = run.wait()
    assert done.code == 3, done.err
    assert "work: numbers:1 is a dead letter: no luck" in done.err
    assert sorted(lines(done.folder / "out.jsonl")) == [0, 2]


def test_results_go_to_named_outputs_and_nothing_drops_an_item(work: Place) -> None:
    text = stream(CALL, count=30).replace('from = "work"', 'from = ["work.odd", "work.even"]')
    run = work.start("run", work.pipeline(text))
    with Taker(gate_of(work)) as taker:
        said: dict[str, Any] = {}
        while not (answer := taker.ask(take=5, **said)).get("over"):
            named = [[token, x, ("even", "odd")[x % 2]] if x else [token, None] for token, x in answer["items"]]
            said = {"done": named}
        end(run, work, list(range(1, 30)))


@pytest.mark.parametrize(
    ("frames", "rule"),
    [
        ([b"\xc1"], "body is not msgpack of an item"),
        ([b""], "body is not msgpack of an item"),
        ([msgpack.packb(7)], "a message is a map"),
        ([msgpack.packb({"take": 1})], "zpipe is None: this is version 1 of the protocol"),
        ([msgpack.packb({"zpipe": 2, "take": 1})], "zpipe is 2: this is version 1 of the protocol"),
        ([msgpack.packb({"zpipe": 1, "take": -1})], "take is -1: it is how many items are wanted"),
        ([msgpack.packb({"zpipe": 1, "done": [["t"]]})], "done is a list of [token, item]"),
        ([msgpack.packb({"zpipe": 1, "put": [["a", 1]]})], "stage 'work' has its items from other stages"),
        ([msgpack.packb({"zpipe": 1, "take": 1, "call": [["a", 1]]})], "a message takes items or calls, not both"),
        ([msgpack.packb({"zpipe": 1, "stage": "other"})], "this is the gate of stage 'work', not of 'other'"),
        (
            [msgpack.packb({"zpipe": 1, "done": [["t", {"nd": True, "type": "<f4", "kind": "", "shape": [2],
                                                        "data": b"123"}]]})],
            "array",
        ),
        ([msgpack.packb({"zpipe": 1, "done": [["t", msgpack.ExtType(78, b"\0\0\0\3")]]})], "raw buffer"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_the_rule_and_the_gate_goes_on(work: Place, frames: list[bytes], rule: str) -> None:
    run = work.start("run", work.pipeline(stream(CALL, count=5)))
    with Taker(gate_of(work)) as taker:
        assert rule in taker.ask_raw(*frames)["error"]
        taker.work(lambda x: x * x)
        log = end(run, work, [0, 1, 4, 9, 16])
    assert "refused what 127.0.0.1 says: " in log and rule in log


def test_tokens_that_are_good_for_nothing_are_refused_and_say_why(work: Place) -> None:
    run = work.start("run", work.pipeline(stream("listen = { call = 0, lease_s = 0.2 }", count=3)))
    with Taker(gate_of(work)) as taker:
        ((token, x),) = taker.take(name="me")
        assert taker.ask(done=[[token, x], ["made-up", 1]])["refused"] == [["made-up", "this token was not given out"]]
        assert taker.ask(done=[[token, x]])["refused"] == [[token, "it was used before"]]
        ((late, y),) = taker.take()
        (again,) = taker.take(3)[1:] or [["", 0]]
        while again[1] != y:  # the lease of the first runs out
            (again,) = [entry for entry in taker.take(3) if entry[1] == y] or [["", 0]]
        assert taker.ask(failed=[[late, "too late"]])["refused"][0][1].startswith("its lease of 0.2 s ran out")
        assert "refused" not in taker.ask(done=[[late, y]]), "the first result counts"
        assert "another has done the item" in taker.ask(done=[[again[0], y]])["refused"][0][1]
        taker.work(lambda x: x)
        log = end(run, work, [0, 1, 2])
    assert "refused what me at 127.0.0.1 says: token 'made-up': this token was not given out" in log


def test_a_lease_lasts_on_while_the_worker_says_that_it_is_busy(work: Place) -> None:
    run = work.start("run", work.pipeline(stream("listen = { call = 0, lease_s = 2.0 }", count=1)))
    with Taker(gate_of(work)) as taker, Taker(gate_of(work)) as other:
        ((token, x),) = taker.take()
        for _ in range(3):  # each waits for a second, and all for longer than a lease
            other.socket.send(msgpack.packb({"zpipe": 1, "take": 1}))
            while not other.socket.poll(100):
                assert "refused" not in taker.ask(busy=[token])
            assert msgpack.unpackb(other.socket.recv())["items"] == []
        taker.ask(done=[[token, x]])
        taker.work(lambda x: x)
        end(run, work, [0])


def test_calls_are_answered_to_whoever_has_made_them(work: Place) -> None:
    text = (
        ENTRY.replace('from = "entry"', 'from = "work"') + f'[stage.work]\nfrom = "entry"\nrun = "work:loud"\n{CALL}\n'
    )
    run = work.start("run", work.pipeline(text.replace("ordered = true", "")))
    with zp.client(gate_of(work)) as client:
        stage = client.stage("work")
        assert stage.pipe(4).result == 4
        assert stage.pipe(stage.pipe([1, "two", None, 2.5])).result == [1, "two", None, 2.5]
        futures = [stage.submit(k) for k in range(300)]
        assert [future.result(60) for future in futures] == list(range(300))
        with pytest.raises(zp.CallError, match="stage 'work': raised ValueError: it hurts"):
            _ = stage.pipe("ouch").result
        with pytest.raises(zp.CallError, match="not of 'other'"):
            client.stage("other")
    assert zp.push(gate_of(work, "entry"), range(5), end=True) == 5
    end(run, work, [0, 1, 2, 3, 4])


def test_calls_and_puts_from_the_shell(work: Place) -> None:
    text = ENTRY.replace('from = "entry"', 'from = "work"').replace("ordered = true", "")
    text += f'[stage.work]\nfrom = "entry"\nrun = "work:loud"\nargs = {{ by = 2 }}\n{CALL}\n'
    text += '[stage.tell]\nfrom = "work"\nlisten = { call = 0 }\n'
    run = work.start("run", work.pipeline(text))
    gate_of(work), gate_of(work, "tell"), gate_of(work, "entry")
    called = work.run("call", "work", "3", "word", '{"a": 1}')
    assert (called.code, called.out.split()) == (1, ["6", '"wordword"'])
    assert "item 3: stage 'work': raised TypeError" in called.err
    (work.folder / "more.jsonl").write_text("1\n\n2\n[3]\n")
    assert "3 items put" in work.run("push", "entry", "more.jsonl", "--name", "more").err
    pulled = work.run("pull", "tell", "-n", "2")
    assert (pulled.code, sorted(map(json.loads, pulled.out.split()))) == (0, [2, 4])
    assert work.run("push", "entry", "more.jsonl", "--name", "more", "--end").code == 0
    assert json.loads(work.run("pull", "tell").out) == [3, 3]
    assert run.wait().code == 0
    assert sorted(map(str, lines(folder_of(work) / "out.jsonl"))) == ["2", "4", "[3, 3]"]


def test_what_was_acknowledged_is_there_after_everything_was_killed(work: Place) -> None:
    run = work.start("run", work.pipeline(ENTRY))
    assert zp.push(gate_of(work, "entry"), range(50), name="mine") == 50
    for process in work.processes():
        process.kill()
    run.wait()
    run = work.start("run", "t.toml", "--resume")
    assert zp.push(gate_of(work, "entry"), range(60), name="mine", end=True) == 60
    done = run.wait()
    assert done.code == 0, done.err
    assert lines(folder_of(work) / "out.jsonl") == list(range(60))


def test_bare_items_are_taken_in_and_nonsense_is_not(work: Place) -> None:
    run = work.start("run", work.pipeline(ENTRY))
    with Taker(gate_of(work, "entry", "pull"), zmq.PUSH) as bare, Taker(gate_of(work, "entry")) as taker:
        for frame in (msgpack.packb("a"), b"\xc1", msgpack.packb({"b": 1}), msgpack.packb({"zpipe": 9})):
            bare.socket.send(frame)
        wait_until(
            lambda: [row["counters"].get("refused") for row in work.ps()["workers"] if row["stage"] == "entry"] == [2]
        )
        assert taker.ask(put=[["x", 1], ["y", 2]], tag="t")["stored"] == ["x", "y"]
        assert taker.ask(put=[["x", 1], ["z", 3]])["stored"] == ["x", "z"]
        assert "items are put here, not taken" in taker.ask(take=1)["error"]
        assert taker.ask(end=True) == {"zpipe": 1}
        assert "was told that nothing more comes" in taker.ask(put=[["w", 1]])["error"]
        done = run.wait()
    assert done.code == 0, done.err
    assert lines(folder_of(work) / "out.jsonl") == ["a", {"b": 1}, 1, 2, 3]


def test_a_port_that_is_taken_and_a_host_that_is_not_ours_are_said(work: Place) -> None:
    with zmq.Context() as context, context.socket(zmq.REP) as other:
        port = other.bind_to_random_port("tcp://127.0.0.1")
        done = work.run("run", work.pipeline(stream(f"listen = {{ call = {port} }}")))
    assert done.code == 1
    assert f"stage 'work' cannot listen for call: tcp://127.0.0.1:{port} is in use" in done.err
    done = work.run("run", work.pipeline(stream('listen = { call = 0, host = "0.0.0.0" }')), "--runs", "others")
    assert done.code == 1
    assert "is not of this machine alone, and there are no keys" in done.err


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("listen = { }", "listen must be a table of ports"),
        ("listen = { call = 70000 }", "listen has 70000 for call: it is a port"),
        ("listen = { push = 1 }", "listen has push, where work goes out, without pull"),
        ("listen = { push = 7, pull = 7 }", "listen has one port for two of its addresses"),
        ("listen = { cal = 7, call = 8 }", "listen has 'cal', which is none of"),
        ("listen = { call = 0, lease_s = 0 }", "listen has 0 for lease_s"),
        (f"{CALL}\nworkers = 2", "so it cannot have workers: others are launched at its address"),
        (f"{CALL}\nordered = true", "has listen, so it cannot have ordered"),
        (f'{CALL}\nrun = "zpipe.stages:batch"\nargs = {{ size = 2 }}', "is to make one output of one item"),
    ],
)
def test_a_gate_that_cannot_be_is_found_by_check(work: Place, stage: str, said: str) -> None:
    done = work.run("check", work.pipeline(stream(stage)))
    assert (done.code, said in done.err) == (2, True), done.err


def test_who_connects_to_nothing_says_so(work: Place) -> None:
    done = work.run("worker", "work:nothing", "--connect", "tcp://127.0.0.1:1")
    assert (done.code, "work has no 'nothing'" in done.err) == (2, True), done.err
    done = work.run("worker", "work", "--connect", "tcp://127.0.0.1:1")
    assert (done.code, "is no callable" in done.err) == (2, True), done.err


def test_what_was_put_is_there_after_an_interruption_too(work: Place) -> None:
    """More than a source makes before its first ack, so that some of it waits in the journal when the source stops."""
    count = 2 * Limits().source_items
    text = ENTRY.replace('from = "entry"', 'from = "slow"').replace("ordered = true", "")
    run = work.start("run", work.pipeline(f'{text}[stage.slow]\nfrom = "entry"\n{CALL}\n'))
    zp.push(gate_of(work, "entry"), range(count), name="mine")
    with Taker(gate_of(work, "slow")) as taker:
        items = taker.take()
        run.interrupt()
        run.says("again to stop now")
        with pytest.raises(zp.CallError, match="stops: put it again when the run was resumed"):
            zp.push(gate_of(work, "entry"), [1], name="more")
        taker.work(lambda x: x, items)
    assert run.wait().code == 130
    assert 0 < len(lines(folder_of(work) / "out.jsonl")) < count
    run = work.start("run", "t.toml", "--resume")
    with outside(work, "work:loud", gate_of(work, "slow")):
        assert zp.push(gate_of(work, "entry"), [], end=True) == 0
        done = run.wait()
    assert done.code == 0, done.err
    assert sorted(lines(folder_of(work) / "out.jsonl")) == list(range(count))


def test_what_is_put_again_behind_the_end_was_stored(work: Place) -> None:
    text = ENTRY + f'[stage.slow]\nfrom = "entry"\n{CALL}\n'
    run = work.start("run", work.pipeline(text))
    texts = ["x" * 300_000] * 5
    for _ in range(2):
        assert zp.push(gate_of(work, "entry"), texts, name="mine", end=True) == 5
    with pytest.raises(zp.CallError, match="was told that nothing more comes"):
        zp.push(gate_of(work, "entry"), texts, name="other")
    with outside(work, "work:loud", gate_of(work, "slow")):
        assert run.wait().code == 0
    assert lines(folder_of(work) / "out.jsonl") == texts


def test_a_call_that_is_open_at_the_end_is_answered(work: Place) -> None:
    run = work.start("run", work.pipeline(stream(CALL, count=1)))
    with Taker(gate_of(work)) as taker, zp.client(gate_of(work)) as client:
        ((token, x),) = taker.take()
        call = client.stage("work").submit(7)
        ((_, seven),) = taker.take()
        assert seven == 7
        taker.ask(done=[[token, x]])
        with pytest.raises(zp.CallError, match="the run has ended"):
            call.result(60)
        end(run, work, [0])


def test_workers_of_its_own_that_cannot_start_end_the_run(work: Place) -> None:
    bad = "class Bad:\n    def __init__(self):\n        raise OSError('no model')\n"
    bad += "    def __call__(self, x):\n        pass\n"
    (work.folder / "work.py").write_text(bad)
    done = work.run("run", work.pipeline(stream(f'run = "work:Bad"\n{CALL}')))
    assert done.code == 1
    assert "stage 'work': its worker work#1 exited 1 before it asked for an item" in done.err
    assert "no model" in log_of(work)


def test_a_slow_reader_of_a_sink_keeps_what_it_reads(work: Place) -> None:
    text = ENTRY.replace("ordered = true", "") + '[stage.tell]\nfrom = "entry"\nlisten = { call = 0, lease_s = 2.0 }\n'
    run = work.start("run", work.pipeline(text))
    zp.push(gate_of(work, "entry"), [7], end=True)
    items = zp.pull(gate_of(work, "tell"))
    assert next(items) == 7
    with Taker(gate_of(work, "tell")) as other:
        for _ in range(3):  # each for a second, and all for longer than a lease
            assert other.ask(take=1)["items"] == []
    assert list(items) == []
    assert run.wait().code == 0


def test_a_gate_with_those_who_pull_says_goodbye(work: Place) -> None:
    run = work.start("run", work.pipeline(stream(ALL)))
    with outside(work, "work:square", gate_of(work)):
        log = end(run, work, SQUARES)
    assert "Traceback" not in log
    report = json.loads((folder_of(work) / "report.json").read_text())
    assert [row["done"] for row in report["stages"] if row["name"] == "work"] == [200]
