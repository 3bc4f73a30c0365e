"""Events as lines of text: for people, or one JSON object a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import IO, Any, Final

from cascade_dist.client import events as ev

__all__ = ["FORMATS", "LEVELS", "EventLines"]

LEVELS: Final[Mapping[str, int]] = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40}
"""Levels by name, as in `logging`."""

_DEBUG, _INFO, _WARNING, _ERROR = LEVELS.values()


def _of(event: ev.Event) -> tuple[int, str]:
    """The level of an event, and what people read of it."""
    known = _TEXTS.get(type(event))
    return known(event) if known is not None else (_INFO, event.kind)


def _run_finished(event: ev.RunFinished) -> tuple[int, str]:
    if event.status == "Failed":
        return _ERROR, f"run {event.run_id} failed after {event.duration:.3f} s: {event.error}"
    return _INFO, f"run {event.run_id} {event.status.lower()} after {event.duration:.3f} s"


def _task_finished(event: ev.TaskExecutionFinished) -> tuple[int, str]:
    if event.status == "Failed":
        return _ERROR, f"{event.task} failed after {event.duration:.3f} s: {event.error}"
    shown = f" → {event.result_preview}" if event.result_preview else ""
    return _INFO, f"{event.task} {event.status.lower()} after {event.duration:.3f} s{shown}"


def _retrying(event: ev.TaskRetrying) -> tuple[int, str]:
    text = f"{event.task} is tried again ({event.attempt} of {event.max_attempts} failed: {event.error})"
    return _WARNING, text + (f" in {event.delay:.3g} s" if event.delay else "")


_TEXTS: Final[dict[type[ev.Event], Callable[[Any], tuple[int, str]]]] = {
    ev.RunStarted: lambda e: (_INFO, f"run {e.run_id} started"),
    ev.RunFinished: _run_finished,
    ev.TaskExecutionStarted: lambda e: (_INFO, f"{e.task} started on {e.worker}"),
    ev.TaskExecutionFinished: _task_finished,
    ev.TaskSkipped: lambda e: (_INFO, f"{e.task} skipped: {e.reason}"),
    ev.TaskRetrying: _retrying,
    ev.TaskBlocked: lambda e: (_INFO, f"{e.task} waits: {e.reason}"),
    ev.TaskLost: lambda e: (_WARNING, f"{e.task} was lost with {e.worker}: {e.reason}"),
    ev.LogLine: lambda e: (_DEBUG, f"{e.task} {e.stream}: {e.text}"),
}


class EventLines:
    """Writes events at or above a level, one line each.

    With ``log_format="json"`` a line is an object with ``timestamp``, ``level``, ``event_id``, ``event`` (the
    kind), ``run_id`` and ``data`` (the event's other fields). A stream that is gone is no error.

    Args:
        log_level: ``"DEBUG"``, ``"INFO"``, ``"WARNING"`` or ``"ERROR"``, in any case.
        log_format: ``"human"`` or ``"json"``.
        stream: None for the standard error stream at the time of each event.

    Raises:
        ValueError: no such level or format.
    """

    def __init__(
        self, log_level: str = "INFO", log_format: str = "human", stream: IO[str] | None = None
    ) -> None:
        level = LEVELS.get(str(log_level).upper())
        if level is None:
            raise ValueError(f"log_level is {log_level!r}: it is one of {', '.join(LEVELS)}")
        if log_format not in FORMATS:
            raise ValueError(f"log_format is {log_format!r}: it is one of {', '.join(FORMATS)}")
        self._level = level
        self._format = FORMATS[log_format]
        self._stream = stream

    def __call__(self, event: ev.Event) -> None:
        """Writes one event, if its level is high enough."""
        level, text = _of(event)
        if level < self._level:
            return
        stream = sys.stderr if self._stream is None else self._stream
        try:
            stream.write(self._format(event, level, text) + "\n")
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # nobody reads any more


def _name(level: int) -> str:
    return next(name for name, number in LEVELS.items() if number == level)


def _human(event: ev.Event, level: int, text: str) -> str:
    at: datetime = event.timestamp.astimezone()
    return f"{at:%H:%M:%S}.{at.microsecond // 1000:03d} {_name(level):<7} {text}"


def _json(event: ev.Event, level: int, text: str) -> str:
    data = event.to_dict()
    head = {
        "timestamp": data.pop("timestamp"),
        "level": _name(level),
        "event_id": data.pop("event_id"),
        "event": data.pop("kind"),
        "run_id": data.pop("run_id"),
        "message": text,
    }
    return json.dumps({**head, "data": data}, ensure_ascii=False)


FORMATS: Final[Mapping[str, Callable[[ev.Event, int, str], str]]] = {"human": _human, "json": _json}
"""How lines can look."""
