"""A run's life: submitted, stopped, ended, forgotten."""

from __future__ import annotations

from cascade_scheduler.core import (
    closing,
    feasible,
    flow,
    followers,
    frames,
    nodes,
    observing,
    recovering,
    waits,
)
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.cached import Cached
from cascade_scheduler.core.commands import (
    CancelAttempt,
    EventRecord,
    RunEnded,
    RunRefused,
    SaveCancel,
    SaveOutcome,
    TargetValue,
)
from cascade_scheduler.core.events import RunCancelRequested, RunForgotten, RunRecovered, RunSubmitted
from cascade_scheduler.core.run import DONE, LIVE, SKIPPED, Run
from cascade_scheduler.core.values import ErrorInfo

__all__ = [
    "abort",
    "end",
    "enter",
    "missing_error",
    "on_cancel_requested",
    "on_forgotten",
    "on_submitted",
    "settle_if_stuck",
    "stop",
    "target_settled",
]


_STATUS = {"succeeded": "Succeeded", "failed": "Failed", "cancelled": "Cancelled"}


def on_submitted(books: Books, event: RunSubmitted) -> None:
    """A graph is in: refuses what can never run, else sets it going."""
    message = feasible.refusal(books, event)
    if message is not None:
        books.out.append(RunRefused(event.run_id, "infeasible", message))
        return
    run = enter(books, event, books.now)
    books.out.append(EventRecord(run.run_id, "RunStarted", books.now))
    if event.recovered is not None and run.cached is None:
        run.cached = Cached()
    nodes.start(books, run, event.hits, event.recovered)
    settle_if_stuck(books, run)


def enter(books: Books, event: RunSubmitted | RunRecovered, submitted: float) -> Run:
    """Puts a run on the books; it was submitted at that time."""
    if event.pools:
        books.lines.open_run(event.run_id, event.pools)
    run = books.runs[event.run_id] = Run(
        event.run_id,
        event.name,
        event.graph,
        event.plan,
        event.on_failure,
        event.logs,
        submitted,
        books.next_sequence(),
    )
    return run


def settle_if_stuck(books: Books, run: Run) -> None:
    """Ends a run in which nothing moves and nothing will: stopped, failed, or answered."""
    state = run.state
    if run.active or run.watching or run.nested or state not in LIVE:
        return
    loop = run.loop
    if loop is not None and loop.next is not None and state == "running" and frames.advance(books, run):
        return
    if (
        state == "cancelling"
        or run.status[run.graph.target] in (DONE, SKIPPED)
        or (run.error is not None and not _goes_on(run))
    ):
        end(books, run)


def _goes_on(run: Run) -> bool:
    """Something still moves in a run of which a node has failed."""
    asked = run.cached is not None and run.cached.asked
    return bool(run.ready or run.waiting_retry or run.observing or run.waits or asked)


def on_cancel_requested(books: Books, event: RunCancelRequested) -> None:
    """Somebody wants the run stopped; a run that has ended stays as it is."""
    run = books.runs.get(event.run_id)
    if run is not None and run.state == "running":
        if books.settings.saves:
            books.out.append(SaveCancel(run.run_id))
        stop(books, run)


def stop(books: Books, run: Run) -> None:
    """Nothing more is started, and what runs is stopped; the run ends when all has stopped."""
    for frame in (*frames.stopping(run), run):
        _stop_frame(books, frame)


def abort(books: Books, run: Run, error: ErrorInfo) -> None:
    """Fails a run, or a nested frame, for a reason that is no node's."""
    run.error = run.error or error
    stop(books, run)


def _stop_frame(books: Books, run: Run) -> None:
    if run.state != "running":
        return
    run.state = "cancelling"
    books.queues.forget(run)
    run.ready = 0
    run.waiting_retry = 0
    for attempt_id in run.nodes_active.values():
        attempt = books.attempts[attempt_id]
        attempt.asked_back = True
        books.out.append(CancelAttempt(attempt.worker.id, attempt_id))
    if run.observing:
        observing.stop(books, run)
    if run.waits:
        waits.forget(books, run)
    if run.followers:
        followers.stop(books, run)
    if not run.active and not run.watching and not run.nested:
        end(books, run)


