"""Runs with keys, by the commands: every way in works with one, and without one there is a line and no way in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_ending import flowing
from tests.real import Command, Done, Place, lines, wait_until

OTHER_HOST = "tcp://192.0.2.77:5570"  # of a network that is nobody's: RFC 5737


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Place]:
    """Another user's folder, who has the same stages and knows nothing of the runs of `place`."""
    with Place(tmp_path) as other:
        other.env["HOME"] = str(other.runtime)
        yield other


class Guarded:
    """A run with keys on loopback, and the keys `mate` and `stray`, of which only the first is of this registry."""

    def __init__(self, place: Place) -> None:
        self.folder = place.folder / "keys"
        for folder, name in ((self.folder, "mate"), (place.folder / "other", "stray")):
            assert place.run("keys", "--keys", str(folder), "add", name).code == 0
        self.mate, self.stray = self.folder / "mate.key", place.folder / "other" / "stray.key"
        self.run: Command = flowing(place, "--keys", str(self.folder), "--transport", "tcp")
        self.address = self.run.says("registry tcp://").split()[2].rstrip(",")

    def end(self) -> Done:
        self.run.interrupt()
        done = self.run.wait()
        assert done.code == 130, done.err
        return done


@pytest.fixture
def guarded(place: Place) -> Guarded:
    return Guarded(place)


def refused(done: Done, *words: str, code: int = 1) -> None:
    """See that a command has ended with one line."""
    assert done.code == code, done.err
    (line,) = done.faults
    for word in words:
        assert word in line, line


def test_keys_are_made_listed_and_revoked(place: Place) -> None:
    keys = ("keys", "--keys", "mine")
    made = place.run(*keys)
    assert made.out.splitlines()[0].startswith("registry: made ")
    added = place.run(*keys, "add", "gpu-2", "gpu-3")
    assert [line.split(":")[0] for line in added.out.splitlines()] == ["gpu-2", "gpu-3"]
    assert [line.split()[0] for line in place.run(*keys).out.splitlines()] == ["registry", "gpu-2", "gpu-3"]
    assert place.run(*keys, "revoke", "gpu-2").out == "gpu-2: is admitted no longer\n"
    assert [line.split()[0] for line in place.run(*keys).out.splitlines()] == ["registry", "gpu-3"]
    refused(place.run(*keys, "revoke", "gpu-2"), "no key 'gpu-2' is admitted", "there are gpu-3", code=2)


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_the_gates_of_a_run_with_keys_take_them_from_all_but_their_own_workers(place: Place, host: str) -> None:
    assert place.run("keys", "--keys", "mine", "add", "mate").code == 0
    assert place.run("keys", "--keys", "other", "add", "stray").code == 0
    stages = (
        "[stage.numbers]\nlisten = { call = 0 }\n"
        f'[stage.double]\nrun = "stages:double"\nfrom = "numbers"\nlisten = {{ call = 0, host = "{host}" }}\n'
        '[stage.lines]\nrun = "zpipe.sinks:jsonl"\nfrom = "double"\nargs = { path = "out.jsonl" }\n'
    )
    run = place.start("run", place.pipeline(stages), "--keys", "mine")
    wait_until(lambda: [row["state"] for row in place.ps()["workers"]] == ["live"] * 3)
    (listen,) = (row["listen"] for row in place.ps()["workers"] if row["stage"] == "double")
    gate = listen["call"].replace("0.0.0.0", "127.0.0.1")
    assert place.run("call", "double", "21").out == "42\n"
    assert place.run("call", "double", "21", "--connect", gate, "--keys", "mine/mate.key").out == "42\n"
    refused(place.run("call", "double", "21", "--connect", gate, "--keys", "other/stray.key"), "nobody answers")
    refused(place.run("call", "double", "21", "--connect", gate), "nobody answers", "with keys")
    (place.folder / "items.jsonl").write_text("1\n2\n")
    assert place.run("push", "numbers", "items.jsonl", "--end").code == 0
    done = run.wait()
    assert done.code == 0, done.err
    assert sorted(lines(done.folder / "out.jsonl")) == [2, 4]


@pytest.mark.parametrize("verb", ["run", "up", "registry"])
def test_nothing_starts_where_others_reach_it_without_keys(elsewhere: Place, verb: str) -> None:
    stages = '[stage.a]\nrun = "stages:numbers"\nargs = { count = 1 }\n'
    done = elsewhere.run(verb, elsewhere.pipeline(stages), "--bind", OTHER_HOST)
    refused(done, "is not of this machine alone and there are no keys", "zpipe keys", "--insecure", code=2)
    assert not (elsewhere.folder / "runs").exists()


