"""Samples of a worker's items for those who look on with `zpipe tap`: a few a second, lost where nobody takes them.

Belongs to the thread of the worker's loop.  Costs next to nothing and never waits: what to show is cut down here, and
a sample that took long is followed by a pause of many times as long.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from zpipe.core.work import Job
from zpipe.processes import shown
from zpipe.processes.caller import Caller
from zpipe.transport import sockets
from zpipe.transport.keys import Keys
from zpipe.values.errors import ConfigError
from zpipe.values.paths import Run
from zpipe.values.stage import ANY
from zpipe.wire import control
from zpipe.wire.body import JOINED_MAX, Encoded, decode_item

PERIOD_S = 0.2  # between two samples for one tap
PAUSE = 200  # and at least so many times what the last one took
MISS_S = 0.005  # after a look that found nothing to show
LEASE_S = 5.0  # a tap that the registry names no longer, or that is away itself, ends by then
HWM = 16  # samples that may wait for who looks on


class Tap:
    """One who looks on: what is wished for, and the socket that it goes to."""

    def __init__(self, wish: Mapping[str, Any], socket: sockets.Socket) -> None:
        self.output: str | None = wish["output"]
        self.is_json = wish["form"] == "json"
        self.socket = socket
        self.due_s = 0.0

    def written(self, value: Any) -> str:
        """Return an item as it is wished for; one that is still encoded for its size is not taken apart."""
        if isinstance(value, Encoded):
            return json.dumps({"length": len(value.head)}) if self.is_json else shown.too_large(len(value.head))
        return json.dumps(shown.as_json(value), ensure_ascii=False) if self.is_json else shown.as_text(value)


class Taps:
    """The taps on one worker; `given` is to be called with each job while it is not None."""

    def __init__(
        self, caller: Caller, context: sockets.Context, clock: Callable[[], float] = time.monotonic,
        keys: Keys | None = None,
    ) -> None:  # fmt: skip
        self.given: Callable[[Job], None] | None = None
        self._caller = caller
        self._worker = caller.worker
        self._current = caller.current
        self._context = context
        self._clock = clock
        self._keys = keys
        self._until_s = 0.0
        self._on: dict[tuple[Any, ...], Tap] = {}
        self._of_inputs: list[Tap] = []
        self._of_outputs: list[Tap] = []

    def heed(self, wishes: Iterable[Mapping[str, Any]], now_s: float) -> None:
        """Have those taps on that the registry names."""
        self._until_s = now_s + LEASE_S
        wanted = {(tuple(wish["endpoints"]), wish["inputs"], wish["output"], wish["form"]): wish for wish in wishes}
        if wanted.keys() == self._on.keys():
            return
        for key in self._on.keys() - wanted.keys():
            sockets.close(self._on.pop(key).socket)
        for key, wish in wanted.items():
            if key not in self._on:
                try:
                    push = sockets.dial_push(
                        self._context, wish["endpoints"], hwm=HWM, keys=self._keys, peer=wish.get("key", "")
                    )
                    self._on[key] = Tap(wish, push)
                except ConfigError:
                    continue  # an address that cannot be dialled from here
        ends = self._caller.stage.role == "sink"  # what it is given is all there is to see
        self._of_inputs = [tap for key, tap in self._on.items() if key[1] or ends]
        self._of_outputs = [tap for key, tap in self._on.items() if not (key[1] or ends)]
        self.given = self._given if self._of_inputs else None
        self._worker.tap = self._made if self._of_outputs else None

    def _given(self, job: Job) -> None:
        """Show an item that is about to be called."""
        now_s = self._clock()
        due = self._due(self._of_inputs, now_s)
        if not due or job.kind != Job.ITEMS:
            return
        for run, a, b in job.stretches:
            for k in range(a, b):
                if not run.mark(k):
                    value = self._caller.values(run)[k]
                    for tap in due:
                        self._show(tap, run, k, value)
                    return

    def _made(self, run: Run) -> None:
        """Show an item that was made."""
        now_s = self._clock()
        for tap in self._due(self._of_outputs, now_s):
            tap.due_s = now_s + MISS_S
            for k, part in enumerate(run.parts or ()):
                output = getattr(part, "output", "")
                if part is not None and tap.output in (None, output if output != ANY else tap.output):
                    self._show(tap, run, k, part, output)
                    break

    def _due(self, taps: list[Tap], now_s: float) -> list[Tap]:
        if now_s >= self._until_s:
            self.heed((), now_s)
            return []
        return [tap for tap in taps if now_s >= tap.due_s and sockets.has_room(tap.socket)]

    def _show(self, tap: Tap, run: Run, k: int, value: Any, output: str = "") -> None:
        began_s = self._clock()
        if isinstance(value, Encoded) and len(value.head) <= JOINED_MAX:
            value = decode_item(value)
        if output == ANY and isinstance(value, dict):
            output, value = value[ANY], value["value"]
            if tap.output not in (None, output):
                return
        path = run.text(self._current.lane_names, k)
        sample = {"t": "SAMPLE", "worker": self._current.worker, "path": path, "output": output}
        sockets.send(tap.socket, (control.encode({**sample, "item": tap.written(value)}),))
        ended_s = self._clock()
        tap.due_s = ended_s + max(PERIOD_S, PAUSE * (ended_s - began_s))
