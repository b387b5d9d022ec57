"""Who looks on at which stage: wishes that end by themselves unless they are renewed.

Knows what may be wished for; refuses to know items, and how samples of them travel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zpipe.core.outcomes import Map
from zpipe.core.requests import Refused, endpoints, text
from zpipe.values.faults import did_you_mean
from zpipe.values.plan import Plan, StagePlan
from zpipe.values.stage import ANY

LEASE_S = 3.0  # how long a wish stands that is not renewed
TAPS_MAX = 16  # of a run
FORMS = ("text", "json")


@dataclass(frozen=True)
class Wish:
    """Where samples go, of what is made or of what is given, of one output or of all, and how they are written."""

    endpoints: tuple[str, ...]
    inputs: bool
    output: str | None
    form: str
    key: str = ""  # of who looks on, where keys are used


class Taps:
    """The taps of a run.  A registry that is restarted has forgotten them, and is told anew."""

    def __init__(self) -> None:
        self._until: dict[tuple[int, Wish], float] = {}  # by stage

    def renew(self, stage: StagePlan, wish: Wish, now_s: float) -> bool:
        """Let a wish stand a while longer, and return whether it is new.  Raises Refused for one too many."""
        is_new = (stage.number, wish) not in self._until
        if is_new and len(self._until) >= TAPS_MAX:
            raise Refused(409, f"{TAPS_MAX} taps are on: end one first")
        self._until[stage.number, wish] = now_s + LEASE_S
        return is_new

    def end(self, stage: StagePlan, wish: Wish) -> bool:
        """Let a wish stand no longer, and return whether it did."""
        return self._until.pop((stage.number, wish), None) is not None

    def tick(self, now_s: float) -> None:
        """Forget what was not renewed."""
        self._until = {key: until_s for key, until_s in self._until.items() if until_s > now_s}

    def of(self, stage: StagePlan) -> list[Map]:
        """Return what a stage's workers are to know."""
        wishes = [wish for number, wish in self._until if number == stage.number]
        return [_told(wish) for wish in wishes]


def _told(wish: Wish) -> Map:
    told = {**asdict(wish), "endpoints": list(wish.endpoints)}
    if not wish.key:
        del told["key"]
    return told


def read_wish(message: Mapping[str, Any], plan: Plan, stage: StagePlan) -> Wish:
    """Read a TAP.  Raises Refused, also when the stage has not what is wished for."""
    inputs, form = message.get("inputs", False), message.get("form", "text")
    output = None if message.get("output") is None else text(message, "output")
    if not isinstance(inputs, bool) or form not in FORMS:
        raise Refused(400, f"inputs is {inputs!r:.40} and form {form!r:.40}: true or false, and {' or '.join(FORMS)}")
    where = endpoints(message, "endpoints")
    if not where:
        raise Refused(400, "TAP names no endpoint for the samples")
    if inputs and stage.role == "source":
        raise Refused(409, f"{stage.name!r} is a source and is given nothing: look at what it makes")
    if output is not None:
        _check_output(plan, stage, output)
    return Wish(where, inputs, output, form, str(message.get("key", "")))


def _check_output(plan: Plan, stage: StagePlan, output: str) -> None:
    names = {name for number in stage.outputs for name in plan.edges[number].outputs} - {""}
    if output in names or ANY in names:
        return
    hint = did_you_mean(output, names) or (f": there are {', '.join(sorted(names))}" if names else ": it has none")
    raise Refused(404, f"stage {stage.name!r} has no named output {output!r:.80} that is read{hint}")
