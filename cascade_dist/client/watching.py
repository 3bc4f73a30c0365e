"""Following a run's events over lost connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import grpc
import grpc.aio

from cascade_dist.client.diagnosis import is_transient, rpc_error
from cascade_dist.client.events import Event, RunFinished, decode_event
from cascade_dist.v1 import client_pb2 as pb

__all__ = ["watch"]

TRUNCATED = "EventsTruncated"
RETRY_SECONDS = 0.1
BARREN_MAX = 20
"""Tries in a row that bring nothing before the error is raised."""


async def watch(
    stream: Callable[[pb.WatchRequest], AsyncIterator[pb.WatchResponse]],
    run_id: str,
    after: int,
    follow: bool,
    address: str,
) -> AsyncGenerator[list[Event], None]:
    """Batches of events in order, each event once.

    Where the scheduler no longer keeps some that were asked for, an event of kind ``EventsTruncated`` stands
    in their place.

    Args:
        stream: makes the call.
        run_id: the run.
        after: the last event that the caller has.
        follow: goes on until the run has finished.
        address: for messages to people.

    Raises:
        RunNotFoundError: the scheduler does not know the run.
        ConnectionFailedError: it does not answer.
    """
    barren = 0
    while True:
        try:
            async for response in stream(pb.WatchRequest(run_id=run_id, after=after, follow=follow)):
                barren = 0
                batch = [decode_event(run_id, event) for event in response.events if event.event_id > after]
                if response.truncated and batch:
                    batch.insert(0, _truncated(batch[0]))
                if not batch:
                    continue
                after = batch[-1].event_id
                yield batch
                if isinstance(batch[-1], RunFinished):
                    return
            return
        except grpc.aio.AioRpcError as error:
            barren += 1
            if not is_transient(error) or barren > BARREN_MAX:
                raise rpc_error(address, error) from None
        await asyncio.sleep(RETRY_SECONDS)


def _truncated(first: Event) -> Event:
    return Event(first.event_id - 1, first.timestamp, first.run_id, TRUNCATED)
