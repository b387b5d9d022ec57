"""Saves in the run folder: what is written comes back, and what was altered is one clear error."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from zpipe.core.memory import Save
from zpipe.processes.codec import WireCodec
from zpipe.processes.saves import Saves
from zpipe.values.errors import SaveError
from zpipe.values.paths import Mark, Run
from zpipe.wire import body, frames

CODEC = WireCodec()
CURSOR = {"epoch": 1, "next": [[0, [5, 2]]], "resting": [0], "ended": [], "closing": [[0, 3]], "turn": None}
BIG = {"x": np.arange(2**15), "name": "big"}  # an item that travels with a buffer of its own


def state_of(value: Any) -> list[Any]:
    """Return what a caller saves: the position of its hooks, and a state."""
    return [7, CODEC.encode_state(value)]


def outputs() -> list[tuple[int, Run]]:
    """Return one run of each kind: small items, marks among them, one item with a buffer, a mark alone."""
    mixed = [CODEC.encode(1), None, CODEC.encode({"b": 2})]
    return [
        (3, Run(0, 4, (), 3, mixed, epoch=1, digest=99, marks=bytes([0, Mark.TOMB, 0]))),
        (4, Run(1, 0, (2,), 1, [CODEC.encode(BIG)])),
        (3, Run(0, 7, (), 1, [None], marks=bytes([Mark.FIN]))),
    ]


def whole(folder: Path) -> Saves:
    """Write a save with everything that there may be in one."""
    saves = Saves(folder, "fit/lr=0.1", 1)
    saves.claim()
    saves.write(Save(CURSOR, state_of({"w": np.arange(10_000), "b": np.zeros(3), "n": 5}), outputs()))
    return saves


def test_before_the_first_save_there_is_none(tmp_path: Path) -> None:
    saves = Saves(tmp_path, "fit", 1)
    saves.claim()
    assert saves.read() is None


def test_cursor_state_and_outputs_come_back(tmp_path: Path) -> None:
    found = whole(tmp_path).read()
    assert found is not None
    assert found.cursor == CURSOR
    hook_position, part = found.state
    state = CODEC.decode_state(part)
    assert hook_position == 7
    assert (state["w"].tolist(), state["b"].tolist(), state["n"]) == (list(range(10_000)), [0, 0, 0], 5)
    assert [edge for edge, _ in found.outs] == [3, 4, 3]
    assert [run.key for _, run in found.outs] == [run.key for _, run in outputs()]
    mixed, big, mark = (CODEC.decode(run) for _, run in found.outs)
    assert (mixed, mark) == ([1, None, {"b": 2}], [None])
    assert (big[0]["x"].tolist(), big[0]["name"]) == (list(range(2**15)), "big")
    assert [run.marks for _, run in found.outs] == [bytes([0, 1, 0]), None, bytes([4])]
    assert (found.outs[0][1].epoch, found.outs[0][1].digest) == (1, 99)


def test_a_stage_without_a_state_saves_its_cursor(tmp_path: Path) -> None:
    saves = Saves(tmp_path, "batch", 1)
    saves.claim()
    saves.write(Save(CURSOR, [0, None], []))
    assert saves.read() == Save(CURSOR, [0, None], [])


def test_arrays_of_a_restored_state_use_the_memory_they_were_read_into(tmp_path: Path) -> None:
    found = whole(tmp_path).read()
    assert found is not None
    part = found.state[1]
    w = CODEC.decode_state(part)["w"]
    w[0] = 7
    assert np.shares_memory(w, np.frombuffer(part.buffers[0], np.uint8))


def test_a_state_may_be_larger_than_an_item(tmp_path: Path) -> None:
    saves = Saves(tmp_path, "fit", 1)
    saves.claim()
    state = {str(k): np.full(body.BODY_MAX // 4, k, np.uint8) for k in range(5)}
    saves.write(Save(CURSOR, state_of(state), []))
    assert saves.path.stat().st_size > body.BODY_MAX
    found = saves.read()
    assert found is not None
    assert [(a[0], a[-1], len(a)) for a in CODEC.decode_state(found.state[1]).values()] == [
        (0, 0, 16777216), (1, 1, 16777216), (2, 2, 16777216), (3, 3, 16777216), (4, 4, 16777216),
    ]  # fmt: skip


def test_a_file_that_is_cut_off_anywhere_is_one_clear_error(tmp_path: Path) -> None:
    saves = whole(tmp_path)
    data = saves.path.read_bytes()
    for size in {*range(0, 400), *range(400, len(data), 4999), *range(len(data) - 50, len(data))}:
        saves.path.write_bytes(data[:size])
        with pytest.raises(SaveError, match=r"cannot be read .*: it holds what stage 'fit/lr=0.1' knew; start the run"):
            saves.read()


def test_a_byte_that_was_altered_anywhere_is_one_clear_error(tmp_path: Path) -> None:
    saves = whole(tmp_path)
    data = bytearray(saves.path.read_bytes())
    for at in {*range(0, 400), *range(400, len(data), 4999), *range(len(data) - 50, len(data))}:
        data[at] ^= 0x11
        saves.path.write_bytes(data)
        with pytest.raises(SaveError, match="cannot be read"):
            saves.read()
        data[at] ^= 0x11


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is cut off"),
        (b"not a save", "it is no save"),
        (b"zpsave\x00\x01" + bytes(20), "it is of version 1, not 2"),
        (b"zpsave\x00\x02" + b"\x7f" + bytes(20), "it is cut off, or was altered"),
    ],
)
def test_what_is_no_save_is_said(tmp_path: Path, data: bytes, why: str) -> None:
    saves = whole(tmp_path)
    saves.path.write_bytes(data)
    with pytest.raises(SaveError) as caught:
        saves.read()
    assert str(caught.value) == (
        f"{saves.path} cannot be read ({why}): it holds what stage 'fit/lr=0.1' knew; start the run anew"
    )


def test_more_than_was_written_is_an_error(tmp_path: Path) -> None:
    saves = whole(tmp_path)
    with open(saves.path, "ab") as file:
        file.write(b"x")
    with pytest.raises(SaveError, match="more follows than was written"):
        saves.read()


def test_a_save_that_cannot_be_written_leaves_the_last_one_and_nothing_half_done(tmp_path: Path) -> None:
    saves = whole(tmp_path)
    before = saves.path.read_bytes()
    saves.path.with_name(saves.path.name + ".new").symlink_to("/dev/full")
    with pytest.raises(SaveError, match="No space left on device: free some space and run again"):
        saves.write(Save(CURSOR, [0, None], outputs()))
    assert saves.path.read_bytes() == before
    assert not list(tmp_path.glob("*.new"))


# -- lives ------------------------------------------------------------------------------------------------


def life(folder: Path, fence: int) -> Saves:
    """Begin a life."""
    saves = Saves(folder, "fit", fence)
    saves.claim()
    return saves


def save_of(n: int) -> Save:
    return Save({"turn": n}, [0, None], [])


def turn(found: Save | None) -> Any:
    """Return what `save_of` made a save of."""
    return None if found is None else found.cursor["turn"]


def test_the_next_life_reads_what_the_last_one_saved(tmp_path: Path) -> None:
    first = life(tmp_path, 1)
    first.write(save_of(1))
    first.write(save_of(2))
    assert turn(life(tmp_path, 2).read()) == 2


def test_a_life_that_saved_nothing_leaves_the_save_before_it(tmp_path: Path) -> None:
    life(tmp_path, 1).write(save_of(1))
    life(tmp_path, 2)
    assert turn(life(tmp_path, 3).read()) == 1


def test_a_life_that_was_overtaken_knows_it(tmp_path: Path) -> None:
    first = life(tmp_path, 1)
    assert first.is_ours()
    second = life(tmp_path, 2)
    assert (first.is_ours(), second.is_ours()) == (False, True)


def test_a_life_that_is_late_cannot_claim(tmp_path: Path) -> None:
    second = life(tmp_path, 2)
    with pytest.raises(SaveError, match="a later life of stage 'fit' has taken over"):
        life(tmp_path, 1)
    assert second.is_ours()
    assert turn(life(tmp_path, 10).read()) is None


def test_a_late_save_of_an_earlier_life_hides_no_later_one_and_may_not_be_acknowledged(tmp_path: Path) -> None:
    first = life(tmp_path, 1)
    first.write(save_of(1))
    assert first.is_ours()  # it looks, and is held up before it writes
    second = life(tmp_path, 2)
    second.write(save_of(2))
    with pytest.raises(SaveError, match="later life"):
        first.write(save_of(3))
    assert turn(second.read()) == 2
    assert turn(life(tmp_path, 3).read()) == 2


def test_a_late_save_is_read_where_no_later_life_has_saved(tmp_path: Path) -> None:
    first = life(tmp_path, 1)
    first.write(save_of(1))
    life(tmp_path, 2)
    with pytest.raises(SaveError, match="later life"):
        first.write(save_of(3))
    assert turn(life(tmp_path, 3).read()) == 3


def test_of_two_late_saves_the_one_that_was_read_stays_in_force(tmp_path: Path) -> None:
    first, second, third = life(tmp_path, 1), life(tmp_path, 2), life(tmp_path, 3)
    with pytest.raises(SaveError, match="later life"):
        first.write(save_of(9))
    assert turn(third.read()) == 9  # and acknowledged what it covers
    with pytest.raises(SaveError, match="later life"):
        second.write(save_of(5))
    assert turn(life(tmp_path, 4).read()) == 9


def test_the_first_save_of_a_life_removes_those_of_earlier_ones(tmp_path: Path) -> None:
    life(tmp_path, 9).write(save_of(1))
    (tmp_path / "fit.9.save.new").touch()  # it died while it wrote
    (tmp_path / "fit.1.9.save").touch()  # of stage 'fit.1'
    tenth = life(tmp_path, 10)
    assert (tmp_path / "fit.9.save").exists()
    tenth.write(save_of(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fit.1.9.save", "fit.10.fence", "fit.10.save"]


def test_a_life_whose_half_written_save_was_removed_ends_as_overtaken(tmp_path: Path) -> None:
    first = life(tmp_path, 1)
    life(tmp_path, 2)
    first.path.with_name("fit.1.save.new").symlink_to(tmp_path / "gone" / "file")  # it cannot be written
    with pytest.raises(SaveError, match="later life"):
        first.write(save_of(3))


def test_a_save_that_a_later_life_has_removed_is_not_missed_in_silence(tmp_path: Path) -> None:
    life(tmp_path, 1).write(save_of(1))
    second = life(tmp_path, 2)
    third = life(tmp_path, 3)
    third.read()
    third.write(save_of(3))
    with pytest.raises(SaveError, match="later life"):
        second.read()


@pytest.mark.parametrize(
    "contents",
    [[CURSOR, "7", None, []], [[], 7, None, []], [CURSOR, 7, 5, []], [CURSOR, 7, None, 5], [CURSOR, 7, None], {}],
)
def test_a_save_of_other_contents_is_one_clear_error(tmp_path: Path, contents: Any) -> None:
    saves = life(tmp_path, 1)
    section = body.pack_plain(contents)
    saves.path.write_bytes(b"zpsave\0\2" + struct.pack(f">Q{len(section)}sI", len(section), section, crc32(section)))
    with pytest.raises(SaveError, match="cannot be read"):
        saves.read()


def test_a_save_whose_output_is_none_is_one_clear_error(tmp_path: Path) -> None:
    saves = life(tmp_path, 1)
    sync = frames.encode(frames.Sync(0, 0, 1, 3, 9, False), crc=False)[0]
    whole = b"zpsave\0\2"
    for section in (body.pack_plain([CURSOR, 0, None, [1]]), bytes(sync)):
        whole += struct.pack(f">Q{len(section)}sI", len(section), section, crc32(section))
    saves.path.write_bytes(whole)
    with pytest.raises(SaveError, match="it holds a message of type Sync"):
        saves.read()
