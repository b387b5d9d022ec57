"""How items travel between real processes."""

from __future__ import annotations

from typing import Any

from zpipe.values.paths import Run
from zpipe.wire.body import Encoded, decode_item, decode_run, decode_state, encode_item, encode_state, parts_of


class WireCodec:
    """Items as msgpack with arrays, as `zpipe.wire.body` writes them; `encode` raises EncodeError."""

    encode = staticmethod(encode_item)

    def decode(self, run: Run) -> list[Any]:
        """Decode the items of a run, None where a mark stands.  Raises ProtocolError."""
        if run.parts is None:
            return decode_run(run)
        return [None if part is None else decode_item(part) for part in run.parts]

    def parts(self, run: Run) -> list[Encoded | None]:
        """Take a run apart without decoding its items.  Raises ProtocolError."""
        return parts_of(run) if run.parts is None else run.parts

    def encode_state(self, value: Any) -> Encoded:
        """Encode the state of a stage, whose arrays must not change any more.  Raises EncodeError."""
        return encode_state(value)

    def decode_state(self, part: Encoded) -> Any:
        """Decode a state; its arrays may be written to.  Raises ProtocolError."""
        return decode_state(part)
