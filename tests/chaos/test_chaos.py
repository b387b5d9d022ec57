"""A few chaos runs, smaller than those of `python -m tests.chaos`."""

from __future__ import annotations

import pytest

from tests.chaos import resume
from tests.chaos.chaos import ROLES, play
from tests.chaos.verify import faults


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_item_arrives_once_whatever_is_killed(seed: int) -> None:
    outcome = play(seed, count=3000, each=1, more=4, between=2)
    print(outcome)
    assert outcome.faults == []
    assert outcome.kills.total() == 10
    assert set(outcome.kills) == set(ROLES)
    assert outcome.between == 2


@pytest.mark.parametrize("seed", [2, 4])
def test_every_item_arrives_once_when_everything_is_killed_and_the_run_resumed(seed: int) -> None:
    outcome = resume.play(seed, count=1500, kills=2)
    print(outcome)
    assert outcome.faults == []
    assert (len(outcome.kills), len(outcome.workers)) == (2, 3)


def test_the_reader_of_the_database_finds_what_is_wrong(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import json
    import sqlite3

    items = [[n, k] for n in range(10) for k in range(n % 3 + 1)]
    assert len(items) == 19
    for batches, wrong in (
        ([items[:16], items[16:]], []),
        ([items[:16], items[17:]], ["1 lost: [(8, 1)]", "batches of sizes {16: 1, 2: 1}, not 1 of 16 and one of 3"]),
        ([items[:16], items[16:18] + items[:1]], ["1 lost: [(9, 0)]", "1 twice: [(0, 0)]"]),
    ):
        database = tmp_path / f"{len(wrong)}-{len(batches[1])}.db"
        with sqlite3.connect(database) as connection:
            connection.execute("CREATE TABLE items (path TEXT PRIMARY KEY, item TEXT)")
            rows = [(f"numbers:{k}", json.dumps(batch)) for k, batch in enumerate(batches)]
            connection.executemany("INSERT INTO items VALUES (?, ?)", rows)
        connection.close()
        assert faults(str(database), 10) == wrong
