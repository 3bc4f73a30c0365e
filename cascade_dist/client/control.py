"""Constraints as messages, such as other programs send them through a connector.

A payload has ``id``, ``scope``, ``type``, ``params`` and ``expires_at`` (seconds since the Unix epoch, or
None); its topic is ``cascade/constraints/`` and the scope with slashes for colons. An empty payload takes off
what its topic's scope has.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cascade_dist.errors import CascadeError

if TYPE_CHECKING:
    from cascade_dist.client.cluster import Cluster

__all__ = ["TOPIC", "apply_constraint"]

TOPIC = "cascade/constraints/"


def apply_constraint(cluster: Cluster, topic: str, payload: Any) -> None:
    """Sets or removes what a message says; what is malformed is reported on stderr, and changes nothing."""
    try:
        if not payload:
            cluster.clear_constraints(scope=topic.removeprefix(TOPIC).replace("/", ":"))
            return
        _set(cluster, payload)
    except (CascadeError, ValueError, TypeError) as error:
        print(f"cascade: the constraint on {topic} is ignored: {error}", file=sys.stderr, flush=True)


def _set(cluster: Cluster, payload: Any) -> None:
    if not isinstance(payload, Mapping):
        raise TypeError(f"a {type(payload).__name__} is no constraint: it is an object with id, scope, type")
    missing = [name for name in ("id", "scope", "type") if not payload.get(name)]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    params = payload.get("params") or {}
    if not isinstance(params, Mapping):
        raise TypeError(f"its params are {params!r}: an object, such as {{'limit': 2}}")
    ttl: float | None = None
    if (expires_at := payload.get("expires_at")) is not None:
        if isinstance(expires_at, bool) or not isinstance(expires_at, (int, float)):
            raise TypeError(f"its expires_at is {expires_at!r}: seconds since the Unix epoch, or null")
        ttl = expires_at - time.time()
        if ttl <= 0:
            return  # it has ended already
    scope, kind = payload["scope"], payload["type"]
    limit: Any = params.get("limit")
    rate: Any = params.get("rate")
    if kind == "pause":
        cluster.pause(scope, ttl=ttl, id=payload["id"])
    elif kind == "concurrency":
        cluster.set_concurrency(scope, limit, ttl=ttl, id=payload["id"])
    elif kind == "rate_limit":
        cluster.set_rate_limit(scope, rate, capacity=params.get("capacity"), ttl=ttl, id=payload["id"])
    else:
        raise ValueError(f"type {kind!r} is unknown: it is pause, concurrency or rate_limit")
