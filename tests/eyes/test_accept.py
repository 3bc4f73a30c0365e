from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio

from cascade_dist.storage.seal import Sealer
from cascade_scheduler.store.redis import RedisStore
from tests.eyes.test_eyes import assigned
from tests.scheduler.peers import Client, Worker, done, one_task, pickled, scheduler

KEY = b"k" * 32


async def test_a_run_that_is_stored_is_accepted_though_its_end_is_not(redis_server: str) -> None:
    plain = redis.asyncio.Redis.from_url(redis_server)
    second = redis.asyncio.Redis.from_url(redis_server)
    await plain.flushdb()
    await second.ping()
    loop = asyncio.get_running_loop()
    async with scheduler(store=RedisStore(redis_server, Sealer(KEY))) as s:
        async with Client(s.address) as client, Worker(s.address) as worker:
            await client.submit("w", one_task())
            await worker.report(done(await assigned(worker), pickled(1)))
            await client.finish("w")
            await asyncio.sleep(0.1)
            await plain.execute_command("CLIENT", "PAUSE", "300", "ALL")
            began = loop.time()
            await client.submit("r", one_task())
            attempt = await assigned(worker)
            await asyncio.sleep(0.05)  # its beginning is on its way
            again = asyncio.create_task(second.execute_command("CLIENT", "PAUSE", "2500", "ALL"))
            await asyncio.sleep(0.05)
            await worker.report(done(attempt, pickled(1)))
            message = await client.read()
            print("first message", str(message)[:60], loop.time() - began)
            assert loop.time() - began < 1.5
            await client.finish("r")
            await again
    await plain.flushdb()
    await plain.aclose()
    await second.aclose()
