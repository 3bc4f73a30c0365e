"""Cached bytes in this process's memory, with a bound and times to live."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

__all__ = ["EntryCache"]

ENTRY_BYTES = 200
"""What an entry counts as beside its bytes."""

Key = TypeVar("Key", bound=Hashable)


class _Entry(NamedTuple):
    value: bytes
    over: float | None


class EntryCache(Generic[Key]):
    """Bytes by key; the least recently used go first.

    Args:
        bytes_max: bound of all entries in sum.
        clock: tells the time in seconds.
    """

    def __init__(self, bytes_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._bytes_max = bytes_max
        self._clock = clock
        self.bytes = 0
        """Bytes of all entries."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> bytes | None:
        """An entry's bytes; None when there is none, or its time is over."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.over is not None and self._clock() >= entry.over:
            self.drop(key)
            return None
        self._entries.move_to_end(key)
        return entry.value

    def put(self, key: Key, value: bytes, ttl: float | None = None) -> None:
        """Keeps an entry, for `ttl` seconds or for as long as there is room. One above the bound is not."""
        self.drop(key)
        if len(value) + ENTRY_BYTES > self._bytes_max:
            return
        self._entries[key] = _Entry(value, None if ttl is None else self._clock() + ttl)
        self.bytes += len(value) + ENTRY_BYTES
        while self.bytes > self._bytes_max:
            self.drop(next(iter(self._entries)))

    def values(self) -> list[bytes]:
        """The bytes of all entries whose time is not over."""
        now = self._clock()
        return [entry.value for entry in self._entries.values() if entry.over is None or now < entry.over]

    def drop(self, key: Key) -> None:
        """Forgets an entry, if it is there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= len(entry.value) + ENTRY_BYTES
