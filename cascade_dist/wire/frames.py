"""Frames on a socket: what a direct stream is made of.

A frame is the length of its payload (4 bytes, little endian), its kind (1 byte), and the payload. The first
frame of the side that connects is OPEN: JSON with the method and the metadata of a gRPC call. Then either
side sends MESSAGE frames, each a serialized message. CLOSE says that the side that has connected sends no
more; STATUS, of the other side, ends the stream: JSON with a gRPC status code and its details. PING is
answered by PONG.
"""

from __future__ import annotations

import asyncio
import struct
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, cast

from cascade_dist.wire.channels import KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS, MESSAGE_BYTES_MAX

__all__ = ["CLOSE", "HEAD", "MESSAGE", "OPEN", "OPEN_BYTES_MAX", "STATUS", "FrameSocket", "Take"]

HEAD = struct.Struct("<IB")
MESSAGE, OPEN, CLOSE, STATUS, PING, PONG = range(6)

OPEN_BYTES_MAX = 65_536
"""Of the first frame, which comes from somebody who has not shown a token yet."""
COPY_BYTES_MAX = 16_384
"""A payload up to here is put behind its head in one piece; a larger one is not copied."""
QUEUE_BYTES_MAX = 4 << 20
"""While more than this waits to be read, nothing more is taken from the socket."""
BUFFER_BYTES = 256 << 10
"""While more than this waits to leave, writers wait."""
LINGER_SECONDS = 2.0
"""How long what was written may take to leave once the stream is to end."""


Take: TypeAlias = Callable[[Any], Coroutine[Any, Any, "bool | None"] | bool | None]
"""Is given a message. True: that was the last one wanted. A coroutine: what comes next waits for its end, and
for what it returns."""


