"""Why a node is where it is, in sentences, the most important one first.

What is said comes from the books as they are, and from the node's own events: never from a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cascade_scheduler.core import feasible, waiting
from cascade_scheduler.core.books import Books
from cascade_scheduler.core.commands import EventRecord
from cascade_scheduler.core.flow import (
    CACHE_HIT,
    CONDITION_FALSE,
    CONDITION_MISSING,
    PRUNED,
    SKIPPED_CONDITION,
    SKIPPED_DATA,
    SKIPPED_ROUTE,
    SKIPPED_SEQUENCE,
)
from cascade_scheduler.core.graph import EdgeKind, NodeKind
from cascade_scheduler.core.run import (
    ACTIVE,
    DELAYED,
    DONE,
    FAILED,
    NESTED,
    READY,
    SKIPPED,
    STATE_NAMES,
    WAITING,
    Run,
)
from cascade_scheduler.core.views import NodeInfo
from cascade_scheduler.core.worker import Worker

__all__ = ["Explanation", "explain", "find_nodes"]

NAMES_MAX = 5
CHAIN_MAX = 20
PREFIX_CHARS_MIN = 4
INDEX_CHARS_MAX = 9
FOUND_MAX = 100


class Explanation(NamedTuple):
    """A node in short, its id, and why."""

    info: NodeInfo
    node_id: str
    reasons: tuple[str, ...]


def find_nodes(run: Run, text: str, limit: int = FOUND_MAX) -> list[int]:
    """The nodes that a text means: an index, a task's name, or the beginning of a structural id."""
    if text.isdigit() and len(text) <= INDEX_CHARS_MAX and int(text) < len(run.status):
        return [int(text)]
    nodes = range(len(run.status))
    found = _first((node for node in nodes if run.task(node) == text), limit)
    if not found:
        found = _first((node for node in nodes if run.spec(node).name == text and run.runs_code(node)), limit)
    if not found and len(text) >= PREFIX_CHARS_MIN:
        found = _first((node for node in nodes if run.key(node).startswith(text.lower())), limit)
    return found


def _first(nodes: Iterator[int], limit: int) -> list[int]:
    return [node for node, _ in zip(nodes, range(limit), strict=False)]


def explain(books: Books, run: Run, node: int, history: Sequence[EventRecord] = ()) -> Explanation:
    """Why a node is where it is.

    Args:
        books: the core's.
        run: the run.
        node: the node.
        history: the node's events, in order.
    """
    status = run.status[node]
    worker = ""
    attempt = books.attempts.get(run.nodes_active.get(node, 0))
    if attempt is not None:
        worker = attempt.worker.name
    reasons = [*_WHY[status](books, run, node, history), *_past(run, node, history)]
    if run.state == "cancelling" and status not in (DONE, SKIPPED, FAILED):
        reasons.insert(0, "The run is being stopped, so it will not run.")
    elif not run.live and status not in (DONE, SKIPPED, FAILED):
        reasons = [f"The run has ended ({run.state}), so it will not run.", *_past(run, node, history)]
    info = NodeInfo(node, run.task(node), STATE_NAMES[status], worker, "")
    return Explanation(info, run.key(node), tuple(reasons))


# --- where it is -----------------------------------------------------------------------------------------


def _waits(books: Books, run: Run, node: int, history: Sequence[EventRecord]) -> Iterator[str]:
    if not run.live:
        return
    if run.shut(node):
        yield "It waits until a router has chosen it: nothing else needs it."
    if run.cached is not None and node in run.cached.asked:
        yield "It waits for an answer of the cluster's cache."
    for observed, parked in run.parked.items():
        if node in parked:
            yield f"It waits until a worker has looked at the value of {run.task(observed)!r}."
    if node in run.waits:
        yield from _timer(books, run, node)
    origin, index = run.origin(node)
    if index >= 0:
        yield f"It is a child of the map {run.task(origin)!r}, one of whose lists is being made again."
    open_edges = [
        (source, kind)
        for source, kind in run.graph.sources(origin)
        if kind != EdgeKind.ROUTE and run.status[source] not in (DONE, SKIPPED)
    ]
    for what, kinds in _NEEDS:
        names = [f"{run.task(s)!r} ({_state(run, s)})" for s, kind in open_edges if kind in kinds]
        if names:
            yield f"It waits for {what}: {_listed(names)}."
    if origin in run.expansions and run.map_left.get(origin):
        size = run.expansions[origin].size
        yield f"It waits for its children: {size - run.map_left[origin]} of {size} have finished."
    if run.error is not None and any(run.status[s] == FAILED for s, _ in open_edges):
        yield "What it needs has failed, so it will never run."


