"""Shared memory between its owner, readers and those who hand it on: in one process, and in others that die."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.transport.shared import _HANDLE, _PLACE, LOOK_S, SHARED_MIN, SharedMemory
from zpipe.values import context
from zpipe.values.errors import ProtocolError
from zpipe.wire.body import Encoded, decode_item, encode_item, share_arrays

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is shared")
N = SHARED_MIN

# Opens the pool named by its arguments, attaches what it is told to, says so, and waits to be killed.
READER = """
import sys
from zpipe.transport.shared import SharedMemory
memory = SharedMemory("dies")
pid, fd, token, ref = sys.argv[1:]
assert memory.opens([int(pid), int(fd), bytes.fromhex(token)])
(view,) = memory.attach(bytes.fromhex(ref))
print(int(view.sum(dtype=int)), flush=True)
sys.stdin.read()
"""
# Has a pool with an array of sevens, names it, and waits to be killed.
OWNER = """
import sys
import numpy as np
from zpipe.transport.shared import SharedMemory
memory = SharedMemory("dies")
pid, fd, token = memory.where
view = memory.put(np.full(20000, 7, np.uint8))
print(pid, fd, token.hex(), memory.refs([view]).hex(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner() -> Iterator[SharedMemory]:
    memory = SharedMemory("owner")
    assert memory.where is not None
    yield memory
    share_arrays(None)
    context.allocate_by(None)


@pytest.fixture
def reader(owner: SharedMemory) -> SharedMemory:
    memory = SharedMemory("reader-1")
    assert memory.opens(owner.where)
    return memory


def put(memory: SharedMemory, value: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], bytes]:
    view = memory.put(value)
    assert view is not None
    return view, memory.refs([view]) or b""


def attach(memory: SharedMemory, ref: bytes) -> np.ndarray[Any, Any]:
    (view,) = memory.attach(ref)
    return view


def slots_of(memory: SharedMemory) -> int:
    assert memory._own is not None
    return len(memory._own.slots.all)


@pytest.mark.parametrize(
    "value",
    [
        np.arange(N, dtype=np.uint8),
        np.arange(N, dtype=">f8").reshape(64, -1),
        np.asfortranarray(np.arange(N, dtype=np.int32).reshape(128, -1)),
        np.arange(4 * N, dtype=np.int16)[::2],
        np.arange(N).astype("M8[s]"),
        np.ones((2, N), bool)[1],
    ],
    ids=["plain", "big-endian", "fortran", "strided", "times", "row"],
)
def test_an_item_reads_the_same_at_the_other_end(
    owner: SharedMemory, reader: SharedMemory, value: np.ndarray[Any, Any]
) -> None:
    share_arrays(owner.put, SHARED_MIN)
    encoded = encode_item({"x": value, "n": 1})
    refs = owner.refs(encoded.buffers)
    assert refs is not None
    found = decode_item(Encoded(encoded.head, tuple(reader.attach(refs)), True))
    np.testing.assert_array_equal(found["x"], value)
    assert found["x"].dtype == value.dtype.newbyteorder("<")
    assert not found["x"].flags.writeable


def test_what_is_sent_may_be_changed_by_who_has_made_it(owner: SharedMemory) -> None:
    value = np.zeros(N, np.uint8)
    view, _ = put(owner, value)
    value[:] = 1
    assert not any(view)


def test_views_of_old_items_never_change(owner: SharedMemory, reader: SharedMemory) -> None:
    kept = []
    for number in range(20):
        view, ref = put(owner, np.full(N, number, np.uint8))
        seen = attach(reader, ref)
        if number % 5 == 0:
            kept.append((number, seen[100:200].reshape(10, 10)))
        del view, seen
    assert all((seen == number).all() for number, seen in kept)
    assert slots_of(owner) == len(kept) + 2  # a view that has ended is heard of with the next one
    reader.look(0.0)
    owner.look(0.0)
    assert owner.holders() == {"reader-1": len(kept) * N}
    kept.clear()
    reader.look(0.0)
    owner.look(0.0)
    assert owner.holders() == {}


def test_what_comes_too_late_is_gone(owner: SharedMemory, reader: SharedMemory) -> None:
    view, ref = put(owner, np.zeros(N, np.uint8))
    del view
    owner.look(0.0)
    with pytest.raises(ProtocolError, match="written anew"):
        reader.attach(ref)


def test_who_hands_on_what_it_has_passes_the_reference_on(owner: SharedMemory, reader: SharedMemory) -> None:
    last = SharedMemory("last")
    assert reader.where is not None
    view, ref = put(owner, np.arange(2 * N, dtype=np.uint8))
    part = attach(reader, ref)[N:]
    del view
    owner.look(0.0)
    _, handed_on = put(reader, part)
    assert slots_of(reader) == 0
    seen = attach(last, handed_on)  # it has not heard of the owner before
    np.testing.assert_array_equal(seen, part)


def test_an_array_made_in_shared_memory_is_not_copied(owner: SharedMemory) -> None:
    context.allocate_by(owner.empty)
    share_arrays(owner.put, SHARED_MIN)
    array = context.empty((2, N), np.uint8)
    array[:] = 5
    (buffer,) = encode_item(array).buffers
    assert owner.refs([buffer]) is not None
    assert slots_of(owner) == 1
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 6
    assert context.empty(3).shape == (3,)  # too small to share
    assert context.empty((N,), object).dtype == object
    assert slots_of(owner) == 1


def test_arrays_may_be_asked_for_while_another_thread_looks_after_the_memory(owner: SharedMemory) -> None:
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            owner.look(0.0)

    other = threading.Thread(target=look)
    other.start()
    for _ in range(2000):
        one, two = owner.empty(N), owner.empty(N)
        assert one is not None and two is not None
        one[:], two[:] = 1, 2
        assert (one[0], two[0]) == (1, 2)
        del one, two
    over.set()
    other.join()
    assert owner.full == 0
    owner.look(0.0)
    assert slots_of(owner) <= 4  # each was free again before the next


def test_a_copy_of_the_process_gets_no_array_of_the_pool(owner: SharedMemory) -> None:
    context.allocate_by(owner.empty)
    pid = os.fork()
    if pid == 0:
        os._exit(context.empty(N, np.uint8).base is not None)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert context.empty(N, np.uint8).base is not None


def test_without_room_arrays_stay_where_they_are(reader: SharedMemory) -> None:
    memory = SharedMemory("small", limit=4 * N)
    assert memory.where is not None
    share_arrays(memory.put, SHARED_MIN)
    items = [encode_item(np.full(N, k, np.uint8)) for k in range(6)]
    shared = [memory.refs(item.buffers) is not None for item in items]
    assert shared == [True] * 4 + [False] * 2
    assert memory.full == 2
    assert [int(decode_item(item)[0]) for item in items] == list(range(6))
    assert memory.refs([*items[0].buffers, *items[5].buffers]) is None  # a message refers to all, or to none


@pytest.mark.parametrize("where", [None, [], [1, 2], [os.getpid(), 0, b"x" * 16], [2**40, 1, b""], ["1", 2, b""]])
def test_who_cannot_prove_it_shares_nothing(where: object) -> None:
    assert not SharedMemory("reader").opens(where)


def test_another_pool_than_the_one_that_was_named_is_not_opened(owner: SharedMemory) -> None:
    assert owner.where is not None
    pid, fd, _ = owner.where
    assert not SharedMemory("reader").opens([pid, fd, b"y" * 16])


@given(st.data())
def test_a_reference_of_nonsense_is_refused(data: st.DataObject) -> None:
    owner, reader = SharedMemory("owner"), SharedMemory("reader")
    assert reader.opens(owner.where)
    _, ref = put(owner, np.zeros(N, np.uint8))
    fields = [*_HANDLE.unpack_from(ref), *_PLACE.unpack_from(ref, _HANDLE.size)]
    at = data.draw(st.integers(0, len(fields) - 1))
    bits = 32 if 1 <= at <= 3 else 64
    number = data.draw(st.integers(0, 2**bits - 1).filter(lambda value: value != fields[at]))
    fields[at] = b"z" * 16 if at == 0 else number
    try:
        view = attach(reader, _HANDLE.pack(*fields[:3]) + _PLACE.pack(*fields[3:]))
    except ProtocolError:
        return
    assert at in (1, 2) or len(view) <= 16 * 2**20  # who opens a known pool need not look where it is
    with pytest.raises(ProtocolError):
        reader.attach(ref[:-1])


def test_what_a_dead_reader_had_is_free(owner: SharedMemory) -> None:
    assert owner.where is not None
    pid, fd, token = owner.where
    view, ref = put(owner, np.ones(N, np.uint8))
    argv = (sys.executable, "-c", READER, str(pid), str(fd), token.hex(), ref.hex())
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as dies:
        assert dies.stdout is not None
        assert int(dies.stdout.readline()) == N
        del view
        owner.look(0.0)
        assert owner.holders() == {"dies": N}
        dies.kill()
        dies.wait()
    owner.look(2 * LOOK_S)
    assert owner.holders() == {}


def test_the_memory_of_a_dead_owner_lives_as_long_as_its_views() -> None:
    before = len(os.listdir("/proc/self/fd"))
    reader, last = SharedMemory("reader"), SharedMemory("last")
    with subprocess.Popen(
        (sys.executable, "-c", OWNER), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as dies:
        assert dies.stdout is not None
        pid, fd, token, ref = dies.stdout.readline().split()
        assert reader.opens([int(pid), int(fd), bytes.fromhex(token)])
        seen = attach(reader, bytes.fromhex(ref))
        dies.kill()
        dies.wait()
    reader.look(LOOK_S)
    assert (seen == 7).all()
    _, handed_on = put(reader, seen)
    assert set(attach(last, handed_on)) == {7}
    del seen, _
    for memory in (reader, last):
        memory.look(3 * LOOK_S)
        assert not memory._others
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_fork_of_a_reader_ends_no_view(owner: SharedMemory, reader: SharedMemory, tmp_path: Path) -> None:
    view, ref = put(owner, np.ones(N, np.uint8))
    seen = attach(reader, ref)
    child = os.fork()
    if child == 0:
        del seen, view
        reader.look(9.0)
        owner.look(9.0)
        os._exit(0)
    os.waitpid(child, 0)
    del view
    owner.look(0.0)
    assert owner.holders() == {"reader-1": N}
    assert seen.all()
