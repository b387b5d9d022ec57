"""A TCP proxy in front of the workers of a run, and the weather that it makes.

Knows connections and bytes; refuses to know what they mean.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

PIECE = 64 * 1024
LOOK_S = 0.01
LOST_S = 0.2  # a lost packet is sent again after this
LINGER_OFF = struct.pack("ii", 1, 0)  # closing then sends RST


@dataclass
class Weather:
    """What happens to the connections that lead to the workers of one stage."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0  # chance that a piece is late by LOST_S
    bytes_per_s: float = 0.0  # 0: as fast as may be
    deaf: bool = False  # nothing gets to the worker
    mute: bool = False  # nothing comes from it
    cut_at: int | None = None  # the connection over which this many more bytes have gone is reset
    flip_at: int | None = None  # one bit of the byte after this many more is changed on its way to the worker
    flipped: int = 0


@dataclass(eq=False)
class _Pair:
    """A connection from outside, and the one that leads on to the worker."""

    stage: str
    outside: socket.socket
    inside: socket.socket
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Proxy:
    """Serves in a thread of its own; `with` starts and ends it.  `weather` is by stage."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.path = folder / "proxy"
        self.weather: dict[str, Weather] = {}
        self.backs: dict[int, list[str]] = {}  # by process: where its own sockets are
        self._random = random.Random(seed)
        self._pairs: set[_Pair] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._wait(self._serve())
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def over(self, stage: str) -> Weather:
        """Return the weather over a stage, fair unless it was changed."""
        return self.weather.setdefault(stage, Weather())

    def reset(self, stage: str) -> int:
        """Reset every connection to the workers of a stage; return how many there were."""

        async def reset() -> int:
            pairs = [pair for pair in self._pairs if pair.stage == stage]
            for pair in pairs:
                self._drop(pair)
            return len(pairs)

        return self._wait(reset())

    def _wait(self, doing: object) -> int:
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(30) or 0  # type: ignore[arg-type]

    async def _serve(self) -> None:
        await asyncio.start_unix_server(self._asked, self.path)

    async def _end(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _asked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        worker, pid, endpoint = (await reader.readline()).decode().split()
        self.backs.setdefault(int(pid), []).append(endpoint)
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        listening = socket.create_server((host, 0))
        listening.setblocking(False)
        task = self._loop.create_task(self._accept(worker.rpartition("-")[0], listening, (host, int(port))))
        task.add_done_callback(lambda _: listening.close())
        writer.write(f"tcp://{host}:{listening.getsockname()[1]}\n".encode())
        await writer.drain()
        writer.close()

    async def _accept(self, stage: str, listening: socket.socket, back: tuple[str, int]) -> None:
        while True:
            outside, _ = await self._loop.sock_accept(listening)
            outside.setblocking(False)
            inside = socket.socket()
            inside.setblocking(False)
            try:
                await self._loop.sock_connect(inside, back)
            except OSError:  # the worker has gone
                outside.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_OFF)
                outside.close()
                inside.close()
                continue
            pair = _Pair(stage, outside, inside)
            self._pairs.add(pair)
            for a, b, inward in ((outside, inside, True), (inside, outside, False)):
                pair.tasks.append(self._loop.create_task(self._pump(pair, a, b, inward=inward)))

    async def _pump(self, pair: _Pair, a: socket.socket, b: socket.socket, *, inward: bool) -> None:
        """Carry bytes one way; each piece arrives at its time, none before the one ahead of it."""
        queue: deque[tuple[float, bytes]] = deque()
        arrived = asyncio.Event()
        feeder = self._loop.create_task(self._feed(pair, a, queue, arrived, inward=inward))
        try:
            while True:
                while not queue:
                    if feeder.done():
                        return
                    arrived.clear()
                    await arrived.wait()
                due_s, piece = queue.popleft()
                await asyncio.sleep(max(0.0, due_s - self._loop.time()))
                await self._loop.sock_sendall(b, piece)
        except OSError:
            pass
        finally:
            feeder.cancel()
            self._drop(pair)

    async def _feed(
        self, pair: _Pair, a: socket.socket, queue: deque[tuple[float, bytes]], arrived: asyncio.Event, *, inward: bool
    ) -> None:
        due_s = 0.0
        try:
            while piece := await self._loop.sock_recv(a, PIECE):
                weather = self.over(pair.stage)
                while weather.deaf if inward else weather.mute:
                    await asyncio.sleep(LOOK_S)  # the sender's system keeps what nobody takes, and sends it again
                late_s = weather.delay_s + weather.jitter_s * self._random.uniform(-1, 1)
                late_s += LOST_S * (self._random.random() < weather.loss)
                due_s = max(due_s, self._loop.time() + late_s)
                if weather.bytes_per_s:
                    due_s += len(piece) / weather.bytes_per_s
                if inward:
                    piece = self._flip(weather, piece)
                queue.append((due_s, piece))
                arrived.set()
                if inward and self._cuts(weather, piece):
                    self._drop(pair)
        except OSError:
            pass
        arrived.set()

    def _flip(self, weather: Weather, piece: bytes) -> bytes:
        if weather.flip_at is None:
            return piece
        at = weather.flip_at
        weather.flip_at = at - len(piece)
        if at >= len(piece):
            return piece
        weather.flip_at = None
        weather.flipped += 1
        return piece[:at] + bytes([piece[at] ^ 1 << self._random.randrange(8)]) + piece[at + 1 :]

    def _cuts(self, weather: Weather, piece: bytes) -> bool:
        if weather.cut_at is None:
            return False
        weather.cut_at -= len(piece)
        if weather.cut_at < 0:
            weather.cut_at = None
            return True
        return False

    def _drop(self, pair: _Pair) -> None:
        self._pairs.discard(pair)
        for end in (pair.outside, pair.inside):
            if end.fileno() >= 0:
                self._loop.remove_reader(end.fileno())
                self._loop.remove_writer(end.fileno())
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_OFF)
                end.close()
        for task in pair.tasks:
            if task is not asyncio.current_task():
                task.cancel()


def steal(endpoint: str) -> socket.socket:
    """Listen where a dead worker did, and answer nobody."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    thief = socket.create_server((host, int(port)), backlog=64)
    os.set_inheritable(thief.fileno(), False)
    return thief