_NEEDS = (
    ("its condition", (EdgeKind.CONDITION, EdgeKind.GATE)),
    ("what has to be over before it", (EdgeKind.SEQUENCE,)),
    ("the selector that chooses a route", (EdgeKind.SELECTOR,)),
    ("its inputs", (EdgeKind.DATA, EdgeKind.ITEMS)),
    ("its amounts", (EdgeKind.AMOUNT,)),
)


def _timer(books: Books, run: Run, node: int) -> Iterator[str]:
    due = next((at for at, number, _, _ in books.timers if number == run.waits[node]), None)
    left = "" if due is None else f"{max(0.0, due - books.now):.1f} s"
    if run.graph.spec(node).kind == NodeKind.RECV:
        bound = f", for {left} at most" if left else ""
        yield f"It listens to the topic {run.graph.timers[node].topic!r}{bound}."
    else:
        yield f"It waits for time to pass: {left} more."


def _is_ready(books: Books, run: Run, node: int, history: Sequence[EventRecord]) -> Iterator[str]:
    usable = [worker for worker in books.workers.values() if worker.usable]
    cls = books.queues.line_of(run, node)
    told = waiting.reason(books, run, node)
    if not usable:
        yield "It is ready, but there is no worker that takes work: start one with `cascade-worker`."
    elif (run.run_id, cls) in books.infeasible:
        since = books.now - books.infeasible[run.run_id, cls]
        left = books.settings.infeasible_after - since
        error = feasible.never(books, run.task(node), cls)
        yield f"It is ready, but {error}; if no such worker comes within {max(0.0, left):.0f} s, it fails."
    elif told.startswith("held by"):
        yield f"It is ready, and {told}."
    elif told.startswith("waits for a free worker"):
        have = _free(usable, cls.amounts)
        yield f"It is ready, and waits for a worker with {_amounts(cls.amounts)} free: {have}."
    else:
        yield f"It is ready, and {told}."
    ahead = run.ready - 1
    if ahead > 0:
        yield f"Of this run {ahead} other node{'s are' if ahead > 1 else ' is'} ready too."


def _amounts(amounts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name}={feasible.plain(micros)}" for name, micros in amounts) or "a place"


def _free(workers: Sequence[Worker], amounts: Iterable[tuple[str, int]]) -> str:
    told = []
    for worker in workers:
        have = [
            f"{feasible.plain(max(0, worker.free.get(name, 0)))} of "
            f"{feasible.plain(worker.amounts.get(name, 0))} {name}"
            for name, _ in amounts
        ]
        told.append(f"{worker.name} has {' and '.join(have) or 'no place'}")
    return _listed(told)


def _is_active(books: Books, run: Run, node: int, history: Sequence[EventRecord]) -> Iterator[str]:
    attempt = books.attempts[run.nodes_active[node]]
    name = attempt.worker.name
    try_ = f"attempt {attempt.try_}"
    began = [record for record in history if record.kind == "TaskExecutionStarted"]
    if not attempt.worker.connected:
        yield f"It is on worker {name!r} ({try_}), which is disconnected; if that lasts, it goes to another."
    if not attempt.charged:
        before = attempt.worker.sync_running
        yield f"It was sent ahead to worker {name!r}, where it waits behind {before} that run."
    elif attempt.started and began:
        yield f"It runs on worker {name!r} for {_since(books, began[-1].at)} ({try_})."
    elif attempt.spec.cache_policy:
        yield f"It is on worker {name!r} ({try_}), where its caching policy is asked first."
    else:
        yield f"It is on worker {name!r} ({try_}), which has not said that it began."


def _is_delayed(books: Books, run: Run, node: int, history: Sequence[EventRecord]) -> Iterator[str]:
    number = run.delays.get(node)
    due = next((at for at, n, _, _ in books.delayed if n == number), None)
    left = "soon" if due is None else f"in {max(0.0, due - books.now):.1f} s"
    failed = run.tries.get(node, 0)
    yield f"It is tried again {left}: {failed} attempt{'s' if failed > 1 else ''} failed."


def _is_nested(books: Books, run: Run, node: int, history: Sequence[EventRecord]) -> Iterator[str]:
    child = run.nested[node]
    yield f"It returned a graph that is run in its place: {child.done} of {child.total} nodes are done."


# --- how it ended ----------------------------------------------------------------------------------------


