"""Memory that workers of one host share: large arrays stay in it, and only references to them travel.

Each worker that sends has a pool, an anonymous file that goes with the last process that knows it.  A peer that can
open it through /proc and finds its token there shares memory with it: that is the proof.  A worker holds a lock on
each pool that it uses, which the system drops when the worker dies: that is the proof of a death.  Who hands on what
it has from another passes on the reference, and lets others open that pool through itself.
Knows memory; which slot is free is for `core.slots` to say.  Who uses it takes turns; but a stage's code may ask for
an array at any time, and views may end in any thread.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import struct
import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from zpipe.core.slots import Control, Reader, Slot, Slots
from zpipe.values.errors import ProtocolError

if TYPE_CHECKING:
    import numpy as np

SHARED_MIN = 16 * 1024  # bytes from which on an array is shared: below, to copy it costs less
POOL_MAX = 2**30  # bytes of one pool
SLOTS, READERS = 1024, 64
NAME_MAX = 64  # bytes of a reader's name
ARENA_MIN = 16 * 2**20  # bytes; a further one is as large as all before it
LOOK_S = 1.0  # how often it is looked whether those who hold something live

_MAGIC = b"ZPIMEM1\0"
_HEAD = struct.Struct("<8s16s")
_NAMES_AT = 4096
_GENS_AT = _NAMES_AT + READERS * NAME_MAX
_CELLS_AT = _GENS_AT + 8 * SLOTS
_CONTROL = _CELLS_AT + 4 * SLOTS * READERS
_OWNER = READERS  # the byte that an owner has locked; those below it are readers'
#                    token pid fd slot gen arena size start length
_REF = struct.Struct("<16sIIIQQQQQ")
_LOCK = struct.Struct("hhqqi4x")  # struct flock of Linux on 64 bits
_ROW = 4 * READERS
_UNREAD = bytes(_ROW)


class _Control(Control):
    """The first pages of a pool."""

    def __init__(self, pages: mmap.mmap) -> None:
        view = memoryview(pages)
        super().__init__(view[_GENS_AT:_CELLS_AT].cast("Q"), view[_CELLS_AT:_CONTROL].cast("I"), READERS)
        self.names = view[_NAMES_AT:_GENS_AT]
        self._cells = view[_CELLS_AT:_CONTROL]
        self._lock = threading.Lock()

    def fence(self) -> None:
        """Let what was written be seen before anything is read: to take a lock is a fence."""
        with self._lock:
            pass

    def is_read(self, slot: int) -> bool:
        """Tell whether a reader has a view of a slot."""
        return self._cells[slot * _ROW : (slot + 1) * _ROW] != _UNREAD


class _Pool:
    """What owner and readers have in common: the file, and those of its arenas that are mapped."""

    def __init__(self, fd: int, token: bytes, prot: int) -> None:
        self.fd = fd
        self.token = token
        self.control = _Control(mmap.mmap(fd, _CONTROL))
        self.leases = 0  # of this process
        self._prot = prot
        self._arenas: dict[int, mmap.mmap] = {}  # by where they begin

    def root(self, arena: int, size: int, start: int, nbytes: int) -> np.ndarray[Any, Any]:
        """Return an array over a stretch; it lives as long as any view of it.  Raises OSError and ValueError."""
        import numpy as np

        pages = self._arenas.get(arena)
        if pages is None:
            pages = self._arenas[arena] = mmap.mmap(self.fd, size, prot=self._prot, offset=arena)
        return np.frombuffer(pages, np.uint8, nbytes, start - arena)

    def close(self) -> None:
        """Give the file back; what is mapped goes with the last view of it."""
        os.close(self.fd)
        self._arenas.clear()


class _Own(_Pool):
    """The pool of this worker.  Raises OSError."""

    def __init__(self, limit: int) -> None:
        fd = os.memfd_create("zpipe", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        token = secrets.token_bytes(16)
        os.pwrite(fd, _HEAD.pack(_MAGIC, token), 0)
        os.ftruncate(fd, _CONTROL)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)  # no reader is ever cut off from its pages
        _lock(fd, _OWNER)
        super().__init__(fd, token, mmap.PROT_READ | mmap.PROT_WRITE)
        self.slots = Slots(self.control, SLOTS, self._carve)
        self._limit = limit
        self._arena_of: dict[int, tuple[int, int]] = {}  # by where a slot starts: its arena, and that one's size
        self._begin = self._free = self._end = _CONTROL  # of the last arena

    def _carve(self, size: int) -> int | None:
        if self.slots.nbytes + size > self._limit:
            return None
        try:
            if self._free + size > self._end:
                end = self._end + max(size, ARENA_MIN, self._end)
                os.ftruncate(self.fd, end)
                self._begin, self._free, self._end = self._end, self._end, end
            os.posix_fallocate(self.fd, self._free, size)  # now: to find out by writing would end this process
        except OSError:
            return None
        start, self._free = self._free, self._free + size
        self._arena_of[start] = (self._begin, self._end - self._begin)
        return start

    def arena_of(self, slot: Slot) -> tuple[int, int]:
        """Return where the arena of a slot begins, and its size."""
        return self._arena_of[slot.start]


class _Other(_Pool):
    """The pool of another worker, opened through whoever named it.  Raises OSError."""

    def __init__(self, pid: int, fd: int, token: bytes, name: str) -> None:
        path = f"/proc/{pid}/fd/{fd}"
        if not os.readlink(path).startswith("/memfd:zpipe"):
            raise OSError(f"{path} is no pool")
        own = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            sealed = fcntl.fcntl(own, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
            if not sealed or os.pread(own, _HEAD.size, 0) != _HEAD.pack(_MAGIC, token):
                raise OSError(f"{path} is another pool")
            number = next((number for number in range(READERS) if _lock(own, number)), None)
            if number is None:
                raise OSError(f"{path} has {READERS} readers")
            super().__init__(own, token, mmap.PROT_READ)
        except BaseException:
            os.close(own)
            raise
        at = number * NAME_MAX
        self.control.cells[number::READERS] = memoryview(bytes(4 * SLOTS)).cast("I")  # whose place it was is dead
        self.control.names[at : at + NAME_MAX] = name.encode()[:NAME_MAX].ljust(NAME_MAX, b"\0")
        self.reader = Reader(self.control, number)

    @property
    def is_orphaned(self) -> bool:
        """Tell whether its owner is dead."""
        return _is_free(self.fd, _OWNER)


class _Lease(weakref.ref["np.ndarray[Any, Any]"]):
    """A root that lives, and the slot below it."""

    __slots__ = ("arena", "gen", "index", "key", "pool", "size", "slot", "start")

    pool: _Pool
    slot: Slot | None  # of a pool of one's own
    key: int
    index: int
    gen: int
    arena: int
    size: int
    start: int


class SharedMemory:
    """All pools of one worker; `name` is the worker's, for who wants to know who holds what."""

    def __init__(self, name: str, limit: int = POOL_MAX) -> None:
        self.name = name
        self.full = 0  # arrays that found no room
        self._limit = limit
        self._own: _Own | None = None
        self._others: dict[bytes, _Other] = {}
        self._leases: dict[int, _Lease] = {}  # by the id of the root
        self._ended: deque[_Lease] = deque()
        self._looked_s = 0.0
        self._pid = os.getpid()
        self._lock = threading.RLock()  # between who asks for an array and who has the turn

    @property
    def where(self) -> list[Any] | None:
        """Return what others open the pool by: process, descriptor, token; None where there is no such thing."""
        if self._own is None:
            try:
                self._own = _Own(self._limit)
            except (OSError, AttributeError):
                return None
        return [self._pid, self._own.fd, self._own.token]

    def opens(self, where: object) -> bool:
        """Tell whether memory is shared with who says this of itself."""
        if not isinstance(where, list) or [type(value) for value in where] != [int, int, bytes]:
            return False
        pid, fd, token = where
        return token in self._others or self._open(pid, fd, token) is not None

    def _open(self, pid: int, fd: int, token: bytes) -> _Other | None:
        try:
            pool = _Other(pid, fd, token, self.name)
        except (OSError, ValueError, OverflowError):
            return None
        self._others[token] = pool
        return pool

    # -- out ----------------------------------------------------------------------------------------

    def empty(self, nbytes: int) -> np.ndarray[Any, Any] | None:
        """Return uint8 (nbytes,) to be written in the own pool; None without room, or where to copy costs less.

        None also in a copy of the process that a fork made: it knows nothing of the slots that are used from then on.
        """
        own = self._own
        if own is None or nbytes < SHARED_MIN or os.getpid() != self._pid:
            return None
        with self._lock:
            self._end()
            slot = own.slots.take(nbytes)
            if slot is None:
                self.full += 1
                return None
            arena, size = own.arena_of(slot)
            root = own.root(arena, size, slot.start, nbytes)
            self._lease(root, own, slot, (slot.index, slot.gen, arena, size, slot.start))
        return root

    def put(self, value: np.ndarray[Any, Any]) -> memoryview | None:
        """Return the bytes of an array, little-endian and in C order, in shared memory; None without room.

        They are copied but for those that are there already, which nobody may write to from now on.
        """
        import numpy as np

        little = value.dtype.newbyteorder("<")
        root = root_of(value.base)
        if root is not None and id(root) in self._leases and value.flags.c_contiguous and value.dtype == little:
            value.flags.writeable = root.flags.writeable = False
            return value.reshape(-1).view(np.uint8).data.toreadonly()
        root = self.empty(value.nbytes)
        if root is None:
            return None
        np.copyto(root.view(little).reshape(value.shape), value)
        root.flags.writeable = False
        return root.data

    def refs(self, buffers: Sequence[Any]) -> list[bytes] | None:
        """Return the references that stand for these buffers, None when not all of them are shared."""
        found = []
        for buffer in buffers:
            root = root_of(buffer)
            lease = None if root is None else self._leases.get(id(root))
            if lease is None:
                return None
            ahead = 0 if buffer.obj is root else _address(buffer) - _address(root.data)  # type: ignore[union-attr]
            found.append(
                _REF.pack(
                    lease.pool.token, self._pid, lease.pool.fd, lease.index, lease.gen, lease.arena, lease.size,
                    lease.start + ahead, len(buffer),
                )
            )  # fmt: skip
        return found

    # -- in -----------------------------------------------------------------------------------------

    def attach(self, ref: Any) -> memoryview:
        """Return the bytes that a reference stands for, read-only.  Raises ProtocolError.

        A reference that comes too late, over a link that is no more, finds something else there: it is refused too.
        """
        if len(ref) != _REF.size:
            raise ProtocolError(f"reference of {len(ref)} bytes to shared memory: {_REF.size} are right")
        with self._lock:
            self._end()
            return self._attach(ref)

    def _attach(self, ref: Any) -> memoryview:
        token, pid, fd, index, gen, arena, size, start, nbytes = _REF.unpack(ref)
        pool = self._others.get(token) or self._open(pid, fd, token)
        if pool is None:
            raise ProtocolError("reference to memory that is not shared with this process")
        if index >= SLOTS or not _CONTROL <= arena <= start or start + nbytes > arena + size or not nbytes:
            raise ProtocolError("reference to shared memory outside of where arrays are")
        if not pool.reader.attach(index, gen):
            raise ProtocolError("reference to shared memory that was written anew")
        try:
            root = pool.root(arena, size, start, nbytes)
        except (OSError, ValueError, OverflowError) as error:
            pool.reader.detach(index)
            raise ProtocolError(f"reference to shared memory that cannot be mapped: {error}") from None
        self._lease(root, pool, None, (index, gen, arena, size, start))
        return root.data

    # -- ends ---------------------------------------------------------------------------------------

    def _lease(
        self, root: np.ndarray[Any, Any], pool: _Pool, slot: Slot | None, place: tuple[int, int, int, int, int]
    ) -> None:  # fmt: skip
        lease = _Lease(root, self._over)
        lease.pool, lease.slot, lease.key = pool, slot, id(root)
        lease.index, lease.gen, lease.arena, lease.size, lease.start = place
        pool.leases += 1
        self._leases[lease.key] = lease

    def _over(self, lease: Any) -> None:
        """The last view has ended, in whatever thread: what follows is done in the one that owns this."""
        self._leases.pop(lease.key, None)
        self._ended.append(lease)

    def _end(self) -> None:
        while self._ended:
            lease = self._ended.popleft()
            pool = lease.pool
            pool.leases -= 1
            if os.getpid() != self._pid:
                continue  # a copy of the process that a fork made: the views are not its
            if isinstance(pool, _Other):
                pool.reader.detach(lease.index)
            elif isinstance(pool, _Own) and lease.slot is not None:
                pool.slots.drop(lease.slot)

    def look(self, now_s: float) -> None:
        """End what has ended, and now and then look who is dead.  Call often, also when there is nothing to do."""
        with self._lock:
            self._end()
            if now_s - self._looked_s >= LOOK_S:
                self._looked_s = now_s
                self._look()

    def _look(self) -> None:
        own = self._own
        if own is not None and own.slots.held:
            for reader in own.slots.held_by():
                if _is_free(own.fd, reader):
                    own.slots.forget(reader)
            own.slots.sweep()
        for token, pool in list(self._others.items()):
            if not pool.leases and pool.is_orphaned:
                del self._others[token]
                pool.close()

    @property
    def nbytes(self) -> int:
        """Return the bytes of the own pool that were ever used; in any thread."""
        return self._own.slots.nbytes if self._own is not None else 0

    def holders(self) -> Mapping[str, int]:
        """Return who keeps views of what everybody else has done with, and how many bytes."""
        own = self._own
        if own is None:
            return {}
        found = {}
        for reader, nbytes in own.slots.held_by().items():
            name = bytes(own.control.names[reader * NAME_MAX : (reader + 1) * NAME_MAX]).rstrip(b"\0")
            found[name.decode("utf-8", "replace")] = nbytes
        return found


def root_of(value: Any) -> np.ndarray[Any, Any] | None:
    """Return the array that owns the bytes of an array or a memoryview of one, None for anything else."""
    import numpy as np

    found = None
    while True:
        if isinstance(value, memoryview):
            value = value.obj
        elif isinstance(value, np.ndarray):
            found, value = value, value.base
        else:
            return found


def _address(view: memoryview) -> int:
    import numpy as np

    return int(np.frombuffer(view, np.uint8).__array_interface__["data"][0])


def _lock(fd: int, byte: int) -> bool:
    """Lock a byte of a file as long as this opening of it lives; False where another has."""
    with suppress(BlockingIOError):
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
        return True
    return False


def _is_free(fd: int, byte: int) -> bool:
    """Tell whether nobody else has locked a byte."""
    asked = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    return bool(_LOCK.unpack(asked)[0] == fcntl.F_UNLCK)
