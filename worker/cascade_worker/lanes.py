"""Lanes: plain TCP connections on which large objects pass between workers.

gRPC moves half as many bytes in the same time. So a worker without TLS also serves its objects on a port of
their own; where that is, and the key that opens a connection, is told by its `ObjectService` to who shows the
cluster's token. Whatever goes wrong on a lane, the rest is fetched by gRPC.

    → key, then any number of requests: attempt, first byte, number of bytes (8 bytes each, little endian)
    ← for each: size of the object (8 bytes; 0: it is not here), then pieces of 1 MiB, the last one shorter:
      checksum (8 bytes), data

Both ends are threads that block: they spend their time in the kernel, and no loop is woken for a piece.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import os
import secrets
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from cascade_worker.executor.files import open_shared
from cascade_worker.objects import ObjectStore
from cascade_worker.pieces import BadPieceError, Piece, checksum_of, write_all
from cascade_worker.threads import in_thread

__all__ = ["LANES_MAX", "SILENCE", "Lane", "LaneServer", "NotHereError", "Way"]

LANES_MAX = 32
"""Connections that are served at the same time; further ones are closed, and gRPC is used."""
KEY_BYTES = 32
CONNECT_SECONDS = 5.0
"""For a connection to come about, and to show its key."""
SILENCE = 30.0
"""Seconds in which nothing moves, after which a connection is given up."""
_PIECE = 1 << 20
_NUMBER = struct.Struct("<Q")
_REQUEST = struct.Struct("<QQQ")
_TIMEVAL = struct.Struct("@ll")
_RESET = struct.pack("@ii", 1, 0)
"""Closing says that nobody reads any more: a mere end can leave a sender waiting for room until its bound."""
_SCARCE = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_SCARCE_PAUSE = 1.0
"""Seconds without new connections when there is no descriptor or memory for one."""


class NotHereError(Exception):
    """The other worker does not have the object."""


class Way(NamedTuple):
    """How to reach a worker's lanes."""

    host: str
    port: int
    key: bytes


