"""Observing values that nobody observed when they were made: literals, containers, hits of a cache.

An attempt that only observes runs no user's function, holds no amounts, and goes to any worker. Users see
nothing of it. It is on the books like any other attempt, so that what is late or repeated changes nothing.
"""

from __future__ import annotations

from cascade_scheduler.core import frames, inputs, lineage, nodes, runs
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.cached import Facts
from cascade_scheduler.core.candidates import OBSERVE_SPLIT
from cascade_scheduler.core.commands import Assign, CancelAttempt, SaveFacts
from cascade_scheduler.core.events import AttemptCancelled, AttemptDone, AttemptFailed, AttemptLost, Report
from cascade_scheduler.core.graph import NodeKind, Spec
from cascade_scheduler.core.plans import AmountClass
from cascade_scheduler.core.run import DONE, Observation, Run
from cascade_scheduler.core.values import BlobValue, ErrorInfo, ObjectValue
from cascade_scheduler.core.worker import Attempt, Worker

__all__ = [
    "OBSERVER",
    "dispatch",
    "facts_of",
    "forget",
    "off_the_books",
    "on_report",
    "request",
    "save",
    "stop",
    "take_facts",
]

OBSERVER = Spec(NodeKind.LITERAL, "observe")
"""What such attempts are to a worker."""
NOTHING = AmountClass((), False)
"""What they hold of it."""


def request(books: Books, run: Run, node: int, bits: int, routers: tuple[int, ...] = ()) -> None:
    """Has facts about the value of a done node found out.

    The value is kept until then; afterwards what is parked for the node is decided. What is asked for while
    an attempt is under way is asked for again by those that wait for it.
    """
    if run.cached is not None and run.is_hit(node):
        run.values.setdefault(node, run.cached.hits[node])
    known = run.observing.get(node)
    if known is None:
        run.observing[node] = Observation(bits, routers)
        books.to_observe.append((run, node))
    elif not known.attempt:
        known.bits |= bits
        known.routers += tuple(router for router in routers if router not in known.routers)


def dispatch(books: Books) -> None:
    """Sends waiting observations to workers, as far as any takes them."""
    waiting, books.to_observe = books.to_observe, []
    for run, node in waiting:
        observation = run.observing.get(node)
        if observation is None or observation.attempt or run.state != "running":
            continue
        worker = None if run.root.held else _worker_for(books, run, node)
        if worker is None:
            books.to_observe.append((run, node))
        else:
            _assign(books, run, node, observation, worker)


def _worker_for(books: Books, run: Run, node: int) -> Worker | None:
    value = run.values.get(node)
    if isinstance(value, ObjectValue):
        holder = books.workers.get(value.worker)
        if holder is not None and holder.usable and holder.fits(NOTHING):
            return holder
    able = [worker for worker in books.workers.values() if worker.usable and worker.fits(NOTHING)]
    return min(able, key=lambda worker: worker.sync_running, default=None)


def _assign(books: Books, run: Run, node: int, observation: Observation, worker: Worker) -> None:
    attempt_id = observation.attempt = books.next_attempt()
    attempt = Attempt(attempt_id, run, node, OBSERVER, worker, 1, True, 0.0, NOTHING)
    attempt.observing = True
    books.attempts[attempt_id] = attempt
    worker.add(attempt)
    run.watching += 1
    graph = run.graph
    books.out.append(
        Assign(
            worker.id,
            attempt_id,
            run.run_id,
            node,
            OBSERVER,
            b"",
            1,
            b"",
            None,
            (inputs.value_of(run, node),),
            False,
            observation.bits,
            bool(observation.bits & OBSERVE_SPLIT),  # what is split has to stay where it can be found
            run.key(node),
            -1,
            route_keys=tuple(graph.node_args[router] for router in observation.routers),
            observe_only=True,
            frame_id="" if run.parent is None else run.frame_id,
        )
    )


def off_the_books(books: Books, attempt: Attempt) -> None:
    """Takes an attempt that only observes off the books of its worker and its run."""
    del books.attempts[attempt.id]
    attempt.worker.remove(attempt)
    attempt.run.watching -= 1


def on_report(books: Books, attempt: Attempt, report: Report) -> None:
    """An attempt that only observes has ended; it is off the books."""
    run, node = attempt.run, attempt.node
    observation = run.observing.get(node)
    if run.state == "running" and observation is not None and observation.attempt == attempt.id:
        if isinstance(report, AttemptDone):
            _take(run, node, observation, report)
            save(books, run, node)
            _over(books, run, node)
        elif isinstance(report, AttemptFailed) and report.kind != "input_lost":
            run.observed[node] = run.observed.get(node, 0) | observation.bits
            run.observe_errors[node] = report.error
            save(books, run, node)
            _over(books, run, node)
        else:
            _again(books, run, node, observation, report)
    runs.settle_if_stuck(books, run)


