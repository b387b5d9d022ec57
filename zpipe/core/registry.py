"""The registry's machine: requests with the time go in, actions come out.

Knows what each request means for the run and its workers; refuses to know sockets, files, clocks and
chance: the same object lives in the registry's loop and in the simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from zpipe.core import table
from zpipe.core.limits import RegistryLimits
from zpipe.core.members import SUMMED, Member, Members, sources_of
from zpipe.core.outcomes import Action, Down, Ended, Map, Push, Reply, Store, Stored
from zpipe.core.presence import Presence
from zpipe.core.progress import RUNNING, Progress
from zpipe.core.requests import (
    PROTO,
    TEXT_MAX,
    WORKERS_MAX,
    Beat,
    Refused,
    count,
    inc,
    read_beat,
    read_counters,
    read_hello,
    read_reaches,
    text,
)
from zpipe.core.suspects import Suspects, fate, read_blame
from zpipe.core.taps import Taps, read_wish
from zpipe.values.plan import Plan, StagePlan

REVOKED = "this key was revoked: let who keeps the registry's keys make another, zpipe keys add NAME"


class Registry:
    """One run's registry.  `welcome` is what every WELCOME carries besides: folders, transport.

    `starts_workers`: its launcher starts workers that are wanted.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        run_key: int,
        epoch: int,
        limits: RegistryLimits | None = None,
        stored: Stored | None = None,
        welcome: Mapping[str, Any] | None = None,
        starts_workers: bool = False,
    ) -> None:
        stored = stored or Stored()
        self.plan = plan
        self.epoch = epoch
        self.limits = limits or RegistryLimits()
        self.members = Members(plan, starts_workers=starts_workers, mesh_peers=self.limits.mesh_peers)
        self.members.fences.update(stored.fences)
        self.members.sums.update(stored.sums)
        self.members.draining.update(stored.draining)
        self.members.wanted.update(stored.wanted)
        self.members.pinned.update(stored.pinned)
        self._starts_workers = starts_workers
        for life, entry in stored.workers.items():
            self.members.restore(life, entry)
        sources = [lane for stage in plan.stages if stage.role == "source" for lane in stage.lanes]
        self.progress = Progress(sources, stored)
        self.recovering = bool(stored.workers)
        self.presence = Presence(self.limits, restarted=self.recovering)
        self.taps = Taps()
        self._welcome = {**(welcome or {}), "run_key": run_key, "plan": plan.to_dict()}
        self._admitted: Mapping[str, str] | None = None  # public key -> name; None: without keys
        self._ver = 0
        self._began_s: float | None = None
        self._ended = False
        self._stores = self.progress.stores
        self.suspects = Suspects(self._stores, stored.suspects)
        self._stale: dict[int, None] = {}  # lives to be told something new
        self._waiting: dict[int, None] = {}  # and those that have had a long roster just now
        self._now_s = 0.0  # of this step
        self._ends: list[Action] = []
        self._verbs: dict[str, Callable[[float, bytes, Mapping[str, Any]], Map]] = {
            "HELLO": self._hello,
            "BEAT": self._beat,
            "FAILED": self._failed,
            "DIED": self._died,
            "BYE": self._bye,
            "FAIL": self._fail,
            "STOP": self._stop,
            "DRAIN": self._drain,
            "SCALE": self._scale,
            "TAP": self._tap,
            "PS": self._ps,
            "DOWN": self._down,
        }

    def step(self, now_s: float, peer: bytes, message: Mapping[str, Any], key: str = "") -> list[Action]:
        """Answer one request; whatever it holds, the answer is the worst that happens.

        `key` is the public key that its connection has proven, "" without keys.
        """
        self._begin(now_s)
        rid = message.get("rid")
        message = {**message, "key": key}
        try:
            if self._admitted is not None and key not in self._admitted:
                raise Refused(403, REVOKED)
            verb = text(message, "t")
            if verb not in self._verbs:
                raise Refused(501, f"verb {verb!r:.40} is unknown: there are {', '.join(self._verbs)}")
            reply = self._verbs[verb](now_s, peer, message)
        except Refused as refused:
            reply = {"t": "ERR", "code": refused.code, "text": refused.text}
        reply["rid"] = rid if isinstance(rid, int | str) else None
        self._decide(now_s)
        return self._actions(Reply(peer, reply))

    def tick(self, now_s: float) -> list[Action]:
        """Notice what did not happen."""
        self._begin(now_s)
        self.taps.tick(now_s)
        self._stale |= {life: None for life in self._waiting if self.members.living[life].roster_due_s <= now_s}
        for member in self.presence.lost(self.members, now_s):
            self.presence.declared.append(member.inc)
            self._remove(member, f"was out of reach for {now_s - member.seen_s:.1f} s and declared dead")
        self._decide(now_s)
        tries = [Push(m.peer, self._state(m, m.ver)) for m in self.presence.in_doubt(self.members, now_s)]
        return [*self._actions(), *tries]

    def tried(self, now_s: float, peer: bytes, *, there: bool) -> None:
        """Take note of whether a push had a connection to go on."""
        for member in self.members.living.values():
            if member.peer == peer:
                self.presence.tried(member, now_s, there=there)

    def admit(self, now_s: float, admitted: Mapping[str, str]) -> list[Action]:
        """Admit these public keys, with their hosts' names, and no others; the workers of others are gone."""
        self._begin(now_s)
        before, self._admitted = self._admitted, dict(admitted)
        if before is not None:
            for member in [member for member in self.members if member.announced and member.key not in admitted]:
                self._remove(member, f"has left: the key of {before.get(member.key, 'its host')!r} was revoked")
            self._renew([member for member in self.members if member.in_rosters])
        self._decide(now_s)
        return self._actions()

    def _hello(self, now_s: float, peer: bytes, message: Mapping[str, Any]) -> Map:
        hello = read_hello(message)
        self._refuse_dead(hello.inc)
        member = self.members.living.get(hello.inc)
        if member is None:
            if hello.worker is not None:
                raise Refused(410, f"{hello.worker} was declared dead while it was away: let it end")
            if (hello.host, hello.pid) in self.members.dead_processes:
                raise Refused(410, f"pid {hello.pid} on {hello.host} was declared dead by its supervisor")
            self.members.stage(hello.stage)
            if self.progress.state != RUNNING:
                raise Refused(409, f"run {self.plan.name!r} is {self.progress.state}: there is nothing to join")
            old = self.members.replaced_by(hello)
            if old is not None:
                self._remove(old, "was replaced by its next life")
            if not self._starts_workers:
                self.members.check_has_room(self.members.stage(hello.stage))
            member = self.members.admit(hello, peer, now_s)
            if hello.slot is None and hello.replaces is None:
                self._mark_draining(
                    member.stage, member.slot, False
                )  # a new worker: it was another of its place that was to leave
            self._stores["fence", f"{member.stage.number}:{member.slot}"] = member.fence
            self._store_worker(member, now_s)
        member.peer, member.announced = peer, True
        self.presence.heard(member, now_s)
        member.key = message["key"]
        if hello.beat is not None:
            self._believe(member, hello.beat, now_s)
        own = sources_of(member.stage, member.slot)
        return {
            **self._welcome,
            "t": "WELCOME",
            "proto": list(PROTO),
            "epoch": self.epoch,
            "ver": 0,
            "worker": member.name,
            "stage_number": member.stage.number,
            "slot": member.slot,
            "fence": member.fence,
            "desired": self._desired(member),
            "partitions": own,
            "watermarks": {number: list(self.progress.watermarks[number]) for number in own},
            "complete": [number for number in own if number in self.progress.complete],
            "reach": {number: self.progress.reach(number) for number in own},
            "suspects": self.suspects.of(member.stage),
            **self._keys(),
        }

    def _beat(self, now_s: float, peer: bytes, message: Mapping[str, Any]) -> Map:
        member = self._known(message)
        ver, beat = count(message, "ver"), read_beat(message)
        member.peer = peer
        self.presence.heard(member, now_s)
        self._believe(member, beat, now_s)
        if beat.resolved and self.suspects.resolve(member.stage, beat.resolved):
            self._tell(member.stage)
        return self._state(member, ver)

    def _failed(self, now_s: float, peer: bytes, message: Mapping[str, Any]) -> Map:
        member = self._known(message)
        error = text(message, "error", longest=TEXT_MAX)
        detail = text(message, "detail", longest=TEXT_MAX) if "detail" in message else ""
        self._end_badly(now_s, member.name, error, detail)
        return {"t": "OK"}

    def _fail(self, now_s: float, peer: bytes, message: Mapping[str, Any]) -> Map:
        self._end_badly(now_s, "", text(message, "why", longest=TEXT_MAX), "")
        return {"t": "OK"}

    def _died(self, now_s: float, peer: bytes, message: Mapping[str, Any]) -> Map:
        life = inc(message) if message.get("inc") is not None else None
        pid = count(message, "pid") if message.get("pid") is not None else None
        host = text(message, "host") if message.get("host") is not None else None
        worker = text(message, "worker") if message.get("worker") is not None else None
        if life is None and pid is None and worker is None:
            raise Refused(400, "DIED names neither inc nor pid nor worker")
        items = read_blame(message)
        how = text(message, "how", longest=TEXT_MAX) if "how" in message else "for no known reason"
        for number, reach in read_reaches(message).items():
            self.progress.reached(number, reach)
        member = self.members.find(life, pid, host, worker)
        stage = member.stage if member is not None else self.members.stage_of_gone(life)
        if stage is not None and items:
            self._blame(now_s, worker or "", stage, items, how)
        if member is not None:
            self._remove(member, "died")
        elif life is not None:
            self.members.bury(life, f"{worker or 'a worker'} died")  # its HELLO may still be under way
        elif pid is not None and host is not None:
            self.members.dead_processes.append((host, pid))
        return {"t": "OK"}

    def _blame(self, now_s: float, worker: str, stage: StagePlan, items: list[tuple[str, int]], how: str) -> None:
        """Let what a dead worker was running answer for it, and end the run where that is too much."""
        alone = self.suspects.blame(stage, items, how)
        self._tell(stage)
        if alone is None or stage.on_error != "stop" or alone[1] < stage.deaths:
            return
        what, said = fate(alone[1], how)
        way_out = 'mend its code, or set on_error = "dead-letter" to go on without such items'
        self._end_badly(now_s, worker, f"stage {stage.name!r} at {alone[0]}: {what}: {way_out}", said)

    def _bye(self, now_s: float, peer: bytes, message: Mapping[str, Any]) -> Map:
        member, counters = self.members.living.get(inc(message)), read_counters(message)
        if member is not None:
            member.counters = counters or member.counters
            self._mark_draining(member.stage, member.slot, False)
            self._remove(member, "has left", returns=False)
        return {"t": "OK"}

    def _stop(self, now_s: float, peer: bytes, message: Mapping[str, Any]) -> Map:
        if self.progress.stop():
            self._tell_all()
        return {"t": "OK"}

    def _drain(self, now_s: float, peer: bytes, message: Mapping[str, Any]) -> Map:
        member = self.members.named(text(message, "worker"))
        self.members.check_may_leave(member)
        self._mark_draining(member.stage, member.slot, True)
        self._stale[member.inc] = None
        return {"t": "OK"}

    def _scale(self, now_s: float, peer: bytes, message: Mapping[str, Any]) -> Map:
        stage, wanted = self.members.stage(text(message, "stage")), count(message, "workers")
        self.members.check_may_scale(stage)
        if wanted < 1:
            raise Refused(400, f"stage {stage.name!r} needs a worker: 0 would stop the run, zpipe down ends it")
        if wanted > WORKERS_MAX:
            raise Refused(400, f"stage {stage.name!r} cannot have {wanted} workers: {WORKERS_MAX} are the most")
        if not self._starts_workers:
            way_out = f"start them with zpipe worker {stage.name}, let one leave with zpipe drain"
            raise Refused(409, f"nobody starts workers for this run, which zpipe registry serves: {way_out}")
        if self.progress.state != RUNNING:
            raise Refused(409, f"run {self.plan.name!r} is {self.progress.state}: there is nothing to scale")
        if not message.get("auto"):
            self.members.pinned.add(stage.number)
            self._stores["pinned", str(stage.number)] = True
        elif stage.number in self.members.pinned:
            raise Refused(409, f"stage {stage.name!r} was scaled by hand: it no longer scales itself")
        self.members.wanted[stage.number] = self._stores["wanted", str(stage.number)] = wanted
        for slot in range(wanted):
            self._mark_draining(stage, slot, False)  # one that died before it could leave may have left its mark
        for k, member in enumerate(self.members.of(stage)):
            self._mark_draining(stage, member.slot, k >= wanted)
            self._stale[member.inc] = None
        return {"t": "OK"}

    def _tap(self, now_s: float, peer: bytes, message: Mapping[str, Any]) -> Map:
        stage = self.members.stage(text(message, "stage"))
        wish = read_wish(message, self.plan, stage)
        if self.taps.end(stage, wish) if message.get("over") else self.taps.renew(stage, wish, now_s):
            self._tell(stage)
        return {"t": "OK", "state": self.progress.state, **self._keys()}

    def _ps(self, now_s: float, peer: bytes, message: Mapping[str, Any]) -> Map:
        return {
            "t": "TABLE",
            "run": self.plan.name,
            "recovering": self.recovering,
            **table.run_line(self.plan, self.progress, now_s),
            "stages": table.stage_lines(self.plan, self.members),
            "workers": table.worker_lines(self.members, now_s, self.limits.suspect_s),
            "declared_dead": list(self.presence.declared),
            "edges": table.edge_lines(self.plan, self.members, now_s),
            "sources": table.source_lines(self.plan, self.progress),
        }

    def _down(self, now_s: float, peer: bytes, message: Mapping[str, Any]) -> Map:
        self._ends.append(Down())
        return {"t": "OK"}

    def _known(self, message: Mapping[str, Any]) -> Member:
        """Return the living sender of a request."""
        life = inc(message)
        self._refuse_dead(life)
        member = self.members.living.get(life)
        if member is None or not member.announced:
            raise Refused(404, "this registry does not know you: say HELLO")
        return member

    def _refuse_dead(self, life: int) -> None:
        if life in self.members.gone:
            raise Refused(410, f"{self.members.gone[life]}: let it end")

    def _believe(self, member: Member, beat: Beat, now_s: float) -> None:
        if member.take(beat, now_s):
            self._change_rosters(member)
        own = sources_of(member.stage, member.slot)
        for number, news in beat.sources.items():
            if number in own:  # another worker's sources are that one's to tell
                self.progress.advance(number, news)
        if now_s - member.stored_s >= self.limits.store_s:
            self._store_worker(member, now_s)

    def _remove(self, member: Member, why: str, *, returns: bool = True) -> None:
        changed = self.members.remove(member, why, returns=returns)
        self._stores["worker", str(member.inc)] = None
        self._stores["sums", str(member.stage.number)] = dict(self.members.sums[member.stage.number])
        self._stale.pop(member.inc, None)
        self._waiting.pop(member.inc, None)
        self._renew(changed)

    def _mark_draining(self, stage: StagePlan, slot: int, leaves: bool) -> None:
        place = (stage.number, slot)
        if leaves != (place in self.members.draining):
            self.members.draining ^= {place}
            self._stores["drain", f"{place[0]}:{place[1]}"] = leaves or None

    def _store_worker(self, member: Member, now_s: float) -> None:
        member.stored_s = now_s
        self._stores["worker", str(member.inc)] = {
            "stage": member.stage.number,
            "slot": member.slot,
            "fence": member.fence,
            "pid": member.pid,
            "host": member.host,
            "supervisor": member.supervisor,
            "counters": {name: member.counters[name] for name in SUMMED if name in member.counters},
        }

    def _change_rosters(self, member: Member) -> None:
        self._renew([member, *self.members.beside(member)])

    def _renew(self, members: Iterable[Member]) -> None:
        """Give members a new roster; it is built when everything of this step is known, a long one less often."""
        self._ver += 1
        for member in members:
            member.ver = self._ver
            (self._stale if member.roster_due_s <= self._now_s else self._waiting)[member.inc] = None

    def _tell(self, stage: StagePlan) -> None:
        self._stale |= dict.fromkeys(member.inc for member in self.members.of(stage) if member.announced)

    def _tell_all(self) -> None:
        self._stale |= dict.fromkeys(member.inc for member in self.members if member.announced)

    def _end_badly(self, now_s: float, worker: str, error: str, detail: str) -> None:
        if self.progress.fail(now_s, self.limits.fail_s, worker, error, detail):
            self._tell_all()

    def _begin(self, now_s: float) -> None:
        self._now_s = now_s
        if self._began_s is not None:
            return
        self._began_s = now_s
        self.progress.begin(now_s, self.limits.fail_s)
        for member in self.members:
            member.seen_s = now_s

    def _decide(self, now_s: float) -> None:
        """Let the run go on to its next state; nothing is decided while earlier workers may come back."""
        if self.recovering:
            began_s = self._began_s if self._began_s is not None else now_s
            if now_s - began_s < self.limits.recover_s and not all(m.announced for m in self.members):
                return
            self.recovering = False
            self._renew([member for member in self.members if member.in_rosters])
        if changed := self.members.rearrange():
            self._renew(changed)
        if self.progress.decide(now_s, somebody=bool(self.members.living)):
            self._tell_all()
        if self.progress.is_over and not self._ended:
            self._ended = True
            self._ends.append(Ended(self.progress.state, self.progress.error["error"]))

    def _desired(self, member: Member) -> str:
        if self.progress.state != RUNNING:
            return "exit"
        stops = self.progress.stopping and member.stage.role == "source"
        return "drain" if stops or self.members.is_leaving(member) else "run"

    def _state(self, member: Member, ver: int | None) -> Map:
        """Return what a worker should know, with its roster unless it has that version."""
        state: Map = {
            "t": "STATE",
            "epoch": self.epoch,
            "ver": member.ver,
            "desired": self._desired(member),
            "watermarks": {number: list(mark) for number, mark in self.progress.watermarks.items()},
            "taps": self.taps.of(member.stage),
            "suspects": self.suspects.of(member.stage),
        }
        if member.in_rosters and ver != member.ver:
            state["roster"] = self._roster(member)
        return state

    def _roster(self, member: Member) -> Map:
        """Return whom a worker may link to, and note when it may be told again."""
        beside = self.members.beside(member)
        self._waiting.pop(member.inc, None)
        if len(beside) > self.limits.roster_peers:
            member.roster_due_s = self._now_s + self.limits.roster_peer_s * len(beside)
        return {
            "only_adds": self.recovering,
            "peers": [
                {
                    "inc": other.inc,
                    "stage_number": other.stage.number,
                    "worker": other.name,
                    "inbox": list(other.inbox),
                    "acks": list(other.acks),
                    **({"key": other.key} if other.key else {}),
                }
                for other in beside
            ],
            **self._keys(),
        }

    def _keys(self) -> Map:
        """Return whom workers are to admit, nothing without keys."""
        return {} if self._admitted is None else {"keys": sorted(self._admitted)}

    def _actions(self, *replies: Reply) -> list[Action]:
        """Empty what this step has gathered, stores first; nobody is told twice."""
        actions: list[Action] = [Store(*key, value) for key, value in self._stores.items()]
        actions += replies
        for life in self._stale:
            member = self.members.living[life]
            answered = any(r.peer == member.peer and r.message["t"] == "STATE" for r in replies)
            if answered:
                replies[0].message.update(self._state(member, None))
            else:
                actions.append(Push(member.peer, self._state(member, None)))
        actions += self._ends
        self._stores.clear()
        self._stale, self._ends = {}, []
        return actions
