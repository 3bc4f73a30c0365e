"""The client for asyncio programs: the same names, to be awaited.

The work is done by the same session on the same background thread, so nothing that a caller does in its own
loop holds up results, and nothing here holds up the caller's loop: what compiles and pickles graphs runs in a
thread.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from types import TracebackType
from typing import Any, Generic, TypeVar

from cascade_dist.client import api
from cascade_dist.client.cluster import Cluster, say
from cascade_dist.client.constraints import Constraint
from cascade_dist.client.events import Event
from cascade_dist.client.handles import Run, check_process
from cascade_dist.client.records import (
    ClusterStatus,
    Garbage,
    NodeExplanation,
    Progress,
    RunDetails,
    RunInfo,
    RunStatus,
    WorkerInfo,
)
from cascade_dist.client.run_files import ExportedRun, ImportedRun
from cascade_dist.client.session import Session
from cascade_dist.client.storing import BlobInfo
from cascade_dist.client.submitting import check_run_id
from cascade_dist.language.resources import Resource
from cascade_dist.language.stored import Stored
from cascade_dist.language.warn import called_from_here
from cascade_dist.state.source import StateSource

__all__ = ["AsyncCluster", "AsyncRun", "connect", "put", "run"]

STOP_SECONDS = 5.0
"""How long who is cancelled in the middle of a submit waits for its end, so that the run is cancelled too."""

T = TypeVar("T")


class AsyncRun(Generic[T]):
    """A run: awaiting it gives its value, or raises what `Run.result` raises.

    Cancelling a task that awaits it cancels the run, as with every awaitable; ``asyncio.shield`` keeps it.
    """

    def __init__(self, run: Run[T], session: Session) -> None:
        self.run = run
        """The handle for threads."""
        self._session = session

    @property
    def id(self) -> str:
        """As `Run.id`."""
        return self.run.id

    @property
    def name(self) -> str:
        """As `Run.name`."""
        return self.run.name

    @property
    def status(self) -> RunStatus:
        """As `Run.status`."""
        return self.run.status

    @property
    def progress(self) -> Progress:
        """As `Run.progress`."""
        return self.run.progress

    def __await__(self) -> Generator[Any, None, T]:
        check_process(self._session.pid, f"the handle of run {self.id!r}")
        return asyncio.wrap_future(self.run).__await__()

    async def result(self, timeout: float | None = None) -> T:
        """The value of the run's target; the run goes on when `timeout` seconds are over."""
        check_process(self._session.pid, f"the handle of run {self.id!r}")
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self.run)), timeout)
        except TimeoutError:
            if self.run.done():
                return self.run.result()
            raise self.run._late(timeout) from None

    def done(self) -> bool:
        """Whether the run has ended."""
        return self.run.done()

    def cancelled(self) -> bool:
        """Whether it ended as cancelled."""
        return self.run.cancelled()

    def cancel(self) -> bool:
        """As `Run.cancel`: returns at once."""
        return self.run.cancel()

    async def events(self, after: int = 0, *, follow: bool = True) -> AsyncIterator[Event]:
        """As `Run.events`."""
        async for event in _events(self._session, self.run.id, after, follow):
            yield event

    def graph(self) -> Any:
        """As `Run.graph`."""
        return self.run.graph()

    def __repr__(self) -> str:
        return f"<Async{repr(self.run)[1:]}"

    def _repr_html_(self) -> str:
        return self.run._repr_html_()


async def _events(session: Session, run_id: str, after: int, follow: bool) -> AsyncIterator[Event]:
    session.check_process()
    batches = session.watch(run_id, after, follow)

    async def following() -> list[Event] | None:
        return await anext(batches, None)

    try:
        while (batch := await asyncio.wrap_future(session.background.start(following()))) is not None:
            for event in batch:
                yield event
    finally:
        if not session.closed:
            await asyncio.wrap_future(session.background.start(batches.aclose()))


