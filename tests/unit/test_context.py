"""What a stage may ask while it runs."""

from pathlib import Path

import pytest

import zpipe as zp
from zpipe.values.context import Current, inside
from zpipe.values.paths import Run

NAMES = {0: "crops[0]", 1: "crops[1]", 2: "labels", 3: "fit.finish", 4: "crops[0]>fit"}


def current(stage="fit", run=None, index=0, run_key=7, variant=None):
    made = Current(
        stage,
        worker=f"{stage}-1",
        lane_names=NAMES,
        run_key=run_key,
        run_folder=Path("runs/1"),
        variant=variant,
    )
    made.run, made.index = run, index
    return made


def numbers(made):
    with inside(made):
        return zp.rng().integers(1000, size=4).tolist()


def test_the_item_tells_where_it_came_from():
    run = Run(1, 12, (3, 0), 5, None, epoch=2, digest=0x9AF3, attempt=1)

    with inside(current(run=run, index=2, variant={"lr": 0.1})):
        item = zp.item()

    assert item == zp.Item(
        path="crops[1]:12.3.2#9af3",
        position=12,
        epoch=2,
        attempt=1,
        variant={"lr": 0.1},
        worker="fit-1",
        partition=1,
        partitions=2,
    )


def test_a_source_without_partitions_has_one():
    with inside(current(run=Run(2, 0, (), 1, None))):
        assert (zp.item().partition, zp.item().partitions) == (0, 1)


def test_the_item_and_its_variant_cannot_be_changed():
    with inside(current(run=Run(2, 0, (), 1, None), variant={"lr": 1})):
        item = zp.item()

    with pytest.raises(AttributeError):
        item.position = 1
    with pytest.raises(TypeError):
        item.variant["lr"] = 2


def test_random_numbers_follow_from_run_stage_and_path():
    run = Run(0, 5, (), 3, None)
    same = numbers(current(run=run, index=1))

    assert same == numbers(current(run=Run(0, 6, (), 1, None)))
    assert same != numbers(current(run=run, index=0))
    assert same != numbers(current(run=run, index=1, run_key=8))
    assert same != numbers(current(run=run, index=1, stage="eval"))
    assert same != numbers(current(run=Run(1, 6, (), 1, None)))
    assert same != numbers(current(run=Run(0, 6, (), 1, None, digest=1)))


def test_random_numbers_are_the_same_in_every_process():
    assert numbers(current(run=Run(0, 6, (), 1, None))) == [576, 226, 321, 215]


def test_asking_twice_for_one_item_goes_on_with_its_numbers():
    run = Run(0, 5, (), 3, None)
    with inside(current(run=run)) as made:
        assert zp.rng() is zp.rng()
        first = zp.rng()
        made.index = 1
        assert zp.rng() is not first


def test_a_source_that_moves_its_run_gets_new_numbers():
    run = Run(0, 5, (), 1, None)
    with inside(current(run=run)):
        first = zp.rng()
        run.position = 6
        assert zp.rng() is not first


def test_a_stage_has_random_numbers_before_its_first_item():
    assert numbers(current()) == numbers(current())


def test_a_stage_has_no_item_before_its_first():
    with (
        inside(current()),
        pytest.raises(zp.ConfigError, match=r"stage 'fit' calls zp.item.. before its first item"),
    ):
        zp.item()


def test_the_run_folder_is_that_of_the_run():
    with inside(current()):
        assert zp.run_folder() == Path("runs/1")


@pytest.mark.parametrize("ask", [zp.item, zp.rng, zp.run_folder])
def test_nothing_is_known_outside_of_a_stage(ask):
    with pytest.raises(zp.ConfigError, match="outside of a running stage"):
        ask()


def test_what_was_in_force_comes_back():
    outer, inner = current(run=Run(2, 1, (), 1, None)), current(run=Run(2, 2, (), 1, None))
    with inside(outer):
        with inside(inner):
            assert zp.item().position == 2
        assert zp.item().position == 1


def test_in_a_call_for_a_block_each_item_is_named_and_draws_as_it_would_alone():
    one, two = Run(1, 12, (), 3, None), Run(2, 0, (), 2, None)
    made = current(run=one, index=1)
    made.block = [(one, 1), (one, 2), (two, 0)]
    with inside(made):
        assert [zp.item(k).path for k in range(3)] == ["crops[1]:13", "crops[1]:14", "labels:0"]
        drawn = [zp.rng(k).integers(1000, size=4).tolist() for k in range(3)]
    assert drawn == [numbers(current(run=run, index=k)) for run, k in made.block]


def test_in_a_call_for_a_block_it_must_be_said_which_item():
    run = Run(2, 0, (), 2, None)
    made = current(run=run)
    made.block = [(run, 0), (run, 1)]
    with inside(made):
        for ask in (zp.item, zp.rng, lambda: zp.item(2), lambda: zp.rng(-1)):
            with pytest.raises(zp.ConfigError, match="is given a block of 2: say which of them"):
                ask()
    with inside(current(run=run)), pytest.raises(zp.ConfigError, match="is given one item at a time: leave 1 out"):
        zp.item(1)
