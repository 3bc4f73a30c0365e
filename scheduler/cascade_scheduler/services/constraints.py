"""What clients ask about limits."""

from __future__ import annotations

from functools import partial

from cascade_dist.v1 import client_pb2
from cascade_scheduler.core.events import ConstraintsCleared, ConstraintSet
from cascade_scheduler.core.limits import ConstraintInvalid
from cascade_scheduler.hub import Hub
from cascade_scheduler.wire.constraints import constraint_from, constraint_to, type_from

__all__ = ["clear_constraints", "list_constraints", "set_constraint"]


async def set_constraint(
    hub: Hub, request: client_pb2.SetConstraintRequest
) -> client_pb2.SetConstraintResponse:
    """Sets a limit; returns when it is stored and all workers that it touches have promised.

    Raises:
        ConstraintInvalid: it makes no sense, or there are too many; nothing is stored.
    """
    constraint = constraint_from(request, hub.now())
    answer = await hub.ask(partial(ConstraintSet, constraint))
    if answer.error:
        raise ConstraintInvalid(answer.error)
    return client_pb2.SetConstraintResponse(constraint=constraint_to(answer.constraints[0]))


async def clear_constraints(
    hub: Hub, request: client_pb2.ClearConstraintsRequest
) -> client_pb2.ClearConstraintsResponse:
    """Removes limits; returns when that is stored.

    Raises:
        ConstraintInvalid: nothing says which ones, or too much does.
    """
    kind = type_from(request.type)
    if bool(request.id or request.scope or kind) == request.all:
        raise ConstraintInvalid("say which constraints to remove: by id, scope or type, or all of them")
    answer = await hub.ask(lambda number: ConstraintsCleared(number, request.id, request.scope, kind))
    return client_pb2.ClearConstraintsResponse(removed=map(constraint_to, answer.constraints))


def list_constraints(hub: Hub) -> client_pb2.ListConstraintsResponse:
    """The limits that hold, by scope and type."""
    now = hub.now()
    found = [
        limit.constraint
        for limit in hub.core.lines.limits
        if limit.constraint.expires_at is None or limit.constraint.expires_at > now
    ]
    found.sort(key=lambda constraint: (constraint.scope, constraint.type))
    return client_pb2.ListConstraintsResponse(constraints=map(constraint_to, found))