class AsyncCluster:
    """A cluster; made by `connect`. Arguments and errors of all methods are those of `Cluster`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        """The handle for threads."""

    async def submit(self, target: Any, **options: Any) -> AsyncRun[Any]:
        """As `Cluster.submit`."""
        run = await _in_thread(self.cluster.submit, target, **options)
        return AsyncRun(run, self.cluster._session)

    async def run(self, target: Any, *, timeout: float | None = None, **options: Any) -> Any:
        """As `Cluster.run`; a task that is cancelled here cancels its run."""
        run = await self._submit_whole(target, options)
        try:
            value = await run.result(timeout)
            if run.run._telling is not None:
                await _in_thread(run.run._telling.finish)
            return value
        except TimeoutError:
            if not run.cancel():
                return run.run.result()  # it has ended: with this very error, or after all
            raise TimeoutError(
                f"run {run.id!r} has not ended within {timeout:g} s and is cancelled"
            ) from None
        except asyncio.CancelledError:
            if run.cancel():
                say(f"interrupted; cancelled run {run.id}")
            raise

    async def _submit_whole(self, target: Any, options: dict[str, Any]) -> AsyncRun[Any]:
        """Submits; cancelled meanwhile, the run is too, as soon as the thread that submits it has done so."""
        with called_from_here():
            thread = asyncio.to_thread(self.cluster.submit, target, **options)
            submitting = asyncio.ensure_future(thread)
        try:
            run = await asyncio.shield(submitting)
        except asyncio.CancelledError:
            submitting.add_done_callback(self._stop)
            await asyncio.wait((submitting,), timeout=STOP_SECONDS)
            raise
        return AsyncRun(run, self.cluster._session)

    def _stop(self, submitting: asyncio.Future[Run[Any]]) -> None:
        """Cancels a run that nobody waits for any more."""
        if submitting.cancelled() or submitting.exception() is not None:
            return
        run = AsyncRun(submitting.result(), self.cluster._session)
        if run.cancel():
            say(f"interrupted; cancelled run {run.id}")

    async def attach(self, run_id: str, **options: Any) -> AsyncRun[Any]:
        """As `Cluster.attach`."""
        return AsyncRun(await _in_thread(self.cluster.attach, run_id, **options), self.cluster._session)

    async def resume_run(self, run_id: str) -> AsyncRun[Any]:
        """As `Cluster.resume_run`."""
        return AsyncRun(await _in_thread(self.cluster.resume_run, run_id), self.cluster._session)

    def register(self, resource: Resource) -> Resource:
        """As `Cluster.register`."""
        return self.cluster.register(resource)

    async def put(self, obj: Any, *, pin: bool = False) -> Stored:
        """As `Cluster.put`."""
        return await _in_thread(self.cluster.put, obj, pin=pin)

    async def blobs(self) -> list[BlobInfo]:
        """As `Cluster.blobs`."""
        return await _in_thread(self.cluster.blobs)

    async def pin(self, *blobs: Stored | str) -> None:
        """As `Cluster.pin`."""
        await _in_thread(self.cluster.pin, *blobs)

    async def unpin(self, *blobs: Stored | str) -> list[bool]:
        """As `Cluster.unpin`."""
        return await _in_thread(self.cluster.unpin, *blobs)

    async def save_blob(self, blob: Stored | str, path: str | os.PathLike[str]) -> int:
        """As `Cluster.save_blob`."""
        return await _in_thread(self.cluster.save_blob, blob, path)

    async def status(self) -> ClusterStatus:
        """As `Cluster.status`."""
        return await _in_thread(self.cluster.status)

    async def workers(self) -> list[WorkerInfo]:
        """As `Cluster.workers`."""
        return await _in_thread(self.cluster.workers)

    async def runs(self, limit: int = 100) -> list[RunInfo]:
        """As `Cluster.runs`."""
        return await _in_thread(self.cluster.runs, limit)

    async def describe(self, run_id: str, *, nodes: int = 0, finished: bool = False) -> RunDetails:
        """As `Cluster.describe`."""
        return await _in_thread(self.cluster.describe, run_id, nodes=nodes, finished=finished)

    async def explain(self, run_id: str, node: int | str) -> list[NodeExplanation]:
        """As `Cluster.explain`."""
        return await _in_thread(self.cluster.explain, run_id, node)

    def events(self, run_id: str, after: int = 0, *, follow: bool = True) -> AsyncIterator[Event]:
        """As `Cluster.events`."""
        return _events(self.cluster._session, check_run_id(run_id), after, follow)

    async def cancel(self, run_id: str) -> RunStatus:
        """As `Cluster.cancel`."""
        return await _in_thread(self.cluster.cancel, run_id)

    async def pause(
        self, scope: str = "global", *, ttl: float | str | None = None, id: str | None = None
    ) -> Constraint:
        """As `Cluster.pause`."""
        return await _in_thread(self.cluster.pause, scope, ttl=ttl, id=id)

    async def resume(self, scope: str = "global") -> bool:
        """As `Cluster.resume`."""
        return await _in_thread(self.cluster.resume, scope)

    async def set_concurrency(
        self, scope: str, limit: int, *, ttl: float | str | None = None, id: str | None = None
    ) -> Constraint:
        """As `Cluster.set_concurrency`."""
        return await _in_thread(self.cluster.set_concurrency, scope, limit, ttl=ttl, id=id)

    async def set_rate_limit(
        self,
        scope: str,
        rate: float | str,
        *,
        capacity: float | None = None,
        ttl: float | str | None = None,
        id: str | None = None,
    ) -> Constraint:
        """As `Cluster.set_rate_limit`."""
        call = self.cluster.set_rate_limit
        return await _in_thread(call, scope, rate, capacity=capacity, ttl=ttl, id=id)

    async def constraints(self) -> list[Constraint]:
        """As `Cluster.constraints`."""
        return await _in_thread(self.cluster.constraints)

    async def clear_constraints(
        self, scope: str | None = None, type: str | None = None, id: str | None = None
    ) -> list[Constraint]:
        """As `Cluster.clear_constraints`."""
        return await _in_thread(self.cluster.clear_constraints, scope, type, id)

    async def export_run(self, run_id: str, file: str | os.PathLike[str]) -> ExportedRun:
        """As `Cluster.export_run`."""
        return await _in_thread(self.cluster.export_run, run_id, file)

    async def import_run(self, file: str | os.PathLike[str], *, run_id: str | None = None) -> ImportedRun:
        """As `Cluster.import_run`."""
        return await _in_thread(self.cluster.import_run, file, run_id=run_id)

    async def collect_garbage(
        self, *, dry_run: bool = False, blobs_idle: float | str = "1h"
    ) -> list[Garbage]:
        """As `Cluster.collect_garbage`."""
        return await _in_thread(self.cluster.collect_garbage, dry_run=dry_run, blobs_idle=blobs_idle)

    async def close(self) -> None:
        """As `Cluster.close`."""
        await _in_thread(self.cluster.close)

    @property
    def address(self) -> str:
        """As `Cluster.address`."""
        return self.cluster.address

    @property
    def closed(self) -> bool:
        """As `Cluster.closed`."""
        return self.cluster.closed

    async def __aenter__(self) -> AsyncCluster:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _leave(self, kind)

    def __repr__(self) -> str:
        return f"<async {repr(self.cluster)[1:]}"

    def _repr_html_(self) -> str:
        return self.cluster._repr_html_()


class _Connecting:
    """What `connect` gives: to be awaited, or used with ``async with``."""

    def __init__(self, address: str | None, options: Mapping[str, Any]) -> None:
        self._address = address
        self._options = options
        self._made: AsyncCluster | None = None

    async def _connect(self) -> AsyncCluster:
        connecting = asyncio.ensure_future(_in_thread(api.connect, self._address, **self._options))
        try:
            made = AsyncCluster(await asyncio.shield(connecting))
            if made.cluster._keeper is not None:
                made.cluster._keeper.loop = asyncio.get_running_loop()
            return made
        except asyncio.CancelledError:
            # The thread goes on to its end; what it makes belongs to nobody.
            connecting.add_done_callback(_close_orphan)
            raise

    def __await__(self) -> Generator[Any, None, AsyncCluster]:
        return self._connect().__await__()

    async def __aenter__(self) -> AsyncCluster:
        self._made = await self._connect()
        return self._made

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._made is not None:
            await _leave(self._made, kind)


async def _leave(cluster: AsyncCluster, kind: type[BaseException] | None) -> None:
    stopped = kind is not None and issubclass(kind, asyncio.CancelledError | KeyboardInterrupt)
    await _in_thread(cluster.cluster._close, "interrupted" if stopped else "closed")


def _close_orphan(connecting: asyncio.Future[Cluster]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        cluster = connecting.result()
        asyncio.get_running_loop().run_in_executor(None, cluster.close)


async def _in_thread(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    with called_from_here():
        return await asyncio.to_thread(call, *args, **kwargs)


def connect(address: str | None = None, **options: Any) -> _Connecting:
    """As `cascade_dist.connect`: ``async with connect(…) as cluster``, or ``cluster = await connect(…)``."""
    return _Connecting(address, options)


async def put(obj: Any, *, cluster: AsyncCluster | None = None, pin: bool = False) -> Stored:
    """As `cascade_dist.put`."""
    return await _in_thread(api.put, obj, cluster=None if cluster is None else cluster.cluster, pin=pin)


async def run(
    target: Any,
    *,
    cluster: AsyncCluster | None = None,
    state_backend: StateSource | None = None,
    run_id: str | None = None,
    **options: Any,
) -> Any:
    """As `cascade_dist.run`; the methods of a state backend are called in the caller's event loop."""
    given = None if cluster is None else cluster.cluster
    chosen, factory = await _in_thread(api.choose_cluster, given, state_backend)
    if factory is not None:
        loop = asyncio.get_running_loop()
        run_id = await _in_thread(api.expect_state, chosen, factory, run_id, loop)
    return await AsyncCluster(chosen).run(target, run_id=run_id, **options)
