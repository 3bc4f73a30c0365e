"""Large values on their way to and from the scheduler's blob store, in pieces."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from cascade_dist.client.diagnosis import rpc_error
from cascade_dist.client.link import Metadata
from cascade_dist.codec.cid import cid_of, cid_to_text
from cascade_dist.errors import CascadeError, RunLostError, StoreFullError
from cascade_dist.v1 import client_pb2 as pb
from cascade_dist.v1 import value_pb2
from cascade_dist.wire.blobs import send_blob
from cascade_dist.wire.graphs import Upload

__all__ = ["ATTEMPTS_MAX", "blob_error", "damaged", "fetch", "put"]

ATTEMPTS_MAX = 5
ASK_FIRST_BYTES = 1 << 20
"""For blobs larger than this it is worth a question whether they are there already."""

InThread = Callable[..., Awaitable[Any]]


async def put(stub: Any, upload: Upload, metadata: Metadata) -> None:
    """Stores a blob, unless it is there.

    Raises:
        grpc.aio.AioRpcError: the call failed.
    """
    if upload.size > ASK_FIRST_BYTES:
        answer = await stub.HasBlobs(pb.HasBlobsRequest(cids=[upload.cid]), metadata=metadata)
        if answer.present[0]:
            return
    ref = value_pb2.BlobRef(cid=upload.cid, size_bytes=upload.size)
    await send_blob(stub, ref, upload.pieces, metadata)


async def fetch(stub: Any, ref: value_pb2.BlobRef, metadata: Metadata, in_thread: InThread) -> memoryview:
    """A blob's bytes, in memory.

    Raises:
        grpc.aio.AioRpcError: the call failed.
        RunLostError: the bytes are not those that were named.
    """
    size = ref.size_bytes
    memory = memoryview(bytearray(size))
    at = 0
    async for response in stub.GetBlob(pb.GetBlobRequest(cid=ref.cid), metadata=metadata):
        piece = response.data
        if at + len(piece) > size:
            raise damaged(ref, f"more than the {size:,} bytes that it should have")
        memory[at : at + len(piece)] = piece
        at += len(piece)
    if at != size:
        raise damaged(ref, f"{at:,} of {size:,} bytes")
    if await in_thread(cid_of, memory) != ref.cid:
        raise damaged(ref, "bytes that do not hash to its name")
    return memory


def damaged(ref: value_pb2.BlobRef, what: str) -> RunLostError:
    return RunLostError(
        f"blob {cid_to_text(ref.cid)} came with {what}: the scheduler's blob store is damaged; submit the "
        "run again"
    )


def blob_error(address: str, error: grpc.aio.AioRpcError) -> CascadeError:
    """The error of a call of the blob service."""
    details = error.details() or ""
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return RunLostError(
            f"a large result is no longer in the blob store of the scheduler at {address} ({details}); "
            "submit the run again"
        )
    if error.code() is grpc.StatusCode.DATA_LOSS:
        return RunLostError(f"the scheduler at {address} cannot give a large value: {details}")
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return StoreFullError(f"the blob store of the scheduler at {address} has no room: {details}")
    return rpc_error(address, error)
