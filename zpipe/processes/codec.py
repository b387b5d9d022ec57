"""How items travel between real processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zpipe.values.paths import Run
from zpipe.wire.body import (
    Encoded,
    decode_item,
    decode_rows,
    decode_run,
    decode_state,
    encode_item,
    encode_rows,
    encode_state,
    parts_of,
)  # fmt: skip


class WireCodec:
    """Items as msgpack with arrays, as `zpipe.wire.body` writes them; `encode` raises EncodeError."""

    encode = staticmethod(encode_item)
    encode_rows = staticmethod(encode_rows)

    def decode(self, run: Run) -> list[Any]:
        """Decode the items of a run, None where a mark stands.  Raises ProtocolError."""
        if run.parts is None:
            return decode_run(run)
        return [None if part is None else decode_item(part) for part in run.parts]

    def rows(self, run: Run) -> Any:
        """Decode the items of a run, as one array (n, ...) where they are arrays of one form.  Raises ProtocolError."""
        return decode_rows(run)

    def parts(self, run: Run) -> Sequence[Encoded | None]:
        """Take a run apart without decoding its items.  Raises ProtocolError."""
        return parts_of(run) if run.parts is None else run.parts

    def encode_state(self, value: Any) -> Encoded:
        """Encode the state of a stage, whose arrays must not change any more.  Raises EncodeError."""
        return encode_state(value)

    def decode_state(self, part: Encoded) -> Any:
        """Decode a state; its arrays may be written to.  Raises ProtocolError."""
        return decode_state(part)
