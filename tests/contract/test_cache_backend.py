"""What every cache backend keeps to: in memory, in a real Redis, on a real IPFS node, and in two of these."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import cascade_dist as cs

Make = Callable[[pytest.FixtureRequest], cs.CacheBackend]


def in_redis(request: pytest.FixtureRequest) -> cs.RedisCacheBackend:
    return cs.RedisCacheBackend(request.getfixturevalue("redis_server"), f"{uuid.uuid4().hex}:")


def in_ipfs(request: pytest.FixtureRequest, metadata: cs.CacheBackend) -> cs.IpfsCacheBackend:
    return cs.IpfsCacheBackend(metadata, request.getfixturevalue("kubo"))


def tiered_in_two(request: pytest.FixtureRequest) -> cs.CacheBackend:
    keys = in_redis(request)  # the same for both, as users have it
    return cs.SizeTieredCache(keys, in_ipfs(request, keys), threshold=1_000)


BACKENDS: dict[str, Make] = {
    "memory": lambda request: cs.InMemoryCacheBackend(uuid.uuid4().hex),
    "redis": in_redis,
    "ipfs-memory": lambda request: in_ipfs(request, cs.InMemoryCacheBackend(uuid.uuid4().hex)),
    "ipfs-redis": lambda request: in_ipfs(request, in_redis(request)),
    "tiered-memory-redis": lambda request: cs.SizeTieredCache(
        cs.InMemoryCacheBackend(uuid.uuid4().hex), in_redis(request), threshold=1_000
    ),
    "tiered-redis-ipfs": tiered_in_two,
}


@pytest.fixture(params=BACKENDS)
async def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    monkeypatch.setenv("CASCADE_SEAL_KEY", "k" * 32)
    yield BACKENDS[request.param](request)
    if "redis" in request.param:
        await in_redis(request).close()


VALUES = [0, False, "", b"", [1, {"a": (2.5, b"\0")}], b"x" * 200_000, "☃" * 5_000, {1, 2}]


async def test_values_round_trip(backend: Any) -> None:
    assert isinstance(backend, cs.CacheBackend)
    for number, value in enumerate(VALUES):
        assert await backend.get(f"k{number}") is None
        await backend.set(f"k{number}", value)
        assert await backend.get(f"k{number}") == value


async def test_a_key_has_the_last_value_that_was_set(backend: Any) -> None:
    for value in ("small", b"x" * 5_000, "small again", b"y" * 5_000):
        await backend.set("k", value)
        assert await backend.get("k") == value


async def test_what_is_deleted_is_gone(backend: Any) -> None:
    await backend.delete("never")
    for value in ("small", b"x" * 5_000):
        await backend.set("k", value)
        await backend.set("other", value)
        await backend.delete("k")
        await backend.delete("k")
        assert await backend.get("k") is None
        assert await backend.get("other") == value


async def test_keys_do_not_mix(backend: Any) -> None:
    keys = ["a", "a:", "a:b", "ipfs:a", "A", "a ☃", "a" * 500]
    for number, key in enumerate(keys):
        await backend.set(key, [number])
    assert [await backend.get(key) for key in keys] == [[number] for number in range(len(keys))]


async def gone(backend: Any, key: str) -> None:
    """Waits until a key has no value any more."""
    async with asyncio.timeout(20):
        while await backend.get(key) is not None:  # noqa: ASYNC110 - nobody says when
            await asyncio.sleep(0.01)


async def test_a_value_is_gone_when_its_time_is_over(backend: Any) -> None:
    for value in ("small", b"x" * 5_000):
        await backend.set("short", value, ttl=0.05)
        await backend.set("long", value, ttl=300)
        await backend.set("for ever", value)
        await gone(backend, "short")
        assert await backend.get("long") == value
        assert await backend.get("for ever") == value


async def test_a_value_that_is_set_again_has_a_new_time(backend: Any) -> None:
    await backend.set("k", "short", ttl=0.05)
    await backend.set("k", "long", ttl=300)
    await backend.set("mark", "short", ttl=0.05)
    await gone(backend, "mark")
    assert await backend.get("k") == "long"


async def test_many_at_once_do_not_disturb_each_other(backend: Any) -> None:
    async def one(number: int) -> Any:
        await backend.set(f"k{number}", [number] * 200)
        return await backend.get(f"k{number}")

    assert await asyncio.gather(*map(one, range(20))) == [[number] * 200 for number in range(20)]
