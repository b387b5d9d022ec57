"""Faults that were found by thinking of real sockets: what the simulator's network never does."""

from __future__ import annotations

from zpipe.core.inlet import NEWS_MAX, Inlet
from zpipe.core.ledger import Ledger
from zpipe.core.limits import Limits
from zpipe.core.outlet import Edge, Link, Outlet, Peer
from zpipe.core.worker import Role, Worker
from zpipe.values.paths import Run
from zpipe.wire.frames import Ack, Open, Sync


def outlet_with_link(syncs: list[int]) -> tuple[Outlet, Link]:
    """Return an outlet whose one link is up and has one frame of four items on it."""
    outlet = Outlet([Edge(0, False)], Limits())
    outlet.dial = outlet.hang_up = lambda link: None
    outlet.send = lambda link, seq, out: None
    outlet.sync = lambda link, hi: syncs.append(hi)
    outlet.roster(0.0, [Peer(7, 0)])
    outlet.ack(0.0, ack(limit=100, base=1))
    outlet.emit(Run(0, 0, (), 4, [None] * 4), ())
    outlet.dispatch()
    return outlet, outlet.links[7]


def ack(*, limit: int, base: int, dst: int = 1) -> Ack:
    return Ack(7, dst, 1, 0, limit, 10**6, base, 0, 0, 0, 0, 0, [], [])


def test_an_ack_for_an_earlier_process_at_our_address_settles_nothing() -> None:
    outlet, link = outlet_with_link([])
    worker = Worker(1, Role(inputs=(), outputs=()), Limits())
    worker.outlet = outlet
    worker.received(0.0, ack(limit=100, base=5, dst=2))
    assert (link.unsettled, worker.refused) == (1, 1)
    worker.received(0.0, ack(limit=100, base=5, dst=1))
    assert link.unsettled == 0


def test_an_ack_from_the_middle_of_a_frame_does_not_settle_it() -> None:
    outlet, link = outlet_with_link([])
    outlet.ack(0.0, ack(limit=100, base=3))
    assert (link.base, link.unsettled, outlet.unsettled_items) == (1, 1, 4)


def test_a_receiver_in_a_call_of_an_hour_is_probed_less_and_less() -> None:
    syncs: list[int] = []
    outlet, _ = outlet_with_link(syncs)
    for tick in range(36_000):
        outlet.tick(0.1 * tick)
        outlet.press(0.1 * tick, bool(tick % 2))
    assert 100 < len(syncs) < 600  # its inbox takes 16384 messages, and then breaks the link


def test_a_sender_in_a_long_call_is_not_buried_in_acks() -> None:
    acks: list[Ack] = []
    inlet = Inlet(1, {0}, Limits(), Ledger(Limits()))
    inlet.dial_acks = inlet.hang_up = lambda link: None
    inlet.send_ack = acks.append
    inlet.opened(Open(7, 1, 1, 0, {}))
    for turn in range(1000):
        inlet.flush(bool(turn % 2), (), draining=False)
    assert len(acks) == 1 + NEWS_MAX
    inlet.synced(Sync(7, 1, 1, 0, 0, False))
    inlet.flush(True, (), draining=False)
    assert acks[-1].quiet == 1
