"""Setting and removing limits while runs go on: what is asked back, and when the one who asked is answered.

A new limit counts the attempts that it covers and has all that have not started given back. Whoever set it is
answered when each worker that had such attempts has promised that none of them will start any more, or is
lost; a worker whose stream broke promises when it is back. What runs goes on.
"""

from __future__ import annotations

from collections.abc import Iterable

from cascade_scheduler.core import leases
from cascade_scheduler.core.books import Books, Promise
from cascade_scheduler.core.commands import (
    AskPromise,
    ConstraintsAnswered,
    DropConstraint,
    RetractAttempt,
    SaveConstraint,
)
from cascade_scheduler.core.events import ConstraintsCleared, ConstraintSet, ConstraintsLoaded
from cascade_scheduler.core.limits import CONCURRENCY, LIMITS_MAX, Constraint, Limit
from cascade_scheduler.core.worker import Attempt, Worker

__all__ = ["count_begun", "expire", "lost", "on_cleared", "on_loaded", "on_set", "promised", "welcomed"]


def on_set(books: Books, event: ConstraintSet) -> None:
    """A limit holds from this turn on."""
    limits, constraint = books.lines.limits, event.constraint
    if len(limits) >= LIMITS_MAX and limits.get(constraint.scope, constraint.type) is None:
        error = f"there are {LIMITS_MAX} constraints already, the most that there may be; clear some"
        books.out.append(ConstraintsAnswered(event.request, (), error))
        return
    touched = _set(books, constraint)
    if books.settings.saves:
        books.out.append(SaveConstraint(constraint))
    if not touched:
        books.out.append(ConstraintsAnswered(event.request, (constraint,)))
        return
    books.promise_number += 1
    number = books.promise_number
    books.promises[number] = Promise(event.request, (constraint,), touched)
    books.out.extend(AskPromise(worker, number) for worker in touched)


def on_loaded(books: Books, event: ConstraintsLoaded) -> None:
    """What held when the last scheduler ended holds on."""
    for constraint in event.constraints:
        _set(books, constraint)


def on_cleared(books: Books, event: ConstraintsCleared) -> None:
    """Limits hold no longer; what waited under them goes in this turn."""
    found = books.lines.limits.find(id=event.id, scope=event.scope, kind=event.type)
    _remove(books, found)
    books.out.append(ConstraintsAnswered(event.request, tuple(limit.constraint for limit in found)))


def expire(books: Books) -> None:
    """Takes away the limits whose time is over."""
    found = books.lines.limits.expired(books.now)
    if found:
        _remove(books, found)


def _set(books: Books, constraint: Constraint) -> dict[str, None]:
    """Lets a limit hold; gives the workers that have something to give back."""
    limits = books.lines.limits
    before = limits.get(constraint.scope, constraint.type)
    id_before = constraint.id if before is None else before.constraint.id
    limit, fresh, removed = limits.set(constraint, books.now)
    _drop(books, [other.constraint.id for other in removed if other.constraint.id != constraint.id])
    if id_before != constraint.id:
        _drop(books, [id_before])
    if fresh or removed:
        books.queues.line_up_again()
    if fresh:
        _count(books, limit)
        return _ask_back(books, limit)
    if constraint.type == CONCURRENCY and limit.running > constraint.limit:
        return _ask_back(books, limit)
    return {}


def _remove(books: Books, found: list[Limit]) -> None:
    if found:
        books.lines.limits.remove(found)
        books.queues.line_up_again()
        _drop(books, [limit.constraint.id for limit in found])


def _drop(books: Books, ids: Iterable[str]) -> None:
    if books.settings.saves:
        books.out.extend(DropConstraint(id_) for id_ in ids)


def _count(books: Books, limit: Limit) -> None:
    """What is on its way or runs already counts for a concurrency limit. A rate limit counts what starts."""
    if limit.constraint.type == CONCURRENCY:
        for attempt in books.attempts.values():
            if not attempt.observing:
                _count_attempt(limit, attempt)


def _count_attempt(limit: Limit, attempt: Attempt) -> None:
    if limit.covers(attempt.run.run_id, attempt.spec.name):
        attempt.limits += (limit,)
        limit.running += 1


def count_begun(books: Books, attempt: Attempt) -> None:
    """An attempt runs that was sent before the limits of now held."""
    for limit in books.lines.limits:
        if limit.constraint.type == CONCURRENCY:
            _count_attempt(limit, attempt)


def _ask_back(books: Books, limit: Limit) -> dict[str, None]:
    """Has everything given back that the limit covers and that has not started, as far as is known."""
    touched: dict[str, None] = {}
    for attempt in (*books.attempts.values(), *books.followers.values()):
        if attempt.leased and limit.covers(attempt.run.run_id, attempt.spec.name):
            leases.recall(books, attempt)
            touched[attempt.worker.id] = None
        if attempt.started or attempt.observing or attempt.run.state != "running":
            continue
        if limit.covers(attempt.run.run_id, attempt.spec.name):
            attempt.asked_back = True
            books.out.append(RetractAttempt(attempt.worker.id, attempt.id))
            touched[attempt.worker.id] = None
    return touched


# --- promises --------------------------------------------------------------------------------------


def promised(books: Books, worker: str, through: int) -> None:
    """A worker has promised up to a number."""
    for number in [number for number in books.promises if number <= through]:
        _kept(books, number, worker)


def lost(books: Books, worker: str) -> None:
    """A worker will start nothing any more."""
    for number in list(books.promises):
        _kept(books, number, worker)


def welcomed(books: Books, worker: Worker) -> None:
    """A worker is back: what it was asked while it was away, or just before, it is asked once more."""
    asked = [number for number, promise in books.promises.items() if worker.id in promise.workers]
    if not asked:
        return
    for attempt in worker.attempts.values():
        if attempt.asked_back and not attempt.started and attempt.run.state == "running":
            books.out.append(RetractAttempt(worker.id, attempt.id))
    books.out.append(AskPromise(worker.id, asked[-1]))


def _kept(books: Books, number: int, worker: str) -> None:
    promise = books.promises[number]
    promise.workers.pop(worker, None)
    if not promise.workers:
        del books.promises[number]
        books.out.append(ConstraintsAnswered(promise.request, promise.constraints))
