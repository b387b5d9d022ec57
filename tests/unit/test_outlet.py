"""The sending side: who gets what, what an ack settles, and what becomes of a dead link."""

from __future__ import annotations

from typing import Any

import pytest

from zpipe.core.histogram import bucket
from zpipe.core.limits import Limits
from zpipe.core.outlet import Edge, Link, Out, Outlet, Peer
from zpipe.values.paths import Mark, Run
from zpipe.wire.frames import Ack


class Part:
    def __init__(self, nbytes: int, output: str = "") -> None:
        self.nbytes = nbytes
        self.output = output


class Parent:
    def __init__(self, *, closed: bool = True) -> None:
        self.pend = 0
        self.closed = closed
        self.times = 0

    def settled(self) -> None:
        self.times += 1


def run(position: int, n: int = 1, *, nbytes: int = 10, marks: bytes | None = None) -> Run:
    parts = [None if marks and marks[i] else Part(nbytes) for i in range(n)]
    return Run(0, position, (), n, parts, marks=marks)


class Bench:
    """An outlet whose actions are noted: sends as (receiver, seq, position, n)."""

    def __init__(self, *edges: Edge, limits: Limits | None = None) -> None:
        self.outlet = Outlet(edges or [Edge(0, False)], limits or Limits())
        self.sends: list[tuple[int, int, int, int]] = []
        self.syncs: list[tuple[int, int]] = []
        self.dials: list[tuple[int, int]] = []
        self.hung_up: list[tuple[int, int]] = []
        outlet = self.outlet
        outlet.send = lambda link, seq, out: self.sends.append((link.peer.inc, seq, out.run.position, out.run.n))
        outlet.sync = lambda link, hi: self.syncs.append((link.peer.inc, hi))
        outlet.dial = lambda link: self.dials.append((link.peer.inc, link.gen))
        outlet.hang_up = lambda link: self.hung_up.append((link.peer.inc, link.gen))

    def ack(self, src: int, now_s: float = 0.0, **fields: Any) -> None:
        known: dict[str, Any] = {
            "src": src, "dst": 1, "gen": 1, "edge": 0, "limit": 0, "limit_bytes": 10**6, "base": 1, "got": 0,
            "consumed": 0, "echo": 0, "state": 0, "quiet": 0, "ranges": [], "wants": [],
        }  # fmt: skip
        self.outlet.ack(now_s, Ack(**{**known, **fields}))

    def link(self, inc: int, *, limit: int = 0, **fields: Any) -> Link:
        """Bring up a link to one more receiver."""
        peers = [*self.outlet.peers.values(), Peer(inc, fields.pop("edge", 0))]
        self.outlet.roster(0.0, peers)
        self.ack(inc, limit=limit, **fields)
        return self.outlet.links[inc]

    def emit(self, *runs: Run, parent: Parent | None = None) -> None:
        for each in runs:
            self.outlet.emit(each, (parent,) if parent else ())
        self.outlet.dispatch()

    @property
    def ready(self) -> list[tuple[int, int, int]]:
        """Return (position, n, attempt) of what waits."""
        return [(o.run.position, o.run.n, o.run.attempt) for e in self.outlet.edges.values() for o in e.ready]


# -- sending --------------------------------------------------------------------------------------------


def test_what_is_emitted_waits_for_credit_and_counts_as_unsettled() -> None:
    bench = Bench()
    parent = Parent()
    bench.emit(run(0, 3), parent=parent)
    assert (bench.outlet.backlog, bench.sends, parent.pend) == (True, [], 1)
    assert (bench.outlet.unsettled_items, bench.outlet.unsettled_bytes, bench.outlet.out_items) == (3, 30, 3)
    bench.link(7, limit=3)
    bench.outlet.dispatch()
    assert (bench.outlet.backlog, bench.sends) == (False, [(7, 1, 0, 3)])
    assert (bench.outlet.unsettled_items, bench.outlet.unsettled_bytes) == (3, 30)


