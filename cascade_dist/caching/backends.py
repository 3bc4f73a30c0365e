"""Where cached values are kept: the protocol, and a backend made of two."""

from __future__ import annotations

import pickle
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from cascade_dist.caching.policies import CacheHit, Miss, ResultCache
from cascade_dist.language.policies import is_count

__all__ = ["CacheBackend", "SizeTieredCache"]


@runtime_checkable
class CacheBackend(Protocol):
    """Keeps values by key. It may forget any of them at any time, and may raise: that is a miss."""

    def get(self, key: str) -> Awaitable[Any]:
        """The value; None when there is none."""

    def set(self, key: str, value: Any, ttl: float | None = None) -> Awaitable[None]:
        """Keeps a value, for `ttl` seconds or for as long as there is room."""

    def delete(self, key: str) -> Awaitable[None]:
        """Forgets a value, if it is there."""


@dataclass(frozen=True)
class SizeTieredCache:
    """Keeps small values in one backend and large ones in another. A backend, and a policy by itself.

    As a policy it is ``ResultCache(this, ttl)``.

    Args:
        small: keeps values up to the threshold.
        large: keeps the others.
        threshold: bytes.
        ttl: seconds that a value is kept when this is used as a policy; None: as long as there is room.
    """

    small: CacheBackend
    large: CacheBackend
    threshold: int = 64 * 1024
    ttl: float | None = None

    by_content = True

    def __post_init__(self) -> None:
        if not is_count(self.threshold) or self.threshold < 0:
            raise ValueError(f"threshold is {self.threshold!r}: give a number of bytes, 0 or more")

    async def get(self, key: str) -> Any:
        """The value; None when neither has it."""
        found = await self.small.get(key)
        return await self.large.get(key) if found is None else found

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keeps a value where it belongs by its size, and nowhere else."""
        size = len(value) if isinstance(value, bytes) else len(pickle.dumps(value, 5))
        keep, other = (self.small, self.large) if size <= self.threshold else (self.large, self.small)
        await keep.set(key, value, ttl)
        await other.delete(key)

    async def delete(self, key: str) -> None:
        """Forgets a value."""
        await self.small.delete(key)
        await self.large.delete(key)

    async def check(self, task_id: str, inputs: Mapping[str, Any]) -> CacheHit | Miss:
        """As `ResultCache`."""
        return await ResultCache(self, self.ttl).check(task_id, inputs)

    async def save(self, task_id: str, inputs: Mapping[str, Any], output: Any) -> None:
        """As `ResultCache`."""
        await ResultCache(self, self.ttl).save(task_id, inputs, output)
