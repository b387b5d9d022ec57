"""What is wrong is said in one clear line that names the thing, the rule and the way out.

The exit code is not 0, the traceback is the user's own, and nothing is left running (the fixture looks).
"""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

import zpipe
from tests.integration.test_runs import chain
from tests.real import Bell, Done, Place, wait_until
from zpipe.processes.client import Client
from zpipe.transport import sockets
from zpipe.values.errors import RegistryError
from zpipe.wire import control as wire

OURS = str(Path(zpipe.__file__).parent)
FAULTS = {  # found before anything starts
    "a cycle": (
        '[stage.a]\nrun = "stages:double"\nfrom = ["numbers", "b"]\n'
        '[stage.b]\nrun = "stages:double"\nfrom = "a"\n[stage.numbers]\nrun = "stages:numbers"\n',
        "t.toml:5: stages form a cycle, a -> b -> a: items only go forward, so cut one `from`",
    ),
    "a stage that is not there": (
        chain("numbers", "double").replace('from = "numbers"', 'from = "nubmers"'),
        "stage 'double' reads 'nubmers', but there is no such stage: did you mean 'numbers'?",
    ),
    "an option that is not there": (
        chain("numbers", "double", double="wokers = 2"),
        "stage 'double': there is no option 'wokers': did you mean 'workers'?",
    ),
    "an output that a group cannot have": (
        chain("numbers", "batch", "double", batch="args = { size = 2 }").replace('"batch"', '"batch.spam"'),
        "stage 'double' reads 'batch.spam', but zpipe.stages:batch has no named outputs: read 'batch'",
    ),
    "a module that is not there": (
        chain("numbers", "double").replace("stages:double", "stagse:double"),
        "or installed: did you mean 'stages'?",
    ),
    "a name that is not there": (
        chain("numbers", "double").replace("stages:double", "stages:duoble"),
        "stage 'double': stages has no 'duoble': did you mean 'double'?",
    ),
    "a callable that wants two items": (
        chain("numbers", "two"),
        "stage 'two' (stages:two) needs an argument 'y': give it in args",
    ),
    "a callable that takes no item": (
        chain("numbers", "slowly", slowly="").replace("stages:slowly", "stages:nothing"),
        "takes no item, but reads 'numbers': give it a first parameter for the item",
    ),
    "a bad name": (
        chain("numbers", "double").replace("[stage.double]", "[stage.Double_2]"),
        "stage 'Double_2' has a bad name: use a-z, 0-9 and -, a letter first",
    ),
    "two stages of one name": (
        chain("numbers", "double") + '[stage.double]\nrun = "stages:double"\nfrom = "numbers"\n',
        "is not TOML: cannot declare ('stage', 'double') twice",
    ),
    "a grouping stage with two workers": (
        chain("numbers", "batch", batch="args = { size = 3 }\nworkers = 2"),
        "stage 'batch' groups items in source order, so it has one worker, not 2: set workers = 1",
    ),
}
FAILURES = {  # found while it runs; with the user's own traceback or without any
    "a stage that raises": (
        chain("numbers", "fails", "out"),
        "return 10 / (x - 3)",
        "stage 'fails' at numbers:3 raised ZeroDivisionError: division by zero",
    ),
    "a stage that raises further down": (
        chain("numbers", "deep", "out"),
        'raise KeyError(f"no {x}")',
        "stage 'deep' at numbers:0 raised KeyError: 'no 0'",
    ),
    "a source that raises": (
        chain("bad_source", "out"),
        'raise ValueError("no more")',
        "stage 'bad-source' at bad-source:3 raised ValueError: no more",
    ),
    "a sink that raises": (
        chain("numbers", "BadCommit"),
        'raise ValueError("disk full")',
        "stage 'badcommit' at numbers:0 raised ValueError: disk full",
    ),
    "a class that raises as it is made": (
        chain("numbers", "BadInit", "out"),
        'raise ValueError("no such model")',
        "stage 'badinit' raised ValueError in __init__: no such model",
    ),
    "a class that raises as it warms up": (
        chain("numbers", "BadWarmup", "out"),
        'raise ValueError("the model does not answer")',
        "stage 'badwarmup' raised ValueError in warmup: the model does not answer",
    ),
    "a class that raises at the end": (
        chain("numbers", "BadFinish", "out"),
        'raise ValueError("no end")',
        "stage 'badfinish' raised ValueError in finish: no end",
    ),
    "a class whose state cannot be encoded": (
        chain("numbers", "SetState", "out"),
        "",
        "stage 'setstate' failed in state: state is a set: a state may hold None, bool, int",
    ),
    "a stage that ends its process": (
        chain("numbers", "exits", "out"),
        "",
        "stage 'exits' at numbers:3: its worker died 4 times while running it, the last time: exited 7: mend",
    ),
    "an item that holds a set": (
        chain("numbers", "a_set", "out"),
        "",
        "stage 'a-set' at numbers:0: item['values'][1] is a set: an item may hold None, bool, int",
    ),
    "an item that holds an array of objects": (
        chain("numbers", "objects", "out"),
        "",
        "stage 'objects' at numbers:0: item['values'] is a numpy array of dtype object: an item may hold",
    ),
    "an item that holds an open file": (
        chain("numbers", "open_file", "out"),
        "",
        "stage 'open-file' at numbers:0: item[1] is a _io.TextIOWrapper: an item may hold",
    ),
    "an item past the limit of a frame": (
        chain("numbers", "too_long", "double"),
        "",
        "stage 'too-long' at numbers:0: item takes 70000005 bytes of msgpack, more than 67108864: use numpy arrays",
    ),
    "a source that dies and cannot go back": (
        chain("dying_source", "out", dying_source='replay = "no"'),
        "",
        "stage 'dying-source': worker dying-source-1 was lost (killed by SIGKILL) and with "
        'replay = "no" it cannot make its items again: make it repeatable and use "skip"',
    ),
    "a class that dies with what it had accumulated": (
        chain("numbers", "Forgetful", "out"),
        "",
        "stage 'forgetful': worker forgetful-1 was lost (killed by SIGKILL while running numbers:5) "
        "with what it had accumulated: give its class state() and restore(state)",
    ),
}