def test_nothing_is_sent_on_a_link_that_dials_or_drains() -> None:
    bench = Bench()
    bench.outlet.roster(0.0, [Peer(7, 0), Peer(8, 0)])
    bench.outlet.links[7].limit = 9
    bench.ack(8, limit=9, state=1)
    bench.emit(run(0))
    assert bench.sends == []
    bench.outlet.dispatch()
    assert bench.sends == []
    bench.ack(8, limit=9, state=0)  # it stays after all
    bench.outlet.dispatch()
    assert bench.sends == [(8, 1, 0, 1)]


def test_a_link_has_no_credit_but_what_acks_have_given() -> None:
    bench = Bench()
    bench.link(7, limit=0)
    bench.emit(run(0))
    assert bench.sends == []


def test_an_edge_that_waits_for_credit_does_not_hold_up_another() -> None:
    bench = Bench(Edge(0, False), Edge(1, False))
    bench.link(8, limit=9, edge=1)
    bench.emit(run(0))
    assert bench.sends == [(8, 1, 0, 1)]


def sent_to(*outputs: str) -> Run:
    return Run(0, 5, (), len(outputs), [Part(10, output) for output in outputs])


def test_the_readers_of_an_output_get_what_is_sent_to_it_and_tombstones_for_the_rest() -> None:
    bench = Bench(Edge(0, True, outputs=("a",)), Edge(1, True, outputs=("b", "")))
    bench.emit(sent_to("a", "b", "a", ""))
    runs = [out.run for edge in bench.outlet.edges.values() for out in edge.ready]
    assert [(r.path(0), r.marks) for r in runs] == [((0, 5), bytes((0, 1, 0, 1))), ((0, 5), bytes((1, 0, 1, 0)))]
    assert [[part and part.output for part in r.parts or ()] for r in runs] == [
        ["a", None, "a", None],
        [None, "b", None, ""],
    ]
    assert bench.outlet.out_items == 4


def test_without_marks_an_output_gets_its_items_alone() -> None:
    bench = Bench(Edge(0, False, outputs=("a",)), Edge(1, False, outputs=("b",)))
    parent = Parent()
    bench.emit(sent_to("a", "a", "b", "a"), sent_to("b"), parent=parent)
    assert bench.ready == [(5, 2, 0), (8, 1, 0), (7, 1, 0), (5, 1, 0)]
    assert parent.pend == 4


def test_marks_go_to_the_readers_of_every_output() -> None:
    bench = Bench(Edge(0, True, outputs=("a",)), Edge(1, True, outputs=("b",)))
    bench.emit(run(3, 2, marks=bytes((Mark.TOMB, Mark.FIN))))
    assert [out.run.marks for edge in bench.outlet.edges.values() for out in edge.ready] == [b"\x01\x04"] * 2


def test_seqs_count_items_and_a_run_is_cut_where_the_credit_ends() -> None:
    bench = Bench()
    parent = Parent()
    bench.link(7, limit=4)
    bench.emit(run(0, 3), run(3, 3), parent=parent)
    assert bench.sends == [(7, 1, 0, 3), (7, 4, 3, 1)]
    assert (bench.ready, parent.pend) == ([(4, 2, 0)], 3)
    bench.ack(7, limit=6, got=4)
    bench.outlet.dispatch()
    assert bench.sends[2:] == [(7, 5, 4, 2)]
    assert (bench.outlet.unsettled_items, bench.outlet.unsettled_bytes) == (6, 60)


def test_both_halves_of_a_run_that_was_cut_are_saved_for_their_edge() -> None:
    bench = Bench(Edge(5, False))
    bench.link(7, limit=1, edge=5)
    bench.emit(run(0, 3))
    assert [(out.edge, out.run.n, out.nbytes) for out in bench.outlet.unsettled()] == [(5, 1, 10), (5, 2, 20)]


