"""A batch as one script for Redis: what it compares first, and the commands of its records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from cascade_dist.codec.cid import cid_to_text
from cascade_dist.storage.records import BlobRecord, ObjectRecord, encode_record
from cascade_dist.storage.seal import Sealer
from cascade_scheduler.core.commands import (
    DropConstraint,
    DropWorker,
    LoopCounts,
    SaveAttempt,
    SaveCancel,
    SaveCheckpoint,
    SaveConstraint,
    SaveDue,
    SaveFacts,
    SaveFailure,
    SaveFrame,
    SaveOutcome,
    SaveResult,
    SaveSkip,
    SaveWorker,
)
from cascade_scheduler.core.values import BlobValue
from cascade_scheduler.store.base import (
    Record,
    RunAnswered,
    RunCreated,
    RunDropped,
    RunEvents,
    RunImporting,
    RunRenewed,
    RunResumed,
    Standing,
    StoredFrame,
    StoredFunction,
    StoredJump,
)
from cascade_scheduler.store.forms import answer_to, facts_to, failure_to, place_to
from cascade_scheduler.store.redis_commands import Commands

__all__ = [
    "BATCH_KEY",
    "CONSTRAINTS_KEY",
    "EPOCH_KEY",
    "PARTS",
    "RUNS_KEY",
    "WORKERS_KEY",
    "Script",
    "key_of",
    "keys_of",
]

TTL_MARGIN_SECONDS = 7_200
EPOCH_KEY = "cascade:epoch"
BATCH_KEY = "cascade:batch"
RUNS_KEY = "cascade:runs"
CONSTRAINTS_KEY = "cascade:constraints"
WORKERS_KEY = "cascade:workers"
FRAME_PARTS = ("results", "skipped", "facts", "observed", "attempts", "failures")
"""What belongs to one frame of a run, beside its graph."""
RESULT_PARTS = ("results", "facts", "observed")
"""What stays of a run that is resumed."""
PARTS = (*FRAME_PARTS, "graph", "functions", "meta", "events")


def key_of(run_id: str, part: str) -> str:
    """The key of a part of a run."""
    return f"cascade:run:{run_id}:{part}"


def keys_of(commands: Commands) -> list[str]:
    """The keys that commands write to."""
    of_runs = [
        key_of(run_id, part) for run_id, touched in commands.touched.items() for part in touched.written
    ]
    return [*of_runs, *commands.others]


_OfRun = (
    RunCreated
    | RunImporting
    | RunResumed
    | RunEvents
    | RunRenewed
    | RunDropped
    | RunAnswered
    | SaveAttempt
    | SaveDue
    | SaveFacts
    | SaveFailure
    | SaveCancel
    | SaveFrame
    | SaveCheckpoint
    | SaveResult
    | SaveSkip
    | SaveOutcome
)


def _counts(counts: LoopCounts, iterations: int) -> str:
    return " ".join(map(str, (*counts, iterations)))


@lru_cache(maxsize=1_024)
def _function_head(cid: bytes, name: str, code_hash: bytes) -> tuple[str, bytes]:
    """The field of a function, and what stands there before its body."""
    return cid_to_text(cid), json.dumps({"name": name, "hash": code_hash.hex()}).encode() + b"\n"


class Script:
    """A batch as the arguments of the script: writes to one hash become one command."""

    def __init__(self, sealer: Sealer, ttl: int, stored: Mapping[str, frozenset[bytes]]) -> None:
        self._sealer = sealer
        self._ttl = ttl
        self._stored = stored
        self.functions: dict[str, frozenset[bytes]] = {}
        """Of runs that went on as another graph: their functions, once the batch has landed."""
        self.commands = Commands()
        self._set = self.commands.set
        self._do = self.commands.do

    def take(self, records: Iterable[Record]) -> Commands:
        """The commands of these records, in their order."""
        for record in records:
            kind = type(record)
            if kind is SaveResult:  # the commonest first
                self._add_result(record)  # type: ignore[arg-type]  # mypy does not narrow by `type(x) is`
            elif kind is SaveAttempt:
                self._add_attempt(record)  # type: ignore[arg-type]
            elif kind is RunEvents:
                self._add_events(record)  # type: ignore[arg-type]
            else:
                self._add(record)
        return self.commands

    def _add(self, record: Record) -> None:
        if isinstance(record, SaveConstraint):
            told = json.dumps(record.constraint._asdict())
            self._do("HSET", CONSTRAINTS_KEY, record.constraint.id, told)
            return
        if isinstance(record, DropConstraint):
            self._do("HDEL", CONSTRAINTS_KEY, record.id)
            return
        if isinstance(record, SaveWorker):
            told = json.dumps({"name": record.name, "amounts": record.amounts})
            self._do("HSET", WORKERS_KEY, record.worker, told)
            return
        if isinstance(record, DropWorker):
            self._do("HDEL", WORKERS_KEY, record.worker)
            return
        if isinstance(record, Standing):
            self._do("DEL", CONSTRAINTS_KEY)
            self._do("DEL", WORKERS_KEY)
            for limit in record.constraints:
                self._add(limit)
            for worker in record.workers:
                self._add(worker)
            return
        self._add_of_run(record)

    def _add_of_run(self, record: _OfRun) -> None:
        run_id = record.run_id
        if isinstance(record, SaveFacts):
            sealed = self._sealer.seal(run_id, f"observed:{record.key}", 0, facts_to(record.facts))
            self._set(run_id, "observed", record.key, sealed)
        elif isinstance(record, SaveCheckpoint):
            step = record.node_id + record.args
            self._set(run_id, "meta", "checkpoint", self._sealer.seal(run_id, "checkpoint", 0, step))
            self._set(run_id, "meta", "counts", _counts(record.counts, record.iterations))
        elif isinstance(record, SaveFrame):
            self._add_frame(record)
        elif isinstance(record, SaveSkip):
            self._set(run_id, "skipped", record.key, record.reason)
        elif isinstance(record, SaveDue):
            text = f"0 {record.tries} {record.at!r}"
            self._set(run_id, "attempts", place_to(record.node, record.child), text)
        elif isinstance(record, SaveFailure):
            place = place_to(record.node, record.child)
            told = failure_to(record.error, record.task)
            self._set(run_id, "failures", place, self._sealer.seal(run_id, f"failure:{place}", 0, told))
        else:
            self._add_rare(record)

    def _add_rare(self, record: _OfRun) -> None:
        """What there is a few times in the life of a run."""
        run_id = record.run_id
        if isinstance(record, SaveCancel):
            self._set(run_id, "meta", "cancelled", 1)
        elif isinstance(record, RunAnswered):
            answer = answer_to(record.finish, record.keys)
            self._set(run_id, "meta", "answer", self._sealer.seal(run_id, "answer", 0, answer))
        elif isinstance(record, SaveOutcome):
            self._set(run_id, "meta", "state", record.state)
            self._set(run_id, "meta", "error", record.error)
            self._renew(run_id)
            self.commands.over[run_id] = None
        elif isinstance(record, RunCreated):
            self._add_run(record)
        elif isinstance(record, RunRenewed):
            self._renew(run_id)
            self._do("ZADD", RUNS_KEY, record.at, run_id)
        elif isinstance(record, RunResumed):
            self._add_resumed(record)
        elif isinstance(record, (RunDropped, RunImporting)):
            self._drop(run_id)
            self._do("ZREM", RUNS_KEY, run_id)

    def _add_attempt(self, record: SaveAttempt) -> None:
        which = f"{record.attempt}<{record.behind}" if record.behind else str(record.attempt)
        text = f"{which} {record.try_} {record.worker}"
        self._set(record.run_id, "attempts", place_to(record.node, record.child), text)

    def _add_events(self, record: RunEvents) -> None:
        self._set(record.run_id, "events", record.first, record.payload)
        if record.dropped:
            self._unset(record.run_id, "events", *record.dropped)

    def _add_result(self, record: SaveResult) -> None:
        value = record.value
        if type(value) is bytes:
            stored = encode_record(value)
        else:
            stored = encode_record(
                BlobRecord(*value) if isinstance(value, BlobValue) else ObjectRecord(*value)
            )
        sealed = self._sealer.seal(record.run_id, record.key, record.attempt, stored)
        self._set(record.run_id, "results", record.key, sealed)
        if record.truth is not None or record.length is not None:
            facts = {"truth": record.truth, "length": record.length}
            self._set(record.run_id, "facts", record.key, json.dumps(facts))

    def _add_run(self, record: RunCreated) -> None:
        run_id, seal = record.run_id, self._sealer.seal
        if record.imported:
            self._renew(run_id)
        else:
            # Of a run with this id that ended and was forgotten, or that is resumed.
            self._drop(run_id, keep=RESULT_PARTS if record.resumed else ())
            self._set(run_id, "meta", "state", "running")
        self._set(run_id, "meta", "run", self.told(record))
        if record.params:
            self._set(run_id, "meta", "params", seal(run_id, "params", 0, record.params))
        for number, chunk in enumerate(record.chunks):
            self._set(run_id, "graph", str(number), seal(run_id, f"graph:{number}", 0, chunk))
        self._set(run_id, "graph", "end", seal(run_id, "graph:end", 0, record.end))
        self._add_functions(run_id, record.functions)
        self.functions[run_id] = frozenset(function.cid for function in record.functions)
        self._do("ZADD", RUNS_KEY, record.submitted, run_id)
        over = record.submitted - self._ttl - TTL_MARGIN_SECONDS
        self._do("ZREMRANGEBYSCORE", RUNS_KEY, "-inf", over)

    def _add_resumed(self, record: RunResumed) -> None:
        run_id = record.run_id
        self.commands.delete(run_id, ("skipped", "attempts", "failures", "events"))
        self._unset(run_id, "meta", "cancelled", "answer", "error")
        self._set(run_id, "meta", "state", "running")
        self._renew(run_id)
        self._do("ZADD", RUNS_KEY, record.at, run_id)

    def told(self, record: RunCreated) -> bytes:
        """What is told of a run besides its graph, sealed; the same bytes for the same run."""
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
            "cancel_on_disconnect": record.cancel_on_disconnect,
            "disconnect_grace": record.disconnect_grace,
        }
        return self._sealer.seal(record.run_id, "meta", 0, json.dumps(told).encode())

    def _add_functions(self, run_id: str, functions: Iterable[StoredFunction]) -> None:
        for function in functions:
            field, head = _function_head(function.cid, function.name, function.code_hash)
            self._set(run_id, "functions", field, head + function.body)

    def _add_frame(self, record: SaveFrame) -> None:
        """What was saved of the last frame goes; the functions stay when they are the same."""
        run_id, stored = record.run_id, record.stored
        self.commands.delete(run_id, FRAME_PARTS)
        self._unset(run_id, "meta", "checkpoint")
        self._set(run_id, "meta", "frame", record.number)
        self._set(run_id, "meta", "counts", _counts(record.counts, 0))
        if isinstance(stored, StoredJump):
            told = {"target": stored.target, "names": stored.names, "overrides": stored.overrides.hex()}
            self._set(run_id, "meta", "jump", self._sealer.seal(run_id, "jump", 0, json.dumps(told).encode()))
            return
        assert isinstance(stored, StoredFrame)
        self._unset(run_id, "meta", "jump")
        self.commands.delete(run_id, ("graph",))
        for name, message in (("0", stored.chunk), ("end", stored.end)):
            self._set(run_id, "graph", name, self._sealer.seal(run_id, f"graph:{name}", 0, message))
        self._set(run_id, "meta", "parts", 1)
        functions = frozenset(function.cid for function in stored.functions)
        if self.functions.get(run_id, self._stored.get(run_id)) != functions:
            self.commands.delete(run_id, ("functions",))
            self._add_functions(run_id, stored.functions)
            self.functions[run_id] = functions

    def _unset(self, run_id: str, part: str, *fields: Any) -> None:
        self.commands.unset(run_id, part, key_of(run_id, part), fields)

    def _renew(self, run_id: str) -> None:
        self.commands.renew(run_id, PARTS)

    def _drop(self, run_id: str, keep: Iterable[str] = ()) -> None:
        """Nothing is left of a run, but for what is to be kept."""
        kept = tuple(keep)
        self.commands.delete(run_id, [part for part in PARTS if part not in kept])
        if kept:
            self.commands.renew(run_id, kept)
            self.commands.over[run_id] = None  # nobody knows which of them are there
        else:
            self.commands.began[run_id] = None
