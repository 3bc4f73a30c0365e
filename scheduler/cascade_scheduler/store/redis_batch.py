"""A batch as commands for Redis."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

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
    RunEnding,
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
from cascade_scheduler.store.redis_commands import Commands, key_of
from cascade_scheduler.store.run_forms import SMALL_BYTES, function_to, functions_to, is_whole, run_to

__all__ = ["CONSTRAINTS_KEY", "PARTS", "RUNS_KEY", "WORKERS_KEY", "BatchCommands", "keys_of"]

TTL_MARGIN_SECONDS = 7_200
RUNS_KEY = "cascade:runs"
CONSTRAINTS_KEY = "cascade:constraints"
WORKERS_KEY = "cascade:workers"
FRAME_PARTS = ("results", "skipped", "facts", "observed", "attempts", "failures")
"""What belongs to one frame of a run, beside its graph."""
RESULT_PARTS = ("results", "facts", "observed")
"""What stays of a run that is resumed."""
PARTS = (*FRAME_PARTS, "graph", "functions", "meta", "events")


def keys_of(commands: Commands) -> list[str]:
    """The keys that commands write to."""
    of_runs = [
        key_of(run_id, part) for run_id, touched in commands.touched.items() for part in touched.written
    ]
    return [*of_runs, *commands.others]


def _counts(counts: LoopCounts, iterations: int) -> str:
    return " ".join(map(str, (*counts, iterations)))


class BatchCommands:
    """A batch as commands: writes to one hash become one command."""

    def __init__(
        self, sealer: Sealer, ttl: int, stored: Mapping[str, frozenset[bytes]], *, prune: bool = True
    ) -> None:
        """`prune`: runs whose time is over leave the index, when a run begins."""
        self._sealer = sealer
        self._ttl = ttl
        self._stored = stored
        self._prune = prune
        self.functions: dict[str, frozenset[bytes]] = {}
        """Of runs that went on as another graph: their functions, once the batch has landed."""
        self.pruned = False
        """The index is pruned."""
        self.commands = Commands(ttl)
        self._set = self.commands.set
        self._do = self.commands.do

    def take(self, records: Iterable[Record]) -> Commands:
        """The commands of these records, in their order."""
        add = _ADD
        for record in records:
            add[type(record)](self, record)
        return self.commands

    # --- what belongs to no run ------------------------------------------------------------------

    def _add_constraint(self, record: SaveConstraint) -> None:
        told = json.dumps(record.constraint._asdict())
        self._do("HSET", CONSTRAINTS_KEY, record.constraint.id, told)

    def _drop_constraint(self, record: DropConstraint) -> None:
        self._do("HDEL", CONSTRAINTS_KEY, record.id)

    def _add_worker(self, record: SaveWorker) -> None:
        told = json.dumps({"name": record.name, "amounts": record.amounts})
        self._do("HSET", WORKERS_KEY, record.worker, told)

    def _drop_worker(self, record: DropWorker) -> None:
        self._do("HDEL", WORKERS_KEY, record.worker)

    def _add_standing(self, record: Standing) -> None:
        self._do("DEL", CONSTRAINTS_KEY)
        self._do("DEL", WORKERS_KEY)
        for limit in record.constraints:
            self._add_constraint(limit)
        for worker in record.workers:
            self._add_worker(worker)

    # --- nodes -----------------------------------------------------------------------------------

    def _add_attempt(self, record: SaveAttempt) -> None:
        which = f"{record.attempt}<{record.behind}" if record.behind else str(record.attempt)
        text = f"{which} {record.try_} {record.worker}"
        self._set(record.run_id, "attempts", place_to(record.node, record.child), text)

    def _add_due(self, record: SaveDue) -> None:
        text = f"0 {record.tries} {record.at!r}"
        self._set(record.run_id, "attempts", place_to(record.node, record.child), text)

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

    def _add_facts(self, record: SaveFacts) -> None:
        run_id = record.run_id
        sealed = self._sealer.seal(run_id, f"observed:{record.key}", 0, facts_to(record.facts))
        self._set(run_id, "observed", record.key, sealed)

    def _add_skip(self, record: SaveSkip) -> None:
        self._set(record.run_id, "skipped", record.key, record.reason)

    def _add_failure(self, record: SaveFailure) -> None:
        run_id, place = record.run_id, place_to(record.node, record.child)
        told = failure_to(record.error, record.task)
        self._set(run_id, "failures", place, self._sealer.seal(run_id, f"failure:{place}", 0, told))

    def _add_checkpoint(self, record: SaveCheckpoint) -> None:
        run_id, step = record.run_id, record.node_id + record.args
        sealed = self._sealer.seal(run_id, "checkpoint", 0, step)
        counts = _counts(record.counts, record.iterations)
        self._set(run_id, "meta", "checkpoint", sealed, "counts", counts)

    # --- the life of a run -----------------------------------------------------------------------

    def _add_events(self, record: RunEvents) -> None:
        run_id, payload = record.run_id, record.payload
        if record.whole and len(payload) <= SMALL_BYTES:
            self._set(run_id, "meta", "events", b"%d %d\n%b" % (record.first, len(payload), payload))
            return
        self._set(run_id, "events", record.first, payload)
        if record.dropped:
            self._unset(run_id, "events", *record.dropped)

    def _add_cancel(self, record: SaveCancel) -> None:
        self._set(record.run_id, "meta", "cancelled", 1)

    def _add_answer(self, record: RunAnswered) -> None:
        answer = answer_to(record.finish, record.keys)
        self._set(record.run_id, "meta", "answer", self._sealer.seal(record.run_id, "answer", 0, answer))

    def _add_ending(self, record: RunEnding) -> None:
        self.commands.leave_out(record.run_id, "attempts")  # nobody waits for them any more

    def _add_outcome(self, record: SaveOutcome) -> None:
        run_id = record.run_id
        self._set(run_id, "meta", "state", record.state, "error", record.error)
        self.commands.leave_out(run_id, "attempts")
        self.commands.renew(run_id, PARTS, always=False)
        self.commands.over[run_id] = None

    def _add_run(self, record: RunCreated) -> None:
        run_id, seal = record.run_id, self._sealer.seal
        begun = seal(run_id, "meta", 0, run_to(record))
        if record.imported:
            self.commands.renew(run_id, PARTS)
            self._set(run_id, "meta", "run", begun)
        else:
            # Of a run with this id that ended and was forgotten, or that is resumed.
            if record.resumed:
                self._drop_but_results(run_id)
            else:
                self.commands.begin(run_id, PARTS)
            self._set(run_id, "meta", "state", "running", "run", begun)
        if not is_whole(record):
            if record.params:
                self._set(run_id, "meta", "params", seal(run_id, "params", 0, record.params))
            self._add_graph(run_id, record.chunks, record.end)
        self._add_functions(run_id, record.functions)
        self.functions[run_id] = frozenset([function.cid for function in record.functions])
        self._do("ZADD", RUNS_KEY, record.submitted, run_id)
        if self._prune:
            over = record.submitted - self._ttl - TTL_MARGIN_SECONDS
            self._do("ZREMRANGEBYSCORE", RUNS_KEY, "-inf", over)
            self.pruned = True

    def _add_graph(self, run_id: str, chunks: Sequence[bytes], end: bytes) -> None:
        """A graph where none is stored."""
        seal = self._sealer.seal
        if len(chunks) == 1 and len(chunks[0]) + len(end) <= SMALL_BYTES:
            graph = b"%d\n%b%b" % (len(end), end, chunks[0])
            self._set(run_id, "meta", "graph", seal(run_id, "graph", 0, graph))
            return
        for number, chunk in enumerate(chunks):
            self._set(run_id, "graph", str(number), seal(run_id, f"graph:{number}", 0, chunk))
        self._set(run_id, "graph", "end", seal(run_id, "graph:end", 0, end))

    def _add_functions(self, run_id: str, functions: tuple[StoredFunction, ...]) -> None:
        """Functions where none are stored. They need no seal: their bytes are checked by their content id."""
        together = functions_to(functions)
        if together is not None:
            self._set(run_id, "meta", "functions", together)
            return
        for function in functions:
            self._set(run_id, "functions", *function_to(function))

    def _add_resumed(self, record: RunResumed) -> None:
        run_id = record.run_id
        self.commands.delete(run_id, ("skipped", "attempts", "failures", "events"))
        self._unset(run_id, "meta", "cancelled", "answer", "error", "events")
        self._set(run_id, "meta", "state", "running")
        self.commands.renew(run_id, PARTS)
        self._do("ZADD", RUNS_KEY, record.at, run_id)

    def _add_renewed(self, record: RunRenewed) -> None:
        self.commands.renew(record.run_id, PARTS)
        self._do("ZADD", RUNS_KEY, record.at, record.run_id)

    def _add_frame(self, record: SaveFrame) -> None:
        """What was saved of the last frame goes; the functions stay when they are the same."""
        run_id, stored = record.run_id, record.stored
        counts = _counts(record.counts, 0)
        if isinstance(stored, StoredJump):
            self.commands.delete(run_id, FRAME_PARTS)
            self._unset(run_id, "meta", "checkpoint")
            told = {"target": stored.target, "names": stored.names, "overrides": stored.overrides.hex()}
            jump = self._sealer.seal(run_id, "jump", 0, json.dumps(told).encode())
            self._set(run_id, "meta", "frame", record.number, "counts", counts, "jump", jump)
            return
        assert isinstance(stored, StoredFrame)
        self.commands.delete(run_id, (*FRAME_PARTS, "graph"))
        self._unset(run_id, "meta", "checkpoint", "jump", "graph")
        self._set(run_id, "meta", "frame", record.number, "counts", counts, "parts", 1)
        self._add_graph(run_id, (stored.chunk,), stored.end)
        functions = frozenset([function.cid for function in stored.functions])
        if self.functions.get(run_id, self._stored.get(run_id)) != functions:
            self.commands.delete(run_id, ("functions",))
            self._unset(run_id, "meta", "functions")
            self._add_functions(run_id, stored.functions)
            self.functions[run_id] = functions

    def _forget(self, record: RunDropped | RunImporting) -> None:
        self.commands.begin(record.run_id, PARTS)
        self._do("ZREM", RUNS_KEY, record.run_id)

    def _unset(self, run_id: str, part: str, *fields: Any) -> None:
        self.commands.unset(run_id, part, fields)

    def _drop_but_results(self, run_id: str) -> None:
        """What a run has come to stays, and nothing else."""
        self.commands.delete(run_id, [part for part in PARTS if part not in RESULT_PARTS])
        self.commands.renew(run_id, RESULT_PARTS)
        self.commands.over[run_id] = None  # nobody knows which of them are there


_ADD: Mapping[type, Callable[[BatchCommands, Any], None]] = {
    DropConstraint: BatchCommands._drop_constraint,
    DropWorker: BatchCommands._drop_worker,
    RunAnswered: BatchCommands._add_answer,
    RunCreated: BatchCommands._add_run,
    RunDropped: BatchCommands._forget,
    RunEnding: BatchCommands._add_ending,
    RunEvents: BatchCommands._add_events,
    RunImporting: BatchCommands._forget,
    RunRenewed: BatchCommands._add_renewed,
    RunResumed: BatchCommands._add_resumed,
    SaveAttempt: BatchCommands._add_attempt,
    SaveCancel: BatchCommands._add_cancel,
    SaveCheckpoint: BatchCommands._add_checkpoint,
    SaveConstraint: BatchCommands._add_constraint,
    SaveDue: BatchCommands._add_due,
    SaveFacts: BatchCommands._add_facts,
    SaveFailure: BatchCommands._add_failure,
    SaveFrame: BatchCommands._add_frame,
    SaveOutcome: BatchCommands._add_outcome,
    SaveResult: BatchCommands._add_result,
    SaveSkip: BatchCommands._add_skip,
    SaveWorker: BatchCommands._add_worker,
    Standing: BatchCommands._add_standing,
}
