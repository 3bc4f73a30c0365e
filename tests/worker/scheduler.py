"""A scheduler for tests of the worker: the real services over real gRPC, with no mind of its own."""

from __future__ import annotations

import asyncio
import itertools
import pickle
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import cloudpickle
import grpc
import grpc.aio

from cascade_dist.codec.cid import cid_of
from cascade_dist.language.resources import SCOPES, Resource
from cascade_dist.v1 import (
    client_pb2,
    client_pb2_grpc,
    graph_pb2,
    value_pb2,
    worker_pb2,
    worker_pb2_grpc,
)
from cascade_dist.wire import TokenAuth, local_versions, server_options
from cascade_dist.wire.convert import duration, to_amounts

PATIENCE = 30.0
CPU = (("cpu", 1_000_000),)


class WorkerSession:
    """One session of one worker, from the scheduler's side."""

    def __init__(self, scheduler: Scheduler, hello: worker_pb2.Hello, context: Any) -> None:
        self.scheduler = scheduler
        self.hello = hello
        self.context = context
        self.sequence = 1
        self.received = 1
        self.acks = True
        """Acknowledge reports as they come."""
        self.messages: list[worker_pb2.ConnectRequest] = []
        self.ended = asyncio.Event()
        self._writing = asyncio.Lock()
        self._bodies: dict[Any, int] = {}
        self._functions: set[bytes] = set()
        self._runs: dict[str, int] = {}

    async def say(self, **body: Any) -> None:
        """Sends one message."""
        async with self._writing:
            self.sequence += 1
            acked = self.received if self.acks else 0
            message = worker_pb2.ConnectResponse(sequence=self.sequence, acked_through=acked, **body)
            await self.context.write(message)

    async def send(self, *assignments: worker_pb2.Assignment, **work: Any) -> None:
        """Sends work, with whatever of it the worker does not know in this session."""
        new = self.scheduler.work_for(self, assignments)
        new.assignments.extend(assignments)
        for name, value in work.items():
            getattr(new, name).extend(value)
        await self.say(work=new)

    async def submit(self, *assignments: worker_pb2.Assignment, **work: Any) -> list[worker_pb2.Report]:
        """Sends work and waits for all of its reports."""
        await self.send(*assignments, **work)
        return [await self.scheduler.report(assignment.attempt) for assignment in assignments]