@pytest.mark.parametrize(
    "argv", [("worker", "a"), ("ps",), ("top", "--once"), ("scale", "a=2"), ("drain", "a-1"), ("tap", "a"), ("down",)]
)
def test_nobody_dials_another_host_without_keys(elsewhere: Place, argv: tuple[str, ...]) -> None:
    done = elsewhere.run(*argv, "--registry", OTHER_HOST)
    refused(done, f"{OTHER_HOST} is not of this machine alone", "zpipe keys", "--insecure", code=2)


@pytest.mark.parametrize("file", ["insecure = true\n", ""])
def test_insecure_is_spelled_out_in_the_file_or_on_the_command_line(place: Place, file: str) -> None:
    stages = f'{file}[stage.a]\nrun = "stages:numbers"\nargs = {{ count = 1 }}\n'
    more = () if file else ("--insecure",)
    done = place.run("run", place.pipeline(stages), "--bind", OTHER_HOST, *more)
    refused(done, f"cannot bind {OTHER_HOST}", "use an address of this host")  # which it would have else


def test_every_way_in_works_with_a_key(place: Place, elsewhere: Place, guarded: Guarded) -> None:
    way = ("--registry", guarded.address, "--keys", str(guarded.mate))
    more = elsewhere.start("worker", "double", *way)
    wait_until(lambda: '"worker": "double-3"' in elsewhere.run("ps", "--json", *way).out)
    assert "double" in elsewhere.run("top", "--once", *way).out
    assert elsewhere.run("scale", "double=4", *way).code == 0
    assert len(elsewhere.run("tap", "double", "-n", "3", *way).out.splitlines()) == 3
    assert elsewhere.run("drain", "double-2", *way).code == 0
    assert place.run("ps").code == place.run("tap", "double", "-n", "1").code == 0  # its own user need not name them
    ends = elsewhere.start("down", *way)
    done = guarded.run.wait()
    assert ends.wait().code == 0
    assert more.wait().code == 0
    found = lines(done.folder / "out.jsonl")
    assert found == [2 * k for k in range(len(found))]


def test_what_is_wrong_with_a_key_is_one_line_for_each_who_dials(elsewhere: Place, guarded: Guarded) -> None:
    for argv in (("ps",), ("worker", "double"), ("tap", "double")):
        way = (*argv, "--registry", guarded.address)
        refused(elsewhere.run(*way), "wants a key", "zpipe keys add")
        refused(elsewhere.run(*way, "--keys", str(guarded.stray)), "is not the one of", "stray.key")
    guarded.end()


def test_a_registry_without_keys_is_told_from_one_that_is_silent(place: Place) -> None:
    assert place.run("keys", "--keys", "mine").code == 0
    run = flowing(place)
    address = run.says("registry tcp://").split()[2].rstrip(",")
    refused(place.run("ps", "--registry", address, "--keys", "mine"), "or uses no keys", "--insecure")
    run.interrupt()
    assert run.wait().code == 130


def test_a_revoked_host_is_cut_off_and_nothing_is_lost(place: Place, elsewhere: Place, guarded: Guarded) -> None:
    way = ("--registry", guarded.address, "--keys", str(guarded.mate))
    mate = elsewhere.start("worker", "double", *way, "-n", "2")
    names = ("double-3", "double-4")

    def states() -> dict[str, str]:
        return {row["worker"]: row["state"] for row in place.ps()["workers"]}

    wait_until(lambda: [states().get(name) for name in names] == ["live", "live"])
    copy = place.folder / "copy.key"
    copy.touch(0o600)
    copy.write_text(guarded.mate.read_text())
    assert place.run("keys", "--keys", str(guarded.folder), "revoke", "mate").code == 0
    wait_until(lambda: states() and not set(names) & set(states()))
    left = mate.wait()
    assert left.code == 1
    assert left.err.count("double: this key was revoked") == 1
    done = elsewhere.run("ps", "--registry", guarded.address, "--keys", str(copy))
    refused(done, "does not admit the key 'mate'", "it was revoked")
    done = guarded.end()
    found = lines(done.folder / "out.jsonl")
    assert found == [2 * k for k in range(len(found))]
