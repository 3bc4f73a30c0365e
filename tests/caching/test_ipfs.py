"""The backend in IPFS: against a real node, and against one that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import pickle
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

import cascade_dist as cs
from cascade_dist.codec.cid import CHUNK_BYTES, cid_of, cid_to_text
from cascade_dist.storage.kubo import IpfsError, Kubo
from cascade_dist.storage.pin_names import CACHE_PINS


class Clock:
    """A time that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def call(url: str, command: str, **options: str) -> str:
    """What the node answers to a command."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/api/v0/{command}", params=options) as response,
    ):
        return await response.text()


async def add_by_settings(url: str, data: bytes) -> str:
    """What the node calls some bytes when nobody says how to store them."""
    form = aiohttp.FormData()
    form.add_field("file", io.BytesIO(data), filename="f")
    async with aiohttp.ClientSession() as session, session.post(f"{url}/api/v0/add", data=form) as response:
        found: str = json.loads(await response.text())["Hash"]
        return found


async def pinned(url: str, cid: str) -> bool:
    return f'"{cid}"' in await call(url, "pin/ls", type="recursive")


# --- a real node ----------------------------------------------------------------------------------


async def test_s88_values_return_by_their_content_id(kubo: str) -> None:
    metadata = cs.InMemoryCacheBackend()
    backend = cs.IpfsCacheBackend(metadata, kubo)
    value = {"rows": list(range(1_000)), "none": None}
    assert await backend.get("k") is None
    await backend.set("k", value)
    cid = await backend.cid("k")
    assert cid == cid_to_text(cid_of(pickle.dumps(value, 5)))
    assert await metadata.get("ipfs:k") == cid
    assert await pinned(kubo, cid)
    assert await backend.get("k") == value
    assert await cs.IpfsCacheBackend(metadata, kubo + "/").get("k") == value


async def test_s88_equal_values_share_a_content_id(kubo: str) -> None:
    backend = cs.IpfsCacheBackend(cs.InMemoryCacheBackend(), kubo)
    for key, value in (("one", "shared"), ("two", "shared"), ("three", "another")):
        await backend.set(key, value)
    shared, another = await backend.cid("one"), await backend.cid("three")
    assert shared is not None
    assert await backend.cid("two") == shared != another
    await backend.delete("one")
    assert await pinned(kubo, shared), "two names it"
    assert await backend.get("two") == "shared"
    await backend.delete("two")
    assert not await pinned(kubo, shared)
    await backend.delete("two")


async def test_s88_a_ttl_is_that_of_the_key_alone(kubo: str) -> None:
    clock = Clock()
    metadata = cs.InMemoryCacheBackend(clock=clock)
    backend = cs.IpfsCacheBackend(metadata, kubo)
    await backend.set("k", "timed", ttl=60)
    cid = await backend.cid("k")
    assert cid is not None
    clock.now = 59.0
    assert await backend.get("k") == "timed"
    clock.now = 61.0
    assert await backend.get("k") is None
    assert await pinned(kubo, cid), "it is unpinned by who collects"
    async with Kubo(kubo) as node:
        assert pickle.loads(await node.cat(cid, 1_000)) == "timed"
    assert await backend.collect() == 1
    assert not await pinned(kubo, cid)
    assert await backend.collect() == 0


async def test_a_key_whose_time_is_over_keeps_no_pin(kubo: str) -> None:
    clock = Clock()
    backend = cs.IpfsCacheBackend(cs.InMemoryCacheBackend(clock=clock), kubo)
    await backend.set("short", "both", ttl=60)
    await backend.set("long", "both")
    cid = await backend.cid("long")
    assert cid is not None
    clock.now = 61.0
    await backend.delete("long")
    assert not await pinned(kubo, cid)


async def test_another_value_lets_the_last_one_go(kubo: str) -> None:
    backend = cs.IpfsCacheBackend(cs.InMemoryCacheBackend(), kubo)
    await backend.set("k", "first of k")
    first = await backend.cid("k")
    assert first is not None
    await backend.set("k", "second of k")
    assert not await pinned(kubo, first)
    assert await backend.get("k") == "second of k"


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 175 * CHUNK_BYTES + 5])
async def test_the_node_and_we_call_bytes_the_same(kubo: str, size: int) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    async with Kubo(kubo) as node:
        cid = await node.add(data, CACHE_PINS)
        assert cid == cid_to_text(cid_of(data))
        assert await node.cat(cid, size) == data
        await node.unpin(cid, CACHE_PINS)
        await node.unpin(cid, CACHE_PINS)


async def test_the_nodes_own_settings_play_no_part(kubo: str) -> None:
    data = b"x" * (3 * CHUNK_BYTES)
    theirs = await add_by_settings(kubo, data)
    async with Kubo(kubo) as node:
        assert await node.add(data, CACHE_PINS) == cid_to_text(cid_of(data)) != theirs


async def test_more_bytes_than_were_wanted_are_refused(kubo: str) -> None:
    async with Kubo(kubo) as node:
        cid = await node.add(b"x" * 100, CACHE_PINS)
        with pytest.raises(IpfsError, match="more than 99 bytes"):
            await node.cat(cid, 99)


async def test_bytes_that_no_node_has_are_an_error(kubo: str) -> None:
    cid = cid_to_text(cid_of(b"nobody ever stored this"))
    async with Kubo(kubo) as node:
        with pytest.raises(IpfsError, match="refused cat"):
            await node.cat(cid, 100)


async def test_a_tier_keeps_both_kinds_with_one_backend_for_keys(kubo: str) -> None:
    keys = cs.InMemoryCacheBackend()
    tiered = cs.SizeTieredCache(keys, cs.IpfsCacheBackend(keys, kubo), threshold=100)
    await tiered.set("k", b"x" * 101)
    assert await tiered.get("k") == b"x" * 101
    await tiered.set("k", b"small")
    assert await tiered.get("k") == b"small"
    assert await keys.get("ipfs:k") is None
    policy = cs.SizeTieredCache(keys, cs.IpfsCacheBackend(keys, kubo), threshold=100, ttl=60)
    await policy.save("f@1", {"x": 1}, list(range(1_000)))
    assert await policy.check("f@1", {"x": 1}) == cs.CacheHit(list(range(1_000)))


# --- a node that misbehaves -----------------------------------------------------------------------

CID = cid_to_text(cid_of(b"wanted"))


@asynccontextmanager
async def bad_node(answer: Any) -> AsyncIterator[str]:
    """A web server that answers everything in one way."""
    app = web.Application()
    app.router.add_post("/api/v0/{command:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def says(text: str, status: int = 200) -> Any:
    async def answer(request: web.Request) -> web.Response:
        with contextlib.suppress(ConnectionError):
            await request.read()
        if request.match_info["command"] == "id":
            return web.json_response({"ID": "12D3KooW"})
        if request.match_info["command"] == "pin/ls":
            return web.json_response({"Message": "it is not pinned"}, status=500)
        return web.Response(text=text, status=status)

    return answer


async def test_other_bytes_are_refused_before_they_are_loaded() -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return pytest.fail, ("it was loaded",)

    async with bad_node(says(pickle.dumps(Trap(), 0).decode())) as url:
        metadata = cs.InMemoryCacheBackend()
        await metadata.set("ipfs:k", CID)
        with pytest.raises(IpfsError, match="does not hash to it: refused"):
            await cs.IpfsCacheBackend(metadata, url).get("k")


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ('{"Hash": "%s"}' % CID, 200, "calls the bytes"),  # noqa: UP031 - braces
        ("", 200, "did not say what it stored"),
        ("<html>", 200, "did not say what it stored"),
        ('{"Message": "disk full"}', 500, "refused add: disk full"),
        ("plain words", 403, "refused add: plain words"),
    ],
)
async def test_a_node_that_stores_something_else(text: str, status: int, words: str) -> None:
    async with bad_node(says(text, status)) as url:
        metadata = cs.InMemoryCacheBackend()
        with pytest.raises(IpfsError, match=words):
            await cs.IpfsCacheBackend(metadata, url).set("k", 1)
        assert await metadata.get("ipfs:k") is None


async def test_a_node_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    released = asyncio.Event()

    async def silent(request: web.Request) -> web.Response:
        await released.wait()
        return web.Response()

    monkeypatch.setattr("cascade_dist.storage.kubo.SILENCE_SECONDS", 0.05)
    async with bad_node(silent) as url, Kubo(url) as node:
        with pytest.raises(IpfsError, match="no answer of an IPFS node"):
            await node.cat(CID, 100)
        released.set()


async def test_a_node_that_is_not_there() -> None:
    async with Kubo("http://127.0.0.1:1") as node:
        with pytest.raises(IpfsError, match="no answer of an IPFS node at http://127"):
            await node.cat(CID, 100)


async def test_what_is_no_content_id_is_refused() -> None:
    metadata = cs.InMemoryCacheBackend()
    await metadata.set("ipfs:k", "../etc/passwd")
    with pytest.raises(ValueError, match="no content id"):
        await cs.IpfsCacheBackend(metadata, "http://127.0.0.1:1").get("k")


# --- how it is made -------------------------------------------------------------------------------


def test_it_travels_with_its_options() -> None:
    there = pickle.loads(pickle.dumps(cs.IpfsCacheBackend(cs.InMemoryCacheBackend("mine"), "http://h:5001")))
    assert (there.metadata_backend.name, there.ipfs_api_url) == ("mine", "http://h:5001")


def test_what_is_no_node_or_backend_is_refused() -> None:
    with pytest.raises(TypeError, match="metadata_backend"):
        cs.IpfsCacheBackend(3)  # type: ignore[arg-type]
    for wrong in ("", "ipfs://h", "h:5001"):
        with pytest.raises(ValueError, match="ipfs_api_url"):
            cs.IpfsCacheBackend(cs.InMemoryCacheBackend(), wrong)


async def test_aiohttp_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = cs.IpfsCacheBackend(cs.InMemoryCacheBackend(), "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ImportError, match=r"pip install cascade-dist\[ipfs\]"):
        await backend.set("k", 1)
