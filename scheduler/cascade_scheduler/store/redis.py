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
import json
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError

from cascade_dist.codec.cid import cid_from_text, cid_to_text
from cascade_dist.errors import ConfigError
from cascade_dist.storage.records import BlobRecord, ObjectRecord, RecordError, decode_record, encode_record
from cascade_dist.storage.seal import Sealer, SealError
from cascade_scheduler.core.commands import (
    DropConstraint,
    SaveAttempt,
    SaveCheckpoint,
    SaveConstraint,
    SaveFrame,
    SaveOutcome,
    SaveResult,
    SaveSkip,
)
from cascade_scheduler.core.limits import Constraint, checked
from cascade_scheduler.core.values import BlobValue, ObjectValue
from cascade_scheduler.store.base import (
    Batch,
    Record,
    RunCreated,
    RunDropped,
    RunEvents,
    RunRenewed,
    StoredAttempt,
    StoredFrame,
    StoredFunction,
    StoredJump,
    StoredResult,
    StoredRun,
    StoreError,
    StoreFenced,
    StoreUnavailable,
    without_superseded,
)

__all__ = ["RedisStore", "masked"]

TTL_SECONDS = 86_400
TTL_MARGIN_SECONDS = 7_200
TIMEOUT_SECONDS = 5.0
ARGUMENTS_MAX = 7_000
"""Of one command: Lua's `unpack` stops near 8,000. Even, so that pairs stay together."""
EPOCH_KEY = "cascade:epoch"
BATCH_KEY = "cascade:batch"
RUNS_KEY = "cascade:runs"
CONSTRAINTS_KEY = "cascade:constraints"
FRAME_PARTS = ("results", "skipped", "facts", "attempts")
"""What belongs to one frame of a run, beside its graph."""
RESULT_PARTS = ("results", "facts")
"""What stays of a run that is resumed."""
RESULTS_AT_ONCE = 500
"""So many results are checked against their seals before others have their turn."""
FUNCTION_SETS_MAX = 10_000
NODE_ID_BYTES = 16
PARTS = ("results", "skipped", "facts", "attempts", "graph", "functions", "meta", "events")

# One batch: nothing happens unless this epoch leads and the number follows the last one. Then commands, each
# as name, index of its key, number of arguments, arguments.
COMMIT = """
local epoch = redis.call('GET', KEYS[1])
if epoch ~= ARGV[1] then return {'EPOCH', epoch or ''} end
local known = redis.call('HMGET', KEYS[2], 'epoch', 'number')
local last = 0
if known[1] == ARGV[1] then last = tonumber(known[2]) end
local number = tonumber(ARGV[2])
if number == last then return {'LANDED', ''} end
if number ~= last + 1 then return {'GAP', tostring(last)} end
local most = tonumber(ARGV[3])
local at = 4
while at <= #ARGV do
  local key, count = KEYS[tonumber(ARGV[at + 1])], tonumber(ARGV[at + 2])
  local first, last_of_all = at + 3, at + 2 + count
  if count == 0 then redis.call(ARGV[at], key) end
  while first <= last_of_all do
    local upto = math.min(first + most - 1, last_of_all)
    redis.call(ARGV[at], key, unpack(ARGV, first, upto))
    first = upto + 1
  end
  at = last_of_all + 1
end
redis.call('HSET', KEYS[2], 'epoch', ARGV[1], 'number', ARGV[2])
return {'OK', ''}
"""

logger = logging.getLogger("cascade.scheduler")


