"""A scheduler in this process, and peers made by hand that talk to it over real streams."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import grpc
import grpc.aio

from cascade_dist import wire
from cascade_dist.codec.cid import cid_of
from cascade_dist.v1 import client_pb2, client_pb2_grpc, graph_pb2, value_pb2, worker_pb2, worker_pb2_grpc
from cascade_scheduler.app import Scheduler, SchedulerOptions
from cascade_scheduler.blobs.base import BlobStore
from cascade_scheduler.blobs.memory import MemoryBlobStore
from cascade_scheduler.hub import Times
from cascade_scheduler.store.base import RunStore
from cascade_scheduler.store.memory import ForgetfulStore

SECONDS = 10.0
"""How long a test waits for anything."""
BODY = b"\x80\x05X\x08\x00\x00\x00function."
TIMES = Times(heartbeat_period=0.2, heartbeat_timeout=2.0)

Values = Callable[[worker_pb2.Assignment], bytes]


@asynccontextmanager
async def scheduler(
    store: RunStore | None = None, blobs: BlobStore | None = None, **options: Any
) -> AsyncIterator[Scheduler]:
    """A scheduler that listens on a free port."""
    options.setdefault("times", TIMES)
    options.setdefault("drain_timeout", 5.0)
    made = Scheduler(
        SchedulerOptions(**options), store or ForgetfulStore(7), blobs or MemoryBlobStore(64 << 20)
    )
    await made.start()
    run = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        made.stop()
        made.stop()
        await asyncio.wait_for(run, SECONDS)


def pickled(value: object) -> bytes:
    """A value as it travels inline."""
    return pickle.dumps(value, protocol=5)


class Graph:
    """A graph by hand: nodes in order, each with its edges."""

    def __init__(self, *, body: bytes = BODY) -> None:
        self.chunk = graph_pb2.GraphChunk()
        self.chunk.functions.add(cid=cid_of(body), body=body, name="mod.f", code_hash=b"h")
        self.specs: dict[bytes, int] = {}

    def node(
        self,
        *sources: int,
        kind: int = graph_pb2.NODE_KIND_CALL,
        name: str = "f",
        args: bytes = b"",
        edge: int = graph_pb2.EDGE_KIND_DATA,
        condition: int | None = None,
        **spec: Any,
    ) -> int:
        """Adds a node; returns its index."""
        if kind == graph_pb2.NODE_KIND_CALL:
            spec.setdefault("amounts", [graph_pb2.Amount(name="cpu", micros=1_000_000)])
        message = graph_pb2.TaskSpec(kind=kind, name=name, **spec)  # type: ignore[arg-type]
        key = message.SerializeToString(deterministic=True)
        if key not in self.specs:
            self.specs[key] = len(self.specs)
            self.chunk.specs.append(message)
        index = len(self.chunk.node_args)
        edges = [(source, edge) for source in sources]
        if condition is not None:
            edges.append((condition, graph_pb2.EDGE_KIND_CONDITION))
        self.chunk.node_spec.append(self.specs[key])
        self.chunk.node_ids += index.to_bytes(16, "big")
        self.chunk.node_args.append(args)
        self.chunk.node_edges.append(len(edges))
        for source, edge_kind in edges:
            self.chunk.edge_source.append(source)
            self.chunk.edge_kind.append(edge_kind)  # type: ignore[arg-type]
        return index

    def gather(self, *sources: int) -> int:
        """Adds a list of values."""
        return self.node(*sources, kind=graph_pb2.NODE_KIND_GATHER, args=b"a list of references")

    def end(
        self, target: int = -1, *, template: bytes = b"t" * 16, params: bytes = b"p"
    ) -> graph_pb2.GraphEnd:
        """Closes the graph."""
        nodes = len(self.chunk.node_args)
        return graph_pb2.GraphEnd(
            target=target % nodes,
            node_count=nodes,
            edge_count=len(self.chunk.edge_source),
            template_id=template,
            params_digest=params,
        )


def one_task(**spec: Any) -> Graph:
    """A graph of one task."""
    graph = Graph()
    graph.node(args=pickled(((1,), {})), **spec)
    return graph


class Client:
    """One session of a client."""

    def __init__(self, address: str, token: str | None = None) -> None:
        self.channel = wire.open_channel(address)
        self.metadata = wire.TokenAuth(token).metadata
        self.stub = client_pb2_grpc.ClientServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.blobs = client_pb2_grpc.BlobServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.call: Any = None
        self.welcome = client_pb2.ClientWelcome()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    async def open(self, versions: client_pb2.Versions | None = None) -> None:
        """Begins the session."""
        self.call = self.stub.Open(metadata=self.metadata)
        hello = client_pb2.ClientHello(versions=versions or wire.local_versions())
        await self.call.write(client_pb2.OpenRequest(hello=hello))
        self.welcome = (await self.read()).welcome

    async def read(self) -> client_pb2.OpenResponse:
        """The next message."""
        message: Any = await asyncio.wait_for(self.call.read(), SECONDS)
        assert message is not grpc.aio.EOF, await self.call.code()
        assert isinstance(message, client_pb2.OpenResponse)
        return message

    async def say(self, **body: Any) -> None:
        """Says something."""
        await asyncio.wait_for(self.call.write(client_pb2.OpenRequest(**body)), SECONDS)

    async def submit(
        self,
        run_id: str,
        graph: Graph,
        *,
        target: int = -1,
        template: bytes = b"t" * 16,
        params: bytes = b"p",
        **options: Any,
    ) -> None:
        """Submits a graph in one part."""
        submit = client_pb2.Submit(
            run_id=run_id,
            options=client_pb2.RunOptions(**options),
            chunk=graph.chunk,
            end=graph.end(target, template=template, params=params),
        )
        await self.say(submit=submit)

    async def submitted(self, run_id: str, graph: Graph, **more: Any) -> None:
        """Submits a graph in one part, and waits until it is accepted."""
        await self.submit(run_id, graph, **more)
        assert (await self.accepted()).run_id == run_id

    async def accepted(self) -> client_pb2.Accepted:
        """The next message, which accepts."""
        message = await self.read()
        assert message.HasField("accepted"), message
        return message.accepted

    async def refused(self) -> client_pb2.Refused:
        """The next message, which refuses."""
        message = await self.read()
        assert message.HasField("refused"), message
        return message.refused

    async def finish(self, run_id: str) -> tuple[dict[int, value_pb2.Value], client_pb2.RunFinish]:
        """Reads updates of a run until it has finished: (values by node, its end)."""
        values: dict[int, value_pb2.Value] = {}
        while True:
            message = await self.read()
            if message.HasField("accepted"):
                continue
            assert message.HasField("update"), message
            assert message.update.run_id == run_id
            values.update({result.node: result.value for result in message.update.results})
            if message.update.HasField("finish"):
                return values, message.update.finish


class Worker:
    """One session of a worker."""

    def __init__(self, address: str, worker_id: str = "w1", token: str | None = None) -> None:
        self.channel = wire.open_channel(address)
        self.metadata = wire.TokenAuth(token).metadata
        self.stub = worker_pb2_grpc.WorkerServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.worker_id = worker_id
        self.call: Any = None
        self.sequence = 0
        self.heard = 0
        self.acked = 0
        self.welcome = worker_pb2.Welcome()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    async def open(
        self, *, cpu: float = 1.0, versions: client_pb2.Versions | None = None, **hello: Any
    ) -> None:
        """Begins a session."""
        self.call = self.stub.Connect(metadata=self.metadata)
        self.sequence = self.heard = self.acked = 0
        hello = {"name": self.worker_id, "ahead_credits": 0, **hello}
        await self.say(
            hello=worker_pb2.Hello(
                worker_id=self.worker_id,
                versions=versions or wire.local_versions(),
                amounts=[graph_pb2.Amount(name="cpu", micros=int(cpu * 1e6))],
                async_credits=1000,
                sync_credits=8,
                object_address="127.0.0.1:1",
                **hello,
            )
        )
        self.welcome = (await self.read()).welcome

    async def say(self, **body: Any) -> None:
        """Says something, numbered."""
        self.sequence += 1
        message = worker_pb2.ConnectRequest(sequence=self.sequence, **body)
        await asyncio.wait_for(self.call.write(message), SECONDS)

    async def read(self) -> worker_pb2.ConnectResponse:
        """The next message; checks its number."""
        message: Any = await asyncio.wait_for(self.call.read(), SECONDS)
        assert message is not grpc.aio.EOF, (await self.call.code(), await self.call.details())
        assert isinstance(message, worker_pb2.ConnectResponse)
        self.heard += 1
        assert message.sequence == self.heard
        assert message.acked_through >= self.acked
        self.acked = message.acked_through
        return message

    async def work(self) -> worker_pb2.Work:
        """The next orders; heartbeats are passed over."""
        while True:
            message = await self.read()
            if message.HasField("work"):
                return message.work

    async def report(self, *reports: worker_pb2.Report, **more: Any) -> None:
        """Says how attempts ended."""
        await self.say(reports=worker_pb2.Reports(reports=reports, **more))

    async def acked_through(self, sequence: int) -> None:
        """Reads until the scheduler has acknowledged a message."""
        while self.acked < sequence:
            await self.read()

    async def serve(self, values: Values) -> None:
        """Does all work that comes, until cancelled."""
        while True:
            work = await self.work()
            reports = [done(a.attempt, values(a)) for a in work.assignments]
            if reports:
                await self.report(*reports)


def done(attempt: int, value: bytes | value_pb2.Value, **observed: Any) -> worker_pb2.Report:
    """The report of an attempt that returned."""
    message = value if isinstance(value, value_pb2.Value) else value_pb2.Value(inline=value)
    return worker_pb2.Report(
        attempt=attempt, done=worker_pb2.Done(value=message, preview="…", **observed), duration_ns=1_000_000
    )


def failed(attempt: int, text: str = "no", **fields: Any) -> worker_pb2.Report:
    """The report of an attempt that raised."""
    fields.setdefault("kind", worker_pb2.FAILURE_KIND_RAISED)
    error = value_pb2.TaskError(type="ValueError", message=text, traceback="Traceback …", pickled=b"\x80")
    return worker_pb2.Report(attempt=attempt, failed=worker_pb2.Failed(error=error, **fields))


async def code_of(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a stream ended."""
    while await asyncio.wait_for(_read(call), SECONDS) is not grpc.aio.EOF:
        pass
    return await call.code(), await call.details()


async def _read(call: Any) -> Any:
    try:
        return await call.read()
    except grpc.aio.AioRpcError:
        return grpc.aio.EOF


async def put_blob(
    client: Client, data: bytes, *, cid: bytes | None = None, size: int | None = None
) -> bytes:
    """Stores a blob; returns its CID."""
    name = cid_of(data) if cid is None else cid
    first = value_pb2.BlobRef(cid=name, size_bytes=len(data) if size is None else size)
    pieces: Sequence[bytes] = [data[at : at + (1 << 20)] for at in range(0, len(data), 1 << 20)] or [b""]

    async def requests() -> AsyncIterator[client_pb2.PutBlobRequest]:
        for number, piece in enumerate(pieces):
            yield client_pb2.PutBlobRequest(blob=first if number == 0 else None, data=piece)

    await client.blobs.PutBlob(requests(), metadata=client.metadata, timeout=SECONDS)
    return name
