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
TOKEN = 16  # bytes
ARENA_MIN = 16 * 2**20  # bytes; a further one is as large as all before it
LOOK_S = 1.0  # how often it is looked whether those who hold something live

_MAGIC = b"ZPIMEM1\0"
_HEAD = struct.Struct("<8s16s")
_NAMES_AT = 4096
_GENS_AT = _NAMES_AT + READERS * NAME_MAX
_CELLS_AT = _GENS_AT + 8 * SLOTS
_CONTROL = _CELLS_AT + 4 * SLOTS * READERS
_OWNER = READERS  # the byte that an owner has locked; those below it are readers'
_HANDLE = struct.Struct("<16sII")  # token pid fd
_PLACE = struct.Struct("<IQQQQQ")  # slot gen arena size start length
_REF = _HANDLE.size + _PLACE.size
_LOCK = struct.Struct("hhqqi4x")  # struct flock of Linux on 64 bits
_ROW = 4 * READERS
_UNREAD = bytes(_ROW)


class _Control(Control):
    """The first pages of a pool."""

    def __init__(self, pages: mmap.mmap) -> None:
        view = memoryview(pages)
        super().__init__(view[_GENS_AT:_CELLS_AT].cast("Q"), view[_CELLS_AT:_CONTROL].cast("I"), READERS)
        self.names = view[_NAMES_AT:_GENS_AT]
        self._pages = pages
        self._lock = threading.Lock()

    def fence(self) -> None:
        """Let what was written be seen before anything is read: to take a lock is a fence."""
        with self._lock:
            pass

    def is_read(self, slot: int) -> bool:
        """Tell whether a reader has a view of a slot."""
        at = _CELLS_AT + slot * _ROW
        return self._pages[at : at + _ROW] != _UNREAD


class _Pool:
    """What owner and readers have in common: the file, and those of its arenas that are mapped."""

    def __init__(self, fd: int, token: bytes, prot: int) -> None:
        self.fd = fd
        self.token = token
        self.handle = _HANDLE.pack(token, os.getpid(), fd)  # what others open it by
        self.control = _Control(mmap.mmap(fd, _CONTROL))
        self.leases = 0  # of this process
        self._prot = prot
        self._arenas: dict[int, mmap.mmap] = {}  # by where they begin
        self._array: Any = None  # numpy's, loaded with the first

    def root(self, arena: int, size: int, start: int, nbytes: int) -> np.ndarray[Any, Any]:
        """Return uint8 (nbytes,) over a stretch; it lives as long as any view of it.  Raises OSError and ValueError."""
        pages = self._arenas.get(arena)
        if pages is None:
            import numpy as np

            self._array = np.ndarray
            pages = self._arenas[arena] = mmap.mmap(self.fd, size, prot=self._prot, offset=arena)
        found: np.ndarray[Any, Any] = self._array((nbytes,), "u1", pages, start - arena)
        return found

    def close(self) -> None:
        """Give the file back; what is mapped goes with the last view of it."""
        os.close(self.fd)
        self._arenas.clear()


