"""What waits to be written to one peer's stream.

A turn never waits for a peer: it leaves what it has to say in the peer's own books and rings. One task per
stream takes what has gathered, makes messages of it and writes them one after the other, so that a slow peer
gets fewer and larger messages. A peer that takes nothing for too long is cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import grpc.aio

__all__ = ["Outbox", "PeerTooSlow"]

Message = TypeVar("Message")


class PeerTooSlow(Exception):
    """The peer does not take what it is sent; the text says for how long."""


class Outbox(Generic[Message]):
    """Writes to one stream what `take` yields, whenever it was rung.

    Args:
        context: the stream.
        take: yields messages until there is nothing more to say; may be resumed between writes.
        stall_seconds: how long one write may take.
    """

    def __init__(
        self,
        context: grpc.aio.ServicerContext[Any, Any],
        take: Callable[[], Iterator[Message]],
        *,
        stall_seconds: float = 60.0,
    ) -> None:
        self._context = context
        self._take = take
        self._stall_seconds = stall_seconds
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._rung = False
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._write_began = 0.0
        self._task = self._loop.create_task(self._run(), name="outbox")
        self.broken: BaseException | None = None
        """Why writing ended, when it did."""

    def ring(self) -> None:
        """There is something to say."""
        self._rung = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def on_end(self, call: Callable[[], None]) -> None:
        """Calls back when nothing more will be written."""
        self._task.add_done_callback(lambda _: call())

    @property
    def alive(self) -> bool:
        """It still writes."""
        return not self._task.done()

    async def close(self, timeout: float = 1.0) -> None:
        """Says what is left and ends; waits at most `timeout` seconds for the peer to take it."""
        self._closing = True
        self.ring()
        await asyncio.wait((self._task,), timeout=timeout)
        self.cancel()

    def cancel(self) -> None:
        """Ends at once."""
        self._task.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _run(self) -> None:
        try:
            while True:
                if not self._rung:
                    if self._closing:
                        return
                    self._waiter = self._loop.create_future()
                    await self._waiter
                    self._waiter = None
                self._rung = False
                for message in self._take():
                    await self._write(message)
        except asyncio.CancelledError:
            if self.broken is None:
                raise
        except Exception as error:  # the stream is gone, or a message could not be made; the reader ends it
            self.broken = error

    async def _write(self, message: Message) -> None:
        self._write_began = self._loop.time()
        if self._timer is None:
            # One lazy timer per stream: writes are far too many for a timer each.
            self._timer = self._loop.call_later(self._stall_seconds, self._look)
        await self._context.write(message)
        self._write_began = 0.0

    def _look(self) -> None:
        self._timer = None
        if not self._write_began or self._task.done():
            return
        waited = self._loop.time() - self._write_began
        if waited < self._stall_seconds:
            self._timer = self._loop.call_later(self._stall_seconds - waited, self._look)
            return
        self.broken = PeerTooSlow(f"it has taken nothing for {waited:.0f} s")
        self._task.cancel()
