"""A deterministic simulator: whole pipelines on the real core, in one thread, with every fault drawn from a seed.

Workers, callers and grouping stages are the ones that run over sockets; time, network, disk and death are
played here.  A message on a link arrives in order after a random delay, or is lost with the process at
either end; a kill may fall between any two actions, so also between a save and the acks that it covers.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
from pathlib import Path as PathOnDisk
from typing import Any

from zpipe.core.inlet import InLink
from zpipe.core.limits import Limits
from zpipe.core.members import neighbours, planned
from zpipe.core.memory import Save
from zpipe.core.mesh import Mesh
from zpipe.core.outcomes import Store, Stored
from zpipe.core.outlet import Link, Peer
from zpipe.core.resume import begin_again, reaches_of
from zpipe.core.source import Position, Source
from zpipe.core.suspects import Suspects
from zpipe.core.worker import Role, Worker
from zpipe.processes.caller import Caller, thaw
from zpipe.processes.gate import Gate
from zpipe.processes.patience import PAUSE_S
from zpipe.processes.roles import role_of
from zpipe.testing.ailing import Deadly, Notes, Shelf
from zpipe.testing.faults import TICK_S, Faults, strike
from zpipe.testing.outside import Crowd, PlayedGate
from zpipe.testing.shared import Part, Pool, Shares, objects, plain
from zpipe.values.context import Current
from zpipe.values.errors import NoRoom
from zpipe.values.paths import Run
from zpipe.values.plan import Plan, StagePlan
from zpipe.wire.frames import Ack, Data, Message, Open, Sync

HEARTBEAT_S = 1.0  # a connection is given up when nothing has come over it for as long


class PlainCodec:
    """Carries values as they are; each counts `item_bytes`."""

    def __init__(self, item_bytes: int = 100) -> None:
        self.item_bytes = item_bytes

    def encode(self, value: Any) -> Part:
        return Part(value, self.item_bytes)

    def encode_rows(self, array: Any) -> list[Any]:
        return [self.encode(row) for row in array]

    def rows(self, run: Run) -> Any:
        return objects(self.decode(run))

    def decode(self, run: Run) -> list[Any]:
        assert run.parts is not None
        return [None if part is None else part.value for part in run.parts]

    def parts(self, run: Run) -> Sequence[Any]:
        assert run.parts is not None
        return run.parts

    def encode_state(self, value: Any) -> Part:
        return self.encode(value)

    def decode_state(self, part: Part) -> Any:
        return thaw(part.value)


class Killed(BaseException):
    """A node died between two actions."""


@dataclass
class Pipe:
    """One direction of one connection: messages in order, each with the time it arrives."""

    to: int
    queue: deque[tuple[float, Message]] = field(default_factory=deque)
    last_s: float = 0.0
    cut: bool = False
    losing: int = 0  # messages that will vanish


class Node:
    """One life of one worker."""

    def __init__(self, world: World, stage: StagePlan, slot: int, inc: int) -> None:
        self.world = world
        self.stage = stage
        self.slot = slot
        self.inc = inc
        self.alive = True
        self.disowned = False  # declared dead, and does not know it yet
        self.paused_until = 0.0
        self.due: float | None = None
        self.activity: Any = None
        self.data_pipes: dict[int, Pipe] = {}  # by receiver
        self.ack_pipes: dict[int, Pipe] = {}  # by sender of data
        self.version = 0  # of its last roster
        self.die_in: int | None = None  # actions until death
        self.todo: deque[Any] = deque()  # actions that wait, for room on the disk
        self.worker = world.worker_type(inc, world.role(stage, slot), world.limits)
        current = Current(stage.name, worker=f"{stage.name}-{slot + 1}", lane_names=world.plan.lane_names, run_key=0,
                          run_folder=PathOnDisk("."))  # fmt: skip
        target = world.targets[stage.name]
        made = target(self) if stage.role == "source" else target()
        if "commit" in stage.hooks and world.faults.full:
            made = OnDisk(made, world)
        self.notes = Notes(current)
        self.memory = Shares(self, world.codec.item_bytes) if world.shares else None
        codec = self.memory or world.codec
        self.caller = world.caller_type(
            stage, made, self.worker, codec, lambda: world.now_s, current, self.notes, world.letters
        )
        self.caller.trouble.say = lambda line: None
        self.caller.trouble.suspect(world.suspects.of(stage))
        if stage.role != "source":
            self.caller.call = self._calling(self.caller.call)
        if stage.form == "commit":
            made.commit = self._calling(made.commit)
        self.gate = world.crowds[stage.name].gate(self) if stage.is_gate else None
        self.fence = world.fences[stage.name] = world.fences.get(stage.name, 0) + 1
        save = world.adopt_save(stage.name, self.fence)
        if stage.memory and save is not None:
            self.worker.restore(save)
            self.caller.restore(save.state)

    def _calling(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the stage's code as one that a worker may die in."""
        world = self.world

        def called(*args: Any) -> Any:
            if world.now_s < world.faults.until_s and world.random.random() < world.faults.in_call:
                raise Deadly
            return call(*args)

        return called

    def run(self) -> None:
        """Let the worker's loop turn once."""
        world = self.world
        try:
            self._turn()
        except Killed:
            world.kill(self)
        except Deadly:
            world.died(self)

    def _turn(self) -> None:
        worker, now_s = self.worker, self.world.now_s
        if self.todo:
            self.drain()  # of what has arrived meanwhile nothing is taken up before
            if self.todo:
                return
        if self.gate is not None:
            self._serve(self.gate)
            return
        if self.activity is not None and now_s < self.caller.due_s:
            worker.flush()
            self.drain()
            self.world.wake(self, self.caller.due_s)
            return
        cost = 0.0
        worked = False
        for _ in range(self.world.random.randint(1, 3)):
            if self.activity is None:
                job = worker.take(self.caller.limit)
                if job is None:
                    break
                self.activity = self.caller.perform(job)
                cost += self.world.service_s(self.stage, job.n)
            if worker.outlet.backlog:
                break
            worked = True
            if next(self.activity, self) is self:
                self.activity = None
            worker.dispatch(now_s)
            if self.activity is not None and now_s < self.caller.due_s:
                self.world.wake(self, self.caller.due_s)
                break
        idle = self.activity is None and worker.is_idle
        if idle:
            self.caller.idle()
        worker.dispatch(now_s)
        if idle and worker.may_wait and self.world.random.random() < 0.5:
            self.world.wake(self, now_s + self.world.limits.ack_s)
        elif idle or worker.outlet.backlog or self.world.random.random() < 0.3:
            worker.flush()
        self.drain()
        self.world.watch(self)
        if worker.is_drained:
            self.world.leave(self)
            return
        if worker.due_s is not None:
            self.world.wake(self, worker.due_s)
        if worked and not worker.outlet.backlog:
            self.world.wake(self, now_s + max(cost, 1e-6))

    def _serve(self, gate: Gate) -> None:
        """Let those outside do what there is, once."""
        worker, world, now_s = self.worker, self.world, self.world.now_s
        worker.calling = gate.is_open
        gate.turn(now_s)
        worker.calling = gate.is_open
        worker.dispatch(now_s)
        worker.flush()
        self.drain()
        world.watch(self)
        if worker.is_drained:
            world.leave(self)
            return
        due_s = gate.due_s(now_s)
        if due_s < world.time_limit_s:
            world.wake(self, max(due_s, now_s + 1e-4))

    def drain(self) -> None:
        """Carry out the worker's actions, in order; a save that there is no room for holds up what follows."""
        self.todo.extend(self.worker.actions)
        self.worker.actions.clear()
        while self.todo:
            if self.die_in is not None:
                self.die_in -= 1
                if self.die_in < 0:
                    raise Killed
            if self.todo[0][0] == "save" and self.world.lacks_room():
                self.world.wake(self, self.world.now_s + PAUSE_S)
                return
            action = self.todo.popleft()
            getattr(self, "_" + action[0])(*action[1:])

    def _dial(self, link: Link) -> None:
        self.data_pipes[link.peer.inc] = Pipe(link.peer.inc)
        self.world.post(self, link.peer.inc, Open(self.inc, link.peer.inc, link.gen, link.peer.edge, {"acks": ["sim"]}),
                        self.data_pipes)  # fmt: skip

    def _send(self, link: Link, seq: int, out: Any) -> None:
        if link.state == Link.DEAD:
            return
        if self.memory is not None and link.shares:
            run = self.memory.referring(out.run)
        else:
            run = plain(out.run)
        message = Data(self.inc, link.peer.inc, link.gen, link.peer.edge, seq, run)
        if not self.world.post(self, link.peer.inc, message, self.data_pipes):
            self.worker.lost(self.world.now_s, link)
            self.world.wake(self, self.world.now_s)

    def _sync(self, link: Link, hi: int) -> None:
        if link.state == Link.DEAD:
            return
        message = Sync(self.inc, link.peer.inc, link.gen, link.peer.edge, hi, self.worker.outlet.pressed)
        if not self.world.post(self, link.peer.inc, message, self.data_pipes):
            self.worker.lost(self.world.now_s, link)
            self.world.wake(self, self.world.now_s)

    def _hang_up(self, link: Link) -> None:
        pipe = self.data_pipes.pop(link.peer.inc, None)
        if pipe is not None:
            pipe.cut = True

    def _dial_acks(self, link: InLink) -> None:
        self.ack_pipes[link.src] = Pipe(link.src)

    def _ack(self, ack: Ack) -> None:
        if not self.world.post(self, ack.dst, ack, self.ack_pipes):
            self.ack_pipes[ack.dst] = Pipe(ack.dst)  # acks are absolute: the next one says it all again
            link = self.worker.inlet.links.get(ack.dst) if self.worker.inlet else None
            if link is not None:
                link.dirty = True

    def _hang_up_acks(self, link: InLink) -> None:
        pass

    def _save(self, save: Save) -> None:
        world, faults = self.world, self.world.faults
        save = replace(save, outs=[(edge, plain(run)) for edge, run in save.outs])
        if world.fences[self.stage.name] != self.fence:
            raise Killed  # a later life has taken over
        if faults.held_up and world.now_s < faults.until_s and world.random.random() < faults.held_up:
            # It has looked, and writes when a later life may have begun; then it looks again, and leaves.
            world.disown(self, 0.5)
            world.at(world.now_s + world.random.random(), world.write_save, self, save)
            raise Killed
        world.write_save(self, save)


