"""Stored runs as the parts of a run file, and back as records for a store. Values are never loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cascade_dist import wire
from cascade_dist.errors import RunFileError
from cascade_dist.v1 import client_pb2, graph_pb2, runfile_pb2
from cascade_dist.v1.runfile_pb2 import RunFilePart
from cascade_scheduler.core.commands import (
    LoopCounts,
    SaveCheckpoint,
    SaveFacts,
    SaveFrame,
    SaveOutcome,
    SaveResult,
    SaveSkip,
)
from cascade_scheduler.core.values import BlobValue, ObjectValue
from cascade_scheduler.store.base import (
    Record,
    RunAnswered,
    RunCreated,
    RunEvents,
    RunRenewed,
    StoredFrame,
    StoredFunction,
    StoredJump,
    StoredResult,
    StoredRun,
)
from cascade_scheduler.store.forms import facts_from, facts_to
from cascade_scheduler.wire.updates import RUN_STATES
from cascade_scheduler.wire.values import amounts_from, amounts_to, blob_from, fill_value, timestamp_of

__all__ = ["ImportedRun", "blobs_of_parts", "live_state", "parts_of"]

ON_FAILURE = {"cancel": client_pb2.ON_FAILURE_CANCEL, "finish": client_pb2.ON_FAILURE_FINISH}
OVER = {
    client_pb2.RUN_STATE_SUCCEEDED: "succeeded",
    client_pb2.RUN_STATE_FAILED: "failed",
    client_pb2.RUN_STATE_CANCELLED: "cancelled",
}
EXPORTED_LIVE = "it was exported while it ran; resume it to go on"
MADE_ELSEWHERE = 0
"""The attempt of an imported result: the ids of another cluster mean nothing here."""


def live_state(stored: StoredRun) -> bool:
    """It was not over when it was stored."""
    return stored.state not in OVER.values()


# --- out -----------------------------------------------------------------------------------------


def parts_of(stored: StoredRun, lost: frozenset[bytes], exported: float) -> Iterator[RunFilePart]:
    """The parts of a run, but for its blobs.

    Args:
        stored: the run.
        lost: blobs that are gone; results in them are left out.
        exported: when, in seconds since the Unix epoch.
    """
    created = stored.created
    yield RunFilePart(run=_run_to(stored, exported))
    for chunk in created.chunks:
        yield RunFilePart(chunk=chunk)
    yield RunFilePart(graph_end=created.end)
    for function in created.functions:
        yield RunFilePart(
            function=graph_pb2.Function(
                cid=function.cid, body=function.body, name=function.name, code_hash=function.code_hash
            )
        )
    if stored.jump is not None:
        target, names, overrides = stored.jump
        yield RunFilePart(jump=runfile_pb2.RunFileJump(target=target, names=names, overrides=overrides))
    for key, result in stored.results.items():
        if _can_travel(result, lost):
            yield RunFilePart(result=_result_to(stored, key, result))
    for key, reason in stored.skipped.items():
        yield RunFilePart(skip=runfile_pb2.RunFileSkip(node_id=key, reason=reason))
    for first, payload in stored.events.items():
        yield RunFilePart(events=runfile_pb2.RunFileEvents(first=first, payload=payload))
    if stored.checkpoint is not None:
        node_id, args = stored.checkpoint
        yield RunFilePart(
            checkpoint=runfile_pb2.RunFileCheckpoint(node_id=node_id, args=args, iterations=stored.iterations)
        )
    if stored.answer is not None:
        answer = runfile_pb2.RunFileAnswer(finish=stored.answer.finish)
        for node, key in stored.answer.keys:
            answer.keys.add(node=node, node_id=key)
        yield RunFilePart(answer=answer)


def _can_travel(result: StoredResult, lost: frozenset[bytes]) -> bool:
    """It is no object of a worker, and no blob that is gone."""
    value = result.value
    return not isinstance(value, ObjectValue) and not (isinstance(value, BlobValue) and value.cid in lost)


def _run_to(stored: StoredRun, exported: float) -> runfile_pb2.RunFileRun:
    created = stored.created
    state = stored.state if not live_state(stored) else "running"
    return runfile_pb2.RunFileRun(
        run_id=created.run_id,
        options=client_pb2.RunOptions(
            name=created.name,
            on_failure=ON_FAILURE[created.on_failure],
            logs=created.logs,
            pools=amounts_to(created.pools),
            params=created.params,
        ),
        submitted=timestamp_of(created.submitted),
        target_id=created.target_id,
        node_count=created.node_count,
        params_digest=created.params_digest,
        template_id=created.template_id,
        state=RUN_STATES[state],
        error=stored.error,
        frame=stored.frame,
        exported=timestamp_of(exported),
        versions=wire.local_versions(),
        counts=stored.counts,
    )


def _result_to(stored: StoredRun, key: str, result: StoredResult) -> runfile_pb2.RunFileResult:
    message = runfile_pb2.RunFileResult(node_id=key)
    if result.truth is not None:
        message.truth = result.truth
    if result.length is not None:
        message.length = result.length
    fill_value(message.value, result.value)
    facts = stored.facts.get(key)
    if facts is not None:
        message.observed = facts_to(facts)
    return message


def blobs_of_parts(stored: StoredRun) -> tuple[set[bytes], set[bytes]]:
    """The CIDs of blobs that a run needs, and of those that only results are in."""
    needed = {function.cid for function in stored.created.functions if not function.body}
    for chunk in stored.created.chunks:
        needed.update(blob.cid for blob in graph_pb2.GraphChunk.FromString(chunk).blobs)
    results = {result.value.cid for result in stored.results.values() if isinstance(result.value, BlobValue)}
    results.update(facts.split.cid for facts in stored.facts.values() if facts.split is not None)
    if stored.answer is not None:
        results.update(_template_blobs(stored.answer.finish))
    return needed, results - needed


def _template_blobs(finish: bytes) -> Iterator[bytes]:
    todo = [client_pb2.RunFinish.FromString(finish).tree]
    while todo:
        tree = todo.pop()
        shape = tree.WhichOneof("shape")
        if shape == "compound":
            if tree.compound.HasField("template_blob"):
                yield tree.compound.template_blob.cid
            todo.extend(tree.compound.inputs)
        elif shape == "list":
            todo.extend(tree.list.items)


# --- in ------------------------------------------------------------------------------------------


class Head(NamedTuple):
    """The run of a file in short."""

    state: str
    error: str
    frame: int
    counts: LoopCounts


class ImportedRun:
    """A run that is being read from a file. Parts other than blobs come to `take`, in order.

    Args:
        run_id: the id that it is to have here; empty: its own.
    """

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.head: Head
        self.created: RunCreated | None = None
        """With the graph as far as it has come."""
        self.results = 0
        """How many have come."""
        self.bytes = 0
        """What is held of it here."""
        self._chunks: list[bytes] = []
        self._functions: list[StoredFunction] = []
        self._jump: StoredJump | None = None
        self._opened = False
        """What stands before results is written."""
        self._rest: list[Record] = []
        """What is written last."""

    def take(self, part: RunFilePart) -> Iterable[Record]:
        """Takes a part; returns what can be written at once.

        Raises:
            RunFileError: it cannot be part of a run.
        """
        kind = part.WhichOneof("part")
        if (kind == "run") == (self.created is not None):
            raise RunFileError(f"the file is damaged: a part of the kind {kind!r} is out of its place")
        if kind == "run":
            self._begin(part.run)
        elif kind == "result":
            return (*self._opening(), *self._result(part.result))
        elif kind == "skip":
            return (*self._opening(), SaveSkip(self.run_id, -1, part.skip.node_id, part.skip.reason))
        elif kind == "events":
            return (*self._opening(), RunEvents(self.run_id, part.events.first, part.events.payload))
        else:
            self._hold(part, kind or "")
        return ()

    def _begin(self, run: runfile_pb2.RunFileRun) -> None:
        options = run.options
        on_failure = {number: name for name, number in ON_FAILURE.items()}.get(options.on_failure)
        if on_failure is None or len(run.counts) > len(LoopCounts()):
            raise RunFileError("the file is damaged: the run's options make no sense")
        self.run_id = self.run_id or run.run_id
        state = OVER.get(run.state, "cancelled")
        error = run.error if run.state in OVER else EXPORTED_LIVE
        self.head = Head(state, error, run.frame, LoopCounts(*run.counts))
        submitted = run.submitted.seconds + run.submitted.nanos / 1e9
        self.created = RunCreated(
            run_id=self.run_id,
            name=options.name,
            on_failure=on_failure,
            logs=options.logs,
            submitted=submitted,
            target_id=run.target_id,
            node_count=run.node_count,
            params_digest=run.params_digest,
            template_id=run.template_id,
            chunks=(),
            end=b"",
            functions=(),
            pools=amounts_from(options.pools),
            params=options.params,
            imported=True,
        )

    def _result(self, result: runfile_pb2.RunFileResult) -> Iterable[Record]:
        form = result.value.WhichOneof("form")
        if form not in ("inline", "blob"):
            raise RunFileError(f"the file is damaged: the value of {result.node_id!r} has the form {form!r}")
        value = result.value.inline if form == "inline" else blob_from(result.value.blob)
        self.results += 1
        saved = SaveResult(
            self.run_id,
            -1,
            result.node_id,
            MADE_ELSEWHERE,
            value,
            result.truth if result.HasField("truth") else None,
            result.length if result.HasField("length") else None,
        )
        if not result.observed:
            return (saved,)
        try:
            facts = facts_from(result.observed)
        except (ValueError, KeyError, TypeError) as error:
            raise RunFileError(
                f"the file is damaged: what was observed of {result.node_id!r} cannot be read ({error})"
            ) from None
        return saved, SaveFacts(self.run_id, -1, result.node_id, facts)

    def _hold(self, part: RunFilePart, kind: str) -> None:
        self.bytes += part.ByteSize()
        if kind == "chunk":
            self._chunks.append(part.chunk)
        elif kind == "function":
            function = part.function
            self._functions.append(
                StoredFunction(function.cid, function.name, function.body, function.code_hash)
            )
        elif kind == "graph_end":
            assert self.created is not None
            self.created = self.created._replace(end=part.graph_end)
        elif kind == "jump":
            jump = part.jump
            self._jump = StoredJump(jump.target, tuple(jump.names), jump.overrides)
        elif kind == "checkpoint":
            point, head = part.checkpoint, self.head
            self._rest.append(
                SaveCheckpoint(
                    self.run_id, head.frame, point.node_id, point.args, point.iterations, head.counts
                )
            )
        elif kind == "answer":
            keys = tuple((key.node, key.node_id) for key in part.answer.keys)
            self._rest.append(RunAnswered(self.run_id, part.answer.finish, keys))
        else:
            raise RunFileError(f"the file is damaged: a part of the kind {kind!r} is out of its place")

    def _opening(self) -> Iterable[Record]:
        """The frame in which the run is, before the first result: it makes void what was there before."""
        if self._opened or not self.head.frame:
            return ()
        self._opened = True
        stored: StoredFrame | StoredJump | None = self._jump
        if stored is None:
            whole = self._whole()
            stored = StoredFrame(whole.chunks[0], whole.end, whole.functions)
        return (SaveFrame(self.run_id, self.head.frame, stored, self.head.counts),)

    def _whole(self) -> RunCreated:
        created = self.created
        if created is None or not created.end or not self._chunks:
            raise RunFileError("the file is damaged: the graph of the run is not whole")
        return created._replace(chunks=tuple(self._chunks), functions=tuple(sorted(self._functions)))

    def end(self, now: float) -> Iterable[Record]:
        """What makes the run known, when all else is written.

        Raises:
            RunFileError: the file has no whole graph.
        """
        outcome = SaveOutcome(self.run_id, self.head.state, self.head.error)
        if not any(isinstance(record, RunAnswered) for record in self._rest):
            finish = client_pb2.RunFinish(state=RUN_STATES[self.head.state])
            self._rest.append(RunAnswered(self.run_id, finish.SerializeToString(), ()))
        return (*self._opening(), *self._rest, outcome, self._whole(), RunRenewed(self.run_id, now))
