"""Those outside of a simulated pipeline: workers that take items at a gate, and what becomes of them.

The gate is the one that runs over sockets; its doors are played here.  Its messages travel as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zpipe.processes.doors import Heard, Peer, Refusals
from zpipe.processes.gate import Gate
from zpipe.testing.ailing import Deadly
from zpipe.wire.outside import KEY, VERSION, Asked, Message, checked

if TYPE_CHECKING:
    from zpipe.testing.simulator import Node, World
    from zpipe.values.plan import StagePlan

LEASE_S = 0.5
AGAIN_S = 1.0  # one who is not answered asks again after this
FLIGHT_S = 0.002  # a message takes up to this long
REBORN_S = 0.3  # until another is launched in place of one that has died, at most


class PlayedGate(Gate):
    """A gate whose messages are maps, and that says nothing."""

    tokens = 0

    def _read(self, frames: Sequence[Any]) -> Asked:
        return checked(frames[0])

    def _tag_of(self, frames: Sequence[Any]) -> Message:
        return {}

    def _frames(self, message: Message, *, raw: bool) -> list[Any]:
        return [{KEY: VERSION, **message}]

    def _make_token(self) -> str:
        PlayedGate.tokens += 1
        return str(PlayedGate.tokens)

    def _made_log(self, stage: str) -> Refusals:
        return Silent(stage)


class Silent(Refusals):
    """Counts, and says nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""


class PlayedDoors:
    """The addresses of one life of a gate."""

    near = "sim"

    def __init__(self, crowd: Crowd, node: Node) -> None:
        self.endpoints = {"call": "sim"}
        self.inbox: list[Heard] = []
        self._crowd = crowd
        self._node = node

    def heard(self, most: int) -> list[Heard]:
        """Return what has come."""
        found, self.inbox = self.inbox[:most], self.inbox[most:]
        return found

    def answer(self, peer: Peer, frames: Sequence[Any]) -> bool:
        """Let somebody have an answer in a while; False when it has gone."""
        return self._crowd.answer(peer[0], frames[0])

    @property
    def pullers(self) -> int:
        """Return how many pull."""
        return len(self._crowd.pulling)

    def look(self) -> None:
        """Know who pulls already."""

    def push(self, frames: Sequence[Any]) -> bool:
        """Push work to whoever's turn it is."""
        return self._crowd.push(frames[0])

    def close(self, linger_ms: int = 0) -> None:
        """Close nothing."""

    def arrive(self, message: Message, peer: Peer | None) -> None:
        """Let a message be there."""
        if self._node.alive:
            self.inbox.append(Heard([message], "sim", peer))  # type: ignore[list-item]
            self._node.world.wake(self._node, self._node.world.now_s)


@dataclass(eq=False)
class Worker:
    """One who takes items, or pulls them."""

    identity: bytes
    pulls: bool
    alive: bool = True
    asked: Message | None = None  # what is not answered yet


