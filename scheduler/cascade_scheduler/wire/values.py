"""Values, errors, amounts and times, to and from messages."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from cascade_dist.v1 import graph_pb2, value_pb2
from cascade_scheduler.core.values import (
    BlobValue,
    CompoundValue,
    DeferredValue,
    ErrorInfo,
    ItemValue,
    ListValue,
    ObjectValue,
    OpenValue,
    Value,
)

__all__ = [
    "ONE_VALUE",
    "PAYLOAD_BYTES_MAX",
    "BadMessage",
    "amounts_from",
    "amounts_to",
    "blob_from",
    "duration_of",
    "error_from",
    "error_to",
    "fill_value",
    "seconds_of",
    "split_seconds",
    "timestamp_of",
    "value_size",
]

PAYLOAD_BYTES_MAX = 1 << 20
"""No message carries more payload than this."""

ONE_VALUE = b"\x80\x05K\x00Q."
"""The pickle of a container that is nothing but its first input: a value by itself."""

REF_BYTES = 64
"""What a reference counts as, in bytes of payload."""

_NANOS = 1_000_000_000


class BadMessage(ValueError):
    """A message that says something impossible; the text names the field and what was expected."""


def fill_value(message: value_pb2.Value, value: Value) -> None:
    """Writes a value into a message. Nesting is shallow: the core defers what is deep or large."""
    if type(value) is bytes:
        message.inline = value
    elif isinstance(value, ObjectValue):
        _fill_object(message.object, value)
    elif isinstance(value, BlobValue):
        message.blob.cid, message.blob.size_bytes = value
    elif isinstance(value, ItemValue):
        source = value[0]
        if isinstance(source, ObjectValue):
            _fill_object(message.item.list, source)
        else:
            message.item.blob.cid, message.item.blob.size_bytes = source.cid, source.size
        message.item.index = value[1]
    elif isinstance(value, ListValue):
        message.list.SetInParent()
        add = message.list.items.add
        for item in value.items:
            fill_value(add(), item)
    elif isinstance(value, CompoundValue):
        compound = message.compound
        compound.SetInParent()
        if isinstance(value.template, BlobValue):
            compound.template_blob.cid, compound.template_blob.size_bytes = value.template
        else:
            compound.template = value.template
        add = compound.inputs.add
        for item in value.inputs:
            fill_value(add(), item)
    elif isinstance(value, DeferredValue):
        message.deferred.run_id, message.deferred.node = value
    elif isinstance(value, OpenValue):
        message.ClearField("form")
    else:
        raise TypeError(f"{type(value).__name__} is no value")


def _fill_object(message: value_pb2.ObjectRef, value: ObjectValue) -> None:
    message.attempt = value.attempt
    message.size_bytes = value.size
    message.holders.append(value.address)
    message.maker = value.worker


def value_size(value: Value) -> int:
    """Bytes of payload that a value adds to a message."""
    if type(value) is bytes:
        return len(value)
    if isinstance(value, ListValue):
        return REF_BYTES + sum(map(value_size, value.items))
    if isinstance(value, CompoundValue):
        template = value.template
        size = len(template) if isinstance(template, bytes) else REF_BYTES
        return size + sum(map(value_size, value.inputs))
    return REF_BYTES


def blob_from(message: value_pb2.BlobRef) -> BlobValue:
    """A blob's name."""
    return BlobValue(message.cid, message.size_bytes)


def error_from(message: value_pb2.TaskError) -> ErrorInfo:
    """What a task raised."""
    return ErrorInfo(message.type, message.message, message.traceback, message.pickled)


def error_to(error: ErrorInfo) -> value_pb2.TaskError:
    """What a task raised."""
    return value_pb2.TaskError(
        type=error.type, message=error.message, traceback=error.traceback, pickled=error.pickled
    )


def amounts_from(messages: Iterable[graph_pb2.Amount]) -> tuple[tuple[str, int], ...]:
    """(name, micros), sorted by name.

    Raises:
        BadMessage: a name that is empty or named twice.
    """
    amounts = sorted((amount.name, amount.micros) for amount in messages)
    before = ""
    for name, _ in amounts:
        if not name or name == before:
            raise BadMessage(f"the amount {name!r} is {'named twice' if name else 'without a name'}")
        before = name
    return tuple(amounts)


def amounts_to(amounts: Iterable[tuple[str, int]]) -> list[graph_pb2.Amount]:
    """Amounts as messages."""
    return [graph_pb2.Amount(name=name, micros=micros) for name, micros in amounts]


def seconds_of(duration: Duration | Timestamp) -> float:
    """A duration in seconds; a point in time in seconds since the Unix epoch."""
    seconds: float = (duration.seconds * _NANOS + duration.nanos) / _NANOS
    return seconds


def duration_of(seconds: float) -> Duration:
    """Seconds as a duration; a negative one (clocks differ) counts as none."""
    whole, nanos = split_seconds(seconds)
    return Duration(seconds=whole, nanos=nanos)


def split_seconds(seconds: float) -> tuple[int, int]:
    """Seconds as whole ones and nanoseconds."""
    return divmod(round(max(0.0, seconds) * _NANOS), _NANOS)


def timestamp_of(seconds: float) -> Timestamp:
    """Seconds since the Unix epoch as a timestamp."""
    whole, nanos = divmod(round(seconds * _NANOS), _NANOS)
    return Timestamp(seconds=whole, nanos=nanos)
