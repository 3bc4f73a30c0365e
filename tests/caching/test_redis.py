"""The backend in Redis, against a real one."""

from __future__ import annotations

import asyncio
import pickle
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

import cascade_dist as cs
from cascade_dist.errors import CascadeError
from cascade_dist.graph.code_hash import CodeHasher
from cascade_dist.graph.identity import Specs
from cascade_dist.storage.seal import SealError


@pytest.fixture(autouse=True)
def seal_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASCADE_SEAL_KEY", "k" * 32)


@pytest.fixture
async def client(redis_server: str) -> AsyncIterator[Any]:
    """A client of a database that is empty."""
    made = redis.asyncio.Redis.from_url(redis_server)
    await made.flushdb()
    yield made
    await made.aclose()


async def test_s86_an_entry_has_its_key_and_expires(client: Any) -> None:
    backend = cs.RedisCacheBackend(client)
    assert await backend.get("k") is None
    await backend.set("k", {"value": [1, None]}, ttl=300)
    assert await client.keys() == [b"cascade:cache:k"]
    assert 0 < await client.ttl("cascade:cache:k") <= 300
    assert await client.expiretime("cascade:cache:k") - (await client.time())[0] in (299, 300, 301)
    assert await backend.get("k") == {"value": [1, None]}
    await backend.delete("k")
    await backend.delete("k")
    assert await backend.get("k") is None


async def test_s86_a_ttl_is_what_is_said(client: Any) -> None:
    backend = cs.RedisCacheBackend(client, prefix="mine:")
    await backend.set("for ever", 1)
    await backend.set("short", 1, ttl=0.25)
    assert await client.ttl("mine:for ever") == -1
    assert 0 < await client.pttl("mine:short") <= 250


async def test_what_others_wrote_is_not_loaded(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = cs.RedisCacheBackend(client)
    await backend.set("k", 1)
    await client.copy("cascade:cache:k", "cascade:cache:moved")
    await client.set("cascade:cache:bare", pickle.dumps(1))
    with pytest.raises(SealError, match="another key, or was changed"):
        await backend.get("moved")
    with pytest.raises(SealError, match="no seal"):
        await backend.get("bare")
    monkeypatch.setenv("CASCADE_SEAL_KEY", "o" * 32)
    with pytest.raises(SealError, match="another key"):
        await cs.RedisCacheBackend(client).get("k")
    assert await backend.get("k") == 1


async def test_a_url_does_and_travels(redis_server: str, client: Any) -> None:
    backend = cs.RedisCacheBackend(redis_server, "p:")
    try:
        await backend.set("k", "v")
        for there in (backend, cs.RedisCacheBackend(client, "p:")):
            arrived = pickle.loads(pickle.dumps(there))
            assert (arrived.prefix, arrived.url) == ("p:", redis_server)
            assert await arrived.get("k") == "v"
    finally:
        await backend.close()


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({"host": "h", "port": 1, "db": 2}, "redis://h:1/2"),
        ({"host": "::1", "username": "me", "password": "p/@"}, "redis://me:p%2F%40@[::1]:6379/0"),
        ({"ssl": True, "host": "h", "ssl_ca_certs": "/a b.pem"}, "rediss://h:6379/0?"),
        ({"unix_socket_path": "/run/r.sock", "db": 3}, "unix:///run/r.sock?db=3"),
    ],
)
def test_a_client_tells_its_url(options: dict[str, Any], url: str) -> None:
    made = redis.asyncio.Redis(**options)
    backend = cs.RedisCacheBackend(made)
    assert backend.url.startswith(url)
    again = redis.asyncio.Redis.from_url(backend.url).connection_pool.connection_kwargs
    given = made.connection_pool.connection_kwargs
    for name in ("host", "port", "path", "db", "username", "password", "ssl_ca_certs"):
        assert (again.get(name) or None) == (given.get(name) or None), name
    assert "p/@" not in repr(backend)
    assert "p%2F%40" not in repr(backend)


