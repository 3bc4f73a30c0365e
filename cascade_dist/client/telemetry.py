"""Events as messages for other programs: what a run publishes through a connector.

The topic of a run is ``cascade/telemetry/ORG/PROJECT/RUN/events``; organisation and project come from
``CASCADE_ORG_ID`` and ``CASCADE_PROJECT_ID``. A message is a flat head and a ``body`` with a ``type``.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from cascade_dist.client import events as ev

__all__ = ["ENGINE_STARTED", "ENGINE_STOPPED", "body_of", "lifecycle", "message", "topic_of"]

VERSION: Final = "1.0"
ENGINE_STARTED: Final = "ENGINE_STARTED"
ENGINE_STOPPED: Final = "ENGINE_STOPPED"

_STATES: Final = {"Succeeded": "COMPLETED", "Failed": "FAILED", "Cancelled": "CANCELLED"}


def _org() -> str:
    return os.environ.get("CASCADE_ORG_ID", "local")


def _project() -> str:
    return os.environ.get("CASCADE_PROJECT_ID", "default")


def topic_of(run_id: str) -> str:
    """Where a run's messages are published."""
    return f"cascade/telemetry/{_org()}/{_project()}/{run_id}/events"


def message(run_id: str, body: dict[str, Any], at: datetime | None = None) -> dict[str, Any]:
    """A body with its head."""
    return {
        "v": VERSION,
        "ts": (at or datetime.now(UTC)).isoformat(),
        "run_id": run_id,
        "org_id": _org(),
        "project_id": _project(),
        "source": f"{platform.node()}-{os.getpid()}",
        "body": body,
    }


def lifecycle(name: str) -> dict[str, Any]:
    """The body that says that a run's engine has started or stopped."""
    return {"type": "LifecycleEvent", "event": name}


def _state(event: ev.TaskEvent, state: str, **more: Any) -> dict[str, Any]:
    head = {"type": "TaskStateEvent", "task_id": event.node_id, "task_name": event.task, "state": state}
    return {**head, **more}


def _finished(event: ev.TaskExecutionFinished) -> dict[str, Any]:
    state = _STATES.get(event.status, event.status.upper())
    return _state(event, state, duration_ms=round(event.duration * 1000, 3), error=event.error)


_BODIES: Final[dict[type[ev.Event], Callable[[Any], dict[str, Any]]]] = {
    ev.TaskExecutionStarted: lambda e: _state(e, "RUNNING"),
    ev.TaskExecutionFinished: _finished,
    ev.TaskSkipped: lambda e: _state(e, "SKIPPED", reason=e.reason),
    ev.TaskRetrying: lambda e: _state(
        e, "RETRYING", attempt=e.attempt, max_attempts=e.max_attempts, error=e.error
    ),
    ev.TaskBlocked: lambda e: _state(e, "BLOCKED", reason=e.reason),
}


def body_of(event: ev.Event) -> dict[str, Any] | None:
    """What is published of an event; None: nothing."""
    make = _BODIES.get(type(event))
    return make(event) if make is not None else None
