"""Cache backends in Redis and IPFS, used by the executors of real workers."""

from __future__ import annotations

import asyncio
import pickle
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio

import cascade_dist as cs

from .conftest import Journal

pytestmark = pytest.mark.integration


def note(path: str, word: str) -> None:
    with open(path, "a") as file:
        file.write(f"{word}\n")


@cs.task
def double(path: str, x: int) -> int:
    note(path, f"double-{x}")
    return 2 * x


@cs.task
async def triple(path: str, x: int) -> int:
    note(path, f"triple-{x}")
    return 3 * x


@cs.task
def large(path: str, size: int) -> bytes:
    note(path, f"large-{size}")
    return b"x" * size


@pytest.fixture
def plain(redis_server: str) -> Iterator[Any]:
    """A client to look with."""
    made = redis.Redis.from_url(redis_server)
    yield made
    made.close()


def test_s86_executors_share_entries_with_each_other(
    cluster: cs.Cluster, journal: Journal, redis_server: str, plain: Any
) -> None:
    prefix = f"{uuid.uuid4().hex}:"
    policy = cs.ResultCache(cs.RedisCacheBackend(redis_server, prefix), ttl=300)
    for _ in range(3):
        calls = [double(journal.path, 4), triple(journal.path, 5)]
        assert cluster.run([call.with_cache(policy) for call in calls]) == [8, 15]
    assert sorted(journal.lines()) == ["double-4", "triple-5"]
    names = plain.keys(f"{prefix}*")
    assert len(names) == 2
    assert all(200 < plain.ttl(name) <= 300 for name in names)


def test_the_client_reads_what_an_executor_wrote(
    private_cluster: cs.Cluster, journal: Journal, redis_server: str, plain: Any
) -> None:
    prefix = f"{uuid.uuid4().hex}:"

    async def look() -> Any:
        client = redis.asyncio.Redis.from_url(redis_server)
        try:
            backend = cs.RedisCacheBackend(client, prefix)
            target = double(journal.path, 6).with_cache(cs.ResultCache(backend))
            assert await cs.aio.run(target, cluster=cs.aio.AsyncCluster(private_cluster)) == 12
            [name] = plain.keys(f"{prefix}*")
            return await backend.get(name.decode().removeprefix(prefix))
        finally:
            await client.aclose()

    assert pickle.loads(asyncio.run(look())) == 12


def test_an_entry_of_somebody_else_is_a_miss_that_is_said(
    private_cluster: cs.Cluster,
    journal: Journal,
    redis_server: str,
    plain: Any,
    capfd: pytest.CaptureFixture[str],
) -> None:
    prefix = f"{uuid.uuid4().hex}:"
    policy = cs.ResultCache(cs.RedisCacheBackend(redis_server, prefix))
    assert private_cluster.run(double(journal.path, 7).with_cache(policy)) == 14
    [name] = plain.keys(f"{prefix}*")
    plain.set(name, plain.get(name)[:-1] + b"!")
    assert private_cluster.submit(double(journal.path, 7).with_cache(policy), logs=True).result(60) == 14
    assert journal.lines() == ["double-7", "double-7"]
    assert "sealed with another key, or was changed" in capfd.readouterr().err
    assert private_cluster.run(double(journal.path, 7).with_cache(policy)) == 14
    assert len(journal.lines()) == 2, "the entry was written again"


def test_a_redis_that_is_away_is_a_miss_that_is_said(
    private_cluster: cs.Cluster, journal: Journal, capfd: pytest.CaptureFixture[str]
) -> None:
    policy = cs.ResultCache(cs.RedisCacheBackend("redis://127.0.0.1:1/0"))
    assert private_cluster.submit(double(journal.path, 8).with_cache(policy), logs=True).result(60) == 16
    said = capfd.readouterr().err
    assert "could not be asked, so the task runs" in said
    assert "could not keep the value" in said


def test_a_node_that_is_away_is_a_miss_that_is_said(
    private_cluster: cs.Cluster, journal: Journal, redis_server: str, capfd: pytest.CaptureFixture[str]
) -> None:
    metadata = cs.RedisCacheBackend(redis_server, f"{uuid.uuid4().hex}:")
    policy = cs.ResultCache(cs.IpfsCacheBackend(metadata, "http://127.0.0.1:1"))
    assert private_cluster.submit(double(journal.path, 9).with_cache(policy), logs=True).result(60) == 18
    assert "no answer of an IPFS node at http://127.0.0.1:1" in capfd.readouterr().err


def test_s88_executors_keep_large_values_in_ipfs(
    cluster: cs.Cluster, journal: Journal, redis_server: str, plain: Any, kubo: str
) -> None:
    prefix = f"{uuid.uuid4().hex}:"
    keys = cs.RedisCacheBackend(redis_server, prefix)
    policy = cs.SizeTieredCache(keys, cs.IpfsCacheBackend(keys, kubo), threshold=1_000, ttl=300)
    for _ in range(2):
        calls = [large(journal.path, 500_000), double(journal.path, 1)]
        assert cluster.run([call.with_cache(policy) for call in calls]) == [b"x" * 500_000, 2]
    assert sorted(journal.lines()) == ["double-1", "large-500000"]
    assert len(plain.keys(f"{prefix}ipfs:*")) == 1
    entries = [name for name in plain.keys(f"{prefix}*") if b":ipfs-pins:" not in name]
    assert len(entries) == 2
    assert all(200 < plain.ttl(name) <= 300 for name in entries)
    assert sum(plain.memory_usage(name) for name in plain.keys(f"{prefix}*")) < 10_000


class Broken:
    """A backend of the user's own that can do nothing."""

    async def get(self, key: str) -> Any:
        raise OSError("the shelf is gone")

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        raise OSError("the shelf is gone")

    async def delete(self, key: str) -> None:
        raise OSError("the shelf is gone")


AWAY = "redis://127.0.0.1:1/0"
BROKEN = {
    "redis": (cs.RedisCacheBackend(AWAY), "127.0.0.1:1"),
    "ipfs": (cs.IpfsCacheBackend(cs.InMemoryCacheBackend("broken"), "http://127.0.0.1:1"), "IPFS node"),
    "ipfs-metadata": (cs.IpfsCacheBackend(cs.RedisCacheBackend(AWAY), "http://127.0.0.1:1"), "127.0.0.1:1"),
    "tiered": (cs.SizeTieredCache(Broken(), cs.RedisCacheBackend(AWAY)), "the shelf is gone"),
    "own": (Broken(), "the shelf is gone"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_error_of_any_backend_is_a_miss_and_a_warning(
    kind: str, private_cluster: cs.Cluster, journal: Journal, capfd: pytest.CaptureFixture[str]
) -> None:
    backend, words = BROKEN[kind]
    policy = cs.ResultCache(backend)
    for _ in range(2):
        target = double(journal.path, 11).with_cache(policy)
        assert private_cluster.submit(target, logs=True).result(60) == 22
    assert journal.lines() == ["double-11", "double-11"]
    said = capfd.readouterr().err
    assert words in said
    assert "could not keep the value" in said
