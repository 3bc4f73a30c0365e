"""Followers: a chain's next nodes are sent before their input is there, to the worker that makes it.

A follower is an attempt of a node that waits for nothing but the value of another attempt. Its worker goes on
with it by itself when the value is there, so a chain costs no round trip for each of its nodes. It is on no
books until the report with that value comes: its node waits, it holds nothing, and nothing is told of it.
Then it begins. When the attempt that it follows ends in any other way it is forgotten, here and on the
worker, with all that follows it, and no report says so.

Followers are sent only where nothing waits that could have their place, and asked back when something does.
What begins on a worker goes behind all that was sent ahead to it before.
"""

from __future__ import annotations

from collections.abc import Set

from cascade_scheduler.core import attempts, constraints
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.commands import CancelAttempt, RetractAttempt, SaveAttempt
from cascade_scheduler.core.graph import EdgeKind, NodeKind
from cascade_scheduler.core.plans import AmountClass
from cascade_scheduler.core.run import ACTIVE, DONE, WAITING, Run
from cascade_scheduler.core.values import OpenValue, Value
from cascade_scheduler.core.worker import Attempt, Worker

__all__ = [
    "begin",
    "forget",
    "given_back",
    "link",
    "next_of",
    "on_started",
    "only",
    "over",
    "review",
    "stop",
    "welcomed",
]

DEPTH_MAX = 16
"""So many attempts may follow one that runs, one after the other."""
DEPTH_MIN = 8
"""As long as there are more than so many, no further ones are sent: messages are for several."""


# --- sending -----------------------------------------------------------------------------------------


def review(books: Books) -> None:
    """Sends what may follow the attempts that are new on the books; asks back what is in others' way."""
    tips, books.tips = books.tips, []
    waiting = books.crowd
    if books.to_observe or waiting:
        for worker in [worker for worker in books.workers.values() if worker.followers]:
            if _is_wanted(books, worker):
                _ask_back(books, worker)
    for tip in tips:
        if books.attempts.get(tip.id) is tip and _may_be_followed(books, tip):
            _extend(books, tip)


def _is_wanted(books: Books, worker: Worker) -> bool:
    """Something waits that the worker could run in the place of followers."""
    return bool(books.to_observe) or any(
        not cls.asynchronous and worker.could(cls.amounts) for cls in books.crowd
    )


def _may_be_followed(books: Books, tip: Attempt) -> bool:
    worker, run = tip.worker, tip.run
    return (
        tip.charged
        and not (tip.leased or tip.asked_back)
        and worker.usable
        and not worker.queue
        and worker.reserved is None
        and run.state == "running"
        and not (run.halting or run.root.held)
        and run.picks is None  # no routers prune, and no stages let pass, what follows
        and not run.graph.value_keys
        and not _is_wanted(books, worker)
    )


def _extend(books: Books, tip: Attempt) -> None:
    """Sends further followers, as many as are allowed, in the hope that messages are for several."""
    worker, last = tip.worker, tip
    depth, seconds = 0, 0.0
    while last.follower is not None:
        last = last.follower
        depth += 1
        seconds += last.expected
    if depth > DEPTH_MIN:
        return
    run = tip.run
    while depth < DEPTH_MAX and worker.followers < worker.ahead_credits:
        node = next_of(run, last)
        inputs = None if node < 0 else _inputs(run, node, last)
        if inputs is None:
            return
        cls = books.queues.line_of(run, node)
        if not cls.only_cpu or dict(last.cls.amounts).get("cpu", 0) < cls.amounts[0][1]:
            return
        expected = books.expected(run.graph.functions[run.spec(node).function].cid)
        if depth and seconds + expected > books.settings.ahead_seconds:
            return
        last = _send(books, last, node, cls, inputs, expected)
        depth += 1
        seconds += expected


def next_of(run: Run, last: Attempt) -> int:
    """The node that needs the attempt's value, and nothing else that is not there; -1: there is none."""
    node, graph, plan = last.node, run.graph, run.plan
    if node >= graph.size or node == graph.target or last.spec.spawn:
        return -1
    first, end = plan.consumer_start[node : node + 2]
    if end - first != 1:
        return -1
    consumer = plan.consumers[first]
    spec = graph.specs[graph.node_spec[consumer]]
    plain = spec.kind == NodeKind.CALL and not (spec.asynchronous or spec.resources)
    here = consumer not in graph.blob_args and consumer not in graph.blob_inputs
    waits = run.status[consumer] == WAITING and run.pending[consumer] == 1 and consumer not in run.followers
    return consumer if plain and here and waits else -1


def _inputs(run: Run, node: int, last: Attempt) -> tuple[Value, ...] | None:
    """The inputs of a node, with one open; None: it waits for something else, or holds what may be lost."""
    found: list[Value] = []
    for source, kind in run.graph.sources(node):
        if kind != EdgeKind.DATA:
            return None
        if source == last.node:
            found.append(OpenValue(last.id))
            continue
        value = run.values.get(source)
        if run.status[source] != DONE or not isinstance(value, bytes):
            return None
        found.append(value)
    return tuple(found)