class Scheduler(worker_pb2_grpc.WorkerServiceServicer, client_pb2_grpc.BlobServiceServicer):
    """Makes assignments and keeps what workers report."""

    def __init__(self, token: str | None = None) -> None:
        self.auth = TokenAuth(token)
        self.address = ""
        self.sessions: list[WorkerSession] = []
        self.reports: dict[int, list[worker_pb2.Report]] = {}
        self.started: list[int] = []
        self.logs: list[tuple[int, int, str]] = []
        self.order: list[tuple[str, int]] = []
        """("log" or "report", attempt), in the order of arrival."""
        self.blobs: dict[bytes, bytes] = {}
        self.deferred: list[worker_pb2.FetchValueResponse] = []
        self.welcome: Callable[[worker_pb2.Hello], worker_pb2.Welcome] = self.default_welcome
        self.largest_message = 0
        self.inline_bytes_max = 65_536
        self.heartbeat = (0.5, 5.0)
        self.cancel_grace = 0.5
        self._attempts = itertools.count(1)
        self._specs: dict[int, tuple[graph_pb2.TaskSpec, bytes, bytes, str]] = {}
        self._resources: dict[int, tuple[Resource, ...]] = {}
        self._resource_bodies: dict[Resource, bytes] = {}
        self.resources: list[worker_pb2.ResourceReport] = []
        self.closed_runs: list[int] = []
        self._changed = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str = "127.0.0.1:0") -> None:
        """Listens."""
        self._server = grpc.aio.server(options=server_options(), interceptors=self.auth.server_interceptors)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, self._server)
        client_pb2_grpc.add_BlobServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(address)
        await self._server.start()
        self.address = f"127.0.0.1:{port}"

    async def stop(self) -> None:
        """Ends all sessions."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    # --- what tests ask -----------------------------------------------------------------------------

    async def until(self, condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
        """Waits until something is true; returns it."""
        async with asyncio.timeout(patience):
            while not (found := condition()):
                self._changed.clear()
                await self._changed.wait()
        return found

    def changed(self) -> None:
        """Something that a test may wait for has happened."""
        self._changed.set()

    async def worker(self, number: int = 1) -> WorkerSession:
        """The session that came as the so-many-th."""
        await self.until(lambda: len(self.sessions) >= number)
        return self.sessions[number - 1]

    async def report(self, attempt: int) -> worker_pb2.Report:
        """The report of an attempt, when it comes."""
        found: list[worker_pb2.Report] = await self.until(lambda: self.reports.get(attempt))
        return found[0]

    def task(
        self,
        func: Callable[..., Any],
        *args: Any,
        inputs: Sequence[value_pb2.Value] = (),
        body: bytes | None = None,
        payload: bytes | None = None,
        args_blob: value_pb2.BlobRef | None = None,
        name: str = "",
        asynchronous: bool = False,
        timeout: float | None = None,
        retry: graph_pb2.RetryPolicy | None = None,
        amounts: Sequence[tuple[str, int]] | None = None,
        mode: graph_pb2.Mode = graph_pb2.MODE_BLOCKING,
        run_id: str = "run-1",
        resources: Sequence[Resource] = (),
        **fields: Any,
    ) -> worker_pb2.Assignment:
        """An assignment that calls a function; resources come each after what it needs."""
        body = cloudpickle.dumps(func) if body is None else body
        spec = graph_pb2.TaskSpec(
            kind=graph_pb2.NODE_KIND_CALL,
            name=name or getattr(func, "__name__", "task"),
            asynchronous=asynchronous,
            mode=mode,
            amounts=to_amounts(CPU if amounts is None and not asynchronous else amounts or ()),
        )
        if timeout is not None:
            spec.timeout.CopyFrom(duration(timeout))
        if retry is not None:
            spec.retry.CopyFrom(retry)
        attempt = next(self._attempts)
        self._specs[attempt] = (spec, cid_of(body), body, run_id)
        if resources:
            self._resources[attempt] = tuple(resources)
        if payload is None:
            payload = pickle.dumps((args, {}), 5) if args else b""
        assignment = worker_pb2.Assignment(
            attempt=attempt,
            args=payload,
            inputs=inputs,
            args_blob=args_blob,
            node_id=f"{attempt:032x}",
            **fields,
        )
        if "try" not in fields:
            setattr(assignment, "try", 1)
        return assignment

    def work_for(
        self, session: WorkerSession, assignments: Sequence[worker_pb2.Assignment]
    ) -> worker_pb2.Work:
        """Runs, functions and bodies that a worker has not had; numbers the assignments' bodies."""
        work = worker_pb2.Work()
        for assignment in assignments:
            spec, cid, body, run_id = self._specs[assignment.attempt]
            if run_id not in session._runs:
                session._runs[run_id] = len(session._runs) + 1
                work.runs.add(run=session._runs[run_id], run_id=run_id, logs=True)
            if cid not in session._functions:
                session._functions.add(cid)
                work.functions.add(cid=cid, body=body, name=spec.name)
            resources = self._resources.get(assignment.attempt, ())
            key = (spec.SerializeToString(), cid, run_id, resources)
            if key not in session._bodies:
                session._bodies[key] = len(session._bodies) + 1
                made = work.bodies.add(
                    body=session._bodies[key], spec=spec, function=cid, run=session._runs[run_id]
                )
                for resource in resources:
                    self._add_resource(work, made, resource)
            assignment.body = session._bodies[key]
        return work

    def _add_resource(self, work: worker_pb2.Work, body: worker_pb2.TaskBody, resource: Resource) -> None:
        data = self._resource_bodies.setdefault(resource, cloudpickle.dumps(resource.func))
        work.functions.add(cid=cid_of(data), body=data, name=resource.name)
        body.resources.add(
            name=resource.name,
            scope=1 + SCOPES.index(resource.scope),  # type: ignore[arg-type]
            function=cid_of(data),
            requires=[marker.name for marker in resource.requires],
        )

    def default_welcome(self, hello: worker_pb2.Hello) -> worker_pb2.Welcome:
        """Keeps everything that was not reported."""
        known = [held.attempt for held in hello.held if held.attempt in self.reports]
        keep = [held.attempt for held in hello.held if held.attempt not in self.reports]
        return worker_pb2.Welcome(
            session_id=f"session-{len(self.sessions)}",
            versions=local_versions(),
            epoch=1,
            heartbeat_period=duration(self.heartbeat[0]),
            heartbeat_timeout=duration(self.heartbeat[1]),
            inline_bytes_max=self.inline_bytes_max,
            cancel_grace=duration(self.cancel_grace),
            keep=keep,
            known=known,
        )

    # --- services -----------------------------------------------------------------------------------

    async def Connect(self, request_iterator: AsyncIterator[worker_pb2.ConnectRequest], context: Any) -> None:  # noqa: N802
        """A worker's stream."""
        first = await anext(aiter(request_iterator))
        assert first.sequence == 1
        session = WorkerSession(self, first.hello, context)
        await context.write(
            worker_pb2.ConnectResponse(sequence=1, acked_through=1, welcome=self.welcome(first.hello))
        )
        self.sessions.append(session)
        self.changed()
        try:
            async for message in request_iterator:
                assert message.sequence == session.received + 1
                session.received = message.sequence
                session.messages.append(message)
                self.largest_message = max(self.largest_message, message.ByteSize())
                self._take(message)
                self.changed()
                if session.acks and message.WhichOneof("body") == "reports":
                    await session.say(heartbeat=worker_pb2.SchedulerHeartbeat())
        finally:
            session.ended.set()
            self.changed()

    def _take(self, message: worker_pb2.ConnectRequest) -> None:
        self.started.extend(message.reports.started)
        self.resources.extend(message.reports.resources)
        self.closed_runs.extend(message.reports.closed_runs)
        for line in message.reports.logs:
            self.logs.append((line.attempt, line.stream, line.text))
            self.order.append(("log", line.attempt))
        for report in message.reports.reports:
            self.reports.setdefault(report.attempt, []).append(report)
            self.order.append(("report", report.attempt))

    async def FetchValue(self, request: worker_pb2.FetchValueRequest, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """The prepared parts."""
        for part in self.deferred:
            yield part

    async def FetchFunctions(self, request: worker_pb2.FetchFunctionsRequest, context: Any) -> Any:  # noqa: N802
        """Bodies of functions that tasks were made of."""
        known = {cid: body for _, cid, body, _ in self._specs.values()}
        return worker_pb2.FetchFunctionsResponse(
            functions=[graph_pb2.Function(cid=cid, body=known[cid]) for cid in request.cids if cid in known]
        )

    async def HasBlobs(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Not asked by workers."""
        return client_pb2.HasBlobsResponse()

    async def PutBlob(self, request_iterator: AsyncIterator[client_pb2.PutBlobRequest], context: Any) -> Any:  # noqa: N802
        """Keeps a blob."""
        pieces = []
        cid = b""
        async for piece in request_iterator:
            cid = cid or piece.blob.cid
            assert len(piece.data) <= 1 << 20
            pieces.append(piece.data)
        data = b"".join(pieces)
        if cid_of(data) != cid:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "another CID")
        self.blobs[cid] = data
        return client_pb2.PutBlobResponse()

    async def GetBlob(self, request: client_pb2.GetBlobRequest, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """A blob in pieces."""
        data = self.blobs.get(request.cid)
        if data is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such blob")
        for at in range(0, len(data), 1 << 20):
            yield client_pb2.GetBlobResponse(
                size_bytes=0 if at else len(data), data=data[at : at + (1 << 20)]
            )


def value_of(report: worker_pb2.Report) -> Any:
    """The inline value of a report."""
    assert report.WhichOneof("outcome") == "done", report
    return pickle.loads(report.done.value.inline)
