"""A line to a gate, or to a registry that knows where it is: asked by any thread, answered whatever breaks meanwhile.

What is asked goes out again until it is answered, so only what may be repeated is asked: gates know calls and puts
by their ids.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass

from zpipe.processes.doors import EVERY
from zpipe.transport import addresses, sockets
from zpipe.transport.keys import Keys
from zpipe.transport.wake import Wake
from zpipe.values.errors import CallError, ProtocolError, RegistryError
from zpipe.wire.body import decode_message, encode_message
from zpipe.wire.outside import KEY, VERSION, Message

AGAIN_S = 5.0  # what is not answered is asked again after this
FIND_S = 10.0  # for a gate to be found
LOOK_MS = 100
BUSY_S = 0.2  # between two extensions of what is being read

Answer = Future[Message]


@dataclass
class _Asked:
    frames: list[bytes | memoryview]
    answer: Answer
    due_s: float = 0.0


class Line:
    """One connection to `endpoint`, in a thread of its own; `with` it, or `close` it."""

    def __init__(self, endpoint: str, keys: Keys | None = None) -> None:
        self.endpoint = endpoint
        self._tags = itertools.count(1)
        self._context = sockets.context()
        self._socket = sockets.dial_outside(self._context, "call", endpoint, keys, secrets.token_bytes(9))
        self._wake = Wake()
        self._new: deque[tuple[str, _Asked]] = deque()
        self._asked: dict[str, _Asked] = {}
        self.busy: tuple[str, ...] = ()  # tokens whose leases are to last on
        self._busy_s = 0.0  # when that was said last
        self._ending = False
        self._thread = threading.Thread(target=self._serve, name="zpipe-line", daemon=True)
        self._thread.start()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, message: Message) -> Answer:
        """Ask, and return where the answer will be.  Raises EncodeError."""
        tag = str(next(self._tags))
        whole = {KEY: VERSION, "raw": True, "tag": tag, "rid": int(tag), **message}  # rid: what a registry answers by
        asked = _Asked(encode_message(whole, raw=True), Future())
        if self._ending:
            raise CallError(f"the line to {self.endpoint} is closed")
        self._new.append((tag, asked))
        self._wake.set()
        return asked.answer

    def drop(self, answer: Answer) -> None:
        """Ask no more for what nobody waits for."""
        for tag, asked in list(self._asked.items()):
            if asked.answer is answer:
                self._asked.pop(tag, None)

    def close(self) -> None:
        """Hang up; what is not answered is not any more."""
        self._ending = True
        self._wake.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _serve(self) -> None:
        try:
            self._speak()
        finally:  # whatever ends it: nobody is to wait
            self._ending = True
            gone = CallError(f"the line to {self.endpoint} was closed")
            for asked in (*self._asked.values(), *(asked for _, asked in self._new)):
                if asked.answer.set_running_or_notify_cancel():
                    asked.answer.set_exception(gone)
            sockets.close(self._socket, linger_ms=100)
            self._wake.close()

    def _speak(self) -> None:
        poller = sockets.Poller()
        poller.register(self._socket, sockets.IN)
        poller.register(self._wake, sockets.IN)
        again_s = 0.0
        while not self._ending:
            self._wake.clear()
            now_s = time.monotonic()
            while self._new:
                tag, asked = self._new.popleft()
                self._asked[tag] = asked
                again_s = 0.0
            if now_s >= again_s:
                for asked in list(self._asked.values()):
                    if now_s >= asked.due_s and sockets.send(self._socket, asked.frames):
                        asked.due_s = now_s + AGAIN_S
                again_s = min((asked.due_s for asked in list(self._asked.values())), default=now_s + AGAIN_S)
                again_s = max(again_s, now_s + 0.01)  # where the socket takes no more now
            if self.busy and now_s - self._busy_s >= BUSY_S:
                self._busy_s = now_s
                sockets.send(self._socket, encode_message({KEY: VERSION, "busy": list(self.busy)}, raw=False))
            while (received := sockets.receive(self._socket)) is not None:
                self._take(received)
            if not self._new:
                poller.poll(max(1, min(LOOK_MS, int(1000 * (again_s - now_s)))))

    def _take(self, frames: list[memoryview]) -> None:
        try:
            answer = decode_message(frames)
        except ProtocolError:
            return
        if not isinstance(answer, dict):
            return
        asked = self._asked.pop(str(answer.get("tag") or answer.get("rid")), None)
        if asked is not None and asked.answer.set_running_or_notify_cancel():
            asked.answer.set_result(answer)


@dataclass(frozen=True)
class Found:
    """A gate: its stage, whether that is a source, a transform or a sink, and where to call."""

    stage: str
    role: str
    endpoint: str


def find(address: str, stage: str = "", keys: Keys | None = None) -> tuple[Found, Line]:
    """Return the gate at an address, or that of `stage` in the run whose registry that is, and a line to it.

    The gates of a run take the keys that its registry takes.  Raises CallError when there is none, RegistryError and
    ConfigError.
    """
    sockets.check_endpoint(address)
    line = Line(address, keys)
    try:
        said = answered(line, {"stage": stage, "t": "PS"}, FIND_S)
        if said.get("t") == "TABLE":
            endpoint, role = _in_table(said, stage, address)
            line.close()
            line = Line(endpoint, keys)
            return Found(stage, role, endpoint), line
        if said.get("error"):
            raise CallError(f"{address}: {said['error']}")
        return Found(str(said.get("stage")), str(said.get("role")), address), line
    except BaseException:
        line.close()
        raise


def answered(line: Line, message: Message, timeout_s: float | None) -> Message:
    """Ask and wait.  Raises CallError when the answer does not come within that time."""
    try:
        return line.ask(message).result(timeout_s)
    except TimeoutError:
        raise CallError(
            f"nobody answers at {line.endpoint} within {timeout_s:g} s: is the run alive, and this the address of a "
            "gate, or of its registry? One with keys answers those who have one"
        ) from None


def _in_table(table: Message, stage: str, registry: str) -> tuple[str, str]:
    """Return where the gate of a stage is, as a registry's table has it, and its role."""
    gates = {row["stage"]: row["listen"]["call"] for row in table["workers"] if "call" in row["listen"]}
    if stage not in gates:
        known = f": {', '.join(sorted(gates))} have" if gates else ""
        raise RegistryError(f"no stage {stage!r} of the run at {registry} has a gate{known}: give it a `listen`")
    role = next((str(row["role"]) for row in table["stages"] if row["name"] == stage), "")
    return gates[stage].replace(EVERY, addresses.host_of(registry), 1), role
