"""Moving results to the disk when those in memory are above their bound.

What nobody here needs right now goes first, the least recently used before others. Who has a file open or
mapped keeps it as it is; who asks later finds the one on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable

from cascade_worker.executor.files import reserve
from cascade_worker.objects import Kept, ObjectStore
from cascade_worker.threads import in_thread

__all__ = ["Spiller"]

log = logging.getLogger("cascade.worker")

_PAUSE = 1.0
"""Seconds to wait when nothing can be moved, or the disk is full."""
_STEP_BYTES = 8 << 20


class Spiller:
    """Keeps one store within its bound. `run` is its life.

    Args:
        store: tells of its changes from now on.
        tell: is told how much room there is by directory, now and whenever that changes.
    """

    def __init__(self, store: ObjectStore, tell: Callable[[list[int | None]], None]) -> None:
        self._store = store
        self._tell = tell
        self._wake = asyncio.Event()
        self._full = False

        store.changed = self._look
        self._look()

    def _look(self) -> None:
        """The store has changed."""
        self._tell(self._store.rooms())
        if self._store.crowded:
            self._wake.set()

    async def run(self) -> None:
        """Moves results as long as it is crowded. Ends when it is cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._store.crowded:
                made = self._store.crowd_out()
                if made is None or not await self._move(made):
                    break
            if self._store.crowded:  # all is in use, or the disk is full: that may change
                await asyncio.sleep(_PAUSE)
                self._wake.set()

    async def _move(self, made: Kept) -> bool:
        """Moves a result; False: it cannot be moved now."""
        path = self._store.spill_path(made)
        if path is None:
            self._complain("--spill-max leaves no room")
            return False
        try:
            await in_thread(
                asyncio.get_running_loop().run_in_executor(None, _copy, made.path, path, made.size)
            )
        except FileNotFoundError:
            return True  # released meanwhile
        except OSError as error:
            self._complain(error.strerror or str(error))
            return False
        self._full = False
        if not self._store.spilled(made, path):
            with contextlib.suppress(OSError):
                os.unlink(path)
        return True

    def _complain(self, reason: str) -> None:
        if not self._full:
            log.warning("results above --object-memory cannot be moved to the disk: %s", reason)
        self._full = True


def _copy(source: str, target: str, size: int) -> None:
    """Copies a file; nothing half written is left."""
    with contextlib.ExitStack() as stack:
        read = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, read)
        write = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, write)
        try:
            reserve(write, size)
            at = 0
            while at < size:
                sent = os.sendfile(write, read, at, min(_STEP_BYTES, size - at))
                if not sent:
                    raise FileNotFoundError(f"{source} was released while it was copied")
                at += sent
        except BaseException:
            os.unlink(target)
            raise
