"""A store in Redis. The layout is in DESIGN, "Redis"; DESIGN and this file change together.

Per run, all with a time to live that is renewed while the run goes on:

    cascade:run:{run}:results    hash  structural id → sealed pickle, or sealed reference (begins with 0x00);
                                       of a nested graph's node behind its path, such as 0:{id of the task}/
    cascade:run:{run}:skipped    hash  structural id → reason
    cascade:run:{run}:facts      hash  structural id → JSON of what was observed of the value
    cascade:run:{run}:observed   hash  structural id → JSON of what else was observed of it, sealed
    cascade:run:{run}:attempts   hash  place → "attempt try worker" of its last attempt, or "0 tries time"
                                       when the node waits until then; a place is a node's index, or that
                                       of a map and its child's, as 7[2]; "5<4 …" was sent to follow
                                       attempt 4
    cascade:run:{run}:failures   hash  place → JSON of why the node has failed, sealed
    cascade:run:{run}:graph      hash  part number → the client's message, sealed; "end" → the last one's end;
                                       of a small graph this lies in meta, see there
    cascade:run:{run}:functions  hash  CID → JSON line with name and hash, then the body (checked by its CID);
                                       small ones lie in meta
    cascade:run:{run}:meta       hash  "run" → JSON of options and digests, and behind it, when they are few
                                       bytes: a line's end, the sizes of the params and of the graph's end, a
                                       line's end, params, end and message of the graph that the run began
                                       as; sealed; "state"; "error"; of a run that went on as another graph
                                       "frame" (how many there were before) and "parts" of the graph; "graph"
                                       → of a small graph that does not lie in "run": the size of its end, a
                                       line's end, the end, the message, sealed; "functions" → small ones,
                                       one behind the other; "jump" → JSON of the last jump, sealed;
                                       "checkpoint" → id and arguments of a leased step, sealed; "counts" of
                                       its steps; "params" → a pickle, sealed; "cancelled"; "answer" → how it
                                       ended, sealed; "events" → those of a short run: first event id
                                       and size, a line's end, events, and so on
    cascade:run:{run}:events     hash  first event id → events; few of a run that ended in the batch in
                                       which it began lie in meta

Of all schedulers of a Redis: `cascade:leader` (see `redis_lead`), `cascade:epoch`, `cascade:batch` (epoch and
number of the last batch), `cascade:runs` (sorted set of run ids by the time of their creation or last
renewal), `cascade:constraints` (hash, constraint id → JSON) and `cascade:workers` (hash, worker id → JSON),
both without a time to live.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping, Sequence
from operator import is_
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit, urlunsplit

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from cascade_dist.errors import ConfigError
from cascade_dist.storage.seal import Sealer
from cascade_scheduler.core.limits import Constraint
from cascade_scheduler.store.base import (
    Batch,
    Record,
    RunCreated,
    StoredHead,
    StoredRun,
    StoredWorker,
    StoreError,
    StoreGarbage,
    StoreUnavailable,
    without_superseded,
)
from cascade_scheduler.store.redis_batch import (
    CONSTRAINTS_KEY,
    PARTS,
    RUNS_KEY,
    WORKERS_KEY,
    BatchCommands,
    keys_of,
)
from cascade_scheduler.store.redis_checks import check_redis, check_url, explain, unusable
from cascade_scheduler.store.redis_commands import BATCH_KEY, Commands, Lifetimes, Packed, key_of, pack
from cascade_scheduler.store.redis_garbage import RedisGarbage
from cascade_scheduler.store.redis_lead import RedisLead
from cascade_scheduler.store.redis_plain import BEGUN, OVER, PLAIN_PARTS, Piece, PlainRuns, is_plain
from cascade_scheduler.store.redis_read import Parts, Reader, constraints_from, workers_from
from cascade_scheduler.store.redis_transactions import (
    Before,
    Transactions,
    TransactionTorn,
    WatchedKeysChanged,
)
from cascade_scheduler.store.run_forms import run_from
from cascade_scheduler.store.shared import Holder

__all__ = ["RedisStore", "masked"]

TTL_SECONDS = 86_400
TIMEOUT_SECONDS = 5.0
FUNCTION_SETS_MAX = 10_000
FIELDS_AT_ONCE = 1_000
AT_ONCE = {"results": 200, "observed": 200, "graph": 8, "events": 20, "functions": 8}
"""So many fields of a run are read in one answer, by how large they may be."""
HEADS_AT_ONCE = 500
"""Runs per question, where only their heads are wanted."""
PRUNE_SECONDS = 60.0
"""How often runs whose time is over leave the index, when runs begin."""
_REFUSED = (WatchedKeysChanged, ResponseError)
"""With these nothing of a batch was carried out. After any other error all of it may have been, or a part."""
LOOKS_MAX = 3
"""So often somebody else may write what a batch compares, before that is an error."""

logger = logging.getLogger("cascade.scheduler")


def masked(url: str) -> str:
    """A Redis URL without its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user = parts.username or ""
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:***@{host}"))


