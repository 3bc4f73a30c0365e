"""Packing: as few stages as possible, each within the capacity (the extra ``csp``).

A stage for each node is a constraint satisfaction problem: a node's stage is after those of all that it
needs, and in no stage is more held than there is. A greedy list schedule (R. L. Graham, "Bounds on
Multiprocessing Timing Anomalies", SIAM Journal on Applied Mathematics 17, 1969) gives a plan to begin with;
the constraint solver then looks for one with fewer stages, from the least that could do upwards, until its
time is up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from cascade_dist.solvers.base import SolverGraph, SolverPlan, UnsolvableError
from cascade_dist.solvers.native import heights, levels, topological

__all__ = ["CspSolver"]

_SLACK = 1e-9
"""Amounts are floats here: sums of tenths may be a hair too large."""


class _TimeUp(Exception):
    """The constraint solver has had its time."""


class CspSolver:
    """Packs nodes that hold much into as few stages as possible.

    Args:
        seconds: how long to look for something better than the greedy plan.

    Raises:
        ImportError: the extra ``csp`` is not installed.
    """

    def __init__(self, seconds: float = 2.0) -> None:
        try:
            import constraint  # noqa: F401
        except ImportError:
            raise ImportError(
                "the csp solver needs python-constraint2: pip install 'cascade-dist[csp]'"
            ) from None
        self._seconds = seconds

    def resolve(self, graph: SolverGraph) -> SolverPlan:
        """As `Solver.resolve`.

        Raises:
            UnsolvableError: a node holds more than there is; names the amount.
            CycleError: nodes need each other.
        """
        _check(graph)
        order = topological(graph)
        level, height = levels(graph, order), heights(graph, order)
        calls = [node for node in order if graph.nodes[node].calls]
        if not calls:
            return SolverPlan(())
        best = _greedy(graph, calls, _call_sources(graph, order), height)
        deadline = time.monotonic() + self._seconds
        least = max(_path(level, calls), _volume(graph, calls))
        try:
            for count in range(least, max(best.values()) + 1):
                found = _search(graph, calls, level, height, _call_sources(graph, order), count, deadline)
                if found is not None:
                    best = found
                    break
        except _TimeUp:
            pass
        return _plan(graph, best, height)


def _check(graph: SolverGraph) -> None:
    for node in graph.nodes:
        for name, amount in node.amounts.items():
            most = graph.capacity.get(name)
            if node.calls and most is not None and amount > most + _SLACK:
                raise UnsolvableError(
                    f"task {node.name!r} needs {name}={amount:g}, and there is {most:g} in all"
                )


def _call_sources(graph: SolverGraph, order: list[int]) -> dict[int, set[int]]:
    """Per node: the nodes with code that it needs, directly or through nodes without."""
    found: dict[int, set[int]] = {}
    for index in order:
        needs: set[int] = set()
        for source in graph.nodes[index].sources:
            needs |= {source} if graph.nodes[source].calls else found[source]
        found[index] = needs
    return found


def _path(level: list[int], calls: list[int]) -> int:
    return max(level[node] for node in calls) + 1


def _volume(graph: SolverGraph, calls: list[int]) -> int:
    """The least number of stages that could hold all amounts, were they divisible."""
    least = 1
    for name, most in graph.capacity.items():
        total = sum(graph.nodes[node].amounts.get(name, 0.0) for node in calls)
        if most > 0 and total > 0:
            least = max(least, math.ceil(total / most - _SLACK))
    return least


def _fits(held: Mapping[str, float], amounts: Mapping[str, float], capacity: Mapping[str, float]) -> bool:
    return all(
        held.get(name, 0.0) + amount <= capacity.get(name, math.inf) + _SLACK
        for name, amount in amounts.items()
    )


def _greedy(
    graph: SolverGraph, calls: list[int], needs: Mapping[int, set[int]], height: list[int]
) -> dict[int, int]:
    """A list schedule: each node into the first stage with room for it, the longest path first."""
    stage: dict[int, int] = {}
    held: list[dict[str, float]] = []
    waiting = sorted(calls, key=lambda node: (-height[node], node))
    for node in waiting:  # a source is always higher, so it comes first
        first = max((stage[source] + 1 for source in needs[node]), default=0)
        amounts = graph.nodes[node].amounts
        while first < len(held) and not _fits(held[first], amounts, graph.capacity):
            first += 1
        while len(held) <= first:
            held.append({})
        for name, amount in amounts.items():
            held[first][name] = held[first].get(name, 0.0) + amount
        stage[node] = first
    return stage


def _search(
    graph: SolverGraph,
    calls: list[int],
    level: list[int],
    height: list[int],
    needs: Mapping[int, set[int]],
    count: int,
    deadline: float,
) -> dict[int, int] | None:
    """Stages for so many of them; None when there is no such plan.

    Raises:
        _TimeUp: it was not found in time.
    """
    import constraint

    domains = {node: list(range(level[node], count - height[node] + 1)) for node in calls}
    if not all(domains.values()):
        return None
    problem = constraint.Problem()
    for node, domain in domains.items():
        problem.addVariable(node, domain)
    for node in calls:
        for source in needs[node]:
            problem.addConstraint(_before, (source, node))

    class Capacity(constraint.Constraint):  # type: ignore[misc]
        """In no stage is more held than there is; asked with part of the stages known."""

        def __call__(
            self,
            variables: Any,
            domains: Any,
            assignments: Any,
            forwardcheck: bool = False,
            _missing: Any = None,
        ) -> bool:
            if time.monotonic() > deadline:
                raise _TimeUp
            held: dict[int, dict[str, float]] = {}
            for node, stage in assignments.items():
                amounts = graph.nodes[node].amounts
                there = held.setdefault(stage, {})
                if not _fits(there, amounts, graph.capacity):
                    return False
                for name, amount in amounts.items():
                    there[name] = there.get(name, 0.0) + amount
            return True

    problem.addConstraint(Capacity(), list(domains))
    found: dict[int, int] | None = problem.getSolution()
    return found


def _before(source: int, node: int) -> bool:
    return source < node


def _plan(graph: SolverGraph, stage: Mapping[int, int], height: list[int]) -> SolverPlan:
    stages: list[list[int]] = [[] for _ in range(max(stage.values()) + 1)]
    for node, number in stage.items():
        stages[number].append(node)
    for members in stages:
        members.sort(key=lambda node: (-graph.nodes[node].priority, -height[node], node))
    return SolverPlan(tuple(tuple(members) for members in stages if members))
