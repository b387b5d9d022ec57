"""Links between workers: everyone has enough, nobody has most of them, and a link stays while both ends live."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from zpipe.core.mesh import Mesh

BESIDE = {0: [1], 1: [0, 2], 2: [1]}  # a chain of three stages


class Played(Mesh):
    """A mesh that is checked after each step."""

    def __init__(self, least: int) -> None:
        super().__init__(BESIDE, least)
        self.least = least
        self.stages: dict[int, int] = {}
        self.leaving: set[int] = set()

    def links(self) -> set[tuple[int, int]]:
        return {(inc, peer) for inc in self.stages for peer in self.peers(inc)}

    def check(self) -> None:
        links = self.links()
        assert links == {(b, a) for a, b in links}
        for inc, stage in self.stages.items():
            for other in BESIDE[stage]:
                there = [peer for peer, its in self.stages.items() if its == other and peer not in self.leaving]
                mine = [peer for peer in self.peers(inc) if self.stages[peer] == other]
                assert len(mine) == len(set(mine))
                assert len(set(mine) - self.leaving) >= min(self.least, len(there))
            assert len(self.peers(inc)) == sum(a == inc for a, _ in links)

    def come(self, inc: int, stage: int) -> None:
        before = self.links()
        self.stages[inc] = stage
        self.join(inc, stage)
        assert {link for link in self.links() if inc not in link} == before
        self.check()

    def go(self, inc: int) -> None:
        before = self.links()
        del self.stages[inc]
        self.leaving.discard(inc)
        changed = self.leave(inc)
        after = self.links()
        assert {link for link in before if inc not in link} <= after
        assert changed == {a for a, _ in before ^ after} - {inc}
        assert inc not in self
        self.check()

    def tell_to_leave(self, leaving: set[int]) -> None:
        before = self.links()
        self.leaving = leaving
        changed = self.retire(leaving)
        assert before <= self.links()
        assert changed == {a for a, _ in before ^ self.links()}
        self.check()


STEPS = st.tuples(st.sampled_from(("come", "come", "go", "leave", "stay")), st.integers(0, 10**6))


@given(st.integers(1, 5), st.lists(STEPS, max_size=60))
def test_everyone_has_enough_peers_that_stay_and_links_stay(least: int, steps: list[tuple[str, int]]) -> None:
    mesh = Played(least)
    for number, (step, drawn) in enumerate(steps, 1):
        if step == "come" or not mesh.stages:
            mesh.come(number, drawn % 3)
            continue
        inc = sorted(mesh.stages)[drawn % len(mesh.stages)]
        if step == "go":
            mesh.go(inc)
        else:
            mesh.tell_to_leave(mesh.leaving | {inc} if step == "leave" else mesh.leaving - {inc})


def test_few_are_linked_to_all() -> None:
    mesh = Played(32)
    for inc in range(96):
        mesh.come(inc, inc % 3)
    assert len(mesh.links()) == 2 * 2 * 32 * 32


def test_links_grow_with_the_workers_and_not_with_their_square() -> None:
    least, each = 8, 400
    mesh, random_ = Mesh(BESIDE, least), random.Random(1)
    incs = list(range(3 * each))
    random_.shuffle(incs)
    for inc in incs:
        mesh.join(inc, inc % 3)
    for inc in incs[:each]:
        mesh.leave(inc)
    for inc in incs[:each]:
        mesh.join(inc, inc % 3)
    counts = sorted(len(mesh.peers(inc)) for inc in incs if inc % 3 != 1)
    assert least <= counts[0] and counts[-1] <= 4 * least
    assert sum(counts) / len(counts) <= 2.5 * least


def test_one_worker_among_many_has_them_all() -> None:
    mesh = Mesh(BESIDE, 4)
    for inc in range(100):
        mesh.join(inc, 0)
    mesh.join(100, 1)
    assert sorted(mesh.peers(100)) == list(range(100))