def _is_done(books: Books, run: Run, node: int, history: Sequence[EventRecord]) -> Iterator[str]:
    cached = run.cached
    if run.is_recovered(node):
        yield "It did not run again: it was done before the run was resumed."
        return
    if run.is_hit(node):
        yield "It did not run: the cluster's cache has its value."
        return
    if any(record.kind == "TaskSkipped" and record.reason == CACHE_HIT for record in history):
        yield "It did not run: its caching policy had its value."
        return
    if not run.runs_code(node):
        yield "It runs no code: its value is made of what it is given."
        return
    ended = [record for record in history if record.kind == "TaskExecutionFinished"]
    if ended:
        last = ended[-1]
        yield f"It ran on worker {last.worker!r} in {last.duration:.3g} s (attempt {last.attempt})."
    else:
        yield "It ran."
    if cached is not None and node in cached.misses:
        yield f"The cluster's cache had no value for it: {cached.misses[node]}."


def _is_skipped(books: Books, run: Run, node: int, history: Sequence[EventRecord]) -> Iterator[str]:
    told = []
    at = node
    for _ in range(CHAIN_MAX):
        skip = run.skips[at]
        told.append(_skip_text(run, skip.reason, skip.source))
        deeper = skip.reason in _PASSED_ON and skip.source in run.skips
        if not deeper:
            break
        at = skip.source
    yield f"It was skipped, because {', because '.join(told)}."
    alias = run.resolve(node)
    if alias != node:
        yield f"What needs its value gets that of {run.task(alias)!r} instead."


_PASSED_ON = frozenset((SKIPPED_CONDITION, SKIPPED_SEQUENCE, SKIPPED_DATA, SKIPPED_ROUTE))


def _skip_text(run: Run, reason: str, source: int) -> str:
    name = repr(run.task(source))
    if reason == PRUNED:
        if run.is_hit(source):
            return f"nothing needs it: the cluster's cache had the value of {name}"
        chosen = run.picks.source.get(source) if run.picks is not None else None
        took = "" if chosen is None else f", which was {run.task(chosen)!r}"
        return f"nothing needs it: the router chose another route{took}"
    texts = {
        CONDITION_FALSE: f"its condition {name} was false",
        CONDITION_MISSING: f"its condition {name} has no result",
        SKIPPED_CONDITION: f"its condition {name} was skipped",
        SKIPPED_SEQUENCE: f"{name}, which comes before it, was skipped",
        SKIPPED_DATA: f"its input {name} was skipped",
        SKIPPED_ROUTE: "the route that was chosen for it was skipped",
    }
    return texts.get(reason, f"of {reason} ({name})")


def _is_failed(books: Books, run: Run, node: int, history: Sequence[EventRecord]) -> Iterator[str]:
    ended = [record for record in history if record.kind == "TaskExecutionFinished" and record.error]
    if ended:
        last = ended[-1]
        on = f" on worker {last.worker!r}" if last.worker else ""
        yield f"It failed{on} after {last.duration:.3g} s (attempt {last.attempt}): {last.error}."
    elif run.error is not None and run.failed_task == run.task(node):
        yield f"It failed: {run.error.type}: {run.error.message}."
    else:
        yield "It failed."


_WHY = {
    WAITING: _waits,
    READY: _is_ready,
    ACTIVE: _is_active,
    DELAYED: _is_delayed,
    DONE: _is_done,
    SKIPPED: _is_skipped,
    FAILED: _is_failed,
    NESTED: _is_nested,
}


# --- what happened before --------------------------------------------------------------------------------


def _past(run: Run, node: int, history: Sequence[EventRecord]) -> Iterator[str]:
    for record in history:
        if record.kind == "TaskRetrying":
            yield (
                f"Attempt {record.attempt} of {record.max_attempts} failed ({record.error}); the next came "
                f"after {record.delay:.3g} s."
            )
        elif record.kind == "TaskLost":
            yield f"An attempt on worker {record.worker!r} was lost: {record.reason}."
    if node in run.finished_once and run.runs_code(node) and run.live:
        yield "Its value was lost with its holder, and is made again."


def _state(run: Run, node: int) -> str:
    if run.shut(node):
        return "not chosen yet"
    return STATE_NAMES[run.status[node]]


def _since(books: Books, at: float) -> str:
    return f"{max(0.0, books.now - at):.1f} s"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_MAX])
    more = len(names) - NAMES_MAX
    return f"{shown} and {more} more" if more > 0 else shown