class Crowd:
    """All who work at the gate of one stage, whichever life that has; `make` makes what they call."""

    def __init__(self, world: World, stage: StagePlan, make: Callable[[], Callable[[Any], Any]]) -> None:
        self.world = world
        self.stage = stage
        self.call = make()
        self.doors: PlayedDoors | None = None
        self.workers: dict[bytes, Worker] = {}
        self.pulling: list[Worker] = []
        self.used: list[str] = []  # tokens that somebody had, for those who lie
        self._may_pull = stage.on_error == "stop"  # nobody is held to account for a death of one who pulls
        self._count = self._turn = 0
        for _ in range(world.random.randint(1, 3)):
            self._launch()

    def gate(self, node: Node) -> Gate:
        """Return the gate of a new life, which those outside reach from now on."""
        made = self.world.gate_type()
        self.doors = PlayedDoors(self, node)
        made.open(node.caller, self.doors, LEASE_S)  # type: ignore[arg-type]
        return made

    # -- messages -----------------------------------------------------------------------------------

    def _later(self, most_s: float, call: Callable[..., None], *args: Any) -> None:
        self.world.at(self.world.now_s + self.world.random.random() * most_s, call, *args)

    def _say(self, worker: Worker, message: Message) -> None:
        """Let a worker say something to whichever gate is there then."""
        self._later(FLIGHT_S, self._arrive, worker, {KEY: VERSION, **message})

    def _arrive(self, worker: Worker, message: Message) -> None:
        if self.doors is not None:
            self.doors.arrive(message, None if worker.pulls else (worker.identity, b""))

    def _ask(self, worker: Worker, message: Message) -> None:
        worker.asked = message
        self._say(worker, message)
        if self._strikes():  # it comes twice
            self._say(worker, message)
        self.world.at(self.world.now_s + AGAIN_S, self._ask_again, worker, message)

    def _ask_again(self, worker: Worker, message: Message) -> None:
        if worker.alive and worker.asked is message:
            self._ask(worker, message)

    def answer(self, identity: bytes, message: Message) -> bool:
        """Let a worker have an answer; False when it is not there."""
        worker = self.workers.get(identity)
        if worker is None:
            return False
        self._later(FLIGHT_S, self._take, worker, message)
        return True

    def push(self, message: Message) -> bool:
        """Let one of those who pull have work."""
        if not self.pulling:
            return False
        self._turn += 1
        self._later(FLIGHT_S, self._take, self.pulling[self._turn % len(self.pulling)], message)
        return True

    # -- work ---------------------------------------------------------------------------------------

    def _launch(self) -> None:
        self._count += 1
        worker = Worker(b"%d" % self._count, pulls=self._may_pull and self.world.random.random() < 0.3)
        self.workers[worker.identity] = worker
        if worker.pulls:
            self.pulling.append(worker)
        else:
            self._ask(worker, {"take": self.world.random.choice((1, 1, 3))})

    def _die(self, worker: Worker) -> None:
        if worker.alive:
            worker.alive = False
            del self.workers[worker.identity]
            if worker.pulls:
                self.pulling.remove(worker)
            self._later(REBORN_S, self._launch)

    def _strikes(self) -> bool:
        world = self.world
        return world.now_s < world.faults.until_s and world.random.random() < world.faults.outside

    def _take(self, worker: Worker, message: Message) -> None:
        """Be given items, and do them, or not."""
        if not worker.alive or not (worker.pulls or worker.asked is not None):
            self._lose(message)  # nobody is there, or nobody waits for it
            return
        worker.asked = None
        outcomes: Message = {"done": [], "failed": []}
        for token, value in message.get("items", ()):
            self.used.append(token)
            try:
                if self._strikes():
                    raise Deadly
                outcomes["done"].append([token, self.call(value)])
            except Deadly:
                self._lose(message)
                self._die(worker)
                return
            except ValueError as error:
                outcomes["failed"].append([token, str(error)])
        took_s = self.world.service_s(self.stage, 1)
        if self._strikes():
            took_s += 2 * LEASE_S * self.world.random.random()
            self._lose(message)  # it may come too late
        if self._strikes() and self.used:
            token = self.world.random.choice(self.used)
            if self._item(token) is None:  # who lies about an open item cannot be found out
                outcomes["done"].append([token, "a lie"])
        self._later(took_s, self._tell, worker, outcomes)

    def _lose(self, message: Message) -> None:
        """Count the items of an answer as some that a worker may have died of."""
        for token, _ in message.get("items", ()):
            self.world.deaths_of[self.stage.name, self._path(token)] += 1

    def _tell(self, worker: Worker, outcomes: Message) -> None:
        if not worker.alive:
            return
        if worker.pulls:
            self._say(worker, outcomes)
        else:
            self._ask(worker, {"take": self.world.random.choice((1, 1, 3)), **outcomes})

    def _item(self, token: str) -> Any:
        node = self.doors._node if self.doors is not None else None
        if node is None or node.gate is None:
            return None
        lease = node.gate._leases._given.get(token)
        return None if lease is None else lease.item

    def _path(self, token: str) -> str:
        item = self._item(token)
        return "" if item is None else item.what.run.text(self.world.plan.lane_names, item.what.k)
