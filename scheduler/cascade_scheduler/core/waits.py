"""Waits and recvs: nodes that wait for time to pass or for a message, and hold nothing meanwhile."""

from __future__ import annotations

from heapq import heappop, heappush

from cascade_scheduler.core import flow, nodes, runs
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.commands import SaveDue, SaveResult
from cascade_scheduler.core.events import MessageArrived
from cascade_scheduler.core.graph import NodeKind
from cascade_scheduler.core.run import Run
from cascade_scheduler.core.values import ErrorInfo

__all__ = ["RETAINED_BYTES_MAX", "begin", "forget", "on_message", "wake"]

RETAINED_BYTES_MAX = 16 << 20
"""Of all retained messages; of more, the oldest go."""
MESSAGE_BYTES = 200
"""What a retained message takes beside its payload."""


def begin(books: Books, run: Run, node: int) -> bool:
    """All edges of a wait or recv are answered; True when it is over at once."""
    if node in run.waits:
        return False
    graph = run.graph
    seconds = flow.delay(run, node)
    over = books.now + (seconds or 0.0)
    if run.cached is not None and node in run.cached.waits:
        over = run.cached.waits[node]  # it began in an earlier life
    if graph.spec(node).kind == NodeKind.RECV:
        topic = graph.timers[node].topic
        payload = books.retained.get(topic)
        if payload is not None:
            _receive(books, run, node, payload)
            return True
        books.listening.setdefault(topic, {})[(run.frame_id, node)] = None
    elif over <= books.now:
        nodes.structural_done(books, run, node)
        return True
    number = run.waits[node] = books.next_sequence()
    if seconds is not None:
        heappush(books.timers, (over, number, run.frame_id, node))
        if books.settings.saves and run.parent is None:
            books.out.append(SaveDue(run.run_id, node, -1, 0, over))
    return False


def wake(books: Books) -> None:
    """Waits that are over are done; a recv that got nothing in time has failed."""
    timers = books.timers
    while timers and timers[0][0] <= books.now:
        _, number, run_id, node = heappop(timers)
        run = books.runs.get(run_id)
        if run is None or run.state != "running" or run.waits.get(node) != number:
            continue
        _end_wait(books, run, node)
        if run.graph.spec(node).kind == NodeKind.RECV:
            topic = run.graph.timers[node].topic
            seconds = flow.delay(run, node)
            message = f"{run.task(node)!r} got no message on topic {topic!r} within {seconds:g} s"
            nodes.fail(books, run, node, ErrorInfo("TimeoutError", message))
        else:
            nodes.structural_done(books, run, node)
            nodes.settle(books, run, node)
        runs.settle_if_stuck(books, run)


def on_message(books: Books, event: MessageArrived) -> None:
    """A message has come: all that wait for its topic get it. An empty retained one takes back the last."""
    if event.retained:
        _retain(books, event)
    for run_id, node in list(books.listening.get(event.topic, ())):
        run = books.runs.get(run_id)
        if run is None or run.state != "running" or node not in run.waits:
            continue  # it ended with one of those before
        _end_wait(books, run, node)
        _receive(books, run, node, event.payload)
        nodes.settle(books, run, node)
        runs.settle_if_stuck(books, run)


def _retain(books: Books, event: MessageArrived) -> None:
    retained = books.retained
    old = retained.pop(event.topic, None)
    if old is not None:
        books.retained_bytes -= len(old) + MESSAGE_BYTES
    if event.payload:
        retained[event.topic] = event.payload
        books.retained_bytes += len(event.payload) + MESSAGE_BYTES
    while books.retained_bytes > RETAINED_BYTES_MAX:
        books.retained_bytes -= len(retained.pop(next(iter(retained)))) + MESSAGE_BYTES


def _receive(books: Books, run: Run, node: int, payload: bytes) -> None:
    value = run.received[node] = payload
    if books.settings.saves and run.parent is None:
        books.out.append(SaveResult(run.run_id, node, run.key(node), 0, value))
    nodes.structural_done(books, run, node)


def _end_wait(books: Books, run: Run, node: int) -> None:
    del run.waits[node]
    if run.graph.spec(node).kind == NodeKind.RECV:
        topic = run.graph.timers[node].topic
        listening = books.listening[topic]
        del listening[(run.frame_id, node)]
        if not listening:
            del books.listening[topic]


def forget(books: Books, run: Run) -> None:
    """The run waits for nothing any more."""
    for node in list(run.waits):
        _end_wait(books, run, node)
