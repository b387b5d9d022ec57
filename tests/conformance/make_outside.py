"""Write outside.json anew: what programs outside and gates say to each other, without the library under test.

Run from the root of the repository: python tests/conformance/make_outside.py
Needs msgpack-numpy, which writes the arrays.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped,unused-ignore]
import msgpack_numpy  # type: ignore[import-untyped,unused-ignore]
import numpy as np

TARGET = Path(__file__).with_name("outside.json")

EXACT = 2**53  # from here on JSON readers may round


@dataclass(frozen=True)
class InFrame:
    """An array whose bytes are in a frame of their own."""

    index: int
    array: Any


def pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value, default=form, datetime=True)
    return packed


def form(value: object) -> object:
    if not isinstance(value, InFrame):
        return msgpack_numpy.encode(value)
    return {
        b"nd": True, b"type": value.array.dtype.str, b"kind": b"", b"shape": value.array.shape,
        b"data": msgpack.ExtType(78, value.index.to_bytes(4, "big")),
    }  # fmt: skip


def meant(value: Any) -> Any:
    """Return a value in JSON."""
    if isinstance(value, InFrame):
        return meant(value.array)
    if isinstance(value, np.ndarray | np.number | np.bool_) and type(value) is not np.float64:
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {kind: value.dtype.str, "shape": list(value.shape), "hex": value.tobytes().hex()}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, datetime):
        return {"time": value.isoformat()}
    if isinstance(value, int) and abs(value) >= EXACT:
        return {"int": str(value)}
    if isinstance(value, list):
        return [meant(v) for v in value]
    if isinstance(value, dict):
        return {k: meant(v) for k, v in value.items()}
    return value


def said(name: str, *frames: bytes, meaning: Any, by: str, one_way: bool) -> Any:
    """Return the vector of an allowed message; `one_way` when our own encoder writes it differently."""
    return {
        "name": name, "by": by, "frames": [f.hex() for f in frames], "meaning": meant(meaning), "one_way": one_way,
    }  # fmt: skip


def asked(name: str, /, *raw: bytes, by: str = "worker", head: bytes | None = None, one_way: bool = False,
          **message: Any) -> Any:  # fmt: skip
    whole = {"zpipe": 1, **message}
    return said(name, pack(whole) if head is None else head, *raw, meaning=whole, by=by, one_way=one_way)


def told(name: str, /, *raw: bytes, one_way: bool = False, **message: Any) -> Any:
    return asked(name, *raw, by="gate", one_way=one_way, **message)


def bare(name: str, item: Any) -> Any:
    return said(name, pack(item), meaning=item, by="item", one_way=False)


def refused(name: str, head: bytes | dict[str, Any], why: str, *raw: bytes, by: str = "gate") -> Any:
    """Return the vector of a message that a gate refuses, or `any` reader does."""
    first = head if isinstance(head, bytes) else pack({"zpipe": 1, **head})
    return {"name": name, "frames": [f.hex() for f in (first, *raw)], "refused": why, "by": by}


def workers() -> list[Any]:
    wide = (
        b"\xdf\0\0\0\2" + b"\xd9\x05zpipe" + b"\xcf" + bytes(7) + b"\1" + b"\xda\0\4take" + b"\xd3" + bytes(7) + b"\1"
    )
    return [
        asked("asks for an item", take=1),
        asked("asks for up to 64, by its name", take=64, name="host:17", raw=True),
        asked("has done one and asks for the next", take=1, done=[["f3a1", 7]]),
        asked("has done three", take=3,
              done=[["a", ""], ["b", [1, 2.5, True, None]], ["c", {"k": b"\0\xff", "é": "ü"}]]),
        asked("drops one", take=1, done=[["a", None]]),
        asked("sends to a named output", take=1, done=[["a", 1, "odd"], ["b", 2, "even"], ["c", 3]]),
        asked("cannot do one", take=1, failed=[["a", "no text but number"]]),
        asked("works on", busy=["a", "b"]),
        asked("does all at once", take=2, done=[["a", 1]], failed=[["b", "no"]], busy=["c"], tag="t7", name="w"),
        asked("wants nothing", take=0),
        asked("has finished and leaves", done=[["a", 1]]),
        asked("says nothing but the version"),
        asked("says what is not known yet", take=1, mood="fine", later={"a": [1, {"b": None}]}),
        said("says the version last", pack({"take": 1, "zpipe": 1}), meaning={"take": 1, "zpipe": 1}, by="worker",
             one_way=False),
        asked("writes all headers wider than needed", head=wide, one_way=True, take=1),
        asked("has empty lists", take=1, done=[], failed=[], busy=[]),
        asked("has a token of 256 characters", take=1, done=[["ü" * 256, 1, "o" * 256]]),
        asked("has integers of 64 bits", done=[["a", [2**64 - 1, -(2**63), 2**63, -1, 2**53]]]),
        asked("has a moment", done=[["a", datetime(2024, 2, 29, 12, 0, 0, 250_000, UTC)]]),
        asked("has a list of 16 and a text of 40", done=[["a", [list(range(16)), "x" * 40]]]),
    ]  # fmt: skip


def arrays() -> list[Any]:
    """Return results that are arrays, as msgpack-numpy writes them, and as others may."""
    grid = np.arange(6, dtype="<f4").reshape(2, 3)
    values: list[tuple[str, Any]] = [
        ("float32 matrix", grid),
        ("Fortran order", np.asfortranarray(grid)),
        ("every second column", grid[:, ::2]),
        ("big-endian float32", grid.astype(">f4")),
        ("big-endian int16", np.array([1, -2], ">i2")),
        ("half floats", np.array([0.5, -1.0], "<f2")),
        ("float64", np.array([0.1, np.inf, np.nan])),
        ("booleans", np.array([True, False])),
        ("bytes", np.arange(5, dtype="u1")),
        ("int8", np.array([-128, 127], "i1")),
        ("uint64", np.array([0, 2**64 - 1], "<u8")),
        ("complex64", np.array([1 + 2j], "<c8")),
        ("complex128", np.array([1 - 2j], "<c16")),
        ("no dimensions", np.array(3.25)),
        ("no values", np.zeros((0, 3), "<f4")),
        ("no values in the middle", np.zeros((2, 0, 3), "u1")),
        ("five dimensions", np.arange(32, dtype="<u2").reshape(2, 2, 2, 2, 2)),
        ("float32 scalar", np.float32(1.5)),
        ("float64 scalar, which is a float", np.float64(1.5)),
        ("int16 scalar", np.int16(-2)),
        ("uint64 scalar", np.uint64(2**64 - 1)),
        ("bool scalar", np.bool_(True)),
        ("complex64 scalar", np.complex64(1 - 1j)),
        ("arrays within maps and lists", {"x": [grid, {"y": np.int16(3)}], "n": 1}),
    ]
    made = [asked(f"array: {name}", done=[["a", value]]) for name, value in values]
    moments = np.array(["2024-02-29T12:00:00.250"], "<M8[ms]")
    by_hand = {b"nd": True, b"type": "<M8[ms]", b"kind": b"", b"shape": (1,), b"data": moments.tobytes()}
    as_text = {"nd": True, "type": "<f4", "kind": "", "shape": [2, 3], "data": grid.tobytes()}
    no_kind = {"nd": True, "type": "<f4", "shape": [2, 3], "data": grid.tobytes()}

    def other(name: str, written: Any, value: Any, *, one_way: bool) -> Any:
        head = pack({"zpipe": 1, "done": [["a", written]]})
        return asked(f"array: {name}", head=head, done=[["a", value]], one_way=one_way)

    return [
        *made,
        other("moments", by_hand, moments, one_way=False),
        other("keys of text", as_text, grid, one_way=True),
        other("keys of text and no kind", no_kind, grid, one_way=True),
        other("scalar, keys of text", {"nd": False, "type": "<i2", "data": b"\xfe\xff"}, np.int16(-2), one_way=True),
    ]


def frames() -> list[Any]:
    """Return messages with arrays in frames of their own."""
    large = np.arange(2**15, dtype="<u2").reshape(128, 256)
    large_bytes = large.tobytes()
    small, floats = np.arange(4, dtype="u1"), np.array([1.5, -2.0], "<f4")
    return [
        asked("frames: 64 KiB in one", large_bytes, raw=True, done=[["a", InFrame(0, large)]]),
        asked("frames: 64 KiB, but the worker does not say raw", done=[["a", large]]),
        asked("frames: two small arrays", small.tobytes(), floats.tobytes(), raw=True, one_way=True,
              done=[["a", InFrame(0, small)], ["b", {"x": [InFrame(1, floats), floats]}]]),
        asked("frames: named out of turn", small.tobytes(), floats.tobytes(), raw=True, one_way=True,
              done=[["a", [InFrame(1, floats), InFrame(0, small)]]]),
        told("frames: given out", large_bytes, items=[["a", {"image": InFrame(0, large)}], ["b", 7]], lease_s=5.0),
        told("frames: an empty one", b"", one_way=True, items=[["a", InFrame(0, np.zeros((0, 2), "<f8"))]]),
        asked("frames: of a call", small.tobytes(), by="client", raw=True, one_way=True,
              call=[["1", InFrame(0, small)]]),
    ]  # fmt: skip


def gates() -> list[Any]:
    return [
        told("there is an item", items=[["f3a1", "some text"]], lease_s=5.0),
        told("there are three", items=[["a", 1], ["b", {"x": [1]}], ["c", None]], lease_s=0.5),
        told("there are none yet", items=[], lease_s=5.0),
        told("there is one, for this tag", tag="t7", items=[["a", 1]], lease_s=5.0),
        told("there is one, and one was refused", refused=[["b", "it was used before"]], items=[["a", 1]], lease_s=5.0),
        told("nothing more comes", over=True),
        told("it is taken"),
        told("it is refused", refused=[["a", "this token was not given out"], ["b", "it was used before"]]),
        told("a rule was broken", error="take is -1: it is how many items are wanted"),
        told("none for who lets leases run out", error="leases of yours ran out", items=[], lease_s=5.0),
        told("which stage it is", stage="x", role="transform", lease_s=5.0, call="tcp://127.0.0.1:6003"),
        told("which source it is", stage="x", role="source", call="tcp://127.0.0.1:6003", pull="tcp://127.0.0.1:6004"),
        told("pushed", items=[["a", 1]], lease_s=5.0, call="tcp://127.0.0.1:6003"),
        told("a call is done", tag="1", done=[["7", {"words": ["a", "b"]}]]),
        told("a call failed", failed=[["7", "no text but number"]]),
        told("items are stored", tag="2", stored=["p:0", "p:1"]),
        told("what is not known yet", items=[["a", 1]], lease_s=5.0, weather={"rain": True}),
    ]


def clients() -> list[Any]:
    def client(name: str, /, **message: Any) -> Any:
        return asked(name, by="client", **message)

    grid = np.arange(6, dtype="<f4").reshape(2, 3)
    return [
        client("calls", call=[["1", "some text"]]),
        client("calls twice", call=[["1", 1], ["2", None]], tag="t", raw=True),
        client("calls with an array", call=[["1", grid]]),
        client("puts", put=[["p:0", {"id": 1}], ["p:1", [1, 2]]]),
        client("puts the last", put=[["p:2", grid]], end=True),
        client("ends", end=True),
        client("does not end", end=False),
        client("means a stage", stage="clean"),
        client("means a stage, and has a name and a tag", stage="clean", name="me", tag="9"),
        bare("item: a text", "some text"),
        bare("item: nothing", None),
        bare("item: a list with the word", ["zpipe", 1]),
        bare("item: a map without the key", {"text": "zpipe"}),
        bare("item: an array", grid),
        bare("item: a map with arrays", {"x": grid, "y": np.int16(3)}),
    ]


def hostile() -> list[Any]:
    one = pack({"zpipe": 1, "take": 1})
    long = "x" * 257
    versions = [("another version", 2), ("version of text", "1"), ("no version", None)]
    lists = [("done", "token"), ("call", "id"), ("put", "id")]
    return [
        refused("no map", pack([1, 2]), "a message is a map"),
        refused("no map but nil", pack(None), "a message is a map"),
        *[refused(name, pack({"zpipe": v, "take": 1}), "version 1 of the protocol") for name, v in versions],
        refused("an empty map", pack({}), "version 1 of the protocol"),
        refused("a version under a key of bytes", pack({b"zpipe": 1}), "version 1 of the protocol"),
        *[refused(f"take {v!r}", {"take": v}, "it is how many items are wanted") for v in (-1, True, 1.0, "1", [1])],
        *[refused(f"{key} that is a map", {key: {"a": 1}}, f"{key} is a list of [{of}, ") for key, of in lists],
        *[refused(f"{key} that holds no lists", {key: ["a"]}, f"{key} is a list of [{of}, ") for key, of in lists],
        *[refused(f"{key} without an item", {key: [["a"]]}, f"{key} is a list of [{of}, ") for key, of in lists],
        *[refused(f"{key} whose {of} is a number", {key: [[1, 1]]}, "are texts of up to 256") for key, of in lists],
        *[refused(f"{key} whose {of} is bytes", {key: [[b"a", 1]]}, "are texts of up to 256") for key, of in lists],
        *[refused(f"{key} whose {of} is too long", {key: [[long, 1]]}, "are texts of up to 256") for key, of in lists],
        refused("done with four parts", {"done": [["a", 1, "b", "c"]]}, "done is a list of [token, "),
        refused("done to an output that is a number", {"done": [["a", 1, 2]]}, "are texts of up to 256"),
        refused("done to an output that is too long", {"done": [["a", 1, long]]}, "are texts of up to 256"),
        refused("the second of done is wrong", {"done": [["a", 1], ["b"]]}, "done is a list of [token, "),
        refused("call with three parts", {"call": [["a", 1, "b"]]}, "call is a list of [id, "),
        refused("failed that is a text", {"failed": "a"}, "failed is a list of [token, "),
        refused("failed without a reason", {"failed": [["a"]]}, "failed is a list of [token, "),
        refused("failed whose token is nil", {"failed": [[None, "why"]]}, "are texts of up to 256"),
        refused("failed to an output", {"failed": [["a", "why", "odd"]]}, "failed is a list of [token, "),
        refused("busy that is a text", {"busy": "abc"}, "busy is a list of tokens"),
        refused("busy that holds a number", {"busy": ["a", 1]}, "busy is a list of tokens"),
        refused("busy with a token that is too long", {"busy": [long]}, "busy is a list of tokens"),
        refused("end that is a number", {"end": 1}, "it is true or false"),
        refused("end that is nil", {"end": None}, "it is true or false"),
        *[refused(f"{key} that is a number", {key: 7}, f"{key} is 7: it is a text of up to 256")
          for key in ("name", "stage", "tag")],
        *[refused(f"{key} that is too long", {key: long}, "it is a text of up to 256")
          for key in ("name", "stage", "tag")],
        refused("nothing at all", b"", "not msgpack", by="any"),
        refused("a message that is cut", one[:-1], "not msgpack", by="any"),
        refused("a text that is cut", pack({"zpipe": 1, "name": "abc"})[:-1], "not msgpack", by="any"),
        refused("a byte behind it", one + b"\0", "not msgpack", by="any"),
        refused("two messages in one frame", one + one, "not msgpack", by="any"),
        refused("a byte that is no msgpack", b"\xc1", "not msgpack", by="any"),
        refused("a list that claims 4 G values", b"\x81\xa4done\xdd\xff\xff\xff\xff", "not msgpack", by="any"),
        refused("text that is not UTF-8", b"\x82\xa5zpipe\1\xa4name\xa1\xff", "not msgpack"),
        refused("1100 nested lists", b"\x82\xa5zpipe\1\xa4done" + b"\x91" * 1100 + b"\0", "not msgpack"),
    ]  # fmt: skip


def hostile_arrays() -> list[Any]:
    whole = {b"nd": True, b"type": "<f4", b"kind": b"", b"shape": [2], b"data": bytes(8)}
    in_frame = {**whole, b"data": msgpack.ExtType(78, bytes(4))}

    def array(name: str, why: str, *raw: bytes, of: Any = None, by: str = "any", **changed: Any) -> Any:
        written = {**whole, **{key.encode(): value for key, value in changed.items()}} if of is None else of
        return refused(f"array: {name}", {"done": [["a", written]]}, why, *raw, by=by)

    return [
        array("too short", "needs 8 bytes, not 7", data=bytes(7)),
        array("too long", "needs 8 bytes, not 9", data=bytes(9)),
        array("of another shape", "needs 12 bytes, not 8", shape=[3]),
        array("of a negative length", "not a length", shape=[-2]),
        array("of a length of text", "not a length", shape=["2"]),
        array("a shape that is a number", "is not a list of at most 32", shape=2),
        array("33 dimensions", "is not a list of at most 32", shape=[1] * 31 + [1, 2]),
        array("a shape whose product overflows", "needs", shape=[2**32, 2**32], data=b""),
        array("of objects", "may not travel", type="|O"),
        array("of objects, said by kind", "only plain dtypes", by="gate", kind=b"O"),
        array("of texts", "may not travel", type="<U2"),
        array("structured", "may not travel", type=[["a", "<f4"]]),
        array("data of text", "neither bin nor a raw buffer", data="12345678"),
        array("a scalar too short", "needs 8 bytes, not 7", of={b"nd": False, b"type": "<f8", b"data": bytes(7)}),
        array("frames: none is there", "raw buffer 0 is named but the message has 0", of=in_frame),
        array("frames: another is there", "raw buffer 1 is named but the message has 1", bytes(8),
              data=msgpack.ExtType(78, b"\0\0\0\1")),
        array("frames: too short", "needs 8 bytes, not 7", bytes(7), of=in_frame),
        array("frames: a number of one byte", "raw buffer", bytes(8), data=msgpack.ExtType(78, b"\0")),
        array("frames: outside of an array", "outside of an array", bytes(8), by="gate",
              of=msgpack.ExtType(78, bytes(4))),
    ]  # fmt: skip


def main() -> None:
    """Write the vectors."""
    made = [*workers(), *arrays(), *frames(), *gates(), *clients(), *hostile(), *hostile_arrays()]
    TARGET.write_text(json.dumps({"messages": made}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
