"""Who is to be told what: the books of the shell, between the turn and the services."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from cascade_dist import wire
from cascade_dist.v1 import worker_pb2
from cascade_scheduler.blobs.base import BlobStore
from cascade_scheduler.caching import ClusterCache
from cascade_scheduler.chronicle import Chronicle
from cascade_scheduler.core import views
from cascade_scheduler.core.commands import (
    Assign,
    ConstraintsAnswered,
    EventRecord,
    FrameGone,
    LookUpCached,
    PlanWanted,
    RunEnded,
    RunRefused,
    SaveOutcome,
    StoreCached,
    TargetValue,
    WelcomeWorker,
    WorkerGone,
)
from cascade_scheduler.core.events import (
    AttemptFailed,
    CacheAnswered,
    Event,
    RunForgotten,
    WorkerDisconnected,
    WorkerReported,
)
from cascade_scheduler.core.plans import PlanCache
from cascade_scheduler.core.state import Core
from cascade_scheduler.core.values import BlobValue, DeferredValue, ErrorInfo
from cascade_scheduler.entries import EntryCache
from cascade_scheduler.eventlog import LogLine
from cascade_scheduler.functions import FunctionStore
from cascade_scheduler.runs import RunBook, RunRecord
from cascade_scheduler.services.accepting import tell_end
from cascade_scheduler.services.client_session import ClientSession, foresee
from cascade_scheduler.services.worker_session import Whose, WorkerSession
from cascade_scheduler.solving import SolverProcess
from cascade_scheduler.store.base import (
    Record,
    RunDropped,
    RunRenewed,
    StoredHead,
)
from cascade_scheduler.store.cache import CacheStore, MemoryCacheStore
from cascade_scheduler.store.writer import Make, StoreWriter, Written
from cascade_scheduler.tails import Tails
from cascade_scheduler.turn import Order, Turn
from cascade_scheduler.wire.shapes import ShapeCache
from cascade_scheduler.wire.values import PAYLOAD_BYTES_MAX, duration_of, value_size
from cascade_scheduler.wire.work import AssignmentTooLarge

__all__ = ["Bounds", "Hub", "Times"]

PROGRESS_SECONDS = 0.2
"""Clients are told of progress at most this often."""

logger = logging.getLogger("cascade.scheduler")


class Bounds(NamedTuple):
    """Bounds of what clients may send."""

    inline_bytes_max: int = 64 << 10
    graph_nodes_max: int = 2_000_000
    graph_bytes_max: int = 2 << 30
    graphs_bytes_max: int = 8 << 30
    """Of all graphs that are being sent, or whose runs have not ended, in sum."""
    shared_cache_bytes_max: int = 256 << 20
    """Of the cache in memory that workers share."""
    cluster_cache_bytes_max: int = 256 << 20
    """Of the cluster's cache of pure tasks, when it is kept in memory."""


class Times(NamedTuple):
    """Periods, in seconds."""

    heartbeat_period: float = 2.0
    heartbeat_timeout: float = 20.0
    cancel_grace: float = 5.0
    stall: float = 60.0
    """A peer that takes nothing for so long is cut off."""
    plan_slice: float = 0.010
    renew: float = 3600.0
    """How often the time to live of live runs in the store is renewed."""


