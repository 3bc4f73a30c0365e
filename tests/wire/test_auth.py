"""The token: read with care, wanted by every call but health."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from cascade_dist.errors import AuthenticationError
from cascade_dist.wire import TokenAuth, open_channel, read_token, server_options

SECRET = "s3cret-token"


def token_file(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


# --- where it is read from ----------------------------------------------------------------------------


def test_the_order_of_places(tmp_path: Path) -> None:
    path = token_file(tmp_path / "token", "from-file\n")
    other = token_file(tmp_path / "other", "from-environments-file")
    environ = {"CASCADE_TOKEN": "from-environment", "CASCADE_TOKEN_FILE": str(other)}
    assert read_token("given", None, environ) == "given"
    assert read_token(None, path, environ) == "from-file"
    assert read_token(None, None, environ) == "from-environment"
    assert read_token(None, None, {"CASCADE_TOKEN_FILE": str(other)}) == "from-environments-file"
    assert read_token(None, None, {"CASCADE_TOKEN": "", "CASCADE_TOKEN_FILE": ""}) is None
    assert read_token(None, None, {}) is None


def test_both_arguments_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AuthenticationError, match="give one of them"):
        read_token("a", tmp_path, {})


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "is empty"),
        (" \n ", "is empty"),
        ("two words", "no usable token"),
        ("schlüssel", "no usable token"),
    ],
)
def test_a_file_that_holds_no_token(tmp_path: Path, text: str, word: str) -> None:
    path = token_file(tmp_path / "token", text)
    with pytest.raises(AuthenticationError, match=word) as caught:
        read_token(None, path, {})
    assert str(path) in str(caught.value)


def test_a_token_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(AuthenticationError, match="4096"):
        read_token("x" * 5_000, None, {})
    with pytest.raises(AuthenticationError, match="4096"):
        read_token(None, token_file(tmp_path / "token", "x" * 5_000), {})


def test_an_empty_argument_is_no_way_to_go_without() -> None:
    with pytest.raises(AuthenticationError, match="argument token is empty"):
        read_token("", None, {"CASCADE_TOKEN": "other"})


@pytest.mark.parametrize("source", ["argument", "environment"])
def test_a_file_that_is_named_and_cannot_be_read(tmp_path: Path, source: str) -> None:
    for path, reason in ((tmp_path / "missing", "No such file"), (tmp_path, "directory")):
        with pytest.raises(AuthenticationError, match=reason) as caught:
            read_token(
                None, *((path, {}) if source == "argument" else (None, {"CASCADE_TOKEN_FILE": str(path)}))
            )
        assert str(path) in str(caught.value)


def test_a_file_open_to_all_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "cascade.wire"):
        read_token(None, token_file(tmp_path / "closed", "abc", 0o640), {})
        assert caplog.records == []
        path = token_file(tmp_path / "open", "abc", 0o644)
        assert read_token(None, path, {}) == "abc"
    assert f"chmod 600 {path}" in caplog.text
    assert "abc" not in caplog.text


def test_a_home_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    token_file(tmp_path / "token", "at-home")
    assert read_token(None, f"~{os.sep}token", {}) == "at-home"


# --- on calls -----------------------------------------------------------------------------------------


def raw(data: bytes) -> bytes:
    return data


async def unary(request: bytes, context: Any) -> bytes:
    return b"seen " + request


async def stream_out(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for _ in range(2):
        yield b"seen " + request


async def stream_in(requests: AsyncIterator[bytes], context: Any) -> bytes:
    return b"seen " + b",".join([request async for request in requests])


async def stream_both(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield b"seen " + request


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary, raw, raw),
    "Out": grpc.unary_stream_rpc_method_handler(stream_out, raw, raw),
    "In": grpc.stream_unary_rpc_method_handler(stream_in, raw, raw),
    "Both": grpc.stream_stream_rpc_method_handler(stream_both, raw, raw),
}


@pytest.fixture
async def channel(request: pytest.FixtureRequest) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server with a token, or with the one that the test names."""
    auth = TokenAuth(getattr(request, "param", SECRET))
    server = grpc.aio.server(interceptors=auth.server_interceptors, options=server_options())
    for service in ("test.Service", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"):
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, HANDLERS),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_channel(f"127.0.0.1:{port}") as opened:
        yield opened
    await server.stop(0)


async def call(
    channel: grpc.aio.Channel, method: str, metadata: Any, service: str = "test.Service"
) -> list[bytes]:
    path = f"/{service}/{method}"

    async def requests() -> AsyncIterator[bytes]:
        yield b"a"
        if metadata == TokenAuth(SECRET).metadata:  # who is refused is told so before a second message
            yield b"b"

    if method == "Unary":
        return [await channel.unary_unary(path)(b"a", metadata=metadata, timeout=10)]
    if method == "Out":
        return [reply async for reply in channel.unary_stream(path)(b"a", metadata=metadata, timeout=10)]
    if method == "In":
        return [await channel.stream_unary(path)(requests(), metadata=metadata, timeout=10)]
    return [reply async for reply in channel.stream_stream(path)(requests(), metadata=metadata, timeout=10)]


@pytest.mark.parametrize("method", HANDLERS)
async def test_calls_with_the_token_pass(channel: grpc.aio.Channel, method: str) -> None:
    replies = await call(channel, method, TokenAuth(SECRET).metadata)
    assert replies
    assert all(reply.startswith(b"seen ") for reply in replies)


@pytest.mark.parametrize("method", HANDLERS)
@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        ((), "wants a token"),
        (TokenAuth("other").metadata, "not this cluster's"),
        (TokenAuth(SECRET + "x").metadata, "not this cluster's"),
        ((("authorization", SECRET),), "not this cluster's"),
        ((("authorization", ""),), "not this cluster's"),
    ],
)
async def test_others_are_refused_with_the_remedy(
    channel: grpc.aio.Channel, method: str, metadata: Any, word: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, method, metadata)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    details = caught.value.details() or ""
    assert word in details
    assert "CASCADE_TOKEN_FILE" in details
    assert SECRET not in details


async def test_health_is_open_and_reflection_is_not(channel: grpc.aio.Channel) -> None:
    assert await call(channel, "Unary", (), "grpc.health.v1.Health") == [b"seen a"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, "Both", (), "grpc.reflection.v1alpha.ServerReflection")
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_an_unknown_method_is_unknown(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, "Unary", TokenAuth(SECRET).metadata, "no.Service")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("channel", [None], indirect=True)
async def test_without_a_token_all_pass(channel: grpc.aio.Channel) -> None:
    assert TokenAuth(None).metadata == ()
    assert await call(channel, "Unary", TokenAuth("any").metadata) == [b"seen a"]
    assert await call(channel, "Both", ()) == [b"seen a"]
