"""Serves this worker's results to its peers."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from cascade_dist.v1 import worker_pb2, worker_pb2_grpc
from cascade_dist.wire import PAYLOAD_BYTES_MAX, Address, TokenAuth, server_options
from cascade_worker.objects import ObjectStore

__all__ = ["ObjectServicer", "reachable", "start_object_server"]


class ObjectServicer(worker_pb2_grpc.ObjectServiceServicer):
    """FetchObject."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def FetchObject(  # noqa: N802 - the wire's name
        self,
        request: worker_pb2.FetchObjectRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[worker_pb2.FetchObjectResponse]:
        """One object, in pieces of at most 1 MiB."""
        found = self._store.find(request.attempt)
        try:
            if found is None:
                raise FileNotFoundError
            fd = os.open(found[0], os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"object {request.attempt:x} is not here")
        try:  # released while it is read, it lives on until the descriptor is closed
            size = os.fstat(fd).st_size
            at = request.offset_bytes
            first = True
            while first or at < size:
                data = os.pread(fd, PAYLOAD_BYTES_MAX, at)
                yield worker_pb2.FetchObjectResponse(size_bytes=size if first else 0, data=data)
                first = False
                if not data:
                    break
                at += len(data)
        finally:
            os.close(fd)


async def start_object_server(
    store: ObjectStore, host: str, auth: TokenAuth, credentials: grpc.ServerCredentials | None
) -> tuple[grpc.aio.Server, int]:
    """Starts serving on a free port; returns server and port.

    Raises:
        RuntimeError: the host is none of this machine's.
    """
    server = grpc.aio.server(options=server_options(), interceptors=auth.server_interceptors)
    worker_pb2_grpc.add_ObjectServiceServicer_to_server(ObjectServicer(store), server)
    address = f"[{host}]:0" if ":" in host else f"{host}:0"
    if credentials is None:
        port = server.add_insecure_port(address)
    else:
        port = server.add_secure_port(address, credentials)
    await server.start()
    return server, port


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
