"""Watching telemetry: messages as lines for people."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import IO, Any, Final

__all__ = ["TelemetryObserver"]

TOPIC: Final = "cascade/telemetry/+/+/+/events"
"""What to subscribe to for the telemetry of all runs."""
_RUNS_MAX: Final = 10_000


class TelemetryObserver:
    """Writes the telemetry of any number of runs, a head line for each run once.

    Args:
        stream: None for the standard output stream at the time of each message.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream
        self._seen: OrderedDict[str, None] = OrderedDict()

    async def on_message(self, topic: str, payload: Any) -> None:
        """Takes a message; give it to `Connector.subscribe`. What is no telemetry is left out."""
        if not isinstance(payload, dict):
            return
        run_id, body = payload.get("run_id"), payload.get("body")
        if not run_id or not isinstance(body, dict):
            return
        if run_id not in self._seen:
            self._seen[run_id] = None
            if len(self._seen) > _RUNS_MAX:
                self._seen.popitem(last=False)
            self._write(f"run {run_id}")
        self._write(f"  {_text_of(body)}")

    def _write(self, line: str) -> None:
        stream = sys.stdout if self._stream is None else self._stream
        stream.write(line + "\n")
        stream.flush()


def _text_of(body: dict[str, Any]) -> str:
    if body.get("type") == "LifecycleEvent":
        return str(body.get("event", "?"))
    if body.get("type") != "TaskStateEvent":
        return f"unknown telemetry: {body.get('type')!r}"
    text = f"{body.get('state', '?'):<10} {body.get('task_name', '?')}"
    if (duration := body.get("duration_ms")) is not None:
        text += f" ({duration:.1f} ms)"
    why = body.get("error") or body.get("reason")
    return f"{text}: {why}" if why else text
