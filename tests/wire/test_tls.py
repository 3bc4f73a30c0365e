"""TLS from PEM files."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import grpc
import grpc.aio
import pytest

from cascade_dist.errors import ConfigError
from cascade_dist.wire import client_credentials, open_channel, server_credentials, server_options

MUTE = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory, lacking: Callable[[str], NoReturn]) -> Path:
    """A folder with an authority (ca) and a certificate for localhost (own), both with keys."""
    if shutil.which("openssl") is None:
        lacking("openssl is not installed")
    folder = tmp_path_factory.mktemp("pems")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, **MUTE)  # type: ignore[call-overload]

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority")
    openssl("req", *key[:-2], "-keyout", "own.key", "-out", "own.csr", "-subj", "/CN=localhost")
    (folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl(
        *"x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2".split(),
        *"-extfile san -out own.pem".split(),
    )
    return folder


async def answers(server_side: Any, client_side: Any) -> bool:
    """Whether a call goes through between two sides."""

    async def echo(request: bytes, context: Any) -> bytes:
        return request

    server = grpc.aio.server(options=server_options())
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Echo": handler}),))
    port = server.add_secure_port("127.0.0.1:0", server_side)
    await server.start()
    try:
        async with open_channel(f"127.0.0.1:{port}", client_side) as channel:
            reply = await channel.unary_unary("/test.Echo/Echo")(b"x", timeout=10)
        return bool(reply == b"x")
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return False
        raise
    finally:
        await server.stop(0)


async def test_tls(pems: Path) -> None:
    server = server_credentials(pems / "own.pem", pems / "own.key")
    assert await answers(server, client_credentials(pems / "ca.pem"))
    assert not await answers(server, client_credentials(tls=True))
    assert not await answers(server, None)


async def test_mutual_tls(pems: Path) -> None:
    server = server_credentials(pems / "own.pem", pems / "own.key", pems / "ca.pem")
    assert await answers(server, client_credentials(pems / "ca.pem", pems / "own.pem", pems / "own.key"))
    assert not await answers(server, client_credentials(pems / "ca.pem"))


def test_no_files_are_no_tls() -> None:
    assert client_credentials() is None
    assert server_credentials() is None


def test_files_that_are_missing_or_wrong_are_named(tmp_path: Path) -> None:
    pem = tmp_path / "a.pem"
    pem.write_text("-----BEGIN CERTIFICATE-----\n")
    text = tmp_path / "a.txt"
    text.write_text("hello")
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: client_credentials(tmp_path / "no.pem"), r"--tls-ca .*no\.pem cannot be read: No such file"),
        (lambda: client_credentials(text), r"--tls-ca .*a\.txt is no PEM file"),
        (lambda: client_credentials(pem, cert=pem), "--tls-cert is given without --tls-key"),
        (lambda: server_credentials(key=pem), "--tls-key is given without --tls-cert"),
        (lambda: server_credentials(ca=pem), "--tls-ca is given without --tls-cert and --tls-key"),
        (lambda: server_credentials(pem, tmp_path / "no.key"), r"--tls-key .*no\.key cannot be read"),
    ]
    for act, match in cases:
        with pytest.raises(ConfigError, match=match):
            act()
