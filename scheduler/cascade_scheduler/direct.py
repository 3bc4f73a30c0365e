"""The scheduler's side of direct streams: sessions as frames on a unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import grpc
import grpc.aio

from cascade_dist.wire import MESSAGE_BYTES_MAX, TokenAuth
from cascade_dist.wire.frames import CLOSE, MESSAGE, OPEN, OPEN_BYTES_MAX, STATUS, FrameSocket, Take

__all__ = ["DirectServer"]

OPEN_SECONDS = 30.0
"""How long a peer may take to say what it wants."""
DRAIN_SECONDS = 1.0
"""How long what a peer had said is still read when its connection is gone."""

Find = Callable[[str], Any]

logger = logging.getLogger("cascade.scheduler")


class DirectServer:
    """Takes direct streams.

    Args:
        path: of the socket.
        find: gives the handler of a gRPC method, or None.
        auth: the token that streams have to carry.
    """

    def __init__(self, path: str, find: Find, auth: TokenAuth) -> None:
        self._path = path
        self._find = find
        self._auth = auth
        self._server: asyncio.Server | None = None
        self._bound: os.stat_result | None = None
        self._streams: set[DirectStream] = set()

    async def open(self) -> None:
        """Listens.

        Raises:
            OSError: the path cannot be bound.
        """
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: DirectStream(self._find, self._auth, self._streams), self._path
        )
        os.chmod(self._path, 0o600)
        self._bound = os.stat(self._path)

    async def close(self, grace: float) -> None:
        """Takes no further stream; those under way get `grace` seconds."""
        if self._server is None:
            return
        self._server.close()
        self._remove_socket()
        for stream in list(self._streams):
            if stream.task is None:
                stream.drop()
        tasks = [stream.task for stream in self._streams if stream.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        for stream in list(self._streams):
            stream.stop()
        if tasks:
            await asyncio.wait(tasks, timeout=grace)

    def _remove_socket(self) -> None:
        bound, self._bound = self._bound, None
        with contextlib.suppress(OSError):
            if bound is not None and os.path.samestat(os.stat(self._path), bound):
                os.unlink(self._path)


class _UnreadableError(Exception):
    """What came is no message of the method."""


class DirectStream(FrameSocket):
    """One stream. To the handler of its method it is what grpc.aio's context is."""

    def __init__(self, find: Find, auth: TokenAuth, streams: set[DirectStream]) -> None:
        super().__init__()
        self.task: asyncio.Task[None] | None = None
        self._find = find
        self._auth = auth
        self._streams = streams
        self._frame_max = OPEN_BYTES_MAX
        self._parse: Callable[[bytes], Any] = bytes
        self._serialize: Callable[[Any], bytes] = bytes
        self._ended = False
        self._opening: asyncio.TimerHandle | None = None
        """Ends a peer that asks for nothing."""

    # --- what handlers see --------------------------------------------------------------------------

    async def read(self) -> Any:
        """The next message; `grpc.aio.EOF` when the peer has ended its side in order.

        Raises:
            asyncio.CancelledError: the connection is gone.
            grpc.aio.AbortError: what came is no message.
        """
        if not self.messages:
            await self.wait()
            if not self.messages:
                if self.lost:
                    raise asyncio.CancelledError
                return grpc.aio.EOF
        try:
            return self._message(self.take())
        except _UnreadableError as error:
            await self.abort(grpc.StatusCode.INTERNAL, str(error))

    async def pump(self, take: Take) -> bool:
        """Gives messages to `take`, each in the iteration of the loop that reads it; ends as `read` does."""
        try:
            over = await super().pump(lambda data: take(self._message(data)))
        except _UnreadableError as error:
            await self.abort(grpc.StatusCode.INTERNAL, str(error))
        if over and self.lost:
            raise asyncio.CancelledError
        return over

    def _message(self, data: bytes) -> Any:
        try:
            return self._parse(data)
        except Exception as error:
            raise _UnreadableError(f"a message cannot be read: {error}") from error

    async def write(self, message: Any) -> None:
        """Sends a message; waits first while too much has not left.

        Raises:
            ConnectionResetError: the peer is gone.
        """
        if self._room is not None:
            await self.room()
        if self.lost:
            raise ConnectionResetError("the peer is gone")
        self.send(MESSAGE, self._serialize(message))

    def write_now(self, message: bytes) -> bool:
        """Sends a serialized message unless it would have to wait; returns whether it did."""
        if self._room is not None or self.lost:
            return False
        self.send(MESSAGE, message)
        return True

    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn:
        """Ends the stream with an error; raises what the handler is to let through."""
        self._say(code, details)
        raise grpc.aio.AbortError("the stream was aborted")

    def cancelled(self) -> bool:
        """The peer has gone without a word."""
        return self.lost

    # --- from frames to a handler -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        super().connection_made(transport)
        self._streams.add(self)
        self._opening = self._loop.call_later(OPEN_SECONDS, self._late)

    def _late(self) -> None:
        self._refuse(grpc.StatusCode.DEADLINE_EXCEEDED, f"nothing was asked for in {OPEN_SECONDS:.0f} s")

    def _stop_waiting(self) -> None:
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()

    def on_frame(self, kind: int, payload: bytes) -> None:
        """A stream is opened, or its peer has said all."""
        if self._ended:
            return  # what came behind that for which the peer was refused
        if kind == OPEN and self.task is None:
            self._open(payload)
        elif kind == CLOSE and self.task is not None:
            self.finish()
        else:
            self._refuse(grpc.StatusCode.INTERNAL, f"a frame of kind {kind} came where none is due")

    def _open(self, payload: bytes) -> None:
        try:
            asked = json.loads(payload)
            method = str(asked["method"])
            metadata = [(str(key), str(value)) for key, value in asked["metadata"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            self._refuse(grpc.StatusCode.INTERNAL, "the first frame makes no sense")
            return
        refusal = self._auth.refusal(metadata)
        if refusal is not None:
            self._refuse(grpc.StatusCode.UNAUTHENTICATED, refusal)
            return
        handler = self._find(method)
        if handler is None or handler.stream_stream is None:
            self._refuse(grpc.StatusCode.UNIMPLEMENTED, f"{method} is no stream that this scheduler serves")
            return
        self._stop_waiting()
        self._frame_max = MESSAGE_BYTES_MAX
        if handler.request_deserializer is not None:
            self._parse = handler.request_deserializer
        if handler.response_serializer is not None:
            self._serialize = handler.response_serializer
        act = handler.stream_stream
        self.task = self._loop.create_task(self._handle(act), name=f"direct {method}")

    async def _handle(self, act: Callable[..., Any]) -> None:
        try:
            answer = act(self._requests(), self)
            if isinstance(answer, AsyncIterator):
                async for message in answer:
                    await self.write(message)
            else:
                await answer
        except grpc.aio.AbortError:
            pass
        except asyncio.CancelledError:
            self._say(grpc.StatusCode.UNAVAILABLE, "the scheduler ends the stream")
        except Exception as error:
            logger.exception("a direct stream has failed")
            self._say(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}")
        else:
            self._say(grpc.StatusCode.OK, "")
        finally:
            self.shut()

    async def _requests(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    # --- the end --------------------------------------------------------------------------------------

    def _refuse(self, code: grpc.StatusCode, details: str) -> None:
        self._stop_waiting()
        self._say(code, details)
        self.stop()
        self.shut()

    def _say(self, code: grpc.StatusCode, details: str) -> None:
        if not self._ended:
            self._ended = True
            self.send(STATUS, json.dumps({"code": code.value[0], "details": details}).encode())

    def on_broken(self, reason: str) -> None:
        """The peer sent what is not taken."""
        self._refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, reason)

    def on_silent(self, reason: str) -> None:
        """The peer does not answer."""
        self._refuse(grpc.StatusCode.UNAVAILABLE, reason)

    def on_lost(self) -> None:
        """The connection is gone: the handler reads what had come before, and ends."""
        self._streams.discard(self)
        self._stop_waiting()
        if self.task is not None and not self.task.done():
            self._loop.call_later(DRAIN_SECONDS, self.stop)

    def stop(self) -> None:
        """Ends the handler."""
        if self.task is not None:
            self.task.cancel()
