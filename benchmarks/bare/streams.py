"""Writing to a stream from several places, with everything that waits in one message."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable

__all__ = ["Outgoing", "end_with_parent"]

MESSAGE_BYTES_MAX = 1 << 20


class Outgoing:
    """One writer at a time; what comes in the meantime goes out together."""

    def __init__(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        self._write = write
        self._waiting = bytearray()
        self._busy = False
        self._task: asyncio.Task[None] | None = None

    async def send(self, data: bytes) -> None:
        """Sends now, or leaves the data to whoever is sending."""
        if self._busy:
            self._waiting += data
            return
        self._busy = True
        await self._write(data)
        while self._waiting:
            out = bytes(self._waiting[:MESSAGE_BYTES_MAX])
            del self._waiting[:MESSAGE_BYTES_MAX]
            await self._write(out)
        self._busy = False

    def post(self, data: bytes) -> None:
        """The same where nothing can be awaited."""
        if self._busy:
            self._waiting += data
        else:
            self._task = asyncio.get_running_loop().create_task(self.send(data))


def end_with_parent() -> None:
    """Ends this process when its standard input ends, which is when its parent does."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
