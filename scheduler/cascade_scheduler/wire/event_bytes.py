"""Events as bytes for the store: JSON, a row for each.

Two events are stored for each task, so they are a good part of what a scheduler with its state in Redis does.
Rows are the tuples that events are, which the encoder takes without a step in Python.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from cascade_scheduler.core.commands import EventRecord
from cascade_scheduler.eventlog import Logged, LogLine

__all__ = ["EventsUnreadable", "events_from_bytes", "events_to_bytes"]

_RECORD_FIELDS = len(EventRecord._fields) - 1
_LINE_FIELDS = len(LogLine._fields) - 1


class EventsUnreadable(Exception):
    """These bytes hold no events that this version knows."""


def events_to_bytes(events: Iterable[tuple[int, Logged]], name_of: Callable[[Logged], str]) -> bytes:
    """Events of one run.

    Args:
        events: with their ids.
        name_of: gives the node id of an event that has none.
    """
    rows = []
    node, name = -1, ""
    for number, logged in events:
        known = logged.node_id
        if not known:
            if logged.node != node:  # what is told of a node comes together
                node, name = logged.node, name_of(logged)
            known = name
        rows.append((number, known, *logged[1:]))
    try:
        return orjson.dumps(rows)
    except orjson.JSONEncodeError:  # text that is not Unicode throughout, such as the name of a file
        return json.dumps(rows).encode()


def events_from_bytes(data: bytes, run_id: str) -> list[tuple[int, Logged]]:
    """The reverse; a node is known by its id alone.

    Raises:
        EventsUnreadable: it is something else.
    """
    try:
        return [(int(number), _logged(run_id, str(name), row)) for number, name, *row in json.loads(data)]
    except (ValueError, TypeError, IndexError) as error:
        raise EventsUnreadable(str(error)) from error


def _logged(run_id: str, name: str, row: list[Any]) -> Logged:
    node = 0 if name else -1
    if isinstance(row[0], str):  # fields that a later version has added are left out
        return EventRecord(run_id, *row[:_RECORD_FIELDS])._replace(node=node, node_id=name)
    return LogLine(run_id, *row[:_LINE_FIELDS])._replace(node=node, node_id=name)