def _send(
    books: Books, last: Attempt, node: int, cls: AmountClass, inputs: tuple[Value, ...], expected: float
) -> Attempt:
    run, worker = last.run, last.worker
    try_ = run.tries.get(node, 0) + 1
    attempt = Attempt(books.next_attempt(), run, node, run.spec(node), worker, try_, False, expected, cls)
    link(books, last, attempt)
    if books.settings.saves and run.parent is None:
        books.out.append(SaveAttempt(run.run_id, node, attempt.id, try_, worker.id, behind=last.id))
    books.out.append(attempts.order(books, attempt, inputs, ahead=True, behind=last.id))
    return attempt


def link(books: Books, last: Attempt, attempt: Attempt) -> None:
    """Notes that an attempt, which is on no other books, follows another one."""
    attempt.follows, last.follower = last, attempt
    books.followers[attempt.id] = attempt
    attempt.run.followers[attempt.node] = attempt
    attempt.worker.followers += 1


def _unlink(books: Books, attempt: Attempt) -> None:
    assert attempt.follows is not None
    attempt.follows.follower = None
    attempt.follows = None
    del books.followers[attempt.id]
    del attempt.run.followers[attempt.node]
    attempt.worker.followers -= 1


# --- what becomes of them ------------------------------------------------------------------------------


def begin(books: Books, attempt: Attempt) -> None:
    """The value that it waited for has come: its worker runs it, or will in its turn."""
    _unlink(books, attempt)
    run, node, worker = attempt.run, attempt.node, attempt.worker
    attempt.charged = not worker.queue and worker.fits(attempt.cls)
    books.attempts[attempt.id] = attempt
    worker.add(attempt)
    run.nodes_active[node] = attempt.id
    run.status[node] = ACTIVE
    run.active += 1
    books.queues.charge(run, attempt.expected)
    if books.lines.limits:
        constraints.count_begun(books, attempt)
    books.tips.append(attempt)
    if attempt.started:
        attempt.started = False
        attempts.on_started(books, worker, attempt.id)


def on_started(books: Books, worker: Worker, attempt_id: int) -> None:
    """A follower runs, and the report of what it follows is on its way."""
    attempt = books.followers.get(attempt_id)
    if attempt is not None and attempt.worker is worker:
        attempt.started = True


def given_back(books: Books, worker: Worker, attempt_id: int) -> None:
    """A follower has not started, and will not."""
    attempt = books.followers.get(attempt_id)
    if attempt is not None and attempt.worker is worker:
        forget(books, attempt)
        _unlink(books, attempt)


def over(books: Books, attempt: Attempt, *, goes_on: bool) -> None:
    """An attempt that is followed has ended, and its follower was not wanted. It may run for all that."""
    follower = attempt.follower
    assert follower is not None
    if goes_on and (follower.run.state == "cancelling" or follower.run.halting):
        begin(books, follower)  # it was told to stop; the run waits for it as for all others
        return
    if goes_on:
        books.out.append(CancelAttempt(follower.worker.id, follower.id))
    forget(books, attempt)


def forget(books: Books, attempt: Attempt) -> None:
    """All that follows an attempt is forgotten."""
    gone: list[Attempt] = []
    while attempt.follower is not None:
        attempt = attempt.follower
        gone.append(attempt)
    for follower in reversed(gone):
        _unlink(books, follower)


# --- asking back ---------------------------------------------------------------------------------------


def _ask_back(books: Books, worker: Worker) -> None:
    for attempt in books.followers.values():
        if attempt.worker is worker and not attempt.asked_back:
            attempt.asked_back = True
            books.out.append(RetractAttempt(worker.id, attempt.id))


def stop(books: Books, run: Run) -> None:
    """The run, or its frame, is being stopped; followers that have begun meanwhile are told so too."""
    for attempt in run.followers.values():
        attempt.asked_back = True
        books.out.append(CancelAttempt(attempt.worker.id, attempt.id))


def only(books: Books, worker: Worker, held: Set[int]) -> None:
    """A worker is back: of its followers there are only these."""
    for attempt in [attempt for attempt in books.followers.values() if attempt.worker is worker]:
        if attempt.id not in held and attempt.id in books.followers:
            forget(books, attempt)
            _unlink(books, attempt)


def welcomed(books: Books, worker: Worker) -> None:
    """A worker is back: what it was asked while it was away, or just before, it is asked once more."""
    for attempt in books.followers.values():
        if attempt.worker is worker and attempt.asked_back:
            goes_on = attempt.run.state == "running" and not attempt.run.halting
            kind = RetractAttempt if goes_on else CancelAttempt
            books.out.append(kind(worker.id, attempt.id))
