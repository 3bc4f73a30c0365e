from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Any

import pytest
import redis.asyncio

from cascade_dist.storage.seal import Sealer
from cascade_dist.v1 import client_pb2, worker_pb2
from cascade_scheduler.store import writer
from cascade_scheduler.store.redis import RedisStore
from tests.scheduler.peers import Client, Worker, done, failed, one_task, pickled, scheduler

KEY = b"k" * 32


@pytest.mark.parametrize("flush", [False, True])
async def test_storm(redis_server: str, monkeypatch: Any, flush: bool, caplog: Any) -> None:
    seed = int(os.environ.get("SEED", "1"))
    dice = random.Random(seed)
    plain = redis.asyncio.Redis.from_url(redis_server)
    await plain.flushdb()
    monkeypatch.setattr(writer, "TOGETHER_SECONDS", dice.choice([0.002, 0.01]))
    until = time.monotonic() + float(os.environ.get("STORM", "12"))
    told: dict[str, str] = {}
    async with scheduler(store=RedisStore(redis_server, Sealer(KEY))) as s:
        over = False

        async def chaos() -> None:
            while time.monotonic() < until - 1:
                await asyncio.sleep(dice.random() * 0.15)
                what = dice.random()
                if what < 0.45:
                    await plain.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                elif what < 0.8:
                    await plain.execute_command("CLIENT", "PAUSE", str(dice.randint(1, 60)), "ALL")
                elif flush and what < 0.86:
                    await plain.execute_command("FLUSHALL")
                elif flush and what < 0.9:
                    await plain.execute_command("DEL", "cascade:batch")

        async def serve(worker: Worker) -> None:
            while True:
                work = await worker.work()
                for a in work.assignments:
                    if dice.random() < 0.3:
                        await asyncio.sleep(dice.random() * 0.008)
                    reports = [done(a.attempt, pickled(1)) if dice.random() < 0.93 else failed(a.attempt)]
                    message = worker_pb2.Reports(reports=reports)
                    await worker.say(reports=message)
                    for _ in range(dice.choice([0, 0, 0, 1, 3])):
                        more = worker_pb2.Reports()
                        more.logs.add(attempt=a.attempt, stream=1, text="late")
                        await worker.say(reports=more)

        async def beat(worker: Worker) -> None:
            while True:
                await asyncio.sleep(0.3)
                await worker.say(heartbeat=worker_pb2.WorkerHeartbeat())

        async def clients(name: str) -> None:
            async with Client(s.address) as client:
                n = 0
                while time.monotonic() < until:
                    n += 1
                    run = f"{name}-{n}"
                    logs = dice.random() < 0.5
                    await client.submit(run, one_task(), logs=logs)
                    if dice.random() < 0.2:
                        await client.submit(run, one_task(), logs=logs)
                        # joined twice: at least one end
                    _, finish = await client.finish_of(run)
                    told[run] = finish
                    if dice.random() < 0.3:
                        await asyncio.sleep(dice.random() * 0.01)

        async with Worker(s.address) as worker:
            tasks = [asyncio.create_task(serve(worker)), asyncio.create_task(chaos())]
            users = [asyncio.create_task(clients(f"c{i}")) for i in range(3)]
            done_, pending = await asyncio.wait(users, timeout=until - time.monotonic() + 15)
            assert not pending, "hang"
            for t in done_:
                t.result()
            for t in tasks:
                t.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.5)
        assert await s_flush(s)
        # events of told runs are all published
        print("runs", len(told))
        bad: list[Any] = []
        for run, state in told.items():
            meta = await plain.hgetall(f"cascade:run:{run}:meta")
            results = await plain.hlen(f"cascade:run:{run}:results")
            if flush and not meta:
                continue
            ev = meta.get(b"events", b"") + b"".join((await plain.hgetall(f"cascade:run:{run}:events")).values())
            want = b"succeeded" if state == "succeeded" else b"failed"
            if meta.get(b"state") != want or b"answer" not in meta:
                bad.append((run, state, meta.get(b"state"), results, b"answer" in meta))
            elif not flush and (b"RunFinished" not in ev or (want == b"succeeded" and results != 1)):
                bad.append((run, state, "events", ev, results))
        for key in await plain.keys("cascade:run:*"):
            if await plain.ttl(key) < 0:
                bad.append(("no ttl", key))
        assert not bad, (len(bad), bad[:10])
    await plain.flushdb()
    await plain.aclose()


async def s_flush(s: Any) -> bool:
    return await s._life.writer.flush(5)


async def finish_of(self: Any, run_id: str) -> tuple[Any, str]:
    while True:
        message = await asyncio.wait_for(self.read(), 20)
        if message.HasField("accepted"):
            continue
        assert message.HasField("update"), message
        if message.update.run_id != run_id:
            continue
        if message.update.HasField("finish"):
            f = message.update.finish
            return None, client_pb2.RunState.Name(f.state).removeprefix("RUN_STATE_").lower()


Client.finish_of = finish_of  # type: ignore[attr-defined]
