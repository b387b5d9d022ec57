"""How a worker ends that the registry does not let in."""

from __future__ import annotations

import pytest

from zpipe.processes.exits import EXIT_FAILED, EXIT_FENCED
from zpipe.processes.worker import exit_code
from zpipe.values.errors import RegistryError


@pytest.mark.parametrize(
    ("code", "slot", "status"),
    [
        (0, 2, EXIT_FENCED),  # nobody answers: the registry is being started again
        (0, None, EXIT_FAILED),
        (409, 2, EXIT_FENCED),  # an earlier life has the place until its death is known
        (409, None, EXIT_FAILED),
        (410, 2, EXIT_FENCED),
        (410, None, EXIT_FENCED),
        (426, 2, EXIT_FAILED),
    ],
)
def test_one_that_the_run_has_started_is_started_again_where_that_may_help(
    code: int, slot: int | None, status: int
) -> None:
    assert exit_code(RegistryError("no", code), slot) == status
