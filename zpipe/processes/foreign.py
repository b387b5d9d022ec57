"""A stage in another language: a program that takes its items over a socket, as the child of an ordinary worker.

Knows the messages of docs/foreign.md.  What a death means is the supervisor's to know: when its program has died this
worker dies in the same way, so that the item at hand is blamed and the next life begins as for any other.
"""

from __future__ import annotations

import os
import secrets
import signal
import stat
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from zpipe.processes.child import Child, Ended
from zpipe.processes.supervisor import last_lines
from zpipe.values.context import out
from zpipe.values.errors import EncodeError, ProtocolError, StageError
from zpipe.wire.body import encode_message
from zpipe.wire.outside import KEY, VERSION, Asked, Message, read, tag_of

END_S = 2.0  # for a program that is told that nothing more comes
SAID_MAX = 10  # refusals that are worth a line


class Program:
    """Runs `cmd` as a Child does, and lets it do what comes: an item at a time, or a block of items `together`."""

    def __init__(self, cmd: Sequence[str], folder: Path, args: Mapping[str, Any], *, together: bool = False) -> None:
        self._cmd = list(cmd)
        self._together = together
        self._asked: Asked | None = None  # what it has asked for and has not been answered
        self._has_asked = False
        self._due: Message = {}  # what the next answer is to say besides
        self._refused = 0
        self._child = Child(self._cmd, folder, args)

    def wait(self) -> None:
        """Wait until the program asks for an item.  Raises StageError when it ends before it ever has."""
        while self._asked is None:
            self._take_up(self._ask(), {}, {})

    def __call__(self, item: Any, *more: Any) -> Any:
        """Return what the program makes of an item, or of one of each arm of a join; of a block a list."""
        self.wait()
        arms = (item, *more)
        items: list[Any] = list(zip(*arms, strict=True)) if self._together else [arms]
        todo = {secrets.token_hex(8): list(x) if more else x[0] for x in items}
        done: dict[str, Any] = {}
        order = list(todo)
        self._answer({"items": [[token, x] for token, x in todo.items()]})
        while todo:
            self._take_up(self._ask(), todo, done)
            if todo and self._asked is not None:
                self._answer({"items": [[token, x] for token, x in todo.items()]})
        made = [done[token] for token in order]
        for result in made:
            if isinstance(result, StageError):
                raise result
        return made if self._together else made[0]

    def close(self) -> None:
        """Tell the program that nothing more comes, and wait for its end."""
        if self._asked is not None:
            self._answer({"over": True})
        self._child.wait(END_S)
        self._child.close()

    def _take_up(self, asked: Asked, todo: dict[str, Any], done: dict[str, Any]) -> None:
        """Take in what the program has to say of items, and answer unless it asks for more."""
        refused = []
        for kind, entries in (("done", asked.done), ("failed", asked.failed)):
            for token, value, *output in entries:
                if token not in todo:
                    refused.append([token, "this token is not of an item at hand"])
                    continue
                del todo[token]
                if kind == "failed":
                    done[token] = StageError(" ".join(str(value).split()) or "the program gives no reason")
                else:
                    done[token] = out(output[0], value) if output else value
        if refused:
            self._complain(f"of {len(refused)} items that are not at hand, token {refused[0][0]!r:.40}")
            self._due = {"refused": refused}
        if not asked.take:
            self._answer({})

    def _ask(self) -> Asked:
        """Return the next message of the program, once it is one; dies with the program."""
        while True:
            try:
                received = self._child.receive()
            except Ended as ended:
                self._die(ended)
            assert received is not None
            try:
                asked = read(received)
            except ProtocolError as error:
                self._asked = Asked()
                self._complain(str(error))
                self._answer({**tag_of(received), "error": str(error)})
            else:
                self._asked, self._has_asked = asked, True
                return asked

    def _answer(self, answer: Message) -> None:
        asked = self._asked or Asked()
        tag = {"tag": asked.tag} if asked.tag else {}
        try:
            frames = encode_message({KEY: VERSION, **tag, **self._due, **answer}, raw=asked.raw)
        except EncodeError as error:
            raise StageError(f"what came cannot be given to the program: {error}") from error
        self._asked, self._due = None, {}
        self._child.answer(frames)

    def _complain(self, what: str) -> None:
        self._refused += 1
        if self._refused <= SAID_MAX:
            print(f"zpipe: {self._cmd[0]}: refused what it says: {what}", file=sys.stderr, flush=True)

    def _die(self, ended: Ended) -> NoReturn:
        """End as the program has: whoever watches over this process knows what to do."""
        line = f"{' '.join(self._cmd)} {ended}"
        self._child.clear()
        if not self._has_asked:
            raise StageError(f"{line} before it asked for an item", _said())
        if "ZPIPE_WORKER" not in os.environ:  # nobody watches
            raise StageError(line)
        print(f"zpipe: {line}", file=sys.stderr, flush=True)
        if ended.status < 0:
            if ended.status != -signal.SIGKILL:
                signal.signal(-ended.status, signal.SIG_DFL)
            os.kill(os.getpid(), -ended.status)
        os._exit(1)


def _said() -> str:
    """Return the last lines of this process's output, its program's among them, "" where they are not in a file."""
    with suppress(OSError):
        if stat.S_ISREG(os.fstat(2).st_mode):
            return last_lines(Path("/proc/self/fd/2")) + "\n"
    return ""
