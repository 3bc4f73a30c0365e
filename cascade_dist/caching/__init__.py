"""Caching policies: what is asked before a task runs, and told when it has run.

Everything in here travels to workers and runs there. It knows nothing of clients, messages or gRPC, and loads
redis and aiohttp when a backend that needs them is used.
"""

from __future__ import annotations

from cascade_dist.caching.backends import CacheBackend, SizeTieredCache
from cascade_dist.caching.ipfs import IpfsCacheBackend
from cascade_dist.caching.memory import InMemoryCacheBackend
from cascade_dist.caching.policies import (
    MISS,
    CacheHit,
    CachePolicy,
    FileExistenceCache,
    ResultCache,
)
from cascade_dist.caching.redis import RedisCacheBackend

__all__ = [
    "MISS",
    "CacheBackend",
    "CacheHit",
    "CachePolicy",
    "FileExistenceCache",
    "InMemoryCacheBackend",
    "IpfsCacheBackend",
    "RedisCacheBackend",
    "ResultCache",
    "SizeTieredCache",
]
