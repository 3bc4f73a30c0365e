"""Clients and the runs that they follow, own, and cancel."""

from __future__ import annotations

import logging

from cascade_dist.v1 import client_pb2
from cascade_scheduler.core.events import RunCancelRequested, RunForgotten
from cascade_scheduler.hub import Hub
from cascade_scheduler.recalling import find
from cascade_scheduler.runs import RunRecord, Waiting
from cascade_scheduler.services.accepting import catch_up, refused
from cascade_scheduler.services.client_session import ClientSession
from cascade_scheduler.store.base import StoreUnavailable

__all__ = [
    "Refusal",
    "attach",
    "cancel",
    "follow",
    "forget_ended",
    "leave",
    "owner_lost",
]

LOOK_SECONDS = 1.0
"""How often it is looked whether anybody follows a run whose owner is lost, at the most."""

logger = logging.getLogger("cascade.scheduler")


class Refusal(Exception):
    """A submit or attach that is not taken."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


def follow(
    hub: Hub,
    session: ClientSession,
    record: RunRecord,
    *,
    logs: bool,
    joined: bool,
    soon: bool = True,
    lines_after: int | None = None,
) -> None:
    """The client is told that the run is accepted, as soon as it is, and from then on what happens to it.

    Without `soon`, a run that ends at once is not accepted first. With `lines_after`, lines of later events
    that were printed before now are told as well.
    """
    if logs:
        hub.logs_wanted(record)
    if record.accepted:
        session.enter(record, logs=logs, joined=joined, soon=soon)
        if logs and lines_after is not None and record.events.has_lines:
            catch_up(session, record, lines_after)
    else:
        record.waiting.append(Waiting(session, logs, joined, soon))


def attach(hub: Hub, session: ClientSession, request: client_pb2.Attach) -> None:
    """A client joins a run that is known."""
    record = hub.runs.get(request.run_id)
    if record is None and hub.keeps_graphs:
        hub.spawn(_attach_later(hub, session, request))
    else:
        _attach(hub, session, request, record)


async def _attach_later(hub: Hub, session: ClientSession, request: client_pb2.Attach) -> None:
    """The same of a run that only the store may know."""
    try:
        record = await find(hub, request.run_id)
    except StoreUnavailable as error:
        session.end(f"the store is away: {error}")  # the client comes again
        return
    if not session.closed:
        _attach(hub, session, request, record)


def _attach(hub: Hub, session: ClientSession, request: client_pb2.Attach, record: RunRecord | None) -> None:
    if record is None:
        text = f"no run {request.run_id!r} is known here: it was never submitted, or it was forgotten"
        session.say(refused(request.run_id, "not_found", text))
        return
    if request.own:
        own(session, record)
    lines_after = request.lines_after if request.HasField("lines_after") else None
    follow(hub, session, record, logs=request.logs, joined=True, lines_after=lines_after)


def own(session: ClientSession, record: RunRecord) -> None:
    """The session takes the run's owner's place, if that has not ended."""
    if not record.live:
        return
    if record.owner is not None:
        record.owner.owned.discard(record)
    record.owner = session
    session.owned.add(record)


def forget_ended(hub: Hub, run_id: str) -> None:
    """A run that has ended, and is resumed, is no longer known as it was."""
    record = hub.runs.get(run_id)
    if record is not None:
        hub.runs.forget(record)
        hub.turn.post(RunForgotten(run_id))


def cancel(hub: Hub, record: RunRecord, reason: str) -> None:
    """The run's work is to stop."""
    if record.live and not record.cancel_requested:
        record.cancel_requested = True
        logger.info("run %s is cancelled: %s", record.run_id, reason)
    hub.turn.post(RunCancelRequested(record.run_id, reason))


def leave(hub: Hub, session: ClientSession, *, orderly: bool) -> None:
    """The session is over: runs that it owns are cancelled where that was wished.

    A client that closed its stream is gone at once; one that was lost has the grace of its run to come back.
    """
    session.close()
    owned, session.owned = session.owned, set()
    for record in owned:
        record.owner = None
        if not record.cancel_on_disconnect or not record.live:
            continue
        if orderly or record.disconnect_grace <= 0:
            cancel(hub, record, "its client has gone")
        else:
            hub.later(record.disconnect_grace, lambda record=record: owner_lost(hub, record))  # type: ignore[misc]


def owner_lost(hub: Hub, record: RunRecord) -> None:
    """A run's owner has not come back in time: it is cancelled, unless somebody follows it."""
    if record.owner is not None or not record.live or hub.runs.get(record.run_id) is not record:
        return
    if record.feeds:  # somebody has come for it, if not its owner
        hub.later(max(LOOK_SECONDS, record.disconnect_grace), lambda: owner_lost(hub, record))
    else:
        cancel(hub, record, f"its client was lost for more than {record.disconnect_grace:g} s")