def _take(run: Run, node: int, observation: Observation, report: AttemptDone) -> None:
    run.observed[node] = run.observed.get(node, 0) | observation.bits
    take_facts(run, node, report, observation.routers)
    if report.observe_error is None:
        for router in observation.routers:  # so that nobody asks again
            run.routes.setdefault((node, router), f"nobody could tell which key {run.task(node)!r} is")
    if observation.bits & OBSERVE_SPLIT and report.length is not None and isinstance(report.value, BlobValue):
        run.values[node] = report.value  # the same list, split


def _again(books: Books, run: Run, node: int, observation: Observation, report: Report) -> None:
    """The attempt ended without an answer, through no fault of the value."""
    observation.attempt = 0
    if isinstance(report, AttemptFailed):
        for lost in report.lost_inputs:
            lineage.object_lost(books, run, lost, report.attempt)
        observation.losses += 1
    elif isinstance(report, AttemptLost) and not report.innocent:
        observation.losses += 1
    elif isinstance(report, AttemptCancelled) and run.state != "running":
        return
    if run.state != "running" or run.observing.get(node) is not observation:
        return
    if run.status[node] != DONE:  # the value is being made again; who needs to know will ask again
        nodes.resume(books, run, forget(run, node))
    elif observation.losses < books.settings.loss_budget:
        books.to_observe.append((run, node))
    else:
        run.observed[node] = run.observed.get(node, 0) | observation.bits
        told = (
            f"the value of {run.task(node)!r} could not be observed: {observation.losses} attempts were lost"
        )
        run.observe_errors[node] = ErrorInfo("TaskLostError", told)
        save(books, run, node)
        _over(books, run, node)


def _over(books: Books, run: Run, node: int) -> None:
    del run.observing[node]
    nodes.release(books, run, node)
    nodes.resume(books, run, run.parked.pop(node, ()))


def forget(run: Run, node: int) -> list[int]:
    """Nobody waits for the observation any more: the value is being made again. Returns those that waited.

    Who waits for the value too asks again when it is there. Others, whose keys only depend on it, are to be
    decided without it.
    """
    run.observing.pop(node, None)
    return run.parked.pop(node, [])


def stop(books: Books, run: Run) -> None:
    """The run is being stopped."""
    for observation in run.observing.values():
        attempt = books.attempts.get(observation.attempt)
        if attempt is not None:
            attempt.asked_back = True
            books.out.append(CancelAttempt(attempt.worker.id, attempt.id))
    run.observing.clear()
    run.parked.clear()


def save(books: Books, run: Run, node: int) -> None:
    """Has all that is known of a node's value stored, so that a restart need not ask again."""
    if books.settings.saves and (run.parent is None or frames.keeps(books, run)):
        books.out.append(SaveFacts(run.run_id, node, run.within + run.key(node), facts_of(run, node)))


def facts_of(run: Run, node: int) -> Facts:
    """All that is known of a node's value."""
    value = run.values.get(node)
    return Facts(
        run.truths.get(node),
        run.lengths.get(node),
        run.amounts_seen.get(node),
        run.digests.get(node, b""),
        tuple((router, found) for (of, router), found in run.routes.items() if of == node),
        run.observe_errors.get(node),
        run.observed.get(node, 0),
        run.items.get(node),
        value if isinstance(value, BlobValue) and not run.runs_code(node) else None,
    )


def take_facts(run: Run, node: int, report: AttemptDone, routers: tuple[int, ...]) -> None:
    """Notes what was observed of a node's value; `routers` are those among whose keys it was looked for."""
    if report.truth is not None:
        run.truths[node] = report.truth
    if report.length is not None:
        run.lengths[node] = report.length
        if report.items or not report.length:
            run.items[node] = report.items
    if report.observe_error is not None:
        run.observe_errors[node] = report.observe_error
    if report.amount is not None:
        run.amounts_seen[node] = report.amount
    if report.digest:
        run.digests[node] = report.digest
    if report.routes:
        texts = iter(report.route_text.split("\n"))
        for router, index in zip(routers, report.routes, strict=False):
            # No second decision: what a router was told of a value stays, when the value is made again.
            run.routes.setdefault((node, router), index if index >= 0 else next(texts, ""))
