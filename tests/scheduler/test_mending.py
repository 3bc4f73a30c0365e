"""A store that has lost what it had acknowledged gets again what is held, before anybody is told more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
import redis.asyncio

from cascade_dist.codec.cid import cid_of
from cascade_dist.storage.seal import Sealer
from cascade_scheduler.app import Scheduler
from cascade_scheduler.core.commands import SaveConstraint, SaveFrame, SaveOutcome, SaveSkip, SaveWorker
from cascade_scheduler.core.limits import PAUSE, Constraint
from cascade_scheduler.store import writer as writer_module
from cascade_scheduler.store.base import (
    Batch,
    Record,
    RunAnswered,
    RunCreated,
    RunDropped,
    Standing,
    StoredFrame,
    StoredFunction,
    StoredJump,
    StoredRun,
    StoreFenced,
    StoreGap,
    StoreUnavailable,
)
from cascade_scheduler.store.mending import Beginnings, Memory, records_of
from cascade_scheduler.store.redis import RedisStore
from cascade_scheduler.store.writer import StoreWriter
from tests.contract.test_run_store import KEY, created, fresh
from tests.scheduler.peers import Client, Graph, Worker, done, pickled, scheduler

SECONDS = 20.0
GRAPH = StoredFrame(b"chunk", b"end", (StoredFunction(cid_of(b"f"), "f", b"f", b"h"),))
JUMP = StoredJump(1, (), b"")


# --- what is kept of beginnings ------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
def test_a_run_s_beginning_is_kept_until_it_has_ended(first: bool) -> None:
    kept = Beginnings()
    kept.note([SaveSkip("r", 0, "aa", "Pruned"), created("r"), created("other")])
    assert kept.live() == ["r", "other"]
    assert kept.created("r") == created("r")
    outcome, answer = SaveOutcome("r", "succeeded", ""), RunAnswered("r", b"finish", ())
    kept.note([outcome, answer])
    assert kept.live() == ["r", "other"], "the store does not have its end yet"
    kept.landed([outcome, answer] if first else [answer, outcome])
    kept.landed([RunDropped("other")])
    assert kept.live() == []
    assert kept.ended() == ["r"]
    assert kept.created("r") == created("r", chunks=(), functions=())
    assert kept.ending("r") == (outcome, answer)
    kept.note([created("r", name="once more")])
    assert kept.live() == ["r"]
    assert kept.ended() == []


def test_of_frames_the_last_graph_and_the_last_jump_in_it_are_kept() -> None:
    kept = Beginnings()
    steps = [
        SaveFrame("r", number, stored) for number, stored in enumerate((GRAPH, JUMP, JUMP, GRAPH, JUMP), 1)
    ]
    kept.note([created("r"), *steps[:3]])
    assert kept.frames("r") == (steps[0], steps[2])
    kept.note(steps[3:])
    assert kept.frames("r") == (steps[3], steps[4])
    kept.landed([SaveOutcome("r", "failed", "")])
    assert kept.frames("r") == ()


def test_a_run_that_was_found_in_the_store_begins_as_it_was_found() -> None:
    kept = Beginnings()
    kept.remember(StoredRun(created("first")))
    kept.remember(StoredRun(created("looped", chunks=(b"chunk",)), frame=7))
    kept.remember(StoredRun(created("jumped"), frame=3, jump=JUMP))
    assert kept.frames("first") == ()
    [frame] = kept.frames("looped")
    assert (frame.number, frame.stored) == (7, StoredFrame(b"chunk", b"end", created().functions))
    assert [(frame.number, frame.stored) for frame in kept.frames("jumped")] == [(3, JUMP)]


# --- the writer ----------------------------------------------------------------------------------------


class Lossy:
    """A shared store that loses what a test says, when it says so."""

    url = "lossy://"
    immediate = False

    def __init__(self) -> None:
        self.landed: list[Sequence[Record]] = []
        self.number = 0
        self.steps: list[Exception] = []
        """Raised by the next calls, whatever they are."""
        self.known: set[str] = set()

    def _step(self) -> None:
        if self.steps:
            raise self.steps.pop(0)

    def lose(self) -> None:
        """All is gone."""
        self.landed, self.number = [], 0

    async def commit(self, batch: Batch) -> None:
        self._step()
        if batch.number == self.number + 1:
            self.number = batch.number
            self.landed.append(batch.records)
        elif batch.number != self.number:
            raise StoreGap(f"the last one is {self.number}")

    async def take_again(self) -> None:
        self._step()
        self.number = 0

    async def has_run(self, run: RunCreated) -> bool:
        self._step()
        return run.run_id in self.known


LIMITS = Standing((SaveConstraint(Constraint("p", "global", PAUSE)),), (SaveWorker("w", "w", (("cpu", 1),)),))


def held(run_id: str) -> Sequence[Record]:
    """What the core would tell."""
    return (SaveSkip(run_id, 0, "held", "Pruned"),)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between tries."""
    monkeypatch.setattr(writer_module, "RETRY_FIRST", 0.0)
    monkeypatch.setattr(writer_module, "RETRY_MAX", 0.0)


