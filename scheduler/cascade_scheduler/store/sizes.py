"""What records take while they wait to be written, as near as it is cheap to tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cascade_scheduler.core.commands import SaveCheckpoint, SaveFacts, SaveFailure, SaveFrame, SaveResult
from cascade_scheduler.core.values import ErrorInfo
from cascade_scheduler.store.base import (
    Record,
    RunAnswered,
    RunCreated,
    RunEvents,
    StoredFrame,
    StoredFunction,
    StoredJump,
)

__all__ = ["RECORD_BYTES", "size_of"]

RECORD_BYTES = 100
"""What a record counts as beside its payload."""


def size_of(record: Record) -> int:
    """Bytes of a record."""
    payload = _PAYLOADS.get(type(record))
    return RECORD_BYTES if payload is None else RECORD_BYTES + payload(record)


def _result(record: SaveResult) -> int:
    return len(record.value) if type(record.value) is bytes else 0


def _functions(functions: tuple[StoredFunction, ...]) -> int:
    return sum(len(function.body) for function in functions)


def _created(record: RunCreated) -> int:
    return sum(map(len, record.chunks)) + len(record.params) + _functions(record.functions)


def _frame(record: SaveFrame) -> int:
    stored = record.stored
    if isinstance(stored, StoredFrame):
        return len(stored.chunk) + len(stored.end) + _functions(stored.functions)
    return len(stored.overrides) if isinstance(stored, StoredJump) else 0


def _error(error: ErrorInfo | None) -> int:
    return 0 if error is None else len(error.message) + len(error.traceback) + len(error.pickled)


def _facts(record: SaveFacts) -> int:
    return sum(map(len, record.facts.items or ())) + _error(record.facts.error)


_PAYLOADS: dict[type, Callable[[Any], int]] = {
    SaveResult: _result,
    RunEvents: lambda record: len(record.payload),
    RunCreated: _created,
    SaveFrame: _frame,
    SaveCheckpoint: lambda record: len(record.args),
    SaveFacts: _facts,
    SaveFailure: lambda record: _error(record.error),
    RunAnswered: lambda record: len(record.finish),
}
