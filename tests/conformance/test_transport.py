"""What every transport of links promises: the simulator's network and the sockets are held to the same facts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conformance.transport import Bench, End, Real, join, opened, receiver, sender, until
from zpipe.core.limits import Limits
from zpipe.core.outlet import Link, Peer
from zpipe.transport import sockets
from zpipe.wire import frames
from zpipe.wire.frames import Ack, Open

ONE = Limits(window_max=1)  # the window never grows, so that acks repeat each other
HASTY = Limits(dial_s=0.3)


@pytest.fixture(params=["simulated", "ipc", "tcp", "keys"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    with opened(str(request.param), tmp_path) as bench:
        yield bench


def linked(bench: Bench, limits: Limits | None = None) -> tuple[End, End]:
    """Return a sender and a receiver with a link between them."""
    up, down = sender(bench, limits), receiver(bench, limits)
    join(bench, up, down)
    until(bench, lambda: down.inc in up.worker.outlet.links and up.link(down).state == Link.UP)
    return up, down


def widen(bench: Bench, up: End, down: End, room: int) -> int:
    """Let items pass, as many as may, until the link has room for so many more; return how many it took."""
    made = 0
    while (has := up.link(down).limit - up.link(down).sent) < room:
        up.make(*["early"] * max(1, has))
        made += max(1, has)
        until(bench, lambda made=made: up.settled == made)
    return made


def test_a_link_is_up_after_open_and_the_first_credit(bench: Bench) -> None:
    up, down = sender(bench), receiver(bench)
    join(bench, up, down)
    link = up.link(down)
    assert (link.state, link.gen, link.limit) == (Link.DIALING, 1, 0)
    until(bench, lambda: link.state == Link.UP)
    assert isinstance(down.worker.heard[0], Open)
    assert down.data == []
    first = up.acks[0]
    assert (first.src, first.dst, first.gen, first.limit, first.base, first.got) == (down.inc, up.inc, 1, 1, 1, 0)


def test_nothing_is_sent_before_the_link_is_up(bench: Bench) -> None:
    up, down = sender(bench), receiver(bench)
    up.make("x")
    join(bench, up, down)
    link = up.link(down)
    until(bench, lambda: down.called == ["x"], always=lambda: link.state == Link.UP or link.sent == 0)
    assert up.acks[0].got == 0


def test_messages_of_a_link_arrive_in_order(bench: Bench) -> None:
    up, down = linked(bench)
    up.make(*range(300))
    until(bench, lambda: up.settled == 300)
    assert down.called == list(range(300))
    assert [message.seq for message in down.data] == list(range(1, 301))


def test_nothing_above_the_credit_is_sent(bench: Bench) -> None:
    up, down = linked(bench)
    down.holds = True
    up.make("a", "b", "c")
    link, arriving = up.link(down), down.worker.inlet.links[up.inc]
    # The probe follows all that was sent: once it is there, so is everything.
    until(bench, lambda: arriving.seen_hi == 1, always=lambda: link.sent <= link.limit == 1)
    assert (arriving.got, down.called, up.worker.outlet.backlog) == (1, [], True)
    down.holds = False
    until(bench, lambda: up.settled == 3, always=lambda: link.sent <= link.limit)
    assert down.called == ["a", "b", "c"]


def told(up: End, down: End) -> tuple[object, ...]:
    """Return what acks may change at a sender."""
    link = up.link(down)
    return (link.state, link.gen, link.limit, link.limit_bytes, link.consumed, link.base, link.sent, link.unsettled,
            sorted(link.frames), up.settled, up.worker.outlet.unsettled_items)  # fmt: skip


def say_again(bench: Bench, down: End, up: End, ack: Ack) -> None:
    """Send an ack once more, and wait until it was heard."""
    before = up.acks.count(ack)
    down.worker.actions.append(("ack", ack))
    bench.act(down)
    until(bench, lambda: up.acks.count(ack) > before)


@pytest.mark.parametrize("which", ["the first", "the last"])
def test_an_ack_repeated_or_late_changes_nothing(bench: Bench, which: str) -> None:
    up, down = linked(bench, ONE)
    up.make("a", "b", "c")
    until(bench, lambda: up.settled == 3 and up.link(down).limit == 4)
    down.holds = True
    up.make("d")
    until(bench, lambda: up.acks[-1].got == 4)
    before = told(up, down)
    say_again(bench, down, up, up.acks[0 if which == "the first" else -1])
    assert told(up, down) == before
    down.holds = False
    until(bench, lambda: up.settled == 4)
    assert down.called == ["a", "b", "c", "d"]


def test_an_ack_of_a_closed_generation_settles_nothing(bench: Bench) -> None:
    up, down = linked(bench, ONE)
    up.make("a")
    until(bench, lambda: up.settled == 1)
    old = up.acks[-1]
    bench.cut(up, down)
    until(bench, lambda: down.inc in up.worker.outlet.links and up.link(down).gen == 2)
    down.holds = True
    up.make("b")
    until(bench, lambda: up.acks[-1].gen == 2 and up.acks[-1].got == 1)
    before = told(up, down)
    say_again(bench, down, up, old)
    assert told(up, down) == before
    assert (old.gen, old.base, up.settled) == (1, 2, 1)


def test_a_dead_receiver_makes_the_link_dead_and_another_gets_the_unsettled_first_and_in_order(bench: Bench) -> None:
    up, first = linked(bench)
    early = widen(bench, up, first, room=6)
    link = up.link(first)
    first.holds = True
    up.make(*"abcdef")
    until(bench, lambda: first.worker.inlet.links[up.inc].got == early + 6)
    bench.kill(first)
    until(bench, lambda: link.state == Link.DEAD)
    up.make(*"xyz")
    second = receiver(bench)
    join(bench, up, second)
    until(bench, lambda: up.settled == early + 9)
    assert second.called == list("abcdefxyz")
    assert [message.run.attempt for message in second.data] == [1, 1, 1, 1, 1, 1, 0, 0, 0]


def test_a_broken_link_is_dialled_again_and_gets_the_unsettled_first_and_in_order(bench: Bench) -> None:
    up, down = linked(bench)
    early = widen(bench, up, down, room=4)
    link = up.link(down)
    down.holds = True
    up.make(*"abcd")
    until(bench, lambda: link.unsettled == 4)
    bench.cut(up, down)
    until(bench, lambda: link.state == Link.DEAD)
    up.make("x")
    down.holds = False
    until(bench, lambda: up.settled == early + 5)
    assert up.link(down).gen > link.gen
    again = [message for message in down.data if message.gen == up.link(down).gen]
    assert [message.seq for message in again] == [1, 2, 3, 4, 5]
    # What came by the first connection is known and not called again.
    assert down.called[early:] == list("abcdx")


def test_a_receiver_gone_before_it_is_dialled_is_given_up_and_dialled_anew(bench: Bench) -> None:
    up, gone = sender(bench, HASTY), receiver(bench)
    bench.kill(gone)
    up.make("a", "b")
    up.worker.roster(bench.now_s(), [Peer(gone.inc, 0, endpoints=gone.endpoints)], set())
    links = [up.link(gone)]

    def dialled() -> int:
        current = up.worker.outlet.links.get(gone.inc)
        if current is not None and current not in links:
            links.append(current)
        return len(links)

    until(bench, lambda: dialled() == 3)
    assert [(link.gen, link.sent) for link in links] == [(1, 0), (2, 0), (3, 0)]
    assert [link.state for link in links[:2]] == [Link.DEAD, Link.DEAD]
    down = receiver(bench)
    join(bench, up, down)
    until(bench, lambda: up.settled == 2)
    assert down.called == ["a", "b"]


def test_raw_buffers_arrive_whole_and_read_only(bench: Bench) -> None:
    up, down = linked(bench)
    arrays = [np.arange(100_000), np.full((3, 4096), 7, "u1")]
    up.make({"left": arrays[0], "right": arrays[1]})
    until(bench, lambda: up.settled == 1)
    (found,) = down.called
    assert np.array_equal(found["left"], np.arange(100_000))
    assert np.array_equal(found["right"], np.full((3, 4096), 7, "u1"))
    assert not found["left"].flags.writeable
    assert not found["right"].flags.writeable


def test_an_ack_connection_that_breaks_is_dialled_again(bench: Bench) -> None:
    up, down = linked(bench)
    up.make("a")
    until(bench, lambda: up.settled == 1)
    gen = up.link(down).gen
    bench.cut_acks(down, up)
    up.make("b", "c")
    until(bench, lambda: up.settled == 3)
    assert down.called == ["a", "b", "c"]
    assert up.link(down).gen == gen


@pytest.mark.parametrize(("transport", "guarded"), [("ipc", False), ("tcp", True)])
def test_crc_guards_what_goes_over_a_network(tmp_path: Path, transport: str, guarded: bool) -> None:
    with opened(transport, tmp_path) as bench:
        assert isinstance(bench, Real)
        up = sender(bench)
        context = sockets.context()
        inbox, endpoints = sockets.bind_pull(
            context, host="127.0.0.1", sockets_dir=tmp_path, transport=transport, hwm=10
        )
        heard: list[list[memoryview]] = []

        def next_frames() -> bool:
            found = sockets.receive(inbox)
            heard.extend([found] if found is not None else [])
            return found is not None

        up.worker.roster(bench.now_s(), [Peer(99, 0, endpoints=tuple(endpoints))], set())
        until(bench, next_frames)
        opening = frames.decode(heard[0])
        assert isinstance(opening, Open)
        back = sockets.dial_push(context, opening.info["acks"])
        credit = Ack(99, up.inc, 1, 0, 1, 1000, 1, 0, 0, 0, 0, 0, [], [])
        until(bench, lambda: sockets.send(back, frames.encode(credit, crc=False)))
        up.make("x")
        until(bench, lambda: next_frames() and heard[-1][0][4] == frames.DATA)
        assert (bytes(heard[-1][0][68:72]) != bytes(4)) == guarded
        sockets.end(context)
