"""The relay: where a cluster has its scheduler.

Its arguments are the path of a unix socket, and `direct` or `grpc`: what goes over it. Prints `listening`,
then `ready` when both workers are there.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import uvloop

from benchmarks.bare import HEAD, METHOD_CLIENT, METHOD_WORKER, RECORD_BYTES, SERVICE
from benchmarks.bare.streams import Outgoing, end_with_parent
from cascade_dist.wire import Address, TokenAuth, server_options
from cascade_scheduler.direct import DirectServer

CREDITS = 4
"""Messages' worth of records that a worker may hold."""

WORKERS = 2


class Relay:
    """Slices the client's records, hands them out as credits allow, and passes on what comes back."""

    def __init__(self) -> None:
        self._client: Outgoing | None = None
        self._workers: list[Outgoing] = []
        self._records = memoryview(b"")
        self._sent = 0
        self._slice = RECORD_BYTES
        self._steps = 0

    async def client(self, messages: AsyncIterator[bytes], context: Any) -> None:
        """The client's stream."""
        self._client = Outgoing(context.write)
        async for message in messages:
            self._steps, batch = HEAD.unpack_from(message)
            self._records, self._sent = memoryview(message)[HEAD.size :], 0
            self._slice = batch * RECORD_BYTES
            for _ in range(1 if self._steps else CREDITS):
                for worker in self._workers:
                    await self._feed(worker)

    async def worker(self, messages: AsyncIterator[bytes], context: Any) -> None:
        """A worker's stream."""
        mine = Outgoing(context.write)
        self._workers.append(mine)
        if len(self._workers) == WORKERS:
            print("ready", flush=True)
        owed = 0
        async for message in messages:
            if self._steps > 1:  # the next link of a chain
                self._steps -= 1
                await mine.send(message)
                continue
            assert self._client is not None
            await self._client.send(message)
            owed += len(message)
            while owed >= self._slice:
                owed -= self._slice
                await self._feed(mine)
            if self._sent >= len(self._records):
                owed = 0

    async def _feed(self, worker: Outgoing) -> None:
        if self._sent < len(self._records):
            piece = bytes(self._records[self._sent : self._sent + self._slice])
            self._sent += len(piece)
            await worker.send(piece)


async def serve() -> None:
    """Serves until the parent ends."""
    relay = Relay()
    address = Address("", 0, socket=sys.argv[1])
    handlers: dict[str, Any] = {
        METHOD_CLIENT: grpc.stream_stream_rpc_method_handler(relay.client),
        METHOD_WORKER: grpc.stream_stream_rpc_method_handler(relay.worker),
    }
    if sys.argv[2] == "direct":
        found = {f"/{SERVICE}/{name}": handler for name, handler in handlers.items()}
        await DirectServer(address.direct, found.get, TokenAuth(None)).open()
    else:
        server = grpc.aio.server(options=server_options())
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        server.add_insecure_port(address.target)
        await server.start()
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    end_with_parent()
    uvloop.run(serve())
