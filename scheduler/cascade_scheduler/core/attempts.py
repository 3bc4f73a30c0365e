"""What becomes of an attempt: done, failed, lost, given back, stopped.

A report counts when its attempt is on the books of the worker that sends it; any other is late or a
repetition, and is dropped.
"""

from __future__ import annotations

from heapq import heappop, heappush

from cascade_scheduler.core import (
    closing,
    cluster_cache,
    followers,
    frames,
    leases,
    lineage,
    nodes,
    observing,
    runs,
)
from cascade_scheduler.core.books import TASK_SECONDS_MIN, Books
from cascade_scheduler.core.commands import Assign, EventRecord, SaveAttempt, SaveDue, SaveResult, TargetValue
from cascade_scheduler.core.events import (
    AttemptCancelled,
    AttemptDone,
    AttemptFailed,
    AttemptLost,
    AttemptReturned,
    AttemptTail,
    Report,
)
from cascade_scheduler.core.flow import CACHE_HIT
from cascade_scheduler.core.graph import Retry
from cascade_scheduler.core.inputs import of_node, value_of
from cascade_scheduler.core.plans import AmountClass
from cascade_scheduler.core.run import ACTIVE, DELAYED, DONE, WAITING, Run
from cascade_scheduler.core.values import ErrorInfo, ObjectValue, Value
from cascade_scheduler.core.worker import Attempt, Worker

RETRY_DELAY_MAX = 366 * 86_400.0
"""Backoff grows without bound; a wait does not."""

__all__ = ["assign", "off_the_books", "on_report", "on_started", "try_again", "wake_delayed", "worker_lost"]


def assign(
    books: Books, run: Run, node: int, worker: Worker, cls: AmountClass, *, ahead: bool, expected: float
) -> None:
    """Makes an attempt of a ready node on a worker; it holds what its line says."""
    if run.whole and node in run.whole and run.whole[node].incomplete:
        frames.start_over(books, run, node)
    spec = run.spec(node)
    attempt_id = books.next_attempt()
    try_ = run.tries.get(node, 0) + 1 if run.tries else 1
    attempt = Attempt(attempt_id, run, node, spec, worker, try_, not ahead, expected, cls)
    if not ahead and run.loop is not None and leases.may_lease(books, run, node, spec, cls):
        attempt.leased = True
        books.leased += 1
        books.leases += 1
    if cls.pools or cls.limits:
        for pool, micros in cls.pools:
            pool.free -= micros
        for limit in cls.limits:
            limit.take()
    books.attempts[attempt_id] = attempt
    worker.add(attempt)
    if spec.resources:
        closing.note(books, run, worker, spec)
    run.nodes_active[node] = attempt_id
    run.status[node] = ACTIVE
    run.ready -= 1
    run.active += 1
    out = books.out
    if books.settings.saves and run.parent is None:
        origin, child = run.origin(node)
        out.append(SaveAttempt(run.run_id, origin, attempt_id, try_, worker.id, child))
    assigned = order(books, attempt, of_node(run, node), ahead=ahead)
    out.append(_put_together(run, node, assigned) if run.whole and node in run.whole else assigned)
    if books.settings.chains and node != run.graph.target:  # whose value no node waits for
        books.tips.append(attempt)


def order(
    books: Books, attempt: Attempt, inputs: tuple[Value, ...], *, ahead: bool, behind: int = 0
) -> Assign:
    """What the worker is told of an attempt."""
    run, node, spec, amounts = attempt.run, attempt.node, attempt.spec, attempt.cls.amounts
    graph, plan, loop = run.graph, run.plan, run.loop
    origin, index = (node, -1) if node < graph.size else run.origin(node)
    at = 16 * origin
    return Assign(
        attempt.worker.id,
        attempt.id,
        run.run_id,
        node,
        spec,
        graph.functions[spec.function].cid,
        attempt.try_,
        graph.node_args[origin],
        graph.blob_args.get(origin) if graph.blob_args else None,
        inputs,
        ahead,
        run.observe(node) if index >= 0 or graph.digested else plan.observe[node],
        spec.durable
        or spec.cluster_cache
        or books.settings.publishes
        or (run.parent is None and bool(plan.leaves[origin])),
        graph.node_ids[at : at + 16].hex(),
        index if index >= 0 else graph.map_index(node) if graph.maps else -1,
        None if amounts == spec.amounts else amounts,
        _route_keys(run, node) if plan.wanted else (),
        False,
        node in plan.tails,
        "" if run.parent is None else run.frame_id,
        False,
        graph.overrides if node == graph.target else b"",
        graph.jumps.get(node) if graph.jumps else None,
        attempt.leased,
        behind,
        0 if loop is None else loop.own,
        run.within,
    )


