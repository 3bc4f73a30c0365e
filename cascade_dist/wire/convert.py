"""Small conversions between our objects and messages."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration

from cascade_dist.codec.exceptions import ErrorRecord
from cascade_dist.v1 import graph_pb2, value_pb2

__all__ = ["amounts_of", "duration", "error_record", "seconds", "task_error", "to_amounts"]

_NANOS = 1_000_000_000


def duration(seconds: float) -> Duration:
    """Seconds as a message."""
    nanos = round(seconds * _NANOS)
    return Duration(seconds=nanos // _NANOS, nanos=nanos % _NANOS)


def seconds(message: Duration) -> float:
    """A message as seconds."""
    return float(message.seconds) + float(message.nanos) / _NANOS


def task_error(record: ErrorRecord) -> value_pb2.TaskError:
    """What a task raised, as a message."""
    return value_pb2.TaskError(
        type=record.type, message=record.message, traceback=record.traceback, pickled=record.pickled
    )


def error_record(message: value_pb2.TaskError) -> ErrorRecord:
    """What a task raised, from a message."""
    return ErrorRecord(message.type, message.message, message.traceback, message.pickled)


def to_amounts(amounts: Iterable[tuple[str, int]]) -> list[graph_pb2.Amount]:
    """Amounts, in millionths by name, as messages."""
    return [graph_pb2.Amount(name=name, micros=micros) for name, micros in amounts]


def amounts_of(messages: Iterable[graph_pb2.Amount]) -> dict[str, int]:
    """Amounts, in millionths by name, from messages."""
    return {message.name: message.micros for message in messages}