class OnDisk:
    """A sink whose disk is full now and then: it commits some of its items, or none, and says so."""

    def __init__(self, sink: Any, world: World) -> None:
        self._sink = sink
        self._world = world

    def commit(self, items: list[Any]) -> None:
        """Write the items to the sink."""
        if self._world.lacks_room():
            self._sink.commit(items[: self._world.random.randint(0, len(items) - 1)])
            raise NoRoom("the disk is full")
        self._sink.commit(items)


class World:
    """A run of `plan`: `targets` makes the code of a stage by its name (a source's gets the node)."""

    worker_type = Worker
    caller_type = Caller
    letters_type = Shelf
    suspects_type = Suspects
    pool_type = Pool
    mesh_type = Mesh
    gate_type = PlayedGate

    def __init__(
        self,
        plan: Plan,
        targets: Mapping[str, Callable[..., Any]],
        seed: int,
        *,
        limits: Limits | None = None,
        faults: Faults | None = None,
        item_bytes: int = 100,
        shares: bool = False,
        mesh_peers: int = 32,
        time_limit_s: float = 600.0,
    ) -> None:
        self.plan = plan
        self.targets = targets
        self.random = random.Random(seed)
        self.limits = limits or Limits()
        self.faults = faults or Faults()
        self.codec = PlainCodec(item_bytes)
        self.shares = shares  # whether workers share memory, but for a few pairs of them
        self.pools: dict[int, Pool] = {}  # by the incarnation of their owners
        self.random_of_memory = random.Random(seed)
        self.time_limit_s = time_limit_s
        self.now_s = 0.0
        self.events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.sequence = 0
        self.nodes: dict[int, Node] = {}
        self.saves: dict[str, dict[int, Save]] = {}  # by stage, and by the fence of the life that wrote it
        self.fences: dict[str, int] = {}  # of the last life of each stage: it may save
        self.watermarks: dict[int, tuple[Position, bool]] = {}
        self.reaches: dict[int, int] = {}  # of sources, as their dead lives have noted them
        self.ends: dict[int, int] = {}  # positions at which sources have ended
        self.registry_up_s = 0.0
        self.crowds = {stage.name: Crowd(self, stage, targets[stage.name]) for stage in plan.stages if stage.is_gate}
        self.mesh = self.mesh_type(neighbours(plan), mesh_peers)
        self.omitted = 0  # a living worker that rosters do not name
        self.stopping = False
        self.complete = False
        self.deaths = 0
        self.leavings = 0
        self.resumptions = 0
        self.power_losses = 0
        self.history: list[dict[int, tuple[Position, bool]]] = [{}]  # watermarks, as they were stored
        self.version = 0
        self.letters = self.letters_type()
        self.suspects = self.suspects_type({}, {})
        self.deaths_of: Counter[tuple[str, str]] = Counter()  # by stage and path, of workers that ran the item alone
        self.peak_unsettled = 0
        self.peak_unconsumed = 0  # items that one link had brought and its receiver not consumed
        for stage in plan.stages:
            for slot in range(stage.workers):
                self.at(self.random.random() * 0.01, self.start, stage, slot)
        self.at(TICK_S, self.tick)
        if self.faults.stop_s is not None:
            self.at(self.faults.stop_s, self.stop)

    # -- time ---------------------------------------------------------------------------------------

    def at(self, when_s: float, call: Callable[..., None], *args: Any) -> None:
        self.sequence += 1
        heappush(self.events, (when_s, self.sequence, call, args))

    def wake(self, node: Node, when_s: float) -> None:
        """Let a node's loop turn at `when_s`, or earlier if that is arranged already."""
        when_s = max(when_s, node.paused_until)
        if node.due is None or when_s < node.due:
            node.due = when_s
            self.at(when_s, self._turn, node, when_s)

    def _turn(self, node: Node, when_s: float) -> None:
        if node.alive and node.due == when_s:
            if node.paused_until > self.now_s:
                node.due = None
                self.wake(node, node.paused_until)
                return
            node.due = None
            node.run()

    def run(self) -> str:
        """Play until the run is complete: "complete", or "hung" when the time limit passes."""
        while self.events:
            when_s, _, call, args = heappop(self.events)
            if when_s > self.time_limit_s:
                return "hung"
            self.now_s = when_s
            call(*args)
            if self.complete:
                return "complete"
        return "hung"

    # -- disk ---------------------------------------------------------------------------------------

    def lacks_room(self) -> bool:
        """Tell whether a write finds the disk full."""
        faults = self.faults
        return bool(faults.full) and self.now_s < faults.until_s and self.random.random() < faults.full

    def write_save(self, node: Node, save: Save) -> None:
        """Write a save beside those of other lives; those of earlier ones are of no use any more."""
        saves = self.saves.setdefault(node.stage.name, {})
        saves[node.fence] = save
        for fence in [fence for fence in saves if fence < node.fence]:
            del saves[fence]

    def adopt_save(self, stage: str, fence: int) -> Save | None:
        """Return what a new life begins with; from now on it is its own."""
        saves = self.saves.get(stage)
        if not saves:
            return None
        last = max((known for known in saves if known <= fence), default=None)
        if last is None:
            return None
        save = saves[fence] = saves.pop(last)
        return save

    def service_s(self, stage: StagePlan, items: int) -> float:
        return self.random.choice((0.0001, 0.001, 0.01)) * max(items, 1)

    # -- processes ----------------------------------------------------------------------------------

    def role(self, stage: StagePlan, slot: int) -> Role:
        """Return what the machine of a worker needs to know."""
        return role_of(self.plan, stage, slot, self.watermarks, self.reaches)

    def start(self, stage: StagePlan, slot: int) -> None:
        if self.now_s < self.registry_up_s:
            self.at(self.registry_up_s + 0.001, self.start, stage, slot)
            return
        for other in list(self.nodes.values()):
            if other.stage is stage and other.slot == slot and isinstance(other.worker.intake, Source):
                self.kill(other)  # declared dead: its supervisor ends it before it starts the next
        node = Node(self, stage, slot, self.random.getrandbits(63) + 1)
        self.nodes[node.inc] = node
        if self.stopping:
            self._stop(node)
        self.push_rosters()
        self.wake(node, self.now_s)

    def kill(self, node: Node) -> None:
        """End a life: what it had not sent is gone, what was on its way to it too."""
        if not node.alive:
            return
        node.alive = False
        self.deaths += 1
        self._end_memory(node)
        self.suspects.blame(node.stage, list(node.notes.last), "killed")
        del self.nodes[node.inc]
        if isinstance(node.worker.intake, Source):
            for number, partition in node.worker.intake.partitions.items():
                reach = partition.at.position - partition.ended
                self.reaches[number] = max(reach, self.reaches.get(number, 0))
        for pipe in (*node.data_pipes.values(), *node.ack_pipes.values()):
            keep = self.random.randint(0, len(pipe.queue))  # what the kernel still delivers
            while len(pipe.queue) > keep:
                pipe.queue.pop()
        if node.disowned:
            return
        self.at(self.now_s + self.random.random() * self.faults.restart_s, self.start, node.stage, node.slot)
        self.at(self.now_s + self.random.random() * 0.02, self.push_rosters)

    def _end_memory(self, node: Node) -> None:
        if node.memory is not None:
            node.memory.die()

    def died(self, node: Node) -> None:
        """Let a worker end in a call."""
        node.notes.die()
        if len(node.notes.last) == 1:
            self.deaths_of[node.stage.name, node.notes.last[0][0]] += 1
        self.kill(node)

    # -- the end of everything, and its next life -----------------------------------------------------

    def black_out(self, *, power: bool) -> None:
        """Let everything die at once, with `power` also what was not synced, and resume the run some time later."""
        for node in list(self.nodes.values()):
            self.kill(node)
        stay = (self.tick, self.stop)
        self.events = [e for e in self.events if e[2] in stay or isinstance(getattr(e[2], "__self__", None), Crowd)]
        heapify(self.events)
        self.omitted, self.registry_up_s = 0, self.now_s
        if power:
            self.power_losses += 1
            self.lose_power()
        self.at(self.now_s + self.random.random() * 0.1, self.resume)

    def lose_power(self) -> None:
        """Let the last of what the registry has stored be gone, and notes of sources that had not ended."""
        kept = self.random.randrange(len(self.history))
        self.watermarks = dict(self.history[kept])
        del self.history[kept + 1 :]
        self.fences = {stage: self.random.randint(0, fence) for stage, fence in self.fences.items()}
        kept_notes = {number for number in self.reaches if number in self.ends or self.random.random() < 0.5}
        self.reaches = {number: reach for number, reach in self.reaches.items() if number in kept_notes}

    def resume(self) -> None:
        """Go on where the run was left, with other numbers of workers."""
        self.resumptions += 1
        numbers = {stage.number: self._other_workers(stage) for stage in self.plan.stages}
        stages = tuple(replace(stage, workers=numbers[stage.number]) for stage in self.plan.stages)
        self.plan = replace(self.plan, stages=stages)
        for store in self.again():
            self._store(store)
        self.suspects = self.suspects_type({}, {})
        for stage in stages:
            for slot in range(planned(stage)):
                self.at(self.now_s + self.random.random() * 0.01, self.start, stage, slot)

    def again(self) -> list[Store]:
        """Return what is stored before the run goes on."""
        memory = [stage for stage in self.plan.stages if stage.memory and self.saves.get(stage.name)]
        stored = Stored(
            run={"stopping": self.stopping},
            watermarks={lane: (at.position, at.epoch, at.epoch_start) for lane, (at, _) in self.watermarks.items()},
            complete={lane for lane, (_, complete) in self.watermarks.items() if complete},
            fences={(stage.number, 0): self.fences.get(stage.name, 0) for stage in memory},
        )
        cursors = [save.cursor for stage in memory for save in self.saves[stage.name].values()]
        reaches = dict(self.reaches)
        for lane, reach in reaches_of(self.plan, cursors).items():
            reaches[lane] = max(reach, reaches.get(lane, 0))
        fences = {stage.number: max(self.saves[stage.name]) for stage in memory}
        return begin_again(self.plan, stored, reaches, fences)

    def _store(self, store: Store) -> None:
        """Keep one of the values that a run is resumed with."""
        if store.kind == "reach":
            self.reaches[int(store.key)] = store.value
        elif store.kind == "fence":
            self.fences[self.plan.stages[int(store.key.partition(":")[0])].name] = store.value
        elif store.kind == "watermark":
            self.watermarks[int(store.key)] = (Position(*store.value), False)
        elif (store.kind, store.key) == ("run", "stopping"):
            self.stopping = False
            self.ends.clear()

    def _other_workers(self, stage: StagePlan) -> int:
        if stage.is_single:
            return 1
        return self.random.randint(1, stage.partitions if stage.role == "source" else 3)

    def leave(self, node: Node) -> None:
        """Let a drained worker go: what it has sent arrives; another one takes its place some time later."""
        node.alive = False
        self.leavings += 1
        self._end_memory(node)
        del self.nodes[node.inc]
        self.at(self.now_s + self.random.random() * 0.02, self.push_rosters)
        if not node.disowned:
            self.at(self.now_s + self.random.random(), self.start, node.stage, node.slot)

    def disown(self, node: Node, for_s: float) -> None:
        """Declare a living worker dead: its next life begins, and it goes on for a while itself."""
        if node.alive and not node.disowned:
            node.disowned = True
            self.at(self.now_s + self.random.random() * for_s, self.start, node.stage, node.slot)
            self.at(self.now_s + self.random.random() * 0.02, self.push_rosters)
            self.at(self.now_s + for_s, self.kill, node)

    def omit(self, node: Node, for_s: float) -> None:
        """Let the registry lose sight of a worker that lives on, and find it again."""
        self.omitted = node.inc
        self.push_rosters()
        self.at(self.now_s + for_s, self._found, node.inc)

    def _found(self, inc: int) -> None:
        if self.omitted == inc:
            self.omitted = 0
        self.push_rosters()

    def stop(self) -> None:
        """Let sources stop reading, those of lives to come too."""
        self.stopping = True
        for node in self.nodes.values():
            self._stop(node)

    def _stop(self, node: Node) -> None:
        if isinstance(node.worker.intake, Source):
            node.worker.intake.stopping = True
            self.wake(node, self.now_s)

    def push_rosters(self) -> None:
        if self.now_s < self.registry_up_s:
            self.at(self.registry_up_s + 0.001, self.push_rosters)
            return
        edges = self.plan.edges
        named = [node for node in self.nodes.values() if not node.disowned and node.inc != self.omitted]
        for inc in set(self.mesh) - {node.inc for node in named}:
            self.mesh.leave(inc)
        for node in named:
            if node.inc not in self.mesh:
                self.mesh.join(node.inc, node.stage.number)
        self.mesh.retire(node.inc for node in named if node.worker.draining)
        for node in list(self.nodes.values()):
            if node.disowned:
                continue
            linked = set(self.mesh.peers(node.inc)) if node.inc in self.mesh else {other.inc for other in named}
            receivers = [
                Peer(other.inc, edge.number)
                for edge in edges
                if edge.from_ == node.stage.number
                for other in named
                if other.stage.number == edge.to and other.inc in linked
            ]
            ups = {edge.from_ for edge in edges if edge.to == node.stage.number}
            senders = {other.inc for other in named if other.stage.number in ups and other.inc in linked}
            self.version += 1
            self.at(
                self.now_s + self.random.random() * 0.003,
                self._roster,
                node,
                self.version,
                receivers,
                senders,
            )

    def _roster(self, node: Node, version: int, receivers: list[Peer], senders: set[int]) -> None:
        if node.alive and version > node.version:
            node.version = version
            node.caller.trouble.suspect(self.suspects.of(node.stage))
            live = [peer for peer in receivers if peer.inc in self.nodes]
            node.worker.roster(self.now_s, live, senders & self.nodes.keys())
            self.wake(node, self.now_s)

    # -- network ------------------------------------------------------------------------------------

    def post(self, node: Node, to: int, message: Message, pipes: dict[int, Pipe]) -> bool:
        """Put a message on a connection; False when that connection is known to be dead."""
        pipe = pipes.get(to)
        if pipe is None or pipe.cut:
            return False
        if pipe.losing:
            pipe.losing -= 1
            return True
        late_s = self.random.choice((0.0001, 0.0005, 0.002))
        if self.now_s < self.faults.until_s:
            if self.faults.delay_s:
                late_s += self.random.random() * self.faults.delay_s
            if self.faults.repeats and not isinstance(message, Data) and self.random.random() < self.faults.repeats:
                self.at(self.now_s + 2 * self.random.random(), self._again, to, message)
        pipe.last_s = max(pipe.last_s, self.now_s + late_s)
        pipe.queue.append((pipe.last_s, message))
        self.at(pipe.last_s, self._arrive, pipe)
        return True

    def hold(self, pipe: Pipe, for_s: float) -> None:
        """Let nothing arrive for a while; the sender gives the connection up where heartbeats would, what it had sent
        comes later all the same.
        """
        until_s = pipe.last_s = max(pipe.last_s, self.now_s + for_s)
        pipe.queue = deque((max(when_s, until_s), message) for when_s, message in pipe.queue)
        if for_s > HEARTBEAT_S:
            self.at(self.now_s + HEARTBEAT_S, self._give_up, pipe)

    def _give_up(self, pipe: Pipe) -> None:
        pipe.cut = True

    def _again(self, to: int, message: Message) -> None:
        node = self.nodes.get(to)
        if node is not None and node.paused_until <= self.now_s:
            node.worker.received(self.now_s, message)
            self.wake(node, self.now_s)

    def _arrive(self, pipe: Pipe) -> None:
        if not pipe.queue:
            return
        if pipe.queue[0][0] > self.now_s:  # held up by a pause: every message keeps its event
            self.at(pipe.queue[0][0], self._arrive, pipe)
            return
        node = self.nodes.get(pipe.to)
        if node is None:
            pipe.queue.popleft()
            pipe.cut = True
            return
        if node.paused_until > self.now_s:
            self.at(node.paused_until, self._arrive, pipe)
            pipe.queue[0] = (node.paused_until, pipe.queue[0][1])
            pipe.last_s = max(pipe.last_s, node.paused_until)
            return
        _, message = pipe.queue.popleft()
        if node.memory is not None:
            if isinstance(message, Data) and not node.memory.arrives(node, message):
                return
            if isinstance(message, Open):
                message.shares = (message.src ^ message.dst) % 8 > 0
        node.worker.received(self.now_s, message)
        self.wake(node, self.now_s)

    # -- bookkeeping --------------------------------------------------------------------------------

    def tick(self) -> None:
        for node in list(self.nodes.values()):
            if node.paused_until <= self.now_s:
                node.worker.tick(self.now_s)
                self.wake(node, self.now_s)
        if self.now_s < self.faults.until_s:
            strike(self)
        self.at(self.now_s + TICK_S, self.tick)

    def watch(self, node: Node) -> None:
        """Take in what the node would tell the registry."""
        intake = node.worker.intake
        if self.now_s >= self.registry_up_s:
            self.suspects.resolve(node.stage, list(node.caller.trouble.resolved))
        if isinstance(intake, Source):
            self.peak_unsettled = max(
                self.peak_unsettled, max((p.unsettled for p in intake.partitions.values()), default=0)
            )
            for number, partition in intake.partitions.items():
                if partition.ended and partition.at.position:
                    end = partition.at.position - 1
                    assert self.ends.setdefault(number, end) == end, f"lane {number} ends at {end} too"
            late = self.now_s < self.faults.until_s and self.random.random() < self.faults.late
            if self.now_s >= self.registry_up_s and not node.disowned and not late:
                for number, (at, complete) in intake.watermarks().items():
                    known = self.watermarks.get(number, (Position(), False))
                    if at.position > known[0].position or complete:
                        self.watermarks[number] = (at, complete or known[1])
                        self.history.append(dict(self.watermarks))
                everything = [s for stage in self.plan.stages if stage.role == "source" for s in stage.lanes]
                self.complete = all(self.watermarks.get(s, (None, False))[1] for s in everything)
        if node.worker.inlet is not None:
            for link in node.worker.inlet.links.values():
                self.peak_unconsumed = max(self.peak_unconsumed, link.got - link.consumed)
