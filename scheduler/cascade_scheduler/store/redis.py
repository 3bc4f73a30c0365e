"""A store in Redis. The layout is in DESIGN, "Redis"; DESIGN and this file change together.

Per run, all with a time to live that is renewed while the run goes on:

    cascade:run:{run}:results    hash  structural id → sealed pickle, or sealed reference (begins with 0x00)
    cascade:run:{run}:skipped    hash  structural id → reason
    cascade:run:{run}:facts      hash  structural id → JSON of what was observed of the value
    cascade:run:{run}:attempts   hash  node index → "attempt try worker" of its last attempt
    cascade:run:{run}:graph      hash  part number → the client's message, sealed; "end" → the last one's end
    cascade:run:{run}:functions  hash  CID → JSON line with name and hash, then the body (checked by its CID)
    cascade:run:{run}:meta       hash  "run" → JSON of options and digests, sealed; "state"; "error"; of a run
                                       that went on as another graph "frame" (how many there were before) and
                                       "parts" of the graph; "jump" → JSON of the last jump, sealed;
                                       "checkpoint" → id and arguments of a leased step, sealed
    cascade:run:{run}:events     hash  first event id → packed events

Of all schedulers of a Redis: `cascade:epoch`, `cascade:batch` (epoch and number of the last batch),
`cascade:runs` (sorted set of run ids by the time of their creation or last renewal), and
`cascade:constraints` (hash, constraint id → JSON; without a time to live).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from cascade_dist.codec.cid import cid_from_text
from cascade_dist.errors import ConfigError
from cascade_dist.storage.records import BlobRecord, ObjectRecord, RecordError, decode_record
from cascade_dist.storage.seal import Sealer, SealError
from cascade_scheduler.core.limits import Constraint, checked
from cascade_scheduler.core.values import BlobValue, ObjectValue
from cascade_scheduler.store.base import (
    Batch,
    RunCreated,
    StoredAttempt,
    StoredFunction,
    StoredJump,
    StoredResult,
    StoredRun,
    StoreError,
    StoreUnavailable,
    without_superseded,
)
from cascade_scheduler.store.redis_batch import (
    ARGUMENTS_MAX,
    BATCH_KEY,
    COMMIT,
    CONSTRAINTS_KEY,
    EPOCH_KEY,
    PARTS,
    RUNS_KEY,
    Script,
    key_of,
)
from cascade_scheduler.store.redis_checks import check_redis, unusable
from cascade_scheduler.store.redis_lead import RedisLead
from cascade_scheduler.store.shared import Holder

__all__ = ["RedisStore", "masked"]

TTL_SECONDS = 86_400
TIMEOUT_SECONDS = 5.0
RESULTS_AT_ONCE = 500
"""So many results are checked against their seals before others have their turn."""
FUNCTION_SETS_MAX = 10_000
NODE_ID_BYTES = 16

logger = logging.getLogger("cascade.scheduler")


def masked(url: str) -> str:
    """A Redis URL without its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user = parts.username or ""
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:***@{host}"))


