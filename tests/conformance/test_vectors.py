"""The golden vectors hold in both directions."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zpipe.values.errors import ProtocolError
from zpipe.values.paths import Run
from zpipe.wire import body, frames

VECTORS = json.loads(Path(__file__).with_name("vectors.json").read_text())
ALLOWED = [v for v in VECTORS["messages"] if "meaning" in v]
HOSTILE = [v for v in VECTORS["messages"] if "refused" in v]
ARRAYS = VECTORS["arrays"]
RUN_FIELDS = ("lane", "position", "n", "epoch", "digest", "attempt")


def named(vector: Any) -> str:
    return str(vector["name"])


def as_json(value: Any) -> Any:
    """Write a decoded value the way vectors.json does."""
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, datetime):
        return {"time": value.isoformat()}
    if isinstance(value, np.ndarray | np.generic):
        form = "array" if isinstance(value, np.ndarray) else "scalar"
        return {form: value.dtype.str, "shape": list(value.shape), "hex": value.tobytes().hex()}
    if isinstance(value, list):
        return [as_json(v) for v in value]
    if isinstance(value, dict):
        if all(isinstance(k, str) for k in value):
            return {k: as_json(v) for k, v in value.items()}
        return {"map": [[as_json(k), as_json(v)] for k, v in value.items()]}
    return value


def from_json(value: Any) -> Any:
    """Read back what `as_json` wrote."""
    if isinstance(value, list):
        return [from_json(v) for v in value]
    if not isinstance(value, dict):
        return value
    if "bytes" in value:
        return bytes.fromhex(value["bytes"])
    if "int" in value:
        return int(value["int"])
    if "time" in value:
        return datetime.fromisoformat(value["time"])
    if "array" in value:
        return np.frombuffer(bytes.fromhex(value["hex"]), value["array"]).reshape(value["shape"])
    if "scalar" in value:
        return np.frombuffer(bytes.fromhex(value["hex"]), value["scalar"])[0]
    return {k: from_json(v) for k, v in value.items()}


def described(message: frames.Message) -> dict[str, Any]:
    """Write a message the way vectors.json does."""
    kind = type(message).__name__.upper()
    ends = {"src": message.src, "dst": message.dst, "gen": message.gen, "edge": message.edge}
    if isinstance(message, frames.Data):
        run = message.run
        told = {name: getattr(run, name) for name in RUN_FIELDS}
        told |= {"elements": list(run.elements), "marks": None if run.marks is None else list(run.marks)}
        items = as_json(body.decode_run(run))
        return {"type": kind, **ends, "seq": message.seq, "run": told, "items": items}
    rest = {n: getattr(message, n) for n in type(message).__slots__ if n not in ends}
    if isinstance(message, frames.Open):
        del rest["shares"]  # what a reader has found, not what it was told
    if isinstance(message, frames.Ack):
        rest["ranges"] = [list(pair) for pair in message.ranges]
    return {"type": kind, **ends, **rest}


def built(meaning: dict[str, Any]) -> frames.Message:
    """Return the message that a vector means."""
    fields = {k: v for k, v in meaning.items() if k != "type"}
    kind = meaning["type"]
    if kind == "DATA":
        told = fields.pop("run")
        marks = None if told["marks"] is None else bytes(told["marks"])
        items = [from_json(item) for item in fields.pop("items")]
        parts: list[Any] = [
            None if marks is not None and marks[i] else body.encode_item(v) for i, v in enumerate(items)
        ]
        run = Run(
            told["lane"], told["position"], tuple(told["elements"]), told["n"], parts,
            epoch=told["epoch"], digest=told["digest"], attempt=told["attempt"], marks=marks,
        )  # fmt: skip
        return frames.Data(run=run, **fields)
    if kind == "ACK":
        fields["ranges"] = [(a, b) for a, b in fields["ranges"]]
    types: dict[str, Any] = {
        "ACK": frames.Ack,
        "SYNC": frames.Sync,
        "OPEN": frames.Open,
        "CLOSE": frames.Close,
    }
    made: frames.Message = types[kind](**fields)
    return made


def read(vector: Any) -> list[bytes]:
    return [bytes.fromhex(frame) for frame in vector["frames"]]


@pytest.mark.parametrize("vector", ALLOWED, ids=named)
def test_frames_mean_what_the_vector_says(vector: Any) -> None:
    assert described(frames.decode(read(vector))) == vector["meaning"]


@pytest.mark.parametrize("vector", [v for v in ALLOWED if not v["one_way"]], ids=named)
def test_a_message_becomes_the_frames_of_its_vector(vector: Any) -> None:
    made = frames.encode(built(vector["meaning"]), crc=vector["crc"])
    assert [bytes(frame).hex() for frame in made] == vector["frames"]


@pytest.mark.parametrize("vector", HOSTILE, ids=named)
def test_hostile_frames_are_refused_with_the_reason(vector: Any) -> None:
    with pytest.raises(ProtocolError) as caught:
        message = frames.decode(read(vector))
        assert isinstance(message, frames.Data)
        body.decode_run(message.run)
    assert vector["refused"] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("vector", ARRAYS, ids=named)
def test_arrays_have_the_bytes_of_msgpack_numpy(vector: Any) -> None:
    assert body.encode_item(from_json(vector["meaning"])).head.hex() == vector["head"]


@pytest.mark.parametrize("vector", ARRAYS, ids=named)
def test_arrays_of_msgpack_numpy_are_read(vector: Any) -> None:
    encoded = body.Encoded(bytes.fromhex(vector["head"]), (), True)
    assert as_json(body.decode_item(encoded)) == vector["meaning"]


def test_there_are_at_least_sixty_vectors_and_no_name_twice() -> None:
    names = [named(v) for v in VECTORS["messages"]]
    assert len(names) >= 60
    assert len(set(names)) == len(names)
