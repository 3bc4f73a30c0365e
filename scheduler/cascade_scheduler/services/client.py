"""ClientService: sessions, and single questions."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Iterable
from functools import partial
from typing import Any

import grpc
import grpc.aio

from cascade_dist import wire
from cascade_dist.errors import RunFileError
from cascade_dist.v1 import client_pb2, client_pb2_grpc
from cascade_dist.wire.direct import pump
from cascade_scheduler import recalling, recovery, resuming
from cascade_scheduler.blobs.base import BlobError
from cascade_scheduler.core import views
from cascade_scheduler.core.commands import EventRecord, RunEnded
from cascade_scheduler.core.events import MessageArrived
from cascade_scheduler.core.explain import explain, find_nodes
from cascade_scheduler.core.limits import ConstraintInvalid
from cascade_scheduler.core.run import Run
from cascade_scheduler.hub import Hub
from cascade_scheduler.runs import RunRecord
from cascade_scheduler.services import following
from cascade_scheduler.services.client_session import ClientSession
from cascade_scheduler.services.constraints import clear_constraints, list_constraints, set_constraint
from cascade_scheduler.services.garbage import IDLE_SECONDS, collect_garbage
from cascade_scheduler.services.keeping import keep_state
from cascade_scheduler.services.run_files import RunFileRefused, RunFiles
from cascade_scheduler.services.submits import Submits
from cascade_scheduler.store.base import StoredHead, StoreUnavailable
from cascade_scheduler.store.keeper import KeeperStore
from cascade_scheduler.wire.updates import event_to, explanation_to, node_to, run_to, worker_to
from cascade_scheduler.wire.values import amounts_to, duration_of, seconds_of

__all__ = ["ClientService"]

HELLO_SECONDS = 30.0
RUNS_LISTED = 100
RUNS_LISTED_MAX = 10_000
NODES_LISTED_MAX = 10_000
TOPIC_CHARS_MAX = 512
EVENTS_PER_MESSAGE = 500
WATCH_SECONDS = 0.05
"""A watcher is told of events at most this often."""
WATCH_LOOK_SECONDS = 30.0
WATCH_END_SECONDS = 5.0
"""How long the last events of a run that is over are waited for: they are stored when its end is known."""

Context = grpc.aio.ServicerContext[Any, Any]

logger = logging.getLogger("cascade.scheduler")


class ClientService(client_pb2_grpc.ClientServiceServicer):
    """The scheduler's side for clients."""

    def __init__(self, hub: Hub, *, address: str, state: str, keeper: KeeperStore | None = None) -> None:
        self._hub = hub
        self._address = address
        self._state = state
        self._keeper = keeper
        stores = not hub.writer.immediate and keeper is None
        self._files = RunFiles(hub, stores=stores, state=state)

    # --- the session -----------------------------------------------------------------------------

    async def Open(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[client_pb2.OpenRequest], context: Context
    ) -> None:
        """A client's session, from hello to its end."""
        warnings = await self._hello(context)
        session = ClientSession(context, self._hub.bell, stall_seconds=self._hub.times.stall)
        submits = Submits(self._hub, session)
        bounds = self._hub.bounds
        session.say(
            client_pb2.OpenResponse(
                welcome=client_pb2.ClientWelcome(
                    versions=wire.local_versions(),
                    inline_bytes_max=bounds.inline_bytes_max,
                    graph_nodes_max=bounds.graph_nodes_max,
                    warnings=warnings,
                )
            )
        )
        self._hub.clients.add(session)
        reader = asyncio.create_task(self._read(session, submits, context), name="reader of a client")
        orderly = False
        try:
            await asyncio.wait((reader, session.ended), return_when=asyncio.FIRST_COMPLETED)
            if session.ended.done():
                code, reason = session.ended.result()
                await session.outbox.close()
                await context.abort(code, reason)
            orderly = reader.result()
        finally:
            reader.cancel()
            self._hub.clients.discard(session)
            submits.close()
            following.leave(self._hub, session, orderly=orderly)

    async def _hello(self, context: Context) -> list[str]:
        try:
            first = await asyncio.wait_for(context.read(), HELLO_SECONDS)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no hello within {HELLO_SECONDS:.0f} s")
        if first is grpc.aio.EOF or not first.HasField("hello"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message is a hello")
        error, warnings = wire.check_versions(first.hello.versions, "the client")
        if error is not None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, error)
        if self._hub.writer.away:
            warnings.append(f"the state in {self._state} is away: runs and results wait until it is back")
        return warnings

    async def _read(self, session: ClientSession, submits: Submits, context: Context) -> bool:
        """Takes messages until the client closes its stream; True when it did so in order."""
        room = self._hub.writer.room

        def take(message: client_pb2.OpenRequest) -> Coroutine[Any, Any, None] | bool | None:
            body = message.WhichOneof("body")
            if body != "submit":
                return self._take(session, message, body)
            if not room.is_set():
                return later(message.submit)
            submits.take(message.submit)
            return None

        async def later(submit: client_pb2.Submit) -> None:
            await room.wait()  # the store is away and the backlog full: no new runs until it is back
            submits.take(submit)

        await pump(context, take)
        return not context.cancelled() and not session.ended.done()

    def _take(self, session: ClientSession, message: client_pb2.OpenRequest, body: str | None) -> bool:
        """Takes a message that is no submit; True when it is the last one that is taken."""
        if body == "attach":
            following.attach(self._hub, session, message.attach)
        elif body == "cancel":
            record = self._hub.runs.get(message.cancel.run_id)
            if record is not None:
                following.cancel(self._hub, record, "its client asked for it")
        elif body == "detach":
            session.unfollow(message.detach.run_id)
        else:
            session.end(f"a message after the first has the body {body!r}", grpc.StatusCode.INVALID_ARGUMENT)
            return True
        return False

    # --- events ----------------------------------------------------------------------------------

    async def Watch(  # noqa: N802
        self, request: client_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[client_pb2.WatchResponse]:
        """The events of a run."""
        record = await self._run(request.run_id, context)
        after = request.after
        while True:
            over = not record.live
            found, gone = record.events.since(after, EVENTS_PER_MESSAGE)
            found = [entry for entry in found if entry[0] <= record.events.published]
            if found:
                yield client_pb2.WatchResponse(
                    events=[
                        event_to(number, logged, self._hub.chronicle.node_id(logged))
                        for number, logged in found
                    ],
                    truncated=gone,
                )
                after = found[-1][0]
                continue
            if record.events.published >= record.events.last if over else not request.follow:
                return
            if not over:
                await asyncio.sleep(WATCH_SECONDS)
            try:
                bound = WATCH_END_SECONDS if over else WATCH_LOOK_SECONDS
                if over:  # of what is published nothing was left to tell just now: lines may be gone
                    after = max(after, record.events.published)
                await asyncio.wait_for(record.events.news(after), bound)
            except TimeoutError:
                waits = request.follow and not self._hub.writer.idle
                if over and not waits and record.events.published <= after:
                    return
                # Else nothing happens in the run, or the store does not answer; the next look says more.

    # --- questions -------------------------------------------------------------------------------

    async def _run(self, run_id: str, context: Context) -> RunRecord:
        try:
            record = self._hub.runs.get(run_id) or await recalling.find(self._hub, run_id)
        except StoreUnavailable as error:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE,
                f"whether there is a run {run_id!r} cannot be told while the store is away: {error}",
            )
            raise LookupError(run_id) from error  # abort has raised already
        if record is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"no run {run_id!r} is known here: it was never submitted, or it was forgotten",
            )
            raise LookupError(run_id)  # abort has raised already
        return record

    async def GetRun(  # noqa: N802
        self, request: client_pb2.GetRunRequest, context: Context
    ) -> client_pb2.GetRunResponse:
        """One run."""
        record = await self._run(request.run_id, context)
        response = client_pb2.GetRunResponse(run=self._info(record))
        run = self._hub.core.runs.get(record.run_id)
        limit = min(request.nodes_max, NODES_LISTED_MAX)
        if run is not None and limit and (request.all_nodes or record.live):
            view = views.all_nodes if request.all_nodes else views.open_nodes
            response.nodes.extend(map(node_to, view(self._hub.core, run, limit)))
        return response

    def _info(self, record: RunRecord) -> client_pb2.RunInfo:
        """A run as clients may know it: it has not ended before they may be told so."""
        now = self._hub.now()
        run = self._hub.core.runs.get(record.run_id)
        if run is None and record.ended is not None:
            return run_to(_ended_info(record, *record.ended), now)
        if run is None:
            empty = views.Progress(record.facts.node_count, 0, 0, 0, 0, 0)
            info = views.RunInfo(record.run_id, record.name, "pending", record.submitted, None, "", empty)
            return run_to(info, now)
        info = views.run_info(run)
        if record.live and info.ended is not None:
            info = info._replace(state="running", ended=None, error="")
        return run_to(info, now)

    async def ExplainNode(  # noqa: N802
        self, request: client_pb2.ExplainNodeRequest, context: Context
    ) -> client_pb2.ExplainNodeResponse:
        """Why nodes are where they are."""
        record = await self._run(request.run_id, context)
        run = self._hub.core.runs.get(record.run_id)
        found = [] if run is None else find_nodes(run, request.node)
        if run is None or not found:
            why = "give its index, its task's name, or its id"
            if run is None:
                why = "it ended before this scheduler began" if record.recalled else "its plan is being made"
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"run {record.run_id!r} has no node {request.node[:80]!r} that could be explained: {why}",
            )
            raise LookupError(request.node)  # abort has raised already
        histories = _histories(record, run, found)
        told = [explain(self._hub.core, run, node, histories[run.key(node)]) for node in found]
        return client_pb2.ExplainNodeResponse(nodes=map(explanation_to, told))

    async def ListRuns(  # noqa: N802
        self, request: client_pb2.ListRunsRequest, context: Context
    ) -> client_pb2.ListRunsResponse:
        """The runs that are known."""
        limit = min(request.limit or RUNS_LISTED, RUNS_LISTED_MAX)
        response = client_pb2.ListRunsResponse()
        for record in self._hub.runs.newest_first():
            if len(response.runs) >= limit:
                break
            response.runs.append(self._info(record))
        for head in reversed(self._hub.past.values()):
            if len(response.runs) >= limit:
                break
            if head.run_id not in self._hub.runs:
                response.runs.append(run_to(_head_info(head), self._hub.now()))
        return response

    async def CancelRun(  # noqa: N802
        self, request: client_pb2.CancelRunRequest, context: Context
    ) -> client_pb2.CancelRunResponse:
        """Stops a run's work."""
        record = await self._run(request.run_id, context)
        noted = asyncio.get_running_loop().create_future()
        following.cancel(self._hub, record, "somebody asked for it")
        self._hub.turn.post(None, then=partial(_note, noted))
        await noted
        return client_pb2.CancelRunResponse(state=self._info(record).state)

    async def ResumeRun(  # noqa: N802
        self, request: client_pb2.ResumeRunRequest, context: Context
    ) -> client_pb2.ResumeRunResponse:
        """A run that failed or was cancelled goes on."""
        hub, run_id = self._hub, request.run_id
        if not hub.keeps_graphs:
            text = f"its state is {self._state}, so nothing is kept of runs; start it with --state redis://…"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
        if hub.writer.away:
            text = f"the state in {self._state} is away: try again when it is back"
            await context.abort(grpc.StatusCode.UNAVAILABLE, text)
        record = hub.runs.get(run_id)
        try:
            stored = await resuming.load(hub.writer, run_id)
        except StoreUnavailable as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"the store is away: {error}")
            raise
        state = "" if stored is None else stored.state
        if record is not None:  # it knows first
            state = "running" if record.ended is None else record.ended[0].state
        if stored is None or state in ("running", "succeeded"):
            code = grpc.StatusCode.NOT_FOUND if stored is None else grpc.StatusCode.FAILED_PRECONDITION
            why = {"": "is not stored here", "running": "has not ended"}.get(state, "has succeeded")
            await context.abort(code, f"run {run_id!r} {why}: only what failed or was cancelled is resumed")
            raise LookupError(run_id)  # abort has raised already
        if hub.runs.get(run_id) is not None:
            following.forget_ended(hub, run_id)
        try:
            results = await recovery.resume(hub, stored)
        except recovery.CannotGoOn as error:
            told = f"run {run_id!r} cannot be resumed: {error}"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, told)
            raise
        logger.info("run %s is resumed: %d results are there", run_id, results)
        return client_pb2.ResumeRunResponse(results=results)

    async def ListWorkers(  # noqa: N802
        self, request: client_pb2.ListWorkersRequest, context: Context
    ) -> client_pb2.ListWorkersResponse:
        """The workers that are connected, or were a moment ago."""
        now = asyncio.get_running_loop().time()
        workers = []
        for worker in self._hub.core.workers.values():
            session = self._hub.workers.get(worker.id)
            silent = 0.0 if session is None else now - session.heard_at
            versions = None if session is None else session.versions
            workers.append(worker_to(views.worker_info(worker), silent, versions))
        workers.sort(key=lambda info: (info.name, info.worker_id))
        return client_pb2.ListWorkersResponse(workers=workers)

    async def SendMessage(  # noqa: N802
        self, request: client_pb2.SendMessageRequest, context: Context
    ) -> client_pb2.SendMessageResponse:
        """A message for nodes that listen."""
        hub, topic = self._hub, request.topic
        most = hub.bounds.inline_bytes_max
        if not 0 < len(topic) <= TOPIC_CHARS_MAX:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"a topic has 1 to {TOPIC_CHARS_MAX} characters"
            )
        if len(request.payload) > most:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"the message for {topic!r} has {len(request.payload):,} bytes; it may have {most:,}",
            )
        receivers = len(hub.core.listening.get(topic, ())) if request.payload else 0
        hub.turn.post(MessageArrived(topic, request.payload, request.retain))
        return client_pb2.SendMessageResponse(receivers=receivers)

    async def GetStatus(  # noqa: N802
        self, request: client_pb2.GetStatusRequest, context: Context
    ) -> client_pb2.GetStatusResponse:
        """The cluster in numbers."""
        hub = self._hub
        info = views.cluster_info(hub.core)
        return client_pb2.GetStatusResponse(
            versions=wire.local_versions(),
            address=self._address,
            uptime=duration_of(time.monotonic() - hub.started),
            epoch=hub.epoch,
            state=f"{self._state} (away: results wait)" if hub.writer.away else self._state,
            workers=len(hub.workers),
            amounts=amounts_to(info.amounts),
            free=amounts_to(info.free),
            runs_active=info.runs_active,
            nodes_ready=info.nodes_ready,
            nodes_running=info.nodes_running,
            plans_solved=hub.plans.solved,
            plans_hit=hub.plans.hits,
            leases=hub.core.leases,
            loop_steps=hub.core.loop_steps,
            pools=amounts_to(info.pools),
            pools_free=amounts_to(info.pools_free),
        )

    # --- state -----------------------------------------------------------------------------------

    async def KeepState(  # noqa: N802
        self, request_iterator: AsyncIterator[client_pb2.KeepStateRequest], context: Context
    ) -> None:
        """Results and skips for a client that keeps them itself."""
        await keep_state(self._keeper, self._state, context)

    # --- files, garbage --------------------------------------------------------------------------

    async def ExportRun(  # noqa: N802
        self, request: client_pb2.ExportRunRequest, context: Context
    ) -> AsyncIterator[client_pb2.ExportRunResponse]:
        """A stored run as a file."""
        try:
            async for data in self._files.export(request.run_id):
                yield client_pb2.ExportRunResponse(data=data)
        except RunFileRefused as refused:
            await context.abort(refused.code, str(refused))
        except RunFileError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except (KeyError, BlobError) as error:
            await context.abort(grpc.StatusCode.DATA_LOSS, f"a blob of the run is gone: {error}")

    async def ImportRun(  # noqa: N802
        self, request_iterator: AsyncIterator[client_pb2.ImportRunRequest], context: Context
    ) -> client_pb2.ImportRunResponse:
        """Stores a run from a file."""
        try:
            return await self._files.take(context)
        except RunFileRefused as refused:
            await context.abort(refused.code, str(refused))
            raise
        except RunFileError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise

    async def CollectGarbage(  # noqa: N802
        self, request: client_pb2.CollectGarbageRequest, context: Context
    ) -> client_pb2.CollectGarbageResponse:
        """Frees what nobody needs any more."""
        idle = seconds_of(request.blobs_idle) if request.HasField("blobs_idle") else IDLE_SECONDS
        importing = self._files.importing
        return await collect_garbage(self._hub, importing, dry_run=request.dry_run, idle_seconds=idle)

    # --- limits ----------------------------------------------------------------------------------

    async def SetConstraint(  # noqa: N802
        self, request: client_pb2.SetConstraintRequest, context: Context
    ) -> client_pb2.SetConstraintResponse:
        """Sets a limit on what may start."""
        try:
            return await set_constraint(self._hub, request)
        except ConstraintInvalid as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the constraint is not set: {error}")
            raise

    async def ClearConstraints(  # noqa: N802
        self, request: client_pb2.ClearConstraintsRequest, context: Context
    ) -> client_pb2.ClearConstraintsResponse:
        """Removes limits."""
        try:
            return await clear_constraints(self._hub, request)
        except ConstraintInvalid as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no constraint is removed: {error}")
            raise

    async def ListConstraints(  # noqa: N802
        self, request: client_pb2.ListConstraintsRequest, context: Context
    ) -> client_pb2.ListConstraintsResponse:
        """The limits that hold."""
        return list_constraints(self._hub)


