"""What becomes of items that fail: tried again, given up, or the end of the run.

An item fails with an error, or by the death of the worker that was running it, which the registry tells: then it
is a suspect, and runs alone.  One that was given up and comes again, because the ack was lost, is not called.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Generator, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from zpipe.core.suspects import fate
from zpipe.processes.letters import Letter
from zpipe.processes.targets import user_traceback, users_own
from zpipe.values.errors import StageError, ZpipeError
from zpipe.values.paths import Run
from zpipe.values.room import lack_of_room

if TYPE_CHECKING:
    from zpipe.processes.caller import Caller

PAUSE_S, PAUSE_MAX_S = 0.05, 5.0  # before the second retry, doubling with each; the first is at once
FAILURES = (Exception, SystemExit)  # of the user's code: those that an item is blamed for
GIVEN_UP = object()  # in place of a result

Spot = tuple[Run, int]
Steps = Generator[None, None, Any]


class Keeper(Protocol):
    """Where dead letters go."""

    def keep(self, letter: Letter) -> None: ...
    def known(self, stage: str) -> Container[str]: ...


class Doomed(StageError):
    """An item that is not to be called: workers have died of it too often."""

    def __init__(self, deaths: int, how: str) -> None:
        super().__init__(*fate(deaths, how))
        self.deaths = deaths


class Settled(Exception):
    """An item that was given up before."""


class Trouble:
    """The failing items of one stage in one worker; without `letters` nothing can be kept."""

    def __init__(self, caller: Caller, letters: Keeper | None) -> None:
        self.caller = caller
        self.stage = caller.stage
        self.letters = letters if self.stage.on_error == "dead-letter" else None
        self.suspects: dict[str, tuple[int, str]] = {}  # by path: deaths while it ran alone, how the last was
        self.resolved: set[str] = set()  # suspects that turned out harmless, or were given up
        self.known: Container[str] = ()  # paths of items that were given up before
        self.doubts = False  # whether there are items that are not simply to be called
        self.trial = ""  # the suspect that is being called
        self.dropped = self.dead = self.repeated = 0  # items of the job at hand
        self.errors = 0  # items that were skipped
        self.say: Callable[[str], None] = _say

    @property
    def is_final(self) -> bool:
        """Tell whether the first failure ends the run."""
        return self.stage.on_error == "stop" and self.stage.tries == 1

    def suspect(self, rows: Iterable[Sequence[Any]]) -> None:
        """Take in all suspects of the stage, (path, deaths, how) each."""
        self.suspects = {path: (deaths, how) for path, deaths, how in rows}
        self.resolved &= self.suspects.keys()

    def begin(self) -> None:
        """Look what is known, before a job."""
        self.dropped = self.dead = self.repeated = 0
        if self.letters is not None:
            self.known = self.letters.known(self.stage.name)
        self.doubts = bool(self.known or self.suspects)

    def passed(self) -> None:
        """The suspect that was called has done no harm."""
        if self.trial:
            self.resolved.add(self.trial)
            self.trial = ""

    def check(self, run: Run, k: int) -> None:
        """Look at an item before its call.  Raises Settled or Doomed when it is not to be called."""
        self.passed()
        path = self._path(run, k)
        if path in self.known:
            raise Settled
        deaths, how = self.suspects.get(path, (0, ""))
        if deaths >= self.stage.deaths:
            self.resolved.add(path)
            raise Doomed(deaths, how)
        if path in self.suspects:
            self.trial = path

    def is_doubted(self, run: Run, k: int) -> bool:
        """Tell whether an item must be looked at before its call."""
        path = self._path(run, k)
        return path in self.suspects or path in self.known

    def handle(self, error: BaseException, again: Callable[[], Steps], run: Run, k: int) -> Steps:
        """Try an item again that failed with `error`; return its result in the end, or GIVEN_UP."""
        caller, tries = self.caller, int(not self._lacks_room(error))
        self.passed()
        while (pause_s := self._pause_s(error, tries)) is not None:
            yield from caller.wait(pause_s)
            current = caller.current
            current.run, current.index, current.tries = run, k, tries
            caller.blame.note(run, k)
            try:
                result = yield from again()
            except FAILURES as failed:
                error = failed
                tries += not self._lacks_room(error)
            else:
                caller.patience.over()
                return result
            finally:
                current.tries = 0
        caller.patience.over()
        yield from self.give_up(error, run, k, tries)
        return GIVEN_UP

    def _pause_s(self, error: BaseException, tries: int) -> float | None:
        """Return how long to wait before the next try, None when there is none."""
        if self._lacks_room(error):
            return self.caller.patience.pause_s(error)
        if isinstance(error, Doomed | Settled) or tries >= self.stage.tries:
            return None
        return pause_s(tries)

    def _lacks_room(self, error: BaseException) -> bool:
        """Tell whether a sink failed because its disk takes nothing at the moment: the item is none the worse."""
        return not self.stage.outputs and bool(lack_of_room(error))

    def together(self, spots: Sequence[Spot], call: Callable[[Sequence[Spot]], Sequence[Any]]) -> Steps:
        """Call once for all `spots`, but alone for those that are doubted, and for each where that fails.

        Returns what `call` does, a result for each spot, or GIVEN_UP in its place.
        """
        if not self.doubts:
            return (yield from self._all(spots, call))
        results: list[Any] = []
        a = 0
        while a < len(spots):
            b = a
            while b < len(spots) and not self.is_doubted(*spots[b]):
                b += 1
            if b == a:
                results.append((yield from self._alone(spots[a], call)))
                a += 1
                continue
            results += yield from self._all(spots[a:b], call)
            a = b
        return results

    def _all(self, spots: Sequence[Spot], call: Callable[[Sequence[Spot]], Sequence[Any]]) -> Steps:
        self.passed()
        while True:
            self.caller.blame.note_all(spots)
            try:
                results = call(spots)
            except FAILURES as error:
                if self._lacks_room(error):
                    yield from self.caller.wait(self.caller.patience.pause_s(error) or 0.0)
                    continue
                if self.is_final:
                    raise self.caller.failed(error, *spots[0], len(spots)) from error
                break
            self.caller.patience.over()
            return results
        alone: list[Any] = []
        for spot in spots:
            alone.append((yield from self._alone(spot, call)))
        return alone

    def _alone(self, spot: Spot, call: Callable[[Sequence[Spot]], Sequence[Any]]) -> Steps:
        def again() -> Steps:
            (result,) = call([spot])
            return result
            yield

        try:
            self.check(*spot)
            self.caller.blame.note(*spot)
            return (yield from again())
        except FAILURES as error:
            return (yield from self.handle(error, again, *spot))

    def give_up(self, error: BaseException, run: Run, k: int, tries: int) -> Steps:
        """Go on without an item, or end the run.  Raises StageError and SaveError."""
        if isinstance(error, Settled):
            self.repeated += 1
            return
        failed = self.caller.failed(error, run, k)
        if self.stage.on_error == "stop":
            raise failed from error
        said = user_traceback(error)
        what = str(error) if isinstance(error, Doomed) else describe(error)
        if self.letters is None:
            self.say(f"{said}zpipe: {failed}: skipped")
            self.dropped += 1
            self.errors += 1
            return
        part = self.caller.codec.parts(run)[k]
        deaths, detail = (error.deaths, error.detail) if isinstance(error, Doomed) else (0, said)
        letter = Letter(
            self.stage.name, self._path(run, k), what, detail, self.caller.current.worker, 0 if deaths else tries,
            deaths, run.like(k, [part]),
        )  # fmt: skip
        yield from self.caller.patience.until_done(self.caller, partial(self.letters.keep, letter))
        self.say(f"{said}zpipe: {failed}: a dead letter")
        self.dead += 1

    def _path(self, run: Run, k: int) -> str:
        return run.text(self.caller.current.lane_names, k)


def pause_s(tries: int) -> float:
    """Return how long to wait before the next try of what has failed so often."""
    return 0.0 if tries == 1 else min(PAUSE_MAX_S, PAUSE_S * 2.0 ** min(tries - 2, 32))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def describe(error: BaseException) -> str:
    """Say in one line what an item failed with."""
    own = users_own(error)
    text = " ".join(str(error).split())
    return text if isinstance(own, ZpipeError) else f"raised {type(own).__name__}: {text}"
