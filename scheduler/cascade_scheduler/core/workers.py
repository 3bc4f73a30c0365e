"""A worker's life: it says Hello, its stream breaks, it comes back or is lost."""

from __future__ import annotations

from cascade_scheduler.core import adopting, attempts, closing, constraints, followers, leases, lineage
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.commands import (
    CancelAttempt,
    DropWorker,
    SaveWorker,
    WelcomeWorker,
    WorkerGone,
)
from cascade_scheduler.core.events import AttemptReturned, WorkerConnected, WorkerDisconnected, WorkerReported
from cascade_scheduler.core.worker import Attempt, Worker

__all__ = ["lose_overdue", "on_connected", "on_disconnected", "on_reported"]


def on_connected(books: Books, event: WorkerConnected) -> None:
    """Answers all that the worker says it holds, so that a reconnect is no special case."""
    worker = books.workers.get(event.worker)
    if worker is None:
        worker = books.workers[event.worker] = Worker(event, books.now)
    else:
        worker.introduce(event, books.now)
        worker.recount()
        books.away.pop(worker.id, None)
    if books.settings.saves:
        books.out.append(SaveWorker(worker.id, worker.name, event.amounts))
    keep: list[int] = []
    drop: list[int] = []
    known: list[int] = []
    held = {attempt_id for attempt_id, _ in event.held}
    followers.only(books, worker, held)
    for attempt_id, state in event.held:
        attempt = worker.attempts.get(attempt_id)
        if attempt is None:
            kept = keep if attempt_id in books.followers else drop
            (known if attempt_id in books.known else kept).append(attempt_id)
            continue
        keep.append(attempt_id)
        if state == "running" and not attempt.charged and worker.fits(attempt.cls):
            worker.charge(attempt)  # else when the report comes of what ended before it
    never_arrived = [attempt for attempt_id, attempt in worker.attempts.items() if attempt_id not in held]
    for attempt in never_arrived:
        _take_back(books, attempt)
    has = set(event.objects)
    wanted = {a for a, (_, _, holder) in books.objects.items() if holder == worker.id}.union(keep)
    release = [a for a in event.objects if a not in wanted]  # what it has yet to report is wanted too
    for copy in [a for a in release if a in books.objects]:
        books.copied(worker.id, copy)
        release.remove(copy)
    missing = [a for a, (_, _, holder) in books.objects.items() if holder == worker.id and a not in has]
    for attempt_id in missing:
        run, _, _ = books.objects[attempt_id]
        lineage.object_lost(books, run, attempt_id)
    books.out.append(WelcomeWorker(worker.id, tuple(keep), tuple(drop), tuple(known), tuple(release)))
    _stop_again(books, worker)
    if worker.followers:
        followers.welcomed(books, worker)
    if books.promises:
        constraints.welcomed(books, worker)
    if books.closing:
        closing.welcomed(books, worker.id)
    if books.recovering:
        adopting.heard(books, worker)


def _stop_again(books: Books, worker: Worker) -> None:
    """What was to be stopped may not have heard of it."""
    for attempt in worker.attempts.values():
        if attempt.asked_back and (attempt.run.state == "cancelling" or attempt.run.halting):
            books.out.append(CancelAttempt(worker.id, attempt.id))


def _take_back(books: Books, attempt: Attempt) -> None:
    """The assignment never reached the worker; that is nobody's loss."""
    attempts.on_report(books, attempt.worker, AttemptReturned(attempt.id))


def on_reported(books: Books, event: WorkerReported) -> None:
    """What a worker said since its last message."""
    name, reports, started, draining, promised, resources, closed_runs, steps, copies = event
    worker = books.workers.get(name)
    if worker is None:
        return
    worker.last_report = books.now
    if draining:
        worker.draining = True
    for change in resources:
        closing.on_resource(books, worker, change)
    for attempt_id in started:
        attempts.on_started(books, worker, attempt_id)
    for progress in steps:
        leases.on_progress(books, worker, progress)
    for report in reports:
        attempts.on_report(books, worker, report)
    for run_id in closed_runs:
        closing.on_closed(books, worker.id, run_id)
    for attempt_id in copies:
        books.copied(worker.id, attempt_id)
    if promised and books.promises:
        constraints.promised(books, worker.id, promised)


def on_disconnected(books: Books, event: WorkerDisconnected) -> None:
    """The stream ended; the worker may come back within its grace, unless it said good-bye."""
    worker = books.workers.get(event.worker)
    if worker is None:
        return
    if event.gone:
        _lose(books, worker, event.reason)
    elif worker.connected:
        worker.connected = False
        worker.disconnected_at = books.now
        worker.lost_at = books.now + books.settings.worker_grace
        books.away[worker.id] = worker


def lose_overdue(books: Books) -> None:
    """Workers that did not come back in time are lost."""
    overdue = [worker for worker in books.away.values() if worker.lost_at <= books.now]
    for worker in overdue:
        _lose(books, worker, "it did not come back in time")


def _lose(books: Books, worker: Worker, reason: str) -> None:
    del books.workers[worker.id]
    books.away.pop(worker.id, None)
    if worker.reserved is not None:
        books.reserved -= 1
    books.out.append(WorkerGone(worker.id, reason))
    if books.settings.saves:
        books.out.append(DropWorker(worker.id))
    if books.promises:
        constraints.lost(books, worker.id)
    if worker.resources:
        closing.killed(books, worker)
    gone = [(a, run) for a, (run, _, holder) in books.objects.items() if holder == worker.id]
    for attempt in list(worker.attempts.values()):
        attempts.worker_lost(books, attempt, f"worker {worker.name} was lost: {reason}")
    for copies in books.copies.values():
        copies.pop(worker.id, None)
    for attempt_id, run in gone:
        lineage.object_lost(books, run, attempt_id)
        if attempt_id in books.objects and books.objects[attempt_id][2] == worker.id:
            del books.objects[attempt_id]
    if books.closing:
        closing.lost(books, worker.id)
    if books.recovering:
        adopting.lost(books, worker)
