"""Planted bugs: the machine with one rule changed each, and the outcome that gives it away."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from zpipe.core.inlet import Address, Inlet, InLink
from zpipe.core.latest import Latest
from zpipe.core.leases import Lease
from zpipe.core.ledger import Ledger, Record
from zpipe.core.memory import Memory
from zpipe.core.mesh import Mesh
from zpipe.core.outlet import Link, Out, Outlet, Parent
from zpipe.core.slots import Slot, Slots
from zpipe.core.source import Position, Source
from zpipe.core.suspects import Suspects
from zpipe.core.work import Job
from zpipe.core.worker import Worker
from zpipe.joins import join, join_on
from zpipe.processes.caller import Caller
from zpipe.processes.joiner import Joiner
from zpipe.processes.letters import Letter
from zpipe.processes.trouble import GIVEN_UP
from zpipe.stages import Made
from zpipe.testing.ailing import Shelf
from zpipe.testing.outside import PlayedGate
from zpipe.testing.shared import Pool
from zpipe.testing.simulator import World
from zpipe.values.errors import NoRoom
from zpipe.values.paths import Mark, Run
from zpipe.values.plan import StagePlan
from zpipe.wire.frames import Ack


class AcksOnArrival(Ledger):
    def arrived(self, address: Address, run: Run) -> None:
        super().arrived(address, run)
        address.settle()

    def settled(self, record: Record) -> None:
        record.addresses.clear()
        super().settled(record)


class AcksWhenCalled(Ledger):
    def done(self, job: Job) -> None:
        for record in job.records:
            for address in record.addresses:
                address.settle()
            record.addresses, kept = [], record.addresses
            for address in kept:
                address.consume()
        super().done(job)


class ForgetsRepeats(Ledger):
    def arrived(self, address: Address, run: Run) -> None:
        if run.key in self.records:
            address.consume()
            return
        super().arrived(address, run)


class SettlesWhatItSends(Outlet):
    def _put(self, link: Link, out: Out) -> None:
        super()._put(link, out)
        seq = link.sent - out.run.n + 1
        self._settle(link, seq, out)


class SeesNoGap(Outlet):
    def _has_gap(self, ack: Ack) -> bool:
        return False


class RedeliversNothing(Outlet):
    def lost(self, now_s: float, link: Link) -> None:
        link.frames = {seq: frame for seq, frame in link.frames.items() if not isinstance(frame, Out)}
        super().lost(now_s, link)


class SendsToAll(Outlet):
    def _sent_to(self, outputs: tuple[str, ...], run: Run) -> Run:
        return run


class LetsTheNewestGo(Latest):
    def put(self, out: Out, parents: tuple[Parent, ...]) -> Out | None:
        return super().put(out, ())


class GivesUpEarly(Caller):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if isinstance(self.grouping, join):
            self.grouping._is_past = lambda *_: True  # type: ignore[method-assign]


class JoinsAcrossEpochs(Caller):
    def _epoch_end(self, job: Job) -> Any:
        return iter(()) if isinstance(self.grouping, join_on) else super()._epoch_end(job)


class ForgetsWhatWaits(Caller):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if isinstance(self.grouping, join_on):
            self.grouping.restore = lambda _: None  # type: ignore[method-assign]


class DropsTombstones(Outlet):
    """No tombstone for what a stage's code drops."""

    def emit(self, run: Run, parents: Any) -> None:
        if run.marks is not None and Mark.TOMB in run.marks:
            for i in range(run.n):
                if run.marks[i] != Mark.TOMB:
                    super().emit(run.slice(i, i + 1), parents)
            return
        super().emit(run, parents)


class SettlesBelowTheHighest(InLink):
    __slots__ = ()

    def settle(self, seq: int, n: int) -> None:
        self.base = max(self.base, seq + n)
        self.dirty = True


class GrantsByDelta(Inlet):
    def _grant(self, link: InLink) -> None:
        super()._grant(link)
        link.limit += link.window


class ForgetsTheLate(Inlet):
    """A sender that a roster left out and that lives on is not heard any more."""

    def _link(self, src: int, gen: int) -> InLink | None:
        return self.links.get(src)


