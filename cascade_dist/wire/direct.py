"""Direct streams: the session of a private cluster's client or worker, without gRPC under it.

On one machine, gRPC is most of what a short message costs. So the scheduler of a private cluster also takes
its two session streams as frames on a unix socket (decision 26). Method, metadata, messages and statuses are
those of the gRPC call in whose place a direct stream is.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from cascade_dist.wire.addresses import Address
from cascade_dist.wire.channels import MESSAGE_BYTES_MAX
from cascade_dist.wire.frames import CLOSE, HEAD, MESSAGE, OPEN, STATUS, FrameSocket, Take
from cascade_dist.wire.socket_writer import SocketWriter

__all__ = ["Call", "DirectCall", "open_stream", "pump"]

CONNECT_SECONDS = 5.0
NOW_BYTES_MAX = 16_384
"""A longer message is sent by the loop: who calls should not wait for the copying."""
_CODES = {code.value[0]: code for code in grpc.StatusCode}

Call = Any
"""A `DirectCall` or one of grpc.aio's, whose types do not know what `read` returns."""


async def open_stream(
    address: Address,
    channel: grpc.aio.Channel,
    method: str,
    metadata: Sequence[tuple[str, str]],
    parse: Callable[[bytes], Any],
) -> Call:
    """A stream with two directions, begun: direct where the address has a socket for it, else by gRPC.

    What is written to it are serialized messages.

    Args:
        address: of the scheduler.
        channel: to the same.
        method: such as ``/cascade_dist.v1.ClientService/Open``.
        metadata: of the call.
        parse: makes messages of what comes.
    """
    if address.socket:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, call = await asyncio.get_running_loop().create_unix_connection(
                    lambda: DirectCall(method, metadata, parse), address.direct
                )
            return call
        except (OSError, TimeoutError):
            pass  # gRPC says why, if there is nobody
    opening: Any = channel.stream_stream(method, response_deserializer=parse)
    return opening(metadata=grpc.aio.Metadata(*metadata))


async def pump(stream: Any, take: Take) -> None:
    """Gives the messages of a stream to `take`: of a direct one, or of gRPC's call or context.

    Ends when no message will come or none is wanted.

    Raises:
        grpc.aio.AioRpcError: the stream has ended with an error.
    """
    if isinstance(stream, FrameSocket):
        await stream.pump(take)
        return
    while (message := await stream.read()) is not grpc.aio.EOF:
        said = take(message)
        if said is not None and said is not True and said is not False:
            said = await said
        if said:
            return


class DirectCall(FrameSocket):
    """The side that has connected. As a call of grpc.aio: it raises the same errors."""

    def __init__(
        self, method: str, metadata: Sequence[tuple[str, str]], parse: Callable[[bytes], Any]
    ) -> None:
        super().__init__()
        self._opening = json.dumps({"method": method, "metadata": list(metadata)}).encode()
        self._parse = parse
        self._status: tuple[grpc.StatusCode, str] | None = None
        self._cancelled = False
        self._writer: SocketWriter | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        super().connection_made(transport)
        own = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        own.setblocking(False)
        self._writer = SocketWriter(self._loop, own, self._on_room)
        self.send(OPEN, self._opening)

    def _on_room(self, room: bool) -> None:
        if room:
            self.resume_writing()
        else:
            self.pause_writing()

    def send(self, kind: int, payload: bytes) -> None:
        """Sends a frame, however much waits to leave; after the end, nothing happens."""
        if self._writer is not None:
            self._writer.send(HEAD.pack(len(payload), kind) + payload)

    def send_now(self, message: bytes) -> bool:
        """Sends a short message if nothing waits to leave; returns whether it did. Any thread."""
        writer = self._writer
        if writer is None or self._status is not None or len(message) > NOW_BYTES_MAX:
            return False
        return writer.send_now(HEAD.pack(len(message), MESSAGE) + message)

    async def write(self, message: bytes) -> None:
        """Sends a serialized message; waits while too much has not left.

        Raises:
            asyncio.InvalidStateError: the stream has ended; `read` says how.
        """
        if self._room is not None:
            await self.room()
        if self.lost or self._status is not None:
            raise asyncio.InvalidStateError("the stream has ended")
        if len(message) > MESSAGE_BYTES_MAX:
            self._ended(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"a message of {len(message):,} bytes cannot be sent: {MESSAGE_BYTES_MAX:,} are the limit",
            )
            self.drop()
            raise asyncio.InvalidStateError("the stream has ended")
        self.send(MESSAGE, message)

    async def read(self) -> Any:
        """The next message, or `grpc.aio.EOF`.

        Raises:
            grpc.aio.AioRpcError: the stream has ended with an error.
            asyncio.CancelledError: it was cancelled on this side.
        """
        if not self.messages:
            await self.wait()
        if self._cancelled:
            raise asyncio.CancelledError
        if self.messages:
            return self._parse(self.take())
        code, details = self._outcome()
        if code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)
        return grpc.aio.EOF

    async def pump(self, take: Take) -> bool:
        """Gives messages to `take`, each in the iteration of the loop that reads it; ends as `read` does."""
        over = await super().pump(lambda data: take(self._parse(data)))
        if over:
            await self.read()
        return over

    async def done_writing(self) -> None:
        """Says that this side sends no more."""
        self.send(CLOSE, b"")

    async def code(self) -> grpc.StatusCode:
        """How the stream has ended."""
        return self._outcome()[0]

    async def details(self) -> str:
        """The same in words."""
        return self._outcome()[1]

    def cancel(self) -> bool:
        """Ends the stream from this side."""
        if self._status is None:
            self._ended(grpc.StatusCode.CANCELLED, "cancelled on this side")
            self._cancelled = True
        self.messages.clear()
        self.finish()
        self.drop()
        return self._cancelled

    def _outcome(self) -> tuple[grpc.StatusCode, str]:
        return self._status or (grpc.StatusCode.UNAVAILABLE, "the connection broke")

    def _ended(self, code: grpc.StatusCode, details: str) -> None:
        if self._status is None:
            self._status = (code, details)

    def on_frame(self, kind: int, payload: bytes) -> None:
        """The other side ends the stream."""
        if kind == STATUS:
            try:
                said = json.loads(payload)
                self._ended(_CODES[said["code"]], str(said["details"]))
            except (ValueError, KeyError, TypeError, RecursionError):
                self._ended(grpc.StatusCode.INTERNAL, "the stream ended with a status that makes no sense")
        else:
            self._ended(grpc.StatusCode.INTERNAL, f"a frame of the unknown kind {kind} came")
        self.finish()
        self.drop()

    def on_lost(self) -> None:
        """The connection is gone."""
        if self._writer is not None:
            self._writer.close()

    def on_broken(self, reason: str) -> None:
        """The scheduler cannot be talked to any more: it sent what is not taken, or it does not answer."""
        self._ended(grpc.StatusCode.UNAVAILABLE, reason)
        self.finish()
        self.drop()

    on_silent = on_broken
