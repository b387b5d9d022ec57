"""Sockets with keys: who gets in, what reaches Python of those that do not, and a door that is shut and opened."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest
import zmq

from zpipe.processes.door import Door
from zpipe.transport import sockets
from zpipe.transport.admission import Admission
from zpipe.transport.keys import Keys
from zpipe.transport.waiting import Waiter
from zpipe.values.errors import ConfigError

DEADLINE_MS = 20_000
HALF_OPEN = 200
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\x00" + bytes(31)  # RFC 23, without encryption


def keys(name: str = "registry", registry: str = "") -> Keys:
    public, secret = sockets.make_pair()
    return Keys(name, public, secret, registry or public, Path(name))


SERVER = keys()
FRIEND, STRANGER = keys("friend", SERVER.public), keys("stranger", SERVER.public)


@pytest.fixture
def ctx() -> Iterator[sockets.Context]:
    context = sockets.context()
    yield context
    sockets.end(context)


@pytest.fixture
def outside() -> Iterator[sockets.Context]:
    context = sockets.context()
    yield context
    sockets.end(context)


@pytest.fixture
def admission(ctx: sockets.Context) -> Iterator[Admission]:
    made = Admission(ctx, [FRIEND.public])
    yield made
    made.close()


@pytest.fixture
def door(ctx: sockets.Context, admission: Admission) -> Door:
    bind = partial(sockets.bind_pull, ctx, host="127.0.0.1", hwm=100)
    return Door(bind, transport="tcp", sockets_dir=None, keys=SERVER, poller=Waiter())


def inlet(door: Door) -> sockets.Socket:
    (found,) = door.inlets
    return found


def dial(outside: sockets.Context, door: Door, own: Keys | None, peer: str = SERVER.public) -> sockets.Socket:
    return sockets.dial_push(outside, door.endpoints, keys=own, peer=peer)


def comes_in(outside: sockets.Context, door: Door, own: Keys) -> sockets.Socket:
    """Dial until a message of this owner is through."""
    push = dial(outside, door, own)
    assert push.poll(DEADLINE_MS, sockets.OUT)
    assert sockets.send(push, [own.name.encode()])
    assert inlet(door).poll(DEADLINE_MS, sockets.IN)
    assert sockets.receive(inlet(door)) == [own.name.encode()]
    return push


def news_of(push: sockets.Socket, monitor: sockets.Socket) -> str:
    while (news := sockets.watched(monitor)) is None:
        assert monitor.poll(DEADLINE_MS, sockets.IN)
    sockets.unwatch(push)
    return news


def watched_dial(outside: sockets.Context, door: Door, own: Keys | None, peer: str) -> tuple[sockets.Socket, str]:
    push = outside.socket(zmq.PUSH)
    monitor = sockets.watch(push)
    if own is not None:
        push.curve_publickey, push.curve_secretkey = own.public.encode(), own.secret.encode()
        push.curve_serverkey = peer.encode()
    push.connect(door.endpoints[0])
    push.send(b"never")
    return push, news_of(push, monitor)


def test_who_is_admitted_comes_in(outside: sockets.Context, door: Door) -> None:
    comes_in(outside, door, FRIEND)


@pytest.mark.parametrize(
    ("own", "peer", "news"),
    [(STRANGER, SERVER.public, "denied"), (FRIEND, STRANGER.public, "unshaken"), (None, "", "unshaken")],
    ids=["stranger", "wrong server", "no keys"],
)  # fmt: skip
def test_nothing_of_anybody_else_reaches_us(
    outside: sockets.Context, door: Door, own: Keys | None, peer: str, news: str
) -> None:
    _, said = watched_dial(outside, door, own, peer)
    assert said == news
    comes_in(outside, door, FRIEND)  # what was sent before would have come first
    assert not sockets.has_more(inlet(door))


def test_no_frame_of_a_peer_without_encryption_reaches_us(outside: sockets.Context, door: Door) -> None:
    """Raw bytes: greetings, a handshake and a message as one that speaks no encryption sends them, and noise."""
    port = int(door.endpoints[0].rpartition(":")[2])
    ready = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH"
    curve = GREETING[:12] + b"CURVE" + GREETING[17:]
    for said in (GREETING + ready + b"\x00\x05never", curve + b"\x00\x05never", os.urandom(4096), b"\xff" * 4096):
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.settimeout(DEADLINE_MS / 1000)
            with suppress(ConnectionError):
                raw.sendall(said)
                while raw.recv(4096):
                    pass  # until it hangs up
    comes_in(outside, door, FRIEND)
    assert not sockets.has_more(inlet(door))


def test_who_is_revoked_is_cut_off_and_the_others_come_again_at_the_same_address(
    outside: sockets.Context, door: Door, admission: Admission
) -> None:
    other = keys("other", SERVER.public)
    admission.admit([FRIEND.public, other.public])
    friend, revoked = comes_in(outside, door, FRIEND), comes_in(outside, door, other)
    address = door.endpoints
    assert admission.admit([FRIEND.public])
    door.reopen()
    assert door.endpoints == address
    for push in (friend, revoked):
        monitor = sockets.watch(push)
        while sockets.send(push, [b"late"]):  # False: it has noticed
            monitor.poll(10)
        sockets.unwatch(push)
    _, news = watched_dial(outside, door, other, SERVER.public)
    assert news == "denied"
    comes_in(outside, door, FRIEND)


def test_only_fewer_than_before_is_told(admission: Admission) -> None:
    assert not admission.admit([FRIEND.public, STRANGER.public])
    assert admission.admit([STRANGER.public])


def test_where_nobody_answers_nobody_comes_in(outside: sockets.Context, ctx: sockets.Context) -> None:
    bind = partial(sockets.bind_pull, ctx, host="127.0.0.1", hwm=100)
    door = Door(bind, transport="tcp", sockets_dir=None, keys=SERVER, poller=Waiter())
    _, news = watched_dial(outside, door, FRIEND, SERVER.public)
    assert news == "unshaken"
    made = Admission(ctx, [FRIEND.public])
    try:
        comes_in(outside, door, FRIEND)
        assert not sockets.has_more(inlet(door))
    finally:
        made.close()


@pytest.mark.parametrize("frames", [[b""], [b"", b"1.0"], [b"", b"1.0", b"7", b"zpipe", b"", b"", b"NULL"],
                                    [b"", b"1.0", b"7", b"zpipe", b"", b"", b"CURVE", b"short"],
                                    [os.urandom(9) for _ in range(40)]])  # fmt: skip
def test_a_strange_question_gets_a_no_and_the_next_its_answer(
    ctx: sockets.Context, outside: sockets.Context, door: Door, admission: Admission, frames: list[bytes]
) -> None:
    asks = ctx.socket(zmq.DEALER)
    asks.connect(sockets.ADMISSION)
    asks.send_multipart(frames)
    assert asks.poll(DEADLINE_MS, sockets.IN)
    assert asks.recv_multipart()[3] == b"400"
    comes_in(outside, door, FRIEND)
    assert admission.is_alive


def test_the_key_of_who_asks_is_known_to_the_registry(ctx: sockets.Context, outside: sockets.Context) -> None:
    admission = Admission(ctx, [FRIEND.public])
    router, address = sockets.router(ctx, "tcp://127.0.0.1:0", SERVER)
    dealer, _ = sockets.dealer(outside, address, b"12345678", FRIEND)
    sockets.ask(dealer, b"hello")
    assert router.poll(DEADLINE_MS, sockets.IN)
    assert sockets.receive_of(router) == ([b"12345678", b"hello"], FRIEND.public)
    admission.close()


def test_a_link_is_not_dialled_before_the_key_of_its_end_is_known(outside: sockets.Context) -> None:
    with pytest.raises(ConfigError, match=r"the roster has no key for tcp://127\.0\.0\.1:5"):
        sockets.dial_push(outside, ["tcp://127.0.0.1:5"], keys=FRIEND)


def test_within_the_machine_a_door_needs_no_keys(
    ctx: sockets.Context, outside: sockets.Context, admission: Admission, tmp_path: Path
) -> None:
    bind = partial(sockets.bind_pull, ctx, host="127.0.0.1", hwm=100)
    door = Door(bind, transport="auto", sockets_dir=str(tmp_path), keys=SERVER, poller=Waiter())
    assert [endpoint.partition(":")[0] for endpoint in door.endpoints] == ["ipc", "tcp"]
    for own in (None, FRIEND):
        push = sockets.dial_push(outside, door.endpoints, keys=own)
        assert push.poll(DEADLINE_MS, sockets.OUT)
        assert sockets.send(push, [b"near"])
        assert door.inlets[0].poll(DEADLINE_MS, sockets.IN)
        assert sockets.receive(door.inlets[0]) == [b"near"]


def test_those_that_never_say_who_they_are_keep_no_good_one_out(outside: sockets.Context, door: Door) -> None:
    port = int(door.endpoints[0].rpartition(":")[2])
    friend = comes_in(outside, door, FRIEND)
    with ExitStack() as opened:
        for _ in range(HALF_OPEN):
            opened.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert sockets.send(friend, [b"still"])
        assert inlet(door).poll(DEADLINE_MS, sockets.IN)
        assert sockets.receive(inlet(door)) == [b"still"]
        comes_in(outside, door, FRIEND)