def _put_together(run: Run, node: int, assign: Assign) -> Assign:
    """The assignment that makes one value of what a nested graph came to."""
    child = run.whole[node]
    value = value_of(child, child.graph.target)
    return assign._replace(args=b"", args_blob=None, inputs=(value,), tail=False, whole=True)


def _route_keys(run: Run, node: int) -> tuple[bytes, ...]:
    """The keys of the routers that the node's value may choose a route of."""
    routers = run.plan.wanted.get(node)
    return () if routers is None else tuple(run.graph.node_args[router] for router in routers)


def off_the_books(books: Books, attempt: Attempt) -> None:
    """Takes an attempt off the books of its worker and its run."""
    if attempt.observing:
        observing.off_the_books(books, attempt)
        return
    del books.attempts[attempt.id]
    attempt.worker.remove(attempt)
    books.leased -= attempt.leased
    cls, run = attempt.cls, attempt.run
    if cls.pools or attempt.limits:
        for pool, micros in cls.pools:
            pool.free += micros
        for limit in attempt.limits:
            limit.release()
    del run.nodes_active[attempt.node]
    run.active -= 1


def on_started(books: Books, worker: Worker, attempt_id: int) -> None:
    """An attempt has begun."""
    attempt = books.attempts.get(attempt_id)
    if attempt is None and books.followers:
        followers.on_started(books, worker, attempt_id)
    if attempt is None or attempt.worker is not worker or attempt.started or attempt.observing:
        return
    attempt.started = True
    run = attempt.run
    if attempt.node not in run.finished_once and not run.root.quiet:
        books.out.append(
            EventRecord(
                run.run_id,
                "TaskExecutionStarted",
                books.now,
                attempt.node,
                run.task(attempt.node),
                worker=worker.name,
                attempt=attempt.try_,
                node_id=run.key(attempt.node) if run.framed else "",
            )
        )


def on_report(books: Books, worker: Worker, report: Report) -> None:
    """An attempt has ended."""
    attempt = books.attempts.get(report.attempt)
    if attempt is None or attempt.worker is not worker:
        if attempt is None and books.followers:
            followers.given_back(books, worker, report.attempt)
        if isinstance(report, AttemptTail):
            frames.gone(books, report.frame)
        return
    off_the_books(books, attempt)
    if attempt.observing:
        observing.on_report(books, attempt, report)
        return
    if attempt.run.loop is not None and attempt.run.halting:
        frames.in_vain(books, attempt, report)
    elif isinstance(report, AttemptDone):
        _done(books, attempt, report)
    elif isinstance(report, AttemptTail):
        frames.on_tail(books, attempt, report)
    elif isinstance(report, AttemptFailed):
        _failed(books, attempt, report)
    elif isinstance(report, AttemptLost):
        _lost(books, attempt, report)
    elif isinstance(report, AttemptReturned):
        for limit in attempt.cls.limits:
            limit.give_back()
        _returned(books, attempt)
    elif isinstance(report, AttemptCancelled):
        _cancelled(books, attempt)
    if attempt.follower is not None:
        followers.over(books, attempt, goes_on=isinstance(report, AttemptDone))
    _over(books, attempt)


def _over(books: Books, attempt: Attempt) -> None:
    """What the attempt's end meant has been done. A node that was stopped has no outcome: it runs no more."""
    run = attempt.run
    if run.state == "cancelling" and run.status[attempt.node] == ACTIVE:
        run.status[attempt.node] = WAITING
    runs.settle_if_stuck(books, run)


