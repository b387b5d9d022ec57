"""The ways that the items of a relay travel: each runs one load to its end, a process for each half.

Whoever sends through plain sockets or queues stays until the sink has it all: a sender that leaves early
loses what its receiver has not read yet.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import zpipe as zp
from tests.bench.relay import ROLES, Identity, Load, Sink, items, source
from zpipe.processes import launcher

LIMIT_S = 120.0

Way = Callable[[Load, Path], None]


def push_pull(load: Load, folder: Path) -> None:
    """Plain pyzmq PUSH and PULL over ipc: copied, one bare frame per item, no acks."""
    _run(_push_pull, load, folder, ())


def queue(load: Load, folder: Path) -> None:
    """multiprocessing.Queue."""
    context = multiprocessing.get_context("spawn")
    _run(_queue, load, folder, (context.Queue(load.hwm), context.Queue(load.hwm)))


def zpipe(load: Load, folder: Path) -> None:
    """zpipe as it is, nothing lost whoever dies."""
    args = {"load": load.name}
    relayed = zp.stage(Identity, args=args)(zp.stage(source, args=args))
    pipeline = zp.Pipeline("relay", zp.stage(Sink, args=args)(relayed))
    launcher.run(pipeline, runs=folder)


WAYS: dict[str, Way] = {"PUSH/PULL": push_pull, "mp.Queue": queue, "zpipe": zpipe}


def _run(target: Callable[..., None], load: Load, folder: Path, more: tuple[Any, ...]) -> None:
    context = multiprocessing.get_context("spawn")
    processes = {role: context.Process(target=target, args=(role, load, folder, *more)) for role in ROLES}
    for process in processes.values():
        process.start()
    processes["sink"].join(LIMIT_S)
    for process in processes.values():
        process.kill()
        process.join()


def _push_pull(role: str, load: Load, folder: Path) -> None:
    import zmq

    context = zmq.Context()

    def connect(kind: int, hop: int, *, bind: bool) -> zmq.Socket[bytes]:
        socket = context.socket(kind)
        socket.set_hwm(load.hwm)
        socket.reconnect_ivl = 5
        endpoint = f"ipc://{folder}/hop{hop}"
        if bind:
            socket.bind(endpoint)
        else:
            socket.connect(endpoint)
        return socket

    def read(frame: bytes) -> Any:
        return np.frombuffer(frame, np.uint8) if load.is_array else frame

    if role == "source":
        send = connect(zmq.PUSH, 0, bind=True).send
        for item in items(load, folder):
            send(item)
        time.sleep(LIMIT_S)
    elif role == "stage":
        identity = Identity(load.name, folder)
        receive, send = connect(zmq.PULL, 0, bind=False).recv, connect(zmq.PUSH, 1, bind=False).send
        while True:
            send(identity(read(receive())))
    else:
        sink, receive = Sink(load.name, folder), connect(zmq.PULL, 1, bind=True).recv
        for _ in range(load.total):
            sink(read(receive()))


def _queue(role: str, load: Load, folder: Path, first: Any, second: Any) -> None:
    if role == "source":
        for item in items(load, folder):
            first.put(item)
        time.sleep(LIMIT_S)
    elif role == "stage":
        identity = Identity(load.name, folder)
        while True:
            second.put(identity(first.get()))
    else:
        sink = Sink(load.name, folder)
        for _ in range(load.total):
            sink(second.get())