def test_the_least_loaded_link_is_chosen_and_of_equal_ones_that_used_longest_ago() -> None:
    bench = Bench()
    for inc in (7, 8, 9):
        bench.link(inc, limit=10)
    bench.emit(run(0, 2), run(2), run(3), run(4), run(5), run(6))
    assert [inc for inc, *_ in bench.sends] == [7, 8, 9, 8, 9, 7]
    bench.ack(9, limit=10, got=2, consumed=2)
    bench.emit(run(7))
    assert bench.sends[-1] == (9, 3, 7, 1)


def test_links_of_equal_load_take_turns() -> None:
    bench = Bench()
    bench.link(7, limit=10)
    bench.link(8, limit=10)
    for position, count in ((0, 1), (1, 1), (2, 2), (3, 2)):
        bench.emit(run(position))
        bench.ack(bench.sends[-1][0], limit=10, got=count, consumed=count)
    assert [inc for inc, *_ in bench.sends] == [7, 8, 7, 8]


def test_a_load_is_what_was_not_consumed_however_much_was_ever_sent() -> None:
    bench = Bench()
    bench.link(7, limit=10)
    bench.emit(run(0, 5))
    bench.ack(7, limit=10, got=5, consumed=5)
    bench.link(8, limit=10)
    bench.emit(run(5), run(6))
    assert [inc for inc, *_ in bench.sends] == [7, 8, 7]


def test_a_link_without_credit_is_passed_over_however_little_its_load() -> None:
    bench = Bench()
    bench.link(7, limit=1)
    bench.link(8, limit=9)
    bench.emit(run(0), run(1, 3), run(4), run(5))
    assert [inc for inc, *_ in bench.sends] == [7, 8, 8, 8]


def test_bytes_stop_a_link_only_while_something_on_it_is_unconsumed() -> None:
    bench = Bench()
    bench.link(7, limit=10, limit_bytes=30)
    bench.emit(run(0, nbytes=40))  # larger than all the credit
    bench.emit(run(1))
    assert bench.sends == [(7, 1, 0, 1)]
    bench.ack(7, limit=10, limit_bytes=50, got=1)
    bench.outlet.dispatch()
    assert bench.sends[1:] == [(7, 2, 1, 1)]
    bench.emit(run(2, nbytes=1))
    assert len(bench.sends) == 2
    bench.ack(7, limit=10, limit_bytes=50, got=2, consumed=2)
    bench.outlet.dispatch()
    assert bench.sends[2:] == [(7, 3, 2, 1)]


def test_a_link_without_bytes_is_passed_over_for_one_that_has_them() -> None:
    bench = Bench()
    bench.link(7, limit=10, limit_bytes=10)
    bench.link(8, limit=10)
    bench.emit(run(0), run(1, 2), run(3))  # the last finds the load of 7 lower
    assert [inc for inc, *_ in bench.sends] == [7, 8, 8]


def test_outputs_are_counted_over_all_that_was_emitted() -> None:
    bench = Bench()
    bench.emit(run(0, 3), run(3, 2))
    assert bench.outlet.out_items == 5


def test_marks_travel_on_marked_edges_only_and_runs_are_cut_around_them() -> None:
    bench = Bench(Edge(0, False), Edge(1, True))
    bench.link(7, limit=100)
    bench.link(8, limit=100, edge=1)
    bench.emit(run(0, 6, marks=b"\1\0\0\1\0\2"))
    assert bench.sends == [(7, 1, 1, 2), (7, 3, 4, 1), (8, 1, 0, 6)]
    assert (bench.outlet.out_items, bench.outlet.unsettled_items) == (3, 9)
    assert bench.outlet.marked
    assert not Bench().outlet.marked


def test_a_run_that_ends_in_items_keeps_its_last_stretch() -> None:
    bench = Bench()
    bench.link(7, limit=100)
    bench.emit(run(0, 3, marks=b"\1\0\0"), run(3, 2, marks=b"\1\1"))
    assert bench.sends == [(7, 1, 1, 2)]


