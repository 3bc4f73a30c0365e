"""Runs as they are read back from Redis: what this cluster's key has not sealed is refused, and said."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from cascade_dist.storage.records import BlobRecord, ObjectRecord, RecordError, decode_record
from cascade_dist.storage.seal import Sealer, SealError
from cascade_scheduler.core.commands import LoopCounts
from cascade_scheduler.core.limits import Constraint, checked
from cascade_scheduler.core.values import BlobValue, ObjectValue
from cascade_scheduler.store.base import (
    Place,
    RunCreated,
    StoredAttempt,
    StoredDue,
    StoredHead,
    StoredJump,
    StoredResult,
    StoredRun,
    StoredWorker,
)
from cascade_scheduler.store.forms import answer_from, facts_from, failure_from, place_from
from cascade_scheduler.store.run_forms import Beginning, functions_from, run_from

__all__ = ["Parts", "Reader", "constraints_from", "workers_from"]

RESULTS_AT_ONCE = 500
"""So many results are checked against their seals before others have their turn."""
NODE_ID_BYTES = 16
Hash: TypeAlias = Mapping[bytes, bytes]
Parts: TypeAlias = Mapping[str, Hash]
"""The hashes of a run, by the last word of their keys."""

logger = logging.getLogger("cascade.scheduler")


class Reader:
    """Reads what `BatchCommands` write.

    Args:
        sealer: checks what is read.
    """

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def head(
        self, run_id: str, run: bytes | None, state: bytes | None, error: bytes | None
    ) -> StoredHead | None:
        """A run in short; None when it is not there, or cannot be trusted."""
        if run is None or state is None:
            return None  # its time is over
        try:
            told = run_from(self._sealer.open(run_id, "meta", run)[1]).told
            why = (error or b"").decode()
            return StoredHead(run_id, told["name"], state.decode(), why, told["submitted"])
        except (SealError, ValueError, KeyError) as wrong:
            logger.error("run %s is passed over: %s", run_id, wrong)
            return None

    async def run(self, run_id: str, parts: Parts) -> StoredRun | None:
        """A run; None when it is not there, or cannot be trusted."""
        meta = parts["meta"]
        if b"run" not in meta:
            return None  # its time is over
        try:
            created = self._created(run_id, parts)
            run = StoredRun(created, meta[b"state"].decode(), meta.get(b"error", b"").decode())
            self._read_meta(run, meta)
            for field, record in parts["failures"].items():
                told = self._sealer.open(run_id, f"failure:{field.decode()}", record)[1]
                run.failures[place_from(field)] = failure_from(told)
            for field, text in parts["attempts"].items():
                _read_attempt(run, place_from(field), text)
        except (SealError, ValueError, KeyError) as error:
            logger.error("run %s is passed over: %s", run_id, error)
            return None
        await self._read_results(run, parts)
        run.skipped = {key.decode(): reason.decode() for key, reason in parts["skipped"].items()}
        pieces = [(int(first), piece) for first, piece in parts["events"].items()]
        run.events = dict(sorted(pieces + _few_events(meta.get(b"events", b""))))
        return run

    async def _read_results(self, run: StoredRun, parts: Parts) -> None:
        run_id, facts = run.created.run_id, parts["facts"]
        for number, (field, record) in enumerate(parts["results"].items(), 1):
            key = field.decode()
            if not number % RESULTS_AT_ONCE:
                await asyncio.sleep(0)  # other runs go on meanwhile
            try:
                run.results[key] = self._result(run_id, key, record, facts.get(field))
            except (SealError, RecordError) as error:
                logger.error("a result of run %s counts as lost: %s", run_id, error)
        for field, record in parts["observed"].items():
            key = field.decode()
            try:
                run.facts[key] = facts_from(self._sealer.open(run_id, f"observed:{key}", record)[1])
            except (SealError, ValueError, KeyError) as error:
                logger.error("what was observed of a result of run %s counts as lost: %s", run_id, error)

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

    def _read_meta(self, run: StoredRun, meta: Hash) -> None:
        run_id = run.created.run_id
        run.frame = int(meta.get(b"frame", 0))
        if b"checkpoint" in meta:
            step = self._sealer.open(run_id, "checkpoint", meta[b"checkpoint"])[1]
            run.checkpoint = (step[:NODE_ID_BYTES], step[NODE_ID_BYTES:])
        if b"jump" in meta:
            run.jump = self._jump(run_id, meta[b"jump"])
        if b"counts" in meta:
            *counts, run.iterations = map(int, meta[b"counts"].split())
            run.counts = LoopCounts(*counts)
        run.cancelled = b"cancelled" in meta
        if b"answer" in meta:
            run.answer = answer_from(self._sealer.open(run_id, "answer", meta[b"answer"])[1])

    def _jump(self, run_id: str, record: bytes) -> StoredJump:
        told = json.loads(self._sealer.open(run_id, "jump", record)[1])
        return StoredJump(told["target"], tuple(told["names"]), bytes.fromhex(told["overrides"]))

    def _graph(self, run_id: str, parts: Parts, begun: Beginning) -> tuple[tuple[bytes, ...], bytes]:
        """A graph's messages, and its end: of that in which the run is now."""
        meta = parts["meta"]
        if b"graph" in meta:
            size, _, rest = self._sealer.open(run_id, "graph", meta[b"graph"])[1].partition(b"\n")
            return (rest[int(size) :],), rest[: int(size)]
        if begun.chunks and b"parts" not in meta:  # it has not gone on as another graph
            return begun.chunks, begun.end
        graph = {
            name.decode(): self._sealer.open(run_id, f"graph:{name.decode()}", record)[1]
            for name, record in parts["graph"].items()
        }
        count = int(meta.get(b"parts", begun.told["parts"]))
        return tuple(graph[str(number)] for number in range(count)), graph["end"]

    def _created(self, run_id: str, parts: Parts) -> RunCreated:
        meta = parts["meta"]
        begun = run_from(self._sealer.open(run_id, "meta", meta[b"run"])[1])
        told, params = begun.told, begun.params
        if b"params" in meta:
            params = self._sealer.open(run_id, "params", meta[b"params"])[1]
        chunks, end = self._graph(run_id, parts, begun)
        kept = (*parts["functions"].values(), meta.get(b"functions", b""))
        functions = [function for record in kept for function in functions_from(record)]
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
            chunks,
            end,
            tuple(sorted(functions)),
            tuple((name, micros) for name, micros in told.get("pools", ())),
            False,
            params,
            told.get("cancel_on_disconnect", False),
            told.get("disconnect_grace", 0.0),
        )


