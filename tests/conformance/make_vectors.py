"""Write vectors.json anew: frames laid out by hand, field by field, without the library under test.

Run from the root of the repository: python tests/conformance/make_vectors.py
Needs msgpack-numpy, whose own bytes the array vectors hold.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any
from zlib import crc32

import msgpack  # type: ignore[import-untyped,unused-ignore]
import msgpack_numpy  # type: ignore[import-untyped,unused-ignore]
import numpy as np

TARGET = Path(__file__).with_name("vectors.json")
pack = msgpack.packb

SRC, DST, GEN, EDGE = 0x1111111111111111, 0x2222222222222222, 3, 4
ENDS = {"src": SRC, "dst": DST, "gen": GEN, "edge": EDGE}


def common(kind: int, length: int, *, flags: int = 0, nbuf: int = 0, magic: bytes = b"ZPI1") -> bytes:
    return magic + struct.pack(">BBHQQIHH", kind, flags, length, SRC, DST, GEN, EDGE, nbuf)


def data(
    body: bytes = b"",
    *,
    seq: int = 1,
    n: int = 1,
    lane: int = 0,
    elements: tuple[int, ...] = (),
    attempt: int = 0,
    position: int = 0,
    epoch: int = 0,
    digest: int = 0,
    marks: bytes | None = None,
    arrays: bool = False,
    nbuf: int = 0,
    crc: bool = False,
    flags: int | None = None,
    length: int = 80,
    extra: bytes = b"",
    blen: int | None = None,
    depth: int | None = None,
) -> bytes:
    if flags is None:
        flags = (marks is not None) + 2 * arrays
    head = common(1, length, flags=flags, nbuf=nbuf)
    head += struct.pack(">QIII", seq, n, len(body) if blen is None else blen, lane)
    head += struct.pack(">BBBB", len(elements) if depth is None else depth, attempt, 0, 0)
    head += struct.pack(">QI", position, epoch)
    tail = struct.pack(">Q", digest) + extra + b"".join(e.to_bytes(4, "big") for e in elements)
    tail += (marks or b"") + body
    check = crc32(head + b"\0\0\0\0" + tail) if crc else 0
    return head + struct.pack(">I", check) + tail


def ack(
    body: bytes, *, limit: int = 64, state: int = 0, quiet: int = 0, base: int = 10, length: int = 88, crc: bool = False
) -> bytes:
    head = common(5, length) + struct.pack(">QQQQQQBBxx", limit, 2**20, base, 12, 11, 13, state, quiet)
    check = crc32(head + b"\0\0\0\0" + body) if crc else 0
    return head + struct.pack(">I", check) + body


def opening(body: bytes, *, crc: bool = True) -> bytes:
    head = common(2, 36)
    return head + struct.pack(">I", crc32(head + b"\0\0\0\0" + body) if crc else 0) + body


def run(**known: Any) -> dict[str, Any]:
    """Return the meaning of a run: the defaults and what differs."""
    plain = {
        "lane": 0, "position": 0, "elements": [], "n": 1, "epoch": 0, "digest": 0, "attempt": 0,
        "marks": None,
    }  # fmt: skip
    assert set(known) <= set(plain)
    return plain | known


def sent(name: str, frames: list[bytes], meaning: dict[str, Any], *, crc: bool = False, one_way: bool = False) -> Any:
    """Return the vector of an allowed message; `one_way` when our own encoder writes it differently."""
    return {
        "name": name, "frames": [f.hex() for f in frames], "meaning": meaning, "crc": crc, "one_way": one_way,
    }  # fmt: skip


def items(name: str, frame: bytes, values: list[Any], *, crc: bool = False, one_way: bool = False,
          raw: tuple[bytes, ...] = (), seq: int = 1, **known: Any) -> Any:  # fmt: skip
    meaning = {"type": "DATA", **ENDS, "seq": seq, "run": run(**known), "items": values}
    return sent(name, [frame, *raw], meaning, crc=crc, one_way=one_way)


def refused(name: str, frames: list[bytes], why: str) -> Any:
    return {"name": name, "frames": [f.hex() for f in frames], "refused": why}


def array_map(dtype: object, shape: object, content: object, **more: object) -> bytes:
    form = {b"nd": True, b"type": dtype, b"kind": b"", b"shape": shape, b"data": content} | {
        k.encode(): v for k, v in more.items()
    }
    packed: bytes = pack([form])
    return packed


def allowed_data() -> list[Any]:
    text = {"x": [1, 2.5, None, True], "é": "ü", "k": {"bytes": "00ff"}}
    values = {"x": [1, 2.5, None, True], "é": "ü", "k": b"\0\xff"}
    noon = "2024-02-29T12:00:00.250000+00:00"
    stamp = b"\xd7\xff" + struct.pack(">Q", (250_000_000 << 34) | 1709208000)
    raw = msgpack.ExtType(0x4E, b"\0\0\0\0")
    big = np.arange(32768, dtype="<u2")
    meant = {"array": "<u2", "shape": [128, 256], "hex": big.tobytes().hex()}
    form = {b"nd": True, b"type": "<u2", b"kind": b"", b"shape": (128, 256), b"data": raw}
    text_form = {"nd": True, "type": "<u2", "shape": [2], "data": b"\1\0\2\0"}
    ring = {"array": "<u2", "shape": [2], "hex": "01000200"}
    return [
        items("one item", data(pack([7])), [7]),
        items("one item with crc", data(pack([7]), crc=True), [7], crc=True),
        items("a map item", data(pack([values])), [text]),
        items("no value is a value", data(pack([None])), [None]),
        items("integers of 64 bits", data(pack([[2**64 - 1, -(2**63)]])), [[2**64 - 1, -(2**63)]]),
        items("three items at positions 5 to 7", data(pack([1, 2, 3]), n=3, position=5), [1, 2, 3], n=3,
              position=5),
        items("sixteen items take the wide list header", data(pack(list(range(16))), n=16), list(range(16)),
              n=16),
        items("a list header wider than needed", data(b"\xdc\0\1\7"), [7], one_way=True),
        items("children 4 and 5 of a split", data(pack(["a", "b"]), n=2, elements=(4,)),
              ["a", "b"], n=2, elements=[4]),
        items("the last of two elements varies",
              data(pack([0, 0]), n=2, elements=(4, 9), position=8),
              [0, 0], n=2, elements=[4, 9], position=8),
        items("a group has a digest", data(pack([1]), digest=2**64 - 1), [1], digest=2**64 - 1),
        items("third attempt in epoch 2 of lane 6", data(pack([1]), attempt=3, epoch=2, lane=6),
              [1], attempt=3, epoch=2, lane=6),
        items("last seq", data(pack([1]), seq=2**64 - 1), [1], seq=2**64 - 1),
        items("last position", data(pack([1]), position=2**64 - 1), [1], position=2**64 - 1),
        items("a tombstone alone", data(marks=b"\1"), [None], marks=[1]),
        items("tombstones of four neighbours", data(marks=b"\1\1\1\1", n=4), [None] * 4, n=4,
              marks=[1, 1, 1, 1]),
        items("the second of three was dropped", data(pack([1, 3]), n=3, marks=b"\0\1\0"),
              [1, None, 3], n=3, marks=[0, 1, 0]),
        items("a split had three children", data(marks=b"\2", elements=(3,)), [None], elements=[3],
              marks=[2]),
        items("an epoch ends", data(marks=b"\3", position=100, epoch=1), [None], position=100, epoch=1,
              marks=[3]),
        items("a lane ends", data(marks=b"\4", position=101, crc=True), [None], position=101, marks=[4],
              crc=True),
        items("marks that mark nothing", data(pack([1]), marks=b"\0"), [1], marks=[0]),
        items("a longer header is skipped", data(pack([7]), length=84, extra=b"\1\2\3\4"), [7], one_way=True),
        items("a longer header before elements", data(pack([7]), length=82, extra=b"\1\2", elements=(5,)),
              [7],
              elements=[5], one_way=True),
        items("a moment", data(b"\x91" + stamp), [{"time": noon}]),
        items("an array in a buffer of its own", data(pack([form]), arrays=True, nbuf=1), [meant],
              raw=(big.tobytes(),)),
        items("two items with a buffer each", data(pack([form, [form, 1]]), n=2, arrays=True, nbuf=2),
              [meant, [meant, 1]], n=2, raw=(big.tobytes(), big.tobytes())),
        items("a large array inline", data(pack([form | {b"data": big.tobytes()}]), arrays=True), [meant],
              one_way=True),
        items("text keys without a kind", data(pack([text_form]), arrays=True), [ring], one_way=True),
        items("an empty array", data(array_map("<f4", (0, 3), b""), arrays=True),
              [{"array": "<f4", "shape": [0, 3], "hex": ""}]),
        items("a map that only looks like an array", data(pack([{b"nd": 1, b"type": "x"}]), arrays=True),
              [{"map": [[{"bytes": "6e64"}, 1], [{"bytes": "74797065"}, "x"]]}], one_way=True),
    ]  # fmt: skip


def allowed_rest() -> list[Any]:
    numbers = {"limit": 64, "limit_bytes": 2**20, "base": 10, "got": 12, "consumed": 11, "echo": 13}
    plain = {
        "type": "ACK",
        **ENDS,
        **numbers,
        "state": 0,
        "quiet": 0,
        "ranges": [],
        "wants": [],
        "full": False,
        "shares": False,
    }
    info = {"proto": [1, 0], "acks": ["ipc:///run/a"], "stage": "clean", "inc": 5}
    memory = [4711, 12, "0123456789abcdef"]
    sync = common(3, 48) + struct.pack(">QB7x", 99, 1)
    return [
        sent("ACK of nothing above base", [ack(pack([[], []]))], plain),
        sent("ACK with ranges and wants", [ack(pack([[[12, 14], [20, 20]], [1, 2]]))],
             plain | {"ranges": [[12, 14], [20, 20]], "wants": [1, 2]}),
        sent("ACK of a worker that drains", [ack(pack([[], []]), state=1, quiet=1)],
             plain | {"state": 1, "quiet": 1}),
        sent("ACK of a worker that holds too much", [ack(pack([[], [], True]))], plain | {"full": True}),
        sent("ACK of a worker that reads shared memory", [ack(pack([[], [], False, True]))], plain | {"shares": True}),
        sent("ACK with crc", [ack(pack([[[12, 14]], [1]]), crc=True)],
             plain | {"ranges": [[12, 14]], "wants": [1]}, crc=True),
        sent("ACK with a third part of another kind", [ack(pack([[], [], "new"]))], plain, one_way=True),
        sent("ACK with a fourth part", [ack(pack([[], [], False, "new"]))], plain, one_way=True),
        sent("SYNC", [sync], {"type": "SYNC", **ENDS, "hi": 99, "blocked": True}),
        sent("SYNC of a longer header", [common(3, 50) + struct.pack(">QB7x", 99, 0) + b"\1\2"],
             {"type": "SYNC", **ENDS, "hi": 99, "blocked": False}, one_way=True),
        sent("OPEN", [common(2, 32) + pack(info)], {"type": "OPEN", **ENDS, "info": info}),
        sent("OPEN of a worker that shares memory", [common(2, 32) + pack(info | {"memory": memory})],
             {"type": "OPEN", **ENDS, "info": info | {"memory": memory}}),
        sent("OPEN with crc", [opening(pack(info))], {"type": "OPEN", **ENDS, "info": info}, crc=True),
        sent("OPEN with room for a crc", [opening(pack(info), crc=False)], {"type": "OPEN", **ENDS, "info": info},
             one_way=True),
        sent("CLOSE", [common(4, 32) + pack({"why": "drained"})],
             {"type": "CLOSE", **ENDS, "why": "drained"}),
        sent("CLOSE without a reason", [common(4, 32) + pack({})], {"type": "CLOSE", **ENDS, "why": ""},
             one_way=True),
    ]  # fmt: skip


def hostile_frames() -> list[Any]:
    form = {b"nd": True, b"type": "|u1", b"kind": b"", b"shape": (1,)}
    raw, late = (form | {b"data": msgpack.ExtType(0x4E, number.to_bytes(4, "big"))} for number in (0, 1))
    one = data(pack([7]))
    checked = data(pack([7]), crc=True)
    checked_ack = ack(pack([[[12, 14]], []]), crc=True)
    flipped_opening = opening(pack({}))
    flipped_opening = flipped_opening[:24] + bytes([flipped_opening[24] ^ 128]) + flipped_opening[25:]
    flipped_ack = checked_ack[:55] + bytes([checked_ack[55] ^ 1]) + checked_ack[56:]
    flipped = checked[:-1] + bytes((checked[-1] ^ 1,))
    return [
        refused("no frames", [], "no frames"),
        refused("an empty frame", [b""], "header takes 32"),
        refused("31 bytes", [one[:31]], "header takes 32"),
        refused("other magic", [b"ZPI2" + one[4:]], "magic"),
        refused("type 0", [common(0, 32)], "type 0 is not known"),
        refused("type 6", [common(6, 32)], "type 6 is not known"),
        refused("header shorter than known", [data(pack([7]), length=79)], "header length 79"),
        refused("header longer than the frame", [data(pack([7]), length=83)], "header length 83"),
        refused("a body that is cut", [one[:-1]], "adds up to"),
        refused("a byte too many", [one + b"\0"], "adds up to"),
        refused("body length of 4 GiB", [data(pack([7]), blen=2**32 - 1)], "adds up to"),
        refused("depth beyond the frame", [data(pack([7]), depth=255)], "adds up to"),
        refused("buffers that did not come", [data(pack([7]), nbuf=1)], "0 raw buffers where the header says 1"),
        refused("buffers nobody announced", [one, b"x"], "1 raw buffers where the header says 0"),
        refused("one flipped bit", [flipped], "crc is"),
        refused("unknown flag", [data(pack([7]), flags=8)], "flags 0x08"),
        refused("references that are not there", [data(pack([7]), flags=4)], "they stand in one"),
        refused("no items", [data(b"", n=0)], "run of 0 items"),
        refused("too many items", [data(pack([7]), n=2**16 + 1)], "run of 65537 items"),
        refused("an unknown mark", [data(marks=b"\5")], "marks go from 0 to 4"),
        refused("an unknown mark between known ones", [data(pack([1]), n=3, marks=b"\1\xff\0")], "marks go from"),
        refused("a body for marks alone", [data(pack([7]), marks=b"\1")], "for 0 items"),
        refused("no body for an item", [data(b"")], "for 1 items"),
        refused("position overflows", [data(pack([7, 8]), n=2, position=2**64 - 1)], "leaves the range"),
        refused("element overflows", [data(pack([7, 8]), n=2, elements=(2**32 - 1,))], "leaves the range"),
        refused("seq 0", [data(pack([7]), seq=0)], "seq 0"),
        refused("seq overflows", [data(pack([7, 8]), n=2, seq=2**64 - 1)], "seqs go from 1"),
        refused("buffer without arrays", [data(pack([7]), nbuf=1), b"x"], "only items with arrays"),
        refused("buffer of a mark", [data(marks=b"\1", flags=3, nbuf=1), b"x"], "only items with arrays"),
        refused("a buffer that no item names", [data(pack([7, 8]), n=2, arrays=True, nbuf=1), b"x"], "are named"),
        refused(
            "a buffer that two items name",
            [data(pack([raw, raw]), n=2, arrays=True, nbuf=1), b"\1"],
            "raw buffer 1 is named",
        ),
        refused(
            "buffers of two items out of turn",
            [data(pack([late, late]), n=2, arrays=True, nbuf=2), b"\1", b"\2"],
            "out of turn",
        ),
        refused("SYNC with a body", [common(3, 48) + bytes(17)], "behind the header of SYNC"),
        refused("SYNC that is cut", [common(3, 48) + bytes(15)], "header length 48"),
        refused("SYNC with blocked 2", [common(3, 48) + struct.pack(">QB7x", 1, 2)], "blocked is 2"),
        refused("SYNC with flags", [common(3, 48, flags=1) + bytes(16)], "flags 1"),
        refused("ACK without a body", [ack(b"")], "ends in the middle"),
        refused("ACK with one flipped bit", [flipped_ack], "crc is"),
        refused("ACK with a map", [ack(pack({}))], "not [ranges, wants]"),
        refused("ACK with one list", [ack(pack([[]]))], "not [ranges, wants]"),
        refused("ACK with a range below base", [ack(pack([[[9, 12]], []]))], "not above its base 10"),
        refused("ACK with a range turned round", [ack(pack([[[14, 12]], []]))], "not above its base"),
        refused("ACK with a range of text", [ack(pack([[["a", "b"]], []]))], "not a pair of numbers"),
        refused("ACK with 4097 ranges", [ack(pack([[[11, 11]] * 4097, []]))], "at most 4096"),
        refused("ACK with a want of -1", [ack(pack([[], [-1]]))], "not a lane"),
        refused("ACK in state 2", [ack(pack([[], []]), state=2)], "state is 2"),
        refused("ACK with bytes behind", [ack(pack([[], []]) + b"\0")], "not plain msgpack"),
        refused("OPEN with one flipped bit", [flipped_opening], "crc is"),
        refused("OPEN with a list", [common(2, 32) + pack([])], "not a map with text keys"),
        refused("OPEN with a number as key", [common(2, 32) + pack({1: 2})], "not a map with text keys"),
        refused("OPEN that nests", [common(2, 32) + b"\x81\xa1a" + b"\x91" * 9 + b"\0"], "nests deeper than 8"),
        refused("OPEN with an extension", [common(2, 32) + b"\x81\xa1a\xd4\x05\0"], "not plain msgpack"),
        refused(
            "OPEN with a number for acks", [common(2, 32) + pack({"acks": 7})], "not a list of at most 64 endpoints"
        ),
        refused("OPEN with numbers for endpoints", [common(2, 32) + pack({"acks": [7]})], "not a list of at most 64"),
        refused("CLOSE with a number as reason", [common(4, 32) + pack({"why": 3})], "not a text"),
    ]


def hostile_bodies() -> list[Any]:
    def array(name: str, body: bytes, why: str, *raw: bytes) -> Any:
        return refused(name, [data(body, arrays=True, nbuf=len(raw)), *raw], why)

    raw = msgpack.ExtType(0x4E, b"\0\0\0\0")
    scalar = {b"nd": False, b"type": "<f8", b"data": b"\0" * 7}
    return [
        refused("one item where two are named", [data(pack([7]), n=2)], "not a list of 2 items"),
        refused("two items where one is named", [data(pack([7, 8]))], "not a list of 1 items"),
        refused("a body that is no list", [data(pack({1: 2}))], "not a list of 1 items"),
        refused("a byte that is no msgpack", [data(b"\x91\xc1")], "not msgpack"),
        refused("an item that is cut", [data(b"\x91\xa5abc")], "not msgpack"),
        refused("bytes behind the list", [data(b"\x91\1\2")], "not msgpack"),
        refused("text that is not UTF-8", [data(b"\x91\xa1\xff")], "not msgpack"),
        refused("a list that claims 4 G values", [data(b"\x91\xdd\xff\xff\xff\xff")], "not msgpack"),
        refused("1100 nested lists", [data(b"\x91" * 1100 + b"\0")], "not msgpack"),
        refused("lists that lie, nested", [data(b"\x91" + b"\xdc\xff\xff" * 500)], "not msgpack"),
        refused("a map as key", [data(b"\x91\x81\x80\1")], "not msgpack"),
        refused(
            "a moment beyond the calendar",
            [data(b"\x91\xc7\x0c\xff" + bytes(4) + b"\x7f" + bytes(7))],
            "not msgpack",
        ),
        refused("a raw buffer without the flag", [data(pack([raw]))], "without array forms"),
        array("an object array", array_map("|O", (1,), b"x", kind=b"O"), "only plain dtypes"),
        array("an object dtype", array_map("|O", (1,), b"x"), "may not travel"),
        array("a structured array", array_map([["a", "<f4"]], (1,), bytes(4)), "may not travel"),
        array("a dtype with a shape", array_map("3<f4", (1,), bytes(12)), "may not travel"),
        array("a text dtype", array_map("<U4", (1,), bytes(16)), "may not travel"),
        array("a moment dtype of no unit", array_map("<M8[parsec]", (1,), bytes(8)), "may not travel"),
        array("a moment dtype of 0 units", array_map("<M8[0s]", (1,), bytes(8)), "may not travel"),
        array("an array too short", array_map("<f4", (2,), bytes(7)), "needs 8 bytes, not 7"),
        array("an array too long", array_map("<f4", (2,), bytes(9)), "needs 8 bytes, not 9"),
        array("a negative length", array_map("<f4", (-1, -2), bytes(8)), "not a length"),
        array("33 dimensions", array_map("<f4", (1,) * 33, bytes(4)), "at most 32 numbers"),
        array("a length of text", array_map("<f4", ("2",), bytes(8)), "not a length"),
        array("an empty array of huge sides", array_map("<f4", (0, 2**63), b""), "array of shape"),
        array("data of text", array_map("<f4", (1,), "abcd"), "neither bin nor a raw buffer"),
        array("a scalar too short", pack([scalar]), "needs 8 bytes, not 7"),
        array("a raw buffer that is not there", array_map("<f4", (1,), raw), "raw buffer 0 is named"),
        array("a raw buffer of the wrong size", array_map("<f4", (1,), raw), "needs 4 bytes, not 5", b"12345"),
        array("a raw buffer as an item", pack([raw]), "outside of an array", b"12345"),
        array(
            "a raw buffer number of one byte",
            array_map("u1", (1,), msgpack.ExtType(0x4E, b"\0")),
            "raw buffer",
            b"1",
        ),
    ]


def arrays() -> list[Any]:
    """Return values and the very bytes that msgpack-numpy writes for them."""
    grid = np.arange(12, dtype="<i4").reshape(3, 4)
    values: list[tuple[str, Any]] = [
        ("int32 matrix", grid),
        ("turned matrix", grid.T),
        ("every second column", grid[:, ::2]),
        ("big-endian float", np.array([1.5, -2.0], dtype=">f4")),
        ("half floats", np.array([0.5, 1.0], dtype="<f2")),
        ("booleans", np.array([True, False])),
        ("complex", np.array([1 + 2j], dtype="<c16")),
        ("bytes", np.arange(5, dtype="u1")),
        ("no dimensions", np.array(3.25)),
        ("no values", np.zeros((0, 3), dtype="<f4")),
        ("float32 scalar", np.float32(1.5)),
        ("int16 scalar", np.int16(-2)),
        ("bool scalar", np.bool_(True)),
        ("complex64 scalar", np.complex64(1 - 1j)),
    ]
    made = []
    for name, value in values:
        form = "array" if isinstance(value, np.ndarray) else "scalar"
        meaning = {form: value.dtype.str, "shape": list(value.shape), "hex": value.tobytes().hex()}
        packed = msgpack.packb(value, default=msgpack_numpy.encode)
        made.append({"name": name, "meaning": meaning, "head": packed.hex()})
    return made


def main() -> None:
    """Write the vectors."""
    messages = [*allowed_data(), *allowed_rest(), *hostile_frames(), *hostile_bodies()]
    made = {"messages": messages, "arrays": arrays()}
    TARGET.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