def test_each_arm_of_a_fan_out_has_lanes_of_its_own_and_all_must_settle() -> None:
    bench = Bench(Edge(0, False, {0: 5}), Edge(1, False, {0: 6}))
    parent = Parent()
    bench.emit(run(0, 2), parent=parent)
    assert [[out.run.lane for out in edge.ready] for edge in bench.outlet.edges.values()] == [[5], [6]]
    assert (parent.pend, bench.outlet.out_items) == (2, 2)
    bench.link(7, limit=9)
    bench.link(8, limit=9, edge=1)
    bench.outlet.dispatch()
    bench.ack(7, got=2, base=3)
    assert (parent.pend, parent.times) == (1, 0)
    bench.ack(8, got=2, base=3)
    assert (parent.pend, parent.times) == (0, 1)


def test_what_is_unsettled_is_listed_by_edge_links_first() -> None:
    bench = Bench()
    bench.link(7, limit=3)
    bench.emit(run(0), run(1), run(2), run(3))
    bench.ack(7, got=2, base=2)
    assert [out.run.position for out in bench.outlet.unsettled()] == [1, 2, 3]


def test_what_a_save_held_is_sent_again_for_nobody() -> None:
    bench = Bench()
    bench.outlet.resend(0, run(4, 2))
    assert (bench.ready, bench.outlet.unsettled_items, bench.outlet.out_items) == ([(4, 2, 0)], 2, 0)


# -- acks -----------------------------------------------------------------------------------------------


def sent(bench: Bench, *lengths: int) -> tuple[Link, list[Parent]]:
    """Send runs of these lengths on one link, each from a parent of its own."""
    link = bench.link(7, limit=100)
    parents = []
    for k, n in enumerate(lengths):
        parents.append(Parent())
        bench.emit(run(10 * k, n), parent=parents[-1])
    return link, parents


def test_base_settles_every_frame_below_it() -> None:
    bench = Bench()
    link, parents = sent(bench, 2, 1, 3)
    bench.ack(7, base=4, got=6)
    assert [parent.times for parent in parents] == [1, 1, 0]
    assert (link.base, link.unsettled, list(link.frames)) == (4, 1, [4])
    assert (bench.outlet.unsettled_items, bench.outlet.unsettled_bytes) == (3, 30)
    bench.ack(7, base=7, got=6)
    assert (link.base, link.unsettled, link.frames, bench.outlet.unsettled_items) == (7, 0, {}, 0)


@pytest.mark.parametrize(
    ("ranges", "settled"),
    [
        ([(3, 3)], [0, 1, 0]), ([(3, 6)], [0, 1, 1]), ([(4, 6)], [0, 0, 1]),
        ([(4, 5)], [0, 0, 0]), ([(3, 4)], [0, 1, 0]), ([(5, 6)], [0, 0, 0]), ([(3, 3), (4, 6)], [0, 1, 1]),
        ([(2, 3)], [0, 0, 0]), ([(9, 9)], [0, 0, 0]),
    ],
)  # fmt: skip
def test_ranges_settle_whole_frames(ranges: list[tuple[int, int]], settled: list[int]) -> None:
    bench = Bench()
    link, parents = sent(bench, 2, 1, 3)
    bench.ack(7, got=6, ranges=ranges)
    assert [parent.times for parent in parents] == settled
    assert (link.base, link.unsettled) == (1, 3 - sum(settled))


def test_what_a_range_has_settled_is_not_settled_again() -> None:
    bench = Bench()
    link, parents = sent(bench, 2, 1, 3)
    for _ in range(2):
        bench.ack(7, got=6, ranges=[(3, 3)])
    bench.ack(7, got=6, ranges=[(3, 6)])
    bench.ack(7, got=6, base=7)
    assert [parent.times for parent in parents] == [1, 1, 1]
    assert (link.base, link.unsettled, bench.outlet.unsettled_items, bench.outlet.unsettled_bytes) == (7, 0, 0, 0)


def test_a_range_that_reaches_below_base_settles_what_is_above() -> None:
    bench = Bench()
    _, parents = sent(bench, 2, 1, 3)
    bench.ack(7, got=6, base=3, ranges=[(1, 3)])
    assert [parent.times for parent in parents] == [1, 1, 0]


