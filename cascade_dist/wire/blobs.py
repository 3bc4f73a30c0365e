"""Sending a blob to the scheduler."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc
import grpc.aio

from cascade_dist.v1 import client_pb2, value_pb2

__all__ = ["send_blob"]


async def send_blob(
    stub: Any, blob: value_pb2.BlobRef, pieces: Callable[[], Iterable[Any]], metadata: Any
) -> None:
    """Stores a blob.

    Args:
        stub: of the blob service.
        blob: which, and how long.
        pieces: gives its bytes, at most 1 MiB each.
        metadata: goes with the call.

    Raises:
        grpc.aio.AioRpcError: it was refused, or the call failed.
    """

    async def requests() -> AsyncIterator[client_pb2.PutBlobRequest]:
        first: value_pb2.BlobRef | None = blob
        for piece in pieces():
            yield client_pb2.PutBlobRequest(blob=first, data=bytes(piece))
            first = None
        if first is not None:
            yield client_pb2.PutBlobRequest(blob=first)

    try:
        await stub.PutBlob(requests(), metadata=metadata)
        return
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.INTERNAL:
            raise
        lost = error

    async def name() -> AsyncIterator[client_pb2.PutBlobRequest]:
        yield client_pb2.PutBlobRequest(blob=blob)

    # The scheduler refused it while pieces were on their way, and gRPC has lost what it said: it says the
    # same of the name alone. (Without its bytes a blob is wrong in any case, unless it is there by now.)
    try:
        await stub.PutBlob(name(), metadata=metadata)
    except grpc.aio.AioRpcError as error:
        raise (lost if error.code() is grpc.StatusCode.INVALID_ARGUMENT else error) from None
