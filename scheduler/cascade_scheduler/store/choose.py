"""Which store a URL means."""

from __future__ import annotations

import math
import os
from pathlib import Path
from urllib.parse import urlsplit

from cascade_dist.errors import ConfigError
from cascade_scheduler.store.base import RunStore
from cascade_scheduler.store.cache import CacheStore, MemoryCacheStore
from cascade_scheduler.store.keeper import CLIENT_STATE, KeeperStore
from cascade_scheduler.store.memory import ForgetfulStore

__all__ = ["STATE_TTL_SECONDS", "choose_cache", "choose_store", "seal_key_of"]

STATE_TTL_SECONDS = 86_400.0
REDIS_SCHEMES = ("redis", "rediss", "unix")


def choose_store(
    url: str, *, epoch: int, seal_key_file: str | None = None, ttl: float = STATE_TTL_SECONDS
) -> RunStore:
    """The store of a URL.

    Args:
        url: memory://, redis://, rediss:// or unix://; of private clusters also client://.
        epoch: of a store that cannot count the lives of schedulers.
        seal_key_file: of a Redis store; None: CASCADE_SEAL_KEY, else this user's own key.
        ttl: of a Redis store: how many seconds a run stays after it was last written.

    Raises:
        ConfigError: an unknown scheme, or a seal key that cannot be used.
    """
    scheme = urlsplit(url).scheme
    if scheme == "memory":
        return ForgetfulStore(epoch)
    if url == CLIENT_STATE:
        return KeeperStore(epoch)
    if scheme in REDIS_SCHEMES:
        from cascade_dist.storage.seal import Sealer, read_seal_key  # Redis alone needs them
        from cascade_scheduler.store.redis import RedisStore

        key = read_seal_key(Path(seal_key_file) if seal_key_file else None)
        return RedisStore(url, Sealer(key), ttl_seconds=math.ceil(ttl))
    raise ConfigError(
        f"--state {url!r} has the scheme {scheme!r}; it is memory://, redis://HOST:PORT/DB, rediss://… or unix://PATH"
    )


def choose_cache(url: str, *, bytes_max: int, seal_key_file: str | None = None) -> CacheStore:
    """Where the cluster's cache is kept, beside the store of a URL.

    Args:
        url: as for `choose_store`.
        bytes_max: bound of a cache in memory.
        seal_key_file: as for `choose_store`.

    Raises:
        ConfigError: a seal key that cannot be used.
    """
    if urlsplit(url).scheme not in REDIS_SCHEMES:
        return MemoryCacheStore(bytes_max)
    from cascade_dist.storage.seal import Sealer, read_seal_key
    from cascade_scheduler.store.redis_cache import RedisCacheStore

    return RedisCacheStore(url, Sealer(read_seal_key(Path(seal_key_file) if seal_key_file else None)))


def seal_key_of(url: str, seal_key_file: str | None = None) -> bytes:
    """The key that workers get, for what caching policies keep in Redis; empty: they use their own.

    Args:
        url: as for `choose_store`.
        seal_key_file: as for `choose_store`.

    Raises:
        ConfigError: a seal key that is named, or that the state needs, cannot be used.
    """
    from cascade_dist.storage.seal import read_seal_key

    try:
        return read_seal_key(Path(seal_key_file) if seal_key_file else None)
    except ConfigError:
        if seal_key_file or os.environ.get("CASCADE_SEAL_KEY") or urlsplit(url).scheme in REDIS_SCHEMES:
            raise
        return b""
