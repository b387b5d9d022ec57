"""Show of calls through a gate while a stream keeps the workers behind it busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from statistics import quantiles
from typing import Any

import zpipe as zp
from tests.real import wait_until
from tests.shows.away import rate
from tests.shows.flow import Shown, count_of, stage_place
from tests.shows.languages import address_of
from zpipe.clients import Service

CONCURRENT = 1000
CLIENTS = 4
SECONDS = 10.0
LEAST = 0.05  # of its own rate is left to the stream
WAIT_S = 60.0  # for the last replies
WORKERS = 2
STAGES = f"""
[stage.numbers]
run = "stages:numbers"
replay = "seek"
args = {{ count = 1000000000 }}
[stage.double]
run = "stages:double"
from = "numbers"
listen = {{ call = 0 }}
workers = {WORKERS}
[stage.counting]
run = "stages:Counting"
from = "double"
"""


class Callers:
    """Keeps `n` calls under way at a service, each for an item of its own, and looks at each reply."""

    def __init__(self, service: Service, number: int, n: int) -> None:
        self.latencies_s: list[float] = []
        self.crossed: list[tuple[Any, Any]] = []
        self.failed: list[BaseException] = []
        self.made = 0
        self.over = threading.Event()  # all that were made are answered
        self._service, self._number, self._n = service, number, n
        self._ending = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Make the first calls."""
        for _ in range(self._n):
            self._call()

    def end(self) -> None:
        """Make no more."""
        self._ending = True

    def _call(self) -> None:
        with self._lock:  # the first calls are made in one thread, those that follow where replies come
            item = f"{self._number}:{self.made} "
            self.made += 1
        began_s = time.monotonic()
        self._service.submit(item).add_done_callback(lambda reply: self._answered(item, began_s, reply))

    def _answered(self, item: str, began_s: float, reply: Future[Any]) -> None:
        self.latencies_s.append(time.monotonic() - began_s)
        if (error := reply.exception()) is not None:
            self.failed.append(error)
        elif reply.result() != 2 * item:
            self.crossed.append((item, reply.result()))
        if not self._ending:
            self._call()
        elif len(self.latencies_s) == self.made:
            self.over.set()


def calls(seconds: float = SECONDS) -> Iterator[Shown]:
    """1,000 calls are under way all the time while a stream keeps the stage busy: each gets its own reply."""
    with stage_place() as place:
        run = place.start("run", place.pipeline(STAGES))
        address = address_of(place, "double")
        (folder,) = place.folder.glob("runs/*")
        wait_until(lambda: count_of(folder, "done") > 0)
        alone = rate(folder, seconds)
        clients = [zp.client(address) for _ in range(CLIENTS)]
        callers = [Callers(client.stage(), k, CONCURRENT // CLIENTS) for k, client in enumerate(clients)]
        for caller in callers:
            caller.start()
        beside = rate(folder, seconds)
        for caller in callers:
            caller.end()
        ends = [caller.over.wait(WAIT_S) for caller in callers]
        for client in clients:
            client.close()
        run.interrupt()
        done = run.wait()
    yield _shown(callers, seconds, answered=all(ends))
    yield Shown(
        f"the stream through {WORKERS} workers: {alone:,.0f} items a second alone, {beside:,.0f} beside the calls "
        f"({beside / alone:.2f}, at least {LEAST}), exit {done.code}",
        beside >= LEAST * alone and done.code == 130,
    )


def _shown(callers: list[Callers], seconds: float, *, answered: bool) -> Shown:
    latencies_s = [seconds for caller in callers for seconds in caller.latencies_s]
    crossed, failed, made = (sum(n) for n in zip(*map(_counts, callers), strict=True))
    cuts = quantiles(latencies_s, n=100) if len(latencies_s) > 1 else [0.0] * 99
    p50, p90, p99 = (1000 * cuts[k - 1] for k in (50, 90, 99))
    return Shown(
        f"{CONCURRENT} calls at a time of {CLIENTS} clients, {made:,} in {seconds:.0f} s: {crossed} replies crossed, "
        f"{failed} failed, {made - len(latencies_s)} lost; p50 {p50:.0f} ms, p90 {p90:.0f} ms, p99 {p99:.0f} ms",
        answered and made > CONCURRENT and not crossed and not failed and made == len(latencies_s),
    )


def _counts(caller: Callers) -> tuple[int, int, int]:
    return len(caller.crossed), len(caller.failed), caller.made
