"""Sessions of a private cluster are direct streams; without their socket, all is as before by gRPC."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import cascade_dist as cs
from cascade_dist.client.link import Link
from cascade_dist.client.local import LocalCluster
from cascade_dist.errors import AuthenticationError
from cascade_dist.v1 import client_pb2 as pb
from cascade_dist.wire import Address, TokenAuth, open_channel, read_token
from cascade_dist.wire.direct import DirectCall, open_stream

pytestmark = pytest.mark.integration


@cs.task
def double(x: int) -> int:
    print("doubling", x)
    return 2 * x


@cs.task
def fill(size: int) -> bytes:
    return bytes(size)


@pytest.fixture(scope="module")
def local() -> Iterator[LocalCluster]:
    cluster = LocalCluster(workers=1)
    cluster.start()
    yield cluster
    cluster.stop()


def _address(local: LocalCluster) -> Address:
    host, _, port = local.address.rpartition(":")
    return Address(host, int(port), socket=local.socket)


def test_a_private_cluster_talks_directly() -> None:
    with cs.connect(None, workers=1) as cluster:
        assert cluster.run([double(x) for x in range(2_000)]) == [2 * x for x in range(2_000)]
        assert cluster.run(fill(3 << 20)) == bytes(3 << 20)
        link = cluster._session.link
        assert link is not None
        assert isinstance(link._call, DirectCall)


def test_a_session_goes_on_when_its_stream_is_cut() -> None:
    with cs.connect(None, workers=1) as cluster:
        assert cluster.run(double(1)) == 2
        before = cluster._session.link
        assert before is not None
        asyncio.run_coroutine_threadsafe(_cut(before), cluster._session.background.loop).result(10)
        assert cluster.run(double(2)) == 4
        assert cluster._session.link is not before


async def _cut(link: Link) -> None:
    assert isinstance(link._call, DirectCall)
    link._call.drop()


def test_only_its_user_can_reach_the_socket_and_only_with_the_token(local: LocalCluster) -> None:
    address = _address(local)
    assert stat.S_IMODE(os.stat(address.direct).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(Path(address.direct).parent).st_mode) == 0o700

    async def knock(token: str | None) -> None:
        link, _ = await Link.open(address, None, TokenAuth(token).metadata, 10.0)
        await link.close()

    asyncio.run(knock(read_token(token_file=local.token_file)))
    for wrong in (None, "wrong"):
        with pytest.raises(AuthenticationError, match="token"):
            asyncio.run(knock(wrong))


def test_who_says_nonsense_is_sent_away_and_nobody_else_notices(local: LocalCluster) -> None:
    address = _address(local)
    metadata = TokenAuth(read_token(token_file=local.token_file)).metadata

    async def talk(message: bytes) -> str:
        async with open_channel(address) as channel:
            method = "/cascade_dist.v1.ClientService/Open"
            call = await open_stream(address, channel, method, metadata, pb.OpenResponse.FromString)
            await call.write(message)
            try:
                await asyncio.wait_for(call.read(), 20)
            except Exception as error:
                return f"{type(error).__name__} {error}"
            return "an answer"

    assert "INVALID_ARGUMENT" in asyncio.run(talk(pb.OpenRequest(cancel=pb.Cancel()).SerializeToString()))
    assert "a message cannot be read" in asyncio.run(talk(b"\xff\xff\xff"))
    with cs.connect(local.address, token_file=local.token_file) as cluster:
        assert cluster.run(double(4)) == 8


def test_without_the_socket_sessions_go_by_grpc(local: LocalCluster) -> None:
    address = _address(local)._replace(socket="")

    async def knock() -> bool:
        metadata = TokenAuth(read_token(token_file=local.token_file)).metadata
        link, _ = await Link.open(address, None, metadata, 10.0)
        direct = isinstance(link._call, DirectCall)
        await link.close()
        return direct

    assert not asyncio.run(knock())
