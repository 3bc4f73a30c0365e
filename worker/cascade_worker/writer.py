"""Writes to the scheduler's stream: one message at a time, each as late and as full as may be.

There is no task behind it. A write begins where something happened, in the same iteration of the loop, and
only its end is waited for: that saves the wake-up of a task, a good part of a short round trip.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from cascade_dist.wire.eager import advance, forget

__all__ = ["StreamWriter"]

_GATHER = 0.002
"""While tiny tasks stream through, reports are gathered for so many seconds between two writes."""


class StreamWriter:
    """Writes what its source has to say, whenever it is poked.

    Args:
        write: sends one message.
        source: gives the next message, or None; with True it gives at least a heartbeat.
        streaming: whether more is about to come, so that waiting a little is worth it.
        on_broken: called once when the stream takes nothing any more.
    """

    def __init__(
        self,
        write: Callable[[Any], Coroutine[Any, None, None]],
        source: Callable[[bool], Any],
        streaming: Callable[[], bool],
        on_broken: Callable[[BaseException], None],
    ) -> None:
        self._send = write
        self._source = source
        self._streaming = streaming
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._writing: Coroutine[Any, Any, None] | None = None
        """The write that has begun and has not ended."""
        self._pumping = False
        self._timer: asyncio.TimerHandle | None = None
        self._heartbeat_due = False
        self._closed = False
        self.last_write = time.monotonic()

    def poke(self) -> None:
        """There is something to say."""
        if self._writing is not None or self._pumping or self._closed:
            return
        if self._timer is not None:
            if self._streaming():
                return
            self._timer.cancel()  # that was the last for now
            self._timer = None
            self._pump()
            return
        pause = self.last_write + _GATHER - time.monotonic()
        if pause > 0 and self._streaming():
            self._timer = self._loop.call_later(pause, self._gathered)
        else:
            self._pump()

    def heartbeat(self) -> None:
        """Something has to be said, whatever it is."""
        self._heartbeat_due = True
        self.poke()

    def close(self) -> None:
        """Writes nothing more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            self._writing.close()
            self._writing = None

    def _gathered(self) -> None:
        self._timer = None
        if self._writing is None and not self._closed:
            self._pump()

    def _pump(self) -> None:
        """Begins to write what there is; when a write goes on, its end comes back here."""
        self._pumping = True
        try:
            while self._writing is None and not self._closed:
                force, self._heartbeat_due = self._heartbeat_due, False
                message = self._source(force)
                if message is None:
                    return
                self.last_write = time.monotonic()
                self._advance(self._send(message))
        finally:
            self._pumping = False

    def _advance(self, write: Coroutine[Any, Any, None]) -> bool:
        """Runs a write up to where it waits for the network; returns whether it has ended."""
        self._writing = None
        try:
            if advance(write, self._went_on):
                return True
        except BaseException as error:
            self._break(error)
            return True
        self._writing = write
        return False

    def _went_on(self, waited: asyncio.Future[Any] | None) -> None:
        write = self._writing
        if write is None:
            forget(waited)
        elif self._advance(write):
            self._pump()

    def _break(self, error: BaseException) -> None:
        if not self._closed:
            self._closed = True
            self._on_broken(error)
