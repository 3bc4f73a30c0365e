"""The shell of the cluster's cache: what a store does that is away, slow, or has lost a blob."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from cascade_dist.codec.cid import cid_of
from cascade_dist.storage.seal import Sealer
from cascade_scheduler import caching
from cascade_scheduler.blobs.memory import MemoryBlobStore
from cascade_scheduler.caching import ClusterCache
from cascade_scheduler.core.commands import LookUpCached, StoreCached
from cascade_scheduler.core.events import CacheAnswered
from cascade_scheduler.core.values import BlobValue
from cascade_scheduler.store.base import StoreUnavailable
from cascade_scheduler.store.cache import CacheStore, MemoryCacheStore
from cascade_scheduler.store.redis_cache import RedisCacheStore, key_name
from tests.scheduler.core.test_cluster_cache import Maker

KEY = b"k" * 16


class Away:
    """A store that cannot be reached."""

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        raise StoreUnavailable("no Redis at redis://nowhere")

    async def put(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        raise StoreUnavailable("no Redis at redis://nowhere")

    async def close(self) -> None:
        """Nothing."""


class Slow(MemoryCacheStore):
    """A store that never answers."""

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        await asyncio.Event().wait()
        raise AssertionError


class Counting(MemoryCacheStore):
    """A store that notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self.asked: list[bytes] = []

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.asked += keys
        return await super().get(keys)


class Desk:
    """A cache with somebody who listens."""

    def __init__(self, store: CacheStore) -> None:
        self.answers: list[CacheAnswered] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.blobs = MemoryBlobStore(1 << 20)
        self.cache = ClusterCache(store, self.blobs, self._spawn, self.answers.append)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    async def do(self, *commands: LookUpCached | StoreCached) -> list[CacheAnswered]:
        self.cache.carry_out(commands)
        await asyncio.gather(*self.tasks)
        answers, self.answers[:] = list(self.answers), []
        return answers


def look_up(key: bytes = KEY) -> LookUpCached:
    return LookUpCached("r", 3, 7, key)


async def test_what_was_kept_is_found() -> None:
    desk = Desk(MemoryCacheStore(1 << 20))
    assert await desk.do(look_up()) == [CacheAnswered("r", 3, 7, None, "")]
    await desk.do(StoreCached("f", KEY, b"\x80value"))
    assert await desk.do(look_up()) == [CacheAnswered("r", 3, 7, b"\x80value", "")]
    assert (desk.cache.hits, desk.cache.misses) == (1, 1)


async def test_a_value_whose_blob_is_gone_is_a_miss() -> None:
    desk = Desk(MemoryCacheStore(1 << 20))
    data = b"x" * 1000
    cid = cid_of(data)
    await desk.do(StoreCached("f", KEY, BlobValue(cid, len(data))))
    assert (await desk.do(look_up()))[0].value is None
    upload = await desk.blobs.begin(cid, len(data))
    await upload.write(data)
    await upload.finish()
    assert (await desk.do(look_up()))[0].value == BlobValue(cid, len(data))


async def test_a_store_that_is_away_is_a_miss_and_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(Away())
    with caplog.at_level(logging.WARNING):
        [answer] = await desk.do(look_up())
        assert answer.value is None
        assert answer.trouble == "the cache could not be asked: no Redis at redis://nowhere"
        assert await desk.do(StoreCached("f", KEY, b"\x80value")) == []
    assert len([record for record in caplog.records if "the cluster's cache" in record.message]) == 1
    make = Maker()
    make.pure("f")
    assert await desk.cache.find(make.graph()) == {}


async def test_a_lookup_that_takes_too_long_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "LOOKUP_SECONDS", 0.01)
    desk = Desk(Slow(1 << 20))
    [answer] = await desk.do(look_up())
    assert answer.value is None
    assert "no answer within" in answer.trouble
    make = Maker()
    make.pure("f")
    assert await desk.cache.find(make.graph()) == {}


async def test_what_only_hits_need_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "PIECE_KEYS", 1)
    store = Counting()
    desk = Desk(store)
    make = Maker()
    below = make.pure("below")
    mid = make.pure("mid", below)
    other = make.pure("other")
    top = make.pure("top", mid, other)
    make.call("end", top, other)
    graph = make.graph()
    keys = dict(caching.known_keys(graph))
    await store.put([(keys[top], b"\x80top"), (keys[below], b"\x80below")])
    assert await desk.cache.find(graph) == {top: b"\x80top"}
    assert store.asked == [keys[top], keys[other]]


async def test_entries_in_redis_are_sealed_and_end(redis_server: str) -> None:
    import redis.asyncio

    store = RedisCacheStore(redis_server, Sealer(b"k" * 32), ttl=300)
    client = redis.asyncio.Redis.from_url(redis_server)
    try:
        await store.put([(KEY, b"\x80value"), (b"j" * 16, b"\x80other")])
        assert await store.get([KEY, b"i" * 16, b"j" * 16]) == [b"\x80value", None, b"\x80other"]
        assert key_name(KEY) == f"cascade:cache:{KEY.hex()}"
        assert 290 < await client.ttl(key_name(KEY)) <= 300
        sealed = await client.get(key_name(KEY))
        assert sealed.startswith(b"\x80value")
        await client.set(key_name(b"j" * 16), sealed)
        assert await store.get([b"j" * 16]) == [None], "a seal is over the key too"
        others = RedisCacheStore(redis_server, Sealer(b"o" * 32))
        assert await others.get([KEY]) == [None]
        await others.close()
    finally:
        await client.aclose()
        await store.close()


async def test_a_redis_that_is_not_there_is_said() -> None:
    store = RedisCacheStore("redis://:secret@127.0.0.1:1/0", Sealer(b"k" * 32))
    with pytest.raises(StoreUnavailable, match=r"redis://:\*\*\*@127.0.0.1:1/0"):
        await store.get([KEY])
    with pytest.raises(StoreUnavailable):
        await store.put([(KEY, b"\x80value")])
    await store.close()


class Gated(Counting):
    """A store that takes entries only when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()

    async def put(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        await self.may.wait()
        await super().put(entries)


async def test_an_entry_on_its_way_to_the_store_is_found() -> None:
    store = Gated()
    desk = Desk(store)
    other = b"o" * 16
    await MemoryCacheStore.put(store, [(other, b"\x80stored")])
    desk.cache.carry_out([StoreCached("f", KEY, b"\x80new")])
    desk.cache.carry_out([look_up(), look_up(other), look_up(b"n" * 16)])
    async with asyncio.timeout(10):
        await desk.tasks[-1]
    assert [answer.value for answer in desk.answers] == [b"\x80new", b"\x80stored", None]
    desk.answers.clear()
    assert store.asked == [other, b"n" * 16]
    store.may.set()
    await asyncio.gather(*desk.tasks)
    assert [answer.value for answer in await desk.do(look_up())] == [b"\x80new"]
    assert store.asked[-1] == KEY, "it is asked for where it is now"
