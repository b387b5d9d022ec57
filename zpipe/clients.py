"""The Python ways to a gate from outside of a pipeline: call a stage, put items in, take them out."""

from __future__ import annotations

import itertools
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from zpipe.processes.access import Access
from zpipe.processes.line import Answer, Found, Line, answered, find
from zpipe.transport.keys import Keys
from zpipe.values.errors import CallError

PUT_ITEMS = 256  # in one message
PUT_BYTES = 1 << 20  # about, beyond which an item is the last of its message
PUT_AHEAD = 8  # messages that are on their way
CALLS_AHEAD = 64
STORED_S = 600.0  # those who put wait for room in the journal
GONE_S = 60.0  # a gate that was killed is back by then
TIMEOUT_S = 60.0

KeysPath = str | os.PathLike[str] | None

__all__ = ["Client", "Reply", "Service", "client", "pull", "push"]


class Reply:
    """What becomes of one call."""

    def __init__(self, future: Future[Any], timeout_s: float | None, drop: Callable[[], None]) -> None:
        self._future = future
        self._timeout_s = timeout_s
        self._drop = drop

    @property
    def result(self) -> Any:
        """Wait for what the stage makes of the item.  Raises CallError when it fails, or does not come in time."""
        try:
            return self._future.result(self._timeout_s)
        except TimeoutError:
            self._drop()
            raise CallError(f"no result within {self._timeout_s:g} s: give pipe() a longer timeout") from None

    @property
    def done(self) -> bool:
        """Tell whether the result, or the failure, is there."""
        return self._future.done()


class Service:
    """A stage with a gate, as a function that runs elsewhere."""

    def __init__(self, found: Found, line: Line) -> None:
        self.name = found.stage
        self.role = found.role
        self.endpoint = found.endpoint
        self._line = line
        self._ids = map(f"{secrets.token_hex(6)}:{{}}".format, itertools.count())

    def pipe(self, item: Any, *, timeout: float | None = TIMEOUT_S) -> Reply:
        """Call the stage for an item, or for the result of another call; `timeout` is in seconds, None for no end.

        A call is made again when its worker dies.  Raises EncodeError for what cannot travel.
        """
        made, asked = self._submit(item.result if isinstance(item, Reply) else item)
        return Reply(made, timeout, lambda: self._line.drop(asked))

    def submit(self, item: Any) -> Future[Any]:
        """Call the stage for an item, and return a future of its result, whose exception is a CallError.

        Any number of calls may be on their way; threads may share one service.
        """
        return self._submit(item)[0]

    def _submit(self, item: Any) -> tuple[Future[Any], Answer]:
        if self.role == "source":
            raise CallError(f"stage {self.name!r} is a source: put items there, call a stage behind it")
        made: Future[Any] = Future()
        made.set_running_or_notify_cancel()
        asked = self._line.ask({"call": [[next(self._ids), item]]})
        asked.add_done_callback(lambda answer: self._settle(made, answer))
        return made, asked

    def all(self, items: Iterable[Any], *, timeout: float | None = TIMEOUT_S) -> Iterator[Reply]:
        """Call the stage for each item, some of them ahead, and yield the replies in the order of the items."""
        ahead: deque[Reply] = deque()
        for item in items:
            ahead.append(self.pipe(item, timeout=timeout))
            if len(ahead) > CALLS_AHEAD:
                yield ahead.popleft()
        yield from ahead

    def put(self, items: Iterable[Any], *, name: str | None = None, end: bool = False) -> int:
        """Put items into a source, and return how many, once all of them are on its disk.

        Items that are put again under the same `name` are known by it and their number, and not taken twice.  With
        `end` nothing more comes behind them: the run ends when it has done them all.  Raises CallError.
        """
        if self.role != "source":
            raise CallError(f"stage {self.name!r} has its items from other stages: put them into a source, or call it")
        name, count, nbytes, block = name or secrets.token_hex(8), 0, 0, []
        asked: deque[Answer] = deque()
        for item in items:
            block.append([f"{name}:{count}", item])
            count += 1
            nbytes += _size(item)
            if len(block) >= PUT_ITEMS or nbytes >= PUT_BYTES:
                asked.append(self._line.ask({"put": block}))
                block, nbytes = [], 0
            while len(asked) > PUT_AHEAD:
                _stored(asked.popleft())
        if block:
            asked.append(self._line.ask({"put": block}))
        for answer in asked:
            _stored(answer)
        if end:  # once all are there
            _stored(self._line.ask({"end": True}))
        return count

    def _settle(self, made: Future[Any], answer: Answer) -> None:
        if (error := answer.exception()) is not None:
            made.set_exception(error)
            return
        said = answer.result()
        if done := said.get("done"):
            made.set_result(done[0][1])
            return
        failed = said.get("failed")
        why = failed[0][1] if failed else said.get("error", "the gate gives no reason")
        made.set_exception(CallError(f"stage {self.name!r}: {why}"))


