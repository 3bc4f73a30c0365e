"""A scheduler that stops after any record of its journal, and the next one, which finds what was stored.

The shell, the core and the services are the real ones, the store is a real Redis; only gRPC is replaced by
queues. Workers are those of the simulation: they outlive the scheduler, and hold what they held.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import redis.asyncio

from cascade_dist import wire
from cascade_dist.client.tracker import assemble
from cascade_dist.codec.values import load
from cascade_dist.graph.build import Compilation
from cascade_dist.storage.seal import Sealer
from cascade_dist.v1 import client_pb2, value_pb2, worker_pb2
from cascade_dist.wire.graphs import Upload, encode_graph
from cascade_scheduler.blobs.memory import MemoryBlobStore
from cascade_scheduler.core import views
from cascade_scheduler.core.commands import SaveAttempt, SaveResult
from cascade_scheduler.core.invariants import check
from cascade_scheduler.core.state import Settings
from cascade_scheduler.core.values import ObjectValue
from cascade_scheduler.hub import Times
from cascade_scheduler.life import Life, SchedulerOptions
from cascade_scheduler.services.client import ClientService
from cascade_scheduler.services.worker import WorkerService
from cascade_scheduler.store.base import Batch, Record
from cascade_scheduler.store.cache import MemoryCacheStore
from cascade_scheduler.store.redis import RedisStore
from cascade_scheduler.wire.values import fill_value
from cascade_worker.core.commands import Ending
from tests.simulation.worker import Depot, Worker

__all__ = ["Cluster", "Verdict", "play"]

RUN = "r"
SECONDS_MAX = 20.0
"""How long one life may take."""
SETTINGS = Settings(fast_loops=False, chains=False, worker_grace=30.0)
TIMES = Times(heartbeat_period=5.0, heartbeat_timeout=60.0)


class Stopped(Exception):
    """The scheduler has stopped: this batch, or the rest of it, has not landed."""


class JournalStore(RedisStore):
    """A store in Redis that takes so many records and no more."""

    def __init__(self, url: str, records_max: int | None) -> None:
        super().__init__(url, Sealer(b"k" * 32))
        self._left = records_max
        self.landed: list[Record] = []
        self.cut = False
        """A batch has landed in part, which is more than a Redis would do."""
        self.stopped = asyncio.Event()

    def begin(self, batch: Batch, then: Callable[[bool], None]) -> bool:
        """Sends a batch, unless it is one with which the journal ends."""
        if self._left is not None and len(batch.records) >= self._left:
            return False

        def answered(landed: bool) -> None:
            if landed:
                self._left = None if self._left is None else self._left - len(batch.records)
                self.landed += batch.records
            then(landed)

        return super().begin(batch, answered)

    async def commit(self, batch: Batch) -> None:
        """Lands what is left to be taken; what comes after that waits for ever."""
        records = batch.records if self._left is None else batch.records[: self._left]
        if self._left is not None:
            self._left -= len(records)
        if records:
            await super().commit(batch._replace(records=records))
            self.landed += records
            self.cut = len(records) < len(batch.records)
        if self._left == 0:
            self.stopped.set()
            await asyncio.Event().wait()


class LosingStore(JournalStore):
    """A store that loses all when it has taken so many records, and stops when that is written again."""

    def __init__(self, url: str, records_max: int) -> None:
        super().__init__(url, None)
        self._before = records_max
        self._next: Sequence[Record] | None = None
        """What was to land when all was lost; it comes again when what is held has been written."""

    def begin(self, batch: Batch, then: Callable[[bool], None]) -> bool:
        """Sends a batch, unless it is the one at which all is lost."""
        lost = self._next is None and len(self.landed) >= self._before
        return not lost and batch.records is not self._next and super().begin(batch, then)

    async def commit(self, batch: Batch) -> None:
        """Lands a batch, as long as nothing is lost."""
        if self._next is None and len(self.landed) >= self._before:
            self._next = batch.records
            await self._client.flushdb()
        elif self._next is not None and batch.records is self._next:
            self.stopped.set()
            await asyncio.Event().wait()
        await super().commit(batch)


class Stream:
    """What a service sees of a peer: queues in the place of gRPC."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[Any] = asyncio.Queue()
        self.heard: deque[Any] = deque()

    def say(self, message: Any) -> None:
        """The peer says something."""
        self._said.put_nowait(type(message).FromString(message.SerializeToString()))

    async def read(self) -> Any:
        """What the peer says next."""
        return await self._said.get()

    async def write(self, message: Any) -> None:
        """Something for the peer."""
        self.heard.append(type(message).FromString(message.SerializeToString()))

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        """The service ends the stream."""
        raise AssertionError(f"{code}: {details}")

    def cancelled(self) -> bool:
        """It is not."""
        return False


