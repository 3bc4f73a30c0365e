"""A server that speaks as a Redis of an old version does; such old ones are hardly to be had any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["old_redis"]


def _bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


def _answer(version: str, words: list[bytes]) -> bytes:
    """What the version answers to a command."""
    before_6 = version < "6"
    command = words[0].upper()
    if command == b"PING":
        return b"+PONG\r\n"
    if command == b"HELLO" and not before_6:
        return b"%1\r\n" + _bulk(b"version") + _bulk(version.encode())
    if command == b"INFO":
        if before_6 and words[1:] == [b"everything"]:  # a section that it does not know has nothing in it
            return _bulk(b"")
        return _bulk(f"# Server\r\nredis_version:{version}\r\nrole:master\r\n".encode())
    if command in (b"HELLO", b"CLIENT"):
        return b"-ERR unknown command `%s`, with args beginning with: \r\n" % words[0]
    return b"+OK\r\n"


@asynccontextmanager
async def old_redis(version: str) -> AsyncIterator[int]:
    """Listens on a free port, which it yields."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            writer.write(_answer(version, words))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
