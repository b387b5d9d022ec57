"""A worker at a gate, in Python: it asks for items at an address, calls a function for each, and tells what came of it.

Needs neither a file nor a registry: `zpipe worker mylib:clean --connect tcp://host:6003`.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zpipe.processes.exits import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED
from zpipe.processes.targets import user_traceback
from zpipe.processes.trouble import describe
from zpipe.transport import sockets
from zpipe.transport.keys import Keys
from zpipe.values.callables import form_of, resolve
from zpipe.values.context import Output
from zpipe.values.errors import ConfigError, EncodeError, ProtocolError, StageError, ZpipeError
from zpipe.values.stagecheck import GATE_HOOKS
from zpipe.wire.body import decode_message, encode_message
from zpipe.wire.outside import KEY, VERSION, Message

ANSWER_S = 3.0  # an answer that takes longer is asked for again: the gate may have been started anew
SILENT_S = 10.0  # a gate that is silent for so long is worth a line
AIM_S = 0.01  # so much work is asked for at once
TAKE_MAX = 256
REPORT_S = 0.5  # results do not wait for those of their neighbours for longer


class Taker:
    """Asks at `endpoint`, the address for calls, or the one that work is pushed from, until there is no more."""

    def __init__(self, endpoint: str, *, name: str = "", keys: Keys | None = None) -> None:
        self.endpoint = endpoint
        self._name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._keys = keys
        self._context = sockets.context()
        self._socket = sockets.dial_outside(self._context, "call", endpoint, keys, secrets.token_bytes(9))
        self._pull: sockets.Socket | None = sockets.dial_outside(self._context, "push", endpoint, keys)
        self._poller = sockets.Poller()
        self._poller.register(self._socket, sockets.IN)
        self._poller.register(self._pull, sockets.IN)
        self._lease_s = 5.0
        self._busy: tuple[str, ...] = ()
        self._ending = threading.Event()
        self._extender = threading.Thread(target=self._extend, name="zpipe-leases", daemon=True)
        self._n = 1

    def run(self, call: Callable[[Any], Any]) -> None:
        """Call for what comes, until the gate says that nothing more does."""
        outcomes: Message = {}
        while not self._ending.is_set():
            answer = self._asked({"take": self._n, **outcomes})
            if answer.get("over"):
                break
            if error := answer.get("error"):
                self._say(f"the gate at {self.endpoint} says: {error}")
            for token, why in answer.get("refused", ()):
                self._say(f"the result for {token} is not taken: {why}")
            outcomes = self._work(call, answer.get("items") or [])
        else:
            if outcomes:
                self._tell(outcomes)
        self.close()

    def end(self) -> None:
        """Ask for nothing more, once what is at hand is done; from a signal's handler too."""
        self._ending.set()

    @property
    def is_ending(self) -> bool:
        """Tell whether it was told to end."""
        return self._ending.is_set()

    def close(self) -> None:
        """Hang up."""
        self._ending.set()
        sockets.close(self._socket, self._pull, linger_ms=1000)

    def _work(self, call: Callable[[Any], Any], items: list[list[Any]]) -> Message:
        done: list[list[Any]] = []
        failed: list[list[str]] = []
        self._busy = tuple(token for token, _ in items)
        if items and self._extender.ident is None:  # not before it is known how long a lease is
            self._extender.start()
        began_s = told_s = time.monotonic()
        for k, (token, item) in enumerate(items):
            try:
                result = call(item)
                more = [result.name] if isinstance(result, Output) else []
                done.append([token, result.value if isinstance(result, Output) else result, *more])
            except (Exception, SystemExit) as error:
                print(user_traceback(error), end="", file=sys.stderr, flush=True)
                failed.append([token, describe(error)])
            now_s = time.monotonic()
            if now_s - told_s >= REPORT_S and token != items[-1][0]:
                self._tell({"done": done, "failed": failed})
                done, failed, told_s = [], [], now_s
                self._busy = tuple(other for other, _ in items[k + 1 :])
        took_s = time.monotonic() - began_s
        self._busy = ()
        if items:
            each_s = max(1e-6, took_s / len(items))
            self._n = max(1, min(TAKE_MAX, int(AIM_S / each_s), 2 * self._n))
        return {"done": done, "failed": failed}

    def _tell(self, outcomes: Message) -> None:
        sockets.send(self._socket, self._frames(outcomes))

    def _frames(self, message: Message) -> list[bytes | memoryview]:
        """Return a message; what it has no room for is told before, and what no message has room for has failed."""
        try:
            return encode_message({KEY: VERSION, "name": self._name, "raw": True, **message}, raw=True)
        except EncodeError as error:
            done, failed = message.get("done", []), message.get("failed", [])
            if not done:
                raise
            if len(done) == 1:
                failed = [*failed, [done[0][0], str(error)]]
                return self._frames({**message, "done": [], "failed": failed})
            half = len(done) // 2
            self._tell({"done": done[:half]})
            return self._frames({**message, "done": done[half:]})

    def _asked(self, message: Message) -> Message:
        """Return the answer to a message, which is sent again while there is none."""
        tag = secrets.token_hex(4)
        frames = self._frames({**message, "tag": tag})
        began_s = time.monotonic()
        due_s, said = 0.0, False
        while not self._ending.is_set() or due_s == 0.0:
            now_s = time.monotonic()
            if now_s >= due_s:
                sockets.send(self._socket, frames)
                due_s = now_s + ANSWER_S
            if now_s - began_s >= SILENT_S and not said:
                said = True
                self._say(f"no gate answers at {self.endpoint}: still asking")
            self._poller.poll(int(1000 * (due_s - now_s)) + 1)
            while (received := sockets.receive(self._socket)) is not None:
                answer = self._read(received)
                if answer.get("tag") == tag or answer.get("over") or answer.get("items"):
                    self._hang_up_push()  # an answer that has items counts, also if it is to what was asked before
                    return answer
            if self._pull is not None and (received := sockets.receive(self._pull)) is not None:
                return self._turn_to(self._read(received))
        return {}

    def _read(self, frames: Sequence[memoryview]) -> Message:
        try:
            answer = decode_message(frames)
        except ProtocolError as error:
            self._say(f"the gate at {self.endpoint} says what is no message: {error}")
            return {}
        if not isinstance(answer, dict) or answer.get(KEY) != VERSION:
            self._say(f"the gate at {self.endpoint} says what is no message of version {VERSION}")
            return {}
        lease_s = answer.get("lease_s")
        if isinstance(lease_s, int | float) and lease_s > 0:
            self._lease_s = float(lease_s)
        return answer

    def _turn_to(self, pushed: Message) -> Message:
        """Take what was pushed here, and ask from now on where calls are answered."""
        if pushed.get("over"):
            return pushed
        port = str(pushed.get("call", "")).rpartition(":")[2]
        self.endpoint = f"{self.endpoint.rpartition(':')[0]}:{port}"
        self._poller.unregister(self._socket)
        sockets.close(self._socket)
        self._socket = sockets.dial_outside(self._context, "call", self.endpoint, self._keys, secrets.token_bytes(9))
        self._poller.register(self._socket, sockets.IN)
        items = list(pushed.get("items", ()))
        while self._pull is not None and (received := sockets.receive(self._pull)) is not None:
            items += self._read(received).get("items", ())
        self._hang_up_push()
        return {"items": items}

    def _hang_up_push(self) -> None:
        if self._pull is not None:
            self._poller.unregister(self._pull)
            sockets.close(self._pull)
            self._pull = None

    def _extend(self) -> None:
        """Let the leases of what is being done last on."""
        own = sockets.dial_outside(self._context, "call", self.endpoint, self._keys, secrets.token_bytes(9))
        dialled = self.endpoint
        while not self._ending.wait(self._lease_s / 4):
            if dialled != self.endpoint:
                sockets.close(own)
                own = sockets.dial_outside(self._context, "call", self.endpoint, self._keys, secrets.token_bytes(9))
                dialled = self.endpoint
            if busy := self._busy:
                sockets.send(own, encode_message({KEY: VERSION, "name": self._name, "busy": list(busy)}, raw=False))
            while sockets.receive(own) is not None:
                pass
        sockets.close(own)

    def _say(self, text: str) -> None:
        print(f"zpipe: {self._name}: {text}", file=sys.stderr, flush=True)