class Hand(Worker):
    """A worker that keeps what it has reported until that is acknowledged, and counts what it executes."""

    def __init__(self, name: str, depot: Depot, cluster: Cluster) -> None:
        super().__init__(name, depot, cluster.deferred, inline_bytes_max=200, cpu=2, ahead=2, fast=False)
        self._unacked: list[tuple[int, tuple[int, Ending]]] = []
        self.done: list[tuple[int, tuple[str, int]]] = []
        """(attempt, node) of everything that was executed."""
        self.stream = Stream()
        self.welcome = False
        """The scheduler has answered Hello."""

    def hello(self) -> worker_pb2.Hello:
        """Says what it holds."""
        states = [(attempt, worker_pb2.HELD_STATE_WAITING) for attempt in self.waiting]
        finished = [ending for _, ending in self._unacked] + self.endings
        states += [(attempt, worker_pb2.HELD_STATE_FINISHED) for attempt, _ in finished]
        return worker_pb2.Hello(
            worker_id=self.name,
            name=self.name,
            versions=wire.local_versions(),
            amounts=[{"name": "cpu", "micros": self.cpu * 1_000_000}],
            async_credits=10,
            ahead_credits=self.ahead,
            sync_credits=10,
            object_address=self.name,
            held=[worker_pb2.HeldAttempt(attempt=attempt, state=state) for attempt, state in states],
            objects=self.objects(),
        )

    def connect(self) -> None:
        """Another stream."""
        self.stream, self.welcome = Stream(), False
        hello = self.hello()
        self.endings = [ending for _, ending in self._unacked] + self.endings
        self._unacked = []
        self.begin_session()
        self._sequence = 1
        self.stream.say(worker_pb2.ConnectRequest(sequence=1, hello=hello))

    def read(self) -> None:
        """Takes what the scheduler has said."""
        while self.stream.heard:
            message: worker_pb2.ConnectResponse = self.stream.heard.popleft()
            through = message.acked_through
            self._unacked = [entry for entry in self._unacked if entry[0] > through]
            body = message.WhichOneof("body")
            if body == "welcome":
                self._welcomed(message.welcome)
            elif body == "work":
                self.take(message)
                for attempt in message.work.retract:
                    self.give_back(attempt)
                for attempt in message.work.cancel:
                    self.cancel(attempt)

    def _welcomed(self, welcome: worker_pb2.Welcome) -> None:
        self.welcome = True
        held = {*self.waiting, *(attempt for attempt, _ in self.endings)}
        assert held == {*welcome.keep, *welcome.drop, *welcome.known}, "Welcome answers all that Hello names"
        for attempt in welcome.drop:
            self.waiting.pop(attempt, None)
            self.lose_object(attempt)
        gone = {*welcome.drop, *welcome.known}
        self.endings = [entry for entry in self.endings if entry[0] not in gone]
        for attempt in welcome.release:
            self.lose_object(attempt)

    def act(self) -> bool:
        """Executes one attempt, or reports one; False: there is nothing to do."""
        if not self.welcome:
            return False
        if len(self.endings) > 1 or (self.endings and not self.waiting):
            entry = self.endings[0]
            reports = self.report(1)
            self._unacked.append((self._sequence, entry))
            self.stream.say(worker_pb2.ConnectRequest(sequence=self._sequence, reports=reports))
            return True
        for attempt, assignment in list(self.waiting.items()):
            if not assignment.observe_only and not assignment.whole:
                place = f"{assignment.within}{assignment.step}:{assignment.node_id}"
                self.done.append((attempt, (place, assignment.map_index_plus_one)))
            self.execute(attempt)
            return True
        return False


