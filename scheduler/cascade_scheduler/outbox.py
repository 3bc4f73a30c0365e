"""What waits to be written to one peer's stream.

A turn never waits for a peer: it leaves what it has to say in the peer's own books and rings. The outbox
takes what has gathered, makes messages of it and writes them one after the other, so that a slow peer gets
fewer and larger messages. A peer that takes nothing for too long is cut off.

There is no task behind a stream. A write begins where the bell is answered, in the iteration of the loop that
read the message which led to it; only its end is waited for. That saves two wake-ups on each message, which
is what most of a short round trip consists of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from cascade_dist.wire.eager import advance, forget

__all__ = ["Bell", "Outbox", "PeerTooSlow", "Stream"]

Message = TypeVar("Message")

logger = logging.getLogger("cascade.scheduler")


class PeerTooSlow(Exception):
    """The peer does not take what it is sent; the text says for how long."""


class Stream(Protocol):
    """What messages are written to."""

    def write(self, message: Any) -> Coroutine[Any, Any, None]:
        """Sends a message; done when it has left."""


class Bell:
    """Holds back outboxes that are rung in a `with` block until its end: a turn is one message per peer."""

    def __init__(self) -> None:
        self._depth = 0
        self._rung: list[Outbox[Any]] = []

    def __enter__(self) -> Bell:
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if not self._depth and self._rung:
            self.answer_all()

    def answer_all(self) -> None:
        """Lets those write that have rung so far, also within the block: they wait for nothing more."""
        rung, self._rung = self._rung, []
        for outbox in rung:
            outbox.pump()

    def answer(self, outbox: Outbox[Any]) -> None:
        """An outbox has something to say: now, or at the end of the block."""
        if self._depth:
            self._rung.append(outbox)
        else:
            outbox.pump()


class Outbox(Generic[Message]):
    """Writes to one stream what `take` yields, whenever it was rung.

    Args:
        stream: where to.
        take: yields messages until there is nothing more to say; it is resumed after each write.
        on_end: called once when nothing more will be written.
        bell: of the turn.
        stall_seconds: how long one write may take.
    """

    def __init__(
        self,
        stream: Stream,
        take: Callable[[], Iterator[Message]],
        on_end: Callable[[], None],
        bell: Bell,
        *,
        stall_seconds: float = 60.0,
    ) -> None:
        self._stream = stream
        self._write_now: Callable[[bytes], bool] | None = getattr(stream, "write_now", None)
        self._take = take
        self._on_end = on_end
        self._bell = bell
        self._stall_seconds = stall_seconds
        self._loop = asyncio.get_running_loop()
        self._rung = False
        self._messages: Iterator[Message] | None = None
        self._write: Coroutine[Any, Any, None] | None = None
        """The write that has begun and has not ended."""
        self._write_began = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._empty: asyncio.Future[None] | None = None
        self._ended = False
        self.broken: BaseException | None = None
        """Why writing ended, when it was not asked for."""

    @property
    def alive(self) -> bool:
        """It still writes."""
        return not self._ended

    def write_now(self, message: bytes) -> bool:
        """Writes a serialized message past the bell; returns whether nothing was in its way."""
        idle = not (self._rung or self._ended) and self._messages is None and self._write is None
        return idle and self._write_now is not None and self._write_now(message)

    def ring(self) -> None:
        """There is something to say."""
        if not self._rung:
            self._rung = True
            if self._write is None:
                self._bell.answer(self)

    def pump(self) -> None:
        """Begins to write what there is, unless a write is under way: then its end comes back here."""
        while self._write is None and not self._ended:
            if self._messages is None:
                if not self._rung:
                    if self._empty is not None and not self._empty.done():
                        self._empty.set_result(None)
                    return
                self._rung = False
                self._messages = self._take()
            try:
                message = next(self._messages, None)
            except Exception as error:
                logger.exception("a message could not be made; its stream is cut")
                self._end(error)
                return
            if message is None:
                self._messages = None
                continue
            try:
                self._advance(self._stream.write(message))
            except Exception as error:  # the stream is gone
                self._end(error)

    def _advance(self, write: Coroutine[Any, Any, None]) -> None:
        """Runs a write up to where it waits for the network."""
        if advance(write, self._on_written):
            return
        self._write = write
        self._write_began = self._loop.time()
        if self._timer is None:
            # One lazy timer per stream: writes are far too many for a timer each.
            self._timer = self._loop.call_later(self._stall_seconds, self._look)

    def _on_written(self, waited: asyncio.Future[Any] | None) -> None:
        write, self._write = self._write, None
        if write is None or self._ended:
            forget(waited)
            return
        try:
            self._advance(write)
        except Exception as error:
            self._end(error)
        except asyncio.CancelledError as error:
            self._end(error)
        else:
            self.pump()

    def _look(self) -> None:
        self._timer = None
        if self._write is None or self._ended:
            return
        waited = self._loop.time() - self._write_began
        if waited < self._stall_seconds:
            self._timer = self._loop.call_later(self._stall_seconds - waited, self._look)
        else:
            self._end(PeerTooSlow(f"it has taken nothing for {waited:.0f} s"))

    def _end(self, error: BaseException | None) -> None:
        if self._ended:
            return
        self._ended = True
        self.broken = error
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        write, self._write, self._messages = self._write, None, None
        if write is not None:
            write.close()
        if self._empty is not None and not self._empty.done():
            self._empty.set_result(None)
        self._on_end()

    async def close(self, timeout: float = 1.0) -> None:
        """Says what is left and ends; waits at most `timeout` seconds for the peer to take it."""
        if not self._ended:
            self._empty = self._loop.create_future()
            self._rung = True
            self.pump()
            await asyncio.wait((self._empty,), timeout=timeout)
        self.cancel()

    def cancel(self) -> None:
        """Ends at once."""
        self._end(None)
