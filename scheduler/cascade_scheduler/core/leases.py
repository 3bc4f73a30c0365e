"""Leases: a loop of one node is left to its worker, which says how far it is and gives it back when told.

A lease is an attempt like any other, which goes on with the calls that its task returns. It is recalled when
a limit comes that covers it, and when other work waits for its place; the worker gives it back by itself when
it drains or loses the scheduler. What is lost with a worker goes on from the last checkpoint.
"""

from __future__ import annotations

from cascade_scheduler.core import frames
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.commands import LoopCounts, RecallLease, SaveCheckpoint
from cascade_scheduler.core.events import LeaseProgress
from cascade_scheduler.core.graph import NodeKind, Spec
from cascade_scheduler.core.plans import AmountClass
from cascade_scheduler.core.run import Run
from cascade_scheduler.core.worker import Attempt, Worker

__all__ = ["WAIT_SECONDS", "advance", "may_lease", "on_progress", "recall", "wait_no_more", "waits"]

SAME_MIN = 1
"""So many steps in a row have been calls of one task before a loop is leased."""
WAIT_SECONDS = 0.1
"""How long other work waits for the place of a lease before it is recalled."""


def may_lease(books: Books, run: Run, node: int, spec: Spec, cls: AmountClass) -> bool:
    """A ready node goes out as a lease: a single call in a loop of such calls, and nobody else waits."""
    graph, loop = run.graph, run.loop
    return (
        books.settings.fast_loops
        and loop is not None
        and loop.same >= SAME_MIN
        and graph.size == 1
        and spec.kind == NodeKind.CALL
        and not (graph.jumps or graph.overrides or node in run.whole)
        and not (spec.resources or spec.cache_policy or spec.cluster_cache)
        and not (spec.asynchronous and spec.timeout is not None)
        and not (cls.pools or cls.limits)
        and not books.lease_waits
    )


def on_progress(books: Books, worker: Worker, progress: LeaseProgress) -> None:
    """A leased loop has come so far; what is lost from now on is lost since then."""
    attempt = books.attempts.get(progress.attempt)
    if attempt is None or attempt.worker is not worker or not attempt.leased:
        return
    run, node = attempt.run, attempt.node
    if run.state != "running" or not advance(books, attempt, progress.iterations):
        return
    run.graph = run.graph.with_literals(progress.node_id, [progress.args])
    run.losses.pop(node, None)
    run.tries.pop(node, None)
    attempt.try_ = 1
    if books.settings.saves and run.parent is None:
        assert run.loop is not None
        loop = run.loop
        counts = LoopCounts(loop.total, loop.done, loop.skipped, loop.steps, loop.own)
        books.out.append(
            SaveCheckpoint(
                run.run_id, loop.number, progress.node_id, progress.args, progress.iterations, counts
            )
        )


def advance(books: Books, attempt: Attempt, iterations: int) -> bool:
    """Counts the steps that a lease has taken since it last said so; False: none."""
    steps = iterations - attempt.iterations
    if steps <= 0:
        return False
    attempt.iterations = iterations
    attempt.try_ = 1  # a later step than the one that it began with
    frames.count_steps(books, attempt.run, steps)
    return True


def recall(books: Books, attempt: Attempt) -> None:
    """The worker is to take no further step by itself."""
    if attempt.leased and not attempt.recalled:
        attempt.recalled = True
        books.out.append(RecallLease(attempt.worker.id, attempt.id))


def waits(books: Books, cls: AmountClass) -> None:
    """A line finds no room, and there are leases: after a while the oldest one that is in its way ends."""
    since = books.lease_waits.setdefault(cls, books.now)
    if books.now - since < WAIT_SECONDS:
        return
    books.lease_waits[cls] = books.now
    wanted = {name for name, _ in cls.amounts}
    for attempt in books.attempts.values():
        if not attempt.leased or attempt.recalled or not attempt.worker.could(cls.amounts):
            continue
        holds = any(name in wanted for name, _ in attempt.cls.amounts)
        if holds or attempt.spec.asynchronous == cls.asynchronous:
            recall(books, attempt)
            return


def wait_no_more(books: Books, classes: list[AmountClass]) -> None:
    """Only these lines have ready nodes."""
    for cls in [cls for cls in books.lease_waits if cls not in classes]:
        del books.lease_waits[cls]
