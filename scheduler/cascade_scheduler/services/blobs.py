"""BlobService: immutable bytes by content id, streamed both ways."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from cascade_dist.codec.cid import CID_BYTES, cid_to_text
from cascade_dist.v1 import client_pb2, client_pb2_grpc, value_pb2
from cascade_dist.wire.convert import seconds
from cascade_scheduler.blobs.base import (
    PIECE_BYTES,
    BlobError,
    BlobInfo,
    BlobMended,
    BlobTooLarge,
    BlobUpload,
    BlobWrong,
)
from cascade_scheduler.hub import Hub
from cascade_scheduler.wire.values import timestamp_of

__all__ = ["BlobService"]

PIECE_SECONDS = 60.0
"""How long one piece of an upload may be waited for."""
LOOK_SECONDS = 10.0
"""How long the network is asked for a blob that somebody wants."""
LOOK_SECONDS_MAX = 60.0
LIST_AT_ONCE = 1000

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
        patience = min(LOOK_SECONDS_MAX, seconds(request.look_for)) if request.HasField("look_for") else 0.0
        deadline = time.monotonic() + patience
        answer = client_pb2.HasBlobsResponse()
        for cid in request.cids:
            left = max(0.0, deadline - time.monotonic())
            answer.present.append(_is_cid(cid) and await self._blobs.find(cid, left) is not None)
        return answer

    async def PutBlob(  # noqa: N802
        self, request_iterator: AsyncIterator[client_pb2.PutBlobRequest], context: Context
    ) -> client_pb2.PutBlobResponse:
        """Stores one blob."""
        first = await self._piece(context)
        if first is None or not first.HasField("blob") or not _is_cid(first.blob.cid):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first piece names the blob by its CID")
            raise BlobWrong  # abort has raised already
        cid, size = first.blob.cid, first.blob.size_bytes
        if await self._blobs.find(cid) is not None:
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
            return client_pb2.PutBlobResponse()
        except BlobWrong as error:
            code, told = grpc.StatusCode.INVALID_ARGUMENT, str(error)
        except BlobError as error:
            code, told = grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
        finally:
            if upload is not None:
                await upload.abort()
        await context.abort(code, told)  # its room is free by now: who hears of it may try again at once
        raise BlobError(told)  # abort has raised already

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
            size = await self._blobs.find(cid, LOOK_SECONDS) if _is_cid(cid) else None
            if size is None:
                raise KeyError(cid)
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
            await context.abort(grpc.StatusCode.NOT_FOUND, f"blob {_name(cid)} is not here (any more)")
        except BlobMended as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))  # who hears that calls again
        except BlobError as error:
            await context.abort(grpc.StatusCode.DATA_LOSS, str(error))

    # --- for people --------------------------------------------------------------------------------

    async def ListBlobs(  # noqa: N802
        self, request: client_pb2.ListBlobsRequest, context: Context
    ) -> AsyncIterator[client_pb2.ListBlobsResponse]:
        """What is there."""
        found = self._blobs.listing()
        for start in range(0, len(found), LIST_AT_ONCE):
            part = found[start : start + LIST_AT_ONCE]
            yield client_pb2.ListBlobsResponse(blobs=map(_info, part))

    async def PinBlobs(  # noqa: N802
        self, request: client_pb2.PinBlobsRequest, context: Context
    ) -> client_pb2.PinBlobsResponse:
        """Keeps blobs."""
        answer = client_pb2.PinBlobsResponse()
        try:
            for cid in request.cids:
                present = _is_cid(cid) and await self._blobs.find(cid, LOOK_SECONDS) is not None
                if present:
                    await self._blobs.keep(cid)
                answer.present.append(present)
        except BlobError as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        return answer

    async def UnpinBlobs(  # noqa: N802
        self, request: client_pb2.UnpinBlobsRequest, context: Context
    ) -> client_pb2.UnpinBlobsResponse:
        """Keeps them no longer."""
        pinned = [_is_cid(cid) and await self._blobs.let_go(cid) for cid in request.cids]
        return client_pb2.UnpinBlobsResponse(pinned=pinned)


def _is_cid(cid: bytes) -> bool:
    return len(cid) == CID_BYTES


def _name(cid: bytes) -> str:
    return cid_to_text(cid) if _is_cid(cid) else cid.hex()[:80]


def _info(info: BlobInfo) -> client_pb2.BlobInfo:
    return client_pb2.BlobInfo(
        blob=value_pb2.BlobRef(cid=info.cid, size_bytes=info.size),
        used=timestamp_of(info.used),
        in_use=info.in_use,
        pinned=info.kept,
    )
