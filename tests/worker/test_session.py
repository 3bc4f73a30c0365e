"""The worker's side of the stream, where nobody answers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cascade_dist.v1 import worker_pb2
from cascade_dist.wire import Address, TokenAuth
from cascade_worker.session import FatalError, SchedulerLink


class Peer:
    """Says hello, and never gets an answer."""

    streaming = False

    def hello(self) -> worker_pb2.Hello:
        return worker_pb2.Hello(name="worker-0")

    def connected(self, welcome: worker_pb2.Welcome, response: worker_pb2.ConnectResponse) -> None:
        raise AssertionError("nobody has answered")

    def received(self, response: worker_pb2.ConnectResponse) -> None:
        raise AssertionError("nobody has answered")

    def next_message(self, force: bool) -> worker_pb2.ConnectRequest | None:
        return None

    def disconnected(self) -> None:
        raise AssertionError("there was no session")


async def test_a_direct_stream_on_which_nobody_answers_is_closed(tmp_path: Path) -> None:
    """Else a scheduler that stands still for a while finds sessions of one worker by the dozen."""
    address = Address("127.0.0.1", 1, socket=str(tmp_path / "s"))
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.put_nowait(await reader.read())  # to the end
        writer.close()

    server = await asyncio.start_unix_server(listen, address.direct)
    link = SchedulerLink(Peer(), (address,), TokenAuth(None), None, 0.5)
    with pytest.raises(FatalError, match="no answer"):
        await link.run()
    assert b"worker-0" in await asyncio.wait_for(heard.get(), 10)
    server.close()
    await server.wait_closed()
