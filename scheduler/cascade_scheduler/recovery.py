"""A scheduler takes up the runs that the last one left: out of the store, into core and books.

Runs that had not ended go on by themselves. Those that had ended are read when somebody asks for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

from cascade_dist.codec.cid import cid_to_text
from cascade_dist.v1 import graph_pb2
from cascade_scheduler import resuming
from cascade_scheduler.blobs.base import find_all
from cascade_scheduler.core.commands import EventRecord
from cascade_scheduler.core.events import (
    LastAttempt,
    NextFrame,
    RosterKnown,
    RunRecovered,
    WorkerKnown,
)
from cascade_scheduler.core.graph import Graph
from cascade_scheduler.core.jumps import UnknownName
from cascade_scheduler.core.plans import Plan
from cascade_scheduler.eventlog import Logged
from cascade_scheduler.functions import FunctionBody, WrongBytes
from cascade_scheduler.hub import Hub
from cascade_scheduler.planning import make_plan, plan_key, plan_now
from cascade_scheduler.recalling import record_of, restore_events
from cascade_scheduler.runs import RunRecord
from cascade_scheduler.services.accepting import accept
from cascade_scheduler.services.following import owner_lost
from cascade_scheduler.solving import Unsolvable
from cascade_scheduler.store.base import Place, RunResumed, RunStore, StoredRun
from cascade_scheduler.wire.graphs import GraphAssembly, GraphTooLarge
from cascade_scheduler.wire.values import BadMessage

__all__ = ["CannotGoOn", "recover", "resume"]

PAST_MAX = 100_000
"""Runs that had ended and are listed; of more, the oldest are known by their ids alone."""
LOAD_SECONDS_MAX = 86_400.0
"""How long workers are waited for while runs are read, and nobody can come."""

logger = logging.getLogger("cascade.scheduler")


class CannotGoOn(Exception):
    """A run cannot be taken up; the text says why."""


class _Frame(NamedTuple):
    """The graph that a run is in."""

    graph: Graph
    plan: Plan
    pins: tuple[bytes, ...]
    """Functions and blobs that it needs."""
    size: int


class _Past(NamedTuple):
    """What was told of a run."""

    started: Mapping[str, int]
    """Nodes that have begun and not ended, by their keys: the try."""
    finished: frozenset[str]
    """Nodes that have ended."""
    steps: int
    """Of a loop."""


async def recover(hub: Hub, store: RunStore, grace: float) -> None:
    """Lets all runs go on that had not ended, once the workers of before have come, or after the grace.

    Args:
        hub: where they go on.
        store: where they are; this scheduler leads it.
        grace: seconds.

    Raises:
        StoreError: the store cannot be read.
    """
    heads = await store.heads()
    roster = [WorkerKnown(*worker) for worker in await store.roster()]
    live = [head.run_id for head in heads if head.state == "running"]
    over = [head for head in heads if head.state != "running"]
    hub.past = {head.run_id: head for head in over[-PAST_MAX:]}
    if roster:
        hub.turn.post(RosterKnown(tuple(roster), LOAD_SECONDS_MAX))
    known = frozenset(worker.worker for worker in roster)
    for run_id in live:
        stored = await store.load_run(run_id)
        if stored is not None:
            await _take_up(hub, stored, known, grace)
    if roster:
        hub.turn.post(RosterKnown(tuple(roster), grace))  # from now on they can come
    if live:
        logger.info("%d runs go on when %d workers are back, or after %g s", len(live), len(roster), grace)


async def _take_up(hub: Hub, stored: StoredRun, roster: frozenset[str], grace: float) -> None:
    run_id = stored.created.run_id
    try:
        frame = await _frame(hub, stored)
    except CannotGoOn as error:
        logger.error("run %s cannot go on, and stays as it is stored: %s", run_id, error)
        return
    hub.writer.beginnings.remember(stored)
    record = record_of(stored)
    past = _past(await restore_events(record, stored))
    event = await _event(hub, stored, frame, past, roster)
    _hold(hub, record, frame, event)
    hub.runs.add(record)
    hub.turn.post(event)
    if record.cancel_on_disconnect:
        hub.later(grace + record.disconnect_grace, lambda: owner_lost(hub, record))


def _hold(hub: Hub, record: RunRecord, frame: _Frame, event: RunRecovered) -> None:
    """Keeps what a run needs until it has ended."""
    hub.pin(frame.pins)
    hub.graph_bytes += frame.size
    if event.frame is None:  # else the core says when the frame is over
        record.pinned = (*record.pinned, *frame.pins)
        record.graph_bytes += frame.size
    blobs = tuple(resuming.blobs_of(event.recovered))
    hub.pin(blobs)
    record.pinned = (*record.pinned, *blobs)


async def resume(hub: Hub, stored: StoredRun, record: RunRecord | None = None) -> int:
    """Has a run that failed or was cancelled go on with its results, in the graph that is stored.

    Args:
        hub: where it goes on.
        stored: the run; no other of its id is known to the core.
        record: the shell's books of it; None: they are made.

    Returns:
        how many results there are.

    Raises:
        CannotGoOn: says why.
    """
    frame = await _frame(hub, stored)
    made = record is None
    record = record or record_of(stored)
    record.cancel_requested = False
    event = await _event(hub, stored, frame, _Past({}, frozenset(), 0), frozenset())
    event = event._replace(
        recovered=event.recovered._replace(skipped=frozenset(), waits={}),
        pools=record.pools,
        submitted=hub.now(),
        attempts={},
        delays={},
        failures={},
        cancelled=False,
        begun=False,
        iterations=0,
    )
    hub.writer.beginnings.remember(stored)
    _hold(hub, record, frame, event)
    if made:
        record.cancel_on_disconnect = False  # nobody who asks for it by its id stays for it
        hub.runs.add(record)
    hub.past.pop(record.run_id, None)
    again = RunResumed(record.run_id, hub.now())
    hub.turn.post(event, then=partial(accept, record), records=(again,))
    found = event.recovered
    return len(found.nodes) + sum(map(len, found.children.values()))


# --- the graph ---------------------------------------------------------------------------------------


async def _frame(hub: Hub, stored: StoredRun) -> _Frame:
    """The graph that a run is in, with its plan.

    Raises:
        CannotGoOn: what is stored is no graph, or has no plan any more.
    """
    try:
        return await _graph(hub, stored)
    except (BadMessage, GraphTooLarge, WrongBytes, UnknownName, Unsolvable) as error:
        raise CannotGoOn(str(error)) from error


async def _graph(hub: Hub, stored: StoredRun) -> _Frame:
    created = stored.created
    for function in created.functions:
        body = FunctionBody(function.cid, function.body, function.name, function.code_hash)
        if function.body:
            hub.functions.put(body)
        else:
            hub.functions.put_reference(body)
    assembly = GraphAssembly(nodes_max=hub.bounds.graph_nodes_max, bytes_max=hub.bounds.graph_bytes_max)
    end = graph_pb2.GraphEnd.FromString(created.end)
    pins = [function.cid for function in created.functions]
    for raw in created.chunks:
        chunk = graph_pb2.GraphChunk.FromString(raw)
        assembly.add(chunk)
        await find_all(hub.blobs, [blob.cid for blob in chunk.blobs])
        for blob in chunk.blobs:
            if not hub.blobs.has(blob.cid):
                logger.error(
                    "run %s needs blob %s, which is gone: tasks that need it will fail",
                    created.run_id,
                    cid_to_text(blob.cid),
                )
            pins.append(blob.cid)
        await asyncio.sleep(0)
    graph = assembly.finish(end)
    key = plan_key(hub, assembly.plan_key(end), created.pools)
    if stored.jump is not None:
        graph, key = hub.tails.part_after(graph, key, stored.jump)
    elif graph.jumps:
        graph, key = hub.tails.first_part(graph, key)
    if stored.checkpoint is not None:
        node_id, args = stored.checkpoint
        graph = graph.with_literals(node_id, [args])
    plan = plan_now(hub, graph, key) or await make_plan(hub, graph, key, created.pools)
    return _Frame(graph, plan, tuple(pins), assembly.bytes)


# --- what happened -----------------------------------------------------------------------------------


def _past(events: Iterable[Logged]) -> _Past:
    started: dict[str, int] = {}
    finished: set[str] = set()
    steps = 0
    for event in events:
        if not isinstance(event, EventRecord):
            continue
        if event.kind == "LoopProgress":
            steps = event.iterations
        elif not event.node_id:
            continue
        elif event.kind == "TaskExecutionStarted":
            started[event.node_id] = event.attempt
        elif event.kind in ("TaskLost", "TaskRetrying"):
            started.pop(event.node_id, None)
        elif event.kind == "TaskExecutionFinished":
            started.pop(event.node_id, None)
            finished.add(event.node_id)
    return _Past(started, frozenset(finished), steps)


async def _event(
    hub: Hub, stored: StoredRun, frame: _Frame, past: _Past, roster: frozenset[str]
) -> RunRecovered:
    created, graph = stored.created, frame.graph
    # Nodes of later frames may have the ids of earlier ones, so of them it is not known what was told.
    finished = frozenset() if stored.frame else past.finished
    await find_all(hub.blobs, resuming.stored_blobs(stored))
    recovered = await resuming.results_of(stored, graph, hub.blobs.has, roster, finished)
    waits = {node: due.at for (node, child), due in stored.dues.items() if child < 0 and not due.tries}
    attempts: dict[Place, LastAttempt] = {}
    plain = (((node, -1), last) for node, last in stored.attempts.items())
    for place, last in (*plain, *stored.children.items()):
        begun = past.started.get(_key(graph, place)) == last.try_
        attempts[place] = LastAttempt(last.attempt, last.try_, last.worker, begun, last.behind)
    going_on = NextFrame(graph, frame.plan, b"", frame.pins, frame.size) if stored.frame else None
    return RunRecovered(
        created.run_id,
        graph,
        frame.plan,
        created.name,
        created.on_failure,
        created.logs,
        created.pools,
        created.submitted,
        recovered._replace(waits=waits),
        attempts,
        {place: due for place, due in stored.dues.items() if due.tries},
        stored.failures,
        stored.cancelled,
        going_on,
        stored.counts,
        stored.frame,
        stored.iterations,
        bool(stored.events),
        past.steps,
    )


def _key(graph: Graph, place: Place) -> str:
    """The key of a node's result, which names it in events too."""
    node, child = place
    text = graph.node_id(node).hex()
    return text if child < 0 else f"{text}[{child}]"
