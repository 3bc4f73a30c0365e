"""Files that the worker keeps: results too large to send, copies of other workers' results, blobs, functions.

Layout, per worker, under the object directory and again under the local directory::

    cascade-<uid>/<worker id>/lock        flocked as long as the worker lives
                              objects/    results made here, by the hex of their attempt
                              copies/     results made elsewhere: links to files of this host, or copies
                              blobs/      by the hex of their CID
                              functions/  by the hex of their CID
                              frames/     task frames too large for a packet
                              free/       files of released results, to be written again

What a worker left behind that was killed is found by its free lock, and removed at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import stat
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path

from cascade_worker.executor.segments import FREE, SEGMENT_BYTES_MIN, free_name, free_size, lock_alone

__all__ = ["Directories", "ObjectStore", "default_object_dir", "keep_house"]

log = logging.getLogger("cascade.worker")

_SHM = Path("/dev/shm")
_SHM_FREE_MIN = 1 << 30
_FREE_MAX = 64
"""Most free segments."""
_FREE_SECONDS = 30.0
"""How long a free segment waits for somebody who needs it."""
_HOUSE_PERIOD = 10.0
_ROOMS = ("objects", "copies", "blobs", "functions", "frames", FREE)


def default_object_dir(local_dir: Path) -> Path:
    """Shared memory when at least 1 GiB is free there, else the local directory."""
    with contextlib.suppress(OSError):
        room = os.statvfs(_SHM)
        if room.f_bavail * room.f_frsize >= _SHM_FREE_MIN and os.access(_SHM, os.W_OK):
            return _SHM
    return local_dir


class Directories:
    """The worker's own directory under one base, locked.

    Raises:
        OSError: it cannot be made; the base is named in the error.
    """

    def __init__(self, base: Path, worker_id: str) -> None:
        home = base / f"cascade-{os.getuid()}"
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = home.lstat()  # a link that somebody else put there is not ours either
        if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
            raise PermissionError(f"{home} belongs to another user; give another --object-dir or --local-dir")
        self.root = home / worker_id
        self.root.mkdir(mode=0o700, exist_ok=True)
        self._lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for room in _ROOMS:
            (self.root / room).mkdir(mode=0o700, exist_ok=True)
        _sweep(home, self.root)

    def room(self, name: str) -> Path:
        """One of the directories in it."""
        return self.root / name

    def remove(self) -> None:
        """Removes everything; the worker is ending."""
        shutil.rmtree(self.root, ignore_errors=True)
        os.close(self._lock)


def _sweep(home: Path, own: Path) -> None:
    """Removes directories whose worker is dead."""
    for path in home.iterdir():
        if path == own:
            continue
        try:
            lock = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # it is being made, or being removed
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
            log.info("removed what a dead worker left in %s", path)
        except OSError:
            pass  # it lives
        finally:
            os.close(lock)


def _segments(free: Path) -> Iterator[tuple[float, int, str]]:
    """Of each free segment: since when it is one, size, path."""
    for entry in os.scandir(free):
        with contextlib.suppress(FileNotFoundError):  # claimed this moment
            yield entry.stat().st_ctime, free_size(entry.name), entry.path


def _remove_free(path: str) -> None:
    with contextlib.suppress(OSError):  # claimed this moment
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if lock_alone(fd, path):
                os.ftruncate(fd, 0)  # its pages go even though executors keep their maps of it
            os.unlink(path)
        finally:
            os.close(fd)


class ObjectStore:
    """What lies where.

    Results made here stay until the scheduler releases them. Copies and blobs are a cache: the least recently
    used go when they are too many, but not while an attempt that needs them is held.

    Args:
        directories: in order of preference; results go to the first that has room.
        cache_bytes_max: most bytes of copies and blobs that nobody needs right now.
        free_bytes_max: most bytes of released results whose files are kept for others.
    """

    def __init__(
        self,
        directories: list[Directories],
        cache_bytes_max: int = 1 << 30,
        free_bytes_max: int = 1 << 28,
    ) -> None:
        self._directories = directories
        self._cache_bytes_max = cache_bytes_max
        self._free_bytes_max = free_bytes_max
        self._made: dict[int, tuple[str, int]] = {}
        """Results made here: path and size by attempt."""
        self._cached: OrderedDict[int | bytes, tuple[str, int]] = OrderedDict()
        """Copies by attempt and blobs by CID."""
        self._cached_bytes = 0
        self._pins: dict[int | bytes, set[int]] = {}
        """Who needs what: attempts by key."""
        self._pinned_by: dict[int, list[int | bytes]] = {}
        self._links: dict[int, tuple[str, int]] = {}
        """Links to files of other workers of this host, as long as attempts here need them."""
        self._released: set[int] = set()
        """Results that were released while they were needed here."""

    @property
    def object_dirs(self) -> tuple[str, ...]:
        """Where executors write large results."""
        return tuple(str(directories.room("objects")) for directories in self._directories)

    def held(self) -> list[int]:
        """Results made here, for Hello."""
        return list(self._made)

    def paths_for(self, key: int | bytes) -> list[str]:
        """Where a copy or blob with this key may go, in order of preference."""
        room, name = ("copies", f"{key:016x}") if isinstance(key, int) else ("blobs", key.hex())
        return [str(directories.room(room) / name) for directories in self._directories]

    def add_made(self, attempt: int, size: int) -> None:
        """An executor has written a result."""
        for directories in self._directories:
            path = directories.room("objects") / f"{attempt:016x}"
            if path.exists():
                self._made[attempt] = (str(path), size)
                return

    def add_cached(self, key: int | bytes, path: str, size: int) -> None:
        """A copy or blob is complete."""
        if key not in self._cached:
            self._cached[key] = (path, size)
            self._cached_bytes += size
        self._evict()

    def find(self, key: int | bytes) -> tuple[str, int] | None:
        """Path and size of an object or blob that is here."""
        if isinstance(key, int) and key in self._made:
            return self._made[key]
        if isinstance(key, int) and key in self._links:
            return self._links[key]
        found = self._cached.get(key)
        if found is not None:
            self._cached.move_to_end(key)
        return found

    def link(self, attempt: int, size: int, maker: str) -> tuple[str, int] | None:
        """Path and size of a result that another worker of this host keeps, under a name of our own.

        None when it is not to be seen here. The link lasts until those who have it pinned need it no more, so
        that its maker can write into the file again.
        """
        if attempt not in self._pins or not maker or os.sep in maker or maker.startswith("."):
            return None
        name = f"{attempt:016x}"
        for directories in self._directories:
            path = str(directories.room("copies") / name)
            with contextlib.suppress(OSError):
                os.link(directories.root.parent / maker / "objects" / name, path)
                if os.stat(path).st_size == size:
                    self._links[attempt] = (path, size)
                    return path, size
                os.unlink(path)
        return None

    def pin(self, key: int | bytes, attempt: int) -> None:
        """An attempt needs it: it stays."""
        self._pins.setdefault(key, set()).add(attempt)
        self._pinned_by.setdefault(attempt, []).append(key)

    def unpin(self, attempts: Iterable[int]) -> None:
        """These attempts need nothing any more."""
        freed = False
        for attempt in attempts:
            for key in self._pinned_by.pop(attempt, ()):
                users = self._pins.get(key)
                if users is None:
                    continue
                users.discard(attempt)
                if not users:
                    del self._pins[key]
                    freed = True
                    if isinstance(key, int):
                        self._let_go(key)
        if freed:
            self._evict()

    def _let_go(self, attempt: int) -> None:
        """No attempt here needs a result any more."""
        if attempt in self._released:
            self._released.discard(attempt)
            self._remove_made(attempt)
        link = self._links.pop(attempt, None)
        if link is not None:
            with contextlib.suppress(OSError):
                os.unlink(link[0])

    def release(self, attempt: int) -> None:
        """Nobody needs a result any more. A copy of it goes as well."""
        if attempt in self._made:
            if attempt in self._pins:
                self._released.add(attempt)
            else:
                self._remove_made(attempt)
        elif attempt in self._cached and attempt not in self._pins:
            self._drop_cached(attempt)

    def discard(self, attempt: int) -> None:
        """What an attempt may have written will never be asked for, complete or not."""
        self._made.pop(attempt, None)
        for directories in self._directories:
            with contextlib.suppress(OSError):
                os.unlink(directories.room("objects") / f"{attempt:016x}")

    def publish(self, attempt: int, cid: bytes) -> None:
        """A result made here is a blob now; the file stays as one."""
        made = self._made.pop(attempt, None)
        if made is None:
            return
        for path in self.paths_for(cid):
            with contextlib.suppress(OSError):  # it lies in another file system
                os.rename(made[0], path)
                self.add_cached(cid, path, made[1])
                return
        with contextlib.suppress(OSError):
            os.unlink(made[0])

    def _remove_made(self, attempt: int) -> None:
        made = self._made.pop(attempt, None)
        if made is not None:
            with contextlib.suppress(OSError):
                self._set_free(attempt, *made)

    # --- free segments ------------------------------------------------------------------------------

    def _set_free(self, attempt: int, path: str, size: int) -> None:
        """Keeps the file for a result to come, if it is worth that and lies where they are written first.

        Where there is one directory it is one of a disk, whose files are not worth keeping.
        """
        first = self._directories[0]
        kept = SEGMENT_BYTES_MIN <= size <= self._free_bytes_max and len(self._directories) > 1
        if not kept or not path.startswith(f"{first.root}/"):
            os.unlink(path)
            return
        self.trim_free(size)
        os.rename(path, first.room(FREE) / free_name(attempt, size))

    def trim_free(self, room: int = 0, older_than: float = 0.0) -> None:
        """Removes free segments until there is room for so many bytes, and those from before a time.

        Args:
            room: bytes.
            older_than: by the clock of files, `time.time()`.
        """
        segments = sorted(_segments(self._directories[0].room(FREE)))
        total = sum(size for _, size, _ in segments) + room
        count = len(segments)
        for since, size, path in segments:
            if total <= self._free_bytes_max and count < _FREE_MAX and since >= older_than:
                return
            _remove_free(path)
            total -= size
            count -= 1

    def _drop_cached(self, key: int | bytes) -> None:
        path, size = self._cached.pop(key)
        self._cached_bytes -= size
        with contextlib.suppress(OSError):
            os.unlink(path)

    def _evict(self) -> None:
        if self._cached_bytes <= self._cache_bytes_max:
            return
        for key in list(self._cached):
            if self._cached_bytes <= self._cache_bytes_max:
                return
            if key not in self._pins:
                self._drop_cached(key)

    def close(self) -> None:
        """Removes all files."""
        for directories in self._directories:
            directories.remove()


async def keep_house(store: ObjectStore) -> None:
    """Gives the memory of segments back that nobody has used for a while. Ends when it is cancelled."""
    while True:
        await asyncio.sleep(_HOUSE_PERIOD)
        store.trim_free(older_than=time.time() - _FREE_SECONDS)
