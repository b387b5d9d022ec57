"""What may go wrong in a simulated run, and when; how it goes wrong is the simulator's business."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zpipe.testing.simulator import World

TICK_S = 0.01


@dataclass(frozen=True)
class Faults:
    """What may happen, as chances per second of a fault somewhere, until `until_s`; times in seconds."""

    kills: float = 0.0  # one worker
    mid_action: float = 0.0  # chance that a kill waits for the middle of a list of actions
    massacres: float = 0.0  # all workers of a stage, or all workers
    in_call: float = 0.0  # chance that a worker dies in a call
    pauses: float = 0.0
    pause_s: float = 3.0
    cuts: float = 0.0  # a link is reset, with what was on its way
    losses: float = 0.0  # a message vanishes and nobody is told
    one_ways: float = 0.0  # nothing gets through a connection in one direction, and what was sent arrives later
    one_way_s: float = 3.0
    delay_s: float = 0.0  # by which a message is late at most
    repeats: float = 0.0  # chance that an ack or a probe comes once more, late
    registry_kills: float = 0.0
    registry_every_s: float = 0.0  # the registry dies this often, as by a clock; 0: never
    registry_down_s: float = 0.5
    omissions: float = 0.0  # rosters leave out a worker that lives, and name it again
    zombies: float = 0.0  # a worker is declared dead, replaced, and goes on for a while
    drains: float = 0.0  # a worker that is not the only one of its stage is told to finish and leave
    held_up: float = 0.0  # chance that a life is held up in the middle of a save until it has been replaced
    full: float = 0.0  # chance that a write finds no room on the disk, of a sink or of a save
    late: float = 0.0  # chance that news of a source does not reach the registry
    blackouts: float = 0.0  # everything dies at once, the registry too, and is resumed with other numbers of workers
    power: float = 0.0  # chance that a blackout is a loss of power: what was not synced may be gone
    outside: float = 0.0  # chance that one who works at a gate dies, is late, or says something twice
    stop_s: float | None = None  # when all sources are told to stop reading
    until_s: float = 5.0
    restart_s: float = 0.05


def strike(world: World) -> None:
    """Let faults happen, for one tick."""
    faults, rnd = world.faults, world.random
    nodes = list(world.nodes.values())
    if not nodes:
        return
    if faults.blackouts and rnd.random() < faults.blackouts * TICK_S:
        world.black_out(power=rnd.random() < faults.power)
        return
    node = rnd.choice(nodes)
    if rnd.random() < faults.kills * TICK_S:
        if rnd.random() < faults.mid_action:
            node.die_in = rnd.randint(0, 6)
        else:
            world.kill(node)
    if rnd.random() < faults.massacres * TICK_S:
        everyone = rnd.random() < 0.3
        for other in nodes:
            if other.alive and (everyone or other.stage is node.stage):
                world.kill(other)
    if rnd.random() < faults.pauses * TICK_S:
        node.paused_until = world.now_s + rnd.random() * faults.pause_s
    if rnd.random() < faults.cuts * TICK_S:
        for pipe in (*node.data_pipes.values(), *node.ack_pipes.values()):
            if rnd.random() < 0.5:
                pipe.queue.clear()
                pipe.cut = True
    if rnd.random() < faults.losses * TICK_S and node.data_pipes:
        rnd.choice(list(node.data_pipes.values())).losing = 1  # each probe that is lost makes the next one later
    if rnd.random() < faults.one_ways * TICK_S:
        for pipe in (*node.data_pipes.values(), *node.ack_pipes.values()):
            if rnd.random() < 0.5:
                world.hold(pipe, rnd.random() * faults.one_way_s)
    if faults.registry_every_s and world.now_s % faults.registry_every_s < TICK_S:
        world.registry_up_s = world.now_s + faults.registry_down_s
    if rnd.random() < faults.registry_kills * TICK_S:
        world.registry_up_s = world.now_s + faults.registry_down_s
    if rnd.random() < faults.omissions * TICK_S:
        world.omit(node, rnd.random() * 0.5)
    if rnd.random() < faults.drains * TICK_S and node.stage.role != "source" and not node.stage.memory:
        others = [o for o in nodes if o.stage is node.stage and not (o.worker.draining or o.disowned)]
        if len(others) > 1 and node in others:
            node.worker.draining = True
            world.push_rosters()
    if rnd.random() < faults.drains * TICK_S and node.worker.draining:
        node.worker.draining = False  # it stays after all
        world.push_rosters()
    if rnd.random() < faults.zombies * TICK_S:
        world.disown(node, rnd.random())
