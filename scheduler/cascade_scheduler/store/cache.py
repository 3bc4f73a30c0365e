"""Where the cluster's cache of pure tasks is kept: the protocol, and in memory.

An entry is a value's record (its pickle, or a reference to a blob) under its value key. Losing any of them
costs a run of the task and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cascade_dist.storage.records import REFERENCE, BlobRecord, decode_record
from cascade_scheduler.entries import EntryCache

__all__ = ["TTL_SECONDS", "CacheStore", "MemoryCacheStore", "blob_named"]

TTL_SECONDS = 86_400


class CacheStore(Protocol):
    """Keeps records by value key."""

    @property
    def immediate(self) -> bool:
        """`get` never waits."""

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The records of some keys, in order; None for those that are not there.

        Raises:
            StoreUnavailable: the store cannot be reached.
        """

    async def put(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Keeps records, each under its key.

        Raises:
            StoreUnavailable: the store cannot be reached.
        """

    async def blobs(self) -> set[bytes]:
        """The blobs that records name.

        Raises:
            StoreUnavailable: the store cannot be reached.
        """

    async def close(self) -> None:
        """Lets go of connections."""


def blob_named(record: bytes) -> bytes | None:
    """The CID of the blob that a record names, sealed or not; None when it names none."""
    if not record.startswith(REFERENCE):
        return None
    try:
        found = decode_record(record[: record.index(b"}") + 1])
    except ValueError:
        return None
    return found.cid if isinstance(found, BlobRecord) else None


class MemoryCacheStore:
    """Entries in this process's memory, the least recently used out first.

    Args:
        bytes_max: bound of all entries in sum.
    """

    immediate = True

    def __init__(self, bytes_max: int, ttl: float = TTL_SECONDS) -> None:
        self._entries: EntryCache[bytes] = EntryCache(bytes_max)
        self._ttl = ttl

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The records of some keys."""
        return [self._entries.get(key) for key in keys]

    async def put(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Keeps records."""
        for key, record in entries:
            self._entries.put(key, record, self._ttl)

    async def blobs(self) -> set[bytes]:
        """The blobs that records name."""
        return {cid for record in self._entries.values() if (cid := blob_named(record)) is not None}

    async def close(self) -> None:
        """Does nothing."""
