"""What fresh eyes have found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from cascade_dist.storage.seal import Sealer
from cascade_dist.v1 import client_pb2, worker_pb2
from cascade_scheduler.core.books import Settings
from cascade_scheduler.store import writer
from cascade_scheduler.store.redis import RedisStore
from tests.scheduler.peers import Client, Worker, done, failed, one_task, pickled, scheduler

KEY = b"k" * 32


@pytest.fixture
async def plain(redis_server: str) -> AsyncIterator[Any]:
    client = redis.asyncio.Redis.from_url(redis_server)
    await client.flushdb()
    yield client
    await client.flushdb()
    await client.aclose()


async def assigned(worker: Worker) -> int:
    """The next attempt."""
    while True:
        work = await worker.work()
        if work.assignments:
            return work.assignments[0].attempt


@pytest.mark.parametrize("turns", [1, 3])
async def test_lines_that_come_when_a_run_has_ended_and_is_not_stored(
    redis_server: str, plain: Any, turns: int, monkeypatch: Any
) -> None:
    monkeypatch.setattr(writer, "TOGETHER_SECONDS", 0.1)
    async with scheduler(store=RedisStore(redis_server, Sealer(KEY))) as s:
        async with Client(s.address) as client, Worker(s.address) as worker:
            await client.submit("warm", one_task(), logs=True)
            work = await assigned(worker)
            await worker.report(done(work, pickled(1)))
            await client.finish("warm")
            await asyncio.sleep(0.1)
            await plain.execute_command("CLIENT", "PAUSE", "500", "ALL")
            await client.submit("r", one_task(), logs=True)
            work = await assigned(worker)
            attempt = work
            await worker.report(done(attempt, pickled(1)))
            for n in range(turns):
                reports = worker_pb2.Reports()
                reports.logs.add(attempt=attempt, stream=1, text=f"late {n}")
                await worker.say(reports=reports)
                await asyncio.sleep(0.02)
            values, finish = await client.finish("r")
            await asyncio.sleep(0.3)
            print(finish)
            # the scheduler still works
            await client.submit("s", one_task(), logs=True)
            work = await assigned(worker)
            await worker.report(done(work, pickled(1)))
            await client.finish("s")
            await asyncio.sleep(0.1)
            watched = client.stub.Watch(client_pb2.WatchRequest(run_id="r"), metadata=client.metadata)
            async for m in watched:
                for e in m.events:
                    print(e)
            print(await plain.hgetall("cascade:run:r:meta"), await plain.hgetall("cascade:run:r:events"))


@pytest.mark.parametrize("result", ["done", "failed"])
async def test_events_made_later_name_their_node(
    redis_server: str, plain: Any, result: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(writer, "TOGETHER_SECONDS", 0.1)
    core = Settings(runs_kept=2)
    async with scheduler(store=RedisStore(redis_server, Sealer(KEY)), core=core) as s:
        async with Client(s.address) as client, Worker(s.address) as worker:
            await client.submit("warm", one_task())
            await worker.report(done(await assigned(worker), pickled(1)))
            await client.finish("warm")
            await asyncio.sleep(0.2)
            await plain.execute_command("CLIENT", "PAUSE", "700", "ALL")
            for run in "abcdef":
                await client.submit(run, one_task())
                attempt = await assigned(worker)
                report = done(attempt, pickled(1)) if result == "done" else failed(attempt)
                await worker.report(report)
            for run in "abcdef":
                await client.finish(run)
            await asyncio.sleep(0.3)
            for run in "abcdef":
                meta = await plain.hgetall(f"cascade:run:{run}:meta")
                more = await plain.hgetall(f"cascade:run:{run}:events")
                told = meta.get(b"events", b"") + b"".join(more.values())
                assert meta[b"state"] == (b"succeeded" if result == "done" else b"failed")
                assert b'"","TaskExecution' not in told, (run, told)