def _ended_info(
    record: RunRecord, ended: RunEnded, tree: views.Tree | None, progress: views.Progress
) -> views.RunInfo:
    """A run that ended before this scheduler began."""
    error = "" if ended.error is None else f"{ended.error.type}: {ended.error.message}"
    at = record.submitted + ended.duration
    return views.RunInfo(record.run_id, record.name, ended.state, record.submitted, at, error, progress)


def _head_info(head: StoredHead) -> views.RunInfo:
    """The same, as far as it is known without asking the store."""
    nothing = views.Progress(0, 0, 0, 0, 0, 0)
    return views.RunInfo(
        head.run_id, head.name, head.state, head.submitted, head.submitted, head.error, nothing
    )


def _histories(record: RunRecord, run: Run, nodes: Iterable[int]) -> dict[str, list[EventRecord]]:
    """The events of some nodes, by their ids."""
    found: dict[str, list[EventRecord]] = {run.key(node): [] for node in nodes}
    events, _ = record.events.since(0, record.events.last)
    for _, event in events:
        if isinstance(event, EventRecord) and event.node >= 0:
            mine = found.get(event.node_id or run.first_key(event.node))
            if mine is not None:
                mine.append(event)
    return found


def _note(noted: asyncio.Future[None]) -> None:
    if not noted.done():
        noted.set_result(None)
