"""One who looks on at a stage: keeps the wish up with the registry, and takes the samples that workers send."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from zpipe.core.progress import RUNNING
from zpipe.processes.client import checked, nobody
from zpipe.processes.dialogue import Dialogue
from zpipe.transport import addresses, sockets
from zpipe.transport.admission import Admission
from zpipe.transport.keys import Keys
from zpipe.values.errors import ProtocolError, ZpipeError
from zpipe.wire import control
from zpipe.wire.body import Buffer

RENEW_S = 1.0  # the wish ends by itself after three of these
SILENT_S = 5.0  # a registry that was killed is back by then
LOOK_S = 0.1  # how often to look at what tells nothing by itself
GOODBYE_S = 0.5  # for the registry to hear that the wish is over; else it ends by itself
HWM = 64
SAMPLED = ("path", "worker", "output", "item")

Sample = dict[str, Any]


class Tapper:
    """`with` binds where samples go to, and asks nobody yet."""

    def __init__(
        self, address: str, stage: str, *, inputs: bool, output: str | None, form: str, keys: Keys | None = None
    ) -> None:  # fmt: skip
        self._address = address
        self._keys = keys
        self._context = sockets.context()
        self._admission = None if keys is None else Admission(self._context)
        try:
            self._pull, endpoints = sockets.bind_pull(
                self._context, host=addresses.towards(address), sockets_dir=None, transport="tcp", hwm=HWM,
                max_frame=control.BYTES_MAX, keys=keys,
            )  # fmt: skip
            self._registry = Dialogue(address, keys)
        except ZpipeError:
            self._end()
            raise
        self._known = False  # a registry has answered
        self._form = form
        self._wish = {"stage": stage, "endpoints": endpoints, "inputs": inputs, "output": output, "form": form}

    def __enter__(self) -> Tapper:
        return self

    def __exit__(self, *details: object) -> None:
        now_s = time.monotonic()
        deadline_s = now_s + GOODBYE_S
        self._registry.ask("TAP", now_s, **self._wish, over=True)
        while self._known and self._registry.asking("TAP", over=True) and now_s < deadline_s:
            self._registry.turn(now_s)
            time.sleep(0.005)  # its descriptor is edge-triggered: nothing to wait for
            now_s = time.monotonic()
        self._registry.__exit__(*details)
        self._end()

    def _end(self) -> None:
        if self._admission is not None:
            self._admission.close()
        sockets.end(self._context)

    def samples(self, is_over: Callable[[], bool]) -> Iterator[Sample]:
        """Yield samples until the run ends, by the registry's word or by `is_over`.

        Raises RegistryError: nobody there, or the wish was refused.
        """
        poller = sockets.Poller()
        for readable in (self._pull, self._registry.fileno()):
            poller.register(readable, sockets.IN)
        due_s = 0.0
        heard_s, over = time.monotonic(), False
        while True:
            now_s = time.monotonic()
            if now_s >= due_s and not self._registry.asking("TAP"):
                self._registry.ask("TAP", now_s, **self._wish)
                due_s = now_s + RENEW_S
            for _, reply in self._registry.turn(now_s):
                heard_s, self._known = now_s, True
                over = checked(reply)["state"] != RUNNING
                if self._admission is not None:
                    self._admission.admit(reply.get("keys", ()))
            if now_s - heard_s >= SILENT_S:
                if not self._known:
                    raise nobody(self._address, SILENT_S, self._keys, self._registry.news)
                over = True
            over = over or is_over()
            while (frames := sockets.receive(self._pull)) is not None:
                try:
                    yield read_sample(frames[0], self._form)
                except ProtocolError:
                    continue  # whoever sent it is no worker
            if over:
                return
            poller.poll(int(LOOK_S * 1000))


def read_sample(frame: Buffer, form: str) -> Sample:
    """Return a sample: path, worker, output and item are texts, the item one of JSON in that form.

    Raises ProtocolError.
    """
    sample = control.decode(frame)
    if sample["t"] != "SAMPLE" or not all(type(sample.get(name)) is str for name in SAMPLED):
        raise ProtocolError(f"message {sample['t']!r:.20} is no sample")
    if form == "json":
        try:
            json.loads(sample["item"])
        except (ValueError, RecursionError):
            raise ProtocolError("a sample holds an item that is no JSON") from None
    return sample
