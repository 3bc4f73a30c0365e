"""What processes of this user left on this machine when they were killed.

Private clusters and schedulers with a temporary blob store name their directories by their process; the
directories of workers hold a file that is locked as long as they live. Workers remove what they find when
they start; this is for machines on which none starts again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Leftover", "default_bases", "find_leftovers", "remove_leftovers"]

_BY_PROCESS = re.compile(r"cascade-(?:blobs-)?([0-9]+)-.+")
SHARED_MEMORY = Path("/dev/shm")


class Leftover(NamedTuple):
    """A directory that nobody uses any more."""

    path: Path
    bytes: int
    """What its files take on the disk, or in memory."""
    lock: Path | None
    """Whoever holds this file's lock uses it after all."""


def default_bases() -> list[Path]:
    """Where workers and private clusters put their directories when they are told nothing else."""
    return list(dict.fromkeys((Path(tempfile.gettempdir()), SHARED_MEMORY)))


def find_leftovers(bases: Iterable[Path]) -> list[Leftover]:
    """The directories of dead processes of this user.

    Args:
        bases: directories in which these lie; those that are not there have none.
    """
    found = []
    for base in bases:
        for path in [*_of_processes(base), *_of_workers(base / f"cascade-{os.getuid()}")]:
            lock = path / "lock"
            found.append(Leftover(path, _bytes_of(path), lock if lock.exists() else None))
    return found


def remove_leftovers(leftovers: Iterable[Leftover]) -> list[Leftover]:
    """Removes them; returns those that are gone."""
    removed = []
    for leftover in leftovers:
        if leftover.lock is None:
            shutil.rmtree(leftover.path, ignore_errors=True)
        else:
            with _locked(leftover.lock) as alone:
                if alone:
                    shutil.rmtree(leftover.path, ignore_errors=True)
        if not leftover.path.exists():
            removed.append(leftover)
    return removed


def _own_directories(base: Path) -> Iterator[Path]:
    try:
        entries = sorted(base.iterdir())
    except OSError:
        return
    for path in entries:
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink() and path.lstat().st_uid == os.getuid():
                yield path


def _of_processes(base: Path) -> Iterator[Path]:
    for path in _own_directories(base):
        match = _BY_PROCESS.fullmatch(path.name)
        if match and not _lives(int(match.group(1))):
            yield path


def _of_workers(home: Path) -> Iterator[Path]:
    for path in _own_directories(home):
        with _locked(path / "lock") as alone:
            if alone:
                yield path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether nobody else holds the lock of a file; holds it meanwhile."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield False  # it is being made, or removed
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _bytes_of(path: Path) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total
