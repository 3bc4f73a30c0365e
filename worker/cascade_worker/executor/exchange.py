"""How an executor reaches the cluster's cache: it asks its worker, which asks the scheduler."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable
from typing import Any

from cascade_worker.executor.frames import ASK, LENGTH, loads

__all__ = ["CacheExchange"]

_READ_BYTES = 256 * 1024


class CacheExchange:
    """Asks by frames, and reads the answers from a socket of their own, whichever loop is running.

    Args:
        say: sends a frame to the worker.
        answers: where answers come: marshalled (number, bytes or None, error or ""), each behind its length.
    """

    def __init__(self, say: Callable[[tuple[Any, ...]], None], answers: socket.socket) -> None:
        self._say = say
        self._answers = answers
        self._answers.setblocking(False)
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[bytes | None]] = {}
        self._partial = b""

    async def get(self, key: str) -> bytes | None:
        """The bytes of an entry; None when there is none.

        Raises:
            ConnectionError: the cache could not be asked.
        """
        return await self._ask(key, None, None)

    async def put(self, key: str, value: bytes, ttl: float | None) -> None:
        """Keeps an entry; no bytes at all forget it.

        Raises:
            ConnectionError: the cache could not be asked.
        """
        await self._ask(key, value, ttl)

    async def _ask(self, key: str, value: bytes | None, ttl: float | None) -> bytes | None:
        loop = asyncio.get_running_loop()
        number = next(self._numbers)
        future: asyncio.Future[bytes | None] = loop.create_future()
        if not self._waiting:
            loop.add_reader(self._answers.fileno(), self._readable)
        self._waiting[number] = future
        try:
            self._say((ASK, number, key, value, ttl))
            return await future
        finally:
            del self._waiting[number]
            if not self._waiting:
                loop.remove_reader(self._answers.fileno())

    def _readable(self) -> None:
        try:
            data = self._answers.recv(_READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ConnectionError("the worker is gone"))
            return
        data = self._partial + data
        at = 0
        while len(data) - at >= LENGTH.size:
            (length,) = LENGTH.unpack_from(data, at)
            end = at + LENGTH.size + length
            if end > len(data):
                break
            self._take(*loads(data[at + LENGTH.size : end]))
            at = end
        self._partial = data[at:]

    def _take(self, number: int, value: bytes | None, error: str) -> None:
        future = self._waiting.get(number)
        if future is None or future.done():
            return  # whoever asked was stopped meanwhile
        if error:
            future.set_exception(ConnectionError(error))
        else:
            future.set_result(value)
