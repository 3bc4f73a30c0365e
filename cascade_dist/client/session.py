"""A session: one stream to a scheduler for all runs of a cluster handle, opened again when it is lost.

Methods say on which thread they run; what says nothing runs on the background loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio

from cascade_dist.client import blobs
from cascade_dist.client.background import BackgroundLoop
from cascade_dist.client.diagnosis import NotLeadingError, rpc_error
from cascade_dist.client.events import Event
from cascade_dist.client.handles import Run, check_process
from cascade_dist.client.link import Endpoint, Link, LinkLostError, Metadata, frame_submit
from cascade_dist.client.patience import is_cancelled, result_of
from cascade_dist.client.records import RunStatus
from cascade_dist.client.tracker import Tracker
from cascade_dist.client.watching import watch
from cascade_dist.codec.values import Packed
from cascade_dist.errors import CascadeError, ClusterClosedError, ConnectionFailedError
from cascade_dist.v1 import client_pb2 as pb
from cascade_dist.v1 import value_pb2
from cascade_dist.wire.graphs import BODY_INLINE_MAX, Upload

if TYPE_CHECKING:
    from cascade_dist.client.keeping import Keeper

__all__ = ["Session"]

log = logging.getLogger("cascade.client")

T = TypeVar("T")

BACKOFF_FIRST = 0.05
BACKOFF_MAX = 3.0
LEADER_SECONDS = 0.25
"""How often standbys are asked whether one of them leads."""
LOOK_SECONDS = 0.5
"""How often a session with runs under way looks whether its private cluster is still there."""
LOOK_AGAIN_SECONDS = 0.02
"""A submit so soon after another does not look: that takes a system call for each process."""
CANCEL_SECONDS = 30.0
CLOSE_SECONDS = 1.0
CALL_SECONDS = 30.0
FETCHES_MAX = 4
"""Blobs fetched at the same time."""


class Session:
    """All runs of one cluster handle, over one connection at a time."""

    def __init__(
        self,
        endpoint: Endpoint,
        background: BackgroundLoop,
        *,
        connect_timeout: float,
        reconnect_timeout: float,
    ) -> None:
        self.background = background
        self.connect_timeout = connect_timeout
        self.reconnect_timeout = reconnect_timeout
        self.link: Link | None = None
        self.closed = False
        self.address = str(endpoint.addresses[0])
        self._endpoint = endpoint
        self.pid = os.getpid()
        self._trackers: dict[str, Tracker] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._changed = asyncio.Event()
        """Set and replaced whenever the link comes or goes."""
        self._fetches = asyncio.Semaphore(FETCHES_MAX)
        self.expected: dict[bytes, float] = {}
        """Blobs that handles name and that were in the store when it was last asked; monotonic."""
        self._told: set[str] = set()
        self._looked_at = 0.0
        """When somebody looked last whether the processes of a private cluster are there; monotonic."""
        self.keeper: Keeper | None = None
        """Feeds state backends of the user's own."""

    # --- connecting -------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connects, from any other thread; also again after the session was lost.

        Raises:
            CascadeError: as `Link.open`; of several addresses, what the first one said.
        """
        self.check_process()
        self.background.call(self._connect())

    async def _connect(self) -> None:
        if self.closed:
            raise ClusterClosedError(CLOSED)
        if self.up:
            await self._wait_link()
            return
        self.check_there()
        link = await self._open_first_link()
        if self._endpoint.is_gone is not None:
            self.spawn(self._look_after(self._endpoint.is_gone))
        self._keeper = asyncio.get_running_loop().create_task(self._keep(link))
        self._link_is(link)

    async def _open_first_link(self) -> Link:
        """Connects; where only standbys answer, one of them will lead soon, and is waited for."""
        deadline = time.monotonic() + self.connect_timeout
        while True:
            try:
                return await self._open_link()
            except NotLeadingError:
                if time.monotonic() + LEADER_SECONDS > deadline:
                    raise
            await asyncio.sleep(LEADER_SECONDS)

    async def _open_link(self) -> Link:
        failures: list[CascadeError] = []
        for address in self._endpoint.addresses:
            try:
                link, notes = await Link.open(
                    address, self._endpoint.credentials, self._endpoint.metadata, self.connect_timeout
                )
            except CascadeError as error:
                failures.append(error)
                continue
            self.address = str(address)
            for note in notes:
                if note not in self._told:
                    self._told.add(note)
                    log.warning("%s", note)
            return link
        failures.sort(key=lambda failure: not isinstance(failure, NotLeadingError))
        for other in failures[1:]:
            failures[0].add_note(str(other))
        raise failures[0]

    @property
    def up(self) -> bool:
        """Whether there is a connection, or one is being looked for. Any thread."""
        return self._keeper is not None and not self._keeper.done()

    def _link_is(self, link: Link | None) -> None:
        self.link = link
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _keep(self, link: Link) -> None:
        """Reads the stream, and opens another when it is lost, until closed or given up."""
        try:
            await self._keep_up(link)
        except Exception as error:
            # Whoever waits must not wait for ever because of it.
            log.exception("a fault of the client; please report it")
            if self.link is not None:
                await self.link.close()
            self._lose_all(f"the client has a fault ({type(error).__name__}: {error})")

    async def _keep_up(self, link: Link) -> None:
        while True:
            self._announce(link)
            reason = await link.read(self._on_message)
            self._link_is(None)
            await link.close()
            if self.closed:
                return
            self._release_submitters()
            log.info("lost the session with the scheduler at %s: %s", self.address, reason)
            found = await self._find_again(reason)
            if found is None:
                return
            link = found
            self._link_is(link)

    async def _find_again(self, reason: str) -> Link | None:
        """Connects again within the bound, or tells every run that it is lost."""
        deadline = time.monotonic() + self.reconnect_timeout
        delay = BACKOFF_FIRST
        while True:
            gone = self.gone()
            if gone is None:
                try:
                    return await self._open_link()
                except ConnectionFailedError as error:
                    last: CascadeError = error
                except CascadeError as error:
                    gone = str(error)
            if gone is None and time.monotonic() + delay < deadline:
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, BACKOFF_MAX)
                continue
            why = gone or f"it did not come back within {self.reconnect_timeout:g} s ({last})"
            self._lose_all(f"the scheduler at {self.address} went away ({reason}): {why}")
            return None

    async def _look_after(self, is_gone: Callable[[], str | None]) -> None:
        """Ends what is under way when no process is left to do it."""
        while self.up or self._keeper is None:
            await asyncio.sleep(LOOK_SECONDS)
            if self._trackers and (why := is_gone()) is not None:
                self._lose_runs(why)

    @property
    def metadata(self) -> Metadata:
        """Goes with every call."""
        return self._endpoint.metadata

    def gone(self) -> str | None:
        """Why nothing can be run any more on a private cluster, or None. Any thread."""
        return None if self._endpoint.is_gone is None else self._endpoint.is_gone()

    def check_there(self) -> None:
        """Refuses to go on when the processes of a private cluster have ended. Any thread.

        Raises:
            ClusterClosedError: they have; says which, and the end of its log.
        """
        now = time.monotonic()
        if now - self._looked_at < LOOK_AGAIN_SECONDS:
            return
        if (why := self.gone()) is not None:
            raise ClusterClosedError(why)
        self._looked_at = now

    def _lose_runs(self, why: str) -> None:
        for tracker in list(self._trackers.values()):
            tracker.lose(f"run {tracker.run.id!r} is lost: {why}")

    def _lose_all(self, why: str) -> None:
        self._lose_runs(why)
        self._link_is(None)

    def _announce(self, link: Link) -> None:
        """Tells a new connection of the runs that are under way."""
        for tracker in list(self._trackers.values()):
            run_id = tracker.run.id
            if not tracker.begun:
                continue
            if tracker.accepted:
                # What was printed while there was no connection is told now.
                attach = pb.Attach(
                    run_id=run_id, logs=tracker.logs, own=tracker.run._owned, lines_after=tracker.line_seen
                )
                link.send(pb.OpenRequest(attach=attach).SerializeToString())
            elif tracker.message is not None:
                link.send(tracker.message)
            else:
                continue
            if tracker.cancelling:
                link.send(pb.OpenRequest(cancel=pb.Cancel(run_id=run_id)).SerializeToString())

    def _release_submitters(self) -> None:
        """Tells who sends a graph in parts that it has to begin again."""
        for tracker in list(self._trackers.values()):
            if tracker.message is None and not tracker.accepted:
                tracker.settle_taken(LinkLostError())

    async def _wait_link(self) -> Link:
        """The link, once it stands; bounded by the keeper, which gives up in the end."""
        while self.link is None:
            if self.closed:
                raise ClusterClosedError(CLOSED)
            if not self.up:
                raise ConnectionFailedError(f"the scheduler at {self.address} is lost; connect again")
            await self._changed.wait()
        return self.link

    def wait_link(self) -> Link:
        """The link, from any other thread; connects again when the session was given up."""
        link = self.link
        if link is not None:
            return link
        self.connect()
        return self.background.call(self._wait_link())

    def check_process(self) -> None:
        """Refuses to go on in a forked child or when closed. Any thread."""
        check_process(self.pid, "this cluster handle")
        if self.closed:
            raise ClusterClosedError(CLOSED)

    # --- runs ---------------------------------------------------------------------------------------

    def _on_message(self, message: pb.OpenResponse) -> None:
        body = message.WhichOneof("body")
        if body is None or body == "welcome":
            return
        content = getattr(message, body)
        tracker = self._trackers.get(content.run_id)
        if tracker is None:
            return
        try:
            self._tell(tracker, body, content)
        except Exception as error:
            log.exception("a fault of the client; please report it")
            tracker.lose(f"the client has a fault ({type(error).__name__}: {error})")

    def _tell(self, tracker: Tracker, body: str, content: Any) -> None:
        if body == "update":
            tracker.on_update(content)
        elif body == "accepted":
            tracker.on_accepted(content)
        elif body == "refused":
            tracker.on_refused(content)
        elif body == "functions_needed":
            self.spawn(self._send_functions(tracker, set(content.cids)))

    async def _send_functions(self, tracker: Tracker, cids: set[bytes]) -> None:
        functions, link = tracker.functions, self.link
        if functions is None or link is None:
            return
        submit = pb.Submit(run_id=tracker.run.id)
        for cid in cids:
            body = functions.body(cid)
            if body is None:
                continue
            if len(body) > BODY_INLINE_MAX:
                await self._put_blob(Upload(cid, len(body), Packed.of(body)))
                body = b""
            submit.functions.add(cid=cid, body=body)
        link.send(frame_submit(submit))

    def live(self, run_id: str) -> Tracker | None:
        """The tracker of a run that is under way. Any thread."""
        return self._trackers.get(run_id)

    def live_runs(self) -> list[Run[Any]]:
        """The runs that are under way. Any thread."""
        return [tracker.run for tracker in list(self._trackers.values())]

    def begin(self, tracker: Tracker) -> None:
        """Starts to follow a run, and sends its submit if it is in one part. Any thread."""
        self._trackers[tracker.run.id] = tracker
        link, message = self.link, tracker.message
        if link is not None and message is not None:
            tracker.begun = True  # before it is sent: a connection that comes now has to tell of the run too
            if link.send_now(message) and not self.closed:
                return  # else who closes may have gone through the runs before this one was among them
        self.background.post(self._begin, tracker)

    def _begin(self, tracker: Tracker) -> None:
        tracker.begun = True
        if self.closed:
            tracker.lose(CLOSED)
        elif tracker.message is None:
            return
        elif self.link is not None:
            self.link.send(tracker.message)
        elif not self.up:
            tracker.lose(f"the session with the scheduler at {self.address} was lost just now; submit again")
        # Else the message goes out when there is a connection again.

    def attach(self, tracker: Tracker) -> None:
        """Joins a run that the scheduler knows; returns when it has answered. Any other thread."""
        request = pb.Attach(run_id=tracker.run.id, logs=tracker.logs)
        tracker.message = pb.OpenRequest(attach=request).SerializeToString()
        taken = tracker.reset_taken()
        if not self.up:
            self.connect()
        self.begin(tracker)
        try:
            result_of(taken)
        except BaseException:
            self.abandon(tracker)
            raise

    def abandon(self, tracker: Tracker) -> None:
        """Stops a run whose submit failed or was interrupted half way. Any other thread."""

        async def stop() -> None:
            self._cancel(tracker.run)
            tracker.stop()

        try:
            self.background.call(stop(), CLOSE_SECONDS)
        except (ClusterClosedError, TimeoutError):
            pass  # closing stops it

    def forget(self, tracker: Tracker) -> None:
        """The run has ended."""
        if self._trackers.get(tracker.run.id) is tracker:
            del self._trackers[tracker.run.id]

    def cancel(self, run: Run[Any]) -> None:
        """Stops a run. Any thread."""
        run._status = RunStatus.CANCELLING
        self.background.post(self._cancel, run)

    def _cancel(self, run: Run[Any]) -> None:
        tracker = self._trackers.get(run.id)
        if tracker is None or tracker.cancelling:
            return
        tracker.cancelling = True
        if self.link is not None:
            self.link.send(pb.OpenRequest(cancel=pb.Cancel(run_id=run.id)).SerializeToString())
        asyncio.get_running_loop().call_later(CANCEL_SECONDS, tracker.cancel_is_over)

    def fail(self, run_id: str, error: BaseException) -> None:
        """Ends a run here with an error of this side, and stops its work."""
        tracker = self._trackers.get(run_id)
        if tracker is None:
            return
        if self.link is not None:
            self.link.send(pb.OpenRequest(cancel=pb.Cancel(run_id=run_id)).SerializeToString())
        tracker.fail(error)

    # --- calls ----------------------------------------------------------------------------------------

    def ask(self, method: str, request: Any, *, timeout: float = CALL_SECONDS) -> Any:
        """One call of ClientService, from any other thread.

        Raises:
            RunNotFoundError: the scheduler does not know the run.
            ConnectionFailedError: it does not answer.
        """
        self.check_process()
        return self.background.call(self.ask_async(method, request, timeout=timeout))

    async def link_up(self) -> Link:
        """The link, for a call; connects again when the session was given up."""
        self.check_process()
        if not self.up:
            await self._connect()
        return await self._wait_link()

    async def ask_async(self, method: str, request: Any, *, timeout: float = CALL_SECONDS) -> Any:
        """One call of ClientService."""
        link = await self.link_up()
        try:
            return await getattr(link.client, method)(
                request, metadata=self._endpoint.metadata, timeout=timeout
            )
        except grpc.aio.AioRpcError as error:
            raise rpc_error(self.address, error) from None
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            # The channel was closed under the call, since the session was lost.
            raise ConnectionFailedError(f"the scheduler at {self.address} is lost; ask again") from None

    def watch(self, run_id: str, after: int, follow: bool) -> AsyncGenerator[list[Event], None]:
        """The events of a run, in batches."""

        async def stream(request: pb.WatchRequest) -> AsyncIterator[pb.WatchResponse]:
            link = await self._wait_link()
            call = link.client.Watch(request, metadata=self._endpoint.metadata)
            try:
                async for response in call:
                    yield response
            finally:
                call.cancel()

        return watch(stream, run_id, after, follow, self.address)

    def events(self, run_id: str, after: int, follow: bool) -> Iterator[Event]:
        """The events of a run, from any other thread."""
        batches = self.watch(run_id, after, follow)

        async def following() -> list[Event] | None:
            return await anext(batches, None)

        try:
            while (batch := self.background.call(following())) is not None:
                yield from batch
        finally:
            if not self.closed:
                self.background.call(batches.aclose(), CALL_SECONDS)

    # --- blobs ----------------------------------------------------------------------------------------

    async def fetch_blob(self, ref: value_pb2.BlobRef) -> memoryview:
        """A blob's bytes, checked; few at a time."""
        async with self._fetches:
            return await self._patiently(
                lambda link: blobs.fetch(link.blobs, ref, self._endpoint.metadata, self.in_thread)
            )

    def put_blob(self, upload: Upload) -> None:
        """Stores a blob unless it is there. Any other thread."""
        self.background.call(self._put_blob(upload))

    async def _put_blob(self, upload: Upload) -> None:
        await self._patiently(lambda link: blobs.put(link.blobs, upload, self._endpoint.metadata))

    def with_blobs(self, act: Callable[[Link, Metadata], Coroutine[Any, Any, T]]) -> T:
        """Does something with the blob service, given its link; any thread but the loop's.

        Raises:
            CascadeError: as `blobs.blob_error`.
        """
        self.check_process()
        return self.background.call(self._patiently(lambda link: act(link, self._endpoint.metadata)))

    def ask_blobs(self, method: str, request: Any) -> Any:
        """One call of BlobService; any thread but the loop's.

        Raises:
            CascadeError: as `blobs.blob_error`.
        """

        async def ask(link: Link, metadata: Metadata) -> Any:
            return await getattr(link.blobs, method)(request, metadata=metadata, timeout=CALL_SECONDS)

        return self.with_blobs(ask)

    async def _patiently(self, act: Callable[[Link], Coroutine[Any, Any, T]]) -> T:
        """Does something that can be done again when the connection is lost meanwhile."""
        for attempt in range(blobs.ATTEMPTS_MAX):
            link = await self._wait_link()
            try:
                return await act(link)
            except grpc.aio.AioRpcError as error:
                if attempt + 1 == blobs.ATTEMPTS_MAX or error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise blobs.blob_error(self.address, error) from None
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                if attempt + 1 == blobs.ATTEMPTS_MAX:
                    raise ConnectionFailedError(f"the scheduler at {self.address} is lost") from None
            await asyncio.sleep(BACKOFF_FIRST * 2**attempt)
        raise AssertionError

    async def in_thread(self, call: Callable[..., T], *args: Any) -> T:
        """Runs something slow beside the loop."""
        return await asyncio.get_running_loop().run_in_executor(None, call, *args)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Starts a coroutine that ends with the session."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a fault of the client; please report it", exc_info=error)

    # --- the end --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stops the runs that this session started and ends it. Any other thread; once more does nothing."""
        if self.closed:
            return
        self.closed = True
        try:
            self.background.call(self._close(), CLOSE_SECONDS * 5)
        except TimeoutError:
            log.warning("the session with the scheduler at %s did not close in time", self.address)

    async def _close(self) -> None:
        link = self.link
        if link is not None:
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    if self.keeper is not None:
                        await self.keeper.close()
                    await self._say_goodbye(link)
            except TimeoutError:
                log.info("the scheduler at %s did not hear that this client goes", self.address)
        for tracker in list(self._trackers.values()):
            if tracker.run._owned:
                tracker.stop()
            else:
                tracker.lose(f"{CLOSED}; run {tracker.run.id!r} goes on: attach to it by its id")
        for task in [*self._tasks, *([self._keeper] if self._keeper else [])]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._keeper is not None:
            await asyncio.gather(self._keeper, return_exceptions=True)
        if link is not None:
            await link.close()
        self._link_is(None)

    async def _say_goodbye(self, link: Link) -> None:
        for tracker in list(self._trackers.values()):
            if tracker.run._owned and not tracker.cancelling:
                link.send(pb.OpenRequest(cancel=pb.Cancel(run_id=tracker.run.id)).SerializeToString())
        await link.flush()
        await link.half_close()
        if self._keeper is not None:
            # Dropping the connection before the scheduler has read to its end could cost what was sent.
            await asyncio.wait([self._keeper])


CLOSED = "the cluster handle is closed"