class _Prepared(NamedTuple):
    """A batch as it is sent."""

    number: int
    commands: Commands
    functions: Mapping[str, frozenset[bytes]]
    packed: Packed
    at: float
    """Seconds, monotonic."""


class _Plain(NamedTuple):
    """A batch of pieces, as it is sent."""

    number: int
    pieces: Sequence[Piece]
    packed: Packed
    at: float
    """Seconds, monotonic."""


class _Early:
    """What is known of the next batch."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.pieces: list[Piece] = []
        """All of it, as long as there are no commands."""
        self.commands: BatchCommands | None = None
        """All of it, unless it comes in pieces."""

    def begins(self, records: Sequence[Record]) -> bool:
        """It is what these records begin with."""
        return len(self.records) <= len(records) and all(map(is_, self.records, records))


class RedisStore:
    """`redis://`, `rediss://` and `unix://`."""

    def __init__(self, url: str, sealer: Sealer, *, ttl_seconds: int = TTL_SECONDS) -> None:
        self._url = url
        self._sealer = sealer
        self._ttl = ttl_seconds
        self._epoch = 0
        self._epoch_text = b""
        self._functions: dict[str, frozenset[bytes]] = {}
        """By run that goes from frame to frame: which functions are stored for it."""
        try:
            check_url(url)
            self._client = redis.asyncio.Redis.from_url(
                url,
                socket_timeout=TIMEOUT_SECONDS,
                socket_connect_timeout=TIMEOUT_SECONDS,
                # The writer tries again itself, and says so; a batch lands once however often it is sent.
                retry=Retry(NoBackoff(), 0),
                health_check_interval=0,
            )
            pool: Any = self._client.connection_pool
            pool.make_connection()  # connects to nothing, and refuses unknown options
        except TypeError as error:
            option = str(error).rpartition(" ")[2]
            raise ConfigError(f"--state {masked(url)!r} has the unknown option {option}") from None
        except ValueError as error:
            raise ConfigError(f"--state {masked(url)!r} is no Redis URL: {error}") from None
        self._transactions = Transactions(self._client, TIMEOUT_SECONDS)
        self._lifetimes = Lifetimes(ttl_seconds)
        self._lead = RedisLead(self._client, self.url)
        self._reader = Reader(sealer)
        self._plain = PlainRuns(sealer, ttl_seconds)
        self._early: _Early | None = None
        self._pruned = float("-inf")
        """When runs whose time is over were last taken out of the index; seconds, monotonic."""
        self._landed = 0
        """Number of the last batch that landed in this epoch."""
        self._torn = 0
        """Number of a batch that Redis may have without some of its commands: its number says nothing."""
        self._sent: _Prepared | _Plain | None = None
        """A batch that has landed, and is not in the books yet."""

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
        self._epoch, self._epoch_text = epoch, str(epoch).encode()
        self._landed = self._torn = 0
        self._early = self._sent = None
        self._functions.clear()
        self._lifetimes.clear()

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

    async def renew(self, ttl: float) -> None:
        """Lets the lease last again; sees whether what landed is still there."""
        await self._lead.renew(self._epoch, self._landed, ttl)

    async def release(self) -> None:
        """Gives the lease back."""
        with contextlib.suppress(StoreUnavailable):
            await self._lead.release()

    async def take_again(self) -> None:
        """After a gap: lease and epoch stand again, and the next batch has the number 1."""
        await self._lead.take_again(self._epoch)
        self._begin(self._epoch)

    async def has_run(self, created: RunCreated) -> bool:
        """Whether this very run is stored, in its first frame."""
        run_id = created.run_id
        try:
            told, frame = await _answer(self._client.hmget(key_of(run_id, "meta"), ["run", "frame"]))
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis at {self.url}: {_why(error)}") from None
        if told is None or int(frame or 0):
            return False
        try:
            found = run_from(self._sealer.open(run_id, "meta", told)[1]).told
        except ValueError:  # sealed with another key, say
            return False
        return (found["submitted"], found["target"]) == (created.submitted, created.target_id)

    def apply(self, batch: Batch) -> None:
        """Redis is waited for: see `commit`."""
        raise TypeError("a Redis store takes batches by commit")

    def prepare(self, records: Sequence[Record]) -> None:
        """Begins to make the commands of the next batch."""
        early = self._early
        if early is None:
            early = self._early = _Early()
        early.records.extend(records)
        if early.commands is None:
            piece = self._plain.piece(records)
            if piece is not None:
                early.pieces.append(piece)
                return
            early.commands = self._batch_commands(time.monotonic())
            records = early.records
        early.commands.take(records).pack_early()

    def begin(self, batch: Batch, then: Callable[[bool], None]) -> bool:
        """Sends a batch where that can be done at once."""
        if self._transactions.before != self._with_last(batch.number - 1):
            return False  # `_land` finds out what that means
        prepared = self._plainly(batch) or self._prepared(batch)

        def answered(error: Exception | None) -> None:
            if error is None:
                self._sent = prepared
            elif not isinstance(error, _REFUSED):
                self._torn = prepared.number
            then(error is None)

        packed = prepared.packed
        self._transactions.begin(packed.data, packed.length, self._with_last(batch.number), answered)
        return True

    def settle(self) -> None:
        """Brings the books up to the batch that was begun last and has landed."""
        sent, self._sent = self._sent, None
        if isinstance(sent, _Prepared):
            self._has_landed(sent)
        elif sent is not None:
            self._landed, self._torn = sent.number, 0
            for piece in sent.pieces:
                if piece.kinds is OVER:
                    self._lifetimes.over(piece.run_id)
                elif piece.kinds is BEGUN:
                    self._lifetimes.began(piece.run_id, PLAIN_PARTS, sent.at)

    async def commit(self, batch: Batch) -> None:
        """Lands a batch."""
        prepared = self._prepared(batch)
        try:
            await self._land(prepared)
        except (RedisError, OSError) as error:
            why = error.__cause__ if isinstance(error, TransactionTorn) else error
            keys = keys_of(prepared.commands)
            raise StoreUnavailable(await explain(why or error, self._client, self.url, keys)) from None
        self._has_landed(prepared)

    async def _land(self, prepared: _Prepared) -> None:
        """Carries out a batch, unless it has landed before."""
        number, packed = prepared.number, prepared.packed
        for left in reversed(range(LOOKS_MAX)):
            last = self._last(await self._transactions.look())
            if last == number and number != self._torn:
                return
            if last not in (number - 1, number):
                raise self._lead.gap(last)
            try:
                await self._transactions.run(packed.data, packed.length, self._with_last(number))
                return
            except WatchedKeysChanged:
                if not left:
                    raise
            except (RedisError, OSError) as error:
                if not isinstance(error, _REFUSED):
                    self._torn = number
                raise

    def _with_last(self, number: int) -> Before:
        """Our epoch leads, and this was its last batch."""
        return Before(self._epoch_text, self._epoch_text, number)

    def _last(self, before: Before) -> int:
        """The number of the last batch in this epoch.

        Raises:
            StoreFenced, StoreGap: another epoch leads.
        """
        if before.epoch != self._epoch_text:
            raise self._lead.other_epoch(before.epoch, self._epoch)
        return before.number if before.of == self._epoch_text else 0

    def _batch_commands(self, now: float) -> BatchCommands:
        prune = now - self._pruned > PRUNE_SECONDS
        return BatchCommands(self._sealer, self._ttl, self._functions, prune=prune)

    def _plainly(self, batch: Batch) -> _Plain | None:
        """A batch that is a run of one task, or the end of one, or both; None when there is anything else."""
        early, records, now = self._early, batch.records, time.monotonic()
        if early is None or early.commands is not None or now - self._pruned > PRUNE_SECONDS:
            return None
        if not early.begins(records):
            return None
        pieces, rest = early.pieces, records[len(early.records) :]
        if rest:
            piece = self._plain.piece(rest)
            if piece is None:
                return None
            pieces.append(piece)
        if not is_plain(pieces):
            return None
        self._early = None
        number = pack(("HSET", BATCH_KEY, "epoch", self._epoch, "number", batch.number))
        data = b"".join([piece.data for piece in pieces])
        length = sum([piece.length for piece in pieces]) + 1
        return _Plain(batch.number, pieces, Packed(data + number, length, {}), now)

    def _prepared(self, batch: Batch) -> _Prepared:
        now = time.monotonic()
        early, self._early = self._early, None
        records = without_superseded(batch.records)
        if early is not None and early.commands is not None and early.begins(records):
            adding, records = early.commands, records[len(early.records) :]
        else:
            adding = self._batch_commands(now)
        commands = adding.take(records)
        if adding.pruned:
            self._pruned = now
        commands.do("HSET", BATCH_KEY, "epoch", self._epoch, "number", batch.number)
        packed = commands.packed(self._lifetimes, now)
        return _Prepared(batch.number, commands, adding.functions, packed, now)

    def _has_landed(self, batch: _Prepared) -> None:
        self._landed, self._torn = batch.number, 0
        self._lifetimes.landed(batch.commands, batch.packed.given, batch.at)
        over, known = batch.commands.over, self._functions
        known.update([(run_id, cids) for run_id, cids in batch.functions.items() if run_id not in over])
        for run_id in over:
            known.pop(run_id, None)
        while len(known) > FUNCTION_SETS_MAX:
            del known[next(iter(known))]

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
            if not isinstance(error, ResponseError):
                raise StoreUnavailable(f"Redis at {self.url}: {_why(error)}") from None
            raise StoreError(
                f"the constraints in Redis at {self.url} cannot be read: {_why(error)}; "
                f"delete the key {CONSTRAINTS_KEY} if it is no hash"
            ) from None
        return constraints_from(kept)

    async def heads(self) -> Sequence[StoredHead]:
        """All runs that are remembered, in short, oldest first."""
        found: list[StoredHead] = []
        try:
            names = [raw.decode() for raw in await _answer(self._client.zrange(RUNS_KEY, 0, -1))]
            for at in range(0, len(names), HEADS_AT_ONCE):
                some = names[at : at + HEADS_AT_ONCE]
                pipeline = self._client.pipeline(transaction=False)
                for run_id in some:
                    pipeline.hmget(key_of(run_id, "meta"), ["run", "state", "error"])
                for run_id, fields in zip(some, await pipeline.execute(raise_on_error=False), strict=True):
                    if isinstance(fields, ResponseError) and "WRONGTYPE" in str(fields):
                        await self._pass_over(run_id, fields)
                        continue
                    if isinstance(fields, Exception):
                        raise fields
                    head = self._reader.head(run_id, *fields)
                    if head is not None:
                        found.append(head)
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis at {self.url}: {_why(error)}") from None
        return found

    async def roster(self) -> Sequence[StoredWorker]:
        """The workers that were on the books of the last scheduler, by their ids."""
        try:
            kept = await _answer(self._client.hgetall(WORKERS_KEY))
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis at {self.url}: {_why(error)}") from None
        return workers_from(kept)

    async def garbage(self, spare: Container[str], *, dry_run: bool) -> StoreGarbage:
        """Deletes what nobody can use any more."""
        try:
            return await RedisGarbage(self._client).collect(self._epoch, spare, dry_run=dry_run)
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis at {self.url}: {_why(error)}") from None

    async def _load(self, run_id: str) -> StoredRun | None:
        try:
            parts = await self._parts(run_id)
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            await self._pass_over(run_id, error)
            return None
        return await self._reader.run(run_id, parts)

    async def _parts(self, run_id: str) -> Parts:
        """All that is stored of a run; of a large one piece by piece, so that no answer holds all of it."""
        counting = self._client.pipeline(transaction=False)
        for part in PARTS:
            counting.hlen(key_of(run_id, part))
        counts = dict(zip(PARTS, await counting.execute(), strict=True))
        if all(counts[part] <= at_once for part, at_once in AT_ONCE.items()):
            pipeline = self._client.pipeline(transaction=True)
            for part in PARTS:
                pipeline.hgetall(key_of(run_id, part))
            return dict(zip(PARTS, await pipeline.execute(), strict=True))
        found = {}
        for part in PARTS:
            found[part] = await self._pieces(key_of(run_id, part), AT_ONCE.get(part, FIELDS_AT_ONCE))
        return found

    async def _pieces(self, key: str, at_once: int) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        fields = await _answer(self._client.hkeys(key))
        for at in range(0, len(fields), at_once):
            some = fields[at : at + at_once]
            values = await _answer(self._client.hmget(key, some))
            told = zip(some, values, strict=True)
            found.update((field, value) for field, value in told if value is not None)
        return found

    async def _pass_over(self, run_id: str, error: ResponseError) -> None:
        keys = [key_of(run_id, part) for part in PARTS]
        logger.error("run %s is passed over: %s", run_id, await explain(error, self._client, self.url, keys))

    async def close(self) -> None:
        """Lets go of the connections."""
        await self._transactions.close()
        await self._client.aclose()


async def _answer(pending: Awaitable[Any] | Any) -> Any:
    """redis-py types its asyncio client's answers as either kind."""
    return await cast("Awaitable[Any]", pending)


def _why(error: BaseException) -> str:
    return str(error).strip() or type(error).__name__
