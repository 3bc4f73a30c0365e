"""What lies in Redis under our names and is of no use any more.

Run keys whose run the index does not name: an import was not finished, or the entry was lost. And entries of
the index of whose run nothing is left. Keys that `RedisStateBackend` writes for a run that no scheduler knows
have a time to live, and are left alone.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from cascade_scheduler.store.base import StoreGarbage
from cascade_scheduler.store.redis_batch import PARTS, RUNS_KEY
from cascade_scheduler.store.redis_commands import EPOCH_KEY, key_of

__all__ = ["RedisGarbage"]

PREFIX = "cascade:run:"
BY_HAND = frozenset({"results", "skipped", "facts"})
"""What scripts write through `RedisStateBackend`, without a scheduler."""
SCAN_KEYS = 1_000
ENTRIES_AT_ONCE = 1_000
NEVER = -1
"""As PTTL says that a key does not expire."""

# Both do nothing unless this epoch leads, and look once more at what the search saw.
DELETE_RUN = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
if redis.call('ZSCORE', KEYS[2], ARGV[2]) then return 0 end
local deleted = 0
for at = 3, #KEYS do deleted = deleted + redis.call('UNLINK', KEYS[at]) end
return deleted
"""
DELETE_ENTRY = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
return redis.call('ZREM', KEYS[2], ARGV[2])
"""


class RedisGarbage:
    """Finds and deletes it.

    Args:
        client: of the Redis.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._delete_run = client.register_script(DELETE_RUN)
        self._delete_entry = client.register_script(DELETE_ENTRY)

    async def collect(self, epoch: int, spare: Container[str], *, dry_run: bool) -> StoreGarbage:
        """Deletes what nobody can use, unless it is only to be told; see `RunStore.garbage`."""
        runs: dict[str, int] = {}
        size = 0
        for run_id, parts in (await self._orphans(spare)).items():
            keys = [key_of(run_id, part) for part in sorted(parts)]
            taken = await self._bytes_of(keys)
            if not dry_run:
                names = [EPOCH_KEY, RUNS_KEY, *keys]
                if await self._delete_run(keys=names, args=[epoch, run_id]) < 1:
                    continue
            runs[run_id] = len(keys)
            size += taken
        entries = []
        named, empty = await self._index()
        for run_id in empty:
            names = [EPOCH_KEY, RUNS_KEY, key_of(run_id, "meta")]
            if dry_run or await self._delete_entry(keys=names, args=[epoch, run_id]) == 1:
                entries.append(run_id)
        return StoreGarbage(runs, size, entries, named - len(empty))

    async def _orphans(self, spare: Container[str]) -> Mapping[str, set[str]]:
        """The parts of runs that the index does not name, by run."""
        found: dict[str, set[str]] = {}
        async for raw in self._client.scan_iter(match=f"{PREFIX}*", count=SCAN_KEYS):
            run_id, _, part = raw.decode(errors="replace").removeprefix(PREFIX).rpartition(":")
            if run_id and part in PARTS and run_id not in spare:
                found.setdefault(run_id, set()).add(part)
        named = await self._named(found)
        lost = {run_id: parts for run_id, parts in found.items() if run_id not in named}
        by_hand = [run_id for run_id, parts in lost.items() if parts <= BY_HAND]
        for run_id in by_hand:
            if not await self._stays_for_ever([key_of(run_id, part) for part in lost[run_id]]):
                del lost[run_id]
        return lost

    async def _named(self, runs: Iterable[str]) -> set[str]:
        """Which of these the index names."""
        names = list(runs)
        found: set[str] = set()
        for at in range(0, len(names), ENTRIES_AT_ONCE):
            some = names[at : at + ENTRIES_AT_ONCE]
            pipeline = self._client.pipeline(transaction=False)
            for run_id in some:
                pipeline.zscore(RUNS_KEY, run_id)
            scores = await pipeline.execute()
            found.update(run_id for run_id, score in zip(some, scores, strict=True) if score is not None)
        return found

    async def _stays_for_ever(self, keys: Iterable[str]) -> bool:
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.pttl(key)
        return NEVER in await pipeline.execute()

    async def _bytes_of(self, keys: Iterable[str]) -> int:
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.memory_usage(key)
        return sum(size for size in await pipeline.execute() if size)

    async def _index(self) -> tuple[int, list[str]]:
        """How many runs the index names, and those of which nothing is left."""
        names = [raw.decode() for raw in await self._client.zrange(RUNS_KEY, 0, -1)]
        empty: list[str] = []
        for at in range(0, len(names), ENTRIES_AT_ONCE):
            some = names[at : at + ENTRIES_AT_ONCE]
            pipeline = self._client.pipeline(transaction=False)
            for run_id in some:
                pipeline.exists(key_of(run_id, "meta"))
            there = await pipeline.execute()
            empty += [run_id for run_id, is_there in zip(some, there, strict=True) if not is_there]
        return len(names), empty