class Lane:
    """The side that fetches: one connection. `fetch` blocks; `close` ends it from another thread."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._socket: socket.socket | None = None
        self._closed = False
        self.unreachable = True
        """No connection came about."""

    def fetch(self, attempt: int, size: int, at: int, end: int, fd: int, done: Callable[[int], None]) -> None:
        """Writes a range of an object into a file.

        Args:
            attempt: that made it.
            size: of the whole object.
            at, end: the first byte, and the one behind the last.
            fd: of the file, written at the same places.
            done: told how far what was written is right, piece by piece.

        Raises:
            NotHereError: it is not there.
            BadPieceError: what came is not what was sent.
            OSError: the connection broke, stood still, or the file cannot be written.
        """
        self._go_on()
        with socket.create_connection(self._way[:2], timeout=CONNECT_SECONDS) as sock:
            self._socket, self.unreachable = sock, False
            self._go_on()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            _block(sock)
            sock.sendall(self._way.key + _REQUEST.pack(attempt, at, end - at))
            buffer = memoryview(bytearray(_NUMBER.size + min(_PIECE, end - at)))
            _fill(sock, buffer[: _NUMBER.size])
            found = _NUMBER.unpack_from(buffer)[0]
            if not found:
                raise NotHereError
            if found != size:
                raise BadPieceError(f"it has {found:,} bytes there, not {size:,}")
            while at < end:
                piece = buffer[: _NUMBER.size + min(_PIECE, end - at)]
                _fill(sock, piece)
                data = piece[_NUMBER.size :]
                Piece(0, data, _NUMBER.unpack_from(piece)[0]).check()
                at = write_all(fd, data, at)
                done(at)

    def _go_on(self) -> None:
        if self._closed:
            raise ConnectionAbortedError("the fetch was given up")

    def close(self) -> None:
        """Ends a fetch, also one that has not begun; it raises OSError."""
        self._closed = True
        if self._socket is not None:
            _shut(self._socket)


class LaneServer:
    """The side that has objects.

    Args:
        store: of the objects.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.key = secrets.token_bytes(KEY_BYTES)
        self.port = 0
        """0: there are no lanes."""
        self._listeners: list[socket.socket] = []
        self._threads = ThreadPoolExecutor(LANES_MAX, "lane")
        self._open: dict[socket.socket, asyncio.Task[None]] = {}

    def start(self, host: str) -> None:
        """Begins to listen on a free port, on all addresses of a host, as gRPC does.

        Else others, who take another address of the host, would show the key to whoever has that port there.

        Raises:
            OSError: the host is none of this machine's, or the port is not free on all of its addresses.
        """
        both = host in ("0.0.0.0", "::") and socket.has_dualstack_ipv6()
        found = socket.getaddrinfo("::" if both else host, 0, type=socket.SOCK_STREAM)
        port = 0
        try:
            for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
                listener = socket.create_server(
                    (address[0], port, *address[2:]), family=family, backlog=LANES_MAX, dualstack_ipv6=both
                )
                self._listeners.append(listener)
                listener.setblocking(False)
                port = listener.getsockname()[1]
        except OSError:
            self._stop_listening()
            raise
        self.port = port
        for listener in self._listeners:
            self._listen(listener)

    def _listen(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        self._listeners.clear()

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError as error:  # whoever asked has gone
            if error.errno in _SCARCE:  # or waits still: the loop would ask again at once, and again
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener)
                loop.call_later(_SCARCE_PAUSE, self._listen, listener)
            return
        if len(self._open) >= LANES_MAX:
            sock.close()
            return
        sock.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._serve(sock), name="lane")
        self._open[sock] = task
        task.add_done_callback(lambda done: self._ended(sock))

    def _ended(self, sock: socket.socket) -> None:
        sock.close()
        del self._open[sock]

    async def _serve(self, sock: socket.socket) -> None:
        """Answers requests until the other side ends."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            if not hmac.compare_digest(await _read(sock, KEY_BYTES, CONNECT_SECONDS), self.key):
                return
            while request := await _read(sock, _REQUEST.size, SILENCE):
                attempt, at, length = _REQUEST.unpack(request)
                found = self._store.find(attempt)
                path = None if found is None else found[0]
                sending = loop.run_in_executor(self._threads, _answer, sock, path, at, length)
                await in_thread(sending, stop=partial(_shut, sock))

    async def close(self) -> None:
        """Ends all connections."""
        self._stop_listening()
        tasks = list(self._open.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown(wait=False)


async def _read(sock: socket.socket, size: int, seconds: float) -> bytes:
    """So many bytes; none when the other side has ended, or takes longer."""
    loop, found = asyncio.get_running_loop(), b""
    try:
        async with asyncio.timeout(seconds):
            while len(found) < size:
                data = await loop.sock_recv(sock, size - len(found))
                if not data:
                    return b""
                found += data
    except TimeoutError:
        return b""
    return found


def _answer(sock: socket.socket, path: str | None, at: int, length: int) -> None:
    """In a thread: sends a range of a file, or that it is not here."""
    _block(sock)
    try:
        if path is None:
            raise FileNotFoundError
        fd = open_shared(path)
    except FileNotFoundError:
        sock.sendall(_NUMBER.pack(0))
    else:
        try:
            _send(sock, fd, at, length)
        finally:
            os.close(fd)
    sock.setblocking(False)


def _send(sock: socket.socket, fd: int, at: int, length: int) -> None:
    """Sends a range of a file. While the descriptor is open nobody writes into it."""
    size = os.fstat(fd).st_size
    end = min(size, at + length)
    sock.sendall(_NUMBER.pack(size))
    buffer = memoryview(bytearray(_NUMBER.size + _PIECE))
    while at < end:
        piece = buffer[: _NUMBER.size + min(_PIECE, end - at)]
        data = piece[_NUMBER.size :]
        if os.preadv(fd, [data], at) != len(data):
            raise OSError(f"a file of {size:,} bytes was cut short")
        _NUMBER.pack_into(piece, 0, checksum_of(data))
        sock.sendall(piece)  # BlockingIOError, when nobody takes it for too long
        at += len(data)


def _shut(sock: socket.socket) -> None:
    """Ends a connection in both directions; whoever is blocked by it goes on."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _block(sock: socket.socket) -> None:
    """Lets the kernel wait for whole pieces, but not for ever."""
    sock.setblocking(True)
    bound = _TIMEVAL.pack(int(SILENCE), int(SILENCE % 1 * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bound)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, bound)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _fill(sock: socket.socket, view: memoryview) -> None:
    at = 0
    while at < len(view):
        try:
            came = sock.recv_into(view[at:], 0, socket.MSG_WAITALL)
        except BlockingIOError:
            raise TimeoutError(f"nothing came for {SILENCE:g} s") from None
        if not came:
            raise ConnectionResetError("the other worker has ended the connection")
        at += came