def test_a_base_inside_a_frame_settles_it_as_little_as_any_of_its_items() -> None:
    bench = Bench()
    link, parents = sent(bench, 2, 3)
    bench.ack(7, base=4, got=5)
    assert ([parent.times for parent in parents], link.base) == ([1, 0], 3)


def test_a_frame_named_in_part_does_not_hide_what_else_an_ack_says() -> None:
    bench = Bench()
    _, parents = sent(bench, 2, 3, 1, 1)
    bench.ack(7, got=7, base=2, ranges=[(3, 4), (6, 6)])
    assert [parent.times for parent in parents] == [0, 0, 1, 0]


@pytest.mark.parametrize("lie", [{"gen": 2}, {"gen": 0}, {"base": 5}, {"got": 4}, {"src": 8}])
def test_an_ack_of_another_generation_or_beyond_what_was_sent_is_ignored(lie: dict[str, int]) -> None:
    bench = Bench()
    link, parents = sent(bench, 3)
    bench.ack(**{"src": 7, "limit": 500, "base": 4, "got": 3, **lie})
    assert (parents[0].times, link.limit) == (0, 100)
    bench.ack(7, base=4, got=3)
    assert parents[0].times == 1


def test_limits_and_counts_of_a_late_ack_change_nothing() -> None:
    bench = Bench()
    link, _ = sent(bench, 3)
    bench.ack(7, limit=200, limit_bytes=900 * 10**6, consumed=2, got=3)
    bench.ack(7, limit=150, limit_bytes=5, consumed=1, got=2)
    assert (link.limit, link.limit_bytes, link.consumed) == (200, 900 * 10**6, 2)


def test_a_parent_that_is_not_closed_is_not_settled() -> None:
    bench = Bench()
    parent = Parent(closed=False)
    bench.link(7, limit=9)
    bench.emit(run(0), parent=parent)
    bench.ack(7, got=1, base=2)
    assert (parent.pend, parent.times) == (0, 0)


# -- links ----------------------------------------------------------------------------------------------


def test_the_unsettled_of_a_lost_link_is_ready_again_first_and_in_order() -> None:
    bench = Bench()
    link = bench.link(7, limit=4)
    bench.emit(run(0), run(1), run(2), run(3), run(9))
    bench.ack(7, got=4, ranges=[(2, 2)])
    bench.outlet.lost(0.0, link)
    assert bench.ready == [(0, 1, 1), (2, 1, 1), (3, 1, 1), (9, 1, 0)]
    assert (link.state, bench.hung_up, bench.outlet.links, bench.outlet.edges[0].links) == ("dead", [(7, 1)], {}, [])
    assert bench.outlet.unsettled_items == 4
    bench.outlet.lost(0.0, link)
    assert (bench.ready[0], bench.hung_up) == ((0, 1, 1), [(7, 1)])


def test_attempts_stop_counting_at_what_fits_a_byte() -> None:
    bench = Bench()
    link = bench.link(7, limit=4)
    again = run(0)
    again.attempt = 254
    bench.emit(again, run(1))
    bench.outlet.lost(0.0, link)
    bench.outlet.roster(0.0, [])
    link = bench.link(8, limit=4)
    bench.outlet.dispatch()
    bench.outlet.lost(0.0, link)
    assert bench.ready == [(0, 1, 255), (1, 1, 2)]


@pytest.mark.parametrize(("echo", "got", "dead"), [(2, 2, False), (2, 1, True), (1, 2, False)])
def test_a_receiver_that_misses_what_was_sent_makes_the_link_dead(echo: int, got: int, dead: bool) -> None:
    bench = Bench()
    link, _ = sent(bench, 1, 1)
    bench.ack(7, got=got, echo=echo)
    assert (link.state == "dead") == dead