class FrameSocket(asyncio.Protocol):
    """One end: takes frames apart, holds back who is too fast, notices a peer that stands still.

    Messages are kept in `messages` until somebody takes them; subclasses say what other frames mean.
    """

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self.over = False
        """No further message will come."""
        self.lost = False
        """The connection is gone."""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._frame_max = MESSAGE_BYTES_MAX
        self._kept = bytearray()
        self._wanted = 0
        """Bytes that the frame at the beginning of `_kept` takes."""
        self._queued = 0
        self._reading = True
        self._reader: asyncio.Future[None] | None = None
        self._pump: _Pump | None = None
        self._room: asyncio.Future[None] | None = None
        """While there is one, what was written has not left yet."""
        self._heard = False
        self._asked = False
        self._timer: asyncio.TimerHandle | None = None

    # --- what subclasses say ----------------------------------------------------------------------

    @abstractmethod
    def on_frame(self, kind: int, payload: bytes) -> None:
        """A frame that is not a message has come."""

    @abstractmethod
    def on_broken(self, reason: str) -> None:
        """The peer sent what is not taken: the stream is to end."""

    @abstractmethod
    def on_silent(self, reason: str) -> None:
        """The peer does not answer: the stream is to end."""

    def on_lost(self) -> None:
        """The connection is gone."""

    # --- writing ----------------------------------------------------------------------------------

    def send(self, kind: int, payload: bytes) -> None:
        """Sends a frame, however much waits to leave; after the end, nothing happens."""
        transport = self._transport
        if transport is None or self.lost:
            return
        head = HEAD.pack(len(payload), kind)
        if len(payload) <= COPY_BYTES_MAX:
            transport.write(head + payload)
        else:
            transport.writelines((head, payload))

    async def room(self) -> None:
        """Waits until there is room to write."""
        while self._room is not None:
            await self._room

    def pause_writing(self) -> None:
        """Called by the transport."""
        if self._room is None:
            self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        """Called by the transport."""
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    # --- reading ----------------------------------------------------------------------------------

    async def wait(self) -> None:
        """Waits until there is a message, or none will come."""
        while not self.messages and not self.over:
            self._reader = self._loop.create_future()
            await self._reader

    async def pump(self, take: Take) -> bool:
        """Gives messages to `take`, each in the iteration of the loop that reads it: no task is woken for it.

        Ends when no message will come, with True, or when none is wanted; what `take` raises comes out here.
        """
        pump = self._pump = _Pump(self, take)
        try:
            pump.run()
            return await pump.ended
        finally:
            self._pump = None
            pump.close()

    def take(self) -> bytes:
        """The next message; there is one."""
        message = self.messages.popleft()
        self._queued -= len(message)
        if not self._reading and self._queued < QUEUE_BYTES_MAX and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()
        return message

    def finish(self) -> None:
        """No further message will come."""
        self.over = True
        self.wake()
        if self._pump is not None:
            self._pump.run()

    def wake(self) -> None:
        """Lets who waits in `wait` look."""
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        self._heard = True
        kept: bytes | bytearray = data
        if self._kept:
            self._kept += data
            if len(self._kept) < self._wanted:
                return
            kept, self._kept = self._kept, bytearray()
        start, size = 0, len(kept)
        while size - start >= HEAD.size:
            length, kind = HEAD.unpack_from(kept, start)
            if length > self._frame_max:
                self.on_broken(f"it sent a frame of {length:,} bytes; at most {self._frame_max:,} are taken")
                return
            end = start + HEAD.size + length
            if end > size:
                self._wanted = end - start
                break
            if kept is data:
                self._frame(kind, data[start + HEAD.size : end])
            else:
                self._frame(kind, bytes(memoryview(kept)[start + HEAD.size : end]))
            start = end
        else:
            self._wanted = HEAD.size
        if start < size:
            self._kept = bytearray(kept[start:])
        if self._pump is not None and self.messages:
            self._pump.run()

    def _frame(self, kind: int, payload: bytes) -> None:
        if kind == MESSAGE:
            self.messages.append(payload)
            self._queued += len(payload)
            if self._queued >= QUEUE_BYTES_MAX and self._reading and self._transport is not None:
                self._reading = False
                self._transport.pause_reading()
            if self._reader is not None:
                self.wake()
        elif kind == PING:
            if self._room is None:  # else what waits to leave is answer enough, and answers would pile up
                self.send(PONG, b"")
        elif kind != PONG:
            self.on_frame(kind, payload)

    # --- the connection ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        transport.set_write_buffer_limits(high=BUFFER_BYTES)
        self._timer = self._loop.call_later(KEEPALIVE_SECONDS, self._look)

    def _look(self) -> None:
        """Asks a peer that was silent for long; one that does not answer is given up."""
        if self._asked and not self._heard and self._reading:
            self._timer = None
            self.on_silent(f"it was silent for {KEEPALIVE_SECONDS + KEEPALIVE_TIMEOUT_SECONDS:.0f} s")
            return
        self._asked = not self._heard and self._reading
        self._heard = False
        if self._asked:
            self.send(PING, b"")
        pause = KEEPALIVE_TIMEOUT_SECONDS if self._asked else KEEPALIVE_SECONDS
        self._timer = self._loop.call_later(pause, self._look)

    def eof_received(self) -> bool:
        """Called by the transport; the connection is closed then."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the transport."""
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
        self.resume_writing()
        self.on_lost()
        self.finish()

    def shut(self) -> None:
        """Closes the connection behind what was written, which has a moment to leave."""
        if self._transport is not None and not self.lost:
            self._transport.close()
            self._loop.call_later(LINGER_SECONDS, self.drop)

    def drop(self) -> None:
        """Closes the connection at once."""
        if self._transport is not None and not self.lost:
            self._transport.abort()


class _Pump:
    """Gives the messages of a socket to somebody."""

    def __init__(self, source: FrameSocket, take: Take) -> None:
        self._source = source
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Task[None] | None = None
        self.ended: asyncio.Future[bool] = self._loop.create_future()
        """True: no further message will come; False: none is wanted."""

    def run(self) -> None:
        """Takes what there is."""
        source = self._source
        try:
            while source.messages and self._waiting is None and not self.ended.done():
                said = self._take(source.take())
                if said is True:
                    self._end(False)
                elif said is not None and said is not False:
                    self._waiting = self._loop.create_task(self._wait(said))
        except Exception as error:
            self._fail(error)
        if source.over and not source.messages and self._waiting is None:
            self._end(True)

    async def _wait(self, work: Coroutine[Any, Any, bool | None]) -> None:
        try:
            last = await work
        except Exception as error:
            self._fail(error)
            return
        self._waiting = None
        if last:
            self._end(False)
        self.run()

    def _end(self, over: bool) -> None:
        if not self.ended.done():  # what takes a message may have ended the stream itself
            self.ended.set_result(over)

    def _fail(self, error: Exception) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)

    def close(self) -> None:
        """Takes nothing more."""
        if self._waiting is not None:
            self._waiting.cancel()
        if self.ended.done() and not self.ended.cancelled():
            self.ended.exception()  # whoever was cancelled does not ask for it
        self.ended.cancel()
