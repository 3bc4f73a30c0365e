"""Direct streams over a real unix socket: they mean what gRPC's streams mean."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import stat
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from cascade_dist.v1 import client_pb2 as pb
from cascade_dist.wire import MESSAGE_BYTES_MAX, Address, TokenAuth, open_channel
from cascade_dist.wire.direct import DirectCall, open_stream
from cascade_dist.wire.frames import HEAD, MESSAGE, OPEN, STATUS
from cascade_scheduler.direct import DirectServer

TOKEN = "let-me-in"
METHOD = "/a.Service/Talk"
Opened = Callable[..., Any]


class Service:
    """Methods of a service, and what happened to them."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.go = asyncio.Event()

    async def echo(self, requests: Any, context: Any) -> None:
        try:
            while (message := await context.read()) is not grpc.aio.EOF:
                self.heard.append(message.cancel.run_id)
                await context.write(_reply(message.cancel.run_id))
        except asyncio.CancelledError:
            self.ended.set_result("cancelled")
            raise
        self.ended.set_result("eof")

    async def slow(self, requests: Any, context: Any) -> None:
        await self.go.wait()
        try:
            async for message in requests:
                self.heard.append(message.cancel.run_id)
        except asyncio.CancelledError:
            self.ended.set_result("cancelled")
            raise

    async def yields(self, requests: Any, context: Any) -> AsyncIterator[pb.OpenResponse]:
        async for message in requests:
            yield _reply(message.cancel.run_id * 2)

    async def aborts(self, requests: Any, context: Any) -> None:
        await context.read()
        await context.write(_reply("first"))
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not with you")

    async def fails(self, requests: Any, context: Any) -> None:
        raise ValueError("a fault")

    def find(self, method: str) -> Any:
        behaviour = getattr(self, method.rpartition("/")[2].lower(), None)
        if behaviour is None:
            return None
        return grpc.stream_stream_rpc_method_handler(
            behaviour,
            request_deserializer=pb.OpenRequest.FromString,
            response_serializer=pb.OpenResponse.SerializeToString,
        )


def _reply(text: str) -> pb.OpenResponse:
    return pb.OpenResponse(refused=pb.Refused(run_id=text))


def _said(text: str) -> bytes:
    return pb.OpenRequest(cancel=pb.Cancel(run_id=text)).SerializeToString()


@pytest.fixture
async def service() -> Service:
    return Service()


@pytest.fixture
async def address(service: Service, tmp_path: Path) -> AsyncIterator[Address]:
    address = Address("127.0.0.1", 1, socket=str(tmp_path / "s"))
    server = DirectServer(address.direct, service.find, TokenAuth(TOKEN))
    await server.open()
    yield address
    await server.close(1.0)


@pytest.fixture
async def opened(address: Address) -> AsyncIterator[Opened]:
    calls: list[Any] = []

    async def start(method: str, token: str | None = TOKEN) -> Any:
        async with open_channel(address) as channel:
            metadata = TokenAuth(token).metadata
            call = await open_stream(
                address, channel, f"/a.Service/{method}", metadata, pb.OpenResponse.FromString
            )
        assert isinstance(call, DirectCall)
        calls.append(call)
        return call

    yield start
    for call in calls:
        call.cancel()


async def _error(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call.read(), 10)
    return caught.value


async def test_messages_go_both_ways_in_order(opened: Opened, service: Service) -> None:
    call = await opened("Echo")
    for number in range(100):
        await call.write(_said(str(number)))
    assert [(await call.read()).refused.run_id for _ in range(100)] == [str(n) for n in range(100)]
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    assert await service.ended == "eof"
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(_said("too late"))


async def test_a_handler_that_yields(opened: Opened) -> None:
    call = await opened("Yields")
    await call.write(_said("ab"))
    assert (await call.read()).refused.run_id == "abab"
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_large_messages_and_a_peer_that_is_slow(opened: Opened, service: Service) -> None:
    call = await opened("Slow")
    text = "x" * 1_000_000
    writing = asyncio.ensure_future(_write_all(call, [text] * 30))
    done, _ = await asyncio.wait((writing,), timeout=0.3)
    assert not done, "nobody reads: what is written has to wait"
    service.go.set()
    await asyncio.wait_for(writing, 30)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert service.heard == [text] * 30


async def _write_all(call: Any, texts: list[str]) -> None:
    for text in texts:
        await call.write(_said(text))


async def test_an_abort_says_code_and_reason_behind_what_was_said(opened: Opened) -> None:
    call = await opened("Aborts")
    await call.write(_said("hello"))
    assert (await call.read()).refused.run_id == "first"
    error = await _error(call)
    assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not with you")


async def test_a_fault_of_the_handler_ends_the_stream(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    error = await _error(await opened("Fails"))
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert "a fault" in str(error.details())
    assert "a direct stream has failed" in caplog.text


@pytest.mark.parametrize(("token", "said"), [(None, "wants a token"), ("wrong", "is not this cluster's")])
async def test_nobody_gets_in_without_the_token(
    opened: Opened, service: Service, token: str | None, said: str
) -> None:
    call = await opened("Echo", token)
    error = await _error(call)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert said in str(error.details())
    assert service.heard == []


async def test_a_method_that_is_not_there(opened: Opened) -> None:
    error = await _error(await opened("Sing"))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_socket_is_its_users_alone(address: Address) -> None:
    assert stat.S_IMODE(os.stat(address.direct).st_mode) == 0o600


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (HEAD.pack(1 << 20, OPEN), "1,048,576"),
        (HEAD.pack(3, OPEN) + b"{}x", "makes no sense"),
        (HEAD.pack(60_000, OPEN) + b"[" * 60_000, "makes no sense"),
        (HEAD.pack(0, MESSAGE + 7), "kind 7"),
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", "bytes"),
    ],
)
async def test_what_makes_no_sense_is_refused(address: Address, sent: bytes, said: str) -> None:
    reader, writer = await asyncio.open_unix_connection(address.direct)
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert said in answer.decode("latin-1")


