"""Limits on what may start, as the client says and shows them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cascade_dist.client.records import Record
from cascade_dist.config import parse_duration
from cascade_dist.errors import ConfigError
from cascade_dist.v1 import client_pb2 as pb
from cascade_dist.wire.convert import duration

__all__ = [
    "Constraint",
    "clearing",
    "concurrency",
    "decode_constraint",
    "parse_rate",
    "pause",
    "rate_limit",
    "show_rate",
]

LIMIT_MAX = 2**31 - 1
TTL_MAX = 100 * 365 * 86_400.0
"""Seconds, a hundred years; a scheduler can count no date much later."""

_UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "hour": 3600}
_RATE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(?:/\s*([a-z]+))?\s*")
_TYPES: Mapping[str, pb.ConstraintType] = {
    "pause": pb.CONSTRAINT_TYPE_PAUSE,
    "concurrency": pb.CONSTRAINT_TYPE_CONCURRENCY,
    "rate_limit": pb.CONSTRAINT_TYPE_RATE_LIMIT,
}
_NAMES = {number: name for name, number in _TYPES.items()}


@dataclass(frozen=True, slots=True)
class Constraint(Record):
    """A limit on what may start.

    Attributes:
        id: made of type and scope, unless it was given.
        scope: ``global``, ``task:<glob>`` or ``run:<id>``.
        type: ``pause``, ``concurrency`` or ``rate_limit``.
        limit: of a concurrency limit: how many may run at a time.
        rate: of a rate limit: starts per second.
        capacity: of a rate limit: how many may start at once after a quiet time.
        expires_at: when it ends by itself, UTC; None: never.
    """

    id: str
    scope: str
    type: str
    limit: int | None = None
    rate: float | None = None
    capacity: float | None = None
    expires_at: datetime | None = None

    def __str__(self) -> str:
        said = self.type
        if self.limit is not None:
            said = f"at most {self.limit} at a time"
        elif self.rate is not None:
            said = f"at most {show_rate(self.rate)}, {self.capacity:g} at once"
        return f"{self.scope}: {said}"


def decode_constraint(message: pb.Constraint) -> Constraint:
    """The record of a wire message."""
    kind = _NAMES.get(message.type, "unknown")
    return Constraint(
        message.id,
        message.scope,
        kind,
        message.limit if kind == "concurrency" else None,
        message.rate if kind == "rate_limit" else None,
        message.capacity if kind == "rate_limit" else None,
        message.expires_at.ToDatetime(tzinfo=UTC) if message.HasField("expires_at") else None,
    )


def parse_rate(rate: object) -> float:
    """Starts per second in ``"5/s"``, ``"10/m"``, ``"300/h"`` or a number.

    Raises:
        ConfigError: (a `ValueError`) it is no rate, or not more than 0.
    """
    per_second = math.nan
    if isinstance(rate, (int, float)) and not isinstance(rate, bool):
        per_second = float(rate)
    elif isinstance(rate, str):
        match = _RATE.fullmatch(rate.lower())
        unit = (match.group(2) or "s") if match else ""
        if match and unit in _UNITS:
            per_second = float(match.group(1)) / _UNITS[unit]
    if not (math.isfinite(per_second) and per_second > 0):
        raise ConfigError(
            f"{rate!r} is no rate: write how many may start like '5/s', '10/m' or '300/h', or as a number "
            "per second"
        )
    return per_second


def show_rate(per_second: float) -> str:
    """A rate as people write it."""
    for seconds, unit in ((1, "s"), (60, "m"), (3600, "h")):
        count = per_second * seconds
        if abs(count - round(count)) < 1e-9 * count and round(count):
            return f"{round(count)}/{unit}"
    return f"{per_second:g}/s"


def pause(scope: str, ttl: float | str | None, id: str | None) -> pb.SetConstraintRequest:
    """Asks that nothing starts."""
    return _request(scope, "pause", ttl, id)


def concurrency(
    scope: str, limit: object, ttl: float | str | None, id: str | None
) -> pb.SetConstraintRequest:
    """Asks that so many run at a time."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= LIMIT_MAX:
        raise ConfigError(
            f"the limit is {limit!r}: give how many may run at a time, an int from 1 to {LIMIT_MAX}; "
            "to let nothing start, set a pause"
        )
    request = _request(scope, "concurrency", ttl, id)
    request.constraint.limit = limit
    return request


def rate_limit(
    scope: str, rate: object, capacity: object, ttl: float | str | None, id: str | None
) -> pb.SetConstraintRequest:
    """Asks that so many start per second."""
    request = _request(scope, "rate_limit", ttl, id)
    request.constraint.rate = parse_rate(rate)
    if capacity is None:
        capacity = 1
    if (
        isinstance(capacity, bool)
        or not isinstance(capacity, (int, float))
        or not (math.isfinite(capacity) and capacity >= 1)
    ):
        raise ConfigError(
            f"the capacity is {capacity!r}: give how many may start at once after a quiet time, 1 or more"
        )
    request.constraint.capacity = float(capacity)
    return request


def clearing(
    scope: str | None = None, type: str | None = None, id: str | None = None
) -> pb.ClearConstraintsRequest:
    """Asks that limits go: those that fit all that is given; without anything, all of them."""
    if scope is None and type is None and id is None:
        return pb.ClearConstraintsRequest(all=True)
    if type is not None and type not in _TYPES:
        raise ConfigError(f"the type {type!r} is none of {', '.join(_TYPES)}")
    if id == "":
        raise ConfigError("the id is empty")
    return pb.ClearConstraintsRequest(
        id=id or "",
        scope="" if scope is None else _scope(scope),
        type=_TYPES[type] if type is not None else pb.CONSTRAINT_TYPE_UNSPECIFIED,
    )


def _request(scope: str, kind: str, ttl: float | str | None, id: Any) -> pb.SetConstraintRequest:
    if id is not None and not (isinstance(id, str) and id):
        raise ConfigError(f"the id is {id!r}: give a text, or leave it out to have one made")
    constraint = pb.Constraint(id=id or "", scope=_scope(scope), type=_TYPES[kind])
    request = pb.SetConstraintRequest(constraint=constraint)
    if ttl is not None:
        seconds = parse_duration(ttl)
        if not 0 < seconds <= TTL_MAX:
            raise ConfigError(
                f"the time to live is {ttl!r}: give more than 0, at most 100 years, or None for no end"
            )
        request.ttl.CopyFrom(duration(seconds))
    return request


def _scope(scope: Any) -> str:
    if isinstance(scope, str):
        kind, colon, rest = scope.partition(":")
        if scope == "global" or (kind in ("task", "run") and colon and rest):
            return scope
    raise ConfigError(f"{scope!r} is no scope: write 'global', 'task:<name or glob>' or 'run:<id>'")
