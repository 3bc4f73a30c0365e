"""Runs of earlier schedulers in the books of the shell: their records, events, and how they ended."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

from cascade_dist.v1 import client_pb2
from cascade_scheduler import resuming
from cascade_scheduler.core.commands import EventRecord
from cascade_scheduler.core.values import BlobValue, Value
from cascade_scheduler.eventlog import Logged
from cascade_scheduler.hub import Hub
from cascade_scheduler.runs import RunRecord, SubmitFacts
from cascade_scheduler.store.base import StoredRun
from cascade_scheduler.wire.event_bytes import EventsUnreadable, events_from_bytes
from cascade_scheduler.wire.updates import finish_from

__all__ = ["find", "recall", "record_of", "restore_events"]

logger = logging.getLogger("cascade.scheduler")

EVENTS_AT_ONCE = 5_000
"""So many events are read before others have their turn."""


def record_of(stored: StoredRun) -> RunRecord:
    """The shell's books of a run that is stored."""
    created = stored.created
    facts = SubmitFacts(
        target_id=created.target_id,
        template_id=created.template_id,
        params_digest=created.params_digest,
        node_count=created.node_count,
        on_failure=created.on_failure,
    )
    record = RunRecord(created.run_id, created.name, facts, logs=created.logs, submitted=created.submitted)
    record.params = created.params
    record.pools = created.pools
    record.cancel_on_disconnect = created.cancel_on_disconnect
    record.disconnect_grace = created.disconnect_grace
    record.cancel_requested = stored.cancelled
    record.accepted = True
    return record


async def restore_events(record: RunRecord, stored: StoredRun) -> Sequence[Logged]:
    """Fills a run's event log with what is stored; returns that."""
    events: list[tuple[int, Logged]] = []
    for first, payload in stored.events.items():
        try:
            events += events_from_bytes(payload, record.run_id)
        except EventsUnreadable as error:
            logger.warning("run %s: events from %d on are left out: %s", record.run_id, first, error)
        if len(events) % EVENTS_AT_ONCE > EVENTS_AT_ONCE // 2:
            await asyncio.sleep(0)
    record.events.restore(events)
    record.stored_through = record.events.last
    record.pieces = deque((*(record.pieces or ()), *stored.events))
    return [event for _, event in events]


async def find(hub: Hub, run_id: str) -> RunRecord | None:
    """A run that clients may ask for, if need be from the store; None when it is not known.

    Raises:
        StoreUnavailable: the store cannot be asked now.
    """
    record = hub.runs.get(run_id)
    if record is None and hub.keeps_graphs:
        stored = await resuming.load(hub.writer, run_id)
        if stored is not None:
            record = await recall(hub, stored)
    return record


async def recall(hub: Hub, stored: StoredRun) -> RunRecord | None:
    """Makes a run known that had ended before this scheduler began; None when it cannot be told how."""
    run_id, answer = stored.created.run_id, stored.answer
    known = hub.runs.get(run_id)
    if known is not None or answer is None or stored.state == "running":
        return known
    record = record_of(stored)
    events = await restore_events(record, stored)
    known = hub.runs.get(run_id)
    if known is not None:  # somebody else asked meanwhile
        return known
    results: list[tuple[int, Value]] = []
    for node, key in answer.keys:
        result = stored.results.get(key)
        if result is not None:
            results.append((node, result.value))
    record.results = results
    record.ended = record.ending = finish_from(client_pb2.RunFinish.FromString(answer.finish), run_id)
    if not any(event.kind == "RunFinished" for event in events if isinstance(event, EventRecord)):
        ended = record.ended[0]
        status = {"succeeded": "Succeeded", "failed": "Failed", "cancelled": "Cancelled"}[ended.state]
        told = "" if ended.error is None else f"{ended.error.type}: {ended.error.message}"
        at = record.submitted + ended.duration
        over = EventRecord(run_id, "RunFinished", at, status=status, error=told, duration=ended.duration)
        record.events.publish(record.events.append(over))
    record.recalled = True
    record.kept = [value.cid for _, value in results if isinstance(value, BlobValue)]
    hub.blobs.pin(record.kept)
    hub.runs.add_ended(record)
    return record
