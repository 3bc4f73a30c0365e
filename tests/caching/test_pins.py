"""What a cache in IPFS unpins: the book of keys, and collecting through restarts with real servers."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
from typing import Any

import pytest
import redis.asyncio

import cascade_dist as cs
from cascade_dist.caching import pins
from cascade_dist.caching.pins import Going, MemoryPins, PinBook, RedisPins
from cascade_dist.storage.kubo import IpfsError, Kubo


@pytest.fixture(params=["memory", "redis"])
async def book(request: pytest.FixtureRequest) -> Any:
    """An empty book."""
    if request.param == "memory":
        yield MemoryPins()
        return
    client = redis.asyncio.Redis.from_url(request.getfixturevalue("redis_server"))
    yield RedisPins(lambda: client, f"cascade:cache:ipfs-pins:{secrets.token_hex(8)}:")
    await client.aclose()


async def pinned(url: str, cid: str | None) -> bool:
    assert cid is not None
    async with Kubo(url) as node:
        return cid in await node.pins()


# --- the book -------------------------------------------------------------------------------------


async def test_what_a_live_key_names_is_not_taken(book: PinBook) -> None:
    await book.hold("cid", "for ever", None)
    await book.hold("cid", "over", 0)
    await book.hold("other", "over", 0)
    assert await book.take(10) == [Going("other", False)]
    assert await book.take(10) == [], "it is going"
    assert not await book.finish("other")
    await book.drop("cid", "over")
    assert await book.take(10) == []
    await book.drop("cid", "for ever")
    await book.drop("cid", "for ever")
    await book.drop("never seen", "key")
    assert await book.take(10) == [Going("cid", False)]


async def test_a_key_that_is_set_again_has_its_new_end(book: PinBook) -> None:
    await book.hold("cid", "key", 0)
    await book.hold("cid", "key", 60)
    assert await book.take(10) == []
    await book.hold("cid", "key", 0)
    assert await book.take(10) == [Going("cid", False)]


async def test_a_key_that_comes_while_it_is_unpinned_has_it_pinned_again(book: PinBook) -> None:
    await book.hold("cid", "old", 0)
    assert await book.take(10) == [Going("cid", False)]
    await book.hold("cid", "new", None)
    assert await book.take(10) == []
    assert await book.finish("cid")
    assert not await book.finish("never seen")


async def test_what_somebody_left_who_died_is_taken_up(
    book: PinBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    await book.hold("gone", "key", 0)
    await book.hold("named", "key", 0)
    assert len(await book.take(10)) == 2
    await book.hold("named", "other", None)
    monkeypatch.setattr(pins, "STALE_SECONDS", 0.0)
    assert sorted(await book.take(10)) == [Going("gone", False), Going("named", True)]
    assert [await book.finish(cid) for cid in ("gone", "named")] == [False, True]
    assert await book.take(10) == []


async def test_only_so_many_are_taken_at_once(book: PinBook) -> None:
    for number in range(5):
        await book.hold(f"cid {number}", "key", 0)
    taken = [len(await book.take(2)) for _ in range(4)]
    assert taken == [2, 2, 1, 0]


async def test_what_memory_has_no_room_for_is_unpinned(kubo: str) -> None:
    metadata = cs.InMemoryCacheBackend(entries_max=1)
    backend = cs.IpfsCacheBackend(metadata, kubo)
    await backend.set("first", "evicted first")
    first = await backend.cid("first")
    await backend.set("second", "evicted second")
    await backend.collect()
    assert not await pinned(kubo, first)
    assert await pinned(kubo, await backend.cid("second"))
    await backend.delete("second")


# --- real nodes and Redis -------------------------------------------------------------------------

SETTER = """
import asyncio, sys
import cascade_dist as cs

