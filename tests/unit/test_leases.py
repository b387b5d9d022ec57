"""What a gate gives out: each item to one at a time, each outcome once, whoever is late, silent or lies."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.test_core_stateful import SETTINGS
from zpipe.core.leases import ASIDE, DISTRUST_LEASES, UNANSWERED_MAX, Item, Leases, Refused

ANY = st.integers(0, 10**6)
HOLDERS = st.sampled_from(["a", "b", None])


def leases(n: int = 0, **more: Any) -> Leases:
    """Return leases of 5 s with so many items, whose tokens are t0, t1, ..."""
    tokens = itertools.count()
    made = Leases(lambda: f"t{next(tokens)}", **more)
    for k in range(n):
        made.add(k)
    return made


def given(made: Leases, now_s: float, n: int = 1, holder: Any = "a") -> list[tuple[str, Any]]:
    made.ripen(now_s)
    return [(lease.token, lease.item.what) for lease in made.give(now_s, n, holder)]


def why(refused: Any, *args: Any) -> str:
    with pytest.raises(Refused) as found:
        refused(*args)
    return str(found.value)


def test_items_are_given_in_order_and_no_more_than_are_wanted() -> None:
    made = leases(3)
    assert given(made, 0.0, 2) == [("t0", 0), ("t1", 1)]
    assert given(made, 0.0, 2, "b") == [("t2", 2)]
    assert given(made, 0.0) == []
    assert (made.open, made.waiting, made.held) == (3, 0, 3)


def test_a_result_closes_its_item_and_uses_its_token() -> None:
    made = leases(1)
    given(made, 0.0)
    assert made.done("t0").what == 0
    assert made.open == 0
    assert why(made.done, "t0") == "it was used before"
    assert why(made.done, "t7") == "this token was not given out"


def test_a_lease_that_runs_out_gives_the_item_to_others_and_the_first_result_counts() -> None:
    made = leases(1)
    given(made, 0.0)
    assert made.expire(4.9) == []
    (lease,) = made.expire(5.0)
    made.again(lease.item, 5.0)
    assert given(made, 5.0, holder="b") == [("t1", 0)]
    assert made.done("t0").what == 0, "late, but first"
    assert why(made.done, "t1") == "its lease ran out, and another has done the item"
    assert (made.open, made.held, made.waiting) == (0, 0, 0)


def test_a_late_result_takes_its_item_out_of_what_waits() -> None:
    made = leases(2)
    given(made, 0.0)
    for lease in made.expire(5.0):
        made.again(lease.item, 5.0)
    assert given(made, 5.0, 0) == []  # the item waits now
    assert made.waiting == 2
    made.done("t0")
    assert made.waiting == 1
    assert given(made, 5.0, 2) == [("t1", 1)]


def test_an_item_that_failed_waits_before_it_is_tried_again_by_a_new_token() -> None:
    made = leases(1)
    given(made, 0.0)
    item = made.failed("t0")
    assert item.tries == 1
    made.again(item, 2.0)
    assert given(made, 1.9) == []
    assert made.due_s() == 2.0
    assert given(made, 2.0) == [("t1", 0)]
    assert why(made.failed, "t0") == "it was used before"
    made.done("t1")


def test_a_failure_that_comes_late_is_no_news() -> None:
    made = leases(1)
    given(made, 0.0)
    made.expire(5.0)
    assert "ran out" in why(made.failed, "t0")


def test_a_lease_lasts_on_while_its_holder_says_so_but_no_longer_than_an_attempt_may() -> None:
    made = leases(1, timeout_s=8.0)
    given(made, 0.0)
    made.extend(4.0, "t0")
    assert made.expire(7.9) == []
    made.extend(7.9, "t0")
    assert [lease.token for lease in made.expire(8.0)] == ["t0"]
    assert "ran out" in why(made.extend, 8.0, "t0")


def test_who_lets_leases_run_out_gets_nothing_until_it_answers_or_time_has_passed() -> None:
    made = leases(9)
    for k in range(UNANSWERED_MAX):
        given(made, 5.0 * k, 2)
        for lease in made.expire(5.0 * k + 5.0):
            made.again(lease.item, lease.until_s)
    now_s = 5.0 * UNANSWERED_MAX
    assert given(made, now_s) == []
    assert made.is_distrusted(now_s, "a") and not made.is_distrusted(now_s, "b")
    assert given(made, now_s + 5.0 * DISTRUST_LEASES) != []
    made.done("t0")
    assert not made.is_distrusted(now_s, "a")


def test_deaths_count_for_those_who_can_be_held_to_account_only() -> None:
    made = leases(2)
    given(made, 0.0)
    given(made, 0.0, holder=None)
    assert made.unaccounted == 1
    assert [lease.item.deaths for lease in made.expire(5.0)] == [1, 0]
    assert made.unaccounted == 0


def test_what_was_held_with_others_is_given_alone_and_only_then_held_against_it() -> None:
    made = leases(4)
    given(made, 0.0, 3)
    for lease in made.drop(0.0, "a"):
        assert (lease.item.deaths, lease.item.suspect) == (0, True)
        made.again(lease.item, 0.0)
    assert len(given(made, 0.0, 3)) == 1
    (lease,) = made.drop(0.0, "a")
    assert lease.item.deaths == 1


def test_who_is_known_to_be_dead_holds_nothing_any_more() -> None:
    made = leases(2)
    given(made, 0.0)
    given(made, 0.0, holder="b")
    assert [lease.item.what for lease in made.drop(0.0, "a")] == [0]
    assert made.held == 1
    made.forget("a")
    assert "a" not in made.holders and "b" in made.holders


def test_what_could_not_be_sent_is_given_to_the_next_in_order() -> None:
    made = leases(3)
    made.take_back(made.give(0.0, 2, "a"))
    assert [what for _, what in given(made, 0.0, 3)] == [0, 1, 2]
    assert why(made.done, "t0") == "this token was not given out"


def test_calls_go_before_the_stream_but_do_not_starve_it() -> None:
    made = leases(100)
    for k in range(100):
        made.add(f"call {k}", is_call=True)
    first = [str(what).startswith("call") for _, what in given(made, 0.0, 40)]
    assert first.count(True) == 30
    assert (made.streaming, made.calling) == (90, 70)


def test_an_item_that_is_given_up_is_closed() -> None:
    made = leases(1)
    given(made, 0.0)
    made.close(made.failed("t0"))
    assert made.open == 0
    assert given(made, 9.0) == []


class Gate(RuleBasedStateMachine):
    """Leases against a plain model: what became of each item, and who may hold it."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.made = leases(lease_s=5.0, timeout_s=12.0)
        self.items: list[Item] = []
        self.outcomes: list[int] = []  # how many an item has had
        self.tokens: list[tuple[str, int]] = []  # and the item it was given for
        self.spent: set[str] = set()

    def aside(self, item: Item, choice: int) -> None:
        """Be the owner of an item that somebody failed at."""
        if choice % 4:
            self.made.again(item, self.now_s + choice % 3)
        else:
            self.outcomes[item.what] += 1
            self.made.close(item)

    @rule(is_call=st.booleans())
    def arrives(self, is_call: bool) -> None:
        self.items.append(self.made.add(len(self.items), is_call=is_call))
        self.outcomes.append(0)

    @rule(n=st.integers(1, 4), holder=HOLDERS, lost=st.booleans())
    def is_asked(self, n: int, holder: str | None, lost: bool) -> None:
        self.made.ripen(self.now_s)
        found = self.made.give(self.now_s, n, holder)
        assert len(found) <= n
        for lease in found:
            assert self.outcomes[lease.item.what] == 0, "what is closed is given to nobody"
            assert lease.token not in dict(self.tokens)
        if lost and len(found) > 1:
            self.made.take_back(found)
            self.spent |= {lease.token for lease in found}
        self.tokens += [(lease.token, lease.item.what) for lease in found]

    @precondition(lambda self: self.tokens)
    @rule(at=ANY)
    def result(self, at: int) -> None:
        token, k = self.tokens[at % len(self.tokens)]
        try:
            item = self.made.done(token)
        except Refused:
            assert token in self.spent or self.outcomes[k]
            return
        assert item.what == k and not self.outcomes[k] and token not in self.spent
        self.outcomes[k] += 1
        self.spent.add(token)

    @precondition(lambda self: self.tokens)
    @rule(at=ANY, choice=ANY)
    def failure(self, at: int, choice: int) -> None:
        token, k = self.tokens[at % len(self.tokens)]
        try:
            item = self.made.failed(token)
        except Refused:
            return
        assert item.what == k and not self.outcomes[k] and token not in self.spent
        self.spent |= {other for other, what in self.tokens if what == k}
        self.aside(item, choice)

    @precondition(lambda self: self.tokens)
    @rule(at=ANY)
    def busy(self, at: int) -> None:
        try:
            self.made.extend(self.now_s, self.tokens[at % len(self.tokens)][0])
        except Refused:
            pass

    @rule(seconds=st.floats(0.1, 6.0), choice=ANY)
    def time_passes(self, seconds: float, choice: int) -> None:
        self.now_s += seconds
        for lease in self.made.expire(self.now_s):
            assert lease.until_s <= self.now_s
            self.aside(lease.item, choice)

    @rule(holder=HOLDERS, choice=ANY)
    def dies(self, holder: str | None, choice: int) -> None:
        if holder is not None:
            for lease in self.made.drop(self.now_s, holder):
                self.aside(lease.item, choice)
            self.made.forget(holder)

    @invariant()
    def counts_are_right(self) -> None:
        assert max(self.outcomes, default=0) <= 1
        assert self.made.open == self.outcomes.count(0)
        states = [item.state for item in self.items]
        assert (self.made.waiting, self.made.held) == (states.count("waiting"), states.count("held"))
        assert self.made.calling == sum(item.is_call for item in self.items if item.state == "waiting")
        running = [item.lease for item in self.items if item.lease is not None]
        assert len(running) == self.made.held and len({lease.token for lease in running}) == len(running)
        by = [lease.holder for lease in running]
        assert self.made.unaccounted == by.count(None)
        assert all(known.held == by.count(holder) for holder, known in self.made.holders.items())

    def teardown(self) -> None:
        """Whoever is honest now does all that is left."""
        for _ in range(4 * len(self.items) + 4):
            self.now_s += 5.0
            for lease in self.made.expire(self.now_s):
                self.made.again(lease.item, self.now_s)
            self.made.ripen(self.now_s)
            for lease in self.made.give(self.now_s, 4, "honest"):
                self.outcomes[self.made.done(lease.token).what] += 1
        assert self.outcomes == [1] * len(self.outcomes)
        assert not [item for item in self.items if item.state == ASIDE]


TestGate = Gate.TestCase
TestGate.settings = SETTINGS
