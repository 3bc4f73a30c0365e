"""What leaves by a socket, from any thread: at once where there is room, else when the loop finds some.

A caller that wants to send something short need not wake the thread of the loop for it, which takes longer
than sending.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable

__all__ = ["SocketWriter"]

BUFFER_BYTES = 256 << 10
"""While more than this waits to leave, there is no room."""


class SocketWriter:
    """The only one that writes to its socket.

    Args:
        loop: finds out when there is room again.
        sock: does not block; it is closed with this object.
        on_room: told, on the loop, whether there is room, whenever that changes.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, on_room: Callable[[bool], object]
    ) -> None:
        self._loop = loop
        self._sock: socket.socket | None = sock
        self._on_room = on_room
        self._lock = threading.RLock()
        """A signal may arrive in the middle of sending, and its handler send something too."""
        self._sending = False
        self._unsent = bytearray()
        self._watching = False
        self._full = False

    def send_now(self, data: bytes) -> bool:
        """Sends something if nothing waits to leave; returns whether it did. Any thread."""
        with self._lock:
            if self._sending or not self._send(data):
                return False
            if not self._unsent:
                return True
        self._loop.call_soon_threadsafe(self._watch)
        return True

    def send(self, data: bytes) -> None:
        """Sends something, however much waits to leave. The loop's thread."""
        with self._lock:
            if self._sock is None:
                return
            if not self._send(data):
                self._unsent += data
            if not self._unsent:
                return
        self._watch()

    def _send(self, data: bytes) -> bool:
        """Sends what there is room for and keeps the rest; returns whether any of it has left."""
        self._sending = True
        try:
            if self._unsent or self._sock is None:
                return False
            sent = self._sock.send(data)
            if sent < len(data):
                self._unsent += memoryview(data)[sent:]
            return True
        except OSError:  # no room; or the peer is gone, which is found out by who reads
            return False
        finally:
            self._sending = False

    def _watch(self) -> None:
        with self._lock:
            if self._sock is None or not self._unsent:
                return
            if not self._watching:
                self._watching = True
                self._loop.add_writer(self._sock.fileno(), self._go_on)
        self._look()

    def _go_on(self) -> None:
        with self._lock:
            if self._sock is None:
                return
            try:
                del self._unsent[: self._sock.send(self._unsent)]
            except BlockingIOError:
                return
            except OSError:
                self._unsent.clear()
            if not self._unsent:
                self._watching = False
                self._loop.remove_writer(self._sock.fileno())
        self._look()

    def _look(self) -> None:
        full = len(self._unsent) > BUFFER_BYTES
        if full is not self._full:
            self._full = full
            self._on_room(not full)

    def close(self) -> None:
        """Sends nothing more. The loop's thread."""
        with self._lock:
            sock, self._sock = self._sock, None
            if sock is None:
                return
            if self._watching:
                self._loop.remove_writer(sock.fileno())
            with contextlib.suppress(OSError):  # a forked child may have the socket too
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
