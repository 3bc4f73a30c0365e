"""One connection to a scheduler: a channel, and on it the session stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import grpc.aio

from cascade_dist.client.diagnosis import connect_error, no_answer
from cascade_dist.errors import ConnectionFailedError, VersionMismatchError
from cascade_dist.v1 import client_pb2 as pb
from cascade_dist.v1 import client_pb2_grpc
from cascade_dist.wire import Address, check_versions, local_versions, open_channel
from cascade_dist.wire.direct import DirectCall, open_stream, pump
from cascade_dist.wire.eager import advance, forget

__all__ = ["Endpoint", "Link", "LinkLostError", "Metadata", "frame_submit"]

Metadata = tuple[tuple[str, str], ...]

HANDSHAKES_MAX = 3
LISTEN_SECONDS = 0.5
_MASK = "Internal error from Core"
_OPEN = "/cascade_dist.v1.ClientService/Open"
_SUBMIT_TAG = bytes([pb.OpenRequest.SUBMIT_FIELD_NUMBER << 3 | 2])


def frame_submit(submit: pb.Submit) -> bytes:
    """A submit as a serialized OpenRequest, without copying it into one first."""
    body = submit.SerializeToString()
    size, head = len(body), bytearray(_SUBMIT_TAG)
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + body


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a scheduler is and how to talk with it.

    Attributes:
        addresses: tried in order.
        metadata: goes with every call.
        credentials: for TLS.
        is_gone: of a private cluster: says why nothing can be run there any more, and the remedy; or None.
    """

    addresses: Sequence[Address]
    metadata: Metadata = ()
    credentials: grpc.ChannelCredentials | None = None
    is_gone: Callable[[], str | None] | None = None


class LinkLostError(Exception):
    """The connection was lost while a graph was being sent; the submit starts again."""


class _MaskedError(ConnectionFailedError):
    """The server ended the stream while we were writing, and gRPC put its own status over the server's."""


