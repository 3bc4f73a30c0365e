"""Feeds state backends of the user's own with what the nodes of their runs gave, and why some were skipped.

The scheduler of a private cluster (`client://`) sends batches, and tells nobody of results before they are
acknowledged here. Values are loaded in this process. A backend that raises fails its run and no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from cascade_dist.client.background import BackgroundLoop
from cascade_dist.client.diagnosis import is_transient, rpc_error
from cascade_dist.codec.values import load
from cascade_dist.errors import CascadeError, StateBackendError
from cascade_dist.state.source import StateFactory, check_backend, name_of
from cascade_dist.v1 import client_pb2 as pb

if TYPE_CHECKING:
    from cascade_dist.client.handles import Run
    from cascade_dist.client.session import Session

__all__ = ["CALL_SECONDS", "Keeper"]

log = logging.getLogger("cascade.client")

CALL_SECONDS = 60.0
"""A backend's call that takes longer counts as failed: the run waits for it, and must not wait for ever."""
MARGIN_SECONDS = 5.0
"""So much later it counts as failed when it does not even let its event loop say so."""
RETRY_SECONDS = 0.1


class _Kept:
    """The backend of one run, and the loop in which its methods are called."""

    def __init__(self, run_id: str, backend: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.run_id = run_id
        self.backend = backend
        self.loop = loop
        self.call = ""
        """Which is under way, or was last."""
        self.calls = 0
        """So many have begun."""


class Keeper:
    """The backends of a cluster handle's runs.

    Args:
        session: of the handle.
        factory: makes the backends of runs for which none is given.
    """

    def __init__(self, session: Session, factory: StateFactory | None = None) -> None:
        self.factory = factory
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where backends are called that were made without a loop; None: a thread of the keeper's own."""
        self._session = session
        self._runs: dict[str, _Kept] = {}
        self._thread: BackgroundLoop | None = None
        self._lock = threading.Lock()
        self._call: Any = None
        self._last = 0
        """The last batch that was kept."""
        self._closing = False
        self._over = ""
        """Why nothing is kept any more."""
        session.keeper = self
        session.background.post(lambda: session.spawn(self._main()))

    # --- runs; any other thread -----------------------------------------------------------------------

    def expect(
        self, run_id: str, factory: StateFactory | None = None, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        """Makes the backend of a run that is about to be submitted.

        Args:
            run_id: of the run.
            factory: makes it; None: the keeper's.
            loop: calls it there; None: in a thread of the keeper's own.

        Raises:
            TypeError: the factory returned no backend.
            StateBackendError: this handle can feed no backends any more.
            Exception: what the factory raised.
        """
        factory = factory or self.factory
        if factory is None or run_id in self._runs:
            return
        if self._over:
            raise StateBackendError(
                f"the state of run {run_id!r} cannot be kept: {self._over}; connect again"
            )
        where = loop or self.loop or self._own_loop()
        made = factory(run_id)
        if inspect.isawaitable(made):
            made = asyncio.run_coroutine_threadsafe(_awaited(made), where).result(CALL_SECONDS)
        if made is None:
            return
        check_backend(made, run_id)
        self._runs[run_id] = _Kept(run_id, made, where)

    def follow(self, run: Run[Any]) -> None:
        """Lets go of the backend when the run has ended."""
        run.add_done_callback(lambda ended: self.forget(ended.id))  # type: ignore[attr-defined]

    def forget(self, run_id: str) -> None:
        """The run is over, or was never submitted."""
        self._runs.pop(run_id, None)

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._thread is None:
                self._thread = BackgroundLoop("cascade-state")
            return self._thread.loop

    # --- the stream; on the background loop -----------------------------------------------------------

    async def _main(self) -> None:
        """Goes on until the handle is closed. However it ends before, no run is left waiting."""
        try:
            await self._go_on()
        except Exception as error:
            log.exception("a fault of the client; please report it")
            self._over = f"the client has a fault ({type(error).__name__}: {error})"
        finally:
            if not self._closing:
                self._over = self._over or "the session with the scheduler is over"
                self._fail_all(self._over)

    async def _go_on(self) -> None:
        while not self._closing:
            try:
                link = await self._session._wait_link()
                await self._serve(link.client.KeepState(metadata=self._session.metadata))
            except grpc.aio.AioRpcError as error:
                if not is_transient(error):
                    self._over = str(rpc_error(self._session.address, error))
                    return
            except CascadeError:
                return  # the session is over, and with it its runs
            await asyncio.sleep(RETRY_SECONDS)

    async def _serve(self, call: Any) -> None:
        self._call = call
        try:
            await call.write(pb.KeepStateRequest())
            async for number, records in _batches(call):
                if number != self._last:
                    await self._keep(records)
                    self._last = number
                if self._closing:
                    return
                await call.write(pb.KeepStateRequest(number=number))
        finally:
            self._call = None
            call.cancel()

    async def _keep(self, records: Sequence[pb.StateRecord]) -> None:
        """Runs go on side by side; the records of one are kept in order."""
        by_run: dict[str, list[pb.StateRecord]] = {}
        for record in records:
            by_run.setdefault(record.run_id, []).append(record)
        await asyncio.gather(*(self._keep_run(run_id, found) for run_id, found in by_run.items()))

    async def _keep_run(self, run_id: str, records: Sequence[pb.StateRecord]) -> None:
        kept = self._runs.get(run_id)
        if kept is None:
            return  # it has no backend, or has failed
        work = self._apply(kept, records)
        try:
            started = asyncio.run_coroutine_threadsafe(work, kept.loop)
        except RuntimeError:
            work.close()
            error = StateBackendError(f"the event loop of run {run_id!r} is closed: its state cannot be kept")
            self._fail(run_id, error)
            return
        try:
            await self._wait_for(kept, started)
        except StateBackendError as error:
            self._fail(run_id, error)

    async def _wait_for(self, kept: _Kept, started: Future[None]) -> None:
        """Waits for a backend in its own loop, which may be blocked or come to its end.

        Raises:
            StateBackendError: as `_apply`, or nothing has happened there for too long.
        """
        waiting = asyncio.wrap_future(started)
        while True:
            before = kept.calls
            await asyncio.wait((waiting,), timeout=CALL_SECONDS + MARGIN_SECONDS)
            if waiting.done():
                break
            if kept.calls == before:
                waiting.cancel()
                raise StateBackendError(
                    f"the state backend of run {kept.run_id!r} failed in {kept.call}: it has blocked its "
                    f"event loop for more than {CALL_SECONDS:g} s"
                )
        if waiting.cancelled():
            raise StateBackendError(
                f"the state of run {kept.run_id!r} cannot be kept: the event loop of its backend has ended"
            )
        waiting.result()

    def _fail(self, run_id: str, error: StateBackendError) -> None:
        self.forget(run_id)
        self._session.fail(run_id, error)

    def _fail_all(self, why: str) -> None:
        for run_id in list(self._runs):
            self._fail(run_id, StateBackendError(f"the state of run {run_id!r} cannot be kept: {why}"))

    async def close(self) -> None:
        """Ends the stream in order: the scheduler then waits for nobody."""
        self._closing = True
        call = self._call
        if call is not None:
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
                await call.done_writing()
                await call.code()

    def stop(self) -> None:
        """Ends the thread in which backends were called. Any other thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()

    # --- a backend; on its loop -----------------------------------------------------------------------

    async def _apply(self, kept: _Kept, records: Sequence[pb.StateRecord]) -> None:
        backend = kept.backend
        for record in records:
            what, node = record.WhichOneof("what"), record.node_id
            if what == "result":
                value = await self._value(kept, record)
                await _do(kept, "put_result", f" for node {node!r}", backend.put_result, node, value)
            elif what == "skipped":
                await _do(
                    kept, "mark_skipped", f" for node {node!r}", backend.mark_skipped, node, record.skipped
                )
            elif what == "cleared":
                await _do(kept, "clear", "", backend.clear)

    async def _value(self, kept: _Kept, record: pb.StateRecord) -> Any:
        value = record.result
        form = value.WhichOneof("form")
        try:
            if form == "inline":
                return load(value.inline)
            if form == "blob":
                fetching = self._session.background.start(self._session.fetch_blob(value.blob))
                return load(await asyncio.wrap_future(fetching))
        except BaseException as error:
            if _is_stopped(error):
                raise
            raise StateBackendError(
                f"the value of node {record.node_id!r} of run {kept.run_id!r} cannot be loaded here, so its "
                f"state backend cannot keep it: {type(error).__name__}: {error}"
            ) from error
        raise StateBackendError(
            f"the value of node {record.node_id!r} of run {kept.run_id!r} came in a form that clients do not "
            f"know ({form})"
        )


async def _batches(call: Any) -> AsyncIterator[tuple[int, list[pb.StateRecord]]]:
    records: list[pb.StateRecord] = []
    async for piece in call:
        records.extend(piece.records)
        if piece.last:
            yield piece.number, records
            records = []


async def _awaited(made: Awaitable[Any]) -> Any:
    return await made


async def _do(
    kept: _Kept, name: str, about: str, method: Callable[..., Coroutine[Any, Any, None]], *args: Any
) -> None:
    call = kept.call = f"{name_of(kept.backend)}.{name}{about}"
    kept.calls += 1
    try:
        async with asyncio.timeout(CALL_SECONDS) as bound:
            made = method(*args)
            if not inspect.isawaitable(made):
                raise TypeError(f"it returned {type(made).__qualname__}, not an awaitable: write `async def`")
            await made
    except BaseException as error:
        if _is_stopped(error):
            raise
        why = (
            f"it took longer than {CALL_SECONDS:g} s"
            if bound.expired()
            else f"{type(error).__name__}: {error}"
        )
        raise StateBackendError(
            f"the state backend of run {kept.run_id!r} failed in {call}: {why}"
        ) from error


def _is_stopped(error: BaseException) -> bool:
    """Whether somebody cancels this very task; a backend may raise CancelledError by itself."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