def _done(books: Books, attempt: Attempt, report: AttemptDone) -> None:
    run, node = attempt.run, attempt.node
    if not report.cached:
        books.learn(run.graph.functions[attempt.spec.function].cid, max(report.duration, TASK_SECONDS_MIN))
    if run.status[node] != ACTIVE:
        return
    run.status[node] = DONE
    if report.iterations:
        leases.advance(books, attempt, report.iterations)
    value = report.value
    books.keep(run, node, value)
    if run.observe(node):
        observing.take_facts(run, node, report, run.plan.wanted.get(node, ()))
    whole = bool(run.whole) and frames.start_over(books, run, node)  # its parts have been put together
    out = books.out
    if books.settings.saves and (run.parent is None or frames.keeps(books, run)):
        _save(books, attempt, report)
    if run.cached is not None and not report.cached:  # what a policy has need not be what the task makes
        cluster_cache.store(books, run, node, value)
    run.done += 1
    first = node not in run.finished_once
    if first and (node in run.plan.tails or not run.root.quiet):
        if report.cached:
            books.tell(run, "TaskSkipped", node, reason=CACHE_HIT)
        else:
            _tell_done(books, attempt, report)
    leaf = run.is_leaf(node)
    if leaf and (first or whole) and run.parent is None and not (run.picks is not None and run.told_late):
        out.append(TargetValue(run.run_id, node, value))
    nodes.inputs_used(books, run, node)
    if not leaf and not run.uses[node]:
        nodes.drop_value(books, run, node)
    if run.state == "running":
        nodes.settle(books, run, node)


def _save(books: Books, attempt: Attempt, report: AttemptDone) -> None:
    """Has a result stored; of nested graphs, only what outlives its worker."""
    run, node, value = attempt.run, attempt.node, report.value
    if run.parent is not None and isinstance(value, ObjectValue):
        return
    key = run.within + run.key(node)
    saved = SaveResult(run.run_id, node, key, attempt.id, value, report.truth, report.length)
    books.out.append(saved)
    seen = report.items or report.routes or report.digest or report.observe_error
    if seen or report.amount is not None:
        observing.save(books, run, node)


def _tell_done(books: Books, attempt: Attempt, report: AttemptDone) -> None:
    """The events of an attempt that returned."""
    run, node, out = attempt.run, attempt.node, books.out
    task = run.task(node)
    name = attempt.worker.name
    node_id = run.key(node) if run.framed else ""
    if not attempt.started:
        out.append(
            EventRecord(
                run.run_id,
                "TaskExecutionStarted",
                books.now - report.duration,
                node,
                task,
                worker=name,
                attempt=attempt.try_,
                node_id=node_id,
            )
        )
    out.append(
        EventRecord(
            run.run_id,
            "TaskExecutionFinished",
            books.now,
            node,
            task,
            "Succeeded",
            "",
            "",
            report.preview,
            name,
            report.duration,
            attempt.try_,
            node_id=node_id,
        )
    )


def _finish_event(books: Books, attempt: Attempt, status: str, error: str, duration: float) -> None:
    run, node = attempt.run, attempt.node
    if node in run.finished_once:
        return
    if not attempt.started:
        on = {"worker": attempt.worker.name, "attempt": attempt.try_}
        books.tell(run, "TaskExecutionStarted", node, **on)
    books.tell(
        run,
        "TaskExecutionFinished",
        node,
        status=status,
        error=error,
        worker=attempt.worker.name,
        duration=duration,
        attempt=attempt.try_,
    )


def _failed(books: Books, attempt: Attempt, report: AttemptFailed) -> None:
    run, node = attempt.run, attempt.node
    if report.kind == "input_lost":
        for lost in report.lost_inputs:
            lineage.object_lost(books, run, lost, attempt.id)
        frames.start_over(books, run, node)
        _count_loss(books, attempt, "its inputs were lost with their holders")
        return
    if run.status[node] != ACTIVE:
        return
    told = f"{report.error.type}: {report.error.message}"
    if run.state == "cancelling":
        _finish_event(books, attempt, "Failed", told, report.duration)
        return
    policy = attempt.spec.retry
    if (
        policy is not None
        and report.retryable
        and report.kind in ("raised", "timeout")
        and attempt.try_ < policy.max_attempts
    ):
        delay = _retry_delay(policy, attempt.try_, books.dice())
        run.tries[node] = attempt.try_
        run.retried += 1
        if not attempt.started:
            books.tell(run, "TaskExecutionStarted", node, worker=attempt.worker.name, attempt=attempt.try_)
        books.tell(
            run,
            "TaskRetrying",
            node,
            attempt=attempt.try_,
            max_attempts=policy.max_attempts,
            delay=delay,
            error=told,
        )
        try_again(books, run, node, delay)
        return
    _finish_event(books, attempt, "Failed", told, report.duration)
    nodes.fail(books, run, node, report.error)