def test_the_roster_dials_whom_it_names_and_drops_whom_it_does_not() -> None:
    bench = Bench()
    bench.outlet.roster(0.0, [Peer(7, 0), Peer(8, 0)])
    bench.outlet.roster(0.0, [Peer(8, 0), Peer(9, 0)])
    assert (bench.dials, bench.hung_up) == ([(7, 1), (8, 1), (9, 1)], [(7, 1)])
    bench.outlet.tick(100.0)
    assert 7 not in bench.outlet.redial
    bench.outlet.roster(0.0, [Peer(7, 0)])
    assert bench.dials[-1] == (7, 2)


def test_a_receiver_that_waits_to_be_dialled_again_is_not_dialled_by_a_roster() -> None:
    bench = Bench()
    bench.outlet.lost(0.0, bench.link(7))
    bench.outlet.roster(0.0, [Peer(7, 0)])
    assert bench.dials == [(7, 1)]
    bench.outlet.roster(0.0, [])
    bench.outlet.tick(9.0)
    assert bench.dials == [(7, 1)]


def test_pauses_before_a_redial_double_to_their_limit_until_an_ack_comes() -> None:
    bench = Bench(limits=Limits(redial_s=0.5, dial_s=2.0))
    link = bench.link(7)
    now_s = 10.0
    pauses = []
    for _ in range(4):
        bench.outlet.lost(now_s, link)
        when_s = bench.outlet.redial[7][0]
        pauses.append(when_s - now_s)
        bench.outlet.tick(when_s - 0.01)
        assert 7 not in bench.outlet.links
        bench.outlet.tick(when_s)
        link, now_s = bench.outlet.links[7], when_s
    assert pauses == [0.5, 1.0, 2.0, 2.0]
    bench.ack(7, gen=link.gen)
    bench.outlet.lost(now_s, link)
    assert bench.outlet.redial[7] == (now_s + 0.5, 1.0)


def test_a_dial_without_an_answer_is_given_up_in_time() -> None:
    bench = Bench(limits=Limits(dial_s=2.0))
    bench.outlet.roster(5.0, [Peer(7, 0)])
    bench.outlet.tick(6.9)
    assert bench.hung_up == []
    bench.outlet.tick(7.0)
    assert (bench.hung_up, bench.syncs) == ([(7, 1)], [])


def test_a_link_is_probed_often_while_something_on_it_is_unsettled() -> None:
    bench = Bench(limits=Limits(sync_s=0.5))
    link, _ = sent(bench, 3)
    bench.outlet.tick(0.4)
    assert bench.syncs == []
    bench.outlet.tick(0.5)
    bench.outlet.tick(0.9)
    assert bench.syncs == [(7, 3)]
    bench.ack(7, got=3, base=4)
    bench.outlet.tick(5.4)
    assert len(bench.syncs) == 1
    bench.outlet.tick(5.5)
    assert (bench.syncs, link.synced_s) == ([(7, 3), (7, 3)], 5.5)


def test_probes_without_an_answer_come_less_and_less_often() -> None:
    bench = Bench(limits=Limits(sync_s=1.0))
    sent(bench, 1)
    times = []
    for tick in range(40):
        before = len(bench.syncs)
        bench.outlet.tick(float(tick))
        times += [tick] if len(bench.syncs) > before else []
    assert times == [1, 2, 4, 7, 11, 16, 22, 29, 37]
    bench.ack(7, got=1)
    bench.outlet.tick(40.0)
    assert len(bench.syncs) == 10


def test_whether_a_source_waits_is_told_at_once_when_it_changes() -> None:
    bench = Bench()
    sent(bench, 2)
    bench.outlet.roster(0.0, [Peer(7, 0), Peer(8, 0)])  # 8 dials
    for pressed in (False, True, True, False, False):
        bench.outlet.press(0.0, pressed)
    assert bench.syncs == [(7, 2), (7, 2)]
    assert not bench.outlet.pressed


def test_a_receiver_that_does_not_answer_is_told_a_few_times_only() -> None:
    bench = Bench()
    sent(bench, 2)
    for k in range(10):
        bench.outlet.press(0.0, k % 2 == 0)
    assert len(bench.syncs) == 4


# -- quiet ----------------------------------------------------------------------------------------------


