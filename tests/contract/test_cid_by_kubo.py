"""A real IPFS node calls bytes as we do, at every border of chunks and links, whatever its own settings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import NoReturn

import aiohttp
import pytest

from cascade_dist.codec.cid import CHUNK_BYTES, LINKS_MAX, CidHasher, cid_from_text, cid_to_text
from cascade_dist.storage.kubo import Kubo
from tests.kubo import KuboNode, find_ipfs

PIECE = 1 << 20
BLOCK = bytes(range(256)) * (PIECE // 256)
FULL = LINKS_MAX * CHUNK_BYTES
"""What one level of links holds."""

SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, FULL - 1, FULL, FULL + 1]
PROFILES = ["legacy-cid-v0", "test-cid-v1-wide"]


async def pieces_of(size: int) -> AsyncIterator[bytes]:
    """Bytes in which no two pieces are alike."""
    for number, at in enumerate(range(0, size, PIECE)):
        yield (number.to_bytes(8, "big") + BLOCK)[: min(PIECE, size - at)]


async def cid_of_size(size: int) -> str:
    """Our own name for them."""
    hasher = CidHasher()
    async for piece in pieces_of(size):
        hasher.update(piece)
    return cid_to_text(hasher.digest())


async def there_and_back(url: str, size: int) -> None:
    """Stores bytes, which fails when the node calls them otherwise, and reads them, which checks them."""
    cid = await cid_of_size(size)
    async with Kubo(url) as node:
        await node.add_pieces(cid, size, partial(pieces_of, size), pin="border")
        assert await node.size(cid, 20.0) == size
        got = 0
        async for piece in node.cat_pieces(cid, size):
            got += len(piece)
        assert got == size
        await node.unpin(cid, "border")


@pytest.mark.parametrize("size", SIZES)
async def test_borders(kubo: str, size: int) -> None:
    await there_and_back(kubo, size)


@pytest.mark.parametrize("size", [2 * FULL - 1, 2 * FULL, 2 * FULL + 1, 300_000_000])
async def test_large_borders(kubo: str, size: int) -> None:
    await there_and_back(kubo, size)


@pytest.fixture(scope="module", params=PROFILES)
def node_of_profile(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    lacking: Callable[[str], NoReturn],
) -> Iterator[str]:
    """The URL of a node whose owner has chosen another way to store files."""
    ipfs, reason = find_ipfs()
    if not ipfs:
        lacking(reason)
    node = KuboNode(ipfs, tmp_path_factory.mktemp("kubo"), {}, profile=request.param)
    try:
        node.start()
        yield node.url
    finally:
        node.stop()


@pytest.mark.parametrize("size", [1, CHUNK_BYTES + 1, 5 * CHUNK_BYTES])
async def test_a_node_of_another_profile(node_of_profile: str, size: int) -> None:
    await there_and_back(node_of_profile, size)


# With small chunks all levels of links are within reach: the way the tree is built is the same.
SMALL = 16
LEVELS = [LINKS_MAX, LINKS_MAX**2, LINKS_MAX**2 + LINKS_MAX]


@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("chunks", LEVELS)
async def test_borders_of_levels_of_links(kubo: str, chunks: int, extra: int) -> None:
    data = b"".join([piece async for piece in pieces_of(chunks * SMALL + extra)])
    hasher = CidHasher(chunk_bytes=SMALL)
    hasher.update(data)
    options = {
        "cid-version": "1",
        "raw-leaves": "true",
        "chunker": f"size-{SMALL}",
        "max-file-links": str(LINKS_MAX),
        "only-hash": "true",
    }
    form = aiohttp.FormData()
    form.add_field("file", data, filename="f")
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{kubo}/api/v0/add", params=options, data=form) as response,
    ):
        told = json.loads((await response.text()).splitlines()[-1])["Hash"]
    assert told == cid_to_text(hasher.digest())
    assert cid_from_text(told) == hasher.digest()


async def test_transfers_at_the_same_time_share_a_session(kubo: str) -> None:
    sizes = [CHUNK_BYTES + number for number in range(8)]
    cids = [await cid_of_size(size) for size in sizes]
    async with Kubo(kubo) as node:

        async def both(cid: str, size: int) -> bytes:
            await node.add_pieces(cid, size, partial(pieces_of, size))
            return b"".join([piece async for piece in node.cat_pieces(cid, size)])

        got = await asyncio.gather(*map(both, cids, sizes))
    assert [len(data) for data in got] == sizes
