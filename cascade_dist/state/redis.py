"""The state of a run in Redis: the hashes, records and seals that schedulers write.

The layout is that of `cascade_scheduler.store.redis`; tests/contract holds the two to each other.
"""

from __future__ import annotations

import pickle
from typing import Any

from cascade_dist.codec.cid import cid_to_text
from cascade_dist.errors import ResultMissingError
from cascade_dist.language.policies import is_count, is_text
from cascade_dist.storage.records import BlobRecord, ObjectRecord, decode_record, encode_record
from cascade_dist.storage.redis import RedisAccess
from cascade_dist.storage.seal import Sealer, read_seal_key

__all__ = ["TTL_SECONDS", "RedisStateBackend"]

TTL_SECONDS = 86_400
_PARTS = ("results", "skipped", "facts")
"""What was observed of a value (`facts`) goes with the value."""


class RedisStateBackend:
    """The state of a run in Redis, as schedulers keep it: a script can open any run with it.

    Every value read is checked against its seal before it is loaded; the key is CASCADE_SEAL_KEY or the
    user's own key file, as for a scheduler that is given no other.

    Args:
        run_id: of the run.
        client: a ``redis.asyncio.Redis``, or a URL: redis://, rediss:// or unix://.
        ttl: seconds that the state is kept after a write.

    Raises:
        ValueError: the URL has another scheme, or ttl is no whole number of seconds.
        TypeError: no such client.
        ImportError: a URL, and redis is not installed.
        ConfigError: the seal's key cannot be read.
    """

    def __init__(self, run_id: str, client: Any, ttl: int = TTL_SECONDS) -> None:
        if not is_text(run_id) or not run_id:
            raise TypeError(f"run_id is {run_id!r}: give the id of a run")
        if not is_count(ttl) or ttl < 1:
            raise ValueError(f"ttl is {ttl!r}: give whole seconds, 1 or more")
        self.run_id = run_id
        self._access = RedisAccess(client)
        self._ttl = ttl
        self._sealer = Sealer(read_seal_key())
        self._results, self._skipped, self._facts = (f"cascade:run:{run_id}:{part}" for part in _PARTS)

    async def put_result(self, node_id: str, result: Any) -> None:
        """Keeps the value of a node.

        Raises:
            redis.RedisError: Redis could not be asked.
        """
        record = self._sealer.seal(self.run_id, node_id, 0, encode_record(pickle.dumps(result, 5)))
        pipeline = self._access.client().pipeline(transaction=True)
        pipeline.hset(self._results, node_id, record)
        pipeline.hdel(self._facts, node_id)
        await self._renewed(pipeline)

    async def get_result(self, node_id: str) -> Any:
        """The value of a node; None when there is none.

        Raises:
            SealError: the record was not written with our key; it is not loaded.
            ResultMissingError: the value is too large for Redis, and is elsewhere; says where.
            redis.RedisError: Redis could not be asked.
        """
        sealed = await self._access.client().hget(self._results, node_id)
        if sealed is None:
            return None
        record = decode_record(self._sealer.open(self.run_id, node_id, sealed)[1])
        if isinstance(record, bytes):
            return pickle.loads(record)
        raise ResultMissingError(_elsewhere(self.run_id, node_id, record))

    async def has_result(self, node_id: str) -> bool:
        """Whether there is a value, be it here or elsewhere: None is one too.

        Raises:
            redis.RedisError: Redis could not be asked.
        """
        return bool(await self._access.client().hexists(self._results, node_id))

    async def mark_skipped(self, node_id: str, reason: str) -> None:
        """Notes that a node was skipped.

        Raises:
            redis.RedisError: Redis could not be asked.
        """
        pipeline = self._access.client().pipeline(transaction=True)
        pipeline.hset(self._skipped, node_id, reason)
        await self._renewed(pipeline)

    async def get_skip_reason(self, node_id: str) -> str | None:
        """Why a node was skipped; None when it was not.

        Raises:
            redis.RedisError: Redis could not be asked.
        """
        found = await self._access.client().hget(self._skipped, node_id)
        return None if found is None else found.decode()

    async def clear(self) -> None:
        """Forgets all results and skips of the run; what else schedulers keep of it stays.

        Raises:
            redis.RedisError: Redis could not be asked.
        """
        await self._access.client().delete(self._results, self._skipped, self._facts)

    async def close(self) -> None:
        """Closes the connections that were made of a URL; a client that was given stays open."""
        await self._access.close()

    async def _renewed(self, pipeline: Any) -> None:
        for key in (self._results, self._skipped, self._facts):
            pipeline.expire(key, self._ttl)
        await pipeline.execute()


def _elsewhere(run_id: str, node_id: str, record: BlobRecord | ObjectRecord) -> str:
    if isinstance(record, BlobRecord):
        place = f"the blob {cid_to_text(record.cid)} in the blob store of its scheduler"
    else:
        place = f"an object on worker {record.worker} at {record.address}"
    return (
        f"the value of {node_id!r} of run {run_id!r} has {record.size:,} bytes and is {place}: Redis holds "
        "only the reference; the value of a target is fetched by cs.connect(…).attach(run_id).result()"
    )
