"""A workload through plain pyzmq, PUSH and PULL, a process for each half: one bare frame per item, without any acks.

python -m tests.bench.sockets TASK [--tcp] [--no-copies]

Whoever sends stays until the sinks have it all: over ipc a sender that leaves early loses what its receiver has not
read yet.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from tests.bench.halves import SINKS, Burn, Task, identity, items
from tests.bench.workloads import WORK

LOOK_S = 0.002


class Wire:
    """The sockets of one process, all of them of hops that are numbered from the source."""

    def __init__(self, task: Task, *, tcp: bool, copies: bool) -> None:
        self.task = task
        self.tcp = tcp
        self.copies = copies
        self._context = zmq.Context()

    def socket(self, kind: int, hop: int, *, bind: bool) -> zmq.Socket[bytes]:
        """Open one end of a hop."""
        socket = self._context.socket(kind)
        socket.set_hwm(self.task.of.hwm)
        place = Path(self.task.folder) / f"hop-{hop}"
        if not self.tcp:
            (socket.bind if bind else socket.connect)(f"ipc://{place}")
        elif bind:
            socket.bind("tcp://127.0.0.1:*")
            self.task.leave(place.name, endpoint=socket.getsockopt_string(zmq.LAST_ENDPOINT))
        else:
            while not self.task.is_there(f"{place.name}.json"):
                time.sleep(LOOK_S)
            socket.connect(self.task.left(place.name)["endpoint"])
        return socket

    def sender(self, hop: int, *, bind: bool) -> Any:
        return partial(self.socket(zmq.PUSH, hop, bind=bind).send, copy=self.copies)

    def receiver(self, hop: int, *, bind: bool) -> Any:
        return partial(self.socket(zmq.PULL, hop, bind=bind).recv, copy=self.copies)

    @property
    def read(self) -> Any:
        """Return what makes an item of a frame."""
        return partial(np.frombuffer, dtype=np.uint8) if self.task.of.is_array else bytes


def send_all(wire: Wire) -> None:
    """Be the source: to the first stage, or to every sink."""
    load = wire.task.of
    if load.stages:
        send = wire.sender(0, bind=True)
        for item in items(wire.task):
            send(item)
    else:
        sends = [wire.sender(k, bind=True) for k in range(load.sinks)]
        for item in items(wire.task):
            for send in sends:
                send(item)
    signal.pause()


def pass_on(wire: Wire, index: int) -> None:
    """Be a worker of a stage."""
    load = wire.task.of
    receive = wire.receiver(index, bind=False)
    send = wire.sender(index + 1, bind=index + 1 < load.stages)  # the sink is one, and workers may be several
    stage, read = Burn(wire.task.to_dict()) if load.kind == WORK else identity, wire.read
    if not wire.copies and stage is identity:
        while True:
            send(receive())  # the very frame
    while True:
        send(stage(read(receive())))


def read_all(wire: Wire, index: int) -> None:
    """Be a sink."""
    load = wire.task.of
    receive = wire.receiver(load.stages or index, bind=load.stages > 0)
    sink, read = SINKS[load.kind](wire.task.to_dict(), index), wire.read
    while not sink.over:
        sink(read(receive()))  # type: ignore[operator]


def launch(task: Task) -> None:
    """Start every process of a task, and end them when the sinks have."""
    load, argv = task.of, [sys.executable, "-m", __spec__.name, *sys.argv[1:]]

    def start(role: str, index: int = 0) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*argv, "--role", role, "--index", str(index)])

    sinks = [start("sink", k) for k in range(load.sinks)]
    others = [start("stage", k) for k in range(load.stages) for _ in range(load.workers)]
    others.append(start("source"))
    failed = [sink for sink in sinks if sink.wait()]
    for process in others:
        process.kill()
        process.wait()
    sys.exit(1 if failed else 0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sockets")
    parser.add_argument("task")
    parser.add_argument("--tcp", action="store_true")
    parser.add_argument("--no-copies", action="store_true")
    parser.add_argument("--role")
    parser.add_argument("--index", type=int, default=0)
    options = parser.parse_args()
    task = Task(**json.loads(options.task))
    if not options.role:
        launch(task)
        return
    wire = Wire(task, tcp=options.tcp, copies=not options.no_copies)
    if options.role == "source":
        send_all(wire)
    elif options.role == "stage":
        pass_on(wire, options.index)
    else:
        read_all(wire, options.index)


if __name__ == "__main__":
    main()
