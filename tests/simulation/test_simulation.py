"""Whole pipelines on the real core, under every fault that the simulator knows."""

import pytest

from tests.simulation.bugs import BUGS, Bug
from tests.simulation.play import play
from tests.simulation.scenarios import SCENARIOS

QUICK = 40  # seeds under faults that every test run plays; `python -m tests.simulation` plays thousands
QUICK_PER_BUG = 120  # a bug that needs more seeds is caught by `python -m tests.simulation --bugs`
SUBTLE = {
    "ForgetsHookPosition",
    "ForgetsWhatWaits",
    "JoinsAcrossEpochs",
    "LetsTheNewestGo",
    "SeesNoGap",
    "TakesWhateverComes",
    "AcksBeforeTheSave",
    "SavesOverLaterLives",
    "ForgetsThatItWasToStop",
    "SyncsNoSaves",
    "ForgetsDeaths",
    "BlamesTheBlock",
    "WritesLettersLater",
    "RetriesForEver",
    "TakesTheDisownedForDead",
}


@pytest.mark.parametrize("scenario", [scenario.__name__ for scenario in SCENARIOS])
def test_without_faults_everything_is_committed_once_and_in_order(scenario: str) -> None:
    for seed in range(3):
        outcome = play(seed, scenario=scenario, calm=True)
        assert outcome.verdict == "ok", outcome


@pytest.mark.parametrize("scenario", [scenario.__name__ for scenario in SCENARIOS])
def test_under_faults_everything_is_committed_once_and_in_order(scenario: str) -> None:
    deaths = 0
    for seed in range(QUICK):
        outcome = play(seed, scenario=scenario)
        assert outcome.verdict == "ok", outcome
        deaths += outcome.deaths
    assert deaths > QUICK


def test_a_seed_plays_the_same_twice() -> None:
    assert play(7) == play(7)


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.name not in SUBTLE], ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: Bug) -> None:
    outcomes = (play(seed, world_type=bug.world) for seed in range(QUICK_PER_BUG))
    assert any(outcome.verdict != "ok" for outcome in outcomes), bug.rule
