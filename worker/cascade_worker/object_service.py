"""Serves this worker's results to its peers."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import Any

import grpc
import grpc.aio

from cascade_dist.v1 import worker_pb2
from cascade_dist.wire import PAYLOAD_BYTES_MAX, Address, TokenAuth, server_options
from cascade_worker.executor.files import open_shared
from cascade_worker.lanes import LaneServer
from cascade_worker.objects import ObjectStore
from cascade_worker.pieces import FIND_LANES, METHOD, Piece, checksum_of, encode_piece

__all__ = ["ObjectServer", "ObjectServicer", "reachable", "start_object_server"]

log = logging.getLogger("cascade.worker")

_STREAMS_MAX = 32
"""Objects that are sent at the same time; further ones wait."""
_TOGETHER = 2
"""Pieces that a thread reads at a time."""


class ObjectServicer:
    """FetchObject and FindLanes."""

    def __init__(self, store: ObjectStore, lanes: LaneServer) -> None:
        self._store = store
        self._lanes = lanes
        self._room = asyncio.Semaphore(_STREAMS_MAX)

    def handler(self) -> grpc.GenericRpcHandler:
        """For a server; answers are encoded here."""
        method: Any = grpc.unary_stream_rpc_method_handler(
            self._fetch, request_deserializer=worker_pb2.FetchObjectRequest.FromString
        )
        find: Any = grpc.unary_unary_rpc_method_handler(
            self._find_lanes,
            request_deserializer=worker_pb2.FindLanesRequest.FromString,
            response_serializer=worker_pb2.FindLanesResponse.SerializeToString,
        )
        service, _, name = METHOD.strip("/").partition("/")
        return grpc.method_handlers_generic_handler(
            service, {name: method, FIND_LANES.rpartition("/")[2]: find}
        )

    async def _find_lanes(
        self, request: worker_pb2.FindLanesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> worker_pb2.FindLanesResponse:
        """Who asks has shown the token."""
        return worker_pb2.FindLanesResponse(port=self._lanes.port, key=self._lanes.key)

    async def _fetch(
        self, request: worker_pb2.FetchObjectRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """One object or a part of it, in pieces of at most 1 MiB."""
        async with self._room:
            found = self._store.find(request.attempt)
            try:
                if found is None:
                    raise FileNotFoundError
                fd = await _opened(found[0])
            except FileNotFoundError:
                await context.abort(grpc.StatusCode.NOT_FOUND, f"object {request.attempt:x} is not here")
            await _send(fd, request, context)


async def _opened(path: str) -> int:
    """Opens a file in a thread; when that is cancelled nothing stays open.

    Raises:
        FileNotFoundError: it is not there.
    """
    opening = asyncio.get_running_loop().run_in_executor(None, open_shared, path)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_opened)
        raise


def _close_opened(opening: asyncio.Future[int]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result())


async def _send(
    fd: int, request: worker_pb2.FetchObjectRequest, context: grpc.aio.ServicerContext[Any, Any]
) -> None:
    """Sends while the next piece is read. While the descriptor is open nobody writes into the file."""
    reader = _Reader(fd, request)
    loop = asyncio.get_running_loop()
    reading = loop.run_in_executor(None, reader.read)
    try:
        while messages := await reading:
            reading = loop.run_in_executor(None, reader.read)
            for message in messages:
                await context.write(message)
    finally:
        reading.add_done_callback(lambda done: os.close(fd))


class _Reader:
    """Reads a file as messages. Used by one thread at a time."""

    def __init__(self, fd: int, request: worker_pb2.FetchObjectRequest) -> None:
        self._fd = fd
        self._size = self._untold = os.fstat(fd).st_size
        self._at = request.offset_bytes
        length = request.length_bytes or self._size
        self._end = min(self._size, self._at + length)
        # One buffer: the pages of a new one would be faults, which cost more than the bytes.
        self._buffer = memoryview(bytearray(min(PAYLOAD_BYTES_MAX, max(0, self._end - self._at))))

    def read(self) -> list[bytes]:
        """The next messages; none at the end."""
        messages: list[bytes] = []
        while self._at < self._end and len(messages) < _TOGETHER:
            data = self._buffer[: self._end - self._at]
            if os.preadv(self._fd, [data], self._at) != len(data):
                raise OSError(f"a file of {self._size:,} bytes was cut short")
            messages.append(encode_piece(Piece(self._untold, data, checksum_of(data))))
            self._at += len(data)
            self._untold = 0
        return messages


class ObjectServer:
    """Serves a worker's objects, by gRPC and, where nothing has to be encrypted, on lanes."""

    def __init__(self, server: grpc.aio.Server, port: int, lanes: LaneServer) -> None:
        self._server = server
        self._lanes = lanes
        self.port = port
        """Of the gRPC service."""

    async def stop(self) -> None:
        """Ends what is under way."""
        await self._lanes.close()
        await self._server.stop(None)


async def start_object_server(
    store: ObjectStore, host: str, auth: TokenAuth, credentials: grpc.ServerCredentials | None
) -> ObjectServer:
    """Starts serving on free ports.

    Raises:
        RuntimeError: the host is none of this machine's.
    """
    lanes = LaneServer(store)
    server = grpc.aio.server(options=server_options(), interceptors=auth.server_interceptors)
    server.add_generic_rpc_handlers((ObjectServicer(store, lanes).handler(),))
    address = f"[{host}]:0" if ":" in host else f"{host}:0"
    if credentials is None:
        port = server.add_insecure_port(address)
        try:
            lanes.start(host)
        except OSError as error:
            log.warning("no lanes on %s (%s): objects are served by gRPC alone", host, error)
    else:
        port = server.add_secure_port(address, credentials)
    await server.start()
    return ObjectServer(server, port, lanes)


def reachable(host: str, scheduler: Address) -> str:
    """The address under which others reach the service.

    Args:
        host: what it listens on.
        scheduler: whoever is to reach it is on the way there.
    """
    if host not in ("0.0.0.0", "::"):
        return f"[{host}]" if ":" in host else host
    family = socket.AF_INET6 if host == "::" else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((scheduler.host, scheduler.port))  # sends nothing; the kernel picks the way
            found = str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
    return f"[{found}]" if ":" in found else found
