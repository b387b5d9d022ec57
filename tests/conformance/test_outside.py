"""The golden vectors of what is said outside hold in both directions."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import make_outside
from tests.conformance.test_vectors import as_json, from_json, named, read
from zpipe.core.leases import DISTRUST_LEASES, LEASE_S, MOVES, UNANSWERED_MAX
from zpipe.processes.gate import POLL_S
from zpipe.transport.sockets import FRAME_BYTES_MAX
from zpipe.values.errors import ProtocolError
from zpipe.wire import outside
from zpipe.wire.body import BODY_MAX, decode_message, encode_message
from zpipe.wire.outside import ENTRIES_MAX, ID_MAX, KEY, Asked

VECTORS = json.loads(make_outside.TARGET.read_text(encoding="utf-8"))["messages"]
ALLOWED = [v for v in VECTORS if "meaning" in v]
ASKED = [v for v in ALLOWED if v["by"] in ("worker", "client")]
ITEMS = [v for v in ALLOWED if v["by"] == "item"]
HOSTILE = [v for v in VECTORS if "refused" in v]
EMPTY: dict[str, Any] = {
    "take": None, "done": [], "failed": [], "busy": [], "call": [], "put": [], "end": False, "raw": False, "name": "",
    "stage": None, "tag": "",
}  # fmt: skip


def value_of(vector: Any) -> Any:
    return from_json(vector["meaning"])


@pytest.mark.parametrize("vector", ALLOWED, ids=named)
def test_frames_mean_what_the_vector_says(vector: Any) -> None:
    assert as_json(decode_message(read(vector))) == as_json(value_of(vector))


@pytest.mark.parametrize("vector", ASKED, ids=named)
def test_what_is_asked_is_what_the_vector_says_and_nothing_else(vector: Any) -> None:
    asked = outside.read(read(vector))
    said = {**EMPTY, **value_of(vector)}
    assert {key: as_json(getattr(asked, key)) for key in EMPTY} == {key: as_json(said[key]) for key in EMPTY}


@pytest.mark.parametrize("vector", ITEMS, ids=named)
def test_what_is_no_message_is_an_item(vector: Any) -> None:
    assert as_json(outside.read_any(read(vector)).items) == [as_json(value_of(vector))]


@pytest.mark.parametrize("vector", ALLOWED, ids=named)
def test_what_is_written_is_read_as_the_same(vector: Any) -> None:
    made = encode_message(value_of(vector), raw=len(vector["frames"]) > 1)
    assert as_json(decode_message(made)) == as_json(value_of(vector))


@pytest.mark.parametrize("vector", [v for v in ALLOWED if not v["one_way"]], ids=named)
def test_a_message_becomes_the_frames_of_its_vector(vector: Any) -> None:
    made = encode_message(value_of(vector), raw=len(vector["frames"]) > 1)
    assert [bytes(frame).hex() for frame in made] == vector["frames"]


@pytest.mark.parametrize("vector", HOSTILE, ids=named)
def test_hostile_frames_are_refused_with_the_rule(vector: Any) -> None:
    with pytest.raises(ProtocolError) as caught:
        outside.read(read(vector))
    assert vector["refused"] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["done", "failed", "busy", "call", "put"])
def test_a_list_has_at_most_65536_entries(key: str) -> None:
    entries = ["a"] * 65537 if key == "busy" else [["a", "b"]] * 65537
    with pytest.raises(ProtocolError, match=f"{key} is a list of"):
        outside.checked({"zpipe": 1, key: entries})
    outside.checked({"zpipe": 1, key: entries[1:]})


def test_the_file_is_what_the_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = make_outside.TARGET.read_text(encoding="utf-8")
    monkeypatch.setattr(make_outside, "TARGET", tmp_path / "outside.json")
    make_outside.main()
    assert (tmp_path / "outside.json").read_text(encoding="utf-8") == written


def test_no_name_stands_twice() -> None:
    names = [named(v) for v in VECTORS]
    assert len(set(names)) == len(names)


PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
PART_A = PAGE[PAGE.index("# Part A") : PAGE.index("# Part B")]


def keys_below(head: str) -> set[str]:
    """Return the keys in the table of Part A that begins so."""
    table = PART_A[PART_A.index(f"| {head} |") :].split("\n\n")[0]
    return set(re.findall(r"^\| `([a-z_]+)` \|", table, re.M))


def test_the_page_has_what_may_be_said_and_the_code_reads_it() -> None:
    said = keys_below("a worker says") | keys_below("a client says")
    assert said == {f.name for f in fields(Asked)} - {"items"} | {KEY}


def test_the_page_has_the_answers_that_are_given() -> None:
    answers = {KEY, "items", "over", "lease_s", "refused", "error"}
    assert keys_below("it is answered") == answers
    assert all(f"`{key}`" in PART_A for key in ("stored", "stage", "role"))


def test_the_page_has_the_limits_of_the_code() -> None:
    limits = PART_A[PART_A.index("Limits:") :]
    assert f"{BODY_MAX >> 20} MiB for a message" in limits and f"{FRAME_BYTES_MAX >> 30} GiB" in limits
    assert f"{ENTRIES_MAX:,} entries" in limits and f"{ID_MAX} characters" in limits
    text = " ".join(PART_A.split())
    assert UNANSWERED_MAX == 3 and DISTRUST_LEASES == 10
    assert "lets leases run out three times in a row is given nothing for the time of ten" in text
    assert f'"lease_s": {LEASE_S}' in text and f"or after {POLL_S:g} s with none" in text


def test_part_a_is_two_screens() -> None:
    assert len(PART_A.splitlines()) <= 80


def test_the_diagram_is_drawn_from_the_table_of_the_code() -> None:
    drawn = PAGE.partition("stateDiagram-v2\n")[2].partition("```")[0].splitlines()
    assert drawn == [f"    {state or '[*]'} --> {to}: {event}" for (state, event), to in MOVES.items()]