async def main(redis, kubo):
    backend = cs.IpfsCacheBackend(cs.RedisCacheBackend(redis), kubo)
    await backend.set("short", "shared by two", ttl=0.2)
    await backend.set("long", "shared by two", ttl=600)
    await backend.set("alone", "of one", ttl=0.2)
    for key in ("short", "alone"):
        print(await backend.cid(key))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_expiry_unpins_after_the_process_that_set_the_key_is_gone(
    kubo: str, redis_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    client = redis.asyncio.Redis.from_url(redis_server)
    async with Kubo(kubo) as node:
        books = f"*ipfs-pins:{await node.peer_id()}*"
    command = [sys.executable, "-c", SETTER, redis_server, kubo]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    shared, alone = done.stdout.split()
    metadata = cs.RedisCacheBackend(redis_server)
    backend = cs.IpfsCacheBackend(metadata, kubo)
    collected = 0
    async with asyncio.timeout(30):
        while not collected:
            await asyncio.sleep(0.05)
            collected = await backend.collect()
    assert collected == 1
    assert not await pinned(kubo, alone)
    assert await backend.get("alone") is None
    assert await pinned(kubo, shared), "a live key names it"
    assert await backend.get("short") is None
    assert await backend.get("long") == "shared by two"
    await backend.delete("long")
    assert not await pinned(kubo, shared)
    assert await client.keys(books) == []
    await metadata.close()
    await client.aclose()


async def test_a_key_of_another_process_keeps_a_pin(
    kubo: str, redis_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    one, two = cs.RedisCacheBackend(redis_server), cs.RedisCacheBackend(redis_server)
    first, second = cs.IpfsCacheBackend(one, kubo), cs.IpfsCacheBackend(two, kubo)
    await first.set("mine", "named twice")
    await second.set("yours", "named twice")
    cid = await first.cid("mine")
    await first.delete("mine")
    assert await pinned(kubo, cid)
    await first.set("yours", "another value")
    assert not await pinned(kubo, cid), "the last key that named it names another now"
    await second.delete("yours")
    await one.close()


async def test_one_who_dies_between_taking_and_unpinning_is_made_good(
    kubo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = cs.InMemoryCacheBackend()
    backend = cs.IpfsCacheBackend(metadata, kubo)
    await backend.set("k", "left behind")
    cid = await backend.cid("k")

    async def fail(self: Kubo, cid: str, name: str) -> None:
        raise IpfsError("the node is away")

    with monkeypatch.context() as broken:
        broken.setattr(Kubo, "unpin", fail)
        with pytest.raises(IpfsError, match="away"):
            await backend.delete("k")
    assert await pinned(kubo, cid)
    monkeypatch.setattr(pins, "STALE_SECONDS", 0.0)
    assert await backend.collect() == 1
    assert not await pinned(kubo, cid)


async def test_who_uses_the_backend_collects_now_and_then(
    kubo: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cascade_dist.caching.ipfs.COLLECT_SECONDS", 0.0)
    clock = [0.0]
    backend = cs.IpfsCacheBackend(cs.InMemoryCacheBackend(clock=lambda: clock[0]), kubo)
    await backend.set("k", "short-lived", ttl=10)
    cid = await backend.cid("k")
    clock[0] = 20.0

    async def fail(self: Kubo, cid: str, name: str) -> None:
        raise IpfsError("it cannot unpin")

    with monkeypatch.context() as broken:
        broken.setattr(Kubo, "unpin", fail)
        await backend.set("other", "long-lived")
    assert "it cannot unpin" in caplog.text
    assert await pinned(kubo, cid)
    monkeypatch.setattr(pins, "STALE_SECONDS", 0.0)
    assert await backend.get("other") == "long-lived"
    assert not await pinned(kubo, cid)


async def test_a_miss_asks_no_node() -> None:
    assert await cs.IpfsCacheBackend(cs.InMemoryCacheBackend(), "http://127.0.0.1:1").get("k") is None


class Plain:
    """A backend of a user's own, which keeps no book."""

    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}

    async def get(self, key: str) -> Any:
        return self.entries.get(key)

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        self.entries[key] = value

    async def delete(self, key: str) -> None:
        self.entries.pop(key, None)


async def test_without_a_book_nothing_is_unpinned(kubo: str) -> None:
    backend = cs.IpfsCacheBackend(Plain(), kubo)
    await backend.set("k", "kept for ever")
    cid = await backend.cid("k")
    await backend.set("k", "another")
    await backend.delete("k")
    assert await backend.collect() == 0
    assert await pinned(kubo, cid)
