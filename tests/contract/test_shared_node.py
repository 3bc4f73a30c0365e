"""Several that keep equal bytes on one IPFS node, which has one pin for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cascade_dist.caching import InMemoryCacheBackend, IpfsCacheBackend
from cascade_dist.codec.cid import cid_of, cid_to_text
from cascade_dist.storage.kubo import Kubo
from cascade_dist.storage.pin_names import CACHE_PINS, store_pins
from cascade_scheduler.blobs.base import BlobStore
from cascade_scheduler.blobs.files import FileBlobStore
from cascade_scheduler.blobs.ipfs import IpfsBlobStore

pytestmark = pytest.mark.integration

LASTING, PASSING = store_pins(False, "lasting"), store_pins(True, "")


def store_at(directory: Path, kubo: str, temporary: bool) -> IpfsBlobStore:
    name = PASSING if temporary else LASTING
    return IpfsBlobStore(FileBlobStore(directory, 1 << 20), kubo, name=name, temporary=temporary)


async def put(store: BlobStore, data: bytes) -> str:
    upload = await store.begin(cid_of(data), len(data))
    await upload.write(data)
    await upload.finish()
    return cid_to_text(cid_of(data))


@pytest.mark.parametrize("first", ["lasting", "passing"])
async def test_who_passes_takes_no_pin_from_who_lasts(kubo: str, tmp_path: Path, first: str) -> None:
    data = os.urandom(1000)
    lasting, passing = store_at(tmp_path / "a", kubo, False), store_at(tmp_path / "b", kubo, True)
    async with Kubo(kubo) as node:
        order = [lasting, passing] if first == "lasting" else [passing, lasting]
        for store in order:
            await store.open()
            cid = await put(store, data)
        assert await node.pinned_as(cid) == LASTING
        await passing.close()
        assert await node.pinned_as(cid) == LASTING
        await lasting.close()
        assert await node.pinned_as(cid) == LASTING, "its files are there, so its pins are"


async def test_a_users_own_pin_is_left_alone(kubo: str, tmp_path: Path) -> None:
    data = os.urandom(1000)
    async with Kubo(kubo) as node:
        cid = await node.add(data, "holiday pictures")
        store = store_at(tmp_path, kubo, True)
        await store.open()
        await put(store, data)
        assert await node.pinned_as(cid) == "holiday pictures"
        await store.close()
        assert await node.pinned_as(cid) == "holiday pictures"
        await node.unpin(cid, CACHE_PINS)
        assert await node.pinned_as(cid) == "holiday pictures"
        await node.unpin(cid, "holiday pictures")
        assert await node.pinned_as(cid) is None


async def test_a_cache_takes_the_pin_since_it_has_the_bytes_nowhere_else(kubo: str, tmp_path: Path) -> None:
    backend = IpfsCacheBackend(InMemoryCacheBackend(), kubo)
    value = os.urandom(1000)
    await backend.set("before", value)
    cid = await backend.cid("before")
    assert cid is not None
    async with Kubo(kubo) as node:
        data = await node.cat(cid, 2000)
        await node.unpin(cid, CACHE_PINS)
        store = store_at(tmp_path, kubo, True)
        await store.open()
        await put(store, data)
        assert await node.pinned_as(cid) == PASSING
        await backend.set("again", value)
        assert await node.pinned_as(cid) == CACHE_PINS
        await store.close()
        assert await node.pinned_as(cid) == CACHE_PINS
    assert await backend.get("again") == value
