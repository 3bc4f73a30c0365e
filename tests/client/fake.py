"""A small scheduler for the client's tests: it speaks ClientService and BlobService and runs graphs itself.

It is one thread with one loop, as the real one is, so that a client that waits does not hold it up. Tests
steer it by attributes; what it has heard is in lists.
"""

# ruff: noqa: N802 - gRPC names its methods

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from cascade_dist.codec.arguments import load_arguments
from cascade_dist.codec.cid import cid_of
from cascade_dist.codec.exceptions import encode_exception
from cascade_dist.codec.functions import load_function
from cascade_dist.codec.values import Packed, dump_inline_or_packed, load
from cascade_dist.graph.model import NodeKind
from cascade_dist.v1 import client_pb2 as pb
from cascade_dist.v1 import client_pb2_grpc, value_pb2
from cascade_dist.wire import TokenAuth, local_versions, server_options
from cascade_dist.wire.convert import task_error


class Graph:
    """What came of one submit."""

    def __init__(self, options: pb.RunOptions) -> None:
        self.options = options
        self.specs: list[Any] = []
        self.functions: list[bytes] = []
        self.blobs: list[bytes] = []
        self.node_spec: list[int] = []
        self.args: list[bytes] = []
        self.edges: list[int] = []
        self.sources: list[int] = []
        self.blob_args: dict[int, int] = {}
        self.blob_inputs: dict[int, list[int]] = {}
        self.end: pb.GraphEnd | None = None

    def add(self, chunk: Any, bodies: dict[bytes, bytes]) -> None:
        for function in chunk.functions:
            self.functions.append(function.cid)
            if function.body:
                bodies[function.cid] = function.body
        self.specs += chunk.specs
        self.blobs += [blob.cid for blob in chunk.blobs]
        self.node_spec += chunk.node_spec
        self.args += chunk.node_args
        self.edges += chunk.node_edges
        self.sources += chunk.edge_source
        pairs = list(chunk.blob_args)
        self.blob_args.update(zip(pairs[::2], pairs[1::2], strict=True))
        pairs = list(chunk.blob_inputs)
        for node, blob in zip(pairs[::2], pairs[1::2], strict=True):
            self.blob_inputs.setdefault(node, []).append(blob)

    def values(self, bodies: dict[bytes, bytes], store: dict[bytes, bytes]) -> list[Any]:
        """Runs every node; the value of each."""
        values: list[Any] = []
        at = 0
        for node, spec_index in enumerate(self.node_spec):
            spec = self.specs[spec_index]
            inputs = [values[source] for source in self.sources[at : at + self.edges[node]]]
            at += self.edges[node]
            inputs += [load(store[self.blobs[blob]]) for blob in self.blob_inputs.get(node, [])]
            payload = self.args[node]
            if node in self.blob_args:
                payload = store[self.blobs[self.blob_args[node]]]
            if spec.kind == NodeKind.COLLECT:
                values.append(inputs)
            elif spec.kind == NodeKind.GATHER:
                values.append(load(payload, inputs))
            else:
                args, kwargs = load_arguments(payload, inputs)
                values.append(load_function(bodies[self.functions[spec.function]])(*args, **kwargs))
        return values


class Known:
    """A run that the scheduler knows."""

    def __init__(self) -> None:
        self.updates: list[pb.RunUpdate] = []
        self.finished = asyncio.Event()
        self.cancelled = asyncio.Event()


def put_together(submit: pb.Submit) -> pb.Submit:
    """A call like an earlier one, as a whole."""
    whole = pb.Submit.FromString(submit.head)
    whole.run_id = submit.run_id
    whole.chunk.node_ids = submit.node_id
    whole.chunk.node_args.append(submit.args)
    return whole


