"""Writing large results, into files of results that nobody needs any more where there are some.

Fresh pages of shared memory cost more than the bytes that go into them. So a released result is not
removed but set free: its file, a segment, moves to the directory `free` beside that of the objects. The
next result of about its size is written into it, once nobody has it mapped and no other worker has a
link to it, and moves back. An executor keeps the maps of segments that it wrote, since mapping the pages
anew costs as much again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from cascade_dist.codec.values import Packed
from cascade_worker.executor.copying import copy
from cascade_worker.executor.files import is_named, reserve

__all__ = [
    "BOUNDS",
    "FREE",
    "SEGMENT_BYTES_MIN",
    "ObjectWriter",
    "claim",
    "fit",
    "free_name",
    "free_size",
    "lock_alone",
    "remove_file",
]

FREE = "free"
"""The directory of free segments, beside those of the objects."""
BOUNDS = ("--object-memory", "--spill-max")
"""The flags that bound the first and the second object directory."""
SEGMENT_BYTES_MIN = 1 << 18
"""Smaller files are not worth keeping: making one anew costs as much."""

_CANDIDATES_MAX = 8
_VECTORS_MAX = 512
_MAP_STEP = 1 << 20
"""Maps are multiples of this, so that a value that is a little larger than the last needs no new one."""
_KEPT_MAX = 8
_KEPT_BYTES_MAX = 1 << 28
_POPULATE_WRITE = 23
"""Linux's MADV_POPULATE_WRITE, for which Python has no name: maps all pages at once."""

_Inode = tuple[int, int]


def free_name(attempt: int, size: int) -> str:
    """How a free segment is called."""
    return f"{size:x}-{attempt:x}"


def free_size(name: str) -> int:
    """The size that a free segment's name tells; 0 when it is none."""
    return _parts(name)[0]


def _parts(name: str) -> tuple[int, int]:
    """Size and attempt in a free segment's name; zeros when it is none."""
    size, _, attempt = name.partition("-")
    try:
        return int(size, 16), int(attempt, 16)
    except ValueError:
        return 0, 0


def lock_alone(fd: int, path: str) -> bool:
    """Locks a free segment; False when it is mapped, linked by another worker, or claimed by somebody."""
    if os.fstat(fd).st_nlink != 1:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return is_named(fd, path, links=1)


def remove_file(path: str) -> None:
    """Removes a file with its pages, of which executors may keep maps; who reads it keeps them.

    A free segment that somebody has just claimed is left to them.
    """
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if lock_alone(fd, path):
                os.ftruncate(fd, 0)
            else:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # fails when it is being written
            if is_named(fd, path):
                os.unlink(path)
        finally:
            os.close(fd)


class ObjectWriter:
    """Writes results for one executor."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Inode, mmap.mmap] = OrderedDict()
        """Maps of segments that were written here."""
        self._kept_bytes = 0

    def write(self, directory: str, name: str, packed: Packed) -> str:
        """Writes a payload into a file of a directory, copying its buffers once; returns the path.

        Nothing half written is left. Free segments go when there is no room otherwise.

        Raises:
            OSError: there is no room, or the directory is not there.
        """
        try:
            return self._write(directory, name, packed)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not _drop_free(directory):
                raise
        return self._write(directory, name, packed)

    def _write(self, directory: str, name: str, packed: Packed) -> str:
        target = os.path.join(directory, name)
        claimed = claim(directory, packed.size)
        path = target
        if claimed is None:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        else:
            fd, path = claimed
        try:
            fit(fd, packed.size)
            if claimed is None:
                _write_all(fd, packed)
            else:
                _fill(self._map(fd, packed.size), packed)
                os.rename(path, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
        finally:
            if claimed is not None:  # the map that is kept would keep the lock
                fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)
        return target

    def _map(self, fd: int, size: int) -> mmap.mmap:
        """The segment, mapped for writing; the maps that were used last are kept."""
        found = os.fstat(fd)
        inode = (found.st_dev, found.st_ino)
        made = self._kept.pop(inode, None)
        if made is not None and len(made) < size:
            self._drop(made)
            made = None
        if made is None:
            made = _map_with_room(fd, size)
            self._kept_bytes += len(made)
        self._kept[inode] = made
        while len(self._kept) > _KEPT_MAX or (self._kept_bytes > _KEPT_BYTES_MAX and len(self._kept) > 1):
            self._drop(self._kept.popitem(last=False)[1])
        return made

    def _drop(self, mapped: mmap.mmap) -> None:
        self._kept_bytes -= len(mapped)
        mapped.close()


def _map_with_room(fd: int, size: int) -> mmap.mmap:
    """A map of a file, in which that may grow a little; nothing behind the file's end is touched."""
    room = -size % _MAP_STEP
    os.ftruncate(fd, size + room)  # a hole, for a moment: Python maps no more than there is
    try:
        made = mmap.mmap(fd, size + room)
    finally:
        os.ftruncate(fd, size)
    with contextlib.suppress(OSError, AttributeError):  # elsewhere each page is a fault
        made.madvise(_POPULATE_WRITE, 0, size)
    return made


def fit(fd: int, size: int) -> None:
    """Gives the file its size, with all its pages."""
    found = os.fstat(fd)
    if found.st_size > size:
        os.ftruncate(fd, size)
    elif found.st_blocks * 512 < found.st_size:
        reserve(fd, size)
    elif found.st_size < size:
        reserve(fd, size, found.st_size)  # the pages before are there: looking at each would take long


def _fill(mapped: mmap.mmap, packed: Packed) -> None:
    at = 0
    with memoryview(mapped) as view:
        for buffer in packed.buffers():
            end = at + len(buffer)
            copy(view[at:end], buffer)
            at = end


def _write_all(fd: int, packed: Packed) -> None:
    """Writes a new file, not through a map: each of its pages would be a fault."""
    at = 0
    batch: list[Any] = []
    for buffer in packed.buffers():
        batch.append(buffer)
        if len(batch) == _VECTORS_MAX:
            at = _write_batch(fd, batch, at)
            batch = []
    if batch:
        _write_batch(fd, batch, at)


def _write_batch(fd: int, batch: list[Any], at: int) -> int:
    """Writes buffers one after the other; returns where the last one ends."""
    views = [memoryview(buffer) for buffer in batch]
    while views:
        written = os.pwritev(fd, views, at)
        at += written
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]
    return at


def claim(directory: str, size: int) -> tuple[int, str] | None:
    """A free segment of about this size that nobody has mapped; None when there is none.

    Its descriptor, locked for writing, and its path. The directory is one beside that of free segments.
    """
    if size < SEGMENT_BYTES_MIN:
        return None
    free = os.path.join(os.path.dirname(directory), FREE)
    for name in _candidates(free, size):
        path = os.path.join(free, name)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        if lock_alone(fd, path):
            return fd, path
        os.close(fd)
    return None


def _drop_free(directory: str) -> bool:
    """Removes all free segments; False when there are none."""
    free = os.path.join(os.path.dirname(directory), FREE)
    try:
        found = os.listdir(free)
    except FileNotFoundError:
        return False
    for name in found:
        remove_file(os.path.join(free, name))
    return bool(found)


def _candidates(free: str, size: int) -> Iterator[str]:
    """Names of segments between half and twice the size, the last released first: caches have its bytes."""
    try:
        found = os.listdir(free)
    except FileNotFoundError:
        return
    near = []
    for name in found:
        has, attempt = _parts(name)
        if size <= 2 * has <= 4 * size:
            near.append((abs(has - size) > size >> 3, -attempt, name))
    near.sort()
    for _, _, name in near[:_CANDIDATES_MAX]:
        yield name