class _Own(_Pool):
    """The pool of this worker.  Raises OSError."""

    def __init__(self, limit: int) -> None:
        fd = os.memfd_create("zpipe", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        token = secrets.token_bytes(TOKEN)
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
    """A root that lives, and what it is of: the slot of a pool, and where in it."""

    __slots__ = ("index", "key", "place", "pool", "slot")

    pool: Any
    slot: Slot | None  # of a pool of one's own
    key: int
    index: int
    place: bytes

    @property
    def ref(self) -> bytes:
        """Return the reference to all of it."""
        return bytes(self.pool.handle + self.place)

    def ref_of(self, ahead: int, nbytes: int) -> bytes:
        """Return the reference to a part of it."""
        index, gen, arena, size, start, _ = _PLACE.unpack(self.place)
        return bytes(self.pool.handle + _PLACE.pack(index, gen, arena, size, start + ahead, nbytes))


class _Forks:
    """How often this process, or those that it is a copy of, forked: to ask the system who one is takes longer."""

    def __init__(self) -> None:
        self.count = 0
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self.count += 1


_forks = _Forks()


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
        self._forks = _forks.count
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
        if own is None or nbytes < SHARED_MIN or _forks.count != self._forks:
            return None
        with self._lock:
            if self._ended:
                self._end()
            slot = own.slots.take(nbytes)
            if slot is None:
                self.full += 1
                return None
            arena, size = own.arena_of(slot)
            root = own.root(arena, size, slot.start, nbytes)
            self._lease(root, own, slot, slot.index, _PLACE.pack(slot.index, slot.gen, arena, size, slot.start, nbytes))
        return root

    def put(self, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
        """Return uint8 (nbytes,), an array's bytes, little-endian and in C order, in shared memory; None without room.

        They are copied but for those that are there already, which nobody may write to from now on.
        """
        import numpy as np

        root: Any = value.base
        lease = self._leases.get(id(root))
        if lease is None:
            root = root_of(value)
            lease = self._leases.get(id(root))
        little = value.dtype if value.dtype.byteorder in "|<" else value.dtype.newbyteorder("<")
        if lease is not None and value.flags.c_contiguous and value.dtype == little:
            value.flags.writeable = root.flags.writeable = False
            whole: np.ndarray[Any, Any] = root
            if value.nbytes == len(whole):
                return whole
            return np.ndarray((value.nbytes,), np.uint8, whole, _address(value) - _address(whole))
        copy = self.empty(value.nbytes)
        if copy is not None:
            np.copyto(np.ndarray(value.shape, little, copy), value)
            copy.flags.writeable = False
        return copy

    def refs(self, buffers: Sequence[Any]) -> bytes | None:
        """Return the references that stand for these buffers, None when not all of them are shared."""
        found = []
        for buffer in buffers:
            lease = self._leases.get(id(buffer))
            if lease is not None:
                found.append(lease.ref)
                continue
            root = root_of(buffer)
            lease = self._leases.get(id(root))
            if lease is None or root is None:
                return None
            found.append(lease.ref_of(_address(buffer) - _address(root), len(buffer)))
        return b"".join(found)

    # -- in -----------------------------------------------------------------------------------------

    def attach(self, refs: Any) -> list[np.ndarray[Any, Any]]:
        """Return uint8 (nbytes,), read-only, for each of the references.  Raises ProtocolError.

        References that come too late, over a link that is no more, find something else there: they are refused too.
        """
        if len(refs) % _REF:
            raise ProtocolError(f"references of {len(refs)} bytes to shared memory: each takes {_REF}")
        with self._lock:
            if self._ended:
                self._end()
            return [self._attach(bytes(refs[at : at + _REF])) for at in range(0, len(refs), _REF)]

    def _attach(self, ref: bytes) -> np.ndarray[Any, Any]:
        pool = self._others.get(ref[:TOKEN])
        if pool is None:
            token, pid, fd = _HANDLE.unpack_from(ref)
            pool = self._open(pid, fd, token)
            if pool is None:
                raise ProtocolError("reference to memory that is not shared with this process")
        place = ref[_HANDLE.size :]
        index, gen, arena, size, start, nbytes = _PLACE.unpack(place)
        if index >= SLOTS or not _CONTROL <= arena <= start or start + nbytes > arena + size or not nbytes:
            raise ProtocolError("reference to shared memory outside of where arrays are")
        if not pool.reader.attach(index, gen):
            raise ProtocolError("reference to shared memory that was written anew")
        try:
            root = pool.root(arena, size, start, nbytes)
        except (OSError, ValueError, OverflowError, TypeError) as error:
            pool.reader.detach(index)
            raise ProtocolError(f"reference to shared memory that cannot be mapped: {error}") from None
        self._lease(root, pool, None, index, place)
        return root

    # -- ends ---------------------------------------------------------------------------------------

    def _lease(
        self, root: np.ndarray[Any, Any], pool: _Pool, slot: Slot | None, index: int, place: bytes
    ) -> None:  # fmt: skip
        lease = _Lease(root, self._over)
        lease.pool, lease.slot, lease.key, lease.index, lease.place = pool, slot, id(root), index, place
        pool.leases += 1
        self._leases[lease.key] = lease

    def _over(self, lease: Any) -> None:
        """The last view has ended, in whatever thread: what follows is done in the one that owns this."""
        self._leases.pop(lease.key, None)
        self._ended.append(lease)

    def _end(self) -> None:
        is_copy = _forks.count != self._forks  # that a fork made: the views are not its
        while self._ended:
            lease = self._ended.popleft()
            pool = lease.pool
            pool.leases -= 1
            if is_copy:
                continue
            if lease.slot is None:
                pool.reader.detach(lease.index)
            else:
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


def _address(buffer: Any) -> int:
    import numpy as np

    return int(np.asarray(buffer).__array_interface__["data"][0])


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