def made(run: str, folder: Path, args: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return what is called for an item, and the object that has the hooks, None without one.

    Raises StageError and ConfigError for what makes no output of one item.
    """
    found = resolve(run, folder)
    info = form_of(found)
    if info.form != "map" or info.is_async or info.hooks - GATE_HOOKS:
        raise ConfigError(
            f"{run} is not for a gate: that takes what makes one output of one item, and remembers nothing"
        )
    if not inspect.isclass(found):
        return functools.partial(found, **args) if args else found, None
    target: Any
    try:
        target = found(**args)
        if "warmup" in info.hooks:
            target.warmup()
    except (Exception, SystemExit) as error:
        raise StageError(f"{run} {describe(error)}", user_traceback(error)) from error
    return target, target if "close" in info.hooks else None


def work(
    run: str, endpoint: str, folder: Path, args: Mapping[str, Any], *, name: str = "", keys: Keys | None = None
) -> int:  # fmt: skip
    """Be a worker at a gate until there is nothing more to do; returns the exit code.  Raises ZpipeError."""
    call, hooks = made(run, folder, args)
    taker = Taker(endpoint, name=name, keys=keys)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: taker.end() if not taker.is_ending else os._exit(EXIT_INTERRUPTED))
    taker.run(call)
    if hooks is not None:
        hooks.close()
    return EXIT_DONE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one worker of a gate's own crew."""
    parser = argparse.ArgumentParser(prog="python -m zpipe.processes.taker", description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args(argv)
    args = json.loads(os.environ.get("ZPIPE_ARGS", "{}"))
    try:
        return work(
            options.run, os.environ["ZPIPE_CALL"], options.folder, args, name=os.environ.get("ZPIPE_NAME", "")
        )  # fmt: skip
    except ZpipeError as error:
        print(f"{getattr(error, 'detail', '')}zpipe: {error}", file=sys.stderr)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