def masked(url: str) -> str:
    """A Redis URL without its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user = parts.username or ""
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:***@{host}"))


def key_of(run_id: str, part: str) -> str:
    """The key of a part of a run."""
    return f"cascade:run:{run_id}:{part}"


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
        try:
            await _answer(self._client.ping())
            await self._warn()
            self._epoch = int(await _answer(self._client.incr(EPOCH_KEY)))
        except AuthenticationError as error:
            raise StoreError(
                f"Redis at {self.url} refuses us: {error}; correct user and password in --state"
            ) from None
        except (RedisError, OSError) as error:
            raise StoreError(
                f"no Redis at {self.url}: {_why(error)}; start it, correct --state, or use --state memory://"
            ) from None
        return self._epoch

    async def _warn(self) -> None:
        """Names settings with which Redis may lose what clients were promised."""
        try:
            settings = await self._client.config_get("appendonly", "maxmemory-policy")
        except RedisError:
            logger.info(
                "Redis at %s does not tell its settings: whether it can lose results is unknown", self.url
            )
            return
        if settings.get("appendonly", "yes") != "yes":
            logger.warning(
                "Redis at %s has appendonly=%s: results can be lost when it restarts; set appendonly yes",
                self.url,
                settings["appendonly"],
            )
        policy = settings.get("maxmemory-policy", "noeviction")
        if policy != "noeviction":
            logger.warning(
                "Redis at %s has maxmemory-policy=%s: results can be evicted; set it to noeviction",
                self.url,
                policy,
            )

    def apply(self, batch: Batch) -> None:
        """Redis is waited for: see `commit`."""
        raise TypeError("a Redis store takes batches by commit")

    async def commit(self, batch: Batch) -> None:
        """Lands a batch."""
        script = _Script(self._sealer, self._ttl, self._functions)
        keys, arguments = script.of(without_superseded(batch.records))
        try:
            status, told = await self._commit(
                keys=[EPOCH_KEY, BATCH_KEY, *keys],
                args=[self._epoch, batch.number, ARGUMENTS_MAX, *arguments],
            )
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis at {self.url}: {_why(error)}") from None
        if status == b"EPOCH":
            told = told.decode() or "missing"
            raise StoreFenced(
                f"Redis at {self.url} is led by another scheduler: its epoch is {told}, ours {self._epoch}"
            )
        if status == b"GAP":
            raise StoreFenced(
                f"Redis at {self.url} has lost results: batch {batch.number} was to come, but its last is "
                f"{told.decode()}; set appendonly yes and appendfsync always if that must not happen"
            )
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


class _Script:
    """A batch as the arguments of the script: writes to one hash become one command."""

    def __init__(self, sealer: Sealer, ttl: int, stored: Mapping[str, frozenset[bytes]]) -> None:
        self._sealer = sealer
        self._ttl = ttl
        self._stored = stored
        self.functions: dict[str, frozenset[bytes]] = {}
        """Of runs that went on as another graph: their functions, once the batch has landed."""
        self._commands: list[tuple[str, str, list[Any]]] = []
        self._open: dict[str, list[Any]] = {}
        """Per key: the arguments of its HSET that may still grow."""
        self._touched: dict[str, None] = {}

    def of(self, records: Iterable[Record]) -> tuple[list[str], list[Any]]:
        """(keys, arguments) of these records, in their order."""
        for record in records:
            self._add(record)
        for key in self._touched:
            self._commands.append(("EXPIRE", key, [self._ttl]))
        index: dict[str, int] = {}
        arguments: list[Any] = []
        for name, key, values in self._commands:
            number = index.setdefault(key, len(index) + 3)
            arguments += (name, number, len(values))
            arguments += values
        return list(index), arguments

    def _set(self, run_id: str, part: str, field: Any, value: Any) -> None:
        key = key_of(run_id, part)
        values = self._open.get(key)
        if values is None:
            values = self._open[key] = []
            self._commands.append(("HSET", key, values))
            self._touched[key] = None
        values += (field, value)

    def _do(self, name: str, key: str, *values: Any) -> None:
        self._open.pop(key, None)  # what is set after this command may not move before it
        self._commands.append((name, key, list(values)))

    def _add(self, record: Record) -> None:
        if isinstance(record, SaveConstraint):
            told = json.dumps(record.constraint._asdict())
            self._do("HSET", CONSTRAINTS_KEY, record.constraint.id, told)
            return
        if isinstance(record, DropConstraint):
            self._do("HDEL", CONSTRAINTS_KEY, record.id)
            return
        run_id = record.run_id
        if isinstance(record, SaveAttempt):
            text = f"{record.attempt} {record.try_} {record.worker}"
            self._set(run_id, "attempts", record.node, text)
        elif isinstance(record, SaveResult):
            self._add_result(record)
        elif isinstance(record, SaveCheckpoint):
            step = record.node_id + record.args
            self._set(run_id, "meta", "checkpoint", self._sealer.seal(run_id, "checkpoint", 0, step))
        elif isinstance(record, SaveFrame):
            self._add_frame(record)
        elif isinstance(record, SaveSkip):
            self._set(run_id, "skipped", record.key, record.reason)
        elif isinstance(record, SaveOutcome):
            self._set(run_id, "meta", "state", record.state)
            self._set(run_id, "meta", "error", record.error)
            self._renew(run_id)
        elif isinstance(record, RunEvents):
            self._set(run_id, "events", record.first, record.payload)
            if record.dropped:
                self._do("HDEL", key_of(run_id, "events"), *record.dropped)
        elif isinstance(record, RunCreated):
            self._add_run(record)
        elif isinstance(record, RunRenewed):
            self._renew(run_id)
            self._do("ZADD", RUNS_KEY, record.at, run_id)
        elif isinstance(record, RunDropped):
            self._drop(run_id)
            self._do("ZREM", RUNS_KEY, run_id)

    def _add_result(self, record: SaveResult) -> None:
        value = record.value
        stored = encode_record(
            BlobRecord(*value)
            if isinstance(value, BlobValue)
            else ObjectRecord(*value)
            if isinstance(value, ObjectValue)
            else value
        )
        sealed = self._sealer.seal(record.run_id, record.key, record.attempt, stored)
        self._set(record.run_id, "results", record.key, sealed)
        facts = {"truth": record.truth, "length": record.length}
        if any(fact is not None for fact in facts.values()):
            self._set(record.run_id, "facts", record.key, json.dumps(facts))

    def _add_run(self, record: RunCreated) -> None:
        run_id, seal = record.run_id, self._sealer.seal
        # Of a run with this id that ended and was forgotten, or that is resumed.
        self._drop(run_id, keep=RESULT_PARTS if record.resumed else ())
        told = {
            "name": record.name,
            "on_failure": record.on_failure,
            "logs": record.logs,
            "submitted": record.submitted,
            "target": record.target_id,
            "nodes": record.node_count,
            "params": record.params_digest.hex(),
            "template": record.template_id.hex(),
            "parts": len(record.chunks),
            "pools": record.pools,
        }
        self._set(run_id, "meta", "run", seal(run_id, "meta", 0, json.dumps(told).encode()))
        self._set(run_id, "meta", "state", "running")
        for number, chunk in enumerate(record.chunks):
            self._set(run_id, "graph", str(number), seal(run_id, f"graph:{number}", 0, chunk))
        self._set(run_id, "graph", "end", seal(run_id, "graph:end", 0, record.end))
        self._add_functions(run_id, record.functions)
        self.functions[run_id] = frozenset(function.cid for function in record.functions)
        self._do("ZADD", RUNS_KEY, record.submitted, run_id)
        over = record.submitted - self._ttl - TTL_MARGIN_SECONDS
        self._do("ZREMRANGEBYSCORE", RUNS_KEY, "-inf", over)

    def _add_functions(self, run_id: str, functions: Iterable[StoredFunction]) -> None:
        for function in functions:
            head = json.dumps({"name": function.name, "hash": function.code_hash.hex()}).encode()
            self._set(run_id, "functions", cid_to_text(function.cid), head + b"\n" + function.body)

    def _add_frame(self, record: SaveFrame) -> None:
        """What was saved of the last frame goes; the functions stay when they are the same."""
        run_id, stored = record.run_id, record.stored
        for part in FRAME_PARTS:
            self._delete(key_of(run_id, part))
        self._do("HDEL", key_of(run_id, "meta"), "checkpoint")
        self._set(run_id, "meta", "frame", record.number)
        if isinstance(stored, StoredJump):
            told = {"target": stored.target, "names": stored.names, "overrides": stored.overrides.hex()}
            self._set(run_id, "meta", "jump", self._sealer.seal(run_id, "jump", 0, json.dumps(told).encode()))
            return
        assert isinstance(stored, StoredFrame)
        self._do("HDEL", key_of(run_id, "meta"), "jump")
        self._delete(key_of(run_id, "graph"))
        for name, message in (("0", stored.chunk), ("end", stored.end)):
            self._set(run_id, "graph", name, self._sealer.seal(run_id, f"graph:{name}", 0, message))
        self._set(run_id, "meta", "parts", 1)
        functions = frozenset(function.cid for function in stored.functions)
        if self.functions.get(run_id, self._stored.get(run_id)) != functions:
            self._delete(key_of(run_id, "functions"))
            self._add_functions(run_id, stored.functions)
            self.functions[run_id] = functions

    def _delete(self, key: str) -> None:
        self._do("DEL", key)
        self._touched.pop(key, None)

    def _renew(self, run_id: str) -> None:
        for part in PARTS:
            self._touched[key_of(run_id, part)] = None

    def _drop(self, run_id: str, keep: Iterable[str] = ()) -> None:
        for part in PARTS:
            key = key_of(run_id, part)
            if part in keep:
                self._touched[key] = None
                continue
            self._do("DEL", key)
            self._touched.pop(key, None)


async def _answer(pending: Awaitable[Any] | Any) -> Any:
    """redis-py types its asyncio client's answers as either kind."""
    return await cast("Awaitable[Any]", pending)


def _why(error: BaseException) -> str:
    return str(error).strip() or type(error).__name__
