"""The cluster's cache in memory, asked on behalf of executors, which know no gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio

from cascade_dist.v1 import worker_pb2, worker_pb2_grpc
from cascade_dist.wire import TokenAuth
from cascade_dist.wire.convert import duration
from cascade_worker.executors import Asked

__all__ = ["SharedCache"]

_SECONDS_MAX = 10.0
"""How long the scheduler may take; what takes longer is a miss."""
_AT_ONCE_MAX = 64
_WAITING_MAX = 10_000

Answer = Callable[[int, int, bytes | None, str], Awaitable[None]]


class SharedCache:
    """Asks the scheduler, and answers executors.

    Args:
        auth: the cluster's token.
        scheduler: gives the scheduler's channel, waiting while there is none.
        answer: takes executor, number of what was asked, bytes or None, and an error or "".
    """

    def __init__(
        self, auth: TokenAuth, scheduler: Callable[[], Awaitable[grpc.aio.Channel]], answer: Answer
    ) -> None:
        self._metadata = auth.metadata
        self._scheduler = scheduler
        self._answer = answer
        self._jobs: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(_AT_ONCE_MAX)

    def ask(self, executor: int, asked: Asked) -> None:
        """Begins to ask; the answer goes to the executor."""
        job = asyncio.get_running_loop().create_task(self._serve(executor, asked))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def close(self) -> None:
        """Ends what is under way."""
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    async def _serve(self, executor: int, asked: Asked) -> None:
        value: bytes | None = None
        error = ""
        if len(self._jobs) > _WAITING_MAX:
            error = "too much is asked of the cluster's cache at once"
        else:
            try:
                async with asyncio.timeout(_SECONDS_MAX), self._room:
                    value = await self._call(asked)
            except TimeoutError:
                error = f"the cluster's cache did not answer within {_SECONDS_MAX:g} s"
            except grpc.aio.AioRpcError as failure:
                error = f"the cluster's cache did not answer: {failure.code().name}: {failure.details()}"
        await self._answer(executor, asked.number, value, error)

    async def _call(self, asked: Asked) -> bytes | None:
        stub = worker_pb2_grpc.WorkerServiceStub(await self._scheduler())
        if asked.value is None:
            found = await stub.GetCached(
                worker_pb2.GetCachedRequest(key=asked.key), metadata=self._metadata, timeout=_SECONDS_MAX
            )
            return found.value if found.found else None
        request = worker_pb2.PutCachedRequest(key=asked.key, value=asked.value)
        if asked.ttl is not None:
            request.ttl.CopyFrom(duration(asked.ttl))
        await stub.PutCached(request, metadata=self._metadata, timeout=_SECONDS_MAX)
        return None
