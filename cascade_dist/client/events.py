"""What happens to a run, as frozen records.

`Run.events()` gives them in order of ``event_id``, which counts from 1 in each run. A kind that this version
does not know arrives as a plain `Event` with its name in ``kind``, so that a newer scheduler breaks nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from cascade_dist.v1 import client_pb2 as pb

__all__ = [
    "Event",
    "LogLine",
    "LoopProgress",
    "ResourceAcquired",
    "ResourceReleased",
    "RunFinished",
    "RunStarted",
    "TaskBlocked",
    "TaskEvent",
    "TaskExecutionFinished",
    "TaskExecutionStarted",
    "TaskLost",
    "TaskRetrying",
    "TaskSkipped",
]


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a run.

    Attributes:
        event_id: ordered per run, from 1.
        timestamp: when, by the scheduler's clock, in UTC.
        run_id: the run.
        kind: the event's name, such as ``"TaskRetrying"``.
    """

    event_id: int
    timestamp: datetime
    run_id: str
    kind: str

    def to_dict(self) -> dict[str, Any]:
        """The event as plain values, for JSON."""
        return {**dataclasses.asdict(self), "timestamp": self.timestamp.isoformat()}


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """The run's first task may start."""


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """The run has ended; nothing comes after it.

    Attributes:
        status: ``Succeeded``, ``Failed`` or ``Cancelled``.
        duration: seconds from start to end.
        error: ``Type: message`` when it failed, else empty.
    """

    status: str
    duration: float
    error: str


@dataclass(frozen=True, slots=True)
class TaskEvent(Event):
    """Something that happened to one task.

    Attributes:
        task: the task's name; a map's child has its index in brackets.
        node_id: the node's structural id as hex.
    """

    task: str
    node_id: str


@dataclass(frozen=True, slots=True)
class TaskExecutionStarted(TaskEvent):
    """A worker runs the task for the first time."""

    worker: str


@dataclass(frozen=True, slots=True)
class TaskExecutionFinished(TaskEvent):
    """The task has its outcome.

    Attributes:
        status: ``Succeeded``, ``Failed`` or ``Cancelled``.
        duration: seconds of the last attempt.
        result_preview: the value as text, at most 100 characters.
        error: ``Type: message`` when it failed, else empty.
        worker: where it ran.
    """

    status: str
    duration: float
    result_preview: str
    error: str
    worker: str


@dataclass(frozen=True, slots=True)
class TaskSkipped(TaskEvent):
    """The task will not run; ``reason`` is such as ``ConditionFalse``."""

    reason: str


@dataclass(frozen=True, slots=True)
class TaskRetrying(TaskEvent):
    """An attempt failed and another will be made.

    Attributes:
        attempt: the try that failed, from 1.
        max_attempts: the most there will be.
        delay: seconds until the next try.
        error: ``Type: message``.
    """

    attempt: int
    max_attempts: int
    delay: float
    error: str


@dataclass(frozen=True, slots=True)
class TaskBlocked(TaskEvent):
    """The task is ready and may not start: ``ConstraintViolation`` or ``ResourceContention``."""

    reason: str


@dataclass(frozen=True, slots=True)
class TaskLost(TaskEvent):
    """An attempt was lost with its executor or worker; the task runs again within its budget."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class ResourceAcquired(TaskEvent):
    """A resource was set up for a task.

    Attributes:
        resource: its name.
        duration: seconds that it took.
        worker: where.
    """

    resource: str
    duration: float
    worker: str


@dataclass(frozen=True, slots=True)
class ResourceReleased(TaskEvent):
    """A resource was torn down; ``task`` is empty when that was not for one.

    Attributes:
        resource: its name.
        reason: empty; ``killed`` when no teardown ran; ``Type: message`` of what the teardown raised.
        duration: seconds that it took.
        worker: where.
    """

    resource: str
    reason: str
    duration: float
    worker: str


@dataclass(frozen=True, slots=True)
class LoopProgress(Event):
    """A run that goes on as what its task returns has come so far; told once a second at most.

    Steps that come fast have no events of their own beside this one.
    """

    iterations: int


@dataclass(frozen=True, slots=True)
class LogLine(TaskEvent):
    """A line that a task wrote; ``stream`` is ``stdout`` or ``stderr``."""

    stream: str
    text: str
    worker: str


STREAMS = ("stdout", "stdout", "stderr")
"""Names of the wire's `LogStream`, by number."""


def seconds(duration: Duration) -> float:
    """A wire duration in seconds."""
    return duration.seconds + duration.nanos / 1e9


def _head(run_id: str, event: pb.Event) -> tuple[int, datetime, str, str]:
    return event.event_id, event.timestamp.ToDatetime(tzinfo=UTC), run_id, event.kind


def _task(run_id: str, event: pb.Event) -> tuple[int, datetime, str, str, str, str]:
    return (*_head(run_id, event), event.task, event.node_id)


_DECODERS: dict[str, Callable[[str, pb.Event], Event]] = {
    "RunStarted": lambda run, e: RunStarted(*_head(run, e)),
    "RunFinished": lambda run, e: RunFinished(*_head(run, e), e.status, seconds(e.duration), e.error),
    "TaskExecutionStarted": lambda run, e: TaskExecutionStarted(*_task(run, e), e.worker),
    "TaskExecutionFinished": lambda run, e: TaskExecutionFinished(
        *_task(run, e), e.status, seconds(e.duration), e.result_preview, e.error, e.worker
    ),
    "TaskSkipped": lambda run, e: TaskSkipped(*_task(run, e), e.reason),
    "TaskRetrying": lambda run, e: TaskRetrying(
        *_task(run, e), e.attempt, e.max_attempts, seconds(e.delay), e.error
    ),
    "TaskBlocked": lambda run, e: TaskBlocked(*_task(run, e), e.reason),
    "TaskLost": lambda run, e: TaskLost(*_task(run, e), e.worker, e.reason),
    "ResourceAcquired": lambda run, e: ResourceAcquired(
        *_task(run, e), e.resource, seconds(e.duration), e.worker
    ),
    "ResourceReleased": lambda run, e: ResourceReleased(
        *_task(run, e), e.resource, e.reason, seconds(e.duration), e.worker
    ),
    "LoopProgress": lambda run, e: LoopProgress(*_head(run, e), e.iterations),
    "LogLine": lambda run, e: LogLine(*_task(run, e), STREAMS[e.stream], e.text, e.worker),
}


def decode_event(run_id: str, event: pb.Event) -> Event:
    """The record of an event of the wire."""
    decoder = _DECODERS.get(event.kind)
    return decoder(run_id, event) if decoder else Event(*_head(run_id, event))