class RedisStore:
    """`redis://`, `rediss://` and `unix://`."""

    def __init__(self, url: str, sealer: Sealer, *, ttl_seconds: int = TTL_SECONDS) -> None:
        self._url = url
        self._sealer = sealer
        self._ttl = ttl_seconds
        self._epoch = 0
        self._functions: dict[str, frozenset[bytes]] = {}
        """By run that goes from frame to frame: which functions are stored for it."""
        try:
            self._client = redis.asyncio.Redis.from_url(
                url,
                socket_timeout=TIMEOUT_SECONDS,
                socket_connect_timeout=TIMEOUT_SECONDS,
                # The writer tries again itself, and says so; a batch lands once however often it is sent.
                retry=Retry(NoBackoff(), 0),
                health_check_interval=0,
            )
        except ValueError as error:
            raise ConfigError(f"--state {masked(url)!r} is no Redis URL: {error}") from None
        self._commit = self._client.register_script(COMMIT)
        self._lead = RedisLead(self._client, self.url)
        self._landed = 0
        """Number of the last batch that landed in this epoch."""

    @property
    def url(self) -> str:
        """The store as people may see it."""
        return masked(self._url)

    @property
    def immediate(self) -> bool:
        """A commit waits for Redis."""
        return False

    async def open(self) -> int:
        """Connects, warns of settings that can lose results, begins a new epoch."""
        await self.connect()
        try:
            epoch = await self._lead.open()
        except (RedisError, OSError) as error:
            raise unusable(error, self.url) from None
        self._begin(epoch)
        return epoch

    def _begin(self, epoch: int) -> None:
        self._epoch, self._landed = epoch, 0
        self._functions.clear()

    async def connect(self) -> None:
        """Connects, and warns of settings that can lose results."""
        try:
            await check_redis(self._client, self.url)
        except (RedisError, OSError) as error:
            raise unusable(error, self.url) from None

    async def holder(self) -> Holder | None:
        """Who holds the lease."""
        return await self._lead.holder()

    async def claim(self, mine: Holder, ttl: float, over: Holder | None = None) -> int | None:
        """Takes the lease, if nobody but `over` has it, and begins a new epoch."""
        epoch = await self._lead.claim(mine, ttl, over)
        if epoch is not None:
            self._begin(epoch)
        return epoch

    async def renew(self) -> None:
        """Lets the lease last again; sees whether what landed is still there."""
        await self._lead.renew(self._epoch, self._landed)

    async def release(self) -> None:
        """Gives the lease back."""
        with contextlib.suppress(StoreUnavailable):
            await self._lead.release()

    async def take_again(self) -> None:
        """After a gap: lease and epoch stand again, and the next batch has the number 1."""
        await self._lead.take_again(self._epoch)
        self._begin(self._epoch)

    async def has_frame(self, created: RunCreated, frame: int) -> bool:
        """Whether this very run is stored, in this frame."""
        try:
            told, stored = await _answer(self._client.hmget(key_of(created.run_id, "meta"), ["run", "frame"]))
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis at {self.url}: {_why(error)}") from None
        return told == Script(self._sealer, self._ttl, {}).told(created) and int(stored or 0) == frame

    def apply(self, batch: Batch) -> None:
        """Redis is waited for: see `commit`."""
        raise TypeError("a Redis store takes batches by commit")

    async def commit(self, batch: Batch) -> None:
        """Lands a batch."""
        script = Script(self._sealer, self._ttl, self._functions)
        keys, arguments = script.of(without_superseded(batch.records))
        try:
            status, told = await self._commit(
                keys=[EPOCH_KEY, BATCH_KEY, *keys],
                args=[self._epoch, batch.number, ARGUMENTS_MAX, *arguments],
            )
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis at {self.url}: {_why(error)}") from None
        if status == b"EPOCH":
            raise self._lead.other_epoch(told, self._epoch)
        if status == b"GAP":
            raise self._lead.gap(told)
        self._landed = batch.number
        self._functions.update(script.functions)
        while len(self._functions) > FUNCTION_SETS_MAX:
            del self._functions[next(iter(self._functions))]

    # --- reading ---------------------------------------------------------------------------------

    async def load(self) -> AsyncIterator[StoredRun]:
        """Every run that is remembered, oldest first."""
        for raw in await _answer(self._client.zrange(RUNS_KEY, 0, -1)):
            run_id = raw.decode()
            found = await self._load(run_id)
            if found is not None:
                yield found

    async def load_run(self, run_id: str) -> StoredRun | None:
        """One run, if it is remembered and its seals hold."""
        try:
            return await self._load(run_id)
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis at {self.url}: {_why(error)}") from None

    async def constraints(self) -> Sequence[Constraint]:
        """The limits that were set and not removed, by scope and type."""
        try:
            kept = await _answer(self._client.hgetall(CONSTRAINTS_KEY))
        except (RedisError, OSError) as error:
            raise StoreError(
                f"the constraints in Redis at {self.url} cannot be read: {_why(error)}; "
                f"delete the key {CONSTRAINTS_KEY} if it is no hash"
            ) from None
        found = []
        for field, text in kept.items():
            try:
                found.append(_constraint(text))
            except (ValueError, TypeError, KeyError) as error:
                logger.error("constraint %r in Redis is passed over: %s", field.decode(), _why(error))
        return sorted(found, key=lambda constraint: (constraint.scope, constraint.type))

    async def _load(self, run_id: str) -> StoredRun | None:
        pipeline = self._client.pipeline(transaction=True)
        for part in PARTS:
            pipeline.hgetall(key_of(run_id, part))
        parts: dict[str, dict[bytes, bytes]] = dict(zip(PARTS, await pipeline.execute(), strict=True))
        if b"run" not in parts["meta"]:
            return None  # its time is over
        try:
            created = self._created(run_id, parts)
        except (SealError, ValueError, KeyError) as error:
            logger.error("run %s is passed over: %s", run_id, error)
            return None
        run = StoredRun(created, parts["meta"][b"state"].decode(), parts["meta"].get(b"error", b"").decode())
        run.frame = int(parts["meta"].get(b"frame", 0))
        if b"checkpoint" in parts["meta"]:
            step = self._sealer.open(run_id, "checkpoint", parts["meta"][b"checkpoint"])[1]
            run.checkpoint = (step[:NODE_ID_BYTES], step[NODE_ID_BYTES:])
        if b"jump" in parts["meta"]:
            run.jump = self._jump(run_id, parts["meta"][b"jump"])
        for number, (field, record) in enumerate(parts["results"].items(), 1):
            key = field.decode()
            if not number % RESULTS_AT_ONCE:
                await asyncio.sleep(0)  # other runs go on meanwhile
            try:
                run.results[key] = self._result(run_id, key, record, parts["facts"].get(field))
            except (SealError, RecordError) as error:
                logger.error("a result of run %s counts as lost: %s", run_id, error)
        run.skipped = {key.decode(): reason.decode() for key, reason in parts["skipped"].items()}
        for field, text in parts["attempts"].items():
            attempt, try_, worker = text.decode().split(" ", 2)
            run.attempts[int(field)] = StoredAttempt(int(attempt), int(try_), worker)
        run.events = {
            int(first): piece for first, piece in sorted(parts["events"].items(), key=lambda e: int(e[0]))
        }
        return run

    def _result(self, run_id: str, key: str, record: bytes, facts: bytes | None) -> StoredResult:
        attempt, data = self._sealer.open(run_id, key, record)
        found = decode_record(data)
        value: bytes | BlobValue | ObjectValue
        if isinstance(found, BlobRecord):
            value = BlobValue(*found)
        elif isinstance(found, ObjectRecord):
            value = ObjectValue(*found)
        else:
            value = found
        told = json.loads(facts) if facts else {}
        return StoredResult(attempt, value, told.get("truth"), told.get("length"))

    def _jump(self, run_id: str, record: bytes) -> StoredJump:
        told = json.loads(self._sealer.open(run_id, "jump", record)[1])
        return StoredJump(told["target"], tuple(told["names"]), bytes.fromhex(told["overrides"]))

    def _created(self, run_id: str, parts: Mapping[str, Mapping[bytes, bytes]]) -> RunCreated:
        _, raw = self._sealer.open(run_id, "meta", parts["meta"][b"run"])
        told = json.loads(raw)
        graph = {
            name.decode(): self._sealer.open(run_id, f"graph:{name.decode()}", record)[1]
            for name, record in parts["graph"].items()
        }
        functions = []
        for cid, record in parts["functions"].items():
            head, _, body = record.partition(b"\n")
            named = json.loads(head)
            functions.append(
                StoredFunction(cid_from_text(cid.decode()), named["name"], body, bytes.fromhex(named["hash"]))
            )
        return RunCreated(
            run_id,
            told["name"],
            told["on_failure"],
            told["logs"],
            told["submitted"],
            told["target"],
            told["nodes"],
            bytes.fromhex(told["params"]),
            bytes.fromhex(told["template"]),
            tuple(graph[str(number)] for number in range(int(parts["meta"].get(b"parts", told["parts"])))),
            graph["end"],
            tuple(sorted(functions)),
            tuple((name, micros) for name, micros in told.get("pools", ())),
        )

    async def close(self) -> None:
        """Lets go of the connection."""
        await self._client.aclose()


def _constraint(text: bytes) -> Constraint:
    told = json.loads(text)
    expires_at = told["expires_at"]
    found = Constraint(
        str(told["id"]),
        str(told["scope"]),
        str(told["type"]),
        int(told["limit"]),
        float(told["rate"]),
        float(told["capacity"]),
        None if expires_at is None else float(expires_at),
    )
    return checked(found, -math.inf)  # whoever loads it sees that its time is over


async def _answer(pending: Awaitable[Any] | Any) -> Any:
    """redis-py types its asyncio client's answers as either kind."""
    return await cast("Awaitable[Any]", pending)


def _why(error: BaseException) -> str:
    return str(error).strip() or type(error).__name__
