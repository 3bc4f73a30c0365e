"""Limits and pools over real streams: what is refused, who is asked to promise, and what is kept."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import grpc.aio
import pytest
import redis.asyncio

from cascade_dist.storage.seal import Sealer
from cascade_dist.v1 import client_pb2, graph_pb2, worker_pb2
from cascade_scheduler.core.state import Settings
from cascade_scheduler.store.redis import RedisStore
from tests.scheduler.peers import (
    SECONDS,
    Client,
    Graph,
    Worker,
    done,
    one_task,
    pickled,
    scheduler,
)

PAUSE = client_pb2.CONSTRAINT_TYPE_PAUSE
CONCURRENCY = client_pb2.CONSTRAINT_TYPE_CONCURRENCY
RATE_LIMIT = client_pb2.CONSTRAINT_TYPE_RATE_LIMIT
INFEASIBLE = client_pb2.REFUSAL_CODE_INFEASIBLE


def asked(scope: str = "global", kind: Any = PAUSE, ttl: float | None = None, **said: Any) -> Any:
    request = client_pb2.SetConstraintRequest(
        constraint=client_pb2.Constraint(scope=scope, type=kind, **said)
    )
    if ttl is not None:
        request.ttl.FromNanoseconds(int(ttl * 1e9))
    return request


async def set_limit(client: Client, *about: Any, **said: Any) -> client_pb2.Constraint:
    answer = await asyncio.wait_for(client.stub.SetConstraint(asked(*about, **said)), SECONDS)
    made: client_pb2.Constraint = answer.constraint
    return made


async def clear(client: Client, **which: Any) -> list[str]:
    request = client_pb2.ClearConstraintsRequest(**which)
    answer = await asyncio.wait_for(client.stub.ClearConstraints(request), SECONDS)
    return [found.id for found in answer.removed]


async def listed(client: Client) -> list[client_pb2.Constraint]:
    answer = await client.stub.ListConstraints(client_pb2.ListConstraintsRequest())
    return list(answer.constraints)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a single question was refused."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await asyncio.wait_for(call, SECONDS)
    return raised.value.code(), raised.value.details() or ""


async def test_limits_are_set_listed_and_cleared() -> None:
    async with scheduler() as it, Client(it.address) as client:
        assert (await set_limit(client, "task:b", CONCURRENCY, limit=2)).id == "concurrency:task:b"
        assert (await set_limit(client, "task:a", RATE_LIMIT, rate=0.5)).capacity == 1.0
        await set_limit(client, "run:none", id="mine")
        found = await listed(client)
        assert [(limit.scope, limit.type, limit.id) for limit in found] == [
            ("run:none", PAUSE, "mine"),
            ("task:a", RATE_LIMIT, "rate_limit:task:a"),
            ("task:b", CONCURRENCY, "concurrency:task:b"),
        ]
        assert (found[1].rate, found[1].capacity, found[1].limit) == (0.5, 1.0, 0)
        assert (found[2].rate, found[2].capacity, found[2].limit) == (0.0, 0.0, 2)
        assert await clear(client, id="mine") == ["mine"]
        assert await clear(client, scope="task:a", type=PAUSE) == []
        assert sorted(await clear(client, all=True)) == ["concurrency:task:b", "rate_limit:task:a"]
        assert await listed(client) == []


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (asked("everything"), "the scope 'everything' is none of 'global'"),
        (asked(""), "scope"),
        (asked(kind=client_pb2.CONSTRAINT_TYPE_UNSPECIFIED), "has no type"),
        (asked(kind=99), "type 99 is not known"),
        (asked(kind=CONCURRENCY), "the limit is 0"),
        (asked(kind=CONCURRENCY, limit=2**32 - 1), "the limit is"),
        (asked(kind=CONCURRENCY, limit=1, capacity=2.0), "no capacity"),
        (asked(kind=RATE_LIMIT), "the rate is 0.0"),
        (asked(kind=RATE_LIMIT, rate=-1.0), "the rate is -1.0"),
        (asked(kind=RATE_LIMIT, rate=float("nan")), "the rate is nan"),
        (asked(kind=RATE_LIMIT, rate=1.0, capacity=0.5), "the capacity is 0.5"),
        (asked(limit=1), "no limit"),
        (asked(ttl=-1.0), "expired"),
        (asked(ttl=0.0), "expired"),
        (asked(expires_at={"seconds": 1}), "expired"),
        (asked(expires_at={"seconds": -5}), "out of range"),
        (asked(ttl=3e11), "out of range"),
        (asked(id="a\nb"), "the id"),
        (client_pb2.SetConstraintRequest(), "has no type"),
    ],
)
async def test_what_is_malformed_is_refused_with_the_reason(request_: Any, told: str) -> None:
    async with scheduler() as it, Client(it.address) as client:
        code, details = await refusal(client.stub.SetConstraint(request_))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert details.startswith("the constraint is not set: ")
        assert told in details
        assert await listed(client) == []
        await set_limit(client)
        assert len(await listed(client)) == 1, "a later one works"


@pytest.mark.parametrize("which", [{}, {"all": True, "scope": "global"}, {"type": 77}])
async def test_to_clear_needs_to_be_said_clearly(which: dict[str, Any]) -> None:
    async with scheduler() as it, Client(it.address) as client:
        await set_limit(client)
        code, _ = await refusal(client.stub.ClearConstraints(client_pb2.ClearConstraintsRequest(**which)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert len(await listed(client)) == 1


async def test_an_end_is_counted_by_the_schedulers_clock() -> None:
    async with scheduler() as it, Client(it.address) as client:
        made = await set_limit(client, ttl=0.15)
        left = made.expires_at.ToNanoseconds() * 1e-9 - time.time()
        assert 0 < left <= 0.16
        assert len(await listed(client)) == 1
        await asyncio.sleep(0.2)
        assert await listed(client) == []


async def test_a_pause_is_answered_when_the_worker_has_promised() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        await client.submitted("r", one_task())
        (assignment,) = (await worker.work()).assignments
        setting = asyncio.create_task(set_limit(client))
        work = await worker.work()
        assert list(work.retract) == [assignment.attempt]
        assert work.promise > 0
        returned = worker_pb2.Report(attempt=assignment.attempt, returned=worker_pb2.Returned())
        await worker.report(returned)
        await worker.acked_through(worker.sequence)
        assert not setting.done()
        await worker.report(promised=work.promise)
        assert (await setting).id == "pause:global"
        assert await clear(client, scope="global") == ["pause:global"]
        (again,) = (await worker.work()).assignments
        await worker.report(done(again.attempt, pickled(1)))
        _, finish = await client.finish("r")
        assert finish.state == client_pb2.RUN_STATE_SUCCEEDED


async def test_a_pause_is_answered_when_the_worker_is_lost() -> None:
    settings = Settings(worker_grace=0.05)
    async with scheduler(core=settings) as it, Client(it.address) as client:
        async with Worker(it.address) as worker:
            await client.submitted("r", one_task())
            await worker.work()
            setting = asyncio.create_task(set_limit(client))
            await worker.work()
        assert (await setting).id == "pause:global"


async def test_who_sets_a_limit_and_goes_away_leaves_it() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        await client.submitted("r", one_task())
        await worker.work()
        call = client.stub.SetConstraint(asked())
        work = await worker.work()
        call.cancel()
        await worker.report(promised=work.promise)
        await worker.acked_through(worker.sequence)
        assert [limit.id for limit in await listed(client)] == ["pause:global"]


# --- what outlives a scheduler -----------------------------------------------------------------------


@pytest.fixture
async def stores(redis_server: str) -> Any:
    """Makes the store of the next scheduler."""
    client: Any = redis.asyncio.Redis.from_url(redis_server)
    await client.flushdb()
    await client.aclose()
    return lambda: RedisStore(redis_server, Sealer(b"k" * 32))


async def test_limits_outlive_the_scheduler(stores: Any) -> None:
    async with scheduler(stores()) as it, Client(it.address) as client:
        await set_limit(client, "task:f", CONCURRENCY, limit=2, id="two")
        await set_limit(client, "task:f", CONCURRENCY, limit=3, id="three")
        await set_limit(client)
        await set_limit(client, "task:g", ttl=0.05)
        await set_limit(client, "task:h", RATE_LIMIT, rate=10 / 60, capacity=2.5)
        kept = [limit for limit in await listed(client) if limit.scope != "task:g"]
    await asyncio.sleep(0.06)
    async with scheduler(stores()) as it, Client(it.address) as client, Worker(it.address) as worker:
        assert await listed(client) == kept
        await client.submitted("r", one_task())
        assert await clear(client, scope="global") == ["pause:global"]
        assert len((await worker.work()).assignments) == 1
        await clear(client, all=True)
    async with scheduler(stores()) as it, Client(it.address) as client:
        assert await listed(client) == []


# --- pools -------------------------------------------------------------------------------------------


def amounts(**named: int) -> list[graph_pb2.Amount]:
    return [graph_pb2.Amount(name=name, micros=count * 1_000_000) for name, count in sorted(named.items())]


def two_tasks(**holds: int) -> Graph:
    graph = Graph()
    graph.gather(*[graph.node(args=pickled(((n,), {})), amounts=amounts(**holds)) for n in range(2)])
    return graph


async def test_the_pools_of_a_run_come_with_its_options_in_each_submit_of_the_shape() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        for number in range(3):
            graph = two_tasks(slots=1)
            await client.submitted(f"r{number}", graph, pools=amounts(slots=1))
            for _ in range(2):
                work = await worker.work()
                while not work.assignments:
                    work = await worker.work()
                (assignment,) = work.assignments
                assert [(a.name, a.micros) for a in assignment.amounts] == [("cpu", 0)]
                await worker.report(done(assignment.attempt, pickled(1)))
            await client.finish(f"r{number}")
        await client.submit("large", two_tasks(slots=2), pools=amounts(slots=1))
        refused = await client.refused()
        assert (refused.code, "slots=2" in refused.message) == (INFEASIBLE, True)


async def test_a_run_without_pools_is_not_taken_for_one_with_them() -> None:
    async with scheduler() as it, Client(it.address) as client, Worker(it.address) as worker:
        await client.submitted("with", two_tasks(slots=1), pools=amounts(slots=2))
        assert len((await worker.work()).assignments) == 2
        await client.submitted("without", two_tasks(slots=1))
        assert it.hub.core.runs["without"].active == 0


async def test_pools_that_are_not_well_formed_are_refused() -> None:
    async with scheduler() as it, Client(it.address) as client:
        await client.submit("r", one_task(), pools=[*amounts(a=1), *amounts(a=2)])
        refused = await client.refused()
        assert refused.code == client_pb2.REFUSAL_CODE_INVALID
        assert "'a' is named twice" in refused.message


async def test_the_status_shows_the_pools_of_the_cluster() -> None:
    settings = Settings(pools=(("license", 3_000_000),))
    async with scheduler(core=settings) as it, Client(it.address) as client, Worker(it.address) as worker:
        await client.submitted("r", two_tasks(license=1))
        assert len((await worker.work()).assignments) == 2
        status = await client.stub.GetStatus(client_pb2.GetStatusRequest())
        assert [(pool.name, pool.micros) for pool in status.pools] == [("license", 3_000_000)]
        assert [(pool.name, pool.micros) for pool in status.pools_free] == [("license", 1_000_000)]