def target_settled(books: Books, run: Run) -> None:
    """The target has its value, or was skipped: everything it needed has been answered."""
    settle_if_stuck(books, run)


def end(books: Books, run: Run) -> None:
    """The run's last word; its resources go before."""
    if run.parent is None and (books.resourceful or books.closing) and closing.begin(books, run):
        return
    target = run.graph.target
    skip = run.skips.get(target)
    error = run.error
    if error is not None:
        run.state = "failed"
    elif run.state == "cancelling":
        run.state = "cancelled"
    elif skip is None:
        run.state = "succeeded"
    else:
        run.missing = (skip.reason, skip.source, run.task(skip.source))
        if skip.reason == flow.SKIPPED_SEQUENCE:
            run.state = "succeeded"  # a step that was skipped ends its sequence without a value
        else:
            run.state = "failed"
            error = run.error = missing_error(run)
    run.ended = books.now
    if run.parent is not None:
        _shed(books, run)
        frames.over(books, run)
        return
    if run.picks is not None and run.told_late and run.state == "succeeded":
        values = [(node, value) for node, value in run.values.items() if run.is_leaf(node)]
        books.out.extend(TargetValue(run.run_id, node, value) for node, value in values)
    if run.loop is not None:
        frames.tell_steps(books, run)
    told = "" if error is None else f"{error.type}: {error.message}"
    duration = run.ended - run.submitted
    books.out.append(
        EventRecord(
            run.run_id, "RunFinished", books.now, -1, "", _STATUS[run.state], "", told, "", "", duration
        )
    )
    if books.settings.saves:
        books.out.append(SaveOutcome(run.run_id, run.state, told))
    why = run.missing or ("", 0, "")
    books.out.append(RunEnded(run.run_id, run.state, error, run.failed_task, *why, duration))
    _shed(books, run)


def missing_error(run: Run) -> ErrorInfo:
    """Says why a run, or a nested frame, whose target was skipped has no value."""
    assert run.missing is not None
    reason, _, dependency = run.missing
    told = f"{run.task(run.graph.target)!r} has no value because it was skipped ({reason}, by {dependency!r})"
    return ErrorInfo("DependencyMissingError", told)


def _shed(books: Books, run: Run) -> None:
    """Keeps of an ended run what its clients may still ask for: the target's value, and counts."""
    keep = run.state == "succeeded"
    for node in list(run.values):
        if not (keep and run.is_leaf(node)):
            books.drop(run, node)
    if run.spares is not None:
        books.forget_spares(run)
    if run.cached is not None:
        recovering.shed(run)
    run.observing.clear()
    run.parked.clear()
    if run.waits:
        waits.forget(books, run)
    run.items.clear()
    run.routes.clear()
    if run.picks is not None:
        run.picks.shed()
    run.built.clear()
    run.pending = []
    run.uses = []
    if books.infeasible:
        for key in [key for key in books.infeasible if key[0] == run.run_id]:
            del books.infeasible[key]
    run.losses.clear()
    run.tries.clear()
    books.queues.forget(run)
    if run.parent is not None:
        return  # its value is still to be handed over
    if run.loop is not None or run.whole:
        frames.forget(books, run)
    if books.lines.run_pools:
        books.lines.close_run(run.run_id)
    settings, finished = books.settings, books.finished
    finished[run.run_id] = count = len(run.status)
    books.finished_nodes += count
    while len(finished) > settings.runs_kept or (
        books.finished_nodes > settings.nodes_kept and len(finished) > 1
    ):
        _forget(books, next(iter(finished)))


def on_forgotten(books: Books, event: RunForgotten) -> None:
    """A finished run is no longer wanted."""
    if event.run_id in books.finished:
        _forget(books, event.run_id)


def _forget(books: Books, run_id: str) -> None:
    books.finished_nodes -= books.finished.pop(run_id)
    run = books.runs.pop(run_id)
    for node in list(run.values):
        books.drop(run, node)
