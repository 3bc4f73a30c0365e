"""What clients are told of runs that they have submitted or joined: accepted, refused, or over at once."""

from __future__ import annotations

from cascade_dist.v1 import client_pb2
from cascade_scheduler.eventlog import LogLine
from cascade_scheduler.runs import RunRecord
from cascade_scheduler.services.client_session import ClientSession

__all__ = ["accept", "catch_up", "refused", "tell_end"]

_CODES = {
    "invalid": client_pb2.REFUSAL_CODE_INVALID,
    "conflict": client_pb2.REFUSAL_CODE_CONFLICT,
    "not_found": client_pb2.REFUSAL_CODE_NOT_FOUND,
    "infeasible": client_pb2.REFUSAL_CODE_INFEASIBLE,
    "too_large": client_pb2.REFUSAL_CODE_TOO_LARGE,
    "draining": client_pb2.REFUSAL_CODE_DRAINING,
}


def refused(run_id: str, code: str, message: str) -> client_pb2.OpenResponse:
    """The message that says no."""
    return client_pb2.OpenResponse(
        refused=client_pb2.Refused(run_id=run_id, code=_CODES[code], message=message)
    )


def accept(record: RunRecord) -> None:
    """The run is in the core and in the store, or was refused: tells those that wait.

    When its end has landed with its beginning, its only client hears both in one: see `tell_end`.
    """
    waiting = record.waiting
    record.accepted = record.refused is None
    both = record.foreseen is not None and record.late is not None and record.ended is None
    if not both or len(waiting) != 1 or waiting[0].soon:
        _accept(record)  # else the end, which may take as long as the store is away, would be waited for


def tell_end(record: RunRecord) -> None:
    """Tells who still waits for a run to be accepted that it has ended."""
    session, logs, _, _ = record.waiting[0]
    foreseen = record.foreseen
    if (
        len(record.waiting) == 1
        and foreseen is not None
        and foreseen.data
        and foreseen.is_all_of(record)
        and not (logs and record.events.has_lines)
        and session.outbox.write_now(foreseen.data)
    ):
        record.waiting = []
    else:
        _accept(record)


def _accept(record: RunRecord) -> None:
    waiting, record.waiting = record.waiting, []
    for session, logs, joined, soon in waiting:
        if session.closed:
            continue
        if record.refused is not None:
            session.say(refused(record.run_id, record.refused.code, record.refused.message))
        else:
            session.enter(record, logs=logs, joined=joined, soon=soon)
            if logs and record.events.has_lines:
                catch_up(session, record, 0)  # tasks do not wait for the store


def catch_up(session: ClientSession, record: RunRecord, after: int) -> None:
    """Lines that tasks printed while the client could not be told."""
    feed = session.feeds[record.run_id]
    events, _ = record.events.since(after, record.events.last)
    for event_id, event in events:
        if isinstance(event, LogLine):
            feed.add_line(event_id, event)
    if feed.lines:
        session.news(feed)
