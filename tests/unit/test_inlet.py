"""The receiving side: what is taken in, the credit it has, and what an ack says of it."""

from __future__ import annotations

from typing import Any

import pytest

from zpipe.core.inlet import NEWS_MAX, Address, Inlet, InLink
from zpipe.core.limits import Limits
from zpipe.values.paths import Run
from zpipe.wire.frames import Ack, Data, Open, Sync


class Part:
    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


class Bench:
    """An inlet with edge 3, whose runs are kept and whose acks are noted."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.inlet = Inlet(1, {3}, limits or Limits(), self)
        self.addresses: list[Address] = []
        self.acks: list[Ack] = []
        self.dialled: list[tuple[int, int]] = []
        self.hung_up: list[tuple[int, int]] = []
        self.inlet.send_ack = self.acks.append
        self.inlet.dial_acks = lambda link: self.dialled.append((link.src, link.gen))
        self.inlet.hang_up = lambda link: self.hung_up.append((link.src, link.gen))

    def arrived(self, address: Address, run: Run) -> None:
        self.addresses.append(address)

    def open(self, src: int = 7, gen: int = 1, edge: int = 3) -> None:
        self.inlet.opened(Open(src, 1, gen, edge, {"acks": ["there"]}))

    def data(self, seq: int, n: int = 1, *, src: int = 7, gen: int = 1, nbytes: int = 10, now_s: float = 0.0) -> bool:
        run = Run(0, seq, (), n, [Part(nbytes) for _ in range(n)])
        return self.inlet.data(Data(src, 1, gen, 3, seq, run), now_s)

    def sync(self, hi: int, *, src: int = 7, gen: int = 1, blocked: bool = False) -> None:
        self.inlet.synced(Sync(src, 1, gen, 3, hi, blocked))

    def flush(self, *, quiet: bool = False, wants: tuple[int, ...] = (), **more: Any) -> list[Ack]:
        del self.acks[:]
        self.inlet.flush(quiet, wants, False, **more)
        return list(self.acks)


# -- settling -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settled", "base", "ranges"),
    [
        ([(1, 2)], 3, []),
        ([(3, 2)], 1, [[3, 4]]),
        ([(3, 2), (5, 1)], 1, [[3, 5]]),
        ([(5, 1), (3, 2)], 1, [[3, 5]]),
        ([(3, 1), (5, 1)], 1, [[3, 3], [5, 5]]),
        ([(5, 1), (3, 1)], 1, [[3, 3], [5, 5]]),
        ([(3, 1), (5, 1), (4, 1)], 1, [[3, 5]]),
        ([(3, 1), (5, 1), (1, 2)], 4, [[5, 5]]),
        ([(3, 1), (4, 2), (1, 2)], 6, []),
        ([(2, 1), (9, 1), (4, 1), (1, 1)], 3, [[4, 4], [9, 9]]),
        ([(3, 1), (9, 1), (5, 1)], 1, [[3, 3], [5, 5], [9, 9]]),
        ([(3, 1), (9, 1), (5, 2), (4, 1)], 1, [[3, 6], [9, 9]]),
    ],
)
def test_settled_seqs_are_a_base_and_ranges(settled: list[tuple[int, int]], base: int, ranges: list[list[int]]) -> None:
    link = InLink(7, 1, 3, ())
    link.dirty = False
    for seq, n in settled:
        link.settle(seq, n)
    assert (link.base, link.ranges, link.dirty) == (base, ranges, True)


def test_a_frame_returns_its_credit_once() -> None:
    link = InLink(7, 1, 3, ())
    address = Address(link, 1, Run(0, 0, (), 3, [Part(10)] * 3))
    link.dirty = False
    address.consume()
    address.consume()
    assert (link.consumed, link.consumed_bytes, link.dirty) == (3, 30, True)


# -- opening --------------------------------------------------------------------------------------------


def test_a_higher_generation_closes_the_link_and_begins_at_nothing() -> None:
    bench = Bench()
    bench.open()
    bench.flush()
    assert bench.data(1)
    bench.open(gen=4)
    assert (bench.dialled, bench.hung_up) == ([(7, 1), (7, 4)], [(7, 1)])
    (ack,) = bench.flush()
    assert (ack.gen, ack.got, ack.limit, ack.base) == (4, 0, 1, 1)
    assert not bench.data(2, gen=1)
    assert bench.inlet.links[7].acks == ("there",)


@pytest.mark.parametrize(("gen", "edge"), [(1, 3), (4, 9)])
def test_an_open_of_a_lower_generation_or_another_edge_is_ignored(gen: int, edge: int) -> None:
    bench = Bench()
    bench.open(gen=2)
    bench.flush()
    bench.open(gen=gen, edge=edge)
    assert (bench.inlet.refused, bench.dialled, bench.inlet.links[7].gen, bench.flush()) == (1, [(7, 2)], 2, [])


def test_an_open_of_the_known_generation_is_answered() -> None:
    bench = Bench()
    bench.open()
    bench.flush()
    bench.data(1)
    bench.flush()
    bench.open()
    (ack,) = bench.flush()
    assert (ack.got, bench.dialled, bench.inlet.refused) == (1, [(7, 1)], 0)


def test_an_open_that_names_no_place_for_acks_opens_a_link_all_the_same() -> None:
    bench = Bench()
    bench.inlet.opened(Open(7, 1, 1, 3, {}))
    assert bench.inlet.links[7].acks == ()


def test_close_forgets_the_generation_it_names() -> None:
    bench = Bench()
    bench.open(gen=2)
    bench.inlet.closed(7, 1)
    bench.inlet.closed(8, 2)
    link = bench.inlet.links[7]
    assert bench.inlet.links == {7: link}
    bench.inlet.closed(7, 2)
    assert (bench.inlet.links, bench.hung_up) == ({}, [(7, 2)])


# -- data -----------------------------------------------------------------------------------------------


def test_a_run_is_taken_in_when_it_comes_next_and_within_the_limit() -> None:
    bench = Bench(Limits(window_max=4))
    bench.open()
    bench.flush()
    bench.inlet.links[7].limit = 4
    assert bench.data(1, 2)
    assert bench.data(3, 2)
    link = bench.inlet.links[7]
    assert (link.got, link.got_bytes, bench.inlet.refused) == (4, 40, 0)
    assert [(address.seq, address.n, address.left) for address in bench.addresses] == [(1, 2, 2), (3, 2, 2)]


def test_nothing_is_taken_in_before_an_ack_has_given_credit() -> None:
    bench = Bench()
    bench.open()
    assert not bench.data(1)
    bench.flush()
    assert bench.data(1)


@pytest.mark.parametrize(("seq", "n", "echo"), [(1, 2, 0), (2, 1, 1), (3, 1, 2)])
def test_what_leaves_a_gap_or_passes_the_limit_is_dropped_and_the_sender_told(seq: int, n: int, echo: int) -> None:
    bench = Bench()
    bench.open()
    bench.flush()
    assert not bench.data(seq, n)
    (ack,) = bench.flush()
    assert (ack.got, ack.echo, bench.inlet.refused, bench.addresses) == (0, echo, 1, [])


@pytest.mark.parametrize(("seq", "echo"), [(1, 0), (2, 1), (4, 3), (5, 4)])
def test_a_run_that_does_not_come_next_is_dropped_however_much_credit_there_is(seq: int, echo: int) -> None:
    bench = Bench()
    bench.open()
    bench.inlet.links[7].limit = 9
    assert bench.data(1, 2)
    assert not bench.data(seq, 2)
    (ack,) = bench.flush()
    assert (ack.got, ack.echo, len(bench.addresses)) == (2, echo, 1)


@pytest.mark.parametrize("other", [{"src": 8}, {"gen": 2}, {"gen": 0}])
def test_data_of_no_open_link_is_dropped_unheard(other: dict[str, int]) -> None:
    bench = Bench()
    bench.open()
    bench.flush()
    assert not bench.data(1, **other)
    bench.sync(5, **other)
    assert (bench.flush(), bench.inlet.refused, bench.addresses) == ([], 1, [])


def test_whatever_is_refused_is_counted() -> None:
    bench = Bench()
    bench.open()
    for edge in (9, 8):
        bench.open(edge=edge)
    for gen in (2, 3):
        bench.data(1, gen=gen)
    for seq in (5, 6):
        bench.data(seq)
    assert bench.inlet.refused == 6


def test_a_probe_raises_the_echo_notes_who_waits_and_is_answered() -> None:
    bench = Bench()
    bench.open()
    bench.flush()
    bench.sync(5, blocked=True)
    assert bench.inlet.pressed
    bench.sync(3, blocked=False)
    assert not bench.inlet.pressed
    (ack,) = bench.flush()
    assert (ack.echo, ack.got) == (5, 0)
    assert bench.flush() == []


# -- credit ---------------------------------------------------------------------------------------------


def window(bench: Bench, *, used: bool = True) -> int:
    """Return the window with which a probe is answered, by one who has `used` all of the last."""
    link = bench.inlet.links[7]
    if used and link.limit > link.got:
        assert bench.data(link.got + 1, link.limit - link.got)
    bench.sync(link.got)
    (ack,) = bench.flush()
    return ack.limit - ack.consumed


def test_a_window_starts_at_one_and_doubles_with_each_ack_to_what_the_calls_allow() -> None:
    bench = Bench(Limits(flight_s=0.01))
    bench.open()
    assert [window(bench) for _ in range(2)] == [1, 1]
    bench.inlet.served(0.001, 1)
    assert [window(bench) for _ in range(5)] == [2, 4, 8, 11, 11]


def test_a_window_that_is_not_used_does_not_grow() -> None:
    bench = Bench(Limits(flight_s=0.01))
    bench.open()
    bench.inlet.served(0.0, 1)
    assert [window(bench, used=False) for _ in range(4)] == [2, 2, 2, 2]
    assert bench.data(1)  # half of it is used
    assert [window(bench, used=False) for _ in range(4)] == [4, 4, 4, 4]
    assert bench.data(2, 3)
    assert window(bench, used=False) == 8


def test_a_window_is_never_above_its_limit_nor_below_one() -> None:
    bench = Bench(Limits(window_max=3))
    bench.open()
    bench.inlet.served(0.0, 1)
    assert [window(bench) for _ in range(3)] == [2, 3, 3]
    slow = Bench()
    slow.open()
    slow.inlet.served(50.0, 1)
    assert window(slow) == 1


def test_a_sink_that_commits_has_a_least_window_whatever_a_commit_takes() -> None:
    bench = Bench()
    bench.inlet.least = 5
    bench.open()
    bench.inlet.served(50.0, 1)
    assert [window(bench) for _ in range(4)] == [2, 4, 5, 5]


def test_a_limit_never_falls_when_the_calls_grow_slow() -> None:
    bench = Bench()
    bench.open()
    bench.inlet.served(0.0, 1)
    assert [window(bench) for _ in range(3)] == [2, 4, 8]
    bench.inlet.service_s = 50.0
    assert window(bench) == 8
    assert bench.inlet.links[7].window == 1


def test_consumed_items_and_bytes_raise_the_limits() -> None:
    bench = Bench(Limits(budget_bytes=100))
    bench.open()
    (first,) = bench.flush()
    assert (first.limit, first.limit_bytes) == (1, 100)
    bench.data(1, nbytes=30)
    bench.addresses[0].consume()
    (second,) = bench.flush()
    assert (second.limit, second.limit_bytes, second.consumed, second.got) == (2, 130, 1, 1)
    bench.data(2, nbytes=20)
    bench.addresses[1].consume()
    (third,) = bench.flush()
    assert (third.limit, third.limit_bytes, third.consumed, third.got) == (3, 150, 2, 2)


def test_the_budget_is_shared_by_the_senders_of_the_roster() -> None:
    bench = Bench(Limits(budget_bytes=100))
    bench.inlet.roster({7, 8, 9})
    bench.open()
    assert bench.flush()[0].limit_bytes == 33
    bench.inlet.roster(set())
    assert bench.inlet.senders == 1


def test_how_long_calls_take_is_a_moving_average() -> None:
    inlet = Bench().inlet
    inlet.served(2.0, 4)
    assert inlet.service_s == 0.5
    inlet.served(1.0, 1)
    assert inlet.service_s == pytest.approx(0.6)
    inlet.served(0.0, 48)
    assert inlet.service_s == pytest.approx(0.15)


def test_the_round_trip_is_measured_from_the_hungry_ack_to_the_next_run() -> None:
    bench = Bench(Limits(flight_max_s=0.02))
    bench.open()
    bench.flush(hungry_s=1.0)
    assert bench.inlet.hungry_s is None  # nothing was granted before
    bench.data(1)
    bench.addresses[0].consume()
    bench.flush(hungry_s=1.0)
    bench.sync(1)
    bench.flush(hungry_s=1.5)
    bench.data(2, now_s=1.012)
    assert bench.inlet.flight_s == pytest.approx(0.003)
    assert bench.inlet.hungry_s is None
    bench.addresses[1].consume()
    bench.flush(hungry_s=2.0)
    bench.data(3, now_s=9.0)
    assert bench.inlet.flight_s == pytest.approx(0.00725)


def test_a_window_holds_the_round_trip_and_at_least_its_share_of_work() -> None:
    bench = Bench(Limits(flight_s=0.01))
    bench.open()
    bench.inlet.served(0.001, 1)
    assert [window(bench) for _ in range(5)] == [2, 4, 8, 11, 11]
    bench.inlet.flight_s = 0.015
    assert window(bench) == 16


def test_the_round_trip_is_measured_from_the_first_of_several_hungry_acks() -> None:
    bench = Bench(Limits(flight_max_s=1.0))
    for src in (7, 8):
        bench.open(src)
    bench.flush()
    for src in (7, 8):
        bench.data(1, src=src)
    bench.addresses[0].consume()
    bench.flush(hungry_s=1.0)
    bench.addresses[1].consume()
    bench.flush(hungry_s=1.5)
    bench.data(2, now_s=1.8)
    assert bench.inlet.flight_s == pytest.approx(0.2)


# -- acks -----------------------------------------------------------------------------------------------


def test_an_ack_says_all_there_is_to_say() -> None:
    bench = Bench(Limits(ack_ranges=2))
    bench.open()
    link = bench.inlet.links[7]
    link.got = link.consumed = 20
    for seq in (1, 3, 5, 7):
        link.settle(seq, 1)
    bench.inlet.flush(True, (4, 6), True)
    assert bench.acks == [
        Ack(src=1, dst=7, gen=1, edge=3, limit=21, limit_bytes=48 * 2**20, base=2, got=20, consumed=20, echo=0,
            state=1, quiet=1, ranges=[(3, 3), (5, 5)], wants=[4, 6])
    ]  # fmt: skip


def test_links_without_news_are_not_acknowledged() -> None:
    bench = Bench()
    bench.open(7)
    bench.open(8)
    assert [ack.dst for ack in bench.flush()] == [7, 8]
    assert not bench.inlet.has_news
    bench.inlet.links[8].settle(1, 1)
    assert bench.inlet.has_news
    assert [ack.dst for ack in bench.flush()] == [8]
    assert [ack.dst for ack in bench.flush(quiet=True)] == [7, 8]
    assert [ack.dst for ack in bench.flush(quiet=True, wants=(1,))] == [7, 8]
    assert bench.flush(quiet=True, wants=(1,)) == []


def test_a_sender_that_is_not_heard_is_told_of_quiet_and_wants_a_few_times_only() -> None:
    bench = Bench()
    bench.open()
    bench.flush()
    assert sum(len(bench.flush(quiet=k % 2 == 0)) for k in range(50)) == NEWS_MAX == 8
    bench.sync(0)
    assert sum(len(bench.flush(quiet=k % 2 == 0)) for k in range(50)) == 1 + NEWS_MAX
    bench.data(1)
    assert sum(len(bench.flush(quiet=k % 2 == 0)) for k in range(50)) == NEWS_MAX


def test_acks_are_urgent_when_half_of_the_window_is_left_or_a_source_waits() -> None:
    bench = Bench()
    bench.open()
    link = bench.inlet.links[7]
    link.window, link.limit, link.got = 8, 8, 3
    assert not bench.inlet.is_urgent
    link.got = 4
    assert bench.inlet.is_urgent
    link.dirty = False
    assert not bench.inlet.is_urgent
    link.dirty, link.got, link.pressed = True, 0, True
    assert bench.inlet.is_urgent


# -- rosters --------------------------------------------------------------------------------------------


def test_a_sender_that_the_roster_no_longer_names_is_closed_and_an_early_one_is_not() -> None:
    bench = Bench()
    bench.inlet.roster({7})
    bench.open(7)
    bench.open(8)
    bench.inlet.roster({9})
    assert (list(bench.inlet.links), bench.hung_up) == ([8], [(7, 1)])
    bench.inlet.roster({8})
    bench.inlet.roster({9})
    assert (bench.inlet.links, bench.hung_up) == ({}, [(7, 1), (8, 1)])


@pytest.mark.parametrize("how", ["data", "sync", "open"])
def test_a_sender_that_was_left_out_and_goes_on_keeps_its_link(how: str) -> None:
    bench = Bench()
    bench.inlet.roster({7})
    bench.open()
    bench.flush()
    bench.data(1)
    bench.addresses[0].consume()
    bench.flush()
    bench.inlet.roster(set())
    {"data": lambda: bench.data(2), "sync": lambda: bench.sync(1), "open": bench.open}[how]()
    assert bench.dialled == [(7, 1), (7, 1)]
    (ack,) = bench.flush()
    assert (ack.gen, ack.got, ack.consumed) == (1, 2 if how == "data" else 1, 1)
    bench.inlet.roster(set())
    assert bench.inlet.links == {}


def test_another_generation_of_a_sender_that_was_left_out_begins_at_nothing() -> None:
    bench = Bench()
    bench.inlet.roster({7})
    bench.open()
    bench.inlet.roster(set())
    assert not bench.data(1, gen=2)
    assert (bench.inlet.links, bench.dialled) == ({}, [(7, 1)])
    bench.open(gen=2)
    assert (bench.inlet.links[7].gen, bench.inlet.left) == (2, {})


def test_an_earlier_opening_that_comes_late_does_not_take_the_place_of_a_link_that_was_left_out() -> None:
    bench = Bench()
    bench.inlet.roster({7})
    bench.open(gen=2)
    bench.inlet.roster(set())
    bench.open(gen=1)
    assert (bench.inlet.links, bench.inlet.left[7].gen) == ({}, 2)
    bench.sync(1, gen=2)
    assert bench.inlet.links[7].gen == 2


def test_only_so_many_closed_links_are_remembered_the_latest() -> None:
    bench = Bench()
    for src in range(257):
        bench.open(src)
        bench.inlet.roster({src})
    bench.inlet.roster(set())
    assert (len(bench.inlet.left), min(bench.inlet.left), max(bench.inlet.left)) == (256, 1, 256)
