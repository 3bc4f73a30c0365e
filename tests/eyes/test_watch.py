from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio

from cascade_dist.storage.seal import Sealer
from cascade_scheduler.store import writer
from cascade_scheduler.store.redis import RedisStore
from tests.eyes.test_eyes import assigned
from tests.eyes.test_takeover import watch
from tests.scheduler.peers import Client, Worker, done, one_task, pickled, scheduler

KEY = b"k" * 32


async def test_who_follows_hears_of_the_end_though_the_store_is_away(redis_server: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(writer, "TOGETHER_SECONDS", 0.1)
    plain = redis.asyncio.Redis.from_url(redis_server)
    await plain.flushdb()
    async with scheduler(store=RedisStore(redis_server, Sealer(KEY))) as s:
        async with Client(s.address) as client, Worker(s.address) as worker:
            for run in "wr":
                await client.submit(run, one_task())
                await worker.report(done(await assigned(worker), pickled(1)))
                await client.finish(run)
            await plain.execute_command("CLIENT", "PAUSE", "7500", "ALL")
            try:
                found = await asyncio.wait_for(watch(client, "r", True), 15)
            finally:
                await asyncio.sleep(2)
            print(found, "later", await watch(client, "r", True))
            assert [kind for _, kind, _ in found][-1:] == ["RunFinished"]
    await plain.flushdb()
    await plain.aclose()