class Link:
    """A connection that stands. Everything here runs on the background loop."""

    def __init__(
        self, address: Address, channel: grpc.aio.Channel, call: Any, welcome: pb.ClientWelcome
    ) -> None:
        self.address = address
        self.inline_max: int = welcome.inline_bytes_max
        self.nodes_max: int = welcome.graph_nodes_max
        self.client: Any = client_pb2_grpc.ClientServiceStub(channel)
        self.blobs: Any = client_pb2_grpc.BlobServiceStub(channel)
        self.known: set[bytes] = set()
        """CIDs of functions whose bodies went over this connection."""
        self.alive = True
        self._channel = channel
        self._call = call
        self._direct = call if isinstance(call, DirectCall) else None
        self._outbox: deque[tuple[bytes, Callable[[], object] | None]] = deque()
        self._writing: Coroutine[Any, Any, None] | None = None
        """The write that has begun and has not ended."""
        self._broken = False
        self._idle = asyncio.Event()
        self._idle.set()

    @classmethod
    async def open(
        cls,
        address: Address,
        credentials: grpc.ChannelCredentials | None,
        metadata: Metadata,
        timeout: float,
    ) -> tuple[Link, list[str]]:
        """Connects and shakes hands; gives the link and what people should know.

        Raises:
            ConnectionFailedError: nothing listens there, or another service, or it does not answer in time.
            AuthenticationError: the token is missing or wrong.
            VersionMismatchError: the two sides cannot work together.
        """
        channel = open_channel(address, credentials)
        opening = partial(open_stream, address, channel, _OPEN, metadata, pb.OpenResponse.FromString)
        call: Any = None
        try:
            for left in reversed(range(HANDSHAKES_MAX)):
                call = await opening()
                try:
                    welcome = await _shake_hands(address, call, timeout)
                    break
                except _MaskedError:
                    if not left:
                        raise
                    await _listen(address, await opening())
            error, warnings = check_versions(welcome.versions, f"the scheduler at {address}")
            if error:
                raise VersionMismatchError(error)
            return cls(address, channel, call, welcome), list(dict.fromkeys([*welcome.warnings, *warnings]))
        except BaseException:
            if call is not None:
                call.cancel()  # a direct stream does not end with the channel
            await channel.close()
            raise

    def send(self, message: bytes, written: Callable[[], object] | None = None) -> None:
        """Puts a serialized OpenRequest on the stream; `written` is called when it is, or never will be."""
        if not self.alive:
            if written:
                written()
            return
        self._outbox.append((message, written))
        self._idle.clear()
        if self._writing is None:
            self._pump()

    def send_now(self, message: bytes) -> bool:
        """Sends a short message from any thread, if it can be sent at once; returns whether it was."""
        return self._direct is not None and self.alive and self._direct.send_now(message)

    def _pump(self) -> None:
        """Begins to write what waits, in this very iteration of the loop: there is no task to be woken."""
        while self._outbox and self._writing is None and not self._broken:
            self._advance(self._call.write(self._outbox[0][0]))
        if not self._outbox:
            self._idle.set()

    def _advance(self, write: Coroutine[Any, Any, None]) -> None:
        """Runs a write up to where it waits for the network."""
        self._writing = None
        try:
            if not advance(write, self._on_written):
                self._writing = write
                return
        except Exception:
            self._broken = True  # it failed because the stream has ended, which the reader tells
            return
        except asyncio.CancelledError:
            self._broken = True
            return
        _, written = self._outbox.popleft()
        if written:
            written()

    def _on_written(self, waited: asyncio.Future[Any] | None) -> None:
        write = self._writing
        if write is None:
            forget(waited)
            return
        self._advance(write)
        self._pump()

    async def read(self, handle: Callable[[pb.OpenResponse], None]) -> str:
        """Hands over what comes until the stream ends; gives the reason for people."""
        try:
            await pump(self._call, handle)
            code, details = await self._call.code(), await self._call.details()
            return details or ("the scheduler ended the session" if code is grpc.StatusCode.OK else code.name)
        except grpc.aio.AioRpcError as error:
            details = error.details() or error.code().name
            return "the connection broke" if details == _MASK else details

    async def flush(self) -> None:
        """Waits until everything is written."""
        await self._idle.wait()

    async def half_close(self) -> None:
        """Ends our side of the stream in order: the scheduler sees a client that goes."""
        try:
            await self._call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            pass

    async def close(self) -> None:
        """Drops the connection; what was not written never will be."""
        self.alive = False
        self._broken = True
        write, self._writing = self._writing, None
        if write is not None:
            write.close()
        self._call.cancel()
        outbox, self._outbox = self._outbox, deque()
        for _, written in outbox:
            if written:
                written()
        self._idle.set()
        await self._channel.close()


async def _listen(address: Address, call: Any) -> None:
    """Says nothing, so that what the server says at once is heard; that is raised.

    A scheduler would wait for us to speak.
    """
    try:
        async with asyncio.timeout(LISTEN_SECONDS):
            await call.read()
    except grpc.aio.AioRpcError as error:
        raise connect_error(str(address), error) from None
    except TimeoutError:
        pass
    call.cancel()


async def _shake_hands(address: Address, call: Any, timeout: float) -> pb.ClientWelcome:
    hello = pb.OpenRequest(hello=pb.ClientHello(versions=local_versions()))
    try:
        async with asyncio.timeout(timeout):
            with contextlib.suppress(asyncio.InvalidStateError):  # it has ended already: reading says how
                await call.write(hello.SerializeToString())
            message = await call.read()
            if message is grpc.aio.EOF:
                details = await call.details()
                raise ConnectionFailedError(
                    f"the scheduler at {address} ended the session at once ({details or 'no reason given'}); "
                    "look into its log"
                )
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.INTERNAL and error.details() == _MASK:
            raise _MaskedError(f"the scheduler at {address} ended the session at once") from None
        raise connect_error(str(address), error) from None
    except TimeoutError:
        call.cancel()
        raise no_answer(str(address)) from None
    if message.WhichOneof("body") != "welcome":
        call.cancel()
        raise ConnectionFailedError(f"what listens at {address} speaks another protocol than this client")
    welcome: pb.ClientWelcome = message.welcome
    return welcome
