"""Which keys of a cache name which content ids, and until when: so that what no key names is unpinned.

Whoever sets a key writes it down here before the bytes are pinned and again when the key is set; so at every
moment what a live key names is in the book. Who collects takes content ids out whose keys are all over,
unpins them, and looks once more: a key that came meanwhile has them pinned again. One who dies in between
leaves them marked as going, and the next one takes them up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

__all__ = ["Going", "MemoryPins", "PinBook", "RedisPins"]

STALE_SECONDS = 60.0
"""What is going for longer was left by somebody who died."""


class Going(NamedTuple):
    """A content id that is to be unpinned."""

    cid: str
    named: bool
    """A live key names it after all: it is to be pinned."""


class PinBook(Protocol):
    """Keys by content id, with their ends."""

    async def hold(self, cid: str, key: str, ttl: float | None) -> None:
        """A key names a content id, for so many seconds or until it is dropped."""

    async def drop(self, cid: str, key: str) -> None:
        """A key names it no more."""

    async def take(self, limit: int) -> list[Going]:
        """Content ids that no live key names, at most so many; they are going from now on."""

    async def finish(self, cid: str) -> bool:
        """It is unpinned; whether a live key names it by now, so that it has to be pinned again."""


class MemoryPins:
    """The book of a backend in this process's memory.

    Args:
        clock: seconds, as the backend's.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._keys: dict[str, dict[str, float]] = {}
        self._going: dict[str, float] = {}

    async def hold(self, cid: str, key: str, ttl: float | None) -> None:
        """A key names a content id."""
        self._keys.setdefault(cid, {})[key] = math.inf if ttl is None else self._clock() + ttl

    async def drop(self, cid: str, key: str) -> None:
        """A key names it no more."""
        self.evicted(key, cid)

    def evicted(self, key: str, value: object) -> None:
        """The backend had no room for a key."""
        if isinstance(value, str):
            self._keys.get(value, {}).pop(key, None)

    async def take(self, limit: int) -> list[Going]:
        """Content ids that no live key names."""
        now = self._clock()
        found = [
            Going(cid, cid in self._keys) for cid, at in self._going.items() if now - at >= STALE_SECONDS
        ]
        for cid, keys in self._keys.items():
            if all(over <= now for over in keys.values()):
                found.append(Going(cid, False))
        del found[limit:]
        for cid, named in found:
            self._going[cid] = now
            if not named:
                self._keys.pop(cid, None)
        return found

    async def finish(self, cid: str) -> bool:
        """It is unpinned."""
        self._going.pop(cid, None)
        return cid in self._keys


# In all of them: KEYS are the sorted sets `due` (content id → end of its last key) and `going` (content id →
# since when), ARGV[1] is the prefix of the sorted sets of keys (key → its end), one for each content id.
_NOW = """
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
"""
_SETTLE = """
local last = redis.call('ZREVRANGE', keys, 0, 0, 'WITHSCORES')
redis.call('ZADD', KEYS[1], last[2] or 0, ARGV[2])
"""
_HOLD = (
    _NOW
    + """
local keys = ARGV[1] .. ARGV[2]
redis.call('ZADD', keys, ARGV[4] == '' and '+inf' or now + ARGV[4], ARGV[3])
"""
    + _SETTLE
)
_DROP = (
    """
local keys = ARGV[1] .. ARGV[2]
if redis.call('ZREM', keys, ARGV[3]) == 0 then return end
"""
    + _SETTLE
)
_TAKE = (
    _NOW
    + """
local found = {}
for _, cid in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[3], 'LIMIT', 0, ARGV[2])) do
    found[#found + 1] = cid
    found[#found + 1] = redis.call('ZSCORE', KEYS[1], cid) and 1 or 0
    redis.call('ZADD', KEYS[2], now, cid)
end
for _, cid in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2] - #found / 2)) do
    found[#found + 1] = cid
    found[#found + 1] = 0
    redis.call('ZREM', KEYS[1], cid)
    redis.call('DEL', ARGV[1] .. cid)
    redis.call('ZADD', KEYS[2], now, cid)
end
return found
"""
)
_FINISH = """
redis.call('ZREM', KEYS[2], ARGV[2])
return redis.call('ZSCORE', KEYS[1], ARGV[2]) and 1 or 0
"""


class RedisPins:
    """The book of a backend in Redis: it outlives every process, and all of them share it.

    Args:
        client: gives a ``redis.asyncio.Redis``.
        prefix: stands before its keys.
    """

    def __init__(self, client: Callable[[], Any], prefix: str) -> None:
        self._client = client
        self._due, self._going, self._keys = f"{prefix}due", f"{prefix}going", f"{prefix}keys:"

    async def _run(self, script: str, *arguments: str) -> Any:
        return await self._client().eval(script, 2, self._due, self._going, self._keys, *arguments)

    async def hold(self, cid: str, key: str, ttl: float | None) -> None:
        """A key names a content id."""
        await self._run(_HOLD, cid, key, "" if ttl is None else str(ttl))

    async def drop(self, cid: str, key: str) -> None:
        """A key names it no more."""
        await self._run(_DROP, cid, key)

    async def take(self, limit: int) -> list[Going]:
        """Content ids that no live key names."""
        found = await self._run(_TAKE, str(limit), str(STALE_SECONDS))
        pairs = zip(found[::2], found[1::2], strict=True)
        return [Going(cid.decode(), bool(named)) for cid, named in pairs]

    async def finish(self, cid: str) -> bool:
        """It is unpinned."""
        return bool(await self._run(_FINISH, cid))
