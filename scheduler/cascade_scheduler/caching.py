"""The shell's side of the cluster's cache: asks the store for the core, and keeps what the core gives it.

Nothing here can fail a run. A store that is away, or slow, is a miss and a warning.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from cascade_dist.storage.records import BlobRecord, RecordError, decode_record, encode_record
from cascade_scheduler.blobs.base import BlobStore
from cascade_scheduler.core.cluster_cache import known_keys
from cascade_scheduler.core.commands import LookUpCached, StoreCached
from cascade_scheduler.core.events import CacheAnswered
from cascade_scheduler.core.graph import EdgeKind, Graph
from cascade_scheduler.core.values import BlobValue
from cascade_scheduler.store.base import StoreUnavailable
from cascade_scheduler.store.cache import CacheStore

__all__ = ["ClusterCache"]

LOOKUP_SECONDS = 1.0
"""A lookup that takes longer is a miss."""
STORE_SECONDS = 10.0
PIECE_KEYS = 500
"""Keys that are looked up at once."""
WAITING_BYTES_MAX = 64 << 20
"""Values above this many bytes in sum are not kept while the store is busy with others."""
WARN_SECONDS = 60.0

CacheCommand = LookUpCached | StoreCached
Spawn = Callable[[Coroutine[Any, Any, None]], None]
Post = Callable[[CacheAnswered], None]

logger = logging.getLogger("cascade.scheduler")


class ClusterCache:
    """Asks and keeps.

    Args:
        store: where entries are.
        blobs: where large values are; an entry whose blob is gone is a miss.
        spawn: runs something beside the turns.
        post: gives an answer to the core.
    """

    def __init__(self, store: CacheStore, blobs: BlobStore, spawn: Spawn, post: Post) -> None:
        self._store = store
        self._blobs = blobs
        self._spawn = spawn
        self._post = post
        self._waiting = 0
        """Bytes of the entries that are on their way to the store."""
        self._on_the_way: dict[bytes, bytes] = {}
        """These entries: who has heard of a result finds it, though the store may not have it yet."""
        self._warned_at = -WARN_SECONDS
        self.hits = 0
        self.misses = 0

    async def blobs(self) -> set[bytes]:
        """The blobs that entries name.

        Raises:
            StoreUnavailable: the store cannot be reached.
        """
        return await self._store.blobs()

    def carry_out(self, commands: Sequence[CacheCommand]) -> None:
        """Takes what the core said in one turn."""
        lookups = [command for command in commands if isinstance(command, LookUpCached)]
        for start in range(0, len(lookups), PIECE_KEYS):
            self._spawn(self._answer(lookups[start : start + PIECE_KEYS]))
        entries = [self._entry(command) for command in commands if isinstance(command, StoreCached)]
        size = sum(len(record) for _, record in entries)
        if not entries:
            return
        if self._waiting and self._waiting + size > WAITING_BYTES_MAX:
            self._warn("values are not kept", "too many wait to be written")
            return
        self._waiting += size
        self._on_the_way.update(entries)
        self._spawn(self._keep(entries, size))

    async def find(self, graph: Graph) -> Mapping[int, bytes | BlobValue]:
        """What the cache has of the nodes of a graph whose keys are known, from the target down.

        What only nodes that are found already would need is not looked for.
        """
        found: dict[int, bytes | BlobValue] = {}
        keys = known_keys(graph)
        if not keys:
            return found
        wanted = _Wanted(graph)
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                for start in range(0, len(keys), PIECE_KEYS):
                    piece = keys[start : start + PIECE_KEYS]
                    piece = [(node, key) for node, key in piece if wanted.is_wanted(node, found)]
                    if not piece:
                        continue
                    records = await self._get([key for _, key in piece])
                    for (node, _), record in zip(piece, records, strict=True):
                        value = self._value(record)
                        if value is not None:
                            found[node] = value
        except (StoreUnavailable, TimeoutError) as error:
            self._warn("nothing more is looked up for a run", _why(error))
        self.hits += len(found)
        self.misses += len(keys) - len(found)
        return found

    async def _answer(self, lookups: Sequence[LookUpCached]) -> None:
        records: Sequence[bytes | None] = [None] * len(lookups)
        trouble = ""
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                records = await self._get([lookup.key for lookup in lookups])
        except (StoreUnavailable, TimeoutError) as error:
            trouble = f"the cache could not be asked: {_why(error)}"
            self._warn("tasks run that may be cached", _why(error))
        for lookup, record in zip(lookups, records, strict=True):
            value = self._value(record)
            self.hits += value is not None
            self.misses += value is None
            self._post(CacheAnswered(lookup.frame_id, lookup.node, lookup.number, value, trouble))

    async def _get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """The entries of keys, of which some may be on their way to the store."""
        near = [self._on_the_way.get(key) for key in keys] if self._on_the_way else ()
        if not any(near):
            return await self._store.get(keys)
        if all(near):
            return near
        far = [key for key, record in zip(keys, near, strict=True) if record is None]
        found = iter(await self._store.get(far))
        return [next(found) if record is None else record for record in near]

    def _value(self, record: bytes | None) -> bytes | BlobValue | None:
        """The value of an entry; None when it is not there, or its blob is not."""
        if record is None:
            return None
        try:
            found = decode_record(record)
        except RecordError:
            return None
        if isinstance(found, bytes):
            return found
        if isinstance(found, BlobRecord) and self._blobs.has(found.cid):
            return BlobValue(*found)
        return None

    def _entry(self, command: StoreCached) -> tuple[bytes, bytes]:
        value = command.value
        return command.key, encode_record(BlobRecord(*value) if isinstance(value, BlobValue) else value)

    async def _keep(self, entries: Sequence[tuple[bytes, bytes]], size: int) -> None:
        try:
            async with asyncio.timeout(STORE_SECONDS):
                await self._store.put(entries)
        except (StoreUnavailable, TimeoutError) as error:
            self._warn("values are not kept", _why(error))
        finally:
            self._waiting -= size
            for key, record in entries:
                if self._on_the_way.get(key) is record:  # else a later one has taken its place
                    del self._on_the_way[key]

    def _warn(self, what: str, why: str) -> None:
        now = time.monotonic()
        if now - self._warned_at >= WARN_SECONDS:
            self._warned_at = now
            logger.warning("the cluster's cache: %s: %s", what, why)


def _why(error: BaseException) -> str:
    return str(error) or f"no answer within {LOOKUP_SECONDS:g} s"


class _Wanted:
    """Whether anything but nodes that are found needs a node. Asked from the target down."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._needed: bytearray | None = None
        self._next = graph.size - 1

    def is_wanted(self, node: int, found: Mapping[int, bytes | BlobValue]) -> bool:
        """Consumers with higher numbers have been asked for, so the walk goes down once."""
        if self._needed is None:
            self._needed = bytearray(self._graph.size)
            self._needed[self._graph.target] = 1
        needed = self._needed
        if not found:
            return True
        for at in range(self._next, node, -1):
            if not needed[at]:
                continue
            for source, kind in self._graph.sources(at):
                if at not in found or kind != EdgeKind.DATA:
                    needed[source] = 1
        self._next = min(self._next, node)
        return bool(needed[node])
