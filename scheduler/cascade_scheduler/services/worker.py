"""WorkerService: one stream per worker, and what workers fetch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from functools import partial
from typing import Any

import grpc
import grpc.aio

from cascade_dist import wire
from cascade_dist.v1 import graph_pb2, value_pb2, worker_pb2, worker_pb2_grpc
from cascade_dist.wire.direct import pump
from cascade_scheduler.core import views
from cascade_scheduler.core.events import WorkerDisconnected, WorkerReported
from cascade_scheduler.core.values import BlobValue, Value
from cascade_scheduler.hub import Hub
from cascade_scheduler.services.worker_session import WorkerSession
from cascade_scheduler.wire.reports import hello_from, leases_from, reports_from, resources_from
from cascade_scheduler.wire.values import (
    ONE_VALUE,
    PAYLOAD_BYTES_MAX,
    BadMessage,
    fill_value,
    seconds_of,
    value_size,
)
from cascade_scheduler.wire.work import function_to

__all__ = ["WorkerService"]

HELLO_SECONDS = 30.0
"""How long a new stream may take to say Hello."""
CACHE_KEY_CHARS_MAX = 1_000
FETCH_ITEMS = 2_000
"""Values per message of a stream of small ones."""

Context = grpc.aio.ServicerContext[Any, Any]

logger = logging.getLogger("cascade.scheduler")


class WorkerService(worker_pb2_grpc.WorkerServiceServicer):
    """The scheduler's side for workers."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._clock = asyncio.get_running_loop().time

    async def Connect(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[worker_pb2.ConnectRequest], context: Context
    ) -> None:
        """A worker's stream, from Hello to its end."""
        session = await self._open(context)
        worker = session.worker
        reader = asyncio.create_task(self._read(session, context), name=f"reader of {session.name}")
        gone, reason = False, "the stream broke"
        try:
            await asyncio.wait((reader, session.ended), return_when=asyncio.FIRST_COMPLETED)
            if session.ended.done():
                code, reason = session.ended.result()
                await session.outbox.close()
                await context.abort(code, reason)
            gone = reader.result()
            reason = "it said good-bye" if gone else "it closed its stream"
        except BadMessage as error:
            reason = f"it sent a message that makes no sense: {error}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            reader.cancel()
            session.outbox.cancel()
            if self._hub.workers.get(worker) is session:
                # Else another session has taken over, or the worker is off the books: nothing to report.
                del self._hub.workers[worker]
                logger.info("worker %s is disconnected: %s", session.name, reason)
                self._hub.turn.post(WorkerDisconnected(worker, reason, gone))

    async def _open(self, context: Context) -> WorkerSession:
        """Takes the Hello."""
        hub = self._hub
        try:
            first = await asyncio.wait_for(context.read(), HELLO_SECONDS)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no Hello within {HELLO_SECONDS:.0f} s")
        if first is grpc.aio.EOF or first.WhichOneof("body") != "hello" or first.sequence != 1:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "the first message is a Hello, with number 1"
            )
        hello = first.hello
        error, warnings = wire.check_versions(hello.versions, f"worker {hello.name or hello.worker_id}")
        if error is not None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, error)
        try:
            event = hello_from(hello)
        except BadMessage as wrong:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(wrong))
        for warning in warnings:
            logger.warning("%s", warning)
        session = WorkerSession(
            context,
            hub.bell,
            worker=event.worker,
            name=event.name,
            versions=hello.versions,
            now=asyncio.get_running_loop().time(),
            find_function=hub.functions.get,
            wants_logs=hub.runs.wants_logs,
            params=hub.runs.params,
            refuse=hub.not_sent,
            stall_seconds=hub.times.stall,
        )
        session.taken = first.sequence
        session.draining = event.draining
        old = hub.workers.get(event.worker)
        if old is not None:
            old.end("another session of this worker took over")
        hub.workers[event.worker] = session
        amounts = " ".join(f"{name}={micros / 1e6:g}" for name, micros in event.amounts)
        logger.info("worker %s (%s) is connected with %s", event.name, event.worker, amounts or "no amounts")
        hub.turn.post(event, then=partial(_stored, session, first.sequence))
        return session

    async def _read(self, session: WorkerSession, context: Context) -> bool:
        """Takes messages until the worker ends its stream; True when it had said that it is going away."""
        room = self._hub.writer.room

        def take(message: worker_pb2.ConnectRequest) -> Coroutine[Any, Any, None] | None:
            if not room.is_set():
                return later(message)
            self._take(session, message)
            return None

        async def later(message: worker_pb2.ConnectRequest) -> None:
            await room.wait()  # the store is away and the backlog full: no more reports until it is back
            self._take(session, message)

        await pump(context, take)
        return session.draining

    def _take(self, session: WorkerSession, message: worker_pb2.ConnectRequest) -> None:
        """Takes a message behind the Hello."""
        hub = self._hub
        turn = hub.turn
        session.heard_at = self._clock()
        if message.sequence != session.taken + 1:
            raise BadMessage(
                f"message {message.sequence} came after message {session.taken} of the same session"
            )
        session.taken = message.sequence
        body = message.WhichOneof("body")
        if body == "reports":
            # Only the parts that there are: each look at another one would cost something.
            parts: dict[str, Any] = {f.name: value for f, value in message.reports.ListFields()}
            if "logs" in parts:
                hub.lines(session, [(line.attempt, line.stream, line.text) for line in parts["logs"]])
            says_so = "draining" in parts
            session.draining = session.draining or says_so
            turn.post(
                WorkerReported(
                    session.worker,
                    reports_from(session.worker, parts.get("reports", ()), hub.tails.read),
                    tuple(parts.get("started", ())),
                    says_so,
                    parts.get("promised", 0),
                    resources_from(parts["resources"], session.run_id) if "resources" in parts else (),
                    tuple([session.run_id(run) for run in parts.get("closed_runs", ())]),
                    leases_from(parts["leases"]) if "leases" in parts else (),
                    tuple(parts.get("copies", ())),
                ),
                then=partial(_stored, session, message.sequence),
            )
        elif body == "heartbeat":
            turn.post(None, then=partial(_stored, session, message.sequence))
        else:
            raise BadMessage(f"a message after the first has the body {body!r}")

    async def FetchValue(  # noqa: N802
        self, request: worker_pb2.FetchValueRequest, context: Context
    ) -> AsyncIterator[worker_pb2.FetchValueResponse]:
        """A value in pieces."""
        named = request.value
        parts = views.fetch_value(self._hub.core, named.run_id, named.node) or self._one_value(named)
        if parts is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"run {named.run_id!r} has no value of node {named.node} that could be fetched (any more)",
            )
        template, values = parts
        first = worker_pb2.FetchValueResponse(compound=template is not None)
        if isinstance(template, BlobValue):
            first.template_blob.cid, first.template_blob.size_bytes = template
        elif template is not None:
            first.template = template
        # Taken at once: the core may change between two writes. These are references, not copies.
        for message in _pieces(first, list(values)):
            yield message

    def _one_value(self, named: value_pb2.DeferredValue) -> tuple[bytes, Iterator[Value]] | None:
        """A value that was named because an assignment has too many of them."""
        run = self._hub.core.runs.get(named.run_id)
        value = None if run is None else views.single_value(run, named.node)
        return None if value is None else (ONE_VALUE, iter((value,)))

    async def FetchFunctions(  # noqa: N802
        self, request: worker_pb2.FetchFunctionsRequest, context: Context
    ) -> worker_pb2.FetchFunctionsResponse:
        """Function bodies."""
        found = list(_functions(self._hub, request.cids))
        if not found:
            await context.abort(grpc.StatusCode.NOT_FOUND, "none of these functions is known (any more)")
        return worker_pb2.FetchFunctionsResponse(functions=found)

    async def GetCached(  # noqa: N802
        self, request: worker_pb2.GetCachedRequest, context: Context
    ) -> worker_pb2.GetCachedResponse:
        """An entry of the cache in memory."""
        found = self._hub.shared_cache.get(request.key)
        return worker_pb2.GetCachedResponse(found=found is not None, value=found or b"")

    async def PutCached(  # noqa: N802
        self, request: worker_pb2.PutCachedRequest, context: Context
    ) -> worker_pb2.PutCachedResponse:
        """Keeps an entry; one without bytes is forgotten."""
        if not 0 < len(request.key) <= CACHE_KEY_CHARS_MAX or len(request.value) > PAYLOAD_BYTES_MAX:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"an entry has a key of 1 to {CACHE_KEY_CHARS_MAX} characters and at most "
                f"{PAYLOAD_BYTES_MAX:,} bytes",
            )
        if request.value:
            ttl = seconds_of(request.ttl) if request.HasField("ttl") else None
            self._hub.shared_cache.put(request.key, request.value, ttl)
        else:
            self._hub.shared_cache.drop(request.key)
        return worker_pb2.PutCachedResponse()


def _stored(session: WorkerSession, sequence: int) -> None:
    """Everything that the message led to is in the store."""
    if sequence > session.acked:
        session.acked = sequence


def _pieces(
    message: worker_pb2.FetchValueResponse, values: Iterable[Value]
) -> Iterator[worker_pb2.FetchValueResponse]:
    """Messages of at most 1 MiB of payload; at least one."""
    size = len(message.template)
    count = 0
    for value in values:
        extra = value_size(value)
        if count >= FETCH_ITEMS or (count and size + extra > PAYLOAD_BYTES_MAX):
            yield message
            message = worker_pb2.FetchValueResponse()
            size = count = 0
        fill_value(message.items.add(), value)
        size += extra
        count += 1
    yield message


def _functions(hub: Hub, cids: Iterable[bytes]) -> Iterator[graph_pb2.Function]:
    """Those that are known, as many as fit into a message; the worker asks again for the rest."""
    size = 0
    for cid in cids:
        function = hub.functions.get(cid)
        if function is None:
            continue
        if size and size + len(function.body) > PAYLOAD_BYTES_MAX:
            return
        size += len(function.body)
        yield function_to(function)