@dataclass
class Verdict:
    """What came of a run."""

    value: Any = None
    state: str = ""
    error: str = ""
    executed: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By node."""
    events: list[tuple[str, str]] = field(default_factory=list)
    records: int = 0
    """Of the first life's journal."""
    cut: bool = False
    """The stop was within a batch."""
    again: list[tuple[str, int]] = field(default_factory=list)
    """What was executed after the stop although its result was stored before."""
    strangers: int = 0
    """What was executed before the stop by attempts that the store does not name."""


class Cluster:
    """Workers, and one scheduler after the other.

    Args:
        url: of the Redis.
        depot: where functions and objects lie.
        workers: how many there are.
    """

    def __init__(self, url: str, depot: Depot, workers: int) -> None:
        self._url = url
        self._blobs = MemoryBlobStore(1 << 20)
        self._tasks: list[asyncio.Task[Any]] = []
        self.workers = [Hand(f"w{number}", depot, self) for number in range(workers)]
        self.grace = 30.0
        self.client = Stream()
        self.updates: list[client_pb2.RunUpdate] = []
        self._dead: list[Hand] = []
        self.life: Life

    async def begin(self, records_max: int | None, *, lose: bool = False) -> JournalStore:
        """The next scheduler takes up what is stored; workers and a client come to it."""
        if lose:
            assert records_max is not None
            store: JournalStore = LosingStore(self._url, records_max)
        else:
            store = JournalStore(self._url, records_max)
        epoch = await store.open()
        options = SchedulerOptions(core=SETTINGS, times=TIMES, recovery_grace=self.grace)
        self.life = Life(
            options,
            store,
            self._blobs,
            MemoryCacheStore(1 << 20),
            epoch=epoch,
            solver=None,
            on_fenced=self._failed,
            on_bug=lambda error, story: self._failed(error),
        )
        self._bug: BaseException | None = None
        await self.life.open()
        hub = self.life.hub
        for worker in self.workers:
            worker.connect()
            self._serve(WorkerService(hub).Connect(None, worker.stream))  # type: ignore[arg-type]
        self.client = Stream()
        hello = client_pb2.ClientHello(versions=wire.local_versions())
        self.client.say(client_pb2.OpenRequest(hello=hello))
        service = ClientService(hub, address="", state="")
        self._serve(service.Open(None, self.client))  # type: ignore[arg-type]
        return store

    def _serve(self, call: Any) -> None:
        self._tasks.append(asyncio.create_task(call))

    def _failed(self, error: BaseException) -> None:
        self._bug = error

    async def stop(self, store: JournalStore) -> None:
        """The scheduler is no more; nobody is told."""
        self.life.turn.stop()
        self.life.hub.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self.life.writer.close()
        await self.life.hub.close()
        await store.close()

    def submit(self, target: Any, params: dict[str, Any] | None) -> None:
        """The client submits."""
        compilation = Compilation(target, params or {})
        options = client_pb2.RunOptions(name=RUN, on_failure=client_pb2.ON_FAILURE_CANCEL)
        for item in encode_graph(compilation, run_id=RUN, inline_max=10_000, options=options):  # type: ignore[arg-type]
            assert not isinstance(item, Upload)
            self.client.say(client_pb2.OpenRequest(submit=item.message))

    def attach(self) -> None:
        """The client comes for its run."""
        self.client.say(client_pb2.OpenRequest(attach=client_pb2.Attach(run_id=RUN)))

    async def go_on(self, until: Callable[[], bool]) -> None:
        """Lets workers work until something holds."""
        deadline = asyncio.get_running_loop().time() + SECONDS_MAX
        turn = 0
        while not until():
            if self._bug is not None:
                raise self._bug
            assert asyncio.get_running_loop().time() < deadline, "it does not come to pass"
            turn += 1
            acted = False
            for worker in self.workers:
                worker.read()
            # One worker at a time, so that a stop finds the others in the middle of something.
            for worker in self.workers[turn % len(self.workers) :] + self.workers:
                if worker.act():
                    acted = True
                    break
            self._hear()
            check(self.life.hub.core)
            await asyncio.sleep(0 if acted else 0.0005)

    def _hear(self) -> None:
        while self.client.heard:
            message: client_pb2.OpenResponse = self.client.heard.popleft()
            if message.WhichOneof("body") == "update":
                self.updates.append(message.update)
            elif message.WhichOneof("body") == "refused":
                raise LookupError(message.refused.message)

    @property
    def finish(self) -> client_pb2.RunFinish | None:
        """How the run ended, as the client was told."""
        told = [update.finish for update in self.updates if update.HasField("finish")]
        return told[-1] if told else None

    def deferred(
        self, reference: value_pb2.DeferredValue
    ) -> tuple[bytes | value_pb2.BlobRef | None, list[value_pb2.Value]]:
        """A list or container that is too large for an assignment."""
        found = views.fetch_value(self.life.hub.core, reference.run_id, reference.node)
        assert found is not None, "the scheduler named a value that it does not have"
        template, parts = found
        assert template is None or isinstance(template, bytes)
        values = []
        for part in parts:
            values.append(value_pb2.Value())
            fill_value(values[-1], part)
        return template, values

    def bury(self, worker: Hand) -> None:
        """A worker is no more, nor is what it held; it is waited for, for a moment."""
        self.grace = 0.01
        for attempt in worker.objects():
            worker.lose_object(attempt)
        self.workers.remove(worker)
        self._dead.append(worker)

    def executed(self) -> list[tuple[int, tuple[str, int]]]:
        """Everything that was executed so far."""
        return [entry for worker in (*self.workers, *self._dead) for entry in worker.done]


