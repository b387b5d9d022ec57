"""What the real sockets promise: their options, both transports, and that a dead link says so."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from zpipe.core.limits import Limits
from zpipe.transport import sockets
from zpipe.transport.wake import Wake
from zpipe.values.errors import ConfigError, RegistryError

DEADLINE_MS = 10_000

READER = """
import sys
from zpipe.transport import sockets
ctx = sockets.context()
pull, found = sockets.bind_pull(ctx, host="127.0.0.1", sockets_dir=sys.argv[1], transport=sys.argv[2], hwm=10)
print(found[0], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def ctx() -> Iterator[sockets.Context]:
    context = sockets.context()
    yield context
    sockets.end(context)


@pytest.fixture(params=["ipc", "tcp"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def bind(ctx: sockets.Context, folder: Path, transport: str) -> tuple[sockets.Socket, list[str]]:
    return sockets.bind_pull(ctx, host="127.0.0.1", sockets_dir=folder, transport=transport, hwm=10_000)


def dial(ctx: sockets.Context, endpoints: list[str]) -> sockets.Socket:
    push = sockets.dial_push(ctx, endpoints)
    assert push.poll(DEADLINE_MS, sockets.OUT)
    return push


def take(pull: sockets.Socket) -> list[bytes]:
    assert pull.poll(DEADLINE_MS, sockets.IN)
    frames = sockets.receive(pull)
    assert frames is not None
    return [bytes(frame) for frame in frames]


def see_death(push: sockets.Socket, monitor: sockets.Socket) -> None:
    """Wait for the end of the connection, then for the socket to know of it."""
    while sockets.watched(monitor) != "down":
        assert monitor.poll(DEADLINE_MS, sockets.IN)
    sockets.unwatch(push)
    tries = DEADLINE_MS // 10
    assert tries < sockets.SEND_HWM  # so that False cannot mean full
    while sockets.send(push, [b"x"]):
        tries -= 1
        assert tries > 0
        push.poll(10, sockets.IN)


def options(sock: sockets.Socket, *names: int) -> list[int]:
    return [int(sock.getsockopt(name)) for name in names]


def test_an_inbox_has_its_options(ctx: sockets.Context, tmp_path: Path) -> None:
    pull, _ = bind(ctx, tmp_path, "auto")
    assert pull.type == zmq.PULL
    assert options(pull, zmq.RCVHWM, zmq.MAXMSGSIZE, zmq.HANDSHAKE_IVL, zmq.LINGER) == [
        10_000,
        2**30,
        5000,
        0,
    ]


def test_a_channel_of_acks_has_its_options(ctx: sockets.Context, tmp_path: Path) -> None:
    pull, _ = sockets.bind_acks(ctx, host="127.0.0.1", sockets_dir=tmp_path, transport="auto")
    assert options(pull, zmq.RCVHWM, zmq.MAXMSGSIZE, zmq.HANDSHAKE_IVL, zmq.LINGER) == [
        10_000,
        2**20,
        5000,
        0,
    ]


def test_the_sending_end_of_a_link_has_its_options(ctx: sockets.Context, tmp_path: Path, transport: str) -> None:
    _, endpoints = bind(ctx, tmp_path, transport)
    push = sockets.dial_push(ctx, endpoints)
    assert push.type == zmq.PUSH
    assert options(push, zmq.RECONNECT_IVL, zmq.IMMEDIATE, zmq.SNDHWM, zmq.LINGER) == [-1, 1, sockets.SEND_HWM, 0]
    assert Limits().window_max < sockets.SEND_HWM
    assert options(push, zmq.HEARTBEAT_IVL, zmq.HEARTBEAT_TIMEOUT, zmq.CONNECT_TIMEOUT) == [300, 1000, 2000]


def test_both_sides_of_the_dialogue_have_their_options(ctx: sockets.Context) -> None:
    registry, address = sockets.router(ctx, "tcp://127.0.0.1:0")
    worker, _ = sockets.dealer(ctx, address, b"12345678")
    beats = (zmq.HEARTBEAT_IVL, zmq.HEARTBEAT_TIMEOUT, zmq.LINGER)
    assert options(registry, *beats) == options(worker, *beats) == [200, 800, 0]
    assert options(worker, zmq.RECONNECT_IVL, zmq.RECONNECT_IVL_MAX, zmq.IMMEDIATE) == [20, 500, 0]
    assert worker.getsockopt(zmq.ROUTING_ID) == b"12345678"


def test_an_inbox_is_reached_over_both_transports(ctx: sockets.Context, tmp_path: Path) -> None:
    pull, endpoints = bind(ctx, tmp_path, "auto")
    assert [endpoint.partition("://")[0] for endpoint in endpoints] == ["ipc", "tcp"]
    assert len(os.fsencode(endpoints[0][6:])) <= 107
    for endpoint in endpoints:
        push = dial(ctx, [endpoint])
        assert sockets.send(push, [endpoint.encode()])
        assert take(pull) == [endpoint.encode()]


def test_a_message_keeps_its_frames(ctx: sockets.Context, tmp_path: Path, transport: str) -> None:
    pull, endpoints = bind(ctx, tmp_path, transport)
    push = dial(ctx, endpoints)
    frames: list[sockets.Buffer] = [b"header", memoryview(b"x" * 200_000), b"", b"tail"]
    assert sockets.send(push, frames)
    assert take(pull) == [bytes(frame) for frame in frames]
    assert sockets.receive(pull) is None


def test_ipc_is_preferred_where_the_peers_file_is(ctx: sockets.Context, tmp_path: Path) -> None:
    _, endpoints = bind(ctx, tmp_path, "auto")
    assert sockets.choose(endpoints) == endpoints[0]
    assert sockets.choose(["ipc:///nowhere/here", endpoints[1]]) == endpoints[1]
    assert sockets.choose(["ipc:///nowhere/here"]) == "ipc:///nowhere/here"
    with pytest.raises(ConfigError, match="none of"):
        sockets.choose(["inproc://x"])


def test_nothing_is_sent_before_a_link_is_up(ctx: sockets.Context, tmp_path: Path) -> None:
    push = sockets.dial_push(ctx, [f"ipc://{tmp_path}/nobody"])
    assert not sockets.send(push, [b"x"])
    assert not sockets.send(push, [b"x", b"y"])


def test_a_link_whose_peer_has_closed_takes_nothing(ctx: sockets.Context, tmp_path: Path, transport: str) -> None:
    pull, endpoints = bind(ctx, tmp_path, transport)
    push = dial(ctx, endpoints)
    monitor = sockets.watch(push)
    sockets.close(pull)
    see_death(push, monitor)
    assert not sockets.send(push, [b"x"])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_link_whose_peer_is_killed_or_frozen_takes_nothing(
    ctx: sockets.Context, tmp_path: Path, transport: str, how: signal.Signals
) -> None:
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path), transport],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert reader.stdout is not None
        push = dial(ctx, [reader.stdout.readline().decode().strip()])
        assert sockets.send(push, [b"x"])
        monitor = sockets.watch(push)
        reader.send_signal(how)
        see_death(push, monitor)
        assert not sockets.send(push, [b"x"])
    finally:
        reader.kill()
        reader.communicate()


def test_a_dead_link_never_reaches_the_next_process_on_its_address(ctx: sockets.Context) -> None:
    first, (endpoint,) = sockets.bind_pull(ctx, host="127.0.0.1", sockets_dir=None, transport="tcp", hwm=10)
    push = dial(ctx, [endpoint])
    monitor = sockets.watch(push)
    sockets.close(first)
    see_death(push, monitor)
    second = ctx.socket(zmq.PULL)
    second.bind(endpoint)
    assert sockets.send(dial(ctx, [endpoint]), [b"mine"])
    assert take(second) == [b"mine"]
    assert not sockets.send(push, [b"x"])


def test_what_cannot_be_bound_is_one_clear_line(ctx: sockets.Context, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'udp' is unknown: choose one of auto, ipc, tcp"):
        bind(ctx, tmp_path, "udp")
    with pytest.raises(ConfigError, match="needs a directory"):
        sockets.bind_pull(ctx, host="127.0.0.1", sockets_dir=None, transport="ipc", hwm=1)
    with pytest.raises(ConfigError, match="over 107 bytes"):
        bind(ctx, tmp_path / ("x" * 100), "ipc")
    with pytest.raises(ConfigError, match=r"cannot bind tcp://192\.0\.2\.1:0: .*use an address of this host"):
        sockets.bind_pull(ctx, host="192.0.2.1", sockets_dir=None, transport="tcp", hwm=1)


def test_a_port_in_use_is_one_clear_line(ctx: sockets.Context) -> None:
    _, address = sockets.router(ctx, "tcp://127.0.0.1:0")
    with pytest.raises(RegistryError, match=f"{address} is in use: stop what holds it, or bind another"):
        sockets.router(ctx, address)


@pytest.mark.parametrize("text", ["localhost:5570", "tcp://h", "tcp://h:x", "tcp://:1", "tcp://h:70000", "ipc://", ""])
def test_what_is_no_address_is_one_clear_line(ctx: sockets.Context, text: str) -> None:
    with pytest.raises(RegistryError, match="write tcp://HOST:PORT"):
        sockets.dealer(ctx, text)


@pytest.mark.parametrize("identity", [b"\0\0\0\0\0\0\0\1", b"\xff" * 8, None])
def test_the_dialogue_goes_both_ways(ctx: sockets.Context, identity: bytes | None) -> None:
    registry, address = sockets.router(ctx, "tcp://127.0.0.1:0")
    worker, _ = sockets.dealer(ctx, address, identity)
    assert worker.poll(DEADLINE_MS, sockets.OUT)
    assert sockets.ask(worker, b"hello")
    peer, payload = take(registry)
    assert payload == b"hello"
    assert identity in (None, peer)
    assert sockets.answer(registry, peer, b"welcome")
    assert take(worker) == [b"welcome"]


def test_an_answer_to_nobody_is_dropped(ctx: sockets.Context) -> None:
    registry, _ = sockets.router(ctx, "tcp://127.0.0.1:0")
    assert not sockets.answer(registry, b"nobody", b"x")


def test_what_a_registry_said_before_it_left_is_still_read(ctx: sockets.Context) -> None:
    own = sockets.context()
    registry, address = sockets.router(own, "tcp://127.0.0.1:0")
    worker, monitor = sockets.dealer(ctx, address, b"12345678")
    sockets.ask(worker, b"bye")
    take(registry)
    sockets.answer(registry, b"12345678", b"ok")
    sockets.close(registry, linger_ms=DEADLINE_MS)
    sockets.end(own)
    while sockets.watched(monitor) != "down":
        assert monitor.poll(DEADLINE_MS, sockets.IN)
    sockets.unwatch(worker)
    assert take(worker) == [b"ok"]


def test_a_registry_that_comes_back_is_seen_and_heard(ctx: sockets.Context) -> None:
    own = sockets.context()
    _, address = sockets.router(own, "tcp://127.0.0.1:0")
    worker, monitor = sockets.dealer(ctx, address, b"12345678")

    def wait_for(news: str) -> None:
        while sockets.watched(monitor) != news:
            assert monitor.poll(DEADLINE_MS, sockets.IN)

    wait_for("up")
    sockets.end(own)  # waits until the port is free
    wait_for("down")
    registry, _ = sockets.router(ctx, address)
    wait_for("up")
    sockets.unwatch(worker)
    assert sockets.ask(worker, b"beat")
    assert take(registry)[1] == b"beat"


def test_a_new_connection_takes_over_its_identity(ctx: sockets.Context) -> None:
    registry, address = sockets.router(ctx, "tcp://127.0.0.1:0")
    for words in (b"first", b"second"):
        worker, _ = sockets.dealer(ctx, address, b"12345678")
        assert worker.poll(DEADLINE_MS, sockets.OUT)
        sockets.ask(worker, words)
        assert take(registry) == [b"12345678", words]
    assert sockets.answer(registry, b"12345678", b"to the second")
    assert take(worker) == [b"to the second"]


def test_a_flag_wakes_a_poller_until_it_is_lowered() -> None:
    wake = Wake()
    poller = sockets.Poller()
    poller.register(wake, sockets.IN)
    assert poller.poll(0) == []
    for _ in range(100_000):
        wake.set()
    assert dict(poller.poll(0)) == {wake.fileno(): sockets.IN}
    wake.clear()
    assert poller.poll(0) == []
    wake.close()
    wake.set()


@pytest.mark.parametrize(
    "endpoint", ["tcp://no.such.host:1", "tcp://localhost:1", "tcp://127.0.0.1", "tcp://127.0.0.1:x"]
)
def test_a_worker_is_dialled_by_its_address_only(ctx: sockets.Context, endpoint: str) -> None:
    """To resolve a name would hold up every link of this worker."""
    with pytest.raises(ConfigError, match=r"a worker's endpoint is tcp://IP:PORT"):
        sockets.dial_push(ctx, [endpoint])


class Full:
    """A context in a process that may open no more files."""

    def socket(self, kind: int) -> None:
        raise zmq.ZMQError(errno.EMFILE)


def test_without_room_for_files_no_link_is_dialled_and_one_line_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full: Any = Full()
    with pytest.raises(ConfigError, match="ulimit -n"):
        sockets.dial_push(full, ["tcp://127.0.0.1:5"])
    with pytest.raises(ConfigError, match="ulimit -n"):
        sockets.bind_pull(full, host="127.0.0.1", sockets_dir=None, transport="tcp", hwm=10)

    def dup(fd: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "dup", dup)
    assert "ulimit -n" in sockets.trouble(["tcp://127.0.0.1:5"])
