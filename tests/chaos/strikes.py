"""The faults of the matrix, each as steps in time: a strike acts, and yields the seconds until its next step."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.proxy import steal
from tests.chaos.targets import POISON

if TYPE_CHECKING:
    from tests.chaos.cell import Scene

Strike = Generator[float, None, None]

KILLS, KILLS_QUICK = 20, 3  # of a strike that kills every second
WIRE_S = 4.0  # how long bad weather lasts
RETRY_S = 0.02  # until a process that is to be struck is there
FDS_LEFT = 2
DELAY_S, JITTER_S, LOSS, SLOW = 0.2, 0.05, 0.01, 20_000.0
CUT_MAX, FLIP_MAX = 3000, 3000


def kill(scene: Scene) -> Strike:
    """SIGKILL, once."""
    yield from _victims(scene)
    scene.struck()
    for pid in scene.victims:
        send(pid, signal.SIGKILL)


def kills(scene: Scene) -> Strike:
    """SIGKILL, every second."""
    for _ in range(KILLS_QUICK if scene.quick else KILLS):
        yield from kill(scene)
        yield 1.0


def crash_loop(scene: Scene) -> Strike:
    """No call is survived any more: no restart is left in the end."""
    (scene.folder / POISON).touch()
    scene.fails = True
    yield 0.0


def stop(seconds: float) -> Callable[[Scene], Strike]:
    """SIGSTOP, and SIGCONT later, to whom it may concern by then."""

    def strike(scene: Scene) -> Strike:
        yield from _victims(scene)
        scene.struck()
        stopped = list(scene.victims)
        for pid in stopped:
            send(pid, signal.SIGSTOP)
        yield seconds
        for pid in stopped:
            send(pid, signal.SIGCONT)

    return strike


def hog(scene: Scene) -> Strike:
    """Python's lock is held for 10 s: nobody may take that for a death."""
    yield from _victims(scene)
    scene.struck(bound=False)
    scene.no_failover = True
    for pid in scene.victims:
        send(pid, signal.SIGUSR1)
    yield 10.0


def reset(scene: Scene) -> Strike:
    """RST on every connection that leads to the workers."""
    scene.struck()
    for stage in scene.stages:
        scene.proxy.reset(stage)
    yield 0.0


def weather(**changes: object) -> Callable[[Scene], Strike]:
    """Bad weather for a while; a partition is measured from its beginning, and what follows its end as well."""

    def strike(scene: Scene) -> Strike:
        parts = bool({"deaf", "mute"} & changes.keys())
        scene.struck(bound=False)
        before = [vars(scene.proxy.over(stage)).copy() for stage in scene.stages]
        for stage in scene.stages:
            vars(scene.proxy.over(stage)).update(changes)
        yield WIRE_S
        for stage, fair in zip(scene.stages, before, strict=True):
            vars(scene.proxy.over(stage)).update({name: fair[name] for name in changes})
        scene.struck(bound=parts)  # healed: now it has to go on

    return strike


def cut(scene: Scene) -> Strike:
    """A connection is reset after a random byte, over and over."""
    rnd = random.Random(scene.seed)
    scene.struck()
    for _ in range(10):
        for stage in scene.stages:
            scene.proxy.over(stage).cut_at = rnd.randrange(CUT_MAX)
        yield WIRE_S / 10
    for stage in scene.stages:
        scene.proxy.over(stage).cut_at = None


def flip(scene: Scene) -> Strike:
    """One bit of what goes to the workers changes, again and again."""
    rnd = random.Random(scene.seed)
    scene.struck()
    for _ in range(10):
        for stage in scene.stages:
            scene.proxy.over(stage).flip_at = rnd.randrange(FLIP_MAX)
        yield WIRE_S / 10
    for stage in scene.stages:
        scene.proxy.over(stage).flip_at = None
    scene.note = f"{sum(scene.proxy.over(stage).flipped for stage in scene.stages)} bits flipped"


def descriptors(scene: Scene) -> Strike:
    """A worker may open next to nothing more, while its neighbours die and come back."""
    yield from _victims(scene)
    pid = scene.victims[0]
    used = len(os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + FDS_LEFT, used + FDS_LEFT))
    scene.struck(bound=False)
    for _ in range(3):
        for other in scene.pids("middle", "both-join", "fit"):
            if other not in scene.victims:
                send(other, signal.SIGKILL)
        yield 1.0


def port(scene: Scene) -> Strike:
    """A worker dies, and a stranger listens at its addresses at once."""
    yield from _victims(scene)
    backs = scene.proxy.backs.get(scene.victims[0], [])
    scene.struck()
    send(scene.victims[0], signal.SIGKILL)
    thieves: list[socket.socket] = []
    while backs and not thieves:
        with suppress(OSError):
            thieves += [steal(endpoint) for endpoint in backs]
        yield RETRY_S
    yield WIRE_S
    for thief in thieves:
        thief.close()


def address(scene: Scene) -> Strike:
    """The files of a worker's sockets are removed, and those above it die: their next lives cannot find it there."""
    yield from _victims(scene)
    for file in sockets_of(scene.victims[0]):
        file.unlink(missing_ok=True)
    scene.struck()
    for other in scene.pids("numbers", "middle", "batch"):
        if other not in scene.victims:
            send(other, signal.SIGKILL)


def registry_often(scene: Scene) -> Strike:
    """The registry dies every 5 s."""
    for _ in range(2 if scene.quick else 4):
        for pid in scene.pids("registry"):
            scene.struck()
            send(pid, signal.SIGKILL)
        yield 5.0


FAULTS: dict[str, Callable[[Scene], Strike]] = {
    "kill": kill,
    "kills": kills,
    "crash-loop": crash_loop,
    "stop-1": stop(1.0),
    "stop-5": stop(5.0),
    "stop-60": stop(60.0),
    "hog": hog,
    "reset": reset,
    "deaf": weather(deaf=True),
    "mute": weather(mute=True),
    "cut-off": weather(deaf=True, mute=True),
    "late": weather(delay_s=DELAY_S, jitter_s=JITTER_S, loss=LOSS),
    "slow": weather(bytes_per_s=SLOW),
    "cut": cut,
    "flip": flip,
    "descriptors": descriptors,
    "port": port,
    "address": address,
    "often": registry_often,
}
WIRE = {"reset", "deaf", "mute", "cut-off", "late", "slow", "cut", "flip", "port"}  # faults that need the proxy


def send(pid: int, how: signal.Signals) -> None:
    """Send a signal to a process that may have gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, how)


def sockets_of(pid: int) -> list[Path]:
    """Return the files of the sockets on which a process listens."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            link = os.readlink(fd)
            if link.startswith("socket:["):
                inodes.add(link[8:-1])
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return [Path(words[7]) for words in lines if len(words) == 8 and words[6] in inodes and words[3] == "00010000"]


def _victims(scene: Scene) -> Strike:
    """Wait until there is somebody to strike."""
    while not scene.choose():
        yield RETRY_S
