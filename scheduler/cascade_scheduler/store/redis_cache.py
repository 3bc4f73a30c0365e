"""The cluster's cache in Redis: `cascade:cache:<hex of the value key>`, sealed, with a time to live."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from cascade_dist.storage.seal import Sealer, SealError
from cascade_scheduler.store.base import StoreUnavailable
from cascade_scheduler.store.cache import TTL_SECONDS, blob_named
from cascade_scheduler.store.redis import masked

__all__ = ["RedisCacheStore", "key_name"]

KEY_PREFIX = "cascade:cache:"
SEALED_AS = "cascade:cache"
"""What stands in the seal in place of a run."""
TIMEOUT_SECONDS = 1.0
SCAN_KEYS = 1000
REFERENCE_BYTES = 400
"""A record that names a blob has fewer."""

logger = logging.getLogger("cascade.scheduler")


def key_name(key: bytes) -> str:
    """The name of an entry in Redis."""
    return KEY_PREFIX + key.hex()


class RedisCacheStore:
    """Entries in Redis, sealed over key and bytes, with a time to live.

    Args:
        url: as of a `RedisStore`.
        sealer: seals entries, and refuses those that others wrote.
        ttl: seconds.
    """

    immediate = False

    def __init__(self, url: str, sealer: Sealer, ttl: int = TTL_SECONDS) -> None:
        self._url = masked(url)
        self._sealer = sealer
        self._ttl = ttl
        self._client = redis.asyncio.Redis.from_url(
            url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The records of some keys."""
        try:
            found: list[Any] = await self._client.mget([key_name(key) for key in keys])
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis at {self._url}: {str(error) or type(error).__name__}") from None
        return [self._open(key, sealed) for key, sealed in zip(keys, found, strict=True)]

    def _open(self, key: bytes, sealed: bytes | None) -> bytes | None:
        if sealed is None:
            return None
        try:
            return self._sealer.open(SEALED_AS, key.hex(), sealed)[1]
        except SealError as error:
            logger.warning("the cache entry %s is passed over: %s", key_name(key), error)
            return None

    async def put(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Keeps records."""
        pipeline = self._client.pipeline(transaction=False)
        for key, record in entries:
            pipeline.set(key_name(key), self._sealer.seal(SEALED_AS, key.hex(), 0, record), ex=self._ttl)
        try:
            await pipeline.execute()
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis at {self._url}: {str(error) or type(error).__name__}") from None

    async def blobs(self) -> set[bytes]:
        """The blobs that records name. Of a record only the beginning is read, where a reference stands."""
        named: set[bytes] = set()
        try:
            cursor = 0
            while True:
                cursor, keys = await self._client.scan(cursor, match=f"{KEY_PREFIX}*", count=SCAN_KEYS)
                pipeline = self._client.pipeline(transaction=False)
                for key in keys:
                    pipeline.getrange(key, 0, REFERENCE_BYTES - 1)
                # What is no string under such a name is an error in its place, and names nothing.
                for record in await pipeline.execute(raise_on_error=False) if keys else ():
                    cid = blob_named(record) if isinstance(record, bytes) else None
                    if cid is not None:
                        named.add(cid)
                if not cursor:
                    return named
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis at {self._url}: {str(error) or type(error).__name__}") from None

    async def close(self) -> None:
        """Lets go of the connections."""
        await self._client.aclose()