class StopsBelowItsReach(Source):
    """A life that is told to stop ends where it stands, whatever an earlier one has made."""

    def is_over(self, number: int) -> bool:
        self.partitions[number].reach = 0
        return super().is_over(number)


class ForgetsTheUnnamed(Inlet):
    def roster(self, senders: set[int]) -> None:
        self.named |= set(self.links)
        super().roster(senders)


class TakesWhateverComes(Inlet):
    """Data is taken in past a gap."""

    def data(self, message: Any, now_s: float) -> bool:
        link = self.links.get(message.src)
        if link is not None and link.gen == message.gen and message.seq > link.got + 1:
            link.got = message.seq - 1
        return super().data(message, now_s)


class CompleteAtTheLastItem(Source):
    def watermarks(self) -> dict[int, tuple[Position, bool]]:
        return {n: (p.mark_of(), p.ended) for n, p in self.partitions.items()}


class WatermarkOffByOne(Source):
    def watermarks(self) -> dict[int, tuple[Position, bool]]:
        found = super().watermarks()
        for number, (at, complete) in found.items():
            if self.partitions[number].stretches:
                found[number] = (Position(at.position + 1, at.epoch, at.epoch_start), complete)
        return found


class NeverWidens(Source):
    def widen(self, wanted: set[int]) -> bool:
        return False


class HoldsBackForGood(Source):
    """While a stage below holds too much, nothing new is made whoever waits for it."""

    def widen(self, wanted: set[int]) -> bool:
        return False if self.held_back else super().widen(wanted)


class AcksWithoutSave(Memory):
    """An item is settled as soon as it has been called."""

    def done(self, job: Job) -> None:
        super().done(job)
        for run, _, b in job.stretches:
            for entries in self.addresses.values():
                for entry in list(entries):
                    if entry[0] == run.path(b - 1)[1:]:
                        entries.remove(entry)
                        entry[2].settle()


class KeepsParkedCredit(Memory):
    def arrived(self, address: Address, run: Run) -> None:
        if any(address.link is held.address.link for held in self.held.values()):
            address.returned = True
        super().arrived(address, run)
        if any(run.path(i) in self.held for i in range(run.n)):
            address.link.consumed -= address.n
            address.link.consumed_bytes -= address.nbytes


class SavesWithoutOutputs(Memory):
    def save(self) -> Any:
        save = super().save()
        if save is not None:
            save.outs = []
        return save


class EndsWithKeptOutputs(Memory):
    def close_step(self, state: Any = None, *, keeps_outs: bool = False) -> None:
        over, self.over = self.over, False
        super().close_step(state, keeps_outs=keeps_outs or over)
        self.over = over


class SavesUnsettledSteps(Memory):
    def _is_covered(self, step: Any) -> bool:
        return True


class StopsOnRetention(Worker):
    def take(self, limit: int) -> Job | None:
        return None if self.outlet.unsettled_items >= 4 and self.inlet is not None else super().take(limit)


class AcksBeforeTheSave(Worker):
    def flush(self) -> None:
        before = len(self.actions)
        super().flush()
        new = self.actions[before:]
        self.actions[before:] = [a for a in new if a[0] != "save"] + [a for a in new if a[0] == "save"]


class SavesOpenGroups(Caller):
    def _close_step(self, memory: Memory) -> None:
        if self.grouping is not None and self.grouping.state() is None and memory.may_close:
            memory.close_step([self.hook_position, None])
        else:
            super()._close_step(memory)


class TakesAFullDiskForWritten(Caller):
    """Acknowledges what a sink had no room for."""

    def _committed(self, spots: Any) -> Any:
        try:
            return super()._committed(spots)
        except NoRoom:
            return [None] * len(spots)


class NoTombstonesForMembers(Caller):
    def _send(self, joiner: Joiner, made: Iterable[Made]) -> None:
        super()._send(joiner, (entry for entry in made if entry.mark != Mark.TOMB))