def test_a_client_without_a_url_does_not_travel() -> None:
    class Own:
        async def get(self, name: str) -> None:
            """Nothing."""

    with pytest.raises(CascadeError, match="give the backend a URL"):
        pickle.dumps(cs.RedisCacheBackend(Own()))


def test_what_is_no_client_is_refused() -> None:
    for wrong, words in (
        (3, r"builtins\.int: give"),
        (redis.Redis(), "give a redis.asyncio"),
        (redis.asyncio.Redis(decode_responses=True), "without decode_responses"),
    ):
        with pytest.raises(TypeError, match=words):
            cs.RedisCacheBackend(wrong)
    with pytest.raises(ValueError, match="'http'"):
        cs.RedisCacheBackend("http://h")
    with pytest.raises(TypeError, match="prefix"):
        cs.RedisCacheBackend("redis://h", prefix=3)  # type: ignore[arg-type]


def test_each_event_loop_has_connections_of_its_own(redis_server: str) -> None:
    backend = cs.RedisCacheBackend(redis_server, f"{secrets.token_hex(8)}:")

    async def put(value: int) -> Any:
        before = await backend.get("k")
        await backend.set("k", value)
        await backend.close()
        return before

    assert [asyncio.run(put(number)) for number in (1, 2, 3)] == [None, 1, 2]


async def test_more_callers_than_connections_wait(redis_server: str) -> None:
    backend = cs.RedisCacheBackend(redis_server, f"{secrets.token_hex(8)}:")
    try:
        await asyncio.gather(*(backend.set(str(number), number) for number in range(100)))
        found = await asyncio.gather(*(backend.get(str(number)) for number in range(100)))
        assert found == list(range(100))
    finally:
        await backend.close()


async def test_values_have_a_bound(client: Any) -> None:
    with pytest.raises(ValueError, match="SizeTieredCache"):
        await cs.RedisCacheBackend(client).set("k", bytes((64 << 20) + 1))


async def test_a_policy_and_a_tier_work_with_it(client: Any) -> None:
    policy = cs.ResultCache(cs.RedisCacheBackend(client), ttl=60)
    assert await policy.check("f@1", {"x": 1}) is cs.MISS
    await policy.save("f@1", {"x": 1}, None)
    assert await policy.check("f@1", {"x": 1}) == cs.CacheHit(None)
    tiered = cs.SizeTieredCache(cs.InMemoryCacheBackend(), cs.RedisCacheBackend(client, "large:"), 100)
    await tiered.set("k", b"x" * 101, ttl=60)
    assert await client.keys("large:*") == [b"large:k"]
    assert await tiered.get("k") == b"x" * 101
    await tiered.set("k", b"x")
    assert await client.keys("large:*") == []


@cs.task
def double(x: int) -> int:
    return 2 * x


def test_where_it_keeps_values_counts() -> None:
    def digest(backend: Any) -> bytes:
        return Specs(CodeHasher()).of(double, double(1).with_cache(cs.ResultCache(backend)).chain).digest

    assert digest(cs.RedisCacheBackend("redis://h")) == digest(cs.RedisCacheBackend("redis://h"))
    assert digest(cs.RedisCacheBackend("redis://h")) != digest(cs.RedisCacheBackend("redis://other"))
    assert digest(cs.RedisCacheBackend("redis://h")) != digest(cs.RedisCacheBackend("redis://h", "p"))


def test_redis_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ImportError, match="pip install redis"):
        cs.RedisCacheBackend("redis://h")


def test_naming_the_backends_loads_no_network_library() -> None:
    code = (
        "import sys, cascade_dist as cs\n"
        "cs.RedisCacheBackend, cs.IpfsCacheBackend, cs.RedisStateBackend, cs.InMemoryStateBackend\n"
        "print({'grpc', 'redis', 'aiohttp'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
