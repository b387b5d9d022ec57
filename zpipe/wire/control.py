"""Messages to and from the registry: one small map of plain types each, its verb under "t"."""

from __future__ import annotations

from typing import Any

from zpipe.values.errors import ProtocolError, RegistryError
from zpipe.wire.body import pack_plain, unpack_plain

BYTES_MAX = 4 * 2**20
NESTING_MAX = 32


def encode(message: dict[str, Any]) -> bytes:
    """Encode one message; raises RegistryError when readers would refuse its size, or a number has none."""
    try:
        data = pack_plain(message)
    except OverflowError as error:
        raise RegistryError(f"message {message.get('t')!r} cannot travel: {error}") from None
    if len(data) > BYTES_MAX:
        raise RegistryError(f"message {message.get('t')!r} takes {len(data)} bytes: at most {BYTES_MAX} may travel")
    return data


def decode(data: bytes | bytearray | memoryview) -> dict[str, Any]:
    """Decode one message: a map with text keys and a text under "t".  Raises ProtocolError."""
    message = unpack_plain(data, bytes_max=BYTES_MAX, nesting_max=NESTING_MAX)
    if not isinstance(message, dict):
        raise ProtocolError(f"message is a {type(message).__name__}, not a map")
    if not isinstance(message.get("t"), str):
        raise ProtocolError('message has no verb: a text under "t" is needed')
    for key in message:
        if not isinstance(key, str):
            raise ProtocolError(f"message {message['t']!r:.20} has the key {key!r:.20}: keys are texts")
    return message
