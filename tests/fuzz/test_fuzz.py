"""Every target, with its seeds and with what hypothesis makes of them; `python -m tests.fuzz` is for more."""

from __future__ import annotations

import os
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.target import CUT, ROOM, Target
from tests.fuzz.targets import TARGETS

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))  # of each target; for more, FUZZ_EXAMPLES=5000 pytest tests/fuzz
CHANGES_MAX = 8
EVERY = [pytest.param(target, id=name) for name, target in TARGETS.items()]
BOUNDED = [pytest.param(target, id=name) for name, target in TARGETS.items() if target.is_bounded]


def changed(seed: bytes, chance: random.Random) -> bytes:
    """Return an input with a few bytes flipped, cut out, repeated or put in."""
    data = bytearray(seed)
    for _ in range(chance.randint(1, CHANGES_MAX)):
        at, length = chance.randrange(len(data) + 1), chance.choice((1, 1, 2, 4, 8, 64))
        kind = chance.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            data[at : at + length] = chance.randbytes(length)
        else:
            data[at : at + length] = chance.choice((b"\xff", b"\0", CUT)) * length
    return bytes(data)


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Return any bytes, and seeds with changes."""
    seeds = st.sampled_from(list(target.seeds()))
    return st.binary(max_size=200) | st.builds(changed, seeds, st.randoms(use_true_random=False))


@pytest.mark.parametrize("target", EVERY)
def test_only_our_errors_come_out_of_a_target(target: Target) -> None:
    @settings(max_examples=EXAMPLES)
    @given(inputs(target))
    def play(data: bytes) -> None:
        target.play(data)

    play()


@pytest.mark.parametrize("target", EVERY)
def test_the_seeds_of_a_target_reach_its_end(target: Target) -> None:
    refused = []
    for seed in target.seeds():
        try:
            target.run(seed)
            return
        except target.errors as error:
            refused.append(error)
    pytest.fail(f"every seed is refused: {refused}")


@pytest.mark.parametrize("target", BOUNDED)
def test_reading_takes_at_most_twice_the_input_and_a_little(target: Target) -> None:
    chance = random.Random(1)
    seeds = list(target.seeds())
    for seed in seeds:
        target.play(seed)  # what is loaded once is no cost of an input
    for _ in range(EXAMPLES):
        data = changed(chance.choice(seeds), chance)
        tracemalloc.start()
        target.play(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= ROOM + 2 * len(data), f"{peak} bytes for {data.hex()}"
