"""Files that are mapped: large results, copies of them, blobs.

Whoever maps a file holds a shared lock on it for as long as the map lives. A file that is written again (see
`segments`) is locked by its writer alone, so no value changes under who reads it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import resource
import sys
import time
from typing import Any

__all__ = ["is_named", "map_file", "open_shared", "reserve"]

_UNTRACKED: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
"""So that a map costs no descriptor; the kernel keeps the file, and with it the lock, all the same."""
_LOCK_TRIES = 500
_LOCK_PAUSE = 0.002


def map_file(path: str) -> Any:
    """A file's bytes, mapped read-only; they live as long as anything that was loaded from them.

    Raises:
        FileNotFoundError: it is not there, or was released while it was opened.
        OSError: too many files are mapped; says what to do.
    """
    try:
        return _map(path)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    most = _allow_more_files()
    try:
        return _map(path)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise OSError(
            errno.EMFILE,
            f"each large value that a task holds is an open file, and there may be {most:,} (ulimit -n): "
            "raise the hard limit of the worker, or give the task fewer values",
        ) from error


def _map(path: str) -> Any:
    fd = open_shared(path)
    try:
        size = os.fstat(fd).st_size
        # The map keeps the open file, and with it the lock, until it is gone itself.
        return mmap.mmap(fd, size, prot=mmap.PROT_READ, **_UNTRACKED) if size else b""
    finally:
        os.close(fd)


def _allow_more_files() -> int:
    """Raises the soft limit of open files to the hard one, which is the limit from then on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS has a limit of its own below an unlimited one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return soft


def open_shared(path: str) -> int:
    """Opens a file for reading; while the descriptor is open nobody writes into it.

    Raises:
        FileNotFoundError: it is not there, or was released while it was opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _lock_shared(fd, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _lock_shared(fd: int, path: str) -> None:
    for _ in range(_LOCK_TRIES):
        locked = True
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            locked = False
        if not is_named(fd, path):
            break
        if locked:
            return
        time.sleep(_LOCK_PAUSE)  # somebody who looked for a free segment is about to see that it is none
    raise FileNotFoundError(f"{path} was released while it was opened")


def is_named(fd: int, path: str, links: int = 0) -> bool:
    """An open file still has this name, and so many names in all; 0: as many as it likes."""
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    opened = os.fstat(fd)
    same = named.st_ino == opened.st_ino and named.st_dev == opened.st_dev
    return same and links in (0, opened.st_nlink)


def reserve(fd: int, size: int, begin: int = 0) -> None:
    """Makes room before a byte is written: a full tmpfs is an error here and a SIGBUS in a mapped page.

    Args:
        fd: of the file.
        size: that it is to have.
        begin: up to here it has room already.

    Raises:
        OSError: there is no room.
    """
    if not size:
        return
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, begin, size - begin)
    else:
        os.ftruncate(fd, size)
