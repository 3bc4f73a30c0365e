"""What the core holds of a run, told once more as it was saved: for a store that has lost it.

Values that were let go because nobody needs them any more are not told, nor what only mattered to them. After
a crash such nodes count as not done, and those that are needed again run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias, Union

from cascade_scheduler.core import observing
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.commands import (
    LoopCounts,
    SaveAttempt,
    SaveCancel,
    SaveCheckpoint,
    SaveConstraint,
    SaveDue,
    SaveFacts,
    SaveFailure,
    SaveResult,
    SaveSkip,
    SaveWorker,
)
from cascade_scheduler.core.run import DONE, FAILED, READY, Loop, Run
from cascade_scheduler.core.values import ObjectValue

__all__ = ["Retold", "retell", "retell_standing"]

Retold: TypeAlias = Union[
    SaveCheckpoint,
    SaveResult,
    SaveFacts,
    SaveSkip,
    SaveFailure,
    SaveDue,
    SaveAttempt,
    SaveCancel,
]


def retell_standing(books: Books) -> tuple[list[SaveConstraint], list[SaveWorker]]:
    """The limits that hold, and the workers on the books."""
    limits = [SaveConstraint(limit.constraint) for limit in books.lines.limits]
    workers = [
        SaveWorker(worker.id, worker.name, tuple(worker.amounts.items())) for worker in books.workers.values()
    ]
    return limits, workers


def retell(books: Books, run: Run) -> Iterator[Retold]:
    """What is held of a run in its present frame, in the order in which it may be written."""
    loop = run.loop
    if loop is not None and loop.next is not None:
        return  # its frame is over, and nothing has happened in the next one
    if run.state == "cancelling":
        yield SaveCancel(run.run_id)
    yield from _values(run)
    for node, skip in run.skips.items():
        yield SaveSkip(run.run_id, node, run.key(node), skip.reason)
    yield from _failures(run)
    yield from _waits(books, run)
    yield from _attempts(books, run, loop)


def _values(run: Run) -> Iterator[Retold]:
    told = {node: value for node, (value, _, _) in (run.spares or {}).items()} | run.values
    for node, value in told.items():
        if run.status[node] == DONE and run.runs_code(node):
            attempt = value.attempt if isinstance(value, ObjectValue) else 0  # of others it is not kept
            truth, length = run.truths.get(node), run.lengths.get(node)
            yield SaveResult(run.run_id, node, run.key(node), attempt, value, truth, length)
    if run.cached is not None:
        for node, hit in run.cached.hits.items():
            if node not in told and hit and run.status[node] == DONE and run.runs_code(node):
                yield SaveResult(run.run_id, node, run.key(node), 0, hit, run.truths.get(node))
    for node, message in run.received.items():
        yield SaveResult(run.run_id, node, run.key(node), 0, message)
    observed = dict.fromkeys([*run.observed, *run.items, *run.digests, *run.amounts_seen])
    observed.update(dict.fromkeys([node for node, _ in run.routes]))
    for node in observed:
        yield SaveFacts(run.run_id, node, run.key(node), observing.facts_of(run, node))


def _failures(run: Run) -> Iterator[Retold]:
    """Of several only the first is kept; the others fail once more, should that come to matter."""
    if run.error is None:
        return
    for node, status in enumerate(run.status):
        if status == FAILED and run.task(node) == run.failed_task:
            origin, child = run.origin(node)
            yield SaveFailure(run.run_id, origin, child, run.error, run.failed_task)
            return


def _waits(books: Books, run: Run) -> Iterator[Retold]:
    if run.delays:
        for at, number, frame_id, node in books.delayed:
            if frame_id == run.frame_id and run.delays.get(node) == number:
                origin, child = run.origin(node)
                yield SaveDue(run.run_id, origin, child, run.tries.get(node, 0), at)
    for node, tries in run.tries.items():
        if run.status[node] == READY:  # for another try
            origin, child = run.origin(node)
            yield SaveDue(run.run_id, origin, child, tries, books.now)
    if run.waits:
        for at, number, frame_id, node in books.timers:
            if frame_id == run.frame_id and run.waits.get(node) == number:
                yield SaveDue(run.run_id, node, -1, 0, at)


def _attempts(books: Books, run: Run, loop: Loop | None) -> Iterator[Retold]:
    for node, attempt_id in run.nodes_active.items():
        attempt = books.attempts.get(attempt_id)
        if attempt is None:
            continue
        if attempt.leased and attempt.iterations and loop is not None:
            step = run.graph
            node_id = step.node_ids[16 * node : 16 * node + 16]
            args = step.node_args[node]
            counts = _counts(loop)
            yield SaveCheckpoint(run.run_id, loop.number, node_id, args, attempt.iterations, counts)
        origin, child = run.origin(node)
        yield SaveAttempt(run.run_id, origin, attempt_id, attempt.try_, attempt.worker.id, child)


def _counts(loop: Loop) -> LoopCounts:
    return LoopCounts(loop.total, loop.done, loop.skipped, loop.steps, loop.own)
