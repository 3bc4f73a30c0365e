"""Caching policies: what is asked before a task runs, and told when it has run.

Everything in here travels to workers and runs there. It knows nothing of clients, messages or gRPC.
"""

from __future__ import annotations

from cascade_dist.caching.backends import CacheBackend, SizeTieredCache
from cascade_dist.caching.memory import InMemoryCacheBackend
from cascade_dist.caching.policies import (
    MISS,
    CacheHit,
    CachePolicy,
    FileExistenceCache,
    ResultCache,
)

__all__ = [
    "MISS",
    "CacheBackend",
    "CacheHit",
    "CachePolicy",
    "FileExistenceCache",
    "InMemoryCacheBackend",
    "ResultCache",
    "SizeTieredCache",
]
