from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis.asyncio

from cascade_dist.storage.seal import Sealer
from cascade_dist.v1 import client_pb2, worker_pb2
from cascade_scheduler.store import writer
from cascade_scheduler.store.redis import RedisStore
from tests.eyes.test_eyes import assigned
from tests.scheduler.peers import Client, Worker, done, one_task, pickled, scheduler

KEY = b"k" * 32


async def watch(client: Client, run: str, follow: bool) -> list[str]:
    found = []
    call = client.stub.Watch(client_pb2.WatchRequest(run_id=run, follow=follow), metadata=client.metadata)
    async for m in call:
        found += [(e.event_id, e.kind, e.node_id) for e in m.events]
    return found


async def test_takeover_between(redis_server: str, monkeypatch: Any) -> None:
    plain = redis.asyncio.Redis.from_url(redis_server)
    await plain.flushdb()
    monkeypatch.setattr(writer, "TOGETHER_SECONDS", 0.3)
    async with scheduler(store=RedisStore(redis_server, Sealer(KEY))) as a:
        async with Client(a.address) as client, Worker(a.address) as worker:
            for run in ("w", "r"):
                await client.submit(run, one_task(), logs=True)
                await worker.report(done(await assigned(worker), pickled(run)))
                await client.finish(run)
            at = asyncio.get_running_loop().time()
            seen = await asyncio.gather(watch(client, "r", True), watch(client, "r", False))
            print("watched", seen, asyncio.get_running_loop().time() - at)
            await client.submit("x", one_task(), logs=True)
            await worker.report(done(await assigned(worker), pickled("x")))
            await client.finish("x")
            watcher = asyncio.create_task(watch(client, "x", True))
            await asyncio.sleep(0.02)
            print("x", (await plain.hgetall("cascade:run:x:meta")).get(b"state"))
            other = RedisStore(redis_server, Sealer(KEY))
            await other.open()
            try:
                print("watcher of x", await asyncio.wait_for(watcher, 8))
            except Exception as error:
                print("watcher of x", type(error))
        await asyncio.sleep(0.5)
        print("exit", a.exit_code)
    await plain.delete("cascade:leader")
    async with scheduler(store=RedisStore(redis_server, Sealer(KEY)), recovery_grace=1.0) as b:
        async with Client(b.address) as client, Worker(b.address) as worker:
            await asyncio.sleep(2.5)
            print("x", (await plain.hgetall("cascade:run:x:meta")).get(b"state"), await watch(client, "x", False))
            await client.say(attach=client_pb2.Attach(run_id="x"))
            print(await client.finish("x"))
            for key in await plain.keys("cascade:run:*"):
                assert await plain.ttl(key) > 0, key
            # same id again
            await client.submit("x", one_task())
            print(await client.finish("x"))
    await plain.flushdb()
    await plain.aclose()
