"""Resources as the scheduler sees them: events of runs, and the last phase of a run that used any.

Resources of scope "run" live in executors until every attempt of their run has stopped. Then the workers that
may hold some are asked to tear them down; the run ends when all have answered, or were lost, or had their
time. A run whose tasks have none of that scope pays nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from cascade_scheduler.core import attempts, runs
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.commands import CloseRun
from cascade_scheduler.core.events import ResourceReported
from cascade_scheduler.core.graph import Spec
from cascade_scheduler.core.run import Run
from cascade_scheduler.core.worker import Worker

__all__ = [
    "KILLED",
    "Closing",
    "begin",
    "expire",
    "killed",
    "lost",
    "note",
    "on_closed",
    "on_resource",
    "wakeup",
    "welcomed",
]

RUN_SCOPE = 2
KILLED = "killed"
"""Why a resource was released whose executor was killed: no teardown ran."""
ANSWER_SECONDS = 1.0
"""What a worker may take beyond the grace, which it keeps to itself, to say so."""


class Closing(NamedTuple):
    """A run of which all has stopped but its resources."""

    run: Run
    state: str
    """Where the run stood before."""
    until: float
    workers: dict[str, None]
    """Those that have not answered."""


def note(books: Books, run: Run, worker: Worker, spec: Spec) -> None:
    """An attempt with resources goes to a worker."""
    if any(resource.scope == RUN_SCOPE for resource in spec.resources):
        books.resourceful.setdefault(run.run_id, {})[worker.id] = None


def begin(books: Books, run: Run) -> bool:
    """Nothing of a run moves any more: has its resources torn down first; False when there are none."""
    if run.state == "closing":
        return True
    used = books.resourceful.pop(run.run_id, None)
    workers = {worker: None for worker in used or () if worker in books.workers}
    if not workers:
        return False
    until = books.now + books.settings.cancel_grace + ANSWER_SECONDS
    books.closing[run.run_id] = Closing(run, run.state, until, workers)
    run.state = "closing"
    books.queues.forget(run)
    run.ready = 0
    run.waiting_retry = 0
    books.out.extend(CloseRun(worker, run.run_id) for worker in workers)
    return True


def on_closed(books: Books, worker: str, run_id: str) -> None:
    """A worker has nothing more of a run."""
    closing = books.closing.get(run_id)
    if closing is None or worker not in closing.workers:
        return
    del closing.workers[worker]
    if not closing.workers:
        _finish(books, closing)


def _finish(books: Books, closing: Closing) -> None:
    del books.closing[closing.run.run_id]
    closing.run.state = closing.state
    runs.end(books, closing.run)


def lost(books: Books, worker: str) -> None:
    """A worker is gone, and all that it held."""
    for run_id in [run_id for run_id, closing in books.closing.items() if worker in closing.workers]:
        on_closed(books, worker, run_id)


def welcomed(books: Books, worker: str) -> None:
    """A worker is back; what it was asked may never have arrived."""
    books.out.extend(
        CloseRun(worker, run_id) for run_id, closing in books.closing.items() if worker in closing.workers
    )


def wakeup(books: Books) -> float:
    """When the first of the runs that close has had its time."""
    return min(closing.until for closing in books.closing.values())


def expire(books: Books) -> None:
    """Runs whose resources take too long end without them."""
    for closing in [closing for closing in books.closing.values() if closing.until <= books.now]:
        _finish(books, closing)


def killed(books: Books, worker: Worker) -> None:
    """A worker is gone, and nothing that its executors held was torn down."""
    for (run_id, name), count in worker.resources.items():
        run = books.runs.get(run_id)
        if run is not None and run.live:
            for _ in range(count):
                books.tell(run, "ResourceReleased", resource=name, reason=KILLED, worker=worker.name)
    worker.resources.clear()


def _count(worker: Worker, report: ResourceReported) -> None:
    key = (report.run_id, report.name)
    left = worker.resources.get(key, 0) + (-1 if report.released else 1)
    if left > 0:
        worker.resources[key] = left
    else:
        worker.resources.pop(key, None)


def on_resource(books: Books, worker: Worker, report: ResourceReported) -> None:
    """A resource was set up or torn down: an event of its run, unless that has ended."""
    _count(worker, report)
    attempt = books.attempts.get(report.attempt)
    node = -1
    if attempt is not None and attempt.worker is worker and not attempt.observing:
        run: Run | None = attempt.run
        node = attempt.node
        if report.released:  # so it comes behind the start, which may not have been told
            attempts.on_started(books, worker, attempt.id)
    else:
        run = books.runs.get(report.run_id)
    if run is None or not run.live:
        return
    books.tell(
        run,
        "ResourceReleased" if report.released else "ResourceAcquired",
        node,
        resource=report.name,
        reason=report.reason,
        worker=worker.name,
        duration=report.duration,
    )
