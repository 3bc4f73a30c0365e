"""A solver's stages as the order in which ready nodes go."""

from __future__ import annotations

from collections.abc import Sequence

from cascade_scheduler.core.graph import Graph
from cascade_scheduler.core.plans import Plan, ready_key

__all__ = ["order_by"]

_NODE_MASK = (1 << 32) - 1


def order_by(graph: Graph, plan: Plan, stages: Sequence[Sequence[int]]) -> None:
    """Makes the nodes of an earlier stage go before those of a later one, and within a stage in its order.

    The plan must not be in use yet. What a node needs, and what is observed of it, stays as it is: only of
    two nodes that could both start, the plan now says another to be first.
    """
    heights = plan.heights
    left = sum(map(len, stages))
    for stage in stages:
        for node in stage:
            heights[node] = left
            left -= 1
    for keys in plan.roots.values():
        keys[:] = sorted(
            ready_key(graph.spec(key & _NODE_MASK).priority, heights[key & _NODE_MASK], key & _NODE_MASK)
            for key in keys
        )