class Client:
    """The gates of a run, or one gate, by address; `with` it, or `close` it."""

    def __init__(self, address: str, keys: Keys | None = None) -> None:
        self.address = address
        self._keys = keys
        self._services: dict[str, tuple[Service, Line]] = {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stage(self, name: str = "") -> Service:
        """Return a stage that has a gate; without a name that whose gate is at this address.

        Raises CallError when it cannot be found, and RegistryError.
        """
        if name not in self._services:
            found, line = find(self.address, name, self._keys)
            self._services[name] = Service(found, line), line
        return self._services[name][0]

    def close(self) -> None:
        """Hang up."""
        for _, line in self._services.values():
            line.close()
        self._services.clear()


def client(address: str, *, keys: KeysPath = None, insecure: bool = False) -> Client:
    """Return a client of the run whose registry is at `address`, or of the gate that is.

    `zp.client("tcp://127.0.0.1:5570").stage("clean").pipe(x).result`.  An address of another host takes `keys`, a file
    or a folder of them, unless the run is `insecure`.  Raises ConfigError.
    """
    return Client(address, _keys(address, keys, insecure=insecure))


def push(
    address: str, items: Iterable[Any], *, stage: str = "", name: str | None = None, end: bool = False,
    keys: KeysPath = None, insecure: bool = False,
) -> int:  # fmt: skip
    """Put items into the source whose gate is at `address`, or into `stage` of the run; as `Service.put`."""
    with Client(address, _keys(address, keys, insecure=insecure)) as made:
        return made.stage(stage).put(items, name=name, end=end)


def pull(
    address: str, *, stage: str = "", count: int | None = None, keys: KeysPath = None, insecure: bool = False
) -> Iterator[Any]:  # fmt: skip
    """Yield the items that reach the sink whose gate is at `address`, or `stage` of the run, until the run ends.

    With a `count` no more than so many are taken.  An item is done when the next is asked for; one that is not, since
    its reader died, goes to another.  Raises CallError, also when the gate is gone for a minute.
    """
    return taken(address, stage, count, _keys(address, keys, insecure=insecure))


def taken(address: str, stage: str, count: int | None, keys: Keys | None) -> Iterator[Any]:
    """Do what `pull` does."""
    found, line = find(address, stage, keys)
    with line:
        if found.role != "sink":
            raise CallError(f"stage {found.stage!r} is a {found.role}, whose items go on: only a sink is pulled from")
        done: list[list[Any]] = []
        left = -1 if count is None else count
        while True:
            said = answered(line, {"take": 1 if left else 0, "done": done}, GONE_S)
            if said.get("error"):
                raise CallError(f"stage {found.stage!r}: {said['error']}")
            done = []
            line.busy = tuple(token for token, _ in said.get("items") or ())
            for token, item in said.get("items") or ():
                yield item
                done.append([token, None])
                left -= 1
            line.busy = ()
            if said.get("over") or not (left or done):
                return


def _keys(address: str, keys: KeysPath, *, insecure: bool) -> Keys | None:
    return Access(None if keys is None else Path(keys), insecure).to(address)


def _size(item: Any) -> int:
    """Return about how many bytes an item takes."""
    if isinstance(item, dict):
        return 16 + sum(_size(key) + _size(x) for key, x in item.items())
    if isinstance(item, list | tuple):
        return 16 + sum(map(_size, item))
    return 16 + int(getattr(item, "nbytes", 0) or (len(item) if isinstance(item, str | bytes | bytearray) else 0))


def _stored(answer: Answer) -> None:
    try:
        said = answer.result(STORED_S)
    except TimeoutError:
        raise CallError(f"what was put is not stored within {STORED_S:g} s: has the run ended, or no room?") from None
    if said.get("error"):
        raise CallError(str(said["error"]))
