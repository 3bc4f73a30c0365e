"""States of runs in Redis: ``cs.run(state_backend=…)``, and runs of real schedulers opened by hand."""

from __future__ import annotations

import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis.asyncio

import cascade_dist as cs
from cascade_dist.client import api
from cascade_dist.graph.build import build
from cascade_dist.language.lazy import LazyResult

pytestmark = pytest.mark.integration


@cs.task
def double(x: int) -> dict[str, int]:
    return {"doubled": 2 * x}


@cs.task
def read(found: dict[str, int]) -> int:
    return found["doubled"]


@cs.task
def false() -> bool:
    return False


@cs.task
def large(size: int) -> bytes:
    return b"x" * size


@pytest.fixture(scope="module")
def url(redis_server: str) -> Iterator[str]:
    """A database that no other test empties; the cluster that runs on it ends with this module."""
    found = redis_server.removesuffix("/0") + "/5"
    yield found
    for cluster in list(api._by_state.values()):
        cluster.close()
    api._by_state.clear()


@pytest.fixture
async def client(url: str) -> AsyncIterator[Any]:
    made = redis.asyncio.Redis.from_url(url)
    yield made
    await made.aclose()


def id_of(target: LazyResult[Any]) -> str:
    return build(target).structural_id.hex()


async def test_s85_the_result_is_stored_under_the_structural_id(url: str, client: Any) -> None:
    run_id, target = uuid.uuid4().hex, double(21)
    assert await cs.aio.run(target, state_backend=url, run_id=run_id) == {"doubled": 42}
    state = cs.RedisStateBackend(run_id, client)
    assert await state.get_result(id_of(target)) == {"doubled": 42}
    assert 86_000 < await client.ttl(f"cascade:run:{run_id}:results") <= 86_400


async def connections(client: Any) -> list[str]:
    """Who is connected to the database, but for this test."""
    own = str(await client.client_id())
    return sorted(one["id"] for one in await client.client_list() if one["db"] == "5" and one["id"] != own)


async def test_s85_one_client_is_made_of_the_uri(url: str, client: Any) -> None:
    assert await cs.aio.run(double(1), state_backend=url) == {"doubled": 2}
    first, there = api._by_state[url], await connections(client)
    assert len(there) == 2, "the scheduler's: one that writes batches, and one for all else"
    assert await cs.aio.run(double(2), state_backend=url) == {"doubled": 4}
    assert list(api._by_state) == [url]
    assert api._by_state[url] is first
    assert await connections(client) == there


async def test_a_run_is_opened_by_hand(url: str, client: Any) -> None:
    run_id = uuid.uuid4().hex
    first = double(4)
    middle, skipped = read(first), read(double(5)).run_if(false())
    big = large(300_000)
    assert (await cs.aio.run([middle, big], state_backend=url, run_id=run_id))[0] == 8
    state = cs.RedisStateBackend(run_id, client)
    assert await state.get_result(id_of(first)) == {"doubled": 8}
    assert await state.get_result(id_of(middle)) == 8
    assert await state.has_result(id_of(big))
    with pytest.raises(cs.ResultMissingError, match=r"300,\d\d\d bytes"):
        await state.get_result(id_of(big))
    other = uuid.uuid4().hex
    with pytest.raises(cs.DependencyMissingError):
        await cs.aio.run(skipped, state_backend=url, run_id=other)
    assert await cs.RedisStateBackend(other, client).get_skip_reason(id_of(skipped)) == "ConditionFalse"


def test_a_cluster_that_died_is_replaced(url: str) -> None:
    assert cs.run(double(1), state_backend=url) == {"doubled": 2}
    first = api._by_state[url]
    assert first._local is not None
    process = dict(first._local._processes)["scheduler"]
    process.kill()
    process.wait(10)
    assert cs.run(double(2), state_backend=url) == {"doubled": 4}
    assert api._by_state[url] is not first


def test_s85_another_scheme_is_refused() -> None:
    for uri in ("mysql://host/db", "localhost:6379", ""):
        with pytest.raises(ValueError, match=r"state_backend: .*redis://HOST"):
            cs.run(double(1), state_backend=uri)


def test_s85_redis_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ImportError, match="pip install redis"):
        cs.run(double(1), state_backend="redis://localhost:1/0")


def test_a_cluster_that_runs_keeps_its_state_where_it_was_told(
    private_cluster: cs.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "cascade-scheduler --state"
    with pytest.raises(TypeError, match=f"cluster= is given: .*{words}"):
        cs.run(double(1), cluster=private_cluster, state_backend="redis://localhost:1/0")
    monkeypatch.setenv("CASCADE_ADDRESS", "localhost:1")
    with pytest.raises(TypeError, match=f"CASCADE_ADDRESS names one that runs: .*{words}"):
        cs.run(double(1), state_backend="redis://localhost:1/0")


def test_a_redis_that_is_not_there_is_told_without_its_password() -> None:
    with pytest.raises(cs.CascadeError, match="no Redis at redis://") as raised:
        cs.run(double(1), state_backend="redis://:secret@127.0.0.1:1/0")
    assert "secret" not in str(raised.value)
