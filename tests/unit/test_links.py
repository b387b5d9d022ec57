"""Links whose peers cannot be reached: tried less and less often, and one line for the user.  Time is the test's."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from zpipe.core.limits import Limits
from zpipe.core.outlet import Peer
from zpipe.core.source import Position
from zpipe.core.worker import Role, Worker
from zpipe.processes.links import Links
from zpipe.transport import sockets
from zpipe.transport.shared import SHARED_MIN, SharedMemory
from zpipe.values.paths import Run
from zpipe.values.plan import EdgePlan
from zpipe.wire import frames
from zpipe.wire.body import encode_item, share_arrays
from zpipe.wire.frames import Data, Open

SENDER = Role(inputs=(), outputs=(EdgePlan(0, 0, 1, False),), partitions={0: (Position(), False)})
RECEIVER = Role(inputs=(0,), outputs=())
THEM = 7  # the inc of the other end
DEADLINE_S = 60.0


@contextmanager
def opened(
    role: Role, folder: Path, said: list[str], transport: str = "ipc", memory: SharedMemory | None = None
) -> Iterator[Links]:  # fmt: skip
    links = Links(
        Worker(1, role, Limits()), host="127.0.0.1", sockets_dir=str(folder), transport=transport, stage="us",
        save=lambda save: None, warn=said.append, memory=memory,
    )  # fmt: skip
    links.names[THEM] = "them-1"
    try:
        yield links
    finally:
        links.close()


@pytest.fixture
def gone(tmp_path: Path) -> tuple[str]:
    """Where a socket was whose file was removed."""
    return (f"ipc://{tmp_path}/gone",)


def pass_time(links: Links, from_s: float, to_s: float) -> None:
    """Let a worker's loop turn every 50 ms."""
    for k in range(int(from_s * 20), int(to_s * 20)):
        links.worker.tick(k / 20)
        if links.worker.inlet is not None:
            links.worker.flush()
        links.act(k / 20)
        links.retry(k / 20)


def send(links: Links, endpoints: tuple[str, ...]) -> None:
    links.worker.roster(0.0, [Peer(THEM, 0, "them-1", endpoints)], set())
    links.act(0.0)


def hear(links: Links, endpoints: tuple[str, ...]) -> None:
    """Receive a link from a sender whose acks go to `endpoints`."""
    links.worker.received(0.0, Open(THEM, 1, 1, 0, {"acks": list(endpoints)}))
    links.worker.flush()
    links.act(0.0)


@pytest.mark.parametrize(("role", "begin"), [(SENDER, send), (RECEIVER, hear)], ids=["data", "acks"])
def test_what_cannot_be_sent_is_tried_again_less_and_less_often(
    tmp_path: Path, gone: tuple[str], role: Role, begin: object
) -> None:
    with opened(role, tmp_path, []) as links:
        begin(links, gone)  # type: ignore[operator]
        soon = [links.retry(ms / 1000) for ms in range(200)]
        assert soon[0]
        assert not any(soon[63:])
        assert links.pending


def test_a_receiver_that_lives_and_cannot_be_reached_is_one_line(tmp_path: Path, gone: tuple[str]) -> None:
    said: list[str] = []
    with opened(SENDER, tmp_path, said) as links:
        send(links, gone)
        pass_time(links, 0, 14)
        assert said == []
        pass_time(links, 14, 20)
        assert len(said) == 1
        assert said[0].startswith("them-1 lives but cannot be reached for 1")
        assert said[0].endswith(
            f" s, the file of {gone[0]} is gone: keep cleaners away from it, or use transport 'auto', and run again"
        )
        pass_time(links, 20, 100)
        assert len(said) == 1
        assert links.unreached == {THEM}


def test_a_sender_whose_acks_cannot_be_sent_is_one_line(tmp_path: Path, gone: tuple[str]) -> None:
    said: list[str] = []
    with opened(RECEIVER, tmp_path, said) as links:
        links.worker.roster(0.0, [], {THEM})
        hear(links, gone)
        pass_time(links, 0, 100)
        assert [line.partition(" for ")[0] for line in said] == ["them-1 lives but cannot be reached"]


def test_nothing_is_said_of_a_peer_that_no_roster_names(tmp_path: Path, gone: tuple[str]) -> None:
    said: list[str] = []
    with opened(RECEIVER, tmp_path, said) as links:
        hear(links, gone)
        pass_time(links, 0, 100)
        assert said == []
    with opened(SENDER, tmp_path, said) as links:
        send(links, gone)
        pass_time(links, 0, 10)
        links.worker.roster(10.0, [], set())
        pass_time(links, 10, 100)
        assert said == []
        assert links.tried == {}


def test_nothing_is_said_of_a_receiver_that_takes_the_dial_and_is_in_a_long_call(tmp_path: Path) -> None:
    said: list[str] = []
    with opened(SENDER, tmp_path, said) as links, opened(RECEIVER, tmp_path, []) as there:
        send(links, tuple(there.inbox_endpoints))
        for second in range(60):
            end_s = time.monotonic() + DEADLINE_S
            entry = links.data.get(THEM)
            while entry is not None and entry.opening is not None:
                assert time.monotonic() < end_s
                there.poller.wait(1)
                links.retry(math.inf)  # now, however lately it was tried
            links.worker.tick(float(second))
            links.act(float(second))
        assert links.worker.outlet.gens[THEM] > 10  # no ack came: it was dialled again and again
        assert said == []


def test_a_peer_that_answers_nowhere_is_looked_for_in_its_log() -> None:
    assert sockets.trouble(["tcp://127.0.0.1:5"]) == "nothing answers at tcp://127.0.0.1:5: see the log of that worker"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is shared")
def test_a_reference_that_leads_nowhere_comes_again_over_a_link_without(tmp_path: Path, gone: tuple[str]) -> None:
    them, unknown = SharedMemory("them-1"), SharedMemory("unknown")
    info = {"acks": list(gone), "memory": them.where}
    assert unknown.where is not None
    share_arrays(unknown.put, SHARED_MIN)
    run = Run(0, 0, (), 1, [encode_item(np.zeros(SHARED_MIN, np.uint8))])
    share_arrays(None)

    def take(links: Links, message: frames.Message) -> None:
        links._take(0.0, [memoryview(bytes(part)) for part in frames.encode(message, crc=False, refs=unknown.refs)])

    with opened(RECEIVER, tmp_path, [], memory=SharedMemory("us-1")) as links:
        assert links.worker.inlet is not None
        take(links, Open(THEM, 1, 1, 0, info))
        links.worker.flush()
        assert links.worker.inlet.links[THEM].shares
        unknown._own.close()  # type: ignore[union-attr]
        take(links, Data(THEM, 1, 1, 0, 1, run))
        assert (links.refused, links.worker.inlet.links[THEM].got) == (1, 0)
        take(links, Open(THEM, 1, 2, 0, info))
        assert not links.worker.inlet.links[THEM].shares
