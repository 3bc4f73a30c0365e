"""A backend in Redis."""

from __future__ import annotations

import math
import pickle
from dataclasses import InitVar, dataclass, field
from typing import Any

from cascade_dist.caching.pins import RedisPins
from cascade_dist.language.policies import is_text
from cascade_dist.storage.redis import RedisAccess, travelling_url
from cascade_dist.storage.seal import Sealer, read_seal_key

__all__ = ["VALUE_BYTES_MAX", "RedisCacheBackend"]

VALUE_BYTES_MAX = 64 << 20
"""A larger value is not kept."""
_SEALED_AS = "cascade:cache"
"""What stands in the seal in place of a run. The name of the entry stands there whole, prefix and all, so
that no entry can be put in the place of another, nor of one of the scheduler's."""


@dataclass(eq=False)
class RedisCacheBackend:
    """Keeps values in Redis, at prefix and key, with a time to live, sealed over key and bytes.

    It travels to workers by the URL of its Redis, with its password if there is one, and connects there. The
    key of the seal does not travel with it: workers have their scheduler's, all others read CASCADE_SEAL_KEY
    or their user's own key file, so clusters that are to share entries share that key.

    Args:
        client: a ``redis.asyncio.Redis``, or a URL: redis://, rediss:// or unix://.
        prefix: stands before each key.

    Raises:
        ValueError: the URL has another scheme.
        TypeError: no such client.
        ImportError: a URL, and redis is not installed.
    """

    client: InitVar[Any]
    prefix: str = "cascade:cache:"
    url: str = field(init=False, repr=False)
    """Of the Redis; "" when the client does not tell it."""

    def __post_init__(self, client: Any) -> None:
        if not is_text(self.prefix):
            raise TypeError(f"prefix is {self.prefix!r}: give a str")
        self._access = RedisAccess(client)
        self.url = self._access.url or ""
        self._sealer: Sealer | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return RedisCacheBackend, (travelling_url(self._access, "RedisCacheBackend"), self.prefix)

    async def get(self, key: str) -> Any:
        """The value; None when there is none.

        Raises:
            SealError: an entry that was not written with our key; it is not loaded.
            redis.RedisError: Redis could not be asked.
        """
        name = self.prefix + key
        record = await self._access.client().get(name)
        if record is None:
            return None
        return pickle.loads(self._seal().open(_SEALED_AS, name, record)[1])

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keeps a value, for `ttl` seconds or until Redis evicts it.

        Raises:
            ValueError: it is too large.
            redis.RedisError: Redis could not be asked.
        """
        data = pickle.dumps(value, 5)
        if len(data) > VALUE_BYTES_MAX:
            raise ValueError(
                f"the value has {len(data):,} bytes, and a cache in Redis keeps values of up to "
                f"{VALUE_BYTES_MAX:,}: use cs.SizeTieredCache with another backend for large ones"
            )
        name = self.prefix + key
        record = self._seal().seal(_SEALED_AS, name, 0, data)
        await self._access.client().set(name, record, **_expiry(ttl))

    async def delete(self, key: str) -> None:
        """Forgets a value.

        Raises:
            redis.RedisError: Redis could not be asked.
        """
        await self._access.client().delete(self.prefix + key)

    def pins(self, name: str) -> RedisPins:
        """The book of what a backend in IPFS keeps by keys in this one."""
        return RedisPins(self._access.client, self.prefix + name)

    async def close(self) -> None:
        """Closes the connections that were made of a URL; a client that was given stays open."""
        await self._access.close()

    def _seal(self) -> Sealer:
        if self._sealer is None:
            self._sealer = Sealer(read_seal_key())
        return self._sealer


def _expiry(ttl: float | None) -> dict[str, int]:
    if ttl is None:
        return {}
    return {"ex": int(ttl)} if ttl == int(ttl) else {"px": math.ceil(ttl * 1000)}