async def test_who_was_refused_is_not_heard_any_more(address: Address, service: Service) -> None:
    openings = [
        json.dumps({"method": "/a.Service/Echo", "metadata": TokenAuth(token).metadata}).encode()
        for token in ("wrong", TOKEN)
    ]
    message = _said("hello")
    reader, writer = await asyncio.open_unix_connection(address.direct)
    writer.write(b"".join(HEAD.pack(len(opening), OPEN) + opening for opening in openings))
    writer.write(HEAD.pack(len(message), MESSAGE) + message)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    length, kind = HEAD.unpack_from(answer)
    assert (kind, length) == (STATUS, len(answer) - HEAD.size), "that, and nothing else"
    assert b"is not this cluster's" in answer
    assert service.heard == []


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a server tells nobody of connections
            await asyncio.sleep(0.01)


async def test_nothing_is_kept_of_a_peer_that_went_without_a_word(service: Service, tmp_path: Path) -> None:
    server = DirectServer(str(tmp_path / "d"), service.find, TokenAuth(TOKEN))
    await server.open()
    _, writer = await asyncio.open_unix_connection(tmp_path / "d")
    await _until(lambda: bool(server._streams))
    stream = weakref.ref(next(iter(server._streams)))
    writer.close()
    await _until(lambda: not server._streams)
    await server.close(0.0)
    await asyncio.sleep(0.05)
    gc.collect()
    assert stream() is None


async def test_who_asked_for_nothing_goes_when_the_server_closes(service: Service, tmp_path: Path) -> None:
    server = DirectServer(str(tmp_path / "d"), service.find, TokenAuth(TOKEN))
    await server.open()
    reader, writer = await asyncio.open_unix_connection(tmp_path / "d")
    await _until(lambda: bool(server._streams))
    await server.close(5.0)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_a_message_that_is_too_large_is_not_sent(opened: Opened) -> None:
    call = await opened("Echo")
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(bytes(MESSAGE_BYTES_MAX + 1))
    error = await _error(call)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "16,777,217" in str(error.details())


@pytest.mark.parametrize(
    ("silent", "code", "why"),
    [
        (True, grpc.StatusCode.UNAVAILABLE, "it was silent for 30 s"),
        (False, grpc.StatusCode.RESOURCE_EXHAUSTED, "it sent a frame of 16,777,217 bytes"),
    ],
)
async def test_a_peer_is_told_why_its_stream_ends(
    service: Service, tmp_path: Path, silent: bool, code: grpc.StatusCode, why: str
) -> None:
    server = DirectServer(str(tmp_path / "d"), service.find, TokenAuth(TOKEN))
    await server.open()
    reader, writer = await asyncio.open_unix_connection(tmp_path / "d")
    await _until(lambda: bool(server._streams))
    if silent:
        for _ in range(3):
            next(iter(server._streams))._look()
    else:
        writer.write(HEAD.pack(MESSAGE_BYTES_MAX + 1, MESSAGE))
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await server.close(0.0)
    said = json.loads(answer[answer.index(b"{") :])
    assert said["code"] == code.value[0]
    assert said["details"].startswith(why)


async def test_a_cancel_on_this_side_frees_who_reads(opened: Opened, service: Service) -> None:
    call = await opened("Echo")
    await call.write(_said("one"))
    await call.read()
    reading = asyncio.ensure_future(call.read())
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await asyncio.wait_for(service.ended, 10) == "cancelled"


async def test_what_a_peer_said_before_it_died_is_heard(opened: Opened, service: Service) -> None:
    call = await opened("Slow")
    await _write_all(call, ["one", "two"])
    await asyncio.sleep(0)  # the transport writes when the loop comes round
    call.drop()
    service.go.set()
    assert await asyncio.wait_for(service.ended, 10) == "cancelled"
    assert service.heard == ["one", "two"]


async def test_where_nobody_listens_grpc_says_so(tmp_path: Path) -> None:
    address = Address("127.0.0.1", 1, socket=str(tmp_path / "nobody"))
    async with open_channel(address) as channel:
        call = await open_stream(address, channel, METHOD, (), pb.OpenResponse.FromString)
        assert not isinstance(call, DirectCall)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(call.read(), 10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_server_that_closes_tells_its_peers(service: Service, tmp_path: Path) -> None:
    address = Address("127.0.0.1", 1, socket=str(tmp_path / "s"))
    server = DirectServer(address.direct, service.find, TokenAuth(None))
    await server.open()
    async with open_channel(address) as channel:
        call = await open_stream(address, channel, "/a.Service/Echo", (), pb.OpenResponse.FromString)
        await call.write(_said("one"))
        await call.read()
        await server.close(0.05)
        assert (await _error(call)).code() is grpc.StatusCode.UNAVAILABLE
    assert await service.ended == "cancelled"
