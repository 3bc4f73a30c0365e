"""Constraints, from messages and as messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from cascade_dist.v1 import client_pb2
from cascade_scheduler.core.limits import (
    CONCURRENCY,
    PAUSE,
    RATE_LIMIT,
    Constraint,
    ConstraintInvalid,
    checked,
)

__all__ = ["constraint_from", "constraint_to", "type_from"]

NANOS = 1e-9
EXPIRY_MAX = 253_402_300_799
"""The last second that a timestamp can be."""

_TYPES: Mapping[int, str] = {
    client_pb2.CONSTRAINT_TYPE_PAUSE: PAUSE,
    client_pb2.CONSTRAINT_TYPE_CONCURRENCY: CONCURRENCY,
    client_pb2.CONSTRAINT_TYPE_RATE_LIMIT: RATE_LIMIT,
}
_NUMBERS = {text: cast("client_pb2.ConstraintType", number) for number, text in _TYPES.items()}


def type_from(number: int) -> str:
    """The type; empty: all of them.

    Raises:
        ConstraintInvalid: there is no such type.
    """
    if number == client_pb2.CONSTRAINT_TYPE_UNSPECIFIED:
        return ""
    found = _TYPES.get(number)
    if found is None:
        raise ConstraintInvalid(f"the constraint type {number} is not known here")
    return found


def constraint_from(request: client_pb2.SetConstraintRequest, now: float) -> Constraint:
    """A constraint, with its id.

    Raises:
        ConstraintInvalid: it makes no sense.
    """
    message = request.constraint
    kind = type_from(message.type)
    if not kind:
        raise ConstraintInvalid("the constraint has no type: pause, concurrency or rate_limit")
    expires_at: float | None = None
    if request.HasField("ttl"):
        expires_at = now + request.ttl.seconds + request.ttl.nanos * NANOS
        if expires_at >= EXPIRY_MAX:
            raise ConstraintInvalid(
                f"a time to live of {request.ttl.seconds} s is out of range: leave it out for no end"
            )
    elif message.HasField("expires_at"):
        if not 0 <= message.expires_at.seconds < EXPIRY_MAX:
            raise ConstraintInvalid("expires_at is out of range")
        expires_at = message.expires_at.seconds + message.expires_at.nanos * NANOS
    capacity = message.capacity
    if kind == RATE_LIMIT and not capacity:
        capacity = 1.0
    elif kind != RATE_LIMIT:
        if capacity:
            raise ConstraintInvalid(f"a {kind} has no capacity, which is for rate_limit alone")
        capacity = 1.0
    constraint = Constraint(
        message.id, message.scope, kind, message.limit, message.rate, capacity, expires_at
    )
    return checked(constraint, now)


def constraint_to(constraint: Constraint) -> client_pb2.Constraint:
    """A constraint as a message."""
    limited = constraint.type == RATE_LIMIT
    message = client_pb2.Constraint(
        id=constraint.id,
        scope=constraint.scope,
        type=_NUMBERS[constraint.type],
        limit=constraint.limit,
        rate=constraint.rate,
        capacity=constraint.capacity if limited else 0.0,
    )
    if constraint.expires_at is not None:
        whole = int(constraint.expires_at)
        message.expires_at.seconds = whole
        message.expires_at.nanos = int((constraint.expires_at - whole) / NANOS)
    return message