def check_one_line(done: Done, code: int, line: str) -> None:
    assert done.code == code, done.err
    assert len(done.faults) == 1, done.err
    assert line in done.faults[0]
    assert OURS not in done.err
    assert done.err.splitlines()[-1] == f"zpipe: {done.faults[0]}"


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_one_line_and_nothing_starts(place: Place, what: str) -> None:
    stages, line = FAULTS[what]
    check_one_line(place.run("run", place.pipeline(stages)), 2, line)
    assert not (place.folder / "runs").exists()


@pytest.mark.parametrize("what", FAILURES)
def test_a_failure_is_one_line_below_the_users_own_traceback(place: Place, what: str) -> None:
    stages, cause, line = FAILURES[what]
    done = place.run("run", place.pipeline(stages))
    check_one_line(done, 1, line)
    assert ("Traceback" in done.err) == bool(cause)
    assert cause in done.err
    report = json.loads(next((place.folder / "runs").glob("*/report.json")).read_text())
    assert (report["state"], report["ok"]) == ("failed", False)
    assert report["error"] == done.faults[0]


@pytest.mark.parametrize("what", ["a stage that raises", "an item that holds a set", "a sink that raises"])
def test_inline_says_the_same(place: Place, what: str) -> None:
    stages, cause, line = FAILURES[what]
    done = place.run("run", place.pipeline(stages), "--inline")
    check_one_line(done, 1, line)
    assert cause in done.err


@pytest.mark.parametrize(
    ("sinks", "line"),
    [
        ("zp.stage(lambda x: x, name='show')(x)", "a lambda of p.py has no name to import in a worker: write"),
        ("zp.stage(make())(x)", "'inner' of p.py sits inside a function, where no worker can import it: move"),
        ("zp.stage(show)(x), zp.stage(show)(x)", "2 stages have the name 'show': give each its own"),
    ],
)
def test_what_no_worker_can_import_or_name_is_one_line(place: Place, sinks: str, line: str) -> None:
    (place.folder / "p.py").write_text(
        "import zpipe as zp\n"
        "from stages import numbers\n"
        "def show(x): print(x)\n"
        "def make():\n"
        "    def inner(x): return x\n"
        "    return inner\n"
        "def pipeline():\n"
        "    x = zp.stage(numbers)\n"
        f"    return zp.Pipeline('t', {sinks})\n"
    )
    check_one_line(place.run("run", "p.py"), 2, line)