def _few_events(data: bytes) -> list[tuple[int, bytes]]:
    """Events that stand one piece behind the other."""
    found = []
    while data:
        head, _, data = data.partition(b"\n")
        first, size = map(int, head.split())
        found.append((first, data[:size]))
        data = data[size:]
    return found


def _read_attempt(run: StoredRun, place: Place, text: bytes) -> None:
    attempt, try_, rest = text.decode().split(" ", 2)
    if attempt == "0":
        run.dues[place] = StoredDue(int(try_), float(rest))
        return
    attempt, _, behind = attempt.partition("<")
    stored = StoredAttempt(int(attempt), int(try_), rest, int(behind or 0))
    if place[1] < 0:
        run.attempts[place[0]] = stored
    else:
        run.children[place] = stored


def workers_from(kept: Hash) -> Sequence[StoredWorker]:
    """The roster, by the workers' ids."""
    found = []
    for worker, text in kept.items():
        try:
            told = json.loads(text)
            amounts = tuple((str(name), int(micros)) for name, micros in told["amounts"])
            found.append(StoredWorker(worker.decode(), str(told["name"]), amounts))
        except (ValueError, TypeError, KeyError) as error:
            logger.error("worker %r in Redis is passed over: %s", worker, error)
    return sorted(found)


def constraints_from(kept: Hash) -> Sequence[Constraint]:
    """The limits that were set and not removed, by scope and type."""
    found = []
    for field, text in kept.items():
        try:
            found.append(_constraint(text))
        except (ValueError, TypeError, KeyError) as error:
            logger.error("constraint %r in Redis is passed over: %s", field.decode(), error)
    return sorted(found, key=lambda constraint: (constraint.scope, constraint.type))


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