class NoEnd(Caller):
    def _split(self, job: Job) -> Any:
        emit = self.worker.emit

        def without(run: Run, parent: Any) -> None:
            if run.marks is not None and run.marks[-1] == Mark.END:
                if run.n == 1:
                    return
                run = run.slice(0, run.n - 1)
            emit(run, parent)

        self.worker.emit = without  # type: ignore[method-assign]
        yield from super()._split(job)
        self.worker.emit = emit  # type: ignore[method-assign]


class StartsWithoutItsSave(World):
    def start(self, stage: Any, slot: int) -> None:
        self.saves.pop(stage.name, None)
        super().start(stage, slot)


class ForgetsHookPosition(Caller):
    def restore(self, state: Any) -> None:
        super().restore([0, state[1]])


class ResendsNothing(World):
    """Restores a save into the cursor, but does not send the outputs in it."""

    def start(self, stage: Any, slot: int) -> None:
        for save in self.saves.get(stage.name, {}).values():
            save.outs = []
        super().start(stage, slot)


class SavesOverLaterLives(World):
    """Has one save for all lives of a stage: one that is held up writes over that of the next."""

    def write_save(self, node: Any, save: Any) -> None:
        self.saves[node.stage.name] = {0: save}


class ForgetsDeaths(Suspects):
    """Every death of an item is its first."""

    def blame(self, stage: StagePlan, items: list[tuple[str, int]], how: str) -> tuple[str, int] | None:
        self.resolve(stage, [path for path, _ in items])
        return super().blame(stage, items, how)


class BlamesTheBlock(Suspects):
    """Whoever ran together is counted against."""

    def blame(self, stage: StagePlan, items: list[tuple[str, int]], how: str) -> tuple[str, int] | None:
        return [super(BlamesTheBlock, self).blame(stage, [item], how) for item in items][-1] if items else None


class BlamesWhatHasReturned(World):
    """A worker that dies between calls is taken to have died in its last one."""

    def kill(self, node: Any) -> None:
        node.notes.die()
        super().kill(node)


class WritesLettersLater(World):
    """A letter is written some time after its item was settled."""

    class letters_type(Shelf):
        def __init__(self) -> None:
            super().__init__()
            self.waiting: list[Letter] = []

        def keep(self, letter: Letter) -> None:
            self.waiting.append(letter)

        def known(self, stage: str) -> Any:
            for letter in self.waiting:
                super().keep(letter)
            self.waiting.clear()
            return super().known(stage)

    def kill(self, node: Any) -> None:
        self.letters.waiting.clear()  # type: ignore[attr-defined]
        super().kill(node)


class EndsAtTheFailure(Caller):
    """Nothing tells the stages below that what is split has been given up."""

    def _split(self, job: Job) -> Any:
        emit = self.worker.emit

        def without(run: Run, parent: Any) -> None:
            if run.marks is None or run.marks[0] != Mark.TOMB:
                emit(run, parent)

        self.worker.emit = without  # type: ignore[method-assign]
        yield from super()._split(job)
        self.worker.emit = emit  # type: ignore[method-assign]


class RetriesForEver(Caller):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.trouble.stage = replace(self.stage, retries=10**9)


