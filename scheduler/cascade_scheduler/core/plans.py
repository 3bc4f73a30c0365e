"""Plans: what the shape of a graph alone decides, made once per template.

The native solver is topological with the critical path first: a node's height is the length of the longest
chain of calls that waits for it, and of two ready nodes the higher goes first (Hu's level algorithm,
T. C. Hu, "Parallel sequencing and assembly line problems", Operations Research 9, 1961).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Generator, Iterator
from typing import NamedTuple, cast

from cascade_scheduler.core.candidates import (
    OBSERVE_AMOUNT,
    OBSERVE_ROUTE,
    OBSERVE_SPLIT,
    OBSERVE_TRUTH,
    SLICE_NODES,
    mark_leaves,
    push_wants,
)
from cascade_scheduler.core.graph import EdgeKind, Graph, NodeKind, Spec
from cascade_scheduler.core.limits import Limit
from cascade_scheduler.core.pools import Pool

__all__ = ["AmountClass", "Plan", "PlanCache", "ready_key", "solve", "solve_steps"]

_OBSERVED: dict[int, int] = {
    EdgeKind.CONDITION: OBSERVE_TRUTH,
    EdgeKind.SELECTOR: OBSERVE_ROUTE,
    EdgeKind.AMOUNT: OBSERVE_AMOUNT,
}
_PRIORITY_BIAS = 1 << 31
_HEIGHT_BIAS = (1 << 32) - 1


class AmountClass(NamedTuple):
    """Nodes that are alike to placement: what they hold, and which kind of executor they need.

    In a plan `amounts` is all that they hold. In a queue it is what a worker has to give, beside what they
    take from pools and the limits under which they stand; see `lines`.
    """

    amounts: tuple[tuple[str, int], ...]
    asynchronous: bool
    pools: tuple[tuple[Pool, int], ...] = ()
    limits: tuple[Limit, ...] = ()

    @property
    def only_cpu(self) -> bool:
        """They need nothing but cpu, so they can be sent before that is free."""
        return (
            not self.asynchronous
            and len(self.amounts) == 1
            and self.amounts[0][0] == "cpu"
            and not self.pools
            and not self.limits
        )


def ready_key(priority: int, height: int, node: int) -> int:
    """One integer that sorts ready nodes: higher priority, then longer path, then earlier."""
    return ((_PRIORITY_BIAS - priority) << 64) | ((_HEIGHT_BIAS - height) << 32) | node


class Plan:
    """The solver's output for a template. Immutable; shared by all runs of the template."""

    __slots__ = (
        "calls",
        "consumer_start",
        "consumers",
        "demand",
        "flowless",
        "gated",
        "heights",
        "indegree",
        "indirect",
        "leaves",
        "nodes",
        "observe",
        "picks",
        "roots",
        "routed",
        "structural_roots",
        "tails",
        "uses",
        "wanted",
    )

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self.indegree: list[int] = []
        """Edges per node; of a router, its selector's alone."""
        self.uses: list[int] = []
        """Edges by which others need the node's value."""
        self.consumer_start: array[int] = array("L")
        self.consumers: array[int] = array("L")
        """Consumers of node i: consumers[consumer_start[i]:consumer_start[i + 1]], one entry an edge.

        Routers are no consumers of their routes: of the one they choose, they become one.
        """
        self.heights: list[int] = []
        self.observe = bytearray(nodes)
        """Bits of what has to be observed of the node's value."""
        self.leaves = bytearray(nodes)
        """1: the node's value may be the target's, or part of it."""
        self.roots: dict[AmountClass, list[int]] = {}
        """Nodes without edges, as heaps of ready keys by amount class."""
        self.structural_roots: list[int] = []
        self.flowless = True
        """No edge but data: nothing can be skipped."""
        self.calls = 0
        self.routed = False
        """There are routers."""
        self.picks = False
        """There are routers, stages that let values pass, or indirect uses."""
        self.gated = b""
        """1: only routers need the node; it waits until one has chosen it. Empty without picks."""
        self.demand: list[int] = []
        """Edges by which others may still need the node, whatever for, and 1 for the target; with routers."""
        self.wanted: dict[int, tuple[int, ...]] = {}
        """Node → the routers among whose keys its value is looked for."""
        self.indirect: dict[int, tuple[int, ...]] = {}
        """Node → sources of which it needs only an observation, but which may have to be observed for it: it
        holds on to their values until it is decided."""
        self.tails: frozenset[int] = frozenset()
        """Nodes whose value may be the target's as it is."""


def solve(graph: Graph) -> Plan:
    """The plan of a graph, in one go."""
    steps = solve_steps(graph)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return cast(Plan, stop.value)


