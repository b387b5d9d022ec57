"""What a worker at a gate says when its results do not go into one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zpipe.processes.taker import Taker
from zpipe.wire.body import BODY_MAX, decode_message


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was told before the message that was asked for."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr("zpipe.processes.taker.sockets.send", lambda _, frames: found.append(decode_message(frames)))
    return found


def test_results_that_one_message_has_no_room_for_are_told_before(tmp_path: Path, told: list[dict[str, Any]]) -> None:
    taker = Taker(f"ipc://{tmp_path}/call")
    done = [[str(k), bytes(BODY_MAX // 3)] for k in range(4)]
    last = decode_message(taker._frames({"take": 1, "done": done, "failed": [["x", "no luck"]]}))
    assert [[token for token, _ in message["done"]] for message in told] == [["0", "1"]]
    assert [token for token, _ in last["done"]] == ["2", "3"]
    assert (last["take"], last["failed"]) == (1, [["x", "no luck"]])
    taker.close()


def test_a_result_that_no_message_holds_has_failed_and_its_neighbours_have_not(
    tmp_path: Path, told: list[dict[str, Any]]
) -> None:
    taker = Taker(f"ipc://{tmp_path}/call")
    frames = taker._frames({"take": 1, "done": [["a", 1], ["b", bytes(BODY_MAX + 1)], ["c", 3], ["d", {4}]]})
    said = [*told, decode_message(frames)]
    assert sorted(entry for message in said for entry in message.get("done", ())) == [["a", 1], ["c", 3]]
    failed = dict(entry for message in said for entry in message.get("failed", ()))
    assert failed.keys() == {"b", "d"}
    assert "a set" in failed["d"]
    taker.close()
