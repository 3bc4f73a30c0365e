"""Ends and events that are stored behind the rest, on a scheduler whose Redis answers late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio

from cascade_dist.storage.seal import Sealer
from cascade_dist.v1 import client_pb2, worker_pb2
from cascade_scheduler.core.books import Settings
from cascade_scheduler.store import writer
from cascade_scheduler.store.base import Batch
from cascade_scheduler.store.redis import RedisStore
from tests.scheduler.peers import Client, Worker, done, failed, one_task, pickled, scheduler

KEY = b"k" * 32


class Slow(RedisStore):
    """Answers come when the gate is open."""

    def __init__(self, url: str) -> None:
        super().__init__(url, Sealer(KEY))
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting: list[Any] = []

    def begin(self, batch: Batch, then: Any) -> bool:
        """Sends a batch; its answer may be told later."""

        def answered(landed: bool) -> None:
            if self.gate.is_set():
                then(landed)
            else:
                self.waiting.append((then, landed))

        return super().begin(batch, answered)

    def open_gate(self) -> None:
        """Tells what was held back, and from now on nothing is."""
        self.gate.set()
        waiting, self.waiting = self.waiting, []
        for then, landed in waiting:
            then(landed)


@pytest.fixture
async def client_of_redis(redis_server: str) -> AsyncIterator[Any]:
    client: Any = redis.asyncio.Redis.from_url(redis_server)
    await client.flushdb()
    yield client
    await client.flushdb()
    await client.aclose()


@asynccontextmanager
async def case(url: str, **options: Any) -> AsyncIterator[tuple[Any, Slow, Client, Worker]]:
    """A scheduler that has run a task, so that batches go out at once; its client and its worker."""
    store = Slow(url)
    async with (
        scheduler(store, **options) as made,
        Client(made.address) as client,
        Worker(made.address) as worker,
    ):
        await run_of(client, worker, "first")
        await client.finish("first")
        assert await made.hub.writer.flush(20)
        yield made, store, client, worker


async def assigned(worker: Worker) -> int:
    """The next attempt."""
    while not (work := await worker.work()).assignments:
        pass
    return work.assignments[0].attempt


async def run_of(client: Client, worker: Worker, run_id: str, *, good: bool = True) -> int:
    """Submits a run and does its work; returns the attempt."""
    await client.submit(run_id, one_task(), logs=True)
    attempt = await assigned(worker)
    await worker.report(done(attempt, pickled(1)) if good else failed(attempt))
    return attempt


async def until(holds: Any) -> None:
    """Waits until something holds."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)


async def watched(client: Client, run_id: str) -> list[str]:
    """The kinds of what a watcher hears until the end."""
    stream = client.stub.Watch(client_pb2.WatchRequest(run_id=run_id, follow=True), metadata=client.metadata)
    return [event.kind async for message in stream for event in message.events]


@pytest.mark.parametrize("lines", [1, 3])
async def test_lines_that_come_when_a_run_has_ended_and_is_not_stored(
    redis_server: str, client_of_redis: Any, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "TOGETHER_SECONDS", 0.1)
    async with case(redis_server) as (made, store, client, worker):
        store.gate.clear()
        attempt = await run_of(client, worker, "r")
        await until(lambda: store.waiting)
        record = made.hub.runs.get("r")
        for number in range(lines):
            reports = worker_pb2.Reports()
            reports.logs.add(attempt=attempt, stream=1, text=f"line {number}")
            known = record.events.last
            await worker.say(reports=reports)
            await until(lambda known=known: record.events.last > known)
        store.open_gate()
        await client.finish("r")
        assert len(await watched(client, "r")) == 4 + lines
        await run_of(client, worker, "next")
        await client.finish("next")
        assert await made.hub.writer.flush(20)
    stored = await stored_run(redis_server, "r")
    assert stored.state == "succeeded"
    assert stored.results
    assert stored.answer is not None


async def stored_run(url: str, run_id: str) -> Any:
    """A run as the next scheduler finds it."""
    store = RedisStore(url, Sealer(KEY))
    try:
        return await store.load_run(run_id)
    finally:
        await store.close()


@pytest.mark.parametrize("good", [True, False])
async def test_events_that_are_made_later_name_their_node(
    redis_server: str, client_of_redis: Any, good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "TOGETHER_SECONDS", 0.1)
    async with case(redis_server, core=Settings(runs_kept=2)) as (made, store, client, worker):
        store.gate.clear()
        for run_id in "abcdef":
            await run_of(client, worker, run_id, good=good)
        await until(lambda: made.hub.core.runs.get("a") is None)
        store.open_gate()
        for run_id in "abcdef":
            await client.finish(run_id)
        assert await made.hub.writer.flush(20)
        for run_id in "abcdef":
            told = (await client_of_redis.hgetall(f"cascade:run:{run_id}:meta")).get(b"events", b"")
            told += b"".join((await client_of_redis.hgetall(f"cascade:run:{run_id}:events")).values())
            assert b"TaskExecutionFinished" in told
            assert b'"","TaskExecution' not in told


async def test_a_run_that_is_stored_is_accepted_though_its_end_is_not(
    redis_server: str, client_of_redis: Any
) -> None:
    async with case(redis_server) as (made, store, client, worker):
        store.gate.clear()
        await client.submit("r", one_task())
        attempt = await assigned(worker)
        await until(lambda: store.waiting)  # its beginning has landed, and that is not told yet
        await worker.report(done(attempt, pickled(1)))
        await until(lambda: made.hub.runs.get("r").foreseen is not None)
        [(then, landed)] = store.waiting
        store.waiting.clear()
        then(landed)
        assert (await client.read()).HasField("accepted")
        store.open_gate()
        await client.finish("r")


async def test_who_follows_waits_for_the_last_events(
    redis_server: str, client_of_redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade_scheduler.services.client.WATCH_END_SECONDS", 0.02)
    async with case(redis_server) as (made, store, client, worker):
        monkeypatch.setattr(writer, "TOGETHER_SECONDS", 3_600.0)
        await run_of(client, worker, "r")
        await client.finish("r")
        store.gate.clear()
        watching = asyncio.create_task(watched(client, "r"))
        flushing = asyncio.create_task(made.hub.writer.flush(20))  # how it ended
        await until(lambda: store.waiting)
        await asyncio.sleep(0.1)
        assert not watching.done()
        store.open_gate()
        assert len(await asyncio.wait_for(watching, 20)) == 4
        assert await flushing