class Hub:
    """The listener of the turn."""

    def __init__(
        self,
        core: Core,
        writer: StoreWriter,
        blobs: BlobStore,
        functions: FunctionStore,
        *,
        epoch: int,
        bounds: Bounds,
        times: Times,
        cache: CacheStore | None = None,
    ) -> None:
        self.core = core
        self.writer = writer
        self.blobs = blobs
        self.functions = functions
        self.epoch = epoch
        self.epochs_grow = False
        """Later leaders of the same state have higher epochs."""
        self.seal_key = b""
        """For what workers keep in Redis; empty: each uses its own."""
        self.bounds = bounds
        self.times = times
        self.plans = PlanCache()
        self.shapes = ShapeCache()
        self.tails = Tails(self)
        self.shared_cache: EntryCache[str] = EntryCache(bounds.shared_cache_bytes_max)
        """What `InMemoryCacheBackend`s on workers keep."""
        self.cluster_cache = ClusterCache(
            cache or MemoryCacheStore(bounds.cluster_cache_bytes_max), blobs, self.spawn, self._cache_answered
        )
        self.bell = writer.bell
        self.turn: Turn
        self.runs = RunBook(self._run_told, self._run_forgotten, self._keep, shows_at_once=writer.immediate)
        self.chronicle = Chronicle(core, self.runs, writer)
        self.past: dict[str, StoredHead] = {}
        """Runs that had ended before this scheduler began, oldest first; they are read when asked for."""
        self.workers: dict[str, WorkerSession] = {}
        self.clients: set[ClientSession] = set()
        self._inputs_at_ease = PAYLOAD_BYTES_MAX // 2 // bounds.inline_bytes_max
        """So many inputs fit into a message, whatever they are."""
        self.draining = False
        self.graph_bytes = 0
        """Bytes of graphs that are being sent, or whose runs have not ended."""
        self._asked: dict[int, asyncio.Future[ConstraintsAnswered]] = {}
        """Requests about limits that the core has not answered."""
        self._last_asked = 0
        self.keeps_graphs = not writer.immediate
        """Graphs go to the store as they came."""
        self.solver: SolverProcess | None = None
        """Makes the order of new shapes; None: the native one."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.started = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._idle = asyncio.Event()
        self._progress_timer: asyncio.TimerHandle | None = None
        self._beat_timer: asyncio.TimerHandle | None = None
        self._beat_at = self._loop.time()
        self._renew_at = self._loop.time() + times.renew

    @property
    def remembers_shapes(self) -> bool:
        """A small graph of a known shape needs no second look: its plan has one order."""
        return self.solver is None

    def capacity(self, pools: Iterable[tuple[str, int]] = ()) -> dict[str, int]:
        """What all workers have together, and the pools of the cluster and of a run, in micros."""
        total: dict[str, int] = {}
        for worker in self.core.workers.values():
            for name, micros in worker.amounts.items():
                total[name] = total.get(name, 0) + micros
        for pool in self.core.lines.pools.values():
            total[pool.name] = pool.total
        total.update(pools)
        return total

    # --- from the turn ---------------------------------------------------------------------------

    def orders(self, commands: Sequence[Order]) -> None:
        """Orders for workers; without a session they are moot, since the next Hello settles everything."""
        workers = self.workers
        run_id, logs = "", False
        for command in commands:
            session = workers.get(command.worker)
            if session is None:
                continue
            if isinstance(command, Assign):
                if len(command.inputs) > self._inputs_at_ease:
                    command = self._defer_inputs(command)
                if command.run_id is not run_id:
                    run_id = command.run_id
                    logs = self.runs.wants_logs(run_id)
                session.assign(command, logs=logs)
            else:
                session.order(command)

    def not_sent(self, command: Assign, error: Exception) -> None:
        """An assignment cannot be put into a message: its attempt fails, and the worker's stream goes on."""
        if isinstance(error, AssignmentTooLarge):
            told = ErrorInfo("GraphTooLargeError", str(error))
        else:
            logger.error("task %r could not be sent to a worker", command.spec.name, exc_info=error)
            why = f"{type(error).__name__}: {error}"
            told = ErrorInfo(
                "TaskLoadError", f"task {command.spec.name!r} could not be sent to a worker: {why}"
            )
        failed = AttemptFailed(command.attempt, told, "unloadable", retryable=False)
        self._loop.call_soon(self.turn.post, WorkerReported(command.worker, (failed,)))

    def _defer_inputs(self, command: Assign) -> Assign:
        """Names values instead of sending them, where all together are more than a message may carry."""
        run = self.core.runs.get(command.frame_id or command.run_id)
        if run is None or sum(map(value_size, command.inputs)) <= PAYLOAD_BYTES_MAX // 2:
            return command
        origin, _ = run.origin(command.node)
        inputs = list(command.inputs)
        for at, source in enumerate(run.graph.inputs(origin)):
            node = run.resolve(source)
            if views.is_by_name(run, node, inputs[at]):
                inputs[at] = DeferredValue(run.frame_id, node)
        return command._replace(inputs=tuple(inputs))

    def welcome(self, command: WelcomeWorker) -> None:
        """The answer to a Hello."""
        session = self.workers.get(command.worker)
        if session is None:
            return
        times = self.times
        _, warnings = wire.check_versions(session.versions, f"worker {session.name}")
        session.welcome(
            worker_pb2.Welcome(
                session_id=session.session_id,
                versions=wire.local_versions(),
                epoch=self.epoch,
                heartbeat_period=duration_of(times.heartbeat_period),
                heartbeat_timeout=duration_of(times.heartbeat_timeout),
                inline_bytes_max=self.bounds.inline_bytes_max,
                cancel_grace=duration_of(times.cancel_grace),
                keep=command.keep,
                drop=command.drop,
                known=command.known,
                release=command.release,
                warnings=warnings,
                fast_loops=self.core.settings.fast_loops,
                seal_key=self.seal_key,
                epochs_grow=self.epochs_grow,
                ipfs=self.blobs.ipfs_url,
            )
        )

    def worker_gone(self, command: WorkerGone) -> None:
        """The worker is off the books; a session that it still has ends, and it may come again."""
        logger.warning("worker %s is off the books: %s", command.worker, command.reason)
        session = self.workers.pop(command.worker, None)
        if session is not None:
            session.end(f"this worker was given up: {command.reason}")

    def events(self, commands: Sequence[EventRecord]) -> tuple[Written, Make | None, Make | None]:
        """Keeps events; see `Chronicle.events`."""
        return self.chronicle.events(commands)

    def foresee(self, commands: Sequence[TargetValue | RunEnded]) -> None:
        """Makes ready what short runs tell at their end, while the store is waited for."""
        if not self.writer.away:  # else that may be long, and all that waits would be held twice
            foresee(self.runs, commands)

    def tell(self, commands: Sequence[TargetValue | RunEnded]) -> None:
        """Clients of the runs may know this now."""
        for record in self.runs.tell(commands):
            if record.waiting:
                tell_end(record)
            for session, feed in record.feeds.items():
                session.news(feed)
        self.bell.answer_all()  # clients wait for this, and nobody for what is left to be done
        self.runs.settle_ended()

    def run_refused(self, command: RunRefused) -> Sequence[Record]:
        """The run was not taken."""
        record = self.runs.refuse(command)
        if record is not None and record.resume:  # it may be resumed later all the same
            return (SaveOutcome(command.run_id, "failed", command.message),)
        return (RunDropped(command.run_id),)

    async def ask(self, request: Callable[[int], Event]) -> ConstraintsAnswered:
        """Posts a request about limits, made with its number, and waits until it is settled and stored."""
        self._last_asked += 1
        number = self._last_asked
        answer: asyncio.Future[ConstraintsAnswered] = self._loop.create_future()
        self._asked[number] = answer
        try:
            self.turn.post(request(number))
            return await answer
        finally:
            del self._asked[number]

    def plan_wanted(self, command: PlanWanted) -> None:
        """A plan is to be made."""
        self.tails.plan(command)

    def frame_gone(self, command: FrameGone) -> None:
        """A frame is no longer needed."""
        self.tails.gone(command)

    def constraints_answered(self, command: ConstraintsAnswered) -> None:
        """A request about limits is settled and stored."""
        answer = self._asked.get(command.request)
        if answer is not None and not answer.done():
            answer.set_result(command)

    def run_ending(self, command: RunEnded, outcome: SaveOutcome | None) -> Sequence[Record]:
        """The run has ended in the core; returns what a later scheduler has to know of that."""
        record = self.runs.get(command.run_id)
        run = self.core.runs.get(command.run_id)
        told = () if outcome is None else (outcome,)
        if record is None:
            return told
        has_value = command.state == "succeeded" and not command.skip_reason
        tree = views.target_tree(run) if run is not None and has_value else None
        if tree is not None and type(tree) is not int:
            for blob in _template_blobs(tree):
                self._keep(record, blob)
        progress = views.progress(run) if run is not None else views.Progress(0, 0, 0, 0, 0, 0)
        record.ending = (command, tree, progress)
        for session in self.workers.values():
            session.run_ended(command.run_id)
        if run is None or outcome is None:
            return told
        return self.chronicle.ending(record, run, outcome)

    # --- runs ------------------------------------------------------------------------------------

    def _run_told(self, record: RunRecord) -> None:
        """Its clients know how it ended."""
        self._let_go(record)
        self.runs.prune(self.core.runs.__contains__)
        if self.draining and not self.runs.live():
            self._idle.set()

    def _run_forgotten(self, record: RunRecord) -> None:
        """Nobody may ask for it any more."""
        if record.ended is None:  # else it was let go then
            self._let_go(record)
        if record.kept:
            self.blobs.unpin(record.kept)
            record.kept = []

    def _let_go(self, record: RunRecord) -> None:
        owner, record.owner = record.owner, None
        if owner is not None:  # which may stay for long, and is not to hold on to all that it submitted
            owner.owned.discard(record)
        if record.pinned:
            self.unpin(record.pinned)
            record.pinned = ()
        self.graph_bytes -= record.graph_bytes
        record.graph_bytes = 0

    def pin(self, cids: Iterable[bytes]) -> None:
        """Keeps functions and blobs; a large function is both."""
        cids = tuple(cids)  # it may be an iterator, and is gone through twice
        self.functions.pin(cids)
        self.blobs.pin(cids)

    def unpin(self, cids: Iterable[bytes]) -> None:
        """Undoes one pin of each."""
        cids = tuple(cids)
        self.functions.unpin(cids)
        self.blobs.unpin(cids)

    def _keep(self, record: RunRecord, blob: BlobValue) -> None:
        """A blob that is part of what clients may fetch stays until the run is forgotten."""
        self.blobs.pin((blob.cid,))
        record.kept.append(blob.cid)

    def make_room(self) -> bool:
        """Forgets the oldest finished run that holds blobs, for new ones; False when there is none."""
        for record in self.runs.oldest_finished():
            if record.kept and not record.feeds:
                logger.warning("run %s is forgotten: the blob store is full", record.run_id)
                self.runs.forget(record)
                self.turn.post(RunForgotten(record.run_id))
                return True
        return False

    def cached(self, commands: Sequence[LookUpCached | StoreCached]) -> None:
        """Questions to the cluster's cache, and values for it."""
        self.cluster_cache.carry_out(commands)

    def _cache_answered(self, event: CacheAnswered) -> None:
        self.turn.post(event)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Calls back in a while."""
        self._loop.call_later(seconds, call)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs something beside the turns; what it raises is a bug."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned)

    def _spawned(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.turn.bug(error)

    async def idle(self, timeout: float) -> bool:
        """Waits, while draining, for all runs to end; False when that took longer than `timeout` seconds."""
        if not self.runs.live():
            return True
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            return False
        return True

    def logs_wanted(self, record: RunRecord) -> None:
        """Somebody wants the lines that the run's tasks print, from now on."""
        if not record.logs:
            record.logs = True
            for session in self.workers.values():
                session.logs_changed(record.run_id)

    def lines(self, session: WorkerSession, lines: Sequence[tuple[int, int, str]]) -> None:
        """Lines from a worker: (attempt, stream, text)."""
        for attempt, stream, text in lines:
            whose = session.whose(attempt) or self._whose(attempt)
            record = self.runs.get(whose.run_id) if whose is not None else None
            run = self.core.runs.get(whose.run_id) if whose is not None else None
            if whose is None or record is None or run is None:
                continue  # of a run that nobody asks for any more
            node_id = ""
            if run.framed or run.nested:
                known = self.core.attempts.get(attempt)
                node_id = whose.node_id if known is None else known.run.key(known.node)
            line = LogLine(
                record.run_id, self.now(), whose.node, whose.task, session.name, stream, text, node_id
            )
            self.runs.record_line(record, line)
            for client, feed in record.feeds.items():
                if feed.logs:
                    feed.add_line(record.events.last, line)
                    client.news(feed)

    def _whose(self, attempt_id: int) -> Whose | None:
        """The task of an attempt that was not assigned in its worker's present session."""
        attempt = self.core.attempts.get(attempt_id)
        if attempt is None or attempt.observing:
            return None
        run = attempt.run
        return Whose(run.run_id, attempt.node, run.task(attempt.node), run.key(attempt.node))

    def now(self) -> float:
        """Seconds since the Unix epoch; never runs back."""
        return _WALL + time.monotonic()

    # --- periods ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the periodic work."""
        self._beat_timer = self._loop.call_later(self._beat_period, self._beat)
        self._progress_timer = self._loop.call_later(PROGRESS_SECONDS, self._progress)

    async def close(self) -> None:
        """Ends what runs beside the turns."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop(self) -> None:
        """Ends the periodic work."""
        for timer in (self._beat_timer, self._progress_timer):
            if timer is not None:
                timer.cancel()

    @property
    def _beat_period(self) -> float:
        return min(0.25, self.times.heartbeat_period / 4)

    def _beat(self) -> None:
        """Says heartbeats and marks; looks for workers that are silent."""
        now = self._loop.time()
        late = now - self._beat_at - self._beat_period
        self._beat_at = now
        period, timeout = self.times.heartbeat_period, self.times.heartbeat_timeout
        for session in list(self.workers.values()):
            if late > period:
                # This process itself stood still: what the worker said meanwhile waits to be read.
                session.heard_at += late
            if not self.writer.room.is_set():
                session.heard_at = now  # nobody reads what it says, as long as the store is away
            session.beat(now, period)
            if now - session.heard_at > timeout:
                reason = f"nothing was heard of it for {now - session.heard_at:.0f} s"
                del self.workers[session.worker]
                session.end(reason)
                self.turn.post(WorkerDisconnected(session.worker, reason))
        if now >= self._renew_at:
            self._renew_at = now + self.times.renew
            self.turn.post(
                None, records=[RunRenewed(record.run_id, self.now()) for record in self.runs.live()]
            )
        self._beat_timer = self._loop.call_later(self._beat_period, self._beat)

    def _progress(self) -> None:
        """Tells clients of live runs how far they are, when that has changed."""
        for session in self.clients:
            for run_id, feed in session.feeds.items():
                run = self.core.runs.get(run_id)
                if run is None or not run.live:
                    continue
                progress = views.progress(run)
                if feed.told != progress:
                    feed.progress = progress
                    session.news(feed)
        self._progress_timer = self._loop.call_later(PROGRESS_SECONDS, self._progress)


def _template_blobs(tree: views.Tree) -> Iterator[BlobValue]:
    todo = [tree]
    while todo:
        branch = todo.pop()
        if isinstance(branch, views.TreeCompound):
            if isinstance(branch.template, BlobValue):
                yield branch.template
            todo.extend(branch.inputs)
        elif isinstance(branch, views.TreeList):
            todo.extend(branch.items)


_WALL = time.time() - time.monotonic()