def solve_steps(graph: Graph) -> Generator[None, None, Plan]:
    """Makes a plan in slices; the generator's return value is the plan."""
    n = graph.size
    plan = Plan(n)
    start, source, kinds = graph.edge_start, graph.edge_source, graph.edge_kind
    spec_of, specs = graph.node_spec, graph.specs
    plan.indegree = [start[i + 1] - start[i] for i in range(n)]
    plan.picks = any(spec.passthrough for spec in specs)
    yield
    out = [0] * (n + 1)
    uses = [0] * n
    indirect: list[int] = []
    for e, s in enumerate(source):
        out[s + 1] += 1
        kind = kinds[e]
        if kind == EdgeKind.DATA:
            uses[s] += 1
        else:
            plan.flowless = False
            if kind == EdgeKind.ITEMS:
                uses[s] += 1
                plan.observe[s] |= OBSERVE_SPLIT
            elif kind == EdgeKind.ROUTE:
                plan.routed = True
                out[s + 1] -= 1
                uses[s] += 1
                plan.indegree[bisect_right(start, e) - 1] -= 1
            elif kind in _OBSERVED:
                plan.observe[s] |= _OBSERVED[kind]
                if _is_indirect(kind, specs[spec_of[s]]):
                    uses[s] += 1
                    indirect.append(e)
        if e % (4 * SLICE_NODES) == 0:
            yield
    plan.uses = uses
    for i in range(n):
        out[i + 1] += out[i]
    plan.consumer_start = array("L", out)
    yield
    consumers = array("L", bytes(plan.consumers.itemsize * out[n]))
    cursor = out
    routed = plan.routed
    for node in range(n):
        for e in range(start[node], start[node + 1]):
            if routed and kinds[e] == EdgeKind.ROUTE:
                continue
            s = source[e]
            consumers[cursor[s]] = node
            cursor[s] += 1
        if node % SLICE_NODES == 0:
            yield
    plan.consumers = consumers
    yield from _heights(graph, plan)
    yield from _choices(graph, plan, indirect)
    yield from mark_leaves(graph, plan)
    gated = plan.gated
    for node in range(n):
        spec = specs[spec_of[node]]
        kind = spec.kind
        if kind == NodeKind.CALL:
            plan.calls += 1
            if not plan.indegree[node] and not (gated and gated[node]):
                cls = AmountClass(spec.amounts, spec.asynchronous)
                plan.roots.setdefault(cls, []).append(ready_key(spec.priority, plan.heights[node], node))
        elif not plan.indegree[node] and not (gated and gated[node]):
            plan.structural_roots.append(node)
        if node % SLICE_NODES == 0:
            yield
    for keys in plan.roots.values():
        keys.sort()  # a sorted list is a heap
    return plan


def _heights(graph: Graph, plan: Plan) -> Iterator[None]:
    n = graph.size
    heights = [0] * n
    start, source = graph.edge_start, graph.edge_source
    calls = [spec.kind == NodeKind.CALL or spec.kind == NodeKind.MAP for spec in graph.specs]
    for node in range(n - 1, -1, -1):
        height = heights[node] + (1 if calls[graph.node_spec[node]] else 0)
        heights[node] = height
        for e in range(start[node], start[node + 1]):
            s = source[e]
            if heights[s] < height:
                heights[s] = height
        if node % SLICE_NODES == 0:
            yield
    plan.heights = heights


def _is_indirect(kind: int, spec: Spec) -> bool:
    """Whether what the edge wants to know of a value may come from another attempt than the value."""
    if spec.kind == NodeKind.CALL:
        return spec.passthrough
    if kind == EdgeKind.CONDITION:  # a list's truth is known by its length, a gate's by itself
        return spec.kind not in (NodeKind.GATE, NodeKind.COLLECT, NodeKind.MAP)
    return spec.kind != NodeKind.GATE


def _choices(graph: Graph, plan: Plan, indirect: list[int]) -> Iterator[None]:
    """What routers, stages and indirect uses need; nothing in graphs without them."""
    if not (plan.routed or plan.picks or indirect):
        return
    n = graph.size
    start, source, kinds = graph.edge_start, graph.edge_source, graph.edge_kind
    found: dict[int, list[int]] = {}
    for e in indirect:
        found.setdefault(bisect_right(start, e) - 1, []).append(source[e])
    plan.indirect = {node: tuple(sources) for node, sources in found.items()}
    plan.picks = True
    plan.gated = bytes(n)
    yield
    yield from push_wants(graph, plan)
    if not plan.routed:
        return
    gated = bytearray(b"\x01" * n)
    gated[graph.target] = 0
    demand = [0] * n
    demand[graph.target] = 1
    for node in range(n - 1, -1, -1):
        needed = not gated[node]
        for e in range(start[node], start[node + 1]):
            s = source[e]
            demand[s] += 1
            if needed and kinds[e] != EdgeKind.ROUTE:
                gated[s] = 0
        if node % SLICE_NODES == 0:
            yield
    plan.gated = bytes(gated)
    plan.demand = demand


class PlanCache:
    """Plans by template, least recently used out first, bounded in nodes."""

    def __init__(self, nodes_max: int = 2_000_000) -> None:
        self._plans: OrderedDict[bytes, Plan] = OrderedDict()
        self._nodes = 0
        self._nodes_max = nodes_max
        self.solved = 0
        self.hits = 0

    def __len__(self) -> int:
        return len(self._plans)

    @property
    def nodes(self) -> int:
        """Nodes of all plans held."""
        return self._nodes

    def get(self, key: bytes) -> Plan | None:
        """The plan of a template; counts a hit."""
        plan = self._plans.get(key)
        if plan is not None:
            self._plans.move_to_end(key)
            self.hits += 1
        return plan

    def put(self, key: bytes, plan: Plan) -> None:
        """Keeps a plan that was just solved; one larger than the bound is not kept."""
        self.solved += 1
        if plan.nodes > self._nodes_max or key in self._plans:
            return
        self._plans[key] = plan
        self._nodes += plan.nodes
        while self._nodes > self._nodes_max:
            _, old = self._plans.popitem(last=False)
            self._nodes -= old.nodes
