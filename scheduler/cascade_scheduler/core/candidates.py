"""Which nodes a node's value may be that of, as far as the shape of a graph tells.

A router stands for one of its routes; a stage that is skipped, for its first input. What is wanted of either
is wanted of all these candidates: to be observed, or published as part of the target's value. A value of
which something was not observed when it was made is observed later (see `observing`), so what is pushed here
saves time and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cascade_scheduler.core.graph import EdgeKind, Graph, NodeKind

if TYPE_CHECKING:
    from cascade_scheduler.core.plans import Plan

__all__ = [
    "OBSERVE_AMOUNT",
    "OBSERVE_DIGEST",
    "OBSERVE_ROUTE",
    "OBSERVE_SPLIT",
    "OBSERVE_TRUTH",
    "SLICE_NODES",
    "mark_leaves",
    "push_wants",
]

OBSERVE_TRUTH = 1
OBSERVE_SPLIT = 2
OBSERVE_ROUTE = 4
OBSERVE_AMOUNT = 8
OBSERVE_DIGEST = 16
SLICE_NODES = 4096
"""Nodes per step: about 5 ms of work, so that a large solve never holds a turn."""
ROUTERS_WANTED_MAX = 64
"""A value that only may be a selector's is looked for among the keys of so many routers where it is made; for
more, when they ask."""


def push_wants(graph: Graph, plan: Plan) -> Iterator[None]:
    """Pushes what is to be observed of routers and stages to their candidates, consumers first."""
    start, source, kinds = graph.edge_start, graph.edge_source, graph.edge_kind
    observe = plan.observe
    wanted: dict[int, list[int]] = {}
    for node in range(graph.size - 1, -1, -1):
        if node % SLICE_NODES == 0:
            yield
        spec = graph.specs[graph.node_spec[node]]
        if spec.kind == NodeKind.ROUTER:
            first, last = start[node], start[node + 1]
            selector = source[first]
            if kinds[first] == EdgeKind.SELECTOR:
                wanted.setdefault(selector, []).append(node)
            if observe[node]:
                for route in source[first + 1 : last]:
                    observe[route] |= observe[node]
                    if node in wanted:
                        _want(wanted, route, wanted[node])
        elif spec.passthrough and observe[node]:
            passed = graph.first_input(node)
            observe[passed] |= observe[node] & ~OBSERVE_TRUTH  # a condition sees the skip, not what passes
            if node in wanted:
                _want(wanted, passed, wanted[node])
    plan.wanted = {node: tuple(routers) for node, routers in wanted.items()}


def _want(wanted: dict[int, list[int]], node: int, routers: list[int]) -> None:
    have = wanted.setdefault(node, [])
    for router in routers:
        if len(have) >= ROUTERS_WANTED_MAX:
            return
        if router not in have:
            have.append(router)


def mark_leaves(graph: Graph, plan: Plan) -> Iterator[None]:
    """Marks the nodes that the target's value may be made of, and those whose value it may be."""
    leaves, target = plan.leaves, graph.target
    source, kinds = graph.edge_source, graph.edge_kind
    todo = [target]
    tails = {target}
    seen = 0
    while todo:
        node = todo.pop()
        if leaves[node]:
            continue
        leaves[node] = 1
        spec = graph.specs[graph.node_spec[node]]
        kind = spec.kind
        if kind in (NodeKind.GATHER, NodeKind.COLLECT, NodeKind.ROUTER):
            wanted = EdgeKind.ROUTE if kind == NodeKind.ROUTER else EdgeKind.DATA
            for e in range(graph.edge_start[node], graph.edge_start[node + 1]):
                if kinds[e] == wanted and not leaves[source[e]]:
                    todo.append(source[e])
                if e % SLICE_NODES == 0:
                    yield
        elif spec.passthrough and node != target:  # a skipped target lets nothing pass
            todo.append(graph.first_input(node))
        seen += 1
        if seen % SLICE_NODES == 0:
            yield
    if plan.picks:
        yield from _mark_tails(graph, tails)
    plan.tails = frozenset(tails)


def _mark_tails(graph: Graph, tails: set[int]) -> Iterator[None]:
    todo = [graph.target]
    seen = 0
    while todo:
        node = todo.pop()
        spec = graph.specs[graph.node_spec[node]]
        found: list[int] = []
        if spec.kind == NodeKind.ROUTER:
            found = graph.routes(node)
        elif spec.passthrough and node != graph.target:
            found = [graph.first_input(node)]
        for source in found:
            if source not in tails:
                tails.add(source)
                todo.append(source)
        seen += 1
        if seen % SLICE_NODES == 0:
            yield