def writer_on(store: Lossy, fenced: Callable[[StoreFenced], None] | None = None) -> StoreWriter:
    def never(error: StoreFenced) -> None:
        raise AssertionError(error)

    shared: Any = store
    writer = StoreWriter(shared, on_fenced=fenced or never)
    writer.memory = Memory(shared, lambda: LIMITS, held)
    return writer


async def test_what_is_held_is_written_before_anybody_is_told_more() -> None:
    store, told = Lossy(), list[str]()
    writer = writer_on(store)
    writer.put([created("r")], [lambda: told.append("begun")])
    writer.put([created("over"), SaveOutcome("over", "succeeded", "")], [])
    assert await writer.flush(SECONDS)
    assert told == ["begun"]
    store.lose()
    store.known = {"over"}
    seen: list[int] = []
    writer.put([SaveSkip("r", 1, "new", "Pruned")], [lambda: seen.append(len(store.landed))])
    assert await writer.flush(SECONDS)
    assert store.landed == [
        [LIMITS],
        [created("r"), *held("r")],
        [*held("over"), SaveOutcome("over", "succeeded", "")],
        [SaveSkip("r", 1, "new", "Pruned")],
    ]
    assert seen == [4]


async def test_what_is_still_there_stays() -> None:
    store = Lossy()
    writer = writer_on(store)
    writer.put([created("r")], [])
    assert await writer.flush(SECONDS)
    store.lose()
    store.known = {"r"}
    writer.mend(StoreGap("seen by the lease"))
    assert await writer.flush(SECONDS)
    assert store.landed == [[LIMITS], [created("r", resumed=True), *held("r")]]


async def test_of_a_later_frame_nothing_stays_and_the_frame_is_written() -> None:
    store, kept = Lossy(), Beginnings()
    store.known = {"r"}
    frame = SaveFrame("r", 1, GRAPH)
    kept.note([created("r"), frame])
    shared: Any = store
    memory = Memory(shared, lambda: LIMITS, held)
    assert await records_of("r", kept, memory) == (created("r"), frame, *held("r"))


async def test_it_begins_again_when_the_store_loses_it_once_more_or_is_away() -> None:
    store = Lossy()
    writer = writer_on(store)
    writer.put([created("r")], [])
    assert await writer.flush(SECONDS)
    store.lose()
    store.steps = [StoreUnavailable("away"), StoreGap("lost"), StoreUnavailable("away"), StoreGap("again")]
    writer.put([SaveSkip("r", 1, "new", "Pruned")], [])
    assert await writer.flush(SECONDS)
    assert store.landed == [[LIMITS], [created("r"), *held("r")], [SaveSkip("r", 1, "new", "Pruned")]]


async def test_another_leader_ends_it() -> None:
    store, fenced, told = Lossy(), list[StoreFenced](), list[int]()
    writer = writer_on(store, fenced.append)
    store.steps = [StoreGap("lost"), StoreFenced("another leads")]
    writer.put([created("r")], [lambda: told.append(1)])
    await writer.flush(SECONDS)
    assert [str(error) for error in fenced] == ["another leads"]
    assert not told


# --- a scheduler on a real Redis -----------------------------------------------------------------------


