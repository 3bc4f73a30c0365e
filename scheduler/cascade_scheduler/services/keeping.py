"""The stream on which a client keeps results and skips in backends of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio

from cascade_dist.v1 import client_pb2
from cascade_scheduler.core.commands import SaveResult, SaveSkip
from cascade_scheduler.store.keeper import KeeperStore, Kept, Pending
from cascade_scheduler.wire.values import PAYLOAD_BYTES_MAX, REF_BYTES, fill_value, value_size

__all__ = ["keep_state"]

Context = grpc.aio.ServicerContext[Any, Any]


async def keep_state(store: KeeperStore | None, state: str, context: Context) -> None:
    """Serves `KeepState`: batches go down, acknowledgements come up, until the client ends its side."""
    if store is None:
        await context.abort(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"this scheduler keeps its state in {state}: where a cluster keeps its state is said when it is "
            "started, by `cascade-scheduler --state URL`",
        )
        raise LookupError(state)  # abort has raised already
    reading: asyncio.Future[Any] = asyncio.ensure_future(context.read())
    waiting: asyncio.Future[Pending] | None = None
    try:
        await reading  # it opens the stream
        reading = asyncio.ensure_future(context.read())
        while True:
            waiting = asyncio.ensure_future(store.pending())
            await asyncio.wait((reading, waiting), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                break  # before it was asked: it has ended
            pending = waiting.result()
            for piece in _pieces(pending):
                await context.write(piece)
            answer = await reading
            if answer is grpc.aio.EOF:
                break
            await store.acknowledge(answer.number)
            reading = asyncio.ensure_future(context.read())
        if reading.done() and reading.result() is grpc.aio.EOF and not context.cancelled():
            await store.dismiss()
    finally:
        reading.cancel()
        if waiting is not None:
            waiting.cancel()


def _pieces(pending: Pending) -> Iterator[client_pb2.KeepStateResponse]:
    """A batch in messages that carry at most the bound of payload."""
    piece = client_pb2.KeepStateResponse(number=pending.number)
    size = 0
    for record in pending.records:
        extra = _size(record)
        if piece.records and size + extra > PAYLOAD_BYTES_MAX:
            yield piece
            piece, size = client_pb2.KeepStateResponse(number=pending.number), 0
        _fill(piece.records.add(run_id=record.run_id), record)
        size += extra
    piece.last = True
    yield piece


def _size(record: Kept) -> int:
    return REF_BYTES + (value_size(record.value) if isinstance(record, SaveResult) else 0)


def _fill(message: client_pb2.StateRecord, record: Kept) -> None:
    if isinstance(record, SaveResult):
        message.node_id = record.key
        fill_value(message.result, record.value)
    elif isinstance(record, SaveSkip):
        message.node_id = record.key
        message.skipped = record.reason
    else:
        message.cleared = True
