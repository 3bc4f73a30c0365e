"""Plans for graphs: found, made on the spot, or made in slices between turns."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cascade_scheduler.core.graph import Graph
from cascade_scheduler.core.plans import Plan, solve, solve_steps
from cascade_scheduler.core.stages import order_by

if TYPE_CHECKING:
    from cascade_scheduler.hub import Hub

__all__ = ["SOLVED_AT_ONCE_NODES", "make_plan", "plan_key", "plan_now"]

SOLVED_AT_ONCE_NODES = 2_000
"""Smaller graphs are solved on the spot, in a few milliseconds; larger ones in slices between turns."""

Amounts = tuple[tuple[str, int], ...]


def plan_key(hub: Hub, shape: bytes, pools: Amounts = ()) -> bytes:
    """Names the plan of a graph: with a solver of its own, another capacity makes another plan."""
    if hub.solver is None:
        return shape
    return shape + repr(sorted(hub.capacity(pools).items())).encode()


def plan_now(hub: Hub, graph: Graph, key: bytes) -> Plan | None:
    """The plan, if it is known or quickly made; else it is made by `make_plan`."""
    plan = hub.plans.get(key)
    if plan is None and hub.solver is None and len(graph) <= SOLVED_AT_ONCE_NODES:
        plan = solve(graph)
        hub.plans.put(key, plan)
    return plan


async def make_plan(hub: Hub, graph: Graph, key: bytes, pools: Amounts = ()) -> Plan:
    """Makes a plan, so that turns go on meanwhile.

    Raises:
        Unsolvable: there is none; says which amount.
    """
    loop = asyncio.get_running_loop()
    steps = solve_steps(graph)
    slice_end = loop.time() + hub.times.plan_slice
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            plan: Plan = stop.value
            break
        if loop.time() >= slice_end:
            await asyncio.sleep(0)
            slice_end = loop.time() + hub.times.plan_slice
    if hub.solver is not None:
        stages = await hub.solver.resolve(graph, hub.capacity(pools))
        if stages is not None:
            order_by(graph, plan, stages)
    hub.plans.put(key, plan)
    return plan
