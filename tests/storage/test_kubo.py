"""The client of a node's RPC against nodes that misbehave: they hang, cut, lie and come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from cascade_dist.codec.cid import CHUNK_BYTES, cid_of, cid_to_text
from cascade_dist.storage.breaker import Breaker
from cascade_dist.storage.kubo import IpfsAway, IpfsError, IpfsLacks, IpfsWrong, Kubo, api_url

DATA = b"0123456789abcdef" * (CHUNK_BYTES // 4)
CID = cid_to_text(cid_of(DATA))


@asynccontextmanager
async def node(answer: Any) -> AsyncIterator[str]:
    """A web server in place of a node."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/api/v0/{command:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def streams(*parts: bytes, then: str = "end") -> Any:
    """Answers `cat` with these parts, and then ends, hangs or cuts."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.match_info["command"] == "version":
            return web.json_response({"Version": "0.39.0"})
        if request.match_info["command"] == "files/stat":
            return web.json_response({"Size": len(DATA)})
        response = web.StreamResponse()
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        if then == "hang":
            await asyncio.Event().wait()
        if then == "cut":
            assert request.transport is not None
            request.transport.abort()
            await asyncio.sleep(0)
        return response

    return answer


async def take(pieces: AsyncIterator[bytes], into: bytearray) -> None:
    """Reads a stream."""
    async for piece in pieces:
        into += piece


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (streams(DATA[:-1], b"!"), IpfsWrong),
        (streams(DATA[:-1]), IpfsWrong),
        (streams(b""), IpfsWrong),
        (streams(DATA, b"!"), IpfsWrong),
        (streams(DATA[:CHUNK_BYTES], then="cut"), IpfsAway),
        (streams(DATA[:CHUNK_BYTES], then="hang"), IpfsAway),
        (streams(then="hang"), IpfsAway),
    ],
)
@pytest.mark.parametrize("find", [None, 5.0])
async def test_what_is_not_the_whole_blob_is_never_given_whole(
    answer: Any, kind: type[IpfsError], find: float | None
) -> None:
    got = bytearray()
    async with node(answer) as url, Kubo(url, silence=0.3) as kubo:
        with pytest.raises(kind):
            await take(kubo.cat_pieces(CID, len(DATA), find), got)
    assert len(got) < len(DATA)


async def test_a_blob_that_is_larger_than_wanted_is_refused_before_it_is_read() -> None:
    async with node(streams(DATA)) as url, Kubo(url) as kubo:
        with pytest.raises(IpfsWrong, match="more than 10 bytes"):
            await take(kubo.cat_pieces(CID, 10, 5.0), bytearray())


@pytest.mark.parametrize(
    "text", ["ipld: could not find node", "block was not found locally", "context deadline exceeded"]
)
async def test_what_the_node_lacks_is_told_from_a_node_that_is_away(text: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        told = f"path '{CID}' is not pinned" if request.path.endswith("pin/ls") else text
        return web.json_response({"Message": told}, status=500)

    async with node(answer) as url, Kubo(url) as kubo:
        with pytest.raises(IpfsLacks, match=text):
            await take(kubo.cat_pieces(CID, len(DATA), 1.0), bytearray())
        with pytest.raises(IpfsLacks):
            await kubo.pin(CID, "mine", find=1.0)


async def test_an_upload_to_a_node_that_hangs_is_given_up() -> None:
    async def answer(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 20)

    async with node(answer) as url, Kubo(url, silence=0.2) as kubo:
        with pytest.raises(IpfsAway, match=r"took nothing for 0\.2 s"):
            await kubo.add_pieces(CID, 1 << 40, endless)


async def test_a_call_whose_connection_is_cut_is_said_again() -> None:
    calls = []

    async def answer(request: web.Request) -> web.Response:
        calls.append(request.match_info["command"])
        if len(calls) < 3:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"Version": "0.39.0"})

    async with node(answer) as url, Kubo(url) as kubo:
        assert await kubo.version() == "0.39.0"
    assert calls == ["version"] * 3


async def test_one_that_hangs_is_away_soon() -> None:
    async def answer(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    async with node(answer) as url, Kubo(url) as kubo:
        with pytest.raises(IpfsAway, match="no answer of an IPFS node"):
            await kubo.version(0.1)


async def test_one_that_never_stops_cutting_is_away() -> None:
    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with node(answer) as url, Kubo(url) as kubo:
        with pytest.raises(IpfsAway, match="no answer of an IPFS node"):
            await kubo.version()


@pytest.mark.parametrize("text", ["", "<html>", "[]", '{"Version": null'])
async def test_what_is_no_node_is_named(text: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=text)

    async with node(answer) as url, Kubo(url) as kubo:
        for ask in (kubo.version, kubo.peer_id, lambda: kubo.size(CID, 1.0)):
            with pytest.raises(IpfsError, match="IPFS node"):
                await ask()


def test_uris() -> None:
    assert api_url("ipfs://127.0.0.1:5001") == "http://127.0.0.1:5001"
    assert api_url("ipfs://[::1]:5001/") == "http://[::1]:5001"
    for wrong in ("ipfs://host", "http://host:1", "ipfs://host:99999", "ipfs://host:1/path", "ipfs://:1", ""):
        with pytest.raises(ValueError, match="names no IPFS node"):
            api_url(wrong)


def test_a_breaker_lets_one_try_a_period() -> None:
    now = [0.0]
    breaker = Breaker(10.0, lambda: now[0])
    assert [breaker.may_try(), breaker.away] == [True, False]
    assert breaker.failed()
    assert [breaker.may_try(), breaker.away] == [False, True]
    now[0] = 10.0
    assert [breaker.may_try(), breaker.may_try()] == [True, False]
    assert not breaker.failed(), "it is known to be away"
    now[0] = 20.0
    assert breaker.may_try()
    assert breaker.worked()
    assert not breaker.worked()
    assert [breaker.may_try(), breaker.may_try()] == [True, True]
