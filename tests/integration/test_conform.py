"""`zpipe conform`: a program that keeps the rules passes, and whatever breaks one is told which, and how."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real import Place
from zpipe.processes import atgate, played
from zpipe.processes.conform import AT_GATES, RULES, SHOULD
from zpipe.processes.conform import conform as tried

HERE = Path(__file__).parent


def conform(place: Place, how: str, *options: str) -> tuple[int, dict[str, str], str]:
    """Return the exit code, the word for each rule, and all that was said."""
    patience = "3" if how.startswith("hangs") else "60"
    done = place.run("conform", "--timeout", patience, *options, sys.executable, str(HERE / "broken.py"), how)
    rows = re.findall(r"^(ok|BROKEN|not tried) +([a-z]+) +A", done.out, re.M)
    return done.code, {rule: word for word, rule in rows}, done.out + done.err


@pytest.mark.parametrize("how", ["keeps all", "fails all"])
def test_who_keeps_the_rules_passes(place: Place, how: str) -> None:
    code, words, said = conform(place, how)
    assert (code, words) == (0, dict.fromkeys(RULES, "ok")), said


def test_it_is_given_the_items_that_are_said(place: Place) -> None:
    (place.folder / "items.json").write_text('"a" {"b": [1, null]}')
    assert conform(place, "keeps all", "--items", "items.json")[0] == 0
    (place.folder / "items.json").write_text("[1, 2")
    code, _, said = conform(place, "keeps all", "--items", "items.json")
    assert code == 2 and "items.json:1: is not JSON" in said, said
    (place.folder / "items.json").write_text(" ")
    code, _, said = conform(place, "keeps all", "--items", "items.json")
    assert code == 2 and "items.json holds no item" in said, said


@pytest.mark.parametrize("rule", ["unknown", "refused"])
def test_one_item_is_enough_to_try_every_rule(place: Place, rule: str) -> None:
    (place.folder / "items.json").write_text("1")
    how = {"unknown": "dies of what it does not know", "refused": "dies when refused"}[rule]
    code, words, said = conform(place, how, "--items", "items.json")
    assert code == 1 and words[rule] == "BROKEN", said


@pytest.mark.parametrize(
    ("how", "rule", "seen"),
    [
        ("ends at once", "starts", "it exited 4 before it asked for an item"),
        ("no msgpack", "message", "body is not msgpack"),
        ("of another version", "message", "zpipe is 2: this is version 1 of the protocol"),
        ("a list", "message", "a message is a map"),
        ("token that is a number", "message", "tokens and outputs in done are texts"),
        ("never takes", "takes", "it sent 3 messages and asked for no item"),
        ("tells before it is given", "tokens", "it tells of items before it was given one"),
        ("no word of an item", "answers", "it asked for more 3 times with no word of the item 'a text'"),
        ("token of its own", "tokens", "it says done of 'mine', which is no token of an item at hand"),
        ("twice in one message", "tokens", "it tells 2 times what came of the item 'a text'"),
        ("array of wrong sizes", "arrays", "array of shape [3, 3] and dtype float32 needs 36 bytes, not 4"),
        ("frame that is not there", "arrays", "raw buffer 5 is named but the message has 0"),
        ("dies of an item", "lives", "it was killed by SIGABRT at the item 7"),
        ("hangs at an item", "lives", "it said nothing for 3 s at the item 7"),
        ("dies of what it does not know", "unknown", "it exited 5 at the item 'a text'"),
        ("dies when refused", "refused", "it exited 6 at the item 'a text'"),
        ("other every time", "again", "the item 'a text' came to ('done', "),
        ("goes on when all is over", "over", "it still runs 2 s after it was told that nothing more comes"),
        ("ends badly", "over", "it exited 3"),
    ],
)
def test_who_breaks_a_rule_is_told_which(place: Place, how: str, rule: str, seen: str) -> None:
    code, words, said = conform(place, how)
    assert code == 1 and words.keys() == RULES.keys()
    assert [name for name, word in words.items() if word == "BROKEN"] == [rule], said
    assert seen in said, said
    assert place.left() == []


def test_what_says_nothing_at_all_is_given_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(played, "BEGIN_S", 0.5)
    verdicts = tried([sys.executable, str(HERE / "broken.py"), "says nothing"], place.folder, [1], {}, timeout_s=0.5)
    assert [(v.rule, v.seen) for v in verdicts if v.holds is False] == [
        ("starts", "it said nothing for 0.5 s before it asked for an item")
    ]


def has_perl() -> bool:
    argv = ["perl", "-MZMQ::FFI", "-MData::MessagePack", "-e1"]
    return shutil.which("perl") is not None and subprocess.run(argv, capture_output=True, check=False).returncode == 0


PAGE = (HERE.parents[1] / "docs" / "foreign.md").read_text(encoding="utf-8")


def on_the_page(language: str) -> str:
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)
    return str(code)


def test_the_python_on_the_page_keeps_the_rules(place: Place) -> None:
    (place.folder / "worker.py").write_text(on_the_page("python"))
    (place.folder / "items.json").write_text('"a text" "" "some more words"')
    done = place.run("conform", "--items", "items.json", sys.executable, "worker.py")
    assert done.code == 0, done.out


@pytest.mark.skipif(not has_perl(), reason="needs libzmq-ffi-perl and libdata-messagepack-perl of Debian")
def test_the_perl_on_the_page_keeps_the_rules_in_thirty_lines(place: Place) -> None:
    code = on_the_page("perl")
    assert len(code.splitlines()) <= 30
    (place.folder / "worker.pl").write_text(code)
    assert at_gate_keeps(place, "perl", "worker.pl")
    done = place.run("conform", "perl", "worker.pl")
    assert done.code == 0, done.out


def test_what_is_not_there_is_one_line(place: Place) -> None:
    done = place.run("conform", "./nopey")
    assert done.code == 2 and "there is no program './nopey'" in done.err
    done = place.run("conform", "--arg", "x", sys.executable)
    assert done.code == 2 and "--arg x is not of the form KEY=VALUE" in done.err


def at_gate(place: Place, how: str, *options: str) -> tuple[int, list[str], str]:
    """Return the exit code at a gate, the rules that are broken, and all that was said."""
    code, words, said = conform(place, how, "--gate", *options)
    return code, [name for name, word in words.items() if word == "BROKEN"], said


def at_gate_keeps(place: Place, *cmd: str) -> bool:
    """Tell whether a worker keeps all rules that can be tried of it."""
    done = place.run("conform", "--gate", *cmd)
    return done.code == 0 and "BROKEN" not in done.out


def test_who_keeps_the_rules_at_a_gate_passes(place: Place) -> None:
    code, words, said = conform(place, "takes four", "--gate", "--slow", '"slow"')
    assert (code, words) == (0, dict.fromkeys(AT_GATES, "ok")), said


def test_who_asks_over_several_connections_passes(place: Place) -> None:
    assert at_gate_keeps(place, sys.executable, str(HERE / "threaded.py"))


def test_the_worker_in_python_keeps_the_rules_at_a_gate(place: Place) -> None:
    slow = "import signal\n\n\ndef f(x):\n    return signal.pause() if isinstance(x, str) and x == 'slow' else [x]\n"
    (place.folder / "work.py").write_text(slow)
    worker = f'exec {sys.executable} -m zpipe worker work.py:f --connect "$ZPIPE_CALL"'
    done = place.run("conform", "--gate", "--slow", '"slow"', "sh", "-c", worker)
    assert done.code == 0, done.out
    assert "BROKEN" not in done.out and "not tried" not in done.out


@pytest.mark.parametrize(
    ("how", "rule", "seen"),
    [
        ("ends at once", "starts", "it exited 4 before it asked for an item"),
        ("of another version", "message", "zpipe is 2: this is version 1 of the protocol"),
        ("never takes", "takes", "it sent 3 messages and asked for no item"),
        ("token of its own", "tokens", "it says done of 'mine', which is no token of an item at hand"),
        ("makes up a token", "tokens", "it says done of 'made up'"),
        ("array of wrong sizes", "arrays", "array of shape [3, 3] and dtype float32 needs 36 bytes, not 4"),
        ("no word of an item", "answers", "it asked for more 3 times with no word of the item 'a text'"),
        ("dies of an item", "lives", "it was killed by SIGABRT at the item 7"),
        ("dies of what it does not know", "unknown", "it exited 5 at the item 'a text'"),
        ("dies when refused", "refused", "it exited 6 at the item 'a text'"),
        ("other every time", "again", "the item 'a text' came to ('done', "),
        ("ends badly", "over", "it exited 3"),
        ("goes on when all is over", "over", "it still runs 2 s after it was told that nothing more comes"),
        ("ends when there is nothing", "waits", "it exited 8 after an answer without items"),
        ("tells of nothing", "waits", "it tells of an item that it was not given"),
        ("does one of several", "several", "it was given 4 items, and says nothing of 3 of them"),
        ("dies of silence", "silence", "it exited 7 when it had no answer"),
        ("forgets what nobody heard", "silence", "it asks again without 'done', which nobody has heard"),
        ("waits for ever", "restart", "it said nothing for 12 s when the gate was back at its address"),
        ("cannot live after a kill", "killed", "it exited 9 before it asked for an item"),
        ("one on a host", "two", "the second of two at one gate exited 11"),
        ("dies of an error", "error", "it exited 10 after an error"),
        ("believes nonsense", "nonsense", "that it was not given, after an answer that is no message"),
        ("believes any version", "version", "after an answer of another version"),
        ("believes what has no version", "version", "after an answer without one"),
        ("has no name", "name", "it says no `name`"),
        ("silent at work", "busy", "it has an item for 2 s and says nothing"),
        ("ignores the system", "ends", "it still runs 10 s after SIGTERM"),
    ],
)
def test_who_breaks_a_rule_at_a_gate_is_told_which(place: Place, how: str, rule: str, seen: str) -> None:
    code, broken, said = at_gate(place, how, "--only", rule, "--slow", '"slow"')
    assert (code, broken) == (int(rule not in SHOULD), [rule]), said
    assert seen in said, said
    assert place.left() == []


def test_two_that_say_they_are_the_same_are_told_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atgate, "BEGIN_S", 2.0)
    cmd = [sys.executable, str(HERE / "broken.py"), "one identity"]
    verdicts = tried(cmd, place.folder, [1], {}, timeout_s=2.0, at_gate=True, only=frozenset({"two"}))
    assert [(v.rule, v.seen) for v in verdicts] == [("two", "of two that were started at one gate one asks")]


def test_what_comes_behind_a_rule_that_should_be_kept_is_tried(place: Place) -> None:
    code, words, said = conform(place, "has no name", "--gate", "--only", "name", "--only", "waits", "--only", "two")
    assert (code, words) == (0, {"name": "BROKEN", "waits": "ok", "two": "ok"}), said


def test_what_cannot_be_tried_is_said(place: Place) -> None:
    code, words, said = conform(place, "keeps all", "--gate", "--only", "several", "--only", "busy")
    assert (code, words) == (0, {"several": "not tried", "busy": "not tried"})
    assert "it asks for one item at a time" in said and "no item that takes long was given" in said
    code, words, said = conform(place, "keeps all", "--gate", "--only", "busy", "--slow", "1")
    assert (code, words) == (0, {"busy": "not tried"})
    assert "the item has not taken a lease of 2 s" in said


def test_what_is_of_gates_alone_needs_one(place: Place) -> None:
    for options in (("--slow", "1"), ("--only", "two")):
        code, _, said = conform(place, "keeps all", *options)
        assert code == 2 and "give --gate too" in said


SERVICES = HERE.parents[1] / "services"
IN_NODE = SERVICES / "tokenize" / "tokenize.js"
IN_C = SERVICES / "grey" / "grey"


@pytest.mark.skipif(
    shutil.which("node") is None or not (IN_NODE.parent / "node_modules").is_dir(),
    reason="needs Node, and the modules of services/tokenize",
)
def test_the_worker_in_node_keeps_the_rules_at_a_gate(place: Place) -> None:
    assert place.run("conform", "--gate", "node", str(IN_NODE)).code == 0


@pytest.mark.skipif(not IN_C.exists(), reason="needs services/grey/grey, which its README builds")
def test_the_worker_in_c_keeps_the_rules_at_a_gate(place: Place) -> None:
    assert place.run("conform", "--gate", str(IN_C)).code == 0