def test_all_below_is_quiet_when_it_has_consumed_everything_and_says_so() -> None:
    bench = Bench()
    assert bench.outlet.quiet()
    link = bench.link(7, limit=9)
    assert bench.outlet.quiet()  # nothing was sent
    bench.emit(run(0, 2))
    assert not bench.outlet.quiet()
    bench.ack(7, got=2, consumed=2)
    assert not bench.outlet.quiet()
    bench.ack(7, got=1, consumed=1, quiet=1)
    assert not link.quiet  # of what came before
    bench.ack(7, got=2, consumed=1, quiet=1)
    assert bench.outlet.quiet()  # counts never fall
    bench.emit(run(2, 8))
    assert not bench.outlet.quiet()


def test_of_a_link_one_item_at_a_time_is_timed_until_it_is_consumed() -> None:
    bench = Bench()
    bench.link(7, limit=10)
    for now_s in (1.0, 1.5):
        bench.outlet.emit(run(int(now_s), 2), ())
        bench.outlet.dispatch(now_s)
    edge = bench.outlet.edges[0]
    bench.ack(7, now_s=2.0, got=4, consumed=1)  # not yet the last of the first two
    assert edge.latency == {}
    bench.ack(7, now_s=3.0, got=4, consumed=4)
    assert edge.latency == {bucket(2.0): 1}
    bench.outlet.emit(run(9), ())
    bench.outlet.dispatch(4.0)
    bench.ack(7, now_s=4.25, got=5, consumed=5)
    assert edge.latency == {bucket(2.0): 1, bucket(0.25): 1}


def test_what_was_timed_on_a_link_that_died_is_not_counted() -> None:
    bench = Bench()
    bench.emit(run(0))
    bench.outlet.lost(1.0, bench.link(7, limit=1))
    bench.outlet.roster(1.0, [])
    bench.link(8, limit=1)
    bench.outlet.dispatch(2.0)
    bench.ack(8, now_s=2.5, got=1, consumed=1)
    assert bench.outlet.edges[0].latency == {bucket(0.5): 1}


def test_an_edge_counts_what_was_sent_and_what_is_unsettled() -> None:
    bench = Bench(Edge(0, False), Edge(1, False))
    bench.link(7, limit=2, edge=0)
    bench.link(8, limit=9, edge=1)
    bench.emit(run(0, 3))
    first, second = bench.outlet.edges[0], bench.outlet.edges[1]
    assert [(*edge.sent(), edge.unsettled_items) for edge in (first, second)] == [(2, 20, 3), (3, 30, 3)]
    bench.ack(7, limit=2, got=2, base=3)
    assert (first.unsettled_items, second.unsettled_items, bench.outlet.unsettled_items) == (1, 3, 4)
    bench.outlet.lost(0.0, bench.outlet.links[8])
    bench.link(9, limit=9, edge=1)
    bench.outlet.dispatch()
    assert (*second.sent(), second.unsettled_items) == (6, 60, 3)  # twice: it travelled twice


def test_of_what_was_sent_along_an_edge_marks_are_no_items() -> None:
    bench = Bench(Edge(0, True))
    bench.link(7, limit=9)
    bench.emit(run(0, 4, marks=bytes([0, Mark.TOMB, 0, Mark.EPOCH])))
    assert (bench.sends, bench.outlet.edges[0].sent()) == ([(7, 1, 0, 4)], (2, 20))


def test_what_waits_for_credit_is_not_quiet() -> None:
    bench = Bench()
    bench.emit(run(0))
    assert not bench.outlet.quiet()


def test_what_stages_below_wait_for_is_gathered_over_all_links() -> None:
    bench = Bench()
    bench.link(7, wants=[1, 2])
    bench.link(8, wants=[2, 5])
    assert bench.outlet.wanted() == {1, 2, 5}
    bench.ack(7)
    assert bench.outlet.wanted() == {2, 5}


def test_an_output_remembers_its_bytes() -> None:
    assert Out(0, run(0, 3), ()).nbytes == 30