async def play(
    url: str,
    depot: Depot,
    target: Any,
    params: dict[str, Any] | None = None,
    *,
    stop_after: int | None = None,
    lose: bool = False,
    dies: bool = False,
    workers: int = 2,
) -> Verdict:
    """Runs a target, with a stop of the scheduler after so many records; None: without.

    With `dies` a worker is gone with the scheduler, and all that it held. With `lose` Redis loses everything
    at that moment, and the scheduler stops when it has written again what it held.
    """
    await _fresh(url)
    depot.clear()
    cluster = Cluster(url, depot, workers)
    verdict = Verdict()
    store = await cluster.begin(stop_after, lose=lose)
    cluster.submit(target, params)
    await cluster.go_on(lambda: cluster.finish is not None or store.stopped.is_set())
    written = asyncio.create_task(cluster.life.writer.flush(SECONDS_MAX))
    await cluster.go_on(lambda: written.done() or store.stopped.is_set())
    written.cancel()
    landed = store.landed
    if stop_after is not None and (store.stopped.is_set() or not lose):
        await cluster.stop(store)
        known = {record.attempt for record in landed if isinstance(record, SaveAttempt)}
        verdict.strangers = sum(attempt not in known for attempt, _ in cluster.executed())
        verdict.cut = store.cut
        if dies:
            cluster.bury(cluster.workers[0])
        cluster.updates.clear()
        store = await cluster.begin(None)
        if RUN in cluster.life.hub.runs or RUN in cluster.life.hub.past:
            cluster.attach()
        else:
            cluster.submit(target, params)
        had = set(cluster.executed())
        await cluster.go_on(lambda: cluster.finish is not None)
        saved = {
            record.attempt
            for record in landed
            if isinstance(record, SaveResult) and not (dies and isinstance(record.value, ObjectValue))
        }
        stored = {node for attempt, node in had if attempt in saved}
        verdict.again = [
            node for entry in cluster.executed() if entry not in had and (node := entry[1]) in stored
        ]
    _conclude(cluster, verdict, landed)
    await cluster.stop(store)
    return verdict


def _conclude(cluster: Cluster, verdict: Verdict, landed: Sequence[Record]) -> None:
    finish = cluster.finish
    assert finish is not None
    record = cluster.life.hub.runs.get(RUN)
    assert record is not None
    verdict.records = len(landed)
    verdict.executed = Counter(node for _, node in cluster.executed())
    verdict.state = client_pb2.RunState.Name(finish.state)
    verdict.error = finish.error.message or finish.skip_reason
    events, _ = record.events.since(0, 1_000_000)
    verdict.events = [(event.kind, event.task) for _, event in events]  # type: ignore[union-attr]
    if finish.state == client_pb2.RUN_STATE_SUCCEEDED and finish.HasField("tree"):
        results = [result for update in cluster.updates for result in update.results]
        values = {result.node: load(result.value.inline) for result in results}
        verdict.value = assemble(finish.tree, values, {})


async def _fresh(url: str) -> None:
    client: Any = redis.asyncio.Redis.from_url(url)
    await client.flushdb()
    await client.aclose()