def test_run_without_a_main_guard_is_one_line(place: Place) -> None:
    (place.folder / "p.py").write_text(
        "import zpipe as zp\n"
        "def count():\n"
        "    yield 1\n"
        "def show(x):\n"
        "    print(x)\n"
        "zp.Pipeline('t', zp.stage(show)(zp.stage(count))).run()\n"
    )
    done = place.start_python("p.py").wait()
    assert done.code != 0
    assert done.err.count('put it below `if __name__ == "__main__":`') == 1


def test_a_registry_at_a_port_in_use_is_one_line(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        done = place.run("registry", place.pipeline(chain("numbers", "out")), "--bind", address)
    check_one_line(
        done, 1, f"the registry did not start: {address} is in use: stop what holds it, or bind another port"
    )


def test_a_registry_that_is_not_there_is_one_line(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    done = place.run("worker", "double", "--registry", address)
    check_one_line(done, 1, f"no registry answers at {address} within 5 s: start one with `zpipe registry`")


def test_a_worker_of_another_version_is_refused_in_one_line(place: Place) -> None:
    registry = place.start("registry", place.pipeline(chain("numbers", "out")))
    address = registry.says("registry tcp://").split()[2].rstrip(",")
    hello = {"t": "HELLO", "inc": 7, "stage": "out", "slot": None, "pid": 1, "host": "h", "proto": [9, 0]}
    with Client(address) as client, pytest.raises(RegistryError) as refused:
        client.request(hello, 20.0)
    registry.interrupt()
    registry.says("again to stop now")
    registry.interrupt()
    assert registry.wait().code == 130
    assert refused.value.code == 426
    assert "\n" not in str(refused.value)
    assert "speaks protocol 1.0 and the worker 9.0: use the same version" in str(refused.value)


def test_a_registry_of_another_version_is_one_line(place: Place) -> None:
    """A registry that refuses every HELLO for its version, as one of a later release does."""
    context = sockets.context()
    router, address = sockets.router(context, "tcp://127.0.0.1:0")
    text = "this registry speaks protocol 9: install the same zpipe on both sides"
    worker = place.start("worker", "double", "--registry", address)
    poller = sockets.Poller()
    poller.register(router, sockets.IN)
    try:
        while not worker.ends_within(0):
            poller.poll(100)
            while (frames := sockets.receive(router)) is not None:
                asked = wire.decode(frames[1])
                answer = {"t": "TABLE", "stages": [], "workers": [], "state": "running", "name": "t"}
                if asked["t"] == "HELLO":
                    answer = {"t": "ERR", "code": 426, "text": text}
                sockets.answer(router, bytes(frames[0]), wire.encode({**answer, "rid": asked["rid"]}))
    finally:
        sockets.end(context)
    done = worker.wait()
    assert done.code == 1
    assert [line for line in done.err.splitlines() if text in line] == [f"zpipe: {text}"]
    assert OURS not in done.err


def test_a_call_that_never_returns_is_named_by_ps_and_ended_by_the_second_ctrl_c(place: Place) -> None:
    bell = Bell(place.folder / "bell")
    run = place.start("run", place.pipeline(chain("numbers", "stuck", "out", stuck='args = { bell = "bell" }')))
    bell.wait()
    seen: list[dict[str, object]] = []

    def is_shown() -> bool:
        seen[:] = [w["running"] for w in place.ps()["workers"] if w["worker"] == "stuck-1" and w["running"]]
        return bool(seen) and seen[0]["path"] == "numbers:3"

    wait_until(is_shown)
    run.interrupt()
    run.says("again to stop now")
    run.interrupt()
    done = run.wait()
    assert float(str(seen[0]["age_s"])) > 0
    assert done.code == 130, done.err
    assert OURS not in done.err