class GivesUpTheBlock(Caller):
    """Where a call for several items fails, none of them is called alone."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        trouble = self.trouble
        trouble._alone = self._given_up  # type: ignore[method-assign]

    def _given_up(self, spot: Any, call: Any) -> Any:
        yield from self.trouble.give_up(ValueError("its block failed"), *spot, 1)
        return GIVEN_UP


class ResumesAheadOfTheWatermark(World):
    def resume(self) -> None:
        for lane, (at, complete) in self.watermarks.items():
            if not complete:
                self.watermarks[lane] = (Position(at.position + 1, at.epoch, at.epoch_start), complete)
        super().resume()


class ResumesWithoutSaves(World):
    def resume(self) -> None:
        self.saves.clear()
        super().resume()


class CountsLivesAnew(World):
    """The fences of a resumed run begin at 1 again: its lives do not see the saves of those before."""

    def resume(self) -> None:
        super().resume()
        self.fences = dict.fromkeys(self.fences, 0)


class ForgetsReaches(World):
    """A resumed run that was told to stop does not know how far its sources had got."""

    def resume(self) -> None:
        super().resume()
        self.reaches.clear()


class ForgetsThatItWasToStop(World):
    """A run that was told to stop goes on, though stages below have seen the ends that its sources made."""

    def resume(self) -> None:
        super().resume()
        self.stopping = False
        self.ends.clear()


class WritesWhatIsRead(Slots):
    """A slot is written anew when its owner is done with it, whoever reads it."""

    def drop(self, slot: Slot) -> None:
        super().drop(slot)
        if slot in self.held:
            self.held.discard(slot)
            self._free.setdefault(slot.size, []).append(slot)


class _CountsAll(Mesh):
    def retire(self, leaving: Iterable[int]) -> set[int]:
        return set()


class CountsOnWhoLeaves(World):
    """A worker that is told to leave is as good a peer as others."""

    mesh_type = _CountsAll


class TakesTheDisownedForDead(World):
    """What a worker reads is written anew when it was declared dead, and it lives."""

    def disown(self, node: Any, for_s: float) -> None:
        super().disown(node, for_s)
        for pool in self.pools.values():
            if node.inc in pool.readers:
                pool.slots.forget(pool.readers[node.inc].number)
                pool.slots.sweep()


class SettlesWhatItGives(PlayedGate):
    def _open(self, job: Job) -> None:
        super()._open(job)
        for record in job.records:
            for address in record.addresses:
                address.settle()


class ForgetsWhatRanOut(PlayedGate):
    def _expired(self, now_s: float, lease: Lease) -> None:
        pass


class SyncsNoSaves(World):
    """After a loss of power a stage may find the save before its last."""

    def write_save(self, node: Any, save: Any) -> None:
        self.unsynced = {**getattr(self, "unsynced", {}), node.stage.name: self.saves.get(node.stage.name, {})}
        self.saves[node.stage.name] = dict(self.saves.get(node.stage.name, {}))
        super().write_save(node, save)

    def lose_power(self) -> None:
        super().lose_power()
        for stage, saves in getattr(self, "unsynced", {}).items():
            if self.random.random() < 0.5:
                self.saves[stage] = saves


@dataclass(frozen=True)
class Bug:
    """One changed rule: `name` says what the broken machine does."""

    name: str
    rule: str
    world: type[World]


def _worker(**types: Any) -> type[World]:
    return type("BuggyWorld", (World,), {"worker_type": type("BuggyWorker", (Worker,), types)})


def _bug(broken: type, rule: str) -> Bug:
    name = broken.__name__
    world: type[World]
    if issubclass(broken, World):
        world = broken
    elif issubclass(broken, Slots):
        world = type("BuggyWorld", (World,), {"pool_type": type("BuggyPool", (Pool,), {"slots_type": broken})})
    elif issubclass(broken, PlayedGate):
        world = type("BuggyWorld", (World,), {"gate_type": broken})
    elif issubclass(broken, Suspects):
        world = type("BuggyWorld", (World,), {"suspects_type": broken})
    elif issubclass(broken, Caller):
        world = type("BuggyWorld", (World,), {"caller_type": broken})
    elif issubclass(broken, Worker):
        world = type("BuggyWorld", (World,), {"worker_type": broken})
    elif issubclass(broken, InLink):
        world = _worker(inlet_type=type("BuggyInlet", (Inlet,), {"link_type": broken}))
    else:
        seam = {Outlet: "outlet_type", Inlet: "inlet_type", Ledger: "ledger_type", Memory: "memory_type",
                Source: "source_type", Latest: "latest_type"}  # fmt: skip
        world = _worker(**{next(seam[base] for base in broken.__mro__ if base in seam): broken})
    return Bug(name, rule, world)


BUGS = tuple(
    _bug(broken, rule)
    for broken, rule in (
        (AcksOnArrival, "an input is settled when everything derived from it is, not when it arrives"),
        (AcksWhenCalled, "an input is settled when everything derived from it is, not when its call returns"),
        (ForgetsRepeats, "a repeat of a run in progress attaches its address"),
        (SettlesWhatItSends, "an output is settled by an ack, not by a send"),
        (ForgetsTheLate, "a link that a roster closed opens again when its sender goes on with it"),
        (StopsBelowItsReach, "a source that is told to stop first makes again what its earlier lives have made"),
        (SeesNoGap, "an ack whose echo is above its got closes the link"),
        (RedeliversNothing, "what a dead link held is ready again"),
        (SendsToAll, "what goes to a named output is a tombstone for the readers of others"),
        (LetsTheNewestGo, "the newest item of an edge that keeps only the latest holds what it was made from"),
        (GivesUpEarly, "a join gives an item up when source order has passed its partner, not before"),
        (JoinsAcrossEpochs, "positions of a join count from the beginning of the epoch"),
        (ForgetsWhatWaits, "what waits for a partner is in the save"),
        (DropsTombstones, "a drop leaves a tombstone on every marked edge"),
        (SettlesBelowTheHighest, "base is the lowest seq not settled"),
        (GrantsByDelta, "limit is consumed + window, never a delta"),
        (TakesWhateverComes, "data is taken in only when it is what comes next on its link"),
        (CompleteAtTheLastItem, "complete is: ended, and the watermark at the end"),
        (WatermarkOffByOne, "the watermark is the lowest unsettled position"),
        (NeverWidens, "a source blocked above a quiet pipeline widens its window"),
        (HoldsBackForGood, "what a group or an order waits for is made though a stage below holds too much"),
        (AcksWithoutSave, "a stage with memory acknowledges only what its save covers"),
        (KeepsParkedCredit, "a parked input returns its credit"),
        (SavesWithoutOutputs, "a checkpoint holds the unsettled outputs made before it"),
        (EndsWithKeptOutputs, "the last save leaves no output unsettled"),
        (SavesUnsettledSteps, "a position is saved when the outputs before it are settled"),
        (StopsOnRetention, "only sources stop for lack of acks"),
        (AcksBeforeTheSave, "save first, then ack"),
        (SavesOpenGroups, "a group's position is saved when the group is closed"),
        (TakesAFullDiskForWritten, "what a sink has no room for is committed later, and not acknowledged before"),
        (NoTombstonesForMembers, "each further member of a group leaves a tombstone"),
        (NoEnd, "a split says how many children it had"),
        (
            StartsWithoutItsSave,
            "a new life of a stage with memory starts at its save, never at the watermark",
        ),
        (ForgetsHookPosition, "what a hook makes keeps its positions across lives"),
        (ResendsNothing, "a new life sends again the outputs in its save"),
        (SavesOverLaterLives, "a life that was overtaken hides no later save"),
        (ForgetsDeaths, "an item is given up after so many deaths of its workers"),
        (BlamesTheBlock, "only what ran alone is counted against"),
        (BlamesWhatHasReturned, "only what was running is blamed for a death"),
        (WritesLettersLater, "a dead letter is durable before its item is settled"),
        (EndsAtTheFailure, "what a split gives up leaves a tombstone"),
        (RetriesForEver, "an item is given up after so many tries"),
        (GivesUpTheBlock, "where a call for several items fails, each is called alone"),
        (ResumesAheadOfTheWatermark, "a resumed run begins at the watermarks that were stored"),
        (ResumesWithoutSaves, "a resumed run begins with the saves of its stages"),
        (CountsLivesAnew, "fences go on from one life of a run to the next"),
        (ForgetsReaches, "a resumed run that was told to stop makes again what its sources had made"),
        (ForgetsThatItWasToStop, "a run whose stages have seen the end finishes, resumed or not"),
        (WritesWhatIsRead, "shared memory is written anew when no reader has a view of it"),
        (TakesTheDisownedForDead, "a reader counts as gone when it is proven dead"),
        (CountsOnWhoLeaves, "a worker has enough peers that stay"),
        (SettlesWhatItGives, "an item of a gate is settled when its result is, not when it is given out"),
        (ForgetsWhatRanOut, "an item whose lease ran out is given to others"),
        (SyncsNoSaves, "a save is on the disk before what it covers is acknowledged"),
    )
)