@pytest.fixture
async def store(redis_server: str) -> AsyncIterator[RedisStore]:
    """A store on an empty Redis."""
    await fresh(redis_server)
    yield RedisStore(redis_server, Sealer(KEY))
    await fresh(redis_server)


@pytest.fixture
async def reader(redis_server: str) -> AsyncIterator[RedisStore]:
    """Reads what there is; it never leads."""
    made = RedisStore(redis_server, Sealer(KEY))
    yield made
    await made.close()


@pytest.fixture
async def client_of_redis(redis_server: str) -> AsyncIterator[Any]:
    """A plain client."""
    plain = redis.asyncio.Redis.from_url(redis_server)
    yield plain
    await plain.aclose()


def chain() -> Graph:
    """Three tasks, each behind the last."""
    graph = Graph()
    for number in range(3):
        graph.node(*([number - 1] if number else []), args=pickled(((number,), {})))
    return graph


async def written(made: Scheduler, before: int) -> None:
    """Waits until the scheduler has seen the loss, by its lease, and has mended it."""
    assert made._life is not None
    writer = made._life.writer
    async with asyncio.timeout(SECONDS):
        while writer.batches < before + 2 or writer._task:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.02)


async def lose_all(plain: Any) -> None:
    """Everything is gone, as on a server without a file."""
    await plain.flushall()


async def lose_the_tail(plain: Any) -> None:
    """The last batches are gone, as of a file that was not synced."""
    number = int(await plain.hget("cascade:batch", "number"))
    await plain.hset("cascade:batch", "number", number - 1)
    await plain.delete("cascade:run:r:results", "cascade:run:r:attempts", "cascade:workers")


async def lose_to_a_backup(plain: Any) -> None:
    """An older copy has come back."""
    await lose_the_tail(plain)
    await plain.set("cascade:epoch", 3)


@pytest.mark.parametrize("lose", [lose_all, lose_the_tail, lose_to_a_backup])
async def test_a_run_goes_on_and_is_stored_as_if_nothing_had_been_lost(
    store: RedisStore, reader: RedisStore, client_of_redis: Any, lose: Callable[[Any], Any]
) -> None:
    async with (
        scheduler(store, lease=0.5) as made,
        Client(made.address) as client,
        Worker(made.address) as worker,
    ):
        await client.submitted("r", chain())
        first = (await worker.work()).assignments[0].attempt
        await worker.report(done(first, pickled("one")))
        second = (await worker.work()).assignments[0].attempt
        await worker.acked_through(worker.sequence)
        assert made._life is not None
        before = made._life.writer.batches
        await lose(client_of_redis)
        await written(made, before)
        found = await reader.load_run("r")
        assert found is not None
        assert found.state == "running"
        assert [result.value for result in found.results.values()] == [pickled("one")]
        assert {node: last.attempt for node, last in found.attempts.items()} == {1: second}
        assert [kept.worker for kept in await reader.roster()] == ["w1"]
        assert found.events

        await worker.report(done(second, pickled("two")))
        third = (await worker.work()).assignments[0].attempt
        await worker.report(done(third, pickled("three")))
        values, _ = await client.finish("r")
        assert [value.inline for value in values.values()] == [pickled("three")]
        found = await reader.load_run("r")
        assert found is not None
        assert found.state == "succeeded"
        assert pickled("three") in [result.value for result in found.results.values()]


async def test_a_run_that_has_ended_is_not_run_again_after_its_end_was_lost(
    store: RedisStore, reader: RedisStore, client_of_redis: Any
) -> None:
    async with (
        scheduler(store, lease=0.5) as made,
        Client(made.address) as client,
        Worker(made.address) as worker,
    ):
        await client.submitted("r", chain())
        serving = asyncio.create_task(worker.serve(lambda assignment: pickled("x")))
        await client.finish("r")
        serving.cancel()
        assert made._life is not None
        before = made._life.writer.batches
        await client_of_redis.hset("cascade:run:r:meta", "state", "running")
        await client_of_redis.hdel("cascade:run:r:meta", "answer")
        await lose_the_tail(client_of_redis)
        await written(made, before)
        found = await reader.load_run("r")
        assert found is not None
        assert found.state == "succeeded"
        assert found.answer is not None
        assert pickled("x") in [result.value for result in found.results.values()]
