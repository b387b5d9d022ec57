"""The matrix's own parts: what it reads off the sinks, the proxy, and which cells there are."""

from __future__ import annotations

import json
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.cell import POINTS, TARGETS
from tests.chaos.matrix import AT_POINTS, cells, chosen
from tests.chaos.proxy import Proxy
from tests.chaos.sight import Sight, Verdict
from tests.chaos.strikes import FAULTS

RIGHT: dict[str, list[Any]] = {
    "groups": [[[0, 0], [1, 0], [1, 1], [2, 0], [2, 1], [2, 2], [3, 0]]],
    "fits": [[1, 15]],
    "pairs": [[1, 2], [0, 0], [3, 6], [2, 4]],
    "ordered": [{"n": 0}, {"n": 1}, {"n": 2}, {"n": 3}],
}


def write(folder: Path, **changed: list[Any]) -> None:
    for sink, items in {**RIGHT, **changed}.items():
        with sqlite3.connect(folder / f"{sink}.db") as connection:
            connection.execute("CREATE TABLE items (path TEXT PRIMARY KEY, item TEXT)")
            rows = [(str(at), json.dumps(item)) for at, item in enumerate(items)]
            connection.executemany("INSERT INTO items VALUES (?, ?)", rows)
        connection.close()


def test_a_run_with_everything_once_has_no_faults(tmp_path: Path) -> None:
    write(tmp_path)
    verdict = Verdict(tmp_path, 4)
    assert (verdict.expected, verdict.committed, verdict.lost, verdict.twice, verdict.faults) == (10, 10, 0, 0, [])


@pytest.mark.parametrize(
    ("changed", "lost", "twice", "fault"),
    [
        ({"pairs": RIGHT["pairs"][1:]}, 1, 0, "pairs: 1 lost, first (1, 2)"),
        ({"ordered": [*RIGHT["ordered"], {"n": 3}]}, 0, 1, "ordered: 1 too many, first 3"),
        ({"ordered": RIGHT["ordered"][::-1]}, 0, 0, "ordered: out of order"),
        ({"fits": [[1, 12]]}, 1, 1, "fits: 1 lost, first (1, 15)"),
        ({"groups": []}, 1, 0, "groups: 1 lost, first"),
    ],
)
def test_what_is_wrong_is_found(
    tmp_path: Path, changed: dict[str, list[Any]], lost: int, twice: int, fault: str
) -> None:
    write(tmp_path, **changed)
    verdict = Verdict(tmp_path, 4)
    assert (verdict.lost, verdict.twice) == (lost, twice)
    assert verdict.faults[0].startswith(fault)


def test_the_longest_time_without_a_commit_is_that_of_the_worst_sink(tmp_path: Path) -> None:
    sight = Sight(tmp_path)
    sight.times |= {"groups": [1.0, 2.0, 3.0, 4.0], "fits": [1.0, 3.5], "pairs": [], "ordered": [2.5, 9.0]}
    assert sight.longest(1.0, 3.0) == 6.5  # the silence goes on after the end of what is looked at
    assert sight.longest(1.0, 3.0, whole=False) == 1.5


@contextmanager
def connected(proxy: Proxy, worker: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give a connection to a worker through the proxy: the outer end and the inner one."""
    with socket.create_server(("127.0.0.1", 0)) as back, socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(proxy.path))
        asking.sendall(f"{worker} 7 tcp://127.0.0.1:{back.getsockname()[1]}\n".encode())
        host, _, port = asking.makefile().readline().strip().removeprefix("tcp://").rpartition(":")
        with socket.create_connection((host, int(port)), 30) as outer, back.accept()[0] as inner:
            inner.settimeout(30)
            yield outer, inner


def test_the_proxy_carries_both_ways_in_fair_weather(tmp_path: Path) -> None:
    with Proxy(tmp_path, 1) as proxy, connected(proxy, "batch-1") as (outer, inner):
        outer.sendall(b"down")
        assert inner.recv(4, socket.MSG_WAITALL) == b"down"
        inner.sendall(b"up")
        assert outer.recv(2, socket.MSG_WAITALL) == b"up"
        assert len(proxy.backs[7]) == 1


def test_one_bit_changes_where_it_is_told(tmp_path: Path) -> None:
    with Proxy(tmp_path, 1) as proxy, connected(proxy, "batch-1") as (outer, inner):
        proxy.over("batch").flip_at = 5
        outer.sendall(bytes(8))
        got = inner.recv(8, socket.MSG_WAITALL)
        assert (got[:5], got[6:], got[5].bit_count()) == (bytes(5), bytes(2), 1)
        assert proxy.over("batch").flipped == 1


def test_what_a_deaf_worker_was_sent_comes_when_it_hears_again(tmp_path: Path) -> None:
    with Proxy(tmp_path, 1) as proxy, connected(proxy, "batch-1") as (outer, inner):
        proxy.over("batch").deaf = True
        outer.sendall(b"down")
        inner.sendall(b"up")
        assert outer.recv(2, socket.MSG_WAITALL) == b"up"
        proxy.over("batch").deaf = False
        assert inner.recv(4, socket.MSG_WAITALL) == b"down"


def test_connections_are_reset_at_once_or_after_a_byte(tmp_path: Path) -> None:
    with Proxy(tmp_path, 1) as proxy, connected(proxy, "batch-1") as (outer, _):
        assert proxy.reset("fit") == 0
        assert proxy.reset("batch") == 1
        with pytest.raises(ConnectionResetError):
            outer.recv(1)
    with Proxy(tmp_path.parent, 1) as proxy, connected(proxy, "fit-1") as (outer, _):
        proxy.over("fit").cut_at = 3
        outer.sendall(b"over")
        with pytest.raises(ConnectionResetError):
            outer.recv(1)


def test_the_cells_have_what_they_name() -> None:
    found = cells()
    assert len(set(found)) == len(found)
    for cell in found:
        assert cell.target in TARGETS
        assert cell.fault in FAULTS
    assert {cell.fault for cell in found} == FAULTS.keys()
    assert AT_POINTS.keys() == POINTS.keys()
    for point, target in AT_POINTS.items():
        assert POINTS[point].partition("=")[0] in TARGETS[target]


def test_a_seed_draws_the_same_cells_again_and_another_seed_others() -> None:
    assert chosen((), 3, 7) == chosen((), 3, 7) != chosen((), 3, 8)
    assert [str(cell) for cell in chosen(["middle/kill/steady"], None, 1)] == ["middle/kill/steady"]
