"""Blobs that nothing names go after a grace; what a cache entry names does not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Container
from pathlib import Path

import pytest
import redis.asyncio

from cascade_dist.codec.cid import cid_of
from cascade_dist.storage.records import BlobRecord, encode_record
from cascade_dist.storage.seal import Sealer
from cascade_scheduler.blobs.base import BlobStore
from cascade_scheduler.blobs.collecting import collect_idle
from cascade_scheduler.blobs.files import FileBlobStore
from cascade_scheduler.store.base import StoreUnavailable
from cascade_scheduler.store.cache import CacheStore, MemoryCacheStore, blob_named
from cascade_scheduler.store.redis_cache import RedisCacheStore


async def put(store: BlobStore, data: bytes) -> bytes:
    """Stores some bytes."""
    upload = await store.begin(cid_of(data), len(data))
    await upload.write(data)
    await upload.finish()
    return cid_of(data)


async def gone(store: BlobStore, cid: bytes) -> None:
    """Waits until a blob is gone."""
    async with asyncio.timeout(20):
        while cid in {info.cid for info in store.listing()}:  # noqa: ASYNC110 - looking is not using
            await asyncio.sleep(0.01)


@pytest.fixture(params=["memory", "redis"])
def cache(request: pytest.FixtureRequest) -> CacheStore:
    """The cluster's cache."""
    if request.param == "memory":
        return MemoryCacheStore(1 << 20)
    return RedisCacheStore(request.getfixturevalue("redis_server"), Sealer(b"k" * 32), ttl=300)


async def test_what_a_cache_entry_names_stays(cache: CacheStore, tmp_path: Path) -> None:
    store = FileBlobStore(tmp_path, 1 << 20)
    named, idle, used = [await put(store, bytes([number]) * 1000) for number in range(3)]
    store.pin([used])
    await cache.put(
        [
            (b"a" * 16, encode_record(BlobRecord(named, 1000))),
            (b"b" * 16, b"\x80\x05N."),
            (b"c" * 16, b"\x00 of a later version}"),
        ]
    )
    assert named in await cache.blobs()
    task = asyncio.create_task(collect_idle(store, cache.blobs, 0.01))
    await gone(store, idle)
    assert {info.cid for info in store.listing()} == {named, used}
    store.unpin([used])
    await gone(store, used)
    assert {info.cid for info in store.listing()} == {named}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await cache.close()


async def test_what_is_no_entry_of_ours_names_nothing(redis_server: str) -> None:
    client = redis.asyncio.Redis.from_url(redis_server)
    await client.hset("cascade:cache:a-hash", "field", "value")
    await client.set("cascade:cache:text", "words")
    cache = RedisCacheStore(redis_server, Sealer(b"k" * 32))
    try:
        assert all(len(cid) == 36 for cid in await cache.blobs())
    finally:
        await client.delete("cascade:cache:a-hash", "cascade:cache:text")
        await client.aclose()
        await cache.close()
    assert blob_named(b"\x00") is None
    assert blob_named(b"\x00{}") is None


async def test_a_cache_that_is_away_deletes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = FileBlobStore(tmp_path, 1 << 20)
    cid = await put(store, b"bytes")
    asked = asyncio.Event()

    async def away() -> Container[bytes]:
        if caplog.records:
            asked.set()
        raise StoreUnavailable("no Redis at redis://nowhere")

    with caplog.at_level(logging.WARNING, "cascade.scheduler"):
        task = asyncio.create_task(collect_idle(store, away, 0.01))
        await asyncio.wait_for(asked.wait(), 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert store.has(cid)
    assert "no Redis at redis://nowhere" in caplog.text