def _retry_delay(policy: Retry, failed: int, dice: float) -> float:
    """Seconds until the next try, after so many that failed. Never more than RETRY_DELAY_MAX."""
    most = RETRY_DELAY_MAX if policy.max_delay is None else min(policy.max_delay, RETRY_DELAY_MAX)
    if policy.delay <= 0.0:
        return 0.0
    try:
        delay = policy.delay * policy.backoff ** (failed - 1)
    except OverflowError:
        delay = most
    delay = min(delay, most)
    return min(delay * (1.0 + policy.jitter * (2.0 * dice - 1.0)), most)


def try_again(books: Books, run: Run, node: int, delay: float) -> None:
    """Lets a node wait, holding nothing, before its next try."""
    if books.settings.saves and run.parent is None:
        origin, child = run.origin(node)
        books.out.append(SaveDue(run.run_id, origin, child, run.tries[node], books.now + max(delay, 0.0)))
    if delay <= 0.0:
        lineage.ready_again(books, run, node)
        return
    run.status[node] = DELAYED
    run.waiting_retry += 1
    number = run.delays[node] = books.next_sequence()
    heappush(books.delayed, (books.now + delay, number, run.frame_id, node))


def _lost(books: Books, attempt: Attempt, report: AttemptLost) -> None:
    if attempt.run.state == "cancelling":
        _cancelled(books, attempt)
        return
    books.tell(attempt.run, "TaskLost", attempt.node, worker=attempt.worker.name, reason=report.reason)
    if report.innocent:
        _returned(books, attempt)
    else:
        _count_loss(books, attempt, report.reason)


def _count_loss(books: Books, attempt: Attempt, reason: str) -> None:
    """Worker loss has a budget of its own, apart from retries; a task that kills executors is stopped."""
    run, node = attempt.run, attempt.node
    if run.state != "running" or run.status[node] != ACTIVE:
        return
    losses = run.losses[node] = run.losses.get(node, 0) + 1
    if losses < books.settings.loss_budget:
        lineage.ready_again(books, run, node)
        return
    message = (
        f"task {run.task(node)!r} was lost {losses} times and is not tried again; the last time: {reason}"
    )
    error = ErrorInfo("TaskLostError", message)
    _finish_event(books, attempt, "Failed", f"{error.type}: {message}", 0.0)
    nodes.fail(books, run, node, error)


def _returned(books: Books, attempt: Attempt) -> None:
    run = attempt.run
    if run.state == "running" and run.status[attempt.node] == ACTIVE:
        lineage.ready_again(books, run, attempt.node)


def _cancelled(books: Books, attempt: Attempt) -> None:
    run = attempt.run
    if run.state == "running":  # stopped for a reason that has gone; it is simply tried again
        _returned(books, attempt)
    elif attempt.started:
        _finish_event(books, attempt, "Cancelled", "", 0.0)


def worker_lost(books: Books, attempt: Attempt, reason: str) -> None:
    """The attempt's worker is gone."""
    off_the_books(books, attempt)
    followers.forget(books, attempt)
    if attempt.observing:
        observing.on_report(books, attempt, AttemptLost(attempt.id, reason))
        return
    lost = AttemptLost(attempt.id, reason)
    if attempt.run.halting:
        frames.in_vain(books, attempt, lost)
    else:
        _lost(books, attempt, lost)
    _over(books, attempt)


def wake_delayed(books: Books) -> None:
    """Nodes whose delay is over are ready again."""
    delayed = books.delayed
    while delayed and delayed[0][0] <= books.now:
        _, number, run_id, node = heappop(delayed)
        run = books.runs.get(run_id)
        if run is None or run.state != "running" or run.delays.get(node) != number:
            continue
        del run.delays[node]
        if run.status[node] == DELAYED:
            run.waiting_retry -= 1
            lineage.ready_again(books, run, node)
