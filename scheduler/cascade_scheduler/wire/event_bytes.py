"""Events as bytes for the store: what `event_to` says, written down without a message where that is common.

Two events are stored for each task, so making messages of them cost a fifth of what a scheduler with its
state in Redis does. Protobuf takes fields in any order, and numbers with more bytes than they need; both is
used.
"""

from __future__ import annotations

from functools import lru_cache

from cascade_dist.v1 import client_pb2
from cascade_dist.wire.fields import field, tag
from cascade_scheduler.core.commands import EventRecord
from cascade_scheduler.eventlog import Logged
from cascade_scheduler.wire.updates import event_to
from cascade_scheduler.wire.values import split_seconds

__all__ = ["event_field"]

_EVENTS = tag(client_pb2.WatchResponse.EVENTS_FIELD_NUMBER)
_ID = bytes([client_pb2.Event.EVENT_ID_FIELD_NUMBER << 3])
_TIMESTAMP = tag(client_pb2.Event.TIMESTAMP_FIELD_NUMBER)
_DURATION = tag(client_pb2.Event.DURATION_FIELD_NUMBER)
_NODE_ID = tag(client_pb2.Event.NODE_ID_FIELD_NUMBER)
_PREVIEW = tag(client_pb2.Event.RESULT_PREVIEW_FIELD_NUMBER)
_SECONDS, _NANOS = b"\x08", b"\x10"
"""Tags of the two numbers of a time."""


def event_field(event_id: int, logged: Logged, node_id: str) -> bytes:
    """An event as a field of a serialized WatchResponse."""
    if type(logged) is not EventRecord or _is_rare(logged):
        return field(_EVENTS, event_to(event_id, logged, node_id).SerializeToString())
    parts = [
        _ID,
        _number(event_id),
        _TIMESTAMP,
        _time(*split_seconds(logged.at)),
        _same(logged.kind, logged.task, logged.status, logged.worker, logged.attempt, logged.max_attempts),
    ]
    if node_id:
        parts.append(field(_NODE_ID, node_id.encode()))
    if logged.preview:
        parts.append(field(_PREVIEW, logged.preview.encode()))
    if logged.status:
        parts += (_DURATION, _time(*split_seconds(logged.duration)))
    return field(_EVENTS, b"".join(parts))


def _is_rare(event: EventRecord) -> bool:
    return bool(event.reason or event.error or event.delay or event.iterations or event.resource)


@lru_cache(maxsize=4_096)
def _same(kind: str, task: str, status: str, worker: str, attempt: int, max_attempts: int) -> bytes:
    """What many events have in common."""
    event = client_pb2.Event(
        kind=kind, task=task, status=status, worker=worker, attempt=attempt, max_attempts=max_attempts
    )
    return event.SerializeToString()


def _number(number: int) -> bytes:
    """A number below 2**35, in five bytes."""
    return bytes(
        (
            number & 0x7F | 0x80,
            number >> 7 & 0x7F | 0x80,
            number >> 14 & 0x7F | 0x80,
            number >> 21 & 0x7F | 0x80,
            number >> 28 & 0x7F,
        )
    )


def _time(seconds: int, nanos: int) -> bytes:
    """A point in time or a duration, behind its tag."""
    return b"\x0c" + _SECONDS + _whole(seconds) + _NANOS + _number(nanos)


@lru_cache(maxsize=64)
def _whole(seconds: int) -> bytes:
    return _number(seconds)
