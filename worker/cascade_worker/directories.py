"""Where a worker keeps its files.

Layout, per worker, under the object directory and again under the local directory::

    cascade-<uid>/                        flocked while a worker starts
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

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from cascade_worker.executor.segments import FREE

__all__ = ["Directories", "default_memory", "default_object_dir"]

log = logging.getLogger("cascade.worker")

_SHM = Path("/dev/shm")
_SHM_FREE_MIN = 1 << 30
_MEMORY_SHARE = 0.3
"""Of the memory that is free at the start; several workers may share a host."""
_START_TRIES, _START_PAUSE = 250, 0.02
_ROOMS = ("objects", "copies", "blobs", "functions", "frames", FREE)


def default_object_dir(local_dir: Path) -> Path:
    """Shared memory when at least 1 GiB is free there, else the local directory."""
    with contextlib.suppress(OSError):
        room = os.statvfs(_SHM)
        if room.f_bavail * room.f_frsize >= _SHM_FREE_MIN and os.access(_SHM, os.W_OK):
            return _SHM
    return local_dir


def default_memory(object_dir: Path) -> int | None:
    """Most bytes of results in an object directory, unless a flag says; None: it is not in memory."""
    if object_dir != _SHM:
        return None
    room = os.statvfs(object_dir)
    return int(_MEMORY_SHARE * min(room.f_bavail * room.f_frsize, psutil.virtual_memory().available))


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
        with _starting(home):  # else another one could take this for what a dead worker left
            self.root.mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _sweep(home, self.root)
        for room in _ROOMS:
            (self.root / room).mkdir(mode=0o700, exist_ok=True)

    def room(self, name: str) -> Path:
        """One of the directories in it."""
        return self.root / name

    def remove(self) -> None:
        """Removes everything; the worker is ending."""
        shutil.rmtree(self.root, ignore_errors=True)
        os.close(self._lock)


@contextlib.contextmanager
def _starting(home: Path) -> Iterator[None]:
    """One worker at a time; whoever is stopped in the middle of it holds the others up for a bounded time."""
    lock = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(_START_TRIES):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_START_PAUSE)
        yield
    finally:
        os.close(lock)


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
