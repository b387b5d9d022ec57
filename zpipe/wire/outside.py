"""What programs outside of a pipeline and a gate, or the parent of a program, say to each other; docs/protocol.md.

One msgpack map a message, with raw frames behind it where they were asked for.  Knows the keys and what may be
in them; refuses to know what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from zpipe.values.errors import ProtocolError
from zpipe.wire.body import Buffer, decode_message

VERSION = 1
KEY = "zpipe"  # without it a message is an item
ID_MAX = 256  # characters
ENTRIES_MAX = 65536  # of one list

Message = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What somebody outside says; what it does not say is empty."""

    take: int | None = None  # how many items are wanted
    done: Sequence[list[Any]] = ()  # [token, item] or [token, item, output]
    failed: Sequence[list[str]] = ()  # [token, reason]
    busy: Sequence[str] = ()  # tokens whose leases are to last on
    call: Sequence[list[Any]] = ()  # [id, item]
    put: Sequence[list[Any]] = ()  # [id, item]
    end: bool = False  # nothing more is put
    raw: bool = False  # large arrays may come as frames
    name: str = ""  # of who says it
    stage: str | None = None  # that it wants to know of, "" for whichever it is
    tag: str = ""  # that the answer is to have too
    items: list[Any] = field(default_factory=list)  # bare ones


def is_message(value: object) -> bool:
    """Tell whether what came is a message, not an item."""
    return isinstance(value, dict) and KEY in value


def read(frames: Sequence[Buffer]) -> Asked:
    """Read a message.  Raises ProtocolError, with the rule that it breaks."""
    return checked(decode_message(frames))


def tag_of(frames: Sequence[Buffer]) -> Message:
    """Return the tag that the answer to a message is to have, whatever else is wrong with that."""
    try:
        said = decode_message(frames)
    except ProtocolError:
        return {}
    tag = said.get("tag") if isinstance(said, dict) else None
    return {"tag": tag} if type(tag) is str and 0 < len(tag) <= ID_MAX else {}


def read_any(frames: Sequence[Buffer]) -> Asked:
    """Read a message, or a bare item.  Raises ProtocolError."""
    value = decode_message(frames)
    return checked(value) if is_message(value) else Asked(items=[value])


def checked(said: Any) -> Asked:
    """Return what a message says.  Raises ProtocolError, with the rule that it breaks."""
    if not isinstance(said, dict):
        raise ProtocolError("a message is a map")
    if type(said.get(KEY)) is not int or said[KEY] != VERSION:
        raise ProtocolError(f"zpipe is {said.get(KEY)!r:.20}: this is version {VERSION} of the protocol")
    take = said.get("take")
    if take is not None and (type(take) is not int or take < 0):
        raise ProtocolError(f"take is {take!r:.20}: it is how many items are wanted")
    busy = said.get("busy", [])
    if type(busy) is not list or len(busy) > ENTRIES_MAX or not all(map(_is_text, busy)):
        raise ProtocolError(f"busy is a list of tokens, texts of up to {ID_MAX}")
    return Asked(
        take=take,
        done=_entries(said, "done", "token", "item", 3),
        failed=_entries(said, "failed", "token", "reason", 2),
        busy=busy,
        call=_entries(said, "call", "id", "item", 2),
        put=_entries(said, "put", "id", "item", 2),
        end=_truth(said, "end"),
        raw=said.get("raw") is True,
        name=_text(said, "name"),
        stage=_text(said, "stage") if "stage" in said else None,
        tag=_text(said, "tag"),
    )


def _entries(said: Message, key: str, of: str, what: str, most: int) -> Sequence[list[Any]]:
    entries = said.get(key, [])
    good = type(entries) is list and all(type(e) is list and 2 <= len(e) <= most for e in entries)
    if not good or len(entries) > ENTRIES_MAX:
        raise ProtocolError(f"{key} is a list of [{of}, {what}]")
    for entry in entries:
        if not all(map(_is_text, (entry[0], *entry[2:]))):
            raise ProtocolError(f"{of}s{' and outputs' if most > 2 else ''} in {key} are texts of up to {ID_MAX}")
    found: Sequence[list[Any]] = entries
    return found


def _truth(said: Message, key: str) -> bool:
    value = said.get(key, False)
    if type(value) is not bool:
        raise ProtocolError(f"{key} is {value!r:.20}: it is true or false")
    return value


def _is_text(value: object) -> bool:
    return type(value) is str and len(value) <= ID_MAX


def _text(said: Message, key: str) -> str:
    value: str = said.get(key, "")
    if not _is_text(value):
        raise ProtocolError(f"{key} is {value!r:.20}: it is a text of up to {ID_MAX}")
    return value
