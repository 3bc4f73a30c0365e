"""The native order: topological, the critical path first."""

from __future__ import annotations

from cascade_dist.errors import CycleError
from cascade_dist.solvers.base import SolverGraph, SolverPlan

__all__ = ["NativeSolver", "heights", "levels", "topological"]


class NativeSolver:
    """A stage for each length of path from the roots; in a stage, the node that most work waits for is first.

    This is the order in which the scheduler itself starts nodes; capacity plays no part in it.
    """

    def resolve(self, graph: SolverGraph) -> SolverPlan:
        """As `Solver.resolve`.

        Raises:
            CycleError: nodes need each other; names them.
        """
        order = topological(graph)
        level, height = levels(graph, order), heights(graph, order)
        calls = [node for node in order if graph.nodes[node].calls]
        stages: list[list[int]] = [[] for _ in range(max((level[node] for node in calls), default=-1) + 1)]
        for node in calls:
            stages[level[node]].append(node)
        for stage in stages:
            stage.sort(key=lambda node: (-graph.nodes[node].priority, -height[node], node))
        return SolverPlan(tuple(map(tuple, stages)))


def topological(graph: SolverGraph) -> list[int]:
    """The nodes in an order in which each comes after all that it needs (Kahn's algorithm).

    Raises:
        CycleError: there is no such order; names the nodes of a cycle.
    """
    nodes = graph.nodes
    left = [len(set(node.sources)) for node in nodes]
    consumers: list[list[int]] = [[] for _ in nodes]
    for index, node in enumerate(nodes):
        for source in set(node.sources):
            consumers[source].append(index)
    order = [index for index, count in enumerate(left) if not count]
    for index in order:  # it grows meanwhile
        for consumer in consumers[index]:
            left[consumer] -= 1
            if not left[consumer]:
                order.append(consumer)
    if len(order) < len(nodes):
        raise CycleError(f"these nodes need each other: {' → '.join(_cycle(graph, left))}")
    return order


def _cycle(graph: SolverGraph, left: list[int]) -> list[str]:
    """The names of a cycle's nodes: walking back from any node that was never free ends up in one."""
    node = next(index for index, count in enumerate(left) if count)
    path: dict[int, None] = {}
    while node not in path:
        path[node] = None
        node = next(source for source in graph.nodes[node].sources if left[source])
    members = list(path)
    members = [*members[members.index(node) :], node]
    return [repr(graph.nodes[member].name) for member in reversed(members)]


def levels(graph: SolverGraph, order: list[int]) -> list[int]:
    """Per node: the number of calls on the longest path to it."""
    level = [0] * len(graph.nodes)
    for node in order:
        for source in graph.nodes[node].sources:
            level[node] = max(level[node], level[source] + graph.nodes[source].calls)
    return level


def heights(graph: SolverGraph, order: list[int]) -> list[int]:
    """Per node: the number of calls on the longest path from it on, itself included."""
    height = [int(node.calls) for node in graph.nodes]
    for node in reversed(order):
        for source in graph.nodes[node].sources:
            height[source] = max(height[source], height[node] + graph.nodes[source].calls)
    return height
