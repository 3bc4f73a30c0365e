"""BlobService: immutable bytes by content id, streamed both ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from cascade_dist.codec.cid import CID_BYTES, cid_to_text
from cascade_dist.v1 import client_pb2, client_pb2_grpc
from cascade_scheduler.blobs.base import PIECE_BYTES, BlobError, BlobTooLarge, BlobUpload, BlobWrong
from cascade_scheduler.hub import Hub

__all__ = ["BlobService"]

PIECE_SECONDS = 60.0
"""How long one piece of an upload may be waited for."""

Context = grpc.aio.ServicerContext[Any, Any]


class BlobService(client_pb2_grpc.BlobServiceServicer):
    """The blob store, for clients and workers."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._blobs = hub.blobs

    async def HasBlobs(  # noqa: N802 - gRPC's name
        self, request: client_pb2.HasBlobsRequest, context: Context
    ) -> client_pb2.HasBlobsResponse:
        """Which of these are there."""
        return client_pb2.HasBlobsResponse(present=[self._blobs.has(cid) for cid in request.cids])

    async def PutBlob(  # noqa: N802
        self, request_iterator: AsyncIterator[client_pb2.PutBlobRequest], context: Context
    ) -> client_pb2.PutBlobResponse:
        """Stores one blob."""
        first = await self._piece(context)
        if first is None or not first.HasField("blob") or len(first.blob.cid) != CID_BYTES:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first piece names the blob by its CID")
            raise BlobWrong  # abort has raised already
        cid, size = first.blob.cid, first.blob.size_bytes
        if self._blobs.has(cid):
            return client_pb2.PutBlobResponse(existed=True)
        upload: BlobUpload | None = None
        try:
            upload = await self._begin(cid, size)
            piece: client_pb2.PutBlobRequest | None = first
            while piece is not None:
                if len(piece.data) > PIECE_BYTES:
                    raise BlobWrong(f"a piece of {cid_to_text(cid)} has more than {PIECE_BYTES} bytes")
                if piece.data:
                    await upload.write(piece.data)
                piece = await self._piece(context)
            await upload.finish()
        except BlobWrong as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except BlobError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        finally:
            if upload is not None:
                await upload.abort()
        return client_pb2.PutBlobResponse()

    async def _begin(self, cid: bytes, size: int) -> BlobUpload:
        while True:
            try:
                return await self._blobs.begin(cid, size)
            except BlobTooLarge:
                if not self._hub.make_room():
                    raise

    async def _piece(self, context: Context) -> client_pb2.PutBlobRequest | None:
        try:
            piece = await asyncio.wait_for(context.read(), PIECE_SECONDS)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no piece within {PIECE_SECONDS:.0f} s")
        return None if piece is grpc.aio.EOF else piece

    async def GetBlob(  # noqa: N802
        self, request: client_pb2.GetBlobRequest, context: Context
    ) -> AsyncIterator[client_pb2.GetBlobResponse]:
        """One blob."""
        cid = request.cid
        try:
            size = self._blobs.size(cid)
            self._blobs.pin((cid,))
            try:
                message = client_pb2.GetBlobResponse(size_bytes=size)
                async for piece in self._blobs.read(cid):
                    message.data = piece
                    yield message
                    message = client_pb2.GetBlobResponse()
                if not size:
                    yield message
            finally:
                self._blobs.unpin((cid,))
        except KeyError:
            name = cid_to_text(cid) if len(cid) == CID_BYTES else cid.hex()[:80]
            await context.abort(grpc.StatusCode.NOT_FOUND, f"blob {name} is not here (any more)")
