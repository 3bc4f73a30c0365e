"""A backend in memory: this process's own, and on a worker the one of the cluster."""

from __future__ import annotations

import pickle
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import InitVar, dataclass
from typing import Any, Protocol

from cascade_dist.caching.pins import MemoryPins
from cascade_dist.language.policies import is_count, is_text

__all__ = ["VALUE_BYTES_MAX", "Exchange", "InMemoryCacheBackend", "use_exchange"]

VALUE_BYTES_MAX = 1 << 20
"""A larger value is not kept for the cluster."""


class Exchange(Protocol):
    """How an executor reaches the cache of the cluster."""

    def get(self, key: str) -> Awaitable[bytes | None]:
        """The bytes of an entry."""

    def put(self, key: str, value: bytes, ttl: float | None) -> Awaitable[None]:
        """Keeps an entry; no bytes at all forget it."""


_exchange: list[Exchange] = []


def use_exchange(exchange: Exchange) -> None:
    """From now on, backends that come to this process stand for the cache of the cluster."""
    _exchange[:] = [exchange]


@dataclass(eq=False)
class InMemoryCacheBackend:
    """Keeps values in memory, the least recently used out first.

    In the process that made it, it is a dict of its own. When it travels to a worker it stands for a cache
    in the scheduler, the same for all runs of the cluster, which keeps values of up to 1 MiB of pickle within
    its own bounds; those of one name are one.

    Args:
        name: of the cluster's cache.
        entries_max: most values kept in this process.
        clock: tells the time in seconds, for tests.
    """

    name: str = "default"
    entries_max: int = 10_000
    clock: InitVar[Callable[[], float]] = time.monotonic

    def __post_init__(self, clock: Callable[[], float]) -> None:
        if not is_text(self.name) or not self.name:
            raise TypeError(f"name is {self.name!r}: give a str that is not empty")
        if not is_count(self.entries_max) or self.entries_max < 1:
            raise ValueError(f"entries_max is {self.entries_max!r}: give how many values to keep, 1 or more")
        self._clock = clock
        # No field: two backends are the same by their options, whatever is in them.
        self._entries: OrderedDict[str, tuple[Any, float | None]] = OrderedDict()
        self._pins: dict[str, MemoryPins] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self.name, self.entries_max)

    async def get(self, key: str) -> Any:
        """The value; None when there is none, or its time is over."""
        found = self._entries.get(key)
        if found is None:
            return None
        value, over = found
        if over is not None and self._clock() >= over:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return value

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keeps a value, for `ttl` seconds or for as long as there is room."""
        self._entries[key] = (value, None if ttl is None else self._clock() + ttl)
        self._entries.move_to_end(key)
        while len(self._entries) > self.entries_max:
            name, (old, _) = self._entries.popitem(last=False)
            for book in self._pins.values():
                book.evicted(name, old)

    async def delete(self, key: str) -> None:
        """Forgets a value."""
        self._entries.pop(key, None)

    def pins(self, name: str) -> MemoryPins:
        """The book of what a backend in IPFS keeps by keys in this one."""
        return self._pins.setdefault(name, MemoryPins(self._clock))


class _ClusterCacheBackend:
    """What an `InMemoryCacheBackend` is on a worker."""

    def __init__(self, name: str, entries_max: int, exchange: Exchange) -> None:
        self._name = name
        self._entries_max = entries_max
        self._exchange = exchange

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self._name, self._entries_max)

    async def get(self, key: str) -> Any:
        """The value; None when there is none."""
        found = await self._exchange.get(f"{self._name}:{key}")
        return None if found is None else pickle.loads(found)

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keeps a value.

        Raises:
            ValueError: it is too large.
        """
        data = pickle.dumps(value, 5)
        if len(data) > VALUE_BYTES_MAX:
            raise ValueError(
                f"the value has {len(data):,} bytes, and the cluster's cache in memory keeps values of up to "
                f"{VALUE_BYTES_MAX:,}: use another backend, or cs.SizeTieredCache with one for large values"
            )
        await self._exchange.put(f"{self._name}:{key}", data, ttl)

    async def delete(self, key: str) -> None:
        """Forgets a value."""
        await self._exchange.put(f"{self._name}:{key}", b"", None)


def _arrived(name: str, entries_max: int) -> InMemoryCacheBackend | _ClusterCacheBackend:
    if _exchange:
        return _ClusterCacheBackend(name, entries_max, _exchange[0])
    return InMemoryCacheBackend(name, entries_max)