class FakeScheduler(client_pb2_grpc.ClientServiceServicer, client_pb2_grpc.BlobServiceServicer):
    """See the module."""

    def __init__(self, *, token: str | None = None, port: int = 0) -> None:
        self.token = token
        self.port = port
        self.versions = local_versions()
        self.warnings: list[str] = []
        self.inline_max = 65_536
        self.nodes_max = 0
        self.heard: list[pb.OpenRequest] = []
        self.bodies: dict[bytes, bytes] = {}
        self.runs: dict[str, Known] = {}
        self.store: dict[bytes, bytes] = {}
        self.sessions: list[asyncio.Queue[pb.OpenResponse | None]] = []
        self.half_closed = 0
        self.faults: list[BaseException] = []
        self.refuse: tuple[int, str] | None = None
        self.hold = False
        """Runs are accepted and then wait."""
        self.deaf = False
        """Nothing on the session stream is answered, and nothing after the handshake read."""
        self.on_submit: Callable[[Graph, str], list[pb.RunUpdate] | None] | None = None
        self.events: list[pb.Event] = []
        self.events_cut: int | None = None
        self.get_blob_failures = 0
        self.fetching = self.fetching_most = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._started = threading.Event()

    # --- life -----------------------------------------------------------------------------------------

    def start(self) -> FakeScheduler:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(lambda loop, context: None)
        self._loop.run_until_complete(self._serve())
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        self._server = grpc.aio.server(
            options=server_options(), interceptors=TokenAuth(self.token).server_interceptors
        )
        client_pb2_grpc.add_ClientServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        client_pb2_grpc.add_BlobServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()
        self._started.set()
        await self._stopped.wait()
        await self._server.stop(0)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(10)
        if self.faults:
            raise AssertionError("the fake has a fault") from self.faults[0]

    def call(self, what: Callable[[], Any]) -> None:
        """Does something on the scheduler's loop."""
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (what(), done.set()))
        assert done.wait(10)

    def drop_sessions(self) -> None:
        """Ends all streams with an error, as a lost network does."""
        self.call(lambda: [queue.put_nowait(None) for queue in self.sessions])

    def release(self, run_id: str) -> None:
        """Lets a run that is held go on."""
        self.call(lambda: self.runs[run_id].finished.set())

    def wait_heard(self, kind: str, count: int = 1, seconds: float = 10) -> list[Any]:
        """The messages of a kind, once there are as many."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = [getattr(m, kind) for m in list(self.heard) if m.WhichOneof("body") == kind]
            if len(found) >= count:
                return found
            time.sleep(0.002)
        raise AssertionError(f"no {count} {kind}; heard {[m.WhichOneof('body') for m in self.heard]}")

    # --- the session ----------------------------------------------------------------------------------

    async def Open(self, requests: AsyncIterator[pb.OpenRequest], context: Any) -> AsyncIterator[Any]:
        hello = await anext(requests)
        assert hello.WhichOneof("body") == "hello"
        queue: asyncio.Queue[pb.OpenResponse | None] = asyncio.Queue()
        welcome = pb.ClientWelcome(
            versions=self.versions,
            inline_bytes_max=self.inline_max,
            graph_nodes_max=self.nodes_max,
            warnings=self.warnings,
        )
        yield pb.OpenResponse(welcome=welcome)
        self.sessions.append(queue)
        reader = asyncio.ensure_future(self._read(requests, queue))
        try:
            while True:
                getting = asyncio.ensure_future(queue.get())
                await asyncio.wait([getting, reader], return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    getting.cancel()
                    if error := reader.exception():
                        self.faults.append(error)
                    return  # the client has ended its side
                message = getting.result()
                if message is None:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the network is gone")
                yield message
        finally:
            reader.cancel()
            self.sessions.remove(queue)

    async def _read(self, requests: AsyncIterator[pb.OpenRequest], queue: asyncio.Queue[Any]) -> None:
        graphs: dict[str, Graph] = {}
        tasks = set()
        if self.deaf:
            await asyncio.Event().wait()
        async for request in requests:
            if request.submit.head:
                request.submit.CopyFrom(put_together(request.submit))
            self.heard.append(request)
            body = request.WhichOneof("body")
            if body == "submit":
                self._submit(request.submit, graphs, queue, tasks)
            elif body == "attach":
                known = self.runs.get(request.attach.run_id)
                if known is None:
                    self._refuse(queue, request.attach.run_id, pb.REFUSAL_CODE_NOT_FOUND, "no such run")
                else:
                    queue.put_nowait(accepted(request.attach.run_id, joined=True))
                    tasks.add(asyncio.ensure_future(self._follow(request.attach.run_id, known, queue)))
            elif body == "cancel" and request.cancel.run_id in self.runs:
                self.runs[request.cancel.run_id].cancelled.set()
        self.half_closed += 1

    def _refuse(self, queue: asyncio.Queue[Any], run_id: str, code: Any, text: str) -> None:
        refused = pb.Refused(run_id=run_id, code=code, message=text)
        queue.put_nowait(pb.OpenResponse(refused=refused))

    def _submit(
        self, submit: pb.Submit, graphs: dict[str, Graph], queue: asyncio.Queue[Any], tasks: set[Any]
    ) -> None:
        run_id = submit.run_id
        for function in submit.functions:
            self.bodies[function.cid] = function.body
        graph = graphs.setdefault(run_id, Graph(submit.options))
        graph.add(submit.chunk, self.bodies)
        if submit.HasField("end"):
            graph.end = submit.end
        if graph.end is None:
            return
        if self.refuse is not None:
            self._refuse(queue, run_id, *self.refuse)
            return
        if missing := [cid for cid in graph.functions if cid not in self.bodies]:
            needed = pb.FunctionsNeeded(run_id=run_id, cids=missing)
            queue.put_nowait(pb.OpenResponse(functions_needed=needed))
            return
        joined = run_id in self.runs
        if not joined:
            self.runs[run_id] = Known()
            self.runs[run_id].updates = self._execute(graph, run_id)
        del graphs[run_id]
        queue.put_nowait(accepted(run_id, joined=joined))
        tasks.add(asyncio.ensure_future(self._follow(run_id, self.runs[run_id], queue)))

    async def _follow(self, run_id: str, known: Known, queue: asyncio.Queue[Any]) -> None:
        if self.hold and not known.finished.is_set():
            waits = [asyncio.ensure_future(e.wait()) for e in (known.finished, known.cancelled)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            if known.cancelled.is_set():
                finish = pb.RunFinish(state=pb.RUN_STATE_CANCELLED)
                known.updates = [pb.RunUpdate(run_id=run_id, finish=finish)]
        for update in known.updates:
            queue.put_nowait(pb.OpenResponse(update=update))

    def _execute(self, graph: Graph, run_id: str) -> list[pb.RunUpdate]:
        if self.on_submit is not None:
            updates = self.on_submit(graph, run_id)
            if updates is not None:
                return updates
        assert graph.end is not None
        try:
            value = graph.values(self.bodies, self.store)[graph.end.target]
        except BaseException as error:
            finish = pb.RunFinish(
                state=pb.RUN_STATE_FAILED, error=task_error(encode_exception(error)), failed_task="failing"
            )
            return [pb.RunUpdate(run_id=run_id, finish=finish)]
        results = [self.result(graph.end.target, value)]
        tree = pb.TargetTree(node=graph.end.target)
        return [pb.RunUpdate(run_id=run_id, results=results, finish=succeeded(tree))]

    def result(self, node: int, value: Any) -> pb.NodeResult:
        """A value as it travels: inline or as a blob."""
        payload = dump_inline_or_packed(value, self.inline_max)
        if isinstance(payload, Packed):
            return pb.NodeResult(node=node, value=value_pb2.Value(blob=self.keep(payload.to_bytes())))
        return pb.NodeResult(node=node, value=value_pb2.Value(inline=payload))

    def keep(self, data: bytes) -> value_pb2.BlobRef:
        """Puts bytes into the blob store."""
        cid = cid_of(data)
        self.store[cid] = data
        return value_pb2.BlobRef(cid=cid, size_bytes=len(data))

    # --- calls ----------------------------------------------------------------------------------------

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.WatchResponse]:
        if request.run_id not in self.runs:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no run {request.run_id!r}")
        wanted = [event for event in self.events if event.event_id > request.after]
        truncated = bool(wanted) and wanted[0].event_id > request.after + 1
        for index in range(0, len(wanted), 2):
            yield pb.WatchResponse(events=wanted[index : index + 2], truncated=truncated and index == 0)
            if self.events_cut is not None and wanted[index].event_id >= self.events_cut:
                self.events_cut = None
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the network is gone")

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:
        if request.run_id not in self.runs:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no run {request.run_id!r}; see `cascade runs`")
        node = pb.NodeInfo(node=3, task="slow", state="running", worker="w1")
        return pb.GetRunResponse(run=self._info(request.run_id), nodes=[node] * bool(request.nodes_max))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Any) -> pb.ListRunsResponse:
        return pb.ListRunsResponse(runs=[self._info(run_id) for run_id in self.runs])

    def _info(self, run_id: str) -> pb.RunInfo:
        known = self.runs[run_id]
        state = pb.RUN_STATE_CANCELLING if known.cancelled.is_set() else pb.RUN_STATE_SUCCEEDED
        info = pb.RunInfo(run_id=run_id, name="a name", state=state, progress=pb.Progress(total=2, done=1))
        info.submitted.FromJsonString("2026-11-20T10:00:00Z")
        info.duration.FromMilliseconds(1500)
        return info

    async def CancelRun(self, request: pb.CancelRunRequest, context: Any) -> pb.CancelRunResponse:
        if request.run_id not in self.runs:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no run {request.run_id!r}")
        self.runs[request.run_id].cancelled.set()
        return pb.CancelRunResponse(state=pb.RUN_STATE_CANCELLING)

    async def ListWorkers(self, request: Any, context: Any) -> pb.ListWorkersResponse:
        worker = pb.WorkerInfo(worker_id="id1", name="w1", state="connected", host="here", pid=7, running=1)
        worker.amounts.add(name="cpu", micros=2_000_000)
        worker.free.add(name="cpu", micros=500_000)
        worker.versions.CopyFrom(self.versions)
        return pb.ListWorkersResponse(workers=[worker])

    async def GetStatus(self, request: Any, context: Any) -> pb.GetStatusResponse:
        status = pb.GetStatusResponse(address=self.address, workers=1, state="memory://", epoch=1)
        status.versions.CopyFrom(self.versions)
        status.amounts.add(name="cpu", micros=2_000_000)
        status.pools.add(name="license", micros=3_000_000)
        status.pools_free.add(name="license", micros=500_000)
        return status

    async def HasBlobs(self, request: pb.HasBlobsRequest, context: Any) -> pb.HasBlobsResponse:
        return pb.HasBlobsResponse(present=[cid in self.store for cid in request.cids])

    async def PutBlob(self, requests: AsyncIterator[pb.PutBlobRequest], context: Any) -> pb.PutBlobResponse:
        cid, data = b"", bytearray()
        async for request in requests:
            cid = cid or request.blob.cid
            data += request.data
            assert len(request.data) <= 1 << 20
        if cid_of(bytes(data)) != cid:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "these are not the bytes of that CID")
        self.store[cid] = bytes(data)
        return pb.PutBlobResponse()

    async def GetBlob(self, request: pb.GetBlobRequest, context: Any) -> AsyncIterator[pb.GetBlobResponse]:
        data = self.store.get(request.cid)
        if data is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such blob")
        assert data is not None
        self.fetching += 1
        self.fetching_most = max(self.fetching, self.fetching_most)
        try:
            await asyncio.sleep(0.01)  # so that others come meanwhile
            for at in range(0, len(data), 1 << 20):
                if self.get_blob_failures and at:
                    self.get_blob_failures -= 1
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the network is gone")
                yield pb.GetBlobResponse(size_bytes=len(data), data=data[at : at + (1 << 20)])
        finally:
            self.fetching -= 1


def accepted(run_id: str, *, joined: bool = False) -> pb.OpenResponse:
    return pb.OpenResponse(accepted=pb.Accepted(run_id=run_id, joined=joined, node_count=1))


def succeeded(tree: pb.TargetTree | None = None, **fields: Any) -> pb.RunFinish:
    return pb.RunFinish(state=pb.RUN_STATE_SUCCEEDED, tree=tree, **fields)
