"""The gate of a stage: items go out to workers of any language at its addresses, and what they make comes back.

Callers outside ask the same workers.  Who holds what is for `core.leases`, how it is said for `wire.outside`.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zpipe.core.leases import Item, Lease, Leases, Refused
from zpipe.processes.doors import OWN, Doors, Heard, Peer, Refusals
from zpipe.processes.hands import Hands
from zpipe.processes.trouble import Settled, pause_s
from zpipe.values.context import Output
from zpipe.values.errors import EncodeError, ProtocolError, StageError
from zpipe.values.paths import Mark, Run
from zpipe.wire.body import Buffer, encode_message
from zpipe.wire.outside import KEY, VERSION, Asked, Message, read, tag_of

if TYPE_CHECKING:
    from zpipe.core.work import Job
    from zpipe.processes.caller import Caller

LOOK_S = 0.05  # between two looks at the workers of its own
POLL_S = 1.0  # one who asks for items is answered after this, if with none
TAKE_MAX = 4096  # items in one answer
STILLBORN_MAX = 3  # workers of its own that die before one has asked for an item
NAMES_MAX = 4096  # of those who have said theirs
BURST = 500  # messages taken in before the links are looked after
AHEAD = 16  # items that wait at the gate beyond those that are wanted
SEEN_S = 2.0  # who has asked since then is told of the end,
END_S = 1.5  # within this
TOKEN_BYTES = 8
DRAWN = 512  # tokens at once: to ask the system for chance costs as much as all else that a token does
PUSHED_EACH = 2  # items at most, in the mean, at each who pulls

Frames = list[bytes | memoryview]


@dataclass(eq=False)
class _Streamed:
    """An item of the pipeline: the `k`-th of `run`."""

    job: Job
    run: Run
    k: int
    value: Any


@dataclass(eq=False)
class _Called:
    """An item of a caller, who is answered by its `id`."""

    peer: Peer
    id: str
    value: Any
    raw: bool
    due: Message  # what its answer is to say besides


@dataclass
class _Asking:
    """One who waits for up to `n` items, since then."""

    n: int
    raw: bool
    since_s: float
    due: Message  # what its answer is to say besides


class Gate:
    """What a worker does for a stage with `listen`; `turn` takes the place of calling code."""

    def __init__(self) -> None:
        self._asking: dict[Peer, _Asking] = {}
        self._calls: dict[tuple[bytes, str], _Called] = {}
        self._names: dict[Peer, str] = {}
        self._seen_s: dict[Peer, float] = {}  # who has asked for items, and when
        self._given_up: deque[tuple[_Streamed, Iterator[None]]] = deque()
        self._tokens: list[str] = []  # drawn, and not used yet
        self._done = 0  # items since the last turn
        self._worked_s = 0.0  # when one was done last
        self._look_s = 0.0  # when to look after the workers of its own
        self._stillborn = 0  # of those that died before any has asked for an item
        self._own_asked = False
        self.is_open = False  # whether items are at hand that have no outcome

    def open(self, caller: Caller, doors: Doors, lease_s: float, hands: Hands | None = None) -> None:
        """Begin, with what the worker has made meanwhile; `hands` are the workers that the gate has itself."""
        self._caller, self._worker, self._doors = caller, caller.worker, doors
        stage = self._stage = caller.stage
        self._log = self._made_log(stage.name)
        self._leases = Leases(self._make_token, lease_s=lease_s, timeout_s=stage.timeout)
        self._hands = hands

    @property
    def workers(self) -> int:
        """Return how many have asked for items lately, or pull them."""
        return len(self._seen_s) + self._doors.pullers

    @property
    def refused(self) -> int:
        """Return how much was refused of what was said."""
        return self._log.count

    def _made_log(self, stage: str) -> Refusals:
        return Refusals(stage)

    def _make_token(self) -> str:
        if not self._tokens:
            drawn = secrets.token_hex(TOKEN_BYTES * DRAWN)
            self._tokens = [drawn[k : k + 2 * TOKEN_BYTES] for k in range(0, len(drawn), 2 * TOKEN_BYTES)]
        return self._tokens.pop()

    def _read(self, frames: Sequence[Buffer]) -> Asked:
        return read(frames)

    def _tag_of(self, frames: Sequence[Buffer]) -> Message:
        return tag_of(frames)

    # -- a turn -------------------------------------------------------------------------------------

    def turn(self, now_s: float) -> bool:
        """Take in what has been said, and give out what there is; tells whether there was anything."""
        self._doors.look()
        heard = self._doors.heard(BURST)
        for message in heard:
            self._hear(now_s, message)
        if self._hands is not None and now_s >= self._look_s:
            self._look_s = now_s + LOOK_S
            for hand, ended, _ in self._hands.look(now_s):
                self._died(now_s, hand.name, str(ended))
        for lease in self._leases.expire(now_s):
            self._expired(now_s, lease)
        self._write_off()
        self._leases.ripen(now_s)
        self._fill()
        given = self._answer(now_s)
        given += self._push(now_s)
        if self._leases.held:
            self._caller.busy_s += now_s - self._worked_s
        self._worked_s, self._done = now_s, 0
        self.is_open = self._leases.open > 0
        return bool(heard or given)

    def due_s(self, now_s: float) -> float:
        """Return when there is something to do though nothing comes."""
        look_s = self._look_s if self._hands is not None else float("inf")
        first = min((asking.since_s + POLL_S for asking in self._asking.values()), default=float("inf"))
        return now_s if self._given_up else min(first, look_s, self._leases.due_s())

    def close(self) -> None:
        """Tell those outside that nothing more comes."""
        until_s = time.monotonic() + END_S
        for called in list(self._calls.values()):
            self._reply(called, {"failed": [[called.id, "the run has ended"]]})
        for _ in range(self._doors.pullers):
            self._doors.push(self._frames({"over": True}, raw=False))
        told: set[Peer] = set()
        while True:
            for peer, asking in self._asking.items():
                self._send(peer, {**asking.due, "over": True})
                told.add(peer)
            self._asking.clear()
            now_s = time.monotonic()
            waiting = [peer for peer, seen_s in self._seen_s.items() if now_s - seen_s < SEEN_S and peer not in told]
            if not waiting or now_s >= until_s:
                break
            time.sleep(0.005)
            for message in self._doors.heard(BURST):
                self._hear(now_s, message)
        if self._hands is not None:
            self._hands.close()
        self._doors.close(linger_ms=100)

    # -- what is said -------------------------------------------------------------------------------

    def _hear(self, now_s: float, heard: Heard) -> None:
        try:
            asked = self._read(heard.frames)
            self._check(asked, heard)
        except ProtocolError as error:
            self._complain(heard, str(error))
            if heard.peer is not None:
                self._send(heard.peer, {**self._tag_of(heard.frames), "error": str(error)})
            return
        if asked.name and heard.peer is not None:
            self._names[heard.peer] = asked.name
            if len(self._names) > NAMES_MAX:
                del self._names[next(iter(self._names))]
        refused = self._outcomes(now_s, asked)
        if refused:
            self._complain(heard, f"token {refused[0][0]!r:.40}: {refused[0][1]}", len(refused))
        if heard.peer is None:
            return
        due: Message = {"tag": asked.tag} if asked.tag else {}
        if refused:
            due["refused"] = refused
        for id_, value in asked.call:
            self._call(_Called(heard.peer, id_, value, asked.raw, due))
        if asked.take:
            self._asking[heard.peer] = _Asking(min(asked.take, TAKE_MAX), asked.raw, now_s, due)
            self._seen_s[heard.peer] = now_s
            self._own_asked = self._own_asked or heard.peer[0] == OWN
        elif not asked.call:
            self._send(heard.peer, {**due, **({} if asked.take is None else {"items": []}), **self._hello(asked)})

    def _check(self, asked: Asked, heard: Heard) -> None:
        """Raise ProtocolError for what is well said, but not to be said here."""
        stage = self._stage.stage
        if asked.stage and asked.stage != stage:
            raise ProtocolError(f"this is the gate of stage {stage!r}, not of {asked.stage!r}")
        if asked.put or asked.end:
            raise ProtocolError(f"stage {stage!r} has its items from other stages: put them at the gate of a source")
        if asked.call and asked.take is not None:
            raise ProtocolError("a message takes items or calls, not both")
        if heard.peer is None and (asked.take is not None or asked.call):
            raise ProtocolError("nobody is answered at this address: take and call at the one for calls")

    def _hello(self, asked: Asked) -> Message:
        """Return what one is told who says nothing but which stage is meant."""
        if asked.stage is None:
            return {}
        about = {"stage": self._stage.stage, "role": self._stage.role, "lease_s": self._leases.lease_s}
        return {**about, **self._doors.endpoints}

    def _outcomes(self, now_s: float, asked: Asked) -> list[list[str]]:
        """Take in what has become of items; returns the tokens that are good for nothing, and why."""
        refused = []
        for token in asked.busy:
            try:
                holder = self._leases.extend(now_s, token).holder
                if holder in self._seen_s:
                    self._seen_s[holder] = now_s
            except Refused as why:
                refused.append([token, str(why)])
        for token, value, *output in asked.done:
            try:
                item = self._leases.done(token)
            except Refused as why:
                refused.append([token, str(why)])
            else:
                self._done += 1
                self._finish(item, Output(output[0], value) if output else value)
        for token, reason in asked.failed:
            try:
                item = self._leases.failed(token)
            except Refused as why:
                refused.append([token, str(why)])
            else:
                self._failed(now_s, item, " ".join(str(reason).split()) or "the worker gives no reason")
        return refused

    def _complain(self, heard: Heard, what: str, count: int = 1) -> None:
        name = self._names.get(heard.peer, "") if heard.peer is not None else ""
        self._log.refuse(f"{name} at {heard.address}" if name else heard.address, what, count)

    # -- outcomes -----------------------------------------------------------------------------------

    def _finish(self, item: Item, value: Any) -> None:
        """Pass on the result of an item that is done."""
        what = item.what
        if isinstance(what, _Called):
            self._reply(what, {"done": [[what.id, value.value if isinstance(value, Output) else value]]})
            return
        part = None
        if self._stage.outputs and value is not None:
            try:
                part = self._caller.encode(value)
            except (EncodeError, StageError) as error:
                self._give_up(what, error, 1)
                return
        self._pass_on(what, part, dropped=value is None)

    def _pass_on(self, what: _Streamed, part: Any, *, dropped: int, dead: int = 0, repeated: int = 0) -> None:
        """Send what has come of an item, a gap where nothing has, and be done with it."""
        run, k, job = what.run, what.k, what.job
        if self._stage.outputs:
            assert job.parent is not None
            marks = bytes([Mark.TOMB]) if part is None else None
            self._worker.emit(run.like(k, [part], marks), job.parent)
        now_s = self._caller.clock()
        busy_s = (now_s - self._worked_s) / max(1, self._done)
        self._worker.done(job, busy_s=busy_s, dropped=int(dropped), dead=dead, repeated=repeated)

    def _failed(self, now_s: float, item: Item, reason: str) -> None:
        """Try an item again that could not be done, or give it up."""
        if isinstance(item.what, _Called):
            self._close(item, StageError(reason))
        elif item.tries < self._stage.tries:
            self._leases.again(item, now_s + pause_s(item.tries))
        else:
            self._close(item, StageError(reason))

    def _died(self, now_s: float, name: str, how: str) -> None:
        """Give what a worker of its own held to others at once."""
        self._stillborn += not self._own_asked
        if self._stillborn > STILLBORN_MAX:
            raise StageError(
                f"stage {self._stage.name!r}: its worker {name} {how} before it asked for an item: see its log"
            )
        self._log.say(f"its worker {name} {how} and is started anew")
        for peer in [peer for peer, known in self._names.items() if known == name]:
            for lease in self._leases.drop(now_s, peer):
                self._expired(now_s, lease)
            self._asking.pop(peer, None)
            self._forget(peer)

    def _expired(self, now_s: float, lease: Lease) -> None:
        item = lease.item
        who = "one who pulls" if lease.holder is None else self._names.get(lease.holder, "a worker")
        reads = self._stage.role == "sink" and self._hands is None  # of a reader's death no item is to blame
        if item.deaths >= self._stage.deaths and not reads:
            each_s = self._leases.lease_s
            self._close(item, StageError(f"{item.deaths} leases of {each_s:g} s ran out without a result"))
            return
        held_s = now_s - lease.since_s
        said = f"{who} has held {self._what(item)} for {held_s:.1f} s and says nothing: it is given to others"
        self._log.say_of_many(said)
        self._leases.again(item, now_s)

    def _what(self, item: Item) -> str:
        what = item.what
        return "a call" if isinstance(what, _Called) else what.run.text(self._caller.current.lane_names, what.k)

    def _close(self, item: Item, error: StageError) -> None:
        """Give an item up."""
        self._leases.close(item)
        if isinstance(item.what, _Called):
            self._reply(item.what, {"failed": [[item.what.id, str(error)]]})
        else:
            self._give_up(item.what, error, max(1, item.tries))

    def _give_up(self, what: _Streamed, error: Exception, tries: int) -> None:
        self._given_up.append((what, self._caller.trouble.give_up(error, what.run, what.k, tries)))

    def _write_off(self) -> None:
        """Go on with the items that were given up, one after another: there may be no room for a letter now."""
        trouble = self._caller.trouble
        while self._given_up:
            what, steps = self._given_up[0]
            trouble.dropped = trouble.dead = trouble.repeated = 0
            if next(steps, steps) is not steps:
                return
            self._given_up.popleft()
            self._pass_on(
                what, None, dropped=trouble.dropped, dead=trouble.dead, repeated=trouble.repeated
            )  # fmt: skip

    # -- items go out -------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Take so many items in as are wanted, and a few more."""
        wanted = sum(asking.n for asking in self._asking.values()) + PUSHED_EACH * self._doors.pullers
        inlet, leases = self._worker.inlet, self._leases
        assert inlet is not None
        inlet.least = min(self._worker.limits.window_max, 2 * (wanted + leases.held) + AHEAD)
        begun = False
        while leases.streaming < wanted + AHEAD and (job := self._worker.take(1)) is not None:
            if not begun:
                begun = True
                self._caller.trouble.begin()
            self._open(job)
        if leases.streaming < wanted + AHEAD:
            inlet.want(wanted + AHEAD - leases.streaming)

    def _open(self, job: Job) -> None:
        ((run, k, _),) = job.stretches
        if run.mark(k):
            if self._stage.outputs:
                assert job.parent is not None
                self._worker.emit(run.like(k, [None], bytes([run.mark(k)])), job.parent)
            self._worker.done(job, busy_s=0.0, dropped=0)
            return
        what = _Streamed(job, run, k, self._caller.values(run)[k])
        trouble = self._caller.trouble
        if trouble.doubts:
            try:
                trouble.check(run, k)
            except (Settled, StageError) as error:
                self._give_up(what, error, 1)
                return
        self._leases.add(what)

    def _call(self, called: _Called) -> None:
        """Open a call, or find the one that is open: it was asked again, perhaps by another connection."""
        at = called.peer[0], called.id
        known = self._calls.get(at)
        if known is not None:
            known.peer, known.due = called.peer, called.due
            return
        self._calls[at] = called
        self._leases.add(called, is_call=True)

    def _answer(self, now_s: float) -> int:
        """Give items to those who ask, and tell those who have waited that there are none."""
        given = 0
        for peer, asking in list(self._asking.items()):
            leases = self._leases.give(now_s, asking.n, peer) if self._leases.waiting else []
            if not leases and now_s - asking.since_s < POLL_S:
                continue
            del self._asking[peer]
            if not leases and self._leases.is_distrusted(now_s, peer):
                asking.due["error"] = "leases of yours ran out without a result: nothing more is given to you for now"
            leases, frames = self._packed(leases, asking.due, raw=asking.raw)
            if self._doors.answer(peer, frames):
                given += len(leases)
            else:
                self._leases.take_back(leases)
                self._forget(peer)
        for peer in [peer for peer, seen_s in self._seen_s.items() if now_s - seen_s > 10 * self._leases.lease_s]:
            self._forget(peer)
        return given

    def _forget(self, peer: Peer) -> None:
        self._leases.forget(peer)
        self._seen_s.pop(peer, None)
        self._names.pop(peer, None)

    def _push(self, now_s: float) -> int:
        """Push items to those who pull, so many that each has two in the mean."""
        most = PUSHED_EACH * self._doors.pullers
        given = 0
        while self._pushed < most and (leases := self._leases.give(now_s, 1)):
            leases, frames = self._packed(leases, {"call": self._doors.endpoints["call"]}, raw=False)
            if leases and not self._doors.push(frames):
                self._leases.take_back(leases)
                break
            given += len(leases)
        return given

    @property
    def _pushed(self) -> int:
        return self._leases.unaccounted

    def _packed(self, leases: list[Lease], message: Message, *, raw: bool) -> tuple[list[Lease], Frames]:
        """Return so many of the leases as one message holds, and the message; an item that none holds is given up."""
        while True:
            items = [[lease.token, lease.item.what.value] for lease in leases]
            try:
                return leases, self._frames({**message, "items": items, "lease_s": self._leases.lease_s}, raw=raw)
            except EncodeError as error:
                kept = len(leases) // 2
                if not kept:
                    self._close(self._leases.failed(leases[0].token), StageError(f"it cannot be given out: {error}"))
                self._leases.take_back(leases[max(1, kept) :])
                leases = leases[:kept]

    def _reply(self, called: _Called, message: Message) -> None:
        self._calls.pop((called.peer[0], called.id), None)
        try:
            frames = self._frames({**called.due, **message}, raw=called.raw)
        except EncodeError as error:
            frames = self._frames({**called.due, "failed": [[called.id, f"it cannot be answered: {error}"]]}, raw=False)
        self._doors.answer(called.peer, frames)

    def _send(self, peer: Peer, message: Message) -> None:
        self._doors.answer(peer, self._frames(message, raw=False))

    def _frames(self, message: Message, *, raw: bool) -> Frames:
        return encode_message({KEY: VERSION, **message}, raw=raw)
